"""The records that ship: each is one that the spaces still know, and still computes what it should."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from dlas.systems.autoschedule import compact, space
from dlas.systems.autoschedule.workload import Choice, parse
from tests.systems.lowering import AVX2
from tests.systems.test_search import run

FILES = sorted(compact.FOLDER.glob("*.json"))
SHIPPED = {
    (path.stem, workload): best.choice
    for path in FILES
    for workload, best in compact.read(path).workloads.items()
}
SAMPLE = sorted(random.Random(0).sample(sorted(SHIPPED), 16))  # to compile all takes minutes
CIFAR = "direct/blocked/1x64x32x32/64x3x3/s1x1/p1x1x1x1/d1x1/g1/z0"  # the commonest convolution of all


def test_records_ship_for_the_networks_that_benchmarks_name() -> None:
    assert ("x86_64_avx2", CIFAR) in SHIPPED
    assert len(SHIPPED) > 100
    assert sum(path.stat().st_size for path in FILES) < 500_000


@pytest.mark.parametrize("key", sorted(SHIPPED), ids=lambda key: key[1])
def test_a_record_is_of_a_structure_that_there_is(key: tuple[str, str]) -> None:
    choice, workload = SHIPPED[key], parse(key[1])
    if choice == space.HAND:
        return
    there = {each.sketch: each for each in space.structures(workload, AVX2)}
    assert choice.sketch in there
    cuts = [math.prod(each) for each in choice.decisions]
    assert cuts == [math.prod(each) for each in there[choice.sketch].decisions]
    assert space.has_tasks(workload, choice)


@pytest.mark.parametrize("key", [*SAMPLE, ("x86_64_avx2", CIFAR)], ids=lambda key: key[1])
def test_a_record_still_computes_what_the_oracle_does(key: tuple[str, str], tmp_path: Path) -> None:
    choice: Choice = SHIPPED[key]
    assert run(parse(key[1]), choice, tmp_path) < 1e-5
