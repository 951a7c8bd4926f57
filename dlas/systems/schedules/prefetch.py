"""Filters fetched ahead: while a channel block is computed, the next one's filter comes from memory.

A network's filters are larger than its caches, so each comes from memory once in each inference. Unasked, the
first tile of a channel block waits for it and the others do not; asked for line by line, none of them does.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

MARK = "prefetch"  # annotation of the loop over a block of a filter's input channels, inside those of taps
LINE_BYTES = 64
FLOAT32_BYTES = 4
_READ, _ALL_LEVELS, _DATA = 0, 3, 1  # arguments of LLVM's prefetch


def fetch_ahead(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with lines of the next filter asked for before each loop that is marked.

    As many lines as make a whole filter while all tiles of this one are computed.
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
    if MARK in stmt.annotations:
        steps = [*_requests(stmt, around), _loop(stmt, stmt.body)]
        return tirx.SeqStmt(steps) if len(steps) > 1 else steps[0]
    return _loop(stmt, _rewrite(stmt.body, (*around, stmt.loop_var)))


def _loop(loop: tirx.For, body: Any) -> tirx.For:
    kept = {key: value for key, value in loop.annotations.items() if key != MARK}
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, kept)


def _requests(loop: tirx.For, around: tuple[Any, ...]) -> list[tirx.Stmt]:
    """Of the lines to ask for before one run of the loop: it reads one tap of a block of input channels."""
    realized = _innermost(loop)
    filter_ = realized.block.reads[-1].source
    *_, channels, lanes = (int(extent) for extent in filter_.shape)
    _, o, y, x = realized.iter_values[:4]
    down, across = (int(axis.dom.extent) for axis in realized.block.iter_vars[2:4])
    if down * across == 1:
        return []  # the next filter is asked for soon enough by the next tile, and it is all of the time
    lines = max(1, channels * lanes * FLOAT32_BYTES // LINE_BYTES)
    count = -(-lines // (down * across))
    requests = []
    for number in range(count):
        line = tirx.floormod((y * across + x) * count + number, lines)
        channel, lane = _split(line * (LINE_BYTES // FLOAT32_BYTES), lanes)
        element = tirx.BufferLoad(
            filter_, [o + 1, *around[-3:], channel, lane]
        )  # behind the last: never read
        arguments = (tirx.address_of(element), _READ, _ALL_LEVELS, _DATA)
        requests.append(tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", *arguments)))
    return requests


def _split(number: Any, extent: int) -> tuple[Any, Any]:
    return tirx.floordiv(number, extent), tirx.floormod(number, extent)


def _innermost(stmt: Any) -> SBlockRealize:
    while not isinstance(stmt, SBlockRealize):
        stmt = stmt.body
    return stmt
