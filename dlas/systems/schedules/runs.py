"""Steps that schedules of runs share (`dlas.algorithms.runs`): how images are filled and tiles computed."""

from __future__ import annotations

from typing import Any

from tvm import s_tir

from dlas.systems.schedules import roles, scheduled

LONGEST_ROW = 64  # elements that are copied without a loop


def cut(sch: s_tir.Schedule, block: Any, output: Any) -> tuple[Any, Any, Any, Any]:
    """Cut the NCHW output into a block's tiles; returns the loops n, o, and over rows and columns of tiles.

    Inside them is what is left of an output: a tile of one channel.
    """
    height, width = (int(sch.get(block).annotations[key]) for key in ("height", "width"))
    n, o, h, w = sch.get_loops(output)
    h, row = sch.split(h, [None, height])
    w, column = sch.split(w, [None, width])
    sch.reorder(n, o, h, w, row, column)
    without_loop(sch, column)
    return n, o, h, w


def pad(sch: s_tir.Schedule, padded: Any, task: Any | None = None) -> None:
    """Fill padded channels, each inside the loop of a task, or all of them before."""
    if task is None:
        scheduled.parallelize(sch, padded, sch.get_loops(padded)[:2], inner=_operations(sch, padded))
    else:
        sch.compute_at(padded, task, preserve_unit_loops=True)
    for step in steps(sch, padded):
        if roles.role(sch, step) == "copy":
            # So LLVM makes vectors of a row's loop, and sees that the planes are interleaved.
            a, b, row, column = sch.get_loops(step)
            sch.reorder(a, row, column, b)
            sch.unroll(b)


def copy(sch: s_tir.Schedule, packed: Any, task: Any | None = None) -> None:
    """Fill the sources of tiles, each inside the loop of a task, or all of them before."""
    if task is not None:
        sch.compute_at(packed, task, preserve_unit_loops=True)
    *outer, element = sch.get_loops(packed)
    *rows, column = sch.split(element, [int(extent) for extent in sch.get(packed).annotations["loops"]])
    if task is None:
        scheduled.parallelize(sch, packed, [*outer, *rows])
    without_loop(sch, column)


def without_loop(sch: s_tir.Schedule, column: Any) -> None:
    """Let neighbours be one vector, as long as that is code of a sensible size; else LLVM makes a loop."""
    if roles.extent(sch, column) <= LONGEST_ROW:
        sch.vectorize(column)


def compute(sch: s_tir.Schedule, step: Any, vector_lanes: int) -> None:
    """Compute a tile in vectors, each by an instruction of its own, so that its sums stay in registers."""
    *unrolled, last = sch.get_loops(step)
    vectors, last = sch.split(last, [None, min(vector_lanes, roles.extent(sch, last))])
    sch.vectorize(last)
    for loop in (*unrolled, vectors):
        sch.unroll(loop)


def steps(sch: s_tir.Schedule, block: Any) -> list[Any]:
    """The innermost blocks inside a block, in order."""
    inner = sch.get_child_blocks(block)
    return [step for each in inner for step in steps(sch, each)] if inner else [block]


def _operations(sch: s_tir.Schedule, block: Any) -> int:
    """How many elements one run of a block computes."""
    return sum(roles.trips(sch, sch.get_loops(step)) for step in steps(sch, block))
