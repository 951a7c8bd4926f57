"""The verbs: what a person can ask for. Each is a few lines over a function of dlas."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invoke import Context, Exit, ParseError, task

from dlas import cache
from dlas import sweep as sweeps
from dlas.datasets import catalog
from dlas.errors import DlasError, UsageError
from dlas.hardware import lock, targets
from dlas.sweeptables import PAPER, Budget
from dlas.values import EMULATED_REPEATS, IMAGES, REPEATS

ARTIFACTS = Path(os.environ.get("DLAS_ARTIFACTS", Path(__file__).parent / "artifacts"))


DATA = Path(os.environ.get("DLAS_DATA") or ARTIFACTS / "data").expanduser()

# Tests that share the machine's engine, its lock and compiled networks: one at a time.
DEVICE_TESTS = ("tests/hardware", "tests/integration", "tests/test_*.py")

HELP = {
    "a": "rows of a sweep, as in `digits,algorithm=direct`: any part of a cell's id, device, commit, ...",
    "accuracy_drop": "how many points of top-1 may be lost against dense in fp32",
    "action": "for images: save, load or verify; for results: merge, compact, verify or export; "
    "for tuning: list, export, import or prune",
    "accelerator": "what trains: auto, cpu, gpu, ... as PyTorch Lightning knows it",
    "against": "the peer: onnxruntime, openvino or torch; or fp32, our own; with --tuned, one or more peers",
    "algorithm": "one or more of direct,gemm,spatial_pack",
    "b": "what it is compared with, as the first",
    "base": "base image, where the target's own cannot be pulled",
    "build_timeout": "seconds that building one cell may take",
    "cell": "id of a cell that was measured, as `invoke report` prints it",
    "compression": "as in the sweep of the dataset: dense, channel40_shrunk, ...",
    "csv": "the file that results are exported to",
    "data": "where datasets lie, as in cifar10=PATH,imagenet=PATH; else in artifacts/data or $DLAS_DATA",
    "dataset": "cifar10 or digits; for bench, also imagenet",
    "device": "the engine that runs the target's jobs, as in ssh://hikey; else [board] host of the target; "
    "for tune, several of a kind as in ssh://one,ssh://two",
    "devices": "how many devices train, or which, as Lightning knows it",
    "early_stop": "so many variants in a row without a speed-up end the search of a workload; 0: none do",
    "emulate": "let this machine imitate the target's processor: outputs are checked, times mean nothing",
    "dry_run": "show the plan: what is cached, what will be built, about how long it takes",
    "fetch": "a dataset to download (cifar10), or a network whose pre-trained weights to download (resnet50)",
    "from_": "for results merge: other artifacts folders, or their results, as in one,two",
    "format": "for tune and bench --tuned, dense or blocked (activations in blocks of channels); of pruned "
    "weights, for bench --sparse and tune, csr, csr_packed, or auto, layer by layer",
    "force": "do again what is cached",
    "free": "folders to delete, as in modules,logs",
    "images": "of the test split, at most, that accuracy is taken on; 0 for none; a new number measures anew",
    "list_": "show the cells' ids",
    "layers": "for bench --sparse and --tuned: so many convolutions of a network, each alone; 0: the network",
    "levels": "per cents of zero weights, for bench --sparse",
    "model": "name of a network of the sweep",
    "only": "glob of cell ids, as in '*scheduled*'; for tune, of workloads, as in '*/64x3x3/*'",
    "precision": "of training, as Lightning knows it; for bench, fp32, fp16, int8 or int8_ort_default",
    "pruning": "for bench --sparse: uniform, the same share of each layer, or weight, over all together",
    "path": "the archive of images, or the file of exported records",
    "processes": "of the same artifact, one after the other; 10 or more",
    "pytest": "run pytest alone, with these arguments",
    "recipe": "how to train: a recipe's name, or its file.toml; else what the sweep says",
    "repeats": "samples of each process, fewer than 150 are not publishable; for run, 0 is 150, emulated 3",
    "replicates": "processes for each cell; those that are there already count",
    "results": "for bench: so many made rows",
    "retry": "how often to ask a device that went away again, once it is back",
    "rounds": "pairs of processes; with bench --sparse, one of each level, of our dense and of the peer; "
    "with --tuned, one of each contestant",
    "runner": "local, docker, or auto: docker where engine and image are there",
    "sparse": "compare pruned networks with dense ones",
    "strategy": "how several devices train together, as Lightning knows it",
    "sweep": "name of a sweep, or its file.toml",
    "technique": "weight or channel",
    "target": "name, alias or file.toml of a target (for run: of several, as in x86,hikey)",
    "threads": "threads of an inference; for run, 0 is the target's own; for bench, several as in 1,2",
    "timeout": "seconds that measuring one cell may take",
    "to": "a folder that is not there yet, or is empty",
    "trials": "variants of each workload, at most; those that are recorded count",
    "tuned": "compare what searches found with our other schedules and with peers; nothing is searched",
    "train_timeout": "seconds that training one network may take, or all levels of pruning it",
    "up_to": "the last level, in per cent; 0 for all of the recipe's",
    "wait": "seconds to wait for another job to leave the device",
    "workers": "processes that load data",
}


class Count(int):
    """A whole number from 0 on; Invoke would answer any other word with a traceback."""

    def __new__(cls, text: str | int) -> Count:
        try:
            value = int(text)
        except ValueError:
            value = -1
        if value < 0:
            raise ParseError(f"{text!r} is no whole number from 0 on")
        return super().__new__(cls, value)


class Points(float):
    """So many points of accuracy of 100, above 0 and below 100."""

    def __new__(cls, text: str | float) -> Points:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value < 100:
            raise ParseError(f"{text!r} is no number of points between 0 and 100")
        return super().__new__(cls, value)


def counts(text: str) -> list[int]:
    """Numbers from a list such as 1,2."""
    return [Count(part) for part in text.split(",")]


def verb(function: Callable[..., None]) -> Any:
    """An Invoke task whose failures are one line and an exit code. show_x is the verb `x`."""
    name = function.__name__.removeprefix("show_")

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except DlasError as error:
            raise Exit(f"inv {name}: {error}", error.exit_code) from None
        except KeyboardInterrupt:
            raise Exit(f"inv {name}: interrupted; the same command goes on from here", 130) from None
        except ParseError as error:
            raise Exit(f"inv {name}: {error}", UsageError.exit_code) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(code=141) from None
        except OSError as error:
            told = cache.storage_error(Path(error.filename or ARTIFACTS), error)
            raise Exit(f"inv {name}: {told}", told.exit_code) from None

    flags = {flag: HELP[flag] for flag in inspect.signature(function).parameters if flag in HELP}
    return task(run, name=name, auto_shortflags=False, help=flags)


def selected(sweep: str, target: str, only: str) -> tuple[sweeps.Sweep, tuple[sweeps.Planned, ...]]:
    """A sweep, and those of its cells that --target and --only choose."""
    loaded = sweeps.load(sweep)
    chosen = [targets.load(name) for name in target.split(",") if name]
    return loaded, sweeps.select(sweeps.expand(loaded, chosen), only)


@verb
def run(
    context: Context,
    sweep: str = "smoke",
    target: str = "",
    only: str = "*",
    list_: bool = False,
    dry_run: bool = False,
    runner: str = "auto",
    device: str = "",
    emulate: bool = False,
    wait: int = Count(lock.WAIT_S),
    retry: int = Count(0),
    threads: int = Count(0),
    repeats: int = Count(0),
    replicates: int = Count(1),
    force: bool = False,
    images: int = Count(IMAGES),
    data: str = "",
    timeout: int = Count(3600),
    build_timeout: int = Count(1800),
    train_timeout: int = Count(86400),
) -> None:
    """Train, tune, build, check and time the cells of a sweep, and keep a row of each."""
    loaded, planned = selected(sweep, target, only)
    if list_:
        return print(sweeps.listing(planned))
    if device and len({each.target.name for each in planned}) > 1:
        raise UsageError(
            "--device names one device, and the cells are for several targets", "choose a --target"
        )
    from dlas import pipeline, plan, progress, publishing, trial

    settings = trial.Settings(
        loaded.name,
        ARTIFACTS,
        runner=runner,
        device=device,
        emulate=emulate,
        wait_s=wait,
        retries=retry,
        threads=threads,
        repeats=repeats or (EMULATED_REPEATS if emulate else REPEATS),
        replicates=replicates,
        force=force,
        job_timeout_s=timeout,
        build_timeout_s=build_timeout,
        train_timeout_s=train_timeout,
        images=images,
        folders=catalog.folders(data, DATA),
        is_plan=dry_run,
    )
    with progress.Progress() as shown:
        if dry_run:
            return print(plan.describe(planned, settings, shown))
        rows = pipeline.run_sweep(planned, settings, shown)
    print(f"\n{publishing.tell(sweep, ARTIFACTS, settings.folders)}")
    pipeline.check(rows, ARTIFACTS)


@verb
def build(
    context: Context,
    target: str = "x86",
    sweep: str = "",
    only: str = "*",
    base: str = "",
    data: str = "",
    build_timeout: int = Count(1800),
    train_timeout: int = Count(86400),
) -> None:
    """Build the container image of a target; with --sweep, compile the cells of a sweep for it."""
    from dlas import pipeline, progress, trial

    with progress.Progress() as shown:
        if not sweep:
            return shown.say(pipeline.build_image(targets.load(target), ARTIFACTS, base, shown.say))
        loaded, planned = selected(sweep, target, only)
        settings = trial.Settings(
            loaded.name,
            ARTIFACTS,
            build_timeout_s=build_timeout,
            train_timeout_s=train_timeout,
            folders=catalog.folders(data, DATA),
        )
        pipeline.build_sweep(planned, settings, shown)


@verb
def base_images(context: Context, target: str = "") -> None:
    """Make stand-ins for base images out of Debian packages, where no registry can be reached."""
    from dlas.hardware import bases, engine

    chosen = [targets.load(name) for name in target.split(",") if name] or targets.known()
    for name in bases.make_all(engine.at(), chosen, ARTIFACTS, print):
        print(name)


@verb
def images(context: Context, action: str, path: str, target: str = "") -> None:
    """Keep the targets' images in one file, load them on another machine, or see that the file is whole."""
    from dlas import prebuilt

    chosen = [targets.load(name) for name in target.split(",") if name]
    for line in prebuilt.act(action, Path(path), chosen, print):
        print(line)


@verb
def doctor(
    context: Context, target: str = "x86", device: str = "", emulate: bool = False, runner: str = "auto"
) -> None:
    """See whether a device is ready: engine, image, lock, clocks, temperature, memory, power mode."""
    from dlas import doctor as doctors
    from dlas.hardware.reach import Access

    doctors.examine(targets.load(target), Access(runner, device, emulate), ARTIFACTS, print)


@verb
def train(
    context: Context,
    model: str = "resnet18",
    dataset: str = "cifar10",
    recipe: str = "",
    sweep: str = "",
    data: str = "",
    accelerator: str = "auto",
    devices: str = "auto",
    strategy: str = "auto",
    precision: str = "32-true",
    workers: int = Count(0),
    force: bool = False,
) -> None:
    """Train a network; a training that was killed goes on. Sweeps of its dataset and recipe find it."""
    from dlas import training

    spec, chosen = training.choose(sweep, model, dataset, recipe)
    found = catalog.locate(dataset, catalog.folders(data, DATA))
    machine = {
        "accelerator": accelerator,
        "devices": devices,
        "strategy": strategy,
        "precision": precision,
        "workers": workers,
    }
    print(training.run(spec, chosen, found, ARTIFACTS / "checkpoints", force, machine))


@verb
def prune(
    context: Context,
    model: str = "resnet18",
    dataset: str = "cifar10",
    technique: str = "weight",
    up_to: int = Count(0),
    sweep: str = "",
    data: str = "",
    accelerator: str = "auto",
    devices: str = "auto",
    strategy: str = "auto",
    precision: str = "32-true",
    workers: int = Count(0),
) -> None:
    """Prune a trained network as a sweep says, level by level, and train it on; what was killed goes on."""
    from dlas import training

    found = catalog.locate(dataset, catalog.folders(data, DATA))
    machine = {
        "accelerator": accelerator,
        "devices": devices,
        "strategy": strategy,
        "precision": precision,
        "workers": workers,
    }
    checkpoints = ARTIFACTS / "checkpoints"
    print(training.prune(sweep, model, dataset, technique, up_to, found, checkpoints, machine))


@verb
def tune(
    context: Context,
    model: str = "resnet18",
    dataset: str = "cifar10",
    algorithm: str = "direct",
    format: str = "dense",
    compression: str = "dense",
    target: str = "x86",
    trials: int = Count(PAPER.trials),
    early_stop: int = Count(PAPER.early_stop),
    only: str = "*",
    sweep: str = "",
    runner: str = "auto",
    device: str = "",
    wait: int = Count(lock.WAIT_S),
    retry: int = Count(10),
    threads: int = Count(1),
    data: str = "",
    build_timeout: int = Count(1800),
) -> None:
    """Search schedules for a network's convolutions on the device; what was killed goes on."""
    from dlas import progress, trial, tuning

    if not trials:
        raise UsageError("trials is 0", "give 1 or more")
    chosen = targets.load(target)
    cells = tuning.choose(sweep, model, dataset, compression, algorithm.split(","), format, chosen)
    settings = trial.Settings(
        "tuning",
        ARTIFACTS,
        runner=runner,
        wait_s=wait,
        retries=retry,
        threads=threads,
        build_timeout_s=build_timeout,
        folders=catalog.folders(data, DATA),
    )
    with progress.Progress() as shown:
        hosts, budget = device.split(","), Budget(trials, early_stop)
        print(tuning.tune(cells, settings, hosts, budget, only, shown))


@verb
def show_tuning(context: Context, action: str, path: str = "", target: str = "") -> None:
    """List the records of searches, export their best to a file, import one, or prune what is not needed."""
    from dlas import tuning

    print(tuning.act(action, path, target, ARTIFACTS))


@verb
def elbow(context: Context, sweep: str = "digits", only: str = "*", data: str = "") -> None:
    """Show and plot accuracy against compression, and the level that @elbow stands for."""
    from dlas import elbows

    loaded, planned = selected(sweep, "", only)
    drawn = elbows.draw(loaded.name, planned, catalog.folders(data, DATA), ARTIFACTS)
    print(drawn or f"no cell of {loaded.name} asks for an elbow, and no network of it has levels")


@verb
def show_data(context: Context, fetch: str = "", data: str = "") -> None:
    """Show which datasets and pre-trained weights are there, and fetch what is not."""
    from dlas import supplies

    folders = catalog.folders(data, DATA)
    if fetch:
        supplies.fetch(fetch, folders, print)
    for name, line in supplies.status(folders):
        print(f"{name:16}{line}")


@verb
def report(context: Context, sweep: str = "smoke", only: str = "*", accuracy_drop: float = Points(1)) -> None:
    """Print what a sweep's rows say, and write it as pages with figures, each traced to its rows."""
    from dlas import publishing

    folders = catalog.folders("", DATA)
    print(publishing.write_report(sweep, ARTIFACTS, folders, only, accuracy_drop / 100))


@verb
def compare(context: Context, a: str, b: str, sweep: str = "") -> None:
    """Compare rows pair by pair: of two sweeps, commits, algorithms, as in `commit=1f89 commit=a051`."""
    from dlas import publishing

    print(publishing.compare_sides(a, b, sweep, ARTIFACTS))


@verb
def observe(context: Context, sweep: str = "digits", only: str = "*") -> None:
    """Ask a sweep's rows whether what the paper observed holds in them, fails, or is undecided."""
    from dlas import publishing

    print(publishing.observe(sweep, only, ARTIFACTS))


@verb
def advise(
    context: Context,
    sweep: str = "digits",
    target: str = "x86",
    accuracy_drop: float = Points(1),
    model: str = "",
) -> None:
    """Name the one configuration to take on a target: the fastest that may lose so much accuracy."""
    from dlas import publishing

    print(publishing.advise(sweep, target, model, accuracy_drop / 100, ARTIFACTS))


@verb
def noise(
    context: Context,
    target: str = "x86",
    sweep: str = "smoke",
    only: str = "*/dense/fp32/dense/direct/scheduled/*",
    processes: int = Count(20),
    runner: str = "auto",
    device: str = "",
    wait: int = Count(lock.WAIT_S),
    retry: int = Count(0),
    threads: int = Count(0),
    data: str = "",
    timeout: int = Count(3600),
    build_timeout: int = Count(1800),
) -> None:
    """Measure how much the same artifact differs from itself on a device: the floor that verdicts respect."""
    from dlas import progress, publishing, trial

    _, planned = selected(sweep, target, only)
    settings = trial.Settings(
        sweep,
        ARTIFACTS,
        runner=runner,
        device=device,
        wait_s=wait,
        retries=retry,
        threads=threads,
        replicates=processes,
        job_timeout_s=timeout,
        build_timeout_s=build_timeout,
        folders=catalog.folders(data, DATA),
    )
    with progress.Progress() as shown:
        print(publishing.measure_noise(planned, settings, shown))


@verb
def results(context: Context, action: str, sweep: str = "", from_: str = "", csv: str = "") -> None:
    """Merge rows of other folders, compact many files into one, verify them, or export them as CSV."""
    from dlas import publishing

    for line in publishing.act(action, sweep, from_, csv, ARTIFACTS):
        print(line)


@verb
def export(context: Context, cell: str, to: str, sweep: str = "") -> None:
    """Hand a measured cell to whoever embeds it: its library, TVM's run time, loaders in Python and C++.

    Without --sweep, as it was measured last, in whichever sweep.
    """
    from dlas.handout.export import export as hand_out

    print(hand_out(cell, Path(to), ARTIFACTS, sweep, print))


@verb
def bench(
    context: Context,
    against: str = "",
    model: str = "resnet18",
    dataset: str = "cifar10",
    compression: str = "dense",
    precision: str = "fp32",
    algorithm: str = "",
    threads: str = "1,2",
    rounds: int = Count(10),
    repeats: int = Count(60),
    runner: str = "local",
    sparse: bool = False,
    levels: str = "50,60,70,80,90,95,99",
    pruning: str = "uniform",
    tuned: bool = False,
    format: str = "",
    layers: int = Count(0),
    results: int = Count(0),
) -> None:
    """Time our artifacts against a peer's, or against our fp32, whole processes in turn.

    With --sparse, a network pruned to some levels, beside itself and the peer, dense; with --tuned, what
    searches found for it, beside our other schedules and the peers. There, --layers N takes its N largest
    convolutions instead, and --model '*' all networks of the dataset.

    With --results N, what N made rows cost to load and to report.

    Without --against, --algorithm and --format: onnxruntime, all three, and auto; with --tuned,
    onnxruntime,openvino, direct, and blocked.
    """
    from dlas import pipeline, progress, trial

    if results:
        return print(pipeline.run_results_bench(results, print))
    if sparse and tuned:
        raise UsageError("--sparse and --tuned are two comparisons", "give one of them")
    settings = trial.Settings("bench", ARTIFACTS, runner, repeats=repeats, folders=catalog.folders("", DATA))
    if tuned:
        cells = (model, dataset, compression, precision, algorithm or "direct", format or "blocked")
        asked = ((against or "onnxruntime,openvino").split(","), counts(threads), rounds, layers)
        with progress.Progress() as shown:
            return shown.console.print(pipeline.run_tuned_bench(cells, *asked, settings, shown))
    against, format = against or "onnxruntime", format or "auto"
    algorithm = algorithm or "direct,gemm,spatial_pack"
    loaded = sweeps.load(sweeps.OF_DATASET.get(dataset, dataset))
    of = precision if sparse else "*"
    planned = sweeps.select(
        sweeps.expand(loaded), f"{dataset}/{model}/{compression}/{of}/dense/*/scheduled/*"
    )
    how = (settings, against, counts(threads), rounds)
    with progress.Progress() as shown:
        if sparse:
            cut = (counts(levels), pruning, format, layers)
            found = pipeline.run_sparse_bench(planned, algorithm.split(","), *cut, *how, shown)
        else:
            found = pipeline.run_bench(planned, precision, algorithm.split(","), *how, shown)
        shown.console.print(found)


@verb
def clean(context: Context, free: str = "") -> None:
    """Show the disk that artifacts take, and free it."""
    names = [name for name in free.split(",") if name]
    print(f"freed {cache.free(ARTIFACTS, names) / 1e6:.1f} MB")  # with no names, what killed runs left
    for name, files, size_bytes in cache.usage(ARTIFACTS):
        print(f"{name:12}{files:8} files {size_bytes / 1e6:12.1f} MB")


@verb
def show_targets(context: Context) -> None:
    """List the targets: names, aliases, what they are, and what can measure on them."""
    for target in targets.known():
        names = ", ".join((target.name, *target.aliases))
        runners = "/".join(target.board.runners) or "not measured"
        detected = f" ({target.detected})" if target.detected else ""
        print(f"{names:32}{target.compiler.kind:8}{runners:14}{target.description}{detected}")


@verb
def test(context: Context, pytest: str = "") -> None:
    """Run the whole test suite: lint, types, tests; those that use no device in two processes."""
    apart = [f"--ignore={folder}" for folder in DEVICE_TESTS[:-1]] + [f"--ignore-glob={DEVICE_TESTS[-1]}"]
    steps = ["ruff check .", "ruff format --check .", "mypy"]
    steps += [f"pytest -n 2 --dist loadfile {' '.join(apart)}", f"pytest {' '.join(DEVICE_TESTS)}"]
    for step in [f"pytest {pytest}"] if pytest else steps:
        if not context.run(f"{sys.executable} -m {step}", warn=True, pty=sys.stdout.isatty()):
            raise Exit(f"inv test: {step} failed", 1)
