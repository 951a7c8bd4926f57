"""Where the conversions of precision fp16 go: the blocks of role `widen` and `narrow` that half.py adds."""

from __future__ import annotations

from typing import Any, NamedTuple

from tvm import s_tir

from dlas.systems.schedules import roles


class Operands(NamedTuple):
    """The blocks that widen what a convolution's sum reads; None where it reads no float16."""

    data: Any | None
    filter: Any | None


def operands(sch: s_tir.Schedule, block: Any) -> Operands:
    """Of a block that sums a convolution, which reads its input first and its filter second."""
    return Operands(*(_widening(sch, region.source) for region in sch.get(block).reads[:2]))


def names(sch: s_tir.Schedule, convolutions: list[Any]) -> set[str]:
    """The names of all blocks that widen an operand of these convolutions."""
    pairs = (operands(sch, block) for block in convolutions)
    return {roles.name(sch, block) for pair in pairs for block in pair if block is not None}


def inline(sch: s_tir.Schedule, kept: set[str]) -> None:
    """Widen where a value is read, and round where it is written, but for the blocks kept by name.

    What a reduction writes, or another block reads too, is rounded by a block of its own.
    """
    for block in roles.find(sch, "widen"):
        if roles.name(sch, block) not in kept:
            sch.compute_inline(block)
    for block in roles.find(sch, "narrow"):
        (producer,) = sch.get_producers(block)
        if not roles.is_reduction(sch, producer) and len(sch.get_consumers(producer)) == 1:
            sch.reverse_compute_inline(block)


def _widening(sch: s_tir.Schedule, buffer: Any) -> Any | None:
    writers = roles.find(sch, "widen")
    return next((w for w in writers if sch.get(w).writes[0].source.same_as(buffer)), None)
