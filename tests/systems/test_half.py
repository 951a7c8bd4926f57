"""Precision fp16: what lies in memory is float16, what is computed is float32, and conversions are few."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from torch import Tensor, nn
from torch.nn import functional as F
from tvm import relax, s_tir

from dlas.algorithms.convolution import Conv2d
from dlas.errors import ModelError
from dlas.systems import census, passes
from dlas.systems.codegen import llvm_target
from dlas.systems.export import export, generate
from dlas.systems.frontend import to_relax
from dlas.systems.schedules import roles
from dlas.values import Compiler
from tests.networks import tiny
from tests.systems.lowering import AVX2, AVX512, NEON, relax_conv2d

SHAPE = (1, 8, 8, 8)
TOLERANCE = 4e-3  # of the outputs' scale: a few roundings to float16


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Everything(nn.Module):
    """Each kind of operator that the networks have, and a few that they might."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Conv2d(8, 12, 3, padding=1, stride=2)
        self.pointwise = nn.Conv2d(12, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.grouped = nn.Conv2d(24, 16, 3, padding=1, groups=2)
        self.linear = nn.Linear(16 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.first(F.relu(self.norm(x))))
        gate = torch.sigmoid(F.silu(self.pointwise(x)).mean((2, 3), keepdim=True))
        x = torch.cat([x * gate + x, self.depthwise(x)], 1)
        a, b = self.grouped(x).chunk(2, 1)
        x = torch.cat([b, F.avg_pool2d(a, 3, 1, 1)], 1)
        return torch.softmax(self.linear(F.max_pool2d(x, 2).flatten(1)), -1)


class Flat(nn.Module):
    """A network that returns a view of what a kernel wrote."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x).transpose(1, 2).flatten(1)


class Large(nn.Module):
    """Element-wise steps whose inner results are beyond float16."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x * 60000.0 * 60000.0 / 3.6e9, 2)


class Loud(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        nn.init.constant_(self.linear.weight, value)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


def operand(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, "float32")


def lowered(module: nn.Module, x: np.ndarray, schedule: str = "scheduled", compiler: Compiler = AVX2) -> Any:
    torch.manual_seed(0)
    return passes.lower(to_relax(module.eval(), x), "spatial_pack", schedule, compiler, "fp16")[0]


@pytest.fixture(scope="module")
def everything() -> tvm.IRModule:
    return lowered(Everything(), operand())


def calls(mod: tvm.IRModule) -> list[relax.Call]:
    """The calls of kernels in main, in order."""
    bindings = [binding for block in mod["main"].body.blocks for binding in block.bindings]
    values = [binding.value for binding in bindings if isinstance(binding.value, relax.Call)]
    return [value for value in values if value.op == tvm.ir.Op.get("relax.call_tir")]


def kinds(types: Any) -> set[str]:
    return {str(kind.dtype) for kind in types}


@pytest.mark.parametrize("schedule", passes.SCHEDULES)
@pytest.mark.parametrize("module", [Everything(), Flat(), Large()], ids=lambda m: type(m).__name__)
def test_a_network_computes_what_pytorch_does(module: nn.Module, schedule: str) -> None:
    x = operand()
    main = relax.VirtualMachine(generate(lowered(module, x, schedule), AVX2), tvm.cpu())["main"]
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    actual = main(tvm.runtime.tensor(x)).numpy()
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_what_kernels_pass_to_each_other_is_half(everything: tvm.IRModule) -> None:
    first, *others = calls(everything)
    data, *weights = first.args[1].fields
    assert kinds([data.ty]) == {"float32"}
    assert kinds(weight.ty for weight in weights) <= {"float16"}
    *between, last = [first, *others]
    assert kinds(last.ty_args) == {"float32"}
    for call in others:
        assert kinds(argument.ty for argument in call.args[1].fields) == {"float16"}
    for call in between:
        results = call.ty_args[0]
        assert kinds(results.fields if isinstance(results, relax.TupleType) else [results]) == {"float16"}


def test_inside_a_kernel_nothing_but_arguments_is_half(everything: tvm.IRModule) -> None:
    for func in everything.functions.values():
        if isinstance(func, tvm.tirx.PrimFunc) and "reshape" not in str(func.attrs["global_symbol"]):
            sch = s_tir.Schedule(tvm.IRModule({"main": func}))
            allocated = sch.get(sch.get_sblock("root")).alloc_buffers
            assert {str(buffer.dtype) for buffer in allocated} <= {"float32"}


CONV = Conv2d(1, 4, 12, 12, 2048, 3, 3, padding=(1, 1, 1, 1))
COMPILERS = {
    "filter in the cache": AVX512,
    "filter larger than the cache": replace(AVX512, l2_bytes=1 << 12),
    "neon": NEON,
}


def kernel(conv: Conv2d, algorithm: str, compiler: Compiler) -> tvm.tirx.PrimFunc:
    """The scheduled kernel of one convolution that is neither the first kernel nor the last."""
    weight = np.ones((conv.CO, conv.CG, conv.KH, conv.KW), "float32")
    mod = relax_conv2d(conv, weight, between=True)
    mod, _ = passes.lower(mod, algorithm, "scheduled", compiler, "fp16")
    (name,) = (name for name in census.called_functions(mod) if "conv2d" in name)
    return mod[name]


def sum_and_conversions(func: tvm.tirx.PrimFunc) -> tuple[s_tir.Schedule, Any, list[Any]]:
    """The block that adds products up, and those that widen."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    (update,) = (block for block in roles.blocks(sch) if roles.name(sch, block).endswith("_update"))
    return sch, update, roles.find(sch, "widen")


def read(sch: s_tir.Schedule, block: Any) -> list[str]:
    return [str(region.source.dtype) for region in sch.get(block).reads]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("algorithm", passes.ALGORITHMS)
def test_each_filter_value_is_widened_once(algorithm: str, compiler: str) -> None:
    sch, update, (widen,) = sum_and_conversions(kernel(CONV, algorithm, COMPILERS[compiler]))
    times = prod(roles.extent(sch, loop) for loop in sch.get_loops(widen))
    assert times == CONV.CO * CONV.CG * CONV.KH * CONV.KW
    assert set(read(sch, update)) == {"float32"}
    # Of a large filter, each channel block next to where it is read, outside the loop over tiles.
    loops = [[sch.get(loop).loop_var for loop in sch.get_loops(block)] for block in (widen, update)]
    shared = [one.same_as(other) for one, other in zip(*loops, strict=False)]
    assert sum(shared) == shared[0] == (compiler == "filter larger than the cache")


def test_a_filter_that_is_read_once_is_widened_there() -> None:
    sch, update, conversions = sum_and_conversions(kernel(replace(CONV, H=4, W=4), "gemm", AVX512))
    assert conversions == []
    assert read(sch, update) == ["float32", "float32", "float16"]


@pytest.mark.parametrize("algorithm", passes.ALGORITHMS)
def test_the_input_is_widened_once(algorithm: str) -> None:
    pointwise = Conv2d(1, 16, 12, 12, 64, 1, 1)
    sch, update, conversions = sum_and_conversions(kernel(pointwise, algorithm, AVX512))
    assert set(read(sch, update)) == {"float32"}
    # Where nothing is packed, a block of its own does it.
    assert len(conversions) == (2 if algorithm == "direct" else 1)
    for block in roles.find(sch, "pack"):
        assert read(sch, block) == ["float16"]


@pytest.mark.parametrize(
    ("compiler", "widening", "rounding"),
    [(AVX512, ("vcvtph2ps", "zmm"), "vcvtps2ph"), (NEON, ("fcvtl", ".4s"), "fcvtn")],
    ids=["avx512", "neon"],
)
def test_conversions_are_vectors(compiler: Compiler, widening: tuple[str, str], rounding: str) -> None:
    target = llvm_target(compiler)
    mod = tvm.IRModule({"main": kernel(CONV, "spatial_pack", compiler)})
    with target, tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        lines = tvm.compile(mod, target).mod.inspect_source("s").splitlines()
    assert any(all(word in line for word in widening) for line in lines)
    assert any(rounding in line for line in lines)
    branches = [line for line in lines if line.split()[:1] in (["callq"], ["jmp"], ["bl"], ["b"])]
    assert not any(name in line for line in branches for name in ("__extendhfsf2", "__truncsfhf2"))


@pytest.mark.parametrize(
    "compiler", [AVX2, pytest.param(NEON, marks=pytest.mark.aarch64)], ids=["x86", "arm"]
)
def test_the_library_needs_no_more_than_that_of_fp32(compiler: Compiler, tmp_path: Path) -> None:
    mod = to_relax(tiny().eval(), operand((1, 3, 16, 16)))
    needed = {}
    for precision in ("fp32", "fp16"):
        path = tmp_path / f"{precision}.so"
        export(passes.lower(mod, "gemm", "scheduled", compiler, precision)[0], compiler, path)
        command = ["nm", "--dynamic", "--undefined-only", "--format=just-symbols", str(path)]
        listed = subprocess.run(command, capture_output=True, text=True, check=True)
        needed[precision] = set(listed.stdout.split())
    assert needed["fp32"]
    assert needed["fp16"] <= needed["fp32"]


@pytest.mark.parametrize("value", [65520.0, -1e20])
def test_a_weight_beyond_half_is_refused(value: float) -> None:
    words = f"a weight is as large as {abs(value):g}, and float16 ends at 65504; use precision fp32"
    with pytest.raises(ModelError, match=re.escape(words)):
        lowered(Loud(value), operand((1, 8)))


def test_the_largest_weight_is_kept() -> None:
    (call,) = calls(lowered(Loud(65519.0), operand((1, 8))))
    stored = call.args[1].fields[1].value.numpy()
    assert stored.dtype == np.float16
    assert stored.max() == 65504
