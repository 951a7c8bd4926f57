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
from dlas.errors import DlasError, UsageError
from dlas.hardware import targets

ARTIFACTS = Path(os.environ.get("DLAS_ARTIFACTS", Path(__file__).parent / "artifacts"))


HELP = {
    "against": "the peer: onnxruntime, openvino or torch",
    "algorithm": "one or more of direct,gemm,spatial_pack",
    "base": "base image, where the target's own cannot be pulled",
    "build_timeout": "seconds that building one cell may take",
    "dry_run": "show the plan: what is cached, what will be built, about how long it takes",
    "force": "measure again what is cached",
    "free": "folders to delete, as in modules,logs",
    "list_": "show the cells' ids",
    "model": "one of the networks of the cifar sweep",
    "only": "glob of cell ids, as in '*scheduled*'",
    "pytest": "run pytest alone, with these arguments",
    "repeats": "samples of each process; rows with fewer than 150 are not publishable",
    "replicates": "processes for each cell; those that are there already count",
    "rounds": "pairs of processes",
    "runner": "local, docker, or auto: docker where engine and image are there",
    "sweep": "name of a sweep, or its file.toml",
    "target": "name, alias or file.toml of a target (for run: of several, as in x86,hikey)",
    "threads": "threads of an inference; for run, 0 is the target's own; for bench, several as in 1,2",
    "timeout": "seconds that measuring one cell may take",
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
    threads: int = Count(0),
    repeats: int = Count(150),
    replicates: int = Count(1),
    force: bool = False,
    timeout: int = Count(3600),
    build_timeout: int = Count(1800),
) -> None:
    """Build, check and time the cells of a sweep, and keep a row of each."""
    loaded, planned = selected(sweep, target, only)
    if list_:
        return print(sweeps.listing(planned))
    from dlas import pipeline, plan, progress, trial

    settings = trial.Settings(
        loaded.name, ARTIFACTS, runner, threads, repeats, replicates, force, timeout, build_timeout
    )
    with progress.Progress() as shown:
        if dry_run:
            return print(plan.describe(planned, settings, shown))
        rows = pipeline.run_sweep(planned, settings, shown)
    print(f"\n{pipeline.report(loaded.name, ARTIFACTS)}")
    pipeline.check(rows, ARTIFACTS)


@verb
def build(
    context: Context,
    target: str = "x86",
    sweep: str = "",
    only: str = "*",
    base: str = "",
    build_timeout: int = Count(1800),
) -> None:
    """Build the container image of a target; with --sweep, compile the cells of a sweep for it."""
    from dlas import pipeline, progress, trial

    with progress.Progress() as shown:
        if not sweep:
            return shown.say(pipeline.build_image(targets.load(target), ARTIFACTS, base, shown.say))
        loaded, planned = selected(sweep, target, only)
        settings = trial.Settings(loaded.name, ARTIFACTS, build_timeout_s=build_timeout)
        pipeline.build_sweep(planned, settings, shown)


@verb
def report(context: Context, sweep: str = "smoke") -> None:
    """Print what a sweep's rows say: medians with their intervals, ratios, and what did not run."""
    from dlas import pipeline

    print(pipeline.report(Path(sweep).stem, ARTIFACTS))


@verb
def bench(
    context: Context,
    against: str = "onnxruntime",
    model: str = "resnet18",
    algorithm: str = "direct,gemm,spatial_pack",
    threads: str = "1,2",
    rounds: int = Count(10),
    repeats: int = Count(60),
    runner: str = "local",
) -> None:
    """Time our artifacts against a peer's, whole processes in turn."""
    from dlas import pipeline, progress, trial

    _, planned = selected("cifar", "", f"*/{model}/dense/fp32/dense/*/scheduled/*")
    settings = trial.Settings("bench", ARTIFACTS, runner, repeats=repeats)
    with progress.Progress() as shown:
        shown.console.print(
            pipeline.run_bench(
                planned, algorithm.split(","), settings, against, counts(threads), rounds, shown
            )
        )


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
    """Run the whole test suite: lint, types, tests."""
    steps = ["ruff check .", "ruff format --check .", "mypy", "pytest"]
    for step in [f"pytest {pytest}"] if pytest else steps:
        if not context.run(f"{sys.executable} -m {step}", warn=True, pty=sys.stdout.isatty()):
            raise Exit(f"inv test: {step} failed", 1)
