"""A search against a space and a device that fail as told: what it records, and what it never loses."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dlas import candidates, tuners
from dlas.candidates import Builders, Core
from dlas.errors import BuildError, DeviceBusyError, DeviceError, DeviceLostError, StorageError
from dlas.hardware import engine, targets
from dlas.hardware.device import DockerDevice, LocalDevice
from dlas.measurement import patience
from dlas.progress import Progress
from dlas.sweeptables import Budget
from dlas.systems.autoschedule import compact
from dlas.systems.autoschedule.record import EXHAUSTED, LOST, Record, digest_of, like_of, tvm_version
from dlas.systems.autoschedule.records import Database, path_of
from dlas.trial import Place, Places, Settings
from dlas.tuners import Search
from dlas.values import NO_IMAGE
from dlas.worker import Limit
from tests import tunable
from tests.tunable import WORKLOADS, Bench, median_of, number_of, variant

ROOT = Path(__file__).parents[1]
TARGET = targets.load("x86")
FAILURES = {
    tunable.BUILD_FAILS: "failed_to_build",
    tunable.BUILD_CRASHES: "failed_to_build",
    tunable.CRASHES: "crashed",
    tunable.WRONG: "wrong_output",
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Search]:
    """A search of the fake space on fake devices."""
    monkeypatch.setattr(patience, "RETRY_PAUSES_S", (0.01, 0.01))

    def make(*benches: Bench, trials: int = 60, early_stop: int = 0, **changes: Any) -> Search:
        fields = {
            "target": TARGET,
            "places": [bench.place for bench in benches or (Bench(),)],
            "root": tmp_path,
            "database": Database.open(path_of(tmp_path, TARGET.name)),
            "budget": Budget(trials, early_stop),
            "progress": Progress(),
            "title": "test",
            "builders": 1,
            "core": tunable.CORE,
        }
        return Search(**{**fields, **changes})

    return make


def of(search: Search, workload: str = WORKLOADS[0]) -> list[Record]:
    return Database.open(search.database.path).of(workload, digest_of(TARGET.compiler))


def numbers(records: Sequence[Record]) -> list[int]:
    return [number_of(record.choice) for record in records if record.counts]


def test_each_workload_has_its_trials_and_a_second_search_makes_none(make: Callable[..., Search]) -> None:
    bench = Bench()
    search = make(bench)
    search.run(WORKLOADS)
    for workload in WORKLOADS:
        found = of(search, workload)
        assert numbers(found) == list(range(60))
        assert [record.trial for record in found] == list(range(1, 61))
        for record in found:
            number = number_of(record.choice)
            assert record.reason == FAILURES.get(number, "")
            assert record.median_ns == (None if number in FAILURES else median_of(number))
            assert (record.device, record.device_model, record.threads) == ("f" * 32, "CPU", 1)
            assert record.build_seconds == (0.25 if record.reason != "failed_to_build" else 0)
        crash = found[tunable.BUILD_CRASHES]
        assert "was ended by SIGSEGV" in crash.detail
    assert bench.sessions == 1
    assert not list((search.root / "tuning").glob(".dlas-*"))  # neither modules nor arrays are left
    again = Bench()
    make(again).run(WORKLOADS)
    assert again.ran == []
    make(again, trials=70).run(WORKLOADS[:1])
    assert again.ran == list(range(60, 70))


def test_samples_are_as_many_as_the_best_so_far_lets(make: Callable[..., Search]) -> None:
    bench = Bench()
    make(bench, trials=3).run(WORKLOADS[:1])
    first, *others = [job.repeats for job in bench.jobs]
    assert first == candidates.FIRST_REPEATS
    assert others == [candidates.choose_repeats(median_of(0)), candidates.choose_repeats(median_of(1))]
    assert {job.warmups for job in bench.jobs} == {1}
    assert {job.flush_bytes for job in bench.jobs} == {candidates.FLUSH_BYTES}  # as in a network: from memory


def test_it_ends_exactly_when_so_many_variants_gained_nothing(make: Callable[..., Search]) -> None:
    search = make(trials=1000, early_stop=40)  # the best, 150, is 13% faster than the hand schedule
    search.run(WORKLOADS[:1])
    gains = [0]
    for number in range(1, 200):
        if number not in FAILURES and median_of(number) <= median_of(gains[-1]) * 0.99:
            gains.append(number)
    assert gains[-1] < 150
    assert len(of(search)) == gains[-1] + 1 + 40
    again = Bench()
    make(again, trials=1000, early_stop=40).run(WORKLOADS[:1])
    assert again.ran == []


def test_an_exhausted_space_is_remembered_and_asked_again(make: Callable[..., Search]) -> None:
    few = replace(tunable.CORE, propose=tunable.propose_few)
    search = make(core=few)
    search.run(WORKLOADS[:1])
    make(core=few).run(WORKLOADS[:1])
    assert [record.reason for record in of(search)] == [""] * 5 + [EXHAUSTED]
    standing = search.database.standing(WORKLOADS[0], digest_of(TARGET.compiler))
    assert standing.is_exhausted
    assert standing.is_done(60, 0)
    make().run(WORKLOADS[:1])  # a newer space knows more
    assert numbers(of(search)) == list(range(60))


def test_the_best_of_a_like_cpu_is_tried_second(make: Callable[..., Search], tmp_path: Path) -> None:
    best = compact.Best(variant(150), 5, 9, 100, 1.0)
    content = compact.Compact(
        like_of(TARGET.compiler), "another", tvm_version(), dict.fromkeys(WORKLOADS[:1], best)
    )
    search = make(trials=10)
    search.database.append([content.record(WORKLOADS[0], datetime.now(UTC))])
    search.run(WORKLOADS)
    assert numbers(of(search)) == [0, 150, *range(1, 9)]
    killed = make(trials=1, root=tmp_path / "killed", database=Database.open(tmp_path / "killed.jsonl"))
    killed.run(WORKLOADS[:1])
    killed.database.append([content.record(WORKLOADS[0], datetime.now(UTC))])
    killed.budget = Budget(4, 0)
    killed.run(WORKLOADS[:1])
    assert numbers(of(killed)) == [0, 150, 1, 2]
    assert numbers(of(search, WORKLOADS[1])) == list(range(10))


class Losing:
    """Loses a device at some of the variants it is given, for one run each time they are named."""

    def __init__(self, *numbers: int) -> None:
        self.left = Counter(numbers)

    def __call__(self, number: int) -> None:
        if self.left[number] > 0:
            self.left[number] -= 1
            raise DeviceLostError("its job was ended by SIGKILL", "try again")


def test_a_lost_device_costs_no_trial_and_the_variant_is_asked_again(make: Callable[..., Search]) -> None:
    bench = Bench(before=Losing(3, 3, 20))
    search = make(bench, retries=3)
    search.run(WORKLOADS[:1])
    found = of(search)
    assert Counter(record.reason for record in found)[LOST] == 3
    built = sum(record.build_seconds for record in found)
    assert built == 0.25 * sum(record.reason != "failed_to_build" for record in found if record.counts)
    assert numbers(found) == list(range(60))
    assert all(record.median_ns for record in found if record.counts and number_of(record.choice) in (3, 20))


def test_without_patience_the_search_ends_and_goes_on_from_there(make: Callable[..., Search]) -> None:
    with pytest.raises(DeviceLostError):
        make(Bench(before=Losing(20))).run(WORKLOADS[:1])
    search = make()
    assert numbers(of(search)) == list(range(20))
    search.run(WORKLOADS[:1])
    assert numbers(of(search)) == list(range(60))


def test_a_variant_that_ends_its_runner_again_and_again_is_a_crash(make: Callable[..., Search]) -> None:
    search = make(Bench(before=Losing(*[5] * 100)), retries=10)
    search.run(WORKLOADS[:1])
    (bad,) = [record for record in of(search) if record.counts and number_of(record.choice) == 5]
    assert (bad.reason, bad.median_ns) == ("crashed", None)
    assert (bad.build_seconds, bad.run_seconds) == (0.25, 0.0)  # those that were lost have what they ran
    assert len(of(search)) == 60 + tuners.LOSSES


def test_a_device_that_is_away_crashes_no_variant(make: Callable[..., Search]) -> None:
    bench = Bench()

    def leave(number: int) -> None:
        if number == 5:
            bench.away = True
        if bench.away:
            raise DeviceLostError("no engine answers", "wait")

    bench.before = leave
    with pytest.raises(DeviceLostError):
        make(bench, retries=5).run(WORKLOADS[:1])
    search = make()
    assert numbers(of(search)) == list(range(5))
    search.run(WORKLOADS[:1])
    assert numbers(of(search)) == list(range(60))


@pytest.mark.parametrize("last", [0, 10])
def test_several_devices_share_a_search_and_one_may_go(
    make: Callable[..., Search], last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first variant, with the hand schedule, or later; nobody waits for it."""
    monkeypatch.setattr(patience, "RETRY_PAUSES_S", (1000.0,))
    dying = Bench()

    def die(number: int) -> None:
        dying.away = number >= last
        if dying.away:
            raise DeviceLostError("no engine answers", "wait")

    def wait(number: int) -> None:
        time.sleep(0.002)

    dying.before = die
    benches = [dying, Bench(before=wait)]
    search = make(*benches, retries=10)
    search.run(WORKLOADS)
    for workload in WORKLOADS:
        assert sorted(numbers(of(search, workload))) == list(range(60))
        assert number_of(of(search, workload)[0].choice) == 0
    assert bool(dying.ran) == (last > 0)
    assert [bench.sessions for bench in benches] == [1, 1]


def test_one_of_several_devices_that_a_variant_crashes_stays(make: Callable[..., Search]) -> None:
    benches = [Bench(before=Losing(*[5] * 100)), Bench(before=Losing(*[5] * 100))]
    search = make(*benches)
    search.run(WORKLOADS[:1])
    (bad,) = [record for record in of(search) if record.counts and number_of(record.choice) == 5]
    assert bad.reason == "crashed"
    assert sorted(numbers(of(search))) == list(range(60))


def test_what_another_search_has_tried_is_not_tried_again(make: Callable[..., Search]) -> None:
    """Both propose the same, for both know the same."""
    bench, other = Bench(), Bench()

    def overtake(number: int) -> None:
        if number == 3:
            make(other, trials=20).run(WORKLOADS[:1])

    bench.before = overtake
    search = make(bench)
    search.run(WORKLOADS[:1])
    assert Counter(numbers(of(search))) == Counter([*range(59), 3])  # it was under way
    assert not {*range(4, 20)} & {*bench.ran}


def test_when_all_devices_are_gone_it_says_so(make: Callable[..., Search]) -> None:
    benches = (Bench(), Bench())

    def die(number: int) -> None:
        if number >= 10:
            for bench in benches:
                bench.away = True
            raise DeviceLostError("no engine answers", "wait")

    for bench in benches:
        bench.before = die
    with pytest.raises(DeviceLostError, match="no engine answers"):
        make(*benches).run(WORKLOADS)
    search = make()
    assert 10 <= len(numbers(of(search))) < 60
    search.run(WORKLOADS[:1])
    assert sorted(numbers(of(search))) == list(range(60))


@pytest.mark.parametrize(
    "error", [DeviceBusyError("another job runs", "wait"), StorageError("the disk is full", "free some")]
)
def test_what_is_no_fault_of_a_variant_ends_the_search(make: Callable[..., Search], error: Exception) -> None:
    def fail(number: int) -> None:
        if number == 5:
            raise error

    with pytest.raises(type(error)):
        make(Bench(before=fail)).run(WORKLOADS[:1])
    assert numbers(of(make())) == list(range(5))


def test_a_hand_schedule_that_fails_is_no_trial(make: Callable[..., Search]) -> None:
    def crash(number: int) -> None:
        raise DeviceError("the runner was ended by SIGILL", "see its log")

    with pytest.raises(DeviceError, match=r"d1x1/g1/z0: the hand schedule: crashed: .* SIGILL; see .*log"):
        make(Bench(before=crash)).run(WORKLOADS[:1])
    never = replace(tunable.CORE, build=tunable.never_build)
    with pytest.raises(BuildError, match="the hand schedule: failed to build: nothing compiles today"):
        make(core=never).run(WORKLOADS[:1])
    assert of(make()) == []


def test_nothing_is_built_while_this_machine_measures(make: Callable[..., Search]) -> None:
    building: list[int] = []
    honest = Builders.submit

    def submit(self: Builders, *arguments: Any) -> Any:
        future = honest(self, *arguments)
        building.append(1)
        future.add_done_callback(lambda _: building.pop())
        return future

    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Builders, "submit", submit)
        slowly = replace(tunable.CORE, build=tunable.build_slowly)
        make(Bench(before=lambda _: seen.append(len(building))), core=slowly).run(WORKLOADS[:1])
        assert set(seen) == {0}
        seen.clear()
        patch.setattr(tuners, "is_here", lambda device: False)
        bench = Bench(before=lambda _: seen.append(len(building)))
        make(bench, core=slowly, trials=100).run(WORKLOADS[:1])
        assert max(seen) > 0


def test_devices_are_here_or_elsewhere(tmp_path: Path) -> None:
    local = LocalDevice(TARGET, None, tmp_path)  # type: ignore[arg-type]
    here, away = (
        DockerDevice(TARGET, engine.at(host), NO_IMAGE, "n", tmp_path) for host in ("", "ssh://board")
    )
    assert [candidates.is_here(device) for device in (local, here, away)] == [True, True, False]


def imported() -> bool:
    """In a worker: whether TVM comes without torch."""
    candidates._leave_torch_out()
    import tvm

    return bool(tvm.__version__) and "torch" not in sys.modules


def test_workers_leave_torch_out(tmp_path: Path) -> None:
    with Builders(1, tmp_path / "log") as builders:
        assert builders.call(Limit(120, "importing", ""), imported)


@pytest.mark.slow
def test_a_real_runner_times_and_checks_what_is_built(make: Callable[..., Search], artifacts: Path) -> None:
    place = Places(Settings("tuning", artifacts, runner="local", threads=1), print).of(TARGET)
    assert isinstance(place, Place)
    core = Core(tunable.propose, tunable.prepare_relu, tunable.build_relu)
    search = make(places=[place], core=core, trials=5)
    search.run(WORKLOADS[:1])
    found = of(search)
    assert [record.reason for record in found] == ["", "wrong_output", "crashed", "", ""]
    assert all(0 < (record.median_ns or 0) < 1e9 for record in found if not record.reason)
    assert "differs from that of the oracle" in found[1].detail
    assert found[2].detail
    facts = place.facts
    assert {(record.device, record.device_model) for record in found} == {
        (facts.fingerprint, facts.cpu_model)
    }


def search_here(root: Path, trials: int = 300) -> None:
    """For a process of its own, that is killed."""
    Search(
        target=TARGET,
        places=[Bench(before=lambda _: time.sleep(0.003)).place],
        root=root,
        database=Database.open(path_of(root, TARGET.name)),
        budget=Budget(trials, 40),
        progress=Progress(),
        title="test",
        builders=2,
        core=replace(tunable.CORE, build=tunable.build_slowly),
    ).run(WORKLOADS)


SCRIPT = (
    "import sys; from pathlib import Path; from tests.test_tuners import search_here\n"
    "if __name__ == '__main__':\n"
    "    try: search_here(Path(sys.argv[1]))\n"
    "    except KeyboardInterrupt: sys.exit(130)\n"
)


def start(root: Path) -> subprocess.Popen[bytes]:
    script = root / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(script), str(root)],
        env=environment,
        start_new_session=True,
        # A suite that a shell runs in the background ignores interrupts, and so would the child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def await_trials(root: Path, count: int) -> None:
    path = path_of(root, TARGET.name)
    deadline = time.monotonic() + 60
    while not path.is_file() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def counts(root: Path) -> dict[str, tuple[int, int]]:
    database = Database.open(path_of(root, TARGET.name))
    found = {name: database.standing(name, digest_of(TARGET.compiler)) for name in WORKLOADS}
    return {name: (each.trials, each.best_ns or 0) for name, each in found.items()}


@pytest.mark.slow
def test_a_search_killed_twice_ends_with_the_same_trials(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for root in (whole, killed):
        root.mkdir()
    search_here(whole)
    choose = random.Random(1)
    for count in (choose.randrange(20, 60), choose.randrange(90, 160)):
        child = start(killed)
        await_trials(killed, count)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert sum(trials for trials, _ in counts(killed).values()) < sum(n for n, _ in counts(whole).values())
    search_here(killed)
    assert counts(killed) == counts(whole)
    database = Database.open(path_of(killed, TARGET.name))
    for records in database.groups.values():
        assert [record.trial for record in records] == list(range(1, len(records) + 1))
        assert len({record.choice for record in records}) == len(records)


@pytest.mark.slow
def test_an_interrupted_search_ends_soon_and_keeps_what_it_measured(tmp_path: Path) -> None:
    child = start(tmp_path)
    await_trials(tmp_path, 40)
    os.kill(child.pid, signal.SIGINT)
    assert child.wait(timeout=30) == 130
    database = Database.open(path_of(tmp_path, TARGET.name))
    assert sum(map(len, database.groups.values())) >= 40
    assert not list((tmp_path / "tuning").glob(".dlas-*"))
    search_here(tmp_path)
    reference = tmp_path / "reference"
    reference.mkdir()
    search_here(reference)
    assert counts(tmp_path) == counts(reference)
