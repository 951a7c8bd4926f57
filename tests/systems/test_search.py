"""The design spaces and the search in them: real variants, compiled and compared with the oracle."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, s_tir
from tvm_ffi import structural_equal

from dlas.algorithms.convolution import Conv2d
from dlas.errors import ScheduleError
from dlas.systems import passes
from dlas.systems.autoschedule import candidate, search, space
from dlas.systems.autoschedule.workload import Choice, Workload, parse
from dlas.systems.export import generate
from dlas.values import Compiler
from tests.systems.lowering import AVX2, AVX512, NEON, relax_conv2d

PLAIN = Conv2d(1, 16, 10, 10, 32, 3, 3, padding=(1, 1, 1, 1))
LARGE = Conv2d(1, 128, 7, 7, 32, 3, 3, padding=(1, 1, 1, 1))  # its filter fills an L1 several times
POINTWISE = Conv2d(1, 32, 1, 49, 64, 1, 1)
DEPTHWISE = Conv2d(1, 32, 12, 12, 32, 3, 3, padding=(1, 1, 1, 1), groups=32)
WORKLOADS = [
    Workload(PLAIN, "direct", "blocked"),
    Workload(replace(PLAIN, CI=3), "direct", "blocked"),
    Workload(replace(PLAIN, stride=(2, 2)), "gemm", "blocked"),
    Workload(PLAIN, "spatial_pack", "blocked"),
    Workload(LARGE, "direct", "blocked"),
    Workload(replace(LARGE, stride=(2, 2)), "spatial_pack", "blocked"),
    Workload(POINTWISE, "direct", "blocked"),
    Workload(DEPTHWISE, "depthwise", "blocked"),
    Workload(PLAIN, "direct", "dense"),
    Workload(PLAIN, "gemm", "dense"),
    Workload(replace(PLAIN, stride=(2, 2)), "spatial_pack", "dense"),
    Workload(DEPTHWISE, "depthwise", "dense"),
    Workload(PLAIN, "direct", "csr_packed", 80),
    Workload(PLAIN, "gemm", "csr_packed", 80),
    Workload(PLAIN, "spatial_pack", "csr", 90),
]
IDS = [workload.id for workload in WORKLOADS]


def run(workload: Workload, choice: Choice, folder: Path) -> float:
    """The error of a variant over the scale of what it must compute."""
    candidate.prepare(workload, AVX2, folder)
    x, oracle = (np.load(folder / f"{name}.npy") for name in ("input", "oracle"))
    executable = generate(candidate.lower(workload, AVX2, choice), AVX2)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    output = machine["main"](tvm.runtime.tensor(x)).numpy()
    assert output.shape == oracle.shape
    return float(np.abs(output - oracle).max() / np.abs(oracle).max())


def timed(choices: list[Choice], seed: int = 0) -> list[tuple[Choice, int | None]]:
    """As if they had been measured; one in ten has failed."""
    noise = random.Random(seed)
    return [(each, None if noise.random() < 0.1 else noise.randint(10**5, 10**6)) for each in choices]


@pytest.mark.parametrize("workload", WORKLOADS, ids=IDS)
def test_variants_compute_what_the_oracle_does(workload: Workload, tmp_path: Path) -> None:
    found = space.structures(workload, AVX2)
    assert run(workload, space.HAND, tmp_path) < 1e-5
    for choice in random.Random(0).sample(found, min(4, len(found))):
        assert run(workload, choice, tmp_path) < 1e-5, choice


@pytest.mark.parametrize("workload", WORKLOADS, ids=IDS)
def test_a_search_begins_with_the_hand_schedule_and_never_repeats_itself(workload: Workload) -> None:
    history: list[tuple[Choice, int | None]] = []
    for batch in range(3):
        proposed = search.propose(workload, AVX2, history, 16)
        assert len(proposed) <= 16
        assert not {choice for choice, _ in history} & set(proposed)
        assert len(set(proposed)) == len(proposed)
        history += timed(proposed, batch)
    assert history[0][0] == space.HAND


@pytest.mark.parametrize("workload", [WORKLOADS[0], WORKLOADS[7], WORKLOADS[12]], ids=str)
def test_evolved_variants_are_of_the_best_structures_and_run(workload: Workload, tmp_path: Path) -> None:
    first = [space.HAND, *space.structures(workload, AVX2)]
    history: list[tuple[Choice, int | None]] = [(each, 10**6 - i) for i, each in enumerate(first)]
    evolved = search.propose(workload, AVX2, history, 8)
    assert evolved
    fastest = [choice for choice in reversed(first) if choice.decisions and space.count(workload, choice) > 1]
    followed = {choice.sketch for choice in fastest[: search.MOST]}
    assert {choice.sketch for choice in evolved} <= followed
    assert all(space.has_tasks(workload, choice) for choice in evolved)
    assert run(workload, evolved[0], tmp_path) < 1e-5
    assert run(workload, evolved[-1], tmp_path) < 1e-5


def test_a_proposal_depends_on_what_it_is_given_alone() -> None:
    workload = WORKLOADS[0]
    history = timed([space.HAND, *space.structures(workload, AVX2)])
    once = search.propose(workload, AVX2, history, 8)
    search.propose(WORKLOADS[6], AVX2, [], 8)
    assert search.propose(workload, AVX2, history, 8) == once
    assert search.propose(workload, AVX2, history[:-1], 8) != once


def test_a_space_without_samples_is_tried_once_and_then_exhausted() -> None:
    workload = Workload(DEPTHWISE, "depthwise", "dense")
    history = timed(search.propose(workload, AVX2, [], 100))
    assert len(history) == 1 + len(space.structures(workload, AVX2))
    assert search.propose(workload, AVX2, history, 100) == []


@pytest.mark.parametrize("workload", [WORKLOADS[0], WORKLOADS[4], WORKLOADS[8], WORKLOADS[12]], ids=str)
def test_a_structure_is_cut_as_its_decisions_say(workload: Workload) -> None:
    """What a record holds is all that it takes to schedule as the search did."""
    guess = space.structures(workload, AVX2)[0]
    sch = s_tir.Schedule(tvm.IRModule({"main": candidate.function(workload, AVX2, guess)}), seed=1)
    space.apply(sch, AVX2, guess, is_sampled=True)
    sampled = replace(guess, decisions=search._decisions(sch))
    assert [np.prod(each) for each in sampled.decisions] == [np.prod(each) for each in guess.decisions]
    again = s_tir.Schedule(tvm.IRModule({"main": candidate.function(workload, AVX2, guess)}))
    space.apply(again, AVX2, sampled)
    assert structural_equal(again.mod, sch.mod)


def test_a_tuned_network_has_what_was_chosen_and_the_hand_schedule_elsewhere() -> None:
    weight = np.ones((PLAIN.CO, PLAIN.CG, 3, 3), "float32")
    mod = relax_conv2d(PLAIN, weight, "bias and relu")
    [workload] = passes.list_workloads(mod, "direct", "dense", AVX2)
    assert workload == Workload(PLAIN, "direct", "dense")
    by_hand, none = passes.lower(mod, "direct", "scheduled", AVX2)
    choice = next(each for each in space.structures(workload, AVX2) if ("lanes", 32) in each.sketch)
    chosen, one = passes.lower(mod, "direct", passes.TUNED, AVX2, choices={workload.id: choice})
    assert (none.tuned, one.tuned) == (0, 1)
    assert not structural_equal(chosen, by_hand)
    without, nothing = passes.lower(mod, "direct", passes.TUNED, AVX2, choices={"another": choice})
    assert nothing.tuned == 0
    assert structural_equal(without, by_hand)
    hand, one = passes.lower(mod, "direct", passes.TUNED, AVX2, choices={workload.id: space.HAND})
    assert one.tuned == 1
    assert structural_equal(hand, by_hand)
    # A choice is for `tuned` alone: a scheduled cell must not have it without a word.
    assert passes.lower(mod, "direct", "scheduled", AVX2, choices={workload.id: choice})[1].tuned == 0


UNFIT = {
    "a cut of another extent": {"decisions": ((3, 5), (1, 1))},
    "an order that is none": {"order": "sideways"},
    "a stage that is none": {"staged": "never"},
    "parts in another order": {"order": "image", "parts": 2},
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_choice_that_does_not_fit_is_an_error(what: str) -> None:
    workload = WORKLOADS[0]
    guess = space.structures(workload, AVX2)[0]
    changes = dict(UNFIT[what])
    decisions = changes.pop("decisions", guess.decisions)
    unfit = Choice(tuple({**dict(guess.sketch), **changes}.items()), decisions)
    with pytest.raises(ScheduleError, match="does not apply"):
        candidate.lower(workload, AVX2, unfit)


@pytest.mark.parametrize("conv", [LARGE, replace(LARGE, H=28, W=28)], ids=["few places", "many places"])
def test_a_large_filter_is_summed_in_parts_and_the_next_is_fetched_for_few_places(conv: Conv2d) -> None:
    workload = Workload(conv, "direct", "blocked")
    in_parts = [each for each in space.structures(workload, AVX2) if "parts" in dict(each.sketch)]
    assert in_parts
    scripts = {
        choice: candidate.lower(workload, AVX2, choice).script() for choice in (space.HAND, in_parts[0])
    }
    is_few = conv.H == LARGE.H
    assert ("prefetch" in scripts[in_parts[0]]) == is_few
    assert ("direct_rf" in scripts[space.HAND], "prefetch" in scripts[space.HAND]) == (is_few, is_few)


@pytest.mark.parametrize("workload", [WORKLOADS[0], WORKLOADS[4], WORKLOADS[6], WORKLOADS[8]], ids=str)
def test_what_is_tried_first_has_work_for_several_threads(workload: Workload) -> None:
    assert all(space.has_tasks(workload, choice) for choice in space.structures(workload, AVX2))


def test_a_search_goes_on_while_any_structure_has_a_variant_left() -> None:
    """Those that are fastest are exhausted first: they have few."""
    workload = Workload(POINTWISE, "direct", "blocked")
    history = timed([space.HAND, *space.structures(workload, AVX2)])
    history = [(choice, taken or 10**6) for choice, taken in history]
    there = sum(space.count(workload, choice) for choice, _ in history if choice.decisions)
    while proposed := search.propose(workload, AVX2, history, 64):
        history += [(choice, 10**7) for choice in proposed]
    assert len(history) > 0.9 * there


@pytest.mark.parametrize("compiler", [AVX2, AVX512, NEON], ids=["avx2", "avx512", "neon"])
def test_tiles_leave_registers_for_what_they_multiply(compiler: Compiler) -> None:
    conv = Conv2d(1, 64, 28, 28, 64, 3, 3, padding=(1, 1, 1, 1))
    for choice in space.structures(Workload(conv, "direct", "blocked"), compiler):
        sketch = dict(choice.sketch)
        vectors = int(sketch["lanes"]) // compiler.vector_lanes
        assert vectors * (int(sketch["height"]) * int(sketch["width"]) + 1) < compiler.vector_registers


@pytest.mark.parametrize("workload", WORKLOADS, ids=IDS)
def test_the_name_of_a_workload_says_all_of_it(workload: Workload) -> None:
    assert parse(workload.id) == workload


@pytest.mark.parametrize(
    "text", ["", "direct", f"{IDS[0]}/z1", IDS[0].replace("16x", "0x", 1), IDS[0].replace("/g1", "/g")]
)
def test_what_names_no_workload_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no workload"):
        parse(text)
