"""The code for Arm: the loops in which convolutions are computed keep their sums in registers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import tvm

from dlas.algorithms import runs
from dlas.algorithms.convolution import Conv2d, ceil_div
from dlas.algorithms.sparse import SparseTile
from dlas.systems import census, passes, sparse, tiles
from dlas.systems.export import generate
from dlas.systems.schedules import dots
from dlas.values import Compiler
from tests.systems.lowering import NEON, relax_conv2d
from tests.systems.quantizing import draw, relax_quantized

SAME = (1, 1, 1, 1)
CONVOLUTIONS = {
    "3x3": Conv2d(1, 64, 16, 16, 64, 3, 3, padding=SAME),
    "3x3 of 7x7": Conv2d(1, 64, 7, 7, 64, 3, 3, padding=SAME),
    "3x3 strided": Conv2d(1, 64, 16, 16, 64, 3, 3, stride=(2, 2), padding=SAME),
    "1x1": Conv2d(1, 64, 16, 16, 128, 1, 1),
}
DEPTHWISE = {
    "depthwise": Conv2d(1, 64, 16, 16, 64, 3, 3, padding=SAME, groups=64),
    "depthwise strided": Conv2d(1, 64, 16, 16, 64, 3, 3, stride=(2, 2), padding=SAME, groups=64),
}
PRECISIONS = ("fp32", "fp16", "int8")
KEPT = 4  # one of so many weights is no zero in a sparse kernel
BRANCHES = re.compile(r"b|b\.\w+|cbn?z|tbn?z|ret|br")
UNCONDITIONAL = {"b", "br", "ret"}


@dataclass(frozen=True)
class Kernel:
    """What one convolution is computed with."""

    conv: Conv2d
    algorithm: str
    precision: str = "fp32"
    format: str = "dense"

    @property
    def multiply_adds(self) -> set[str]:
        """The instructions that add to its sums; of floats, also the one that would do so one by one."""
        if self.precision != "int8":
            return {"fmla", "fmadd"}
        return {"smlal", "smlal2", "mla"} if self.conv.depthwise else {"sadalp"}

    @property
    def accumulators(self) -> int:
        """How many vectors of sums its tile has."""
        if self.precision == "int8":
            choose = tiles.choose_integer_depthwise if self.conv.depthwise else tiles.choose_integer
            tile = choose(self.conv, NEON, dots.NEON)
            return tile.lanes // dots.NEON.lanes * tile.height * tile.width
        if self.conv.depthwise:
            return runs.source(self.conv, tiles.choose_depthwise(self.conv, NEON), "direct").vectors
        if self.format != "dense":
            nonzeros, is_packed = np.count_nonzero(self.weight), self.format == "csr_packed"
            cut = sparse.choose_tile(self.conv, NEON, self.algorithm, nonzeros, is_packed)
            return cut.chains * runs.source(self.conv, cut, self.algorithm).vectors
        tile = tiles.choose(self.conv, NEON)
        return ceil_div(tile.lanes, NEON.vector_lanes) * tile.height * tile.width

    @property
    def weight(self) -> np.ndarray:
        weight = np.ones((self.conv.CO, self.conv.CG, self.conv.KH, self.conv.KW), "float32")
        if self.format != "dense":
            weight.reshape(-1)[np.arange(weight.size) % KEPT != 0] = 0
        return weight


KERNELS = {
    **{
        f"{shape}, {algorithm}, {precision}": Kernel(conv, algorithm, precision)
        for shape, conv in CONVOLUTIONS.items()
        for algorithm in passes.ALGORITHMS
        for precision in PRECISIONS
    },
    **{
        f"{shape}, {algorithm}, {format}": Kernel(conv, algorithm, format=format)
        for shape, conv in CONVOLUTIONS.items()
        for algorithm in passes.ALGORITHMS
        for format in ("csr", "csr_packed")
    },
    **{
        f"{shape}, {precision}": Kernel(conv, "direct", precision)
        for shape, conv in DEPTHWISE.items()
        for precision in PRECISIONS
    },
}
TOO_MANY_SUMS = 48


def assembly(kernel: Kernel, compiler: Compiler) -> str:
    """The code of the kernel, without that of other functions of its network."""
    if kernel.precision == "int8":
        mod = relax_quantized(draw(kernel.conv))
    else:
        mod = relax_conv2d(kernel.conv, kernel.weight, "bias and relu", between=kernel.precision == "fp16")
    lowered, _ = passes.lower(mod, kernel.algorithm, "scheduled", compiler, kernel.precision, kernel.format)
    (name,) = (name for name in census.called_functions(lowered) if re.search("conv2d|integer", name))
    return generate(tvm.IRModule({name: lowered[name]}), compiler).mod.inspect_source("s")


def opcode(instruction: str) -> str:
    return instruction.split()[0]


def functions(assembly: str) -> Iterator[list[str]]:
    """The labels and instructions of each function. Where x29 is made from sp, it is written as sp."""
    for name in re.findall(r"\.type\s+(\S+),@function", assembly):
        body = assembly.split(f"\n{name}:", 1)[1].split("\n\t.size", 1)[0]
        if re.search(r"(mov|add)\s+x29, sp", body):
            body = body.replace("[x29", "[sp")
        lines = (line.split("//")[0].strip() for line in body.splitlines())
        yield [line for line in lines if line and (line.endswith(":") or not line.startswith("."))]


def basic_blocks(function: list[str]) -> tuple[list[list[str]], list[set[int]]]:
    """The instructions of each block, and which blocks may follow it."""
    blocks: list[list[str]] = [[]]
    labels: dict[str, int] = {}
    for line in function:
        if line.endswith(":"):
            blocks.append([])
            labels[line[:-1]] = len(blocks) - 1
            continue
        blocks[-1].append(line)
        if BRANCHES.fullmatch(opcode(line)):
            blocks.append([])
    follow: list[set[int]] = []
    for i, block in enumerate(blocks):
        last = block[-1] if block else "nop"
        target = labels.get(last.split()[-1]) if BRANCHES.fullmatch(opcode(last)) else None
        falls = set() if opcode(last) in UNCONDITIONAL or i + 1 == len(blocks) else {i + 1}
        follow.append(falls if target is None else falls | {target})
    return blocks, follow


def natural_loops(follow: list[set[int]]) -> list[set[int]]:
    """The blocks of each loop: those from which one that branches back is reached before its head is."""
    loops: dict[int, set[int]] = defaultdict(set)
    for last, targets in enumerate(follow):
        for head in (target for target in targets if target <= last):
            body, waiting = {head}, [last]
            while waiting:
                block = waiting.pop()
                if block not in body:
                    body.add(block)
                    waiting.extend(i for i, after in enumerate(follow) if block in after)
            loops[head] |= body
    return [loop for loop in loops.values() if 0 not in loop]  # the entry is no part of a loop


def hot_loops(assembly: str, opcodes: Collection[str]) -> list[list[str]]:
    """The instructions of each innermost loop around those wanted, without those of loops inside it."""
    found = []
    for function in functions(assembly):
        blocks, follow = basic_blocks(function)
        loops = natural_loops(follow)
        around = [
            [loop for loop in loops if i in loop]
            for i, block in enumerate(blocks)
            if any(opcode(instruction) in opcodes for instruction in block)
        ]
        hot = {frozenset(min(nested, key=len)) for nested in around if nested}
        for loop in hot:
            inside = set[int]().union(*(other for other in loops if other < loop))
            found.append([line for i in sorted(loop - inside) for line in blocks[i]])
    return found


@cache
def hot_loops_of(kernel: Kernel) -> list[list[str]]:
    return hot_loops(assembly(kernel, NEON), kernel.multiply_adds)


def on_stack(loop: list[str]) -> list[str]:
    """The loads from the stack and stores to it."""
    return [instruction for instruction in loop if re.search(r"\[sp\b", instruction)]


def stores(loop: list[str]) -> list[str]:
    return [instruction for instruction in loop if instruction.startswith("st")]


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_the_hot_loop_adds_to_every_vector_of_sums(kernel: Kernel) -> None:
    counts = []
    for loop in hot_loops_of(kernel):
        sums = [instruction for instruction in loop if opcode(instruction) in kernel.multiply_adds]
        assert [instruction for instruction in sums if not re.search(r"\bv\d+\.4s,", instruction)] == []
        counts.append(len({instruction.split()[1] for instruction in sums}))
    assert max(counts, default=0) >= kernel.accumulators, counts


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_the_hot_loop_does_not_spill(kernel: Kernel) -> None:
    """A loop over what is summed stores nothing, and reads nothing from the stack.

    Depthwise, the loop may be one over whole tiles. It stores outputs, and reads constants of what is done
    with them.
    """
    loops = hot_loops_of(kernel)
    assert loops
    spilled = [on_stack(stores(loop)) if kernel.conv.depthwise else on_stack(loop) for loop in loops]
    assert spilled == [[] for _ in loops]
    if not kernel.conv.depthwise:
        assert [stores(loop) for loop in loops] == [[] for _ in loops]


@pytest.mark.parametrize(
    "name",
    [
        "1x1, direct, fp32",
        "3x3, gemm, fp16",
        "3x3 of 7x7, direct, int8",
        "3x3, direct, csr",
        "1x1, gemm, csr_packed",
    ],
)
def test_more_sums_than_registers_are_seen_to_spill(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "MAX_ACCUMULATORS", TOO_MANY_SUMS)
    tile = SparseTile(16, TOO_MANY_SUMS // 16 * NEON.vector_lanes, NEON.vector_lanes)
    monkeypatch.setattr(sparse, "choose_tile", lambda *_, **__: tile)
    kernel = KERNELS[name]
    loops = hot_loops(assembly(kernel, replace(NEON, vector_registers=64)), kernel.multiply_adds)
    assert any(on_stack(stores(loop)) for loop in loops)


NESTED = """
\t.type\tf,@function
f:
\tstp\td9, d8, [sp, #-16]!
.outer:
\tldr\tx9, [sp, #8]
\tmovi\tv0.2d, #0000000000000000
.inner:
\tldr\tq1, [x9], #16
\tcbz\tx9, .other
\tfmla\tv0.4s, v1.4s, v2.s[0]
\tb.ne\t.inner
\tstr\tq0, [x0]
\tcbnz\tx1, .outer
\tldp\td9, d8, [sp], #16
\tret
.other:
\tstr\tq0, [x29, #16]
\tb\t.inner
.end:
\t.size\tf, .end-f
"""


@pytest.mark.parametrize("sets_frame_pointer", [False, True])
def test_a_hot_loop_is_the_innermost_one_wherever_its_blocks_lie(sets_frame_pointer: bool) -> None:
    code = NESTED.replace(".outer:", "\tmov\tx29, sp\n.outer:", 1) if sets_frame_pointer else NESTED
    (loop,) = hot_loops(code, {"fmla"})
    assert [opcode(instruction) for instruction in loop] == ["ldr", "cbz", "fmla", "b.ne", "str", "b"]
    assert len(stores(loop)) == 1
    assert on_stack(loop) == (stores(loop) if sets_frame_pointer else [])


def test_a_loop_around_a_loop_is_without_it() -> None:
    (loop,) = hot_loops(NESTED, {"movi"})
    assert [opcode(instruction) for instruction in loop] == ["ldr", "movi", "str", "cbnz"]
    assert on_stack(loop) == ["ldr\tx9, [sp, #8]"]
