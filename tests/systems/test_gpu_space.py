"""The design space for GPUs: its candidates are valid, differ, are exact, and become source."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
import tvm
from tvm import relax, s_tir, te, tirx

from dlas.algorithms import ell, reference, sparse
from dlas.algorithms.convolution import Conv2d
from dlas.algorithms.csr import pack_csr
from dlas.algorithms.ell import Ell, pack_ell
from dlas.algorithms.runs import RunTile
from dlas.algorithms.sparse import SparseTile
from dlas.errors import BuildError, ScheduleError
from dlas.hardware import targets
from dlas.systems import codegen
from dlas.systems.autoschedule import gpu
from dlas.systems.codegen import llvm_target
from tests.algorithms.test_convolutions import assert_close
from tests.systems.lowering import AVX2

GPUS = ("hikey970_opencl", "xavier_cuda")
LAYER = Conv2d(1, 64, 32, 32, 64, 3, 3, padding=(1, 1, 1, 1))
SMALL = Conv2d(1, 6, 9, 7, 10, 3, 3, (2, 1), (1, 1, 1, 1))
TILES = {"direct": None, "gemm": None, "spatial_pack": RunTile(4, 4, 1)}


def target(name: str) -> tvm.target.Target:
    return codegen.gpu_target(targets.load(name).compiler)


@cache
def pruned(conv: Conv2d, buckets: int) -> tuple[Ell, np.ndarray]:
    """A filter of which nine tenths are zero, and its first row; packed, and whole."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((conv.CO, conv.CG, conv.KH, conv.KW), dtype="float32")
    weight[rng.random(weight.shape) < 0.9] = 0
    weight[0] = 0
    return pack_ell(pack_csr(weight), buckets), weight


@cache
def draw(name: str, buckets: int, algorithm: str = "direct") -> list[s_tir.Schedule]:
    packed, _ = pruned(LAYER, buckets)
    function = ell.conv2d(packed, LAYER, algorithm, TILES[algorithm])
    return gpu.candidates(function, target(name), count=8, seed=1)


def run_serially(mod: tvm.IRModule, out: tuple[int, ...], *inputs: np.ndarray) -> np.ndarray:
    """What a scheduled function computes, thread after thread on this CPU: none waits for another."""
    loop = r'T\.thread_binding\((.+), thread="[\w.]+"(, annotations=.*)?\):'
    script, threads = re.subn(loop, r"range(\1):", mod.script())
    assert threads
    built = tvm.compile(tvm.script.from_source(script), llvm_target(AVX2))
    result = tvm.runtime.tensor(np.full(out, np.nan, "float32"))
    built["main"](*map(tvm.runtime.tensor, inputs), result)
    return result.numpy()


@pytest.mark.parametrize(("algorithm", "count"), [("direct", 8), ("gemm", 2), ("spatial_pack", 2)])
@pytest.mark.parametrize("name", GPUS)
def test_candidates_are_many_and_become_source(name: str, algorithm: str, count: int) -> None:
    drawn = draw(name, 3, algorithm)
    assert len({candidate.mod.script() for candidate in drawn}) == 8
    for candidate in drawn[:count]:
        source = gpu.compile_source(candidate.mod, target(name))
        _, *kernels = re.split(r"(?:__kernel|__global__) void .*\) {\n", source)
        assert len(kernels) == 5  # what pads or packs, three sums, the output
        assert "indptr" not in source
        for kernel in kernels:
            ends = re.findall(r"for \(\w+ (\w+) = .*?; \1 < (.*?);", kernel)
            assert all(end.isdigit() for _, end in ends), ends
            assert not re.search(r"long|int64_t", kernel)  # indices of 64 bits are slow on a GPU


@pytest.mark.parametrize(("algorithm", "buckets"), [("direct", 3), ("gemm", 1), ("spatial_pack", 2)])
@pytest.mark.parametrize("name", GPUS)
def test_candidates_compute_what_the_oracle_does(name: str, algorithm: str, buckets: int) -> None:
    packed, weight = pruned(SMALL, buckets)
    x = np.random.default_rng(1).standard_normal((1, SMALL.CI, SMALL.H, SMALL.W), dtype="float32")
    function = ell.conv2d(packed, SMALL, algorithm, TILES[algorithm])
    inputs = (x, *ell.arrays(packed, SMALL, algorithm, TILES[algorithm]))
    drawn = gpu.candidates(function, target(name), count=2, seed=1)
    assert len(drawn) == 2
    for candidate in drawn:
        actual = run_serially(candidate.mod, (1, SMALL.CO, SMALL.OH, SMALL.OW), *inputs)
        assert_close(actual, reference.conv2d(x, weight, SMALL))


@cache
def fuse(buckets: int) -> tirx.PrimFunc:
    """A convolution with a bias and a ReLU, as it stands in a network; takes x, the filter, the bias."""
    packed, _ = pruned(SMALL, buckets)
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, SMALL.CI, SMALL.H, SMALL.W), "float32"))
    bias = relax.Var("bias", relax.TensorType((1, SMALL.CO, 1, 1), "float32"))
    with builder.function("main", [x, bias]):
        with builder.dataflow():
            kernel = builder.add_func(
                ell.conv2d(packed, SMALL, "direct").without_attr("global_symbol"), "ell"
            )
            arguments = [x, *map(relax.const, ell.arrays(packed, SMALL, "direct"))]
            shape = relax.TensorType((1, SMALL.CO, SMALL.OH, SMALL.OW), "float32")
            y = builder.emit(relax.call_tir(kernel, arguments, shape))
            out = builder.emit_output(builder.emit(relax.op.nn.relu(builder.emit(relax.op.add(y, bias)))))
        builder.emit_func_output(out)
    transform = relax.transform
    steps = [
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FuseOps(),
        transform.FuseTIR(),
    ]
    mod = transform.DeadCodeElimination()(tvm.transform.Sequential(steps)(builder.get()))
    (fused,) = (func for _, func in mod.functions_items() if isinstance(func, tirx.PrimFunc))
    return fused


@pytest.mark.parametrize(("buckets", "kernels"), [(1, 2), (3, 5)])
def test_what_follows_costs_no_kernel(buckets: int, kernels: int) -> None:
    """Of one bucket not even the order of the channels does."""
    packed, weight = pruned(SMALL, buckets)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, SMALL.CI, SMALL.H, SMALL.W), dtype="float32")
    bias = rng.standard_normal((1, SMALL.CO, 1, 1), dtype="float32")
    candidate, *_ = gpu.candidates(fuse(buckets), target("xavier_cuda"), count=1, seed=1)
    source = gpu.compile_source(candidate.mod, target("xavier_cuda"))
    assert len(set(re.findall(r"\b(main_kernel\w*)\(", source))) == kernels
    inputs = (x, *ell.arrays(packed, SMALL, "direct"), bias)
    actual = run_serially(candidate.mod, (1, SMALL.CO, SMALL.OH, SMALL.OW), *inputs)
    assert_close(actual, np.maximum(reference.conv2d(x, weight, SMALL) + bias, 0))


def test_no_thread_of_a_sum_is_outside_of_it() -> None:
    """TVM loses the condition of a part of a block, and what is outside writes to other arrays."""
    for candidate in draw("hikey970_opencl", 3):
        for line in candidate.mod.script().split('T.sblock("ell_direct_')[1:]:
            assert "T.where" not in line.partition("T.sblock")[0]


def test_a_seed_names_its_candidates() -> None:
    packed, _ = pruned(SMALL, 2)
    function = ell.conv2d(packed, SMALL, "direct")
    one, same, other = (
        [each.mod.script() for each in gpu.candidates(function, target("xavier_cuda"), 3, seed)]
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_a_function_that_sums_nothing_sparsely_is_refused() -> None:
    x = te.placeholder((4, 4), name="x")
    function = te.create_prim_func([x, te.compute((4, 4), lambda i, j: x[i, j] + 1.0)])
    with pytest.raises(ScheduleError, match="no block of role sparse"):
        gpu.candidates(function, target("xavier_cuda"), 2, 1)


def test_loops_over_indptr_have_no_candidate() -> None:
    csr, conv = pack_csr(np.ones((2, 1, 1, 1), "float32")), Conv2d(1, 1, 2, 2, 2, 1, 1)
    function = sparse.conv2d(csr, conv, SparseTile(2, 2, 1), "direct")
    with pytest.raises(ScheduleError, match="design space"):
        gpu.candidates(function, target("hikey970_opencl"), 1, 1)


def test_what_is_no_gpu_or_has_no_threads_is_refused() -> None:
    with pytest.raises(ScheduleError, match="llvm compiles for no GPU"):
        codegen.gpu_target(AVX2)
    packed, _ = pruned(SMALL, 1)
    unscheduled = tvm.IRModule({"main": ell.conv2d(packed, SMALL, "direct")})
    with pytest.raises(BuildError, match="nothing is bound to threads"):
        gpu.compile_source(unscheduled, target("xavier_cuda"))


def test_targets_know_their_device_and_host() -> None:
    cuda, opencl = target("xavier_cuda"), target("hikey970_opencl")
    assert (cuda.kind.name, cuda.attrs["arch"], str(cuda.host.attrs["mcpu"])) == ("cuda", "sm_72", "carmel")
    assert (opencl.kind.name, opencl.attrs["max_threads_per_block"]) == ("opencl", 128)
