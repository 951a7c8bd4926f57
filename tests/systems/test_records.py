"""Records outlive kills, torn lines, pruning and the way to another machine."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlas.errors import StorageError, UsageError
from dlas.hardware import targets
from dlas.systems.autoschedule import compact, exchange
from dlas.systems.autoschedule import record as lines
from dlas.systems.autoschedule.record import Record, Standing, digest_choices, digest_of, like_of, standing
from dlas.systems.autoschedule.records import Database
from dlas.systems.autoschedule.workload import Choice

WORKLOAD = "direct/dense/1x64x32x32/64x3x3/s1x1/p1x1x1x1/d1x1/g1/z0"
OTHER = WORKLOAD.replace("direct", "gemm")
COMPILER = targets.load("hikey").compiler
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def record(number: int, median_ns: int | None = None, reason: str = "", **changes: object) -> Record:
    fields = Record(
        workload=WORKLOAD,
        compiler=digest_of(COMPILER),
        like=like_of(COMPILER),
        threads=1,
        choice=Choice((("tile", number), ("order", "oyx")), ((number, 2), (4,))),
        median_ns=median_ns,
        reason=reason,
        detail="",
        build_seconds=0.5,
        run_seconds=0.25,
        device="f" * 32,
        device_model="A73",
        tvm=lines.tvm_version(),
        dlas=lines.dlas_version(),
        at=NOW,
    )
    return replace(fields, **changes)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuning" / "hikey970_neon.jsonl"


@pytest.fixture
def database(path: Path, tmp_path: Path) -> Database:
    return Database.open(path, shipped=tmp_path / "nothing")


def reopened(database: Database) -> Database:
    return Database.open(database.path, shipped=database.path.parent / "nothing")


def of(database: Database) -> list[Record]:
    return database.of(WORKLOAD, digest_of(COMPILER))


def test_what_is_added_is_numbered_and_found_again(database: Database) -> None:
    first = database.append([record(0, 900), record(1, reason="crashed", detail="SIGSEGV")])
    assert [each.trial for each in first] == [1, 2]
    (lost,) = database.append([record(2, reason=lines.LOST)])
    (third,) = database.append([record(2, 800)])
    assert (lost.trial, third.trial) == (0, 3)
    assert of(database) == of(reopened(database)) == [*first, lost, third]
    assert database.of(OTHER, digest_of(COMPILER)) == []
    assert database.of(WORKLOAD, digest_of(COMPILER), threads=2) == []
    found = database.standing(WORKLOAD, digest_of(COMPILER))
    assert (found.trials, found.best, found.hand) == (3, third, first[0])
    assert found.seconds == 4 * 0.75


def test_searches_of_two_processes_see_each_other(database: Database) -> None:
    other = reopened(database)
    database.append([record(0, 900)])
    (second,) = other.append([record(1, 800)])
    assert second.trial == 2
    (third,) = database.append([record(2, 700)])
    assert third.trial == 3
    other.refresh()
    assert of(other) == of(database)


def add_many(path: Path, start: int) -> None:
    database = Database.open(path)
    for number in range(start, start + 50):
        database.append([record(number, 1000 + number, detail="x" * 3000)], durable=False)


def test_two_writers_at_once_tear_no_line_and_number_each_trial_once(database: Database) -> None:
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=add_many, args=(database.path, 100 * n)) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    found = of(reopened(database))
    assert [each.trial for each in found] == list(range(1, 101))
    assert {each.choice for each in found} == {record(n).choice for n in (*range(50), *range(100, 150))}


def test_a_torn_last_line_is_dropped_with_a_word_and_never_glued_to_the_next(database: Database) -> None:
    database.append([record(0, 900), record(1, 800)])
    data = database.path.read_bytes()
    for cut in (1, 40, data.index(b"\n")):
        database.path.write_bytes(data[:-cut])
        said: list[str] = []
        torn = Database.open(database.path, said.append)
        is_whole = cut == 1  # only its end is missing
        assert len(of(torn)) == (2 if is_whole else 1)
        assert said == (
            [] if is_whole else [f"{database.path}:2 was cut off in writing: that one record is dropped"]
        )
        (added,) = torn.append([record(2, 700)])
        assert added.trial == len(of(torn))
        assert of(reopened(database)) == of(torn)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: "{", "is damaged: "),
        (lambda raw: json.dumps([1]), "it is no record"),
        (lambda raw: json.dumps({**raw, "median_ns": None}), "a median of None does not go with the reason"),
        (lambda raw: json.dumps({**raw, "median_ns": -5}), "-5 is no time"),
        (lambda raw: json.dumps({**raw, "median_ns": 0.5}), "0.5 is no time"),
        (lambda raw: json.dumps({**raw, "workload": "direct"}), "'direct' names no workload"),
        (lambda raw: json.dumps({**raw, "choice": {"sketch": {}}}), "KeyError: 'decisions'"),
        (lambda raw: json.dumps({**raw, "trial": True}), "trial is True"),
        (lambda raw: json.dumps({**raw, "at": "2026-01-02T03:04:05"}), "its time has no zone"),
        (lambda raw: json.dumps({**raw, "device": 5}), "device is 5, and no text"),
        (lambda raw: json.dumps({key: raw[key] for key in raw if key != "tvm"}), "KeyError: 'tvm'"),
    ],
)
def test_a_damaged_line_is_named(
    database: Database, damage: Callable[[dict[str, object]], str], words: str
) -> None:
    database.append([record(0, 900), record(1, 800), record(2, 700)])
    whole = database.path.read_text().splitlines()
    whole[1] = damage(json.loads(whole[1]))
    database.path.write_text("\n".join(whole) + "\n")
    with pytest.raises(StorageError) as caught:
        reopened(database)
    assert str(caught.value).startswith(f"{database.path}:2 is damaged: ")
    assert words in str(caught.value)
    assert str(caught.value).endswith("; take that line out; those before and after it count as they are")


def test_a_full_disk_adds_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.append([record(0, 900)])
    honest = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 200:
            raise OSError(28, "No space left on device")
        return honest(descriptor, data[:100])

    monkeypatch.setattr(os, "write", lambda descriptor, data: full(descriptor, data[-300:]))
    with pytest.raises(StorageError, match="No space left on device; free some"):
        database.append([record(1, 800)])
    monkeypatch.setattr(os, "write", honest)
    assert of(database) == of(reopened(database)) == of(database)[:1]
    assert [each.trial for each in database.append([record(1, 800)])] == [2]


def test_the_best_is_ones_own_then_a_like_cpus_then_what_ships(database: Database, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    assert database.best(WORKLOAD, COMPILER) is None
    database = Database.open(database.path, shipped=shipped)
    best = compact.Best(record(9).choice, 50, 90, 7, 3.5)
    content = compact.Compact(like_of(COMPILER), "A72", lines.tvm_version(), {WORKLOAD: best})
    for name, changed in {
        "a": content,
        "b": replace(content, like=("aarch64", 8, 32)),
        "c": replace(content, tvm="0.1"),
        "d": replace(content, workloads={WORKLOAD: replace(best, choice=record(8).choice, trials=6)}),
    }.items():
        compact.write(shipped / f"{name}.json", changed)
    found = database.best(WORKLOAD, COMPILER)
    assert found is not None
    assert (found.choice, found.compiler, found.device_model, found.trials) == (best.choice, "", "A72", 7)
    assert (database.effort(found).trials, database.effort(found).seconds) == (7, 3.5)
    slow = [record(1, 500), record(2, 400, threads=2)]
    database.append([record(3, 60, compiler="e" * 32)])
    assert database.best(WORKLOAD, COMPILER).choice == record(3).choice  # type: ignore[union-attr]
    database.append(slow)
    assert database.best(WORKLOAD, COMPILER).choice == record(1).choice  # type: ignore[union-attr]
    assert database.best(WORKLOAD, COMPILER, 2).choice == record(2).choice  # type: ignore[union-attr]
    wider = replace(COMPILER, vector_lanes=16)
    assert database.best(WORKLOAD, wider) is None
    database.append([record(4, 10, tvm="0.1", compiler="e" * 32), record(5, 10, like=("x86_64", 4, 32))])
    assert database.best(WORKLOAD, COMPILER).choice == record(1).choice  # type: ignore[union-attr]


def test_what_ships_is_whole() -> None:
    assert all(each.workloads for each in compact.shipped())


TRIALS = st.lists(
    st.one_of(st.integers(500, 1000), st.sampled_from(["crashed", "wrong_output", lines.LOST])), max_size=40
)


def made(trials: list[int | str]) -> list[Record]:
    return [
        record(number, each) if isinstance(each, int) else record(number, reason=each)
        for number, each in enumerate(trials)
    ]


def told(found: Standing) -> tuple[object, ...]:
    choices = [each and each.choice for each in (found.best, found.hand)]
    return found.trials, found.since_gain, found.best_ns, found.hand_ns, choices, found.is_exhausted


@given(trials=TRIALS, ends=st.booleans())
def test_pruning_loses_neither_trials_nor_the_best_nor_when_it_stops(
    trials: list[int | str], ends: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("pruned") / "a.jsonl"
    database = Database.open(path)
    database.append([*made(trials), *([record(0, reason=lines.EXHAUSTED)] if ends else [])])
    database.append([record(1, 300, workload=OTHER)])
    before = database.standing(WORKLOAD, digest_of(COMPILER))
    for _ in range(2):
        database.prune()
        after = reopened(database).standing(WORKLOAD, digest_of(COMPILER))
        assert told(after) == told(before) == told(database.standing(WORKLOAD, digest_of(COMPILER)))
        assert len(of(database)) <= 5
    assert len(database.of(OTHER, digest_of(COMPILER))) == 1
    (added,) = database.append([record(90, 2000)])
    assert added.trial == before.trials + 1


def test_pruning_keeps_the_seconds_and_another_search_writes_to_the_new_file(database: Database) -> None:
    database.append([record(number, 1000 - number) for number in range(20)])
    other = reopened(database)
    assert database.prune() == (20, 3)
    assert database.standing(WORKLOAD, digest_of(COMPILER)).seconds == 20 * 0.75
    (added,) = other.append([record(50, 10)])
    assert added.trial == 21
    assert of(reopened(database)) == of(other)


def test_a_search_stops_by_trials_by_stalling_or_for_want_of_variants() -> None:
    found = standing(made([1000, 995, 980, "crashed", 975, lines.LOST, 972]))
    assert (found.trials, found.since_gain, found.best_ns) == (6, 3, 972)  # less than 1% is noise
    assert (found.is_done(6, 0), found.is_done(7, 0)) == (True, False)
    assert (found.is_done(100, 3), found.is_done(100, 4)) == (True, False)
    ended = found.after(record(0, reason=lines.EXHAUSTED))
    assert (ended.is_exhausted, ended.trials, ended.is_done(100, 50)) == (True, 6, True)
    assert not ended.after(record(9, 990)).is_exhausted


def test_choices_go_to_another_machine_and_are_taken_once(database: Database, tmp_path: Path) -> None:
    database.append([record(0, 900), record(1, reason="crashed"), record(2, 600)])
    database.append([record(3, 300, workload=OTHER)])
    file = tmp_path / "best.json"
    assert exchange.export(database, file, COMPILER) == 2
    there = Database.open(tmp_path / "there.jsonl", shipped=tmp_path / "nothing")
    assert exchange.take_in(there, file, COMPILER) == 2
    assert exchange.take_in(there, file, COMPILER) == 0
    found = reopened(there).best(WORKLOAD, COMPILER)
    assert found is not None
    assert (found.choice, found.median_ns, found.hand_ns) == (record(2).choice, 600, 900)
    assert (there.effort(found).trials, there.effort(found).seconds) == (3, 2.2)  # seconds to a tenth
    assert there.of(WORKLOAD, digest_of(COMPILER)) == []  # no trials of this machine
    assert exchange.export(there, tmp_path / "again.json", COMPILER) == 2
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
    assert json.loads(file.read_text())["compiler"] == {
        "arch": "aarch64",
        "vector_lanes": 4,
        "vector_registers": 32,
    }


def test_what_two_threads_took_stays_theirs(database: Database, tmp_path: Path) -> None:
    database.append([record(0, 900, threads=2), record(1, 600, threads=2)])
    exchange.export(database, tmp_path / "best.json", COMPILER)
    there = Database.open(tmp_path / "there.jsonl", shipped=tmp_path / "nothing")
    exchange.take_in(there, tmp_path / "best.json", COMPILER)
    found = there.best(WORKLOAD, COMPILER)
    assert found is not None
    assert (found.threads, found.median_ns) == (2, 600)


def test_imported_searches_do_not_add_up(database: Database, tmp_path: Path) -> None:
    there = Database.open(tmp_path / "there.jsonl", shipped=tmp_path / "nothing")
    for number, taken in enumerate((900, 800, 700)):
        database.append([record(number, taken)])
        exchange.export(database, tmp_path / "best.json", COMPILER)
        exchange.take_in(there, tmp_path / "best.json", COMPILER)
    found = there.best(WORKLOAD, COMPILER)
    assert found is not None
    assert there.effort(found).trials == 3


def test_what_cannot_be_exchanged_is_refused(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "best.json"
    with pytest.raises(UsageError, match="has no records for such a CPU; `invoke tune` makes them"):
        exchange.export(database, file, COMPILER)
    with pytest.raises(
        UsageError, match=r"best\.json is no file; give one that `invoke tuning export` wrote"
    ):
        exchange.take_in(database, file, COMPILER)
    database.append([record(0, 900)])
    exchange.export(database, file, COMPILER)
    with pytest.raises(
        UsageError, match=r"is for CPUs of aarch64 4 32 .*, the target has aarch64 8 32; choose"
    ):
        exchange.take_in(database, file, replace(COMPILER, vector_lanes=8))
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({**whole, "tvm": "0.19.0"}))
    with pytest.raises(UsageError, match=r"was tuned with TVM 0\.19\.0, this is 0\.27"):
        exchange.take_in(database, file, COMPILER)
    best = whole["workloads"][WORKLOAD]
    for damaged in (
        "{",
        json.dumps([whole]),
        json.dumps({**whole, "more": 1}),
        json.dumps({**whole, "workloads": {"x": best}}),
        json.dumps({**whole, "workloads": {WORKLOAD: {**best, "median_ns": "1"}}}),
        json.dumps({**whole, "workloads": {WORKLOAD: {**best, "trials": 0}}}),
        json.dumps({**whole, "workloads": {WORKLOAD: {**best, "choice": 5}}}),
    ):
        file.write_text(damaged)
        with pytest.raises(StorageError, match=r"best\.json holds no records: .*; export it again"):
            exchange.take_in(database, file, COMPILER)


def test_the_digest_is_of_which_choice_each_workload_gets() -> None:
    one, two = record(1).choice, record(2).choice
    assert digest_choices({}) == ""
    assert digest_choices({WORKLOAD: one, OTHER: two}) == digest_choices({OTHER: two, WORKLOAD: one})
    found = [{WORKLOAD: one, OTHER: two}, {WORKLOAD: two, OTHER: one}, {WORKLOAD: one}, {OTHER: one}]
    assert len({digest_choices(each) for each in found}) == 4


def test_times_compare_only_for_one_compiler_and_one_tvm() -> None:
    ours = digest_of(COMPILER)
    assert digest_of(replace(COMPILER, int8_activations="other")) == ours
    assert digest_of(replace(COMPILER, mcpu="cortex-a72")) != ours
    assert digest_of(replace(COMPILER, l2_bytes=1)) != ours
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "tvm_version", lambda: "0.28")
        assert digest_of(COMPILER) != ours
