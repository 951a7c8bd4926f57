"""Finding the blocks of a function by the part they play, and what there is to know of one."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import s_tir

SPATIAL = 0  # tvm.tirx.IterVar.DataPar
CONVOLUTION_ROLES = ("accumulate", "depthwise", "depthwise_blocked", "sparse")
TILE_AXES = 4  # the leading axes of an accumulating block: N, channel block, tile row, tile column


def blocks(sch: s_tir.Schedule) -> list[Any]:
    """The function's blocks, in order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def role(sch: s_tir.Schedule, block: Any) -> str:
    """The role that dlas.algorithms gave a block, or an empty string."""
    return str(sch.get(block).annotations.get("role", ""))


def find(sch: s_tir.Schedule, *wanted: str) -> list[Any]:
    """The blocks of the wanted roles, in order."""
    return [block for block in blocks(sch) if role(sch, block) in wanted]


def name(sch: s_tir.Schedule, block: Any) -> str:
    return str(sch.get(block).name_hint)


def extent(sch: s_tir.Schedule, loop: Any) -> int:
    return int(sch.get(loop).extent)


def trips(sch: s_tir.Schedule, loops: list[Any]) -> int:
    """How often the body of these nested loops runs."""
    return prod(extent(sch, loop) for loop in loops)


def extents(sch: s_tir.Schedule, block: Any) -> list[int]:
    """Of all axes of a block."""
    return [int(axis.dom.extent) for axis in sch.get(block).iter_vars]


def sum_extents(sch: s_tir.Schedule, block: Any) -> list[int]:
    """Of the axes that a block sums over, its last ones."""
    axes = sch.get(block).iter_vars
    return [int(axis.dom.extent) for axis in axes if int(axis.iter_type) != SPATIAL]


def tile_extents(sch: s_tir.Schedule, block: Any) -> list[int]:
    """Of the axes that run over the outputs of one tile of a convolution."""
    found = extents(sch, block)
    return found[TILE_AXES : len(found) - len(sum_extents(sch, block))]


def spatial_loops(sch: s_tir.Schedule, block: Any) -> list[Any]:
    """The loops over a block's leading spatial axes; a reduction's own loops come after them."""
    loops, axes = sch.get_loops(block), sch.get(block).iter_vars
    count = 0
    while count < len(loops) and int(axes[count].iter_type) == SPATIAL:
        count += 1
    return list(loops[:count])


def is_reduction(sch: s_tir.Schedule, block: Any) -> bool:
    return any(int(axis.iter_type) != SPATIAL for axis in sch.get(block).iter_vars)


def is_output(sch: s_tir.Schedule, block: Any) -> bool:
    outputs = sch.get_output_blocks(sch.get_sblock("root"))
    return name(sch, block) in {name(sch, output) for output in outputs}
