"""Filters fetched ahead: while one part of a filter is in use, the next one comes from memory.

A network's filters are larger than its caches, so each comes from memory once in each inference. Unasked, the
first tile that uses a part waits for it, and the others do not; asked for line by line, none of them does.
Where tiles are many, that first one is little, and asking costs more than it gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

MARK = "fetch_ahead"  # annotation of the loop over a block of a filter's input channels, inside those of taps
LINE_BYTES = 64
FLOAT32_BYTES = 4
_READ, _ALL_LEVELS, _DATA = 0, 3, 1  # arguments of LLVM's prefetch


def ahead(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with lines of the next part asked for before each loop that is marked, in equal shares.

    A marked loop is of a block over (part, N, channel block, tile row, tile column, ...) that reads its
    filter last: (channel block, CG/inner, KH, KW, inner, lanes), the parts one behind the other.
    """
    return func.with_body(_rewrite(func.body, ()))


def _rewrite(stmt: Any, around: tuple[Any, ...]) -> Any:
    """The statement with its marked loops rewritten; around: the variables of the loops that it is in."""
    if isinstance(stmt, SBlockRealize):
        return SBlockRealize(stmt.iter_values, stmt.predicate, _rewrite(stmt.block, around))
    if isinstance(stmt, SBlock):
        body = _rewrite(stmt.body, around)
        parts = (stmt.iter_vars, stmt.reads, stmt.writes, stmt.name_hint, body, stmt.init)
        return SBlock(*parts, stmt.alloc_buffers, stmt.match_buffers, stmt.annotations)
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_rewrite(each, around) for each in stmt.seq])
    if not isinstance(stmt, tirx.For):
        return stmt
    if MARK not in stmt.annotations:
        return _loop(stmt, _rewrite(stmt.body, (*around, stmt.loop_var)))
    return tirx.SeqStmt([*_requests(_innermost(stmt), around), _loop(stmt, stmt.body)])


def _loop(loop: tirx.For, body: Any) -> tirx.For:
    kept = {key: value for key, value in loop.annotations.items() if key != MARK}
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, kept)


def _requests(realized: SBlockRealize, around: Sequence[Any]) -> list[tirx.Stmt]:
    """Of lines, before one run of the loop, which reads one tap of a block of input channels.

    All such runs of a tile ask for neighbouring lines, and the next tile for those behind them.
    """
    filter_ = realized.block.reads[-1].source
    _, channel_blocks, height, width, inner, lanes = (int(extent) for extent in filter_.shape)
    part, _, o, y, x = realized.iter_values[:5]
    parts, _, _, down, across = (int(axis.dom.extent) for axis in realized.block.iter_vars[:5])
    ci, kh, kw = around[-3:]
    in_line, in_part = LINE_BYTES // FLOAT32_BYTES, channel_blocks // parts
    runs = in_part * height * width
    lines = runs * inner * lanes // in_line
    count = -(-lines // (runs * down * across))
    run = (ci * height + kh) * width + kw
    requests = []
    for number in range(count):
        line = ((y * across + x) * runs + run) * count + number
        # Behind the last part is the next channel block, and behind that nothing that is ever read. The index
        # runs over the filter as it lies in memory.
        place = [o, (part + 1) * in_part, 0, 0, 0, line * in_line]
        arguments = (tirx.address_of(tirx.BufferLoad(filter_, place)), _READ, _ALL_LEVELS, _DATA)
        requests.append(tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", *arguments)))
    return requests


def _innermost(stmt: Any) -> SBlockRealize:
    while not isinstance(stmt, SBlockRealize):
        stmt = stmt.body
    return stmt
