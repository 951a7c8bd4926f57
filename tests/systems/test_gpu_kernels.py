"""Single convolutions on a GPU, of shapes that are hard for it: what they compute, and where they write."""

from __future__ import annotations

import locale
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import s_tir, tirx

from dlas.algorithms import reference
from dlas.algorithms.convolution import Conv2d
from dlas.errors import BuildError
from dlas.hardware import targets
from dlas.hardware.device import LocalDevice
from dlas.systems import cubin, device_code, passes
from dlas.systems.export import export, generate
from dlas.systems.schedules import gpu, roles
from dlas.values import Job
from tests.systems.lowering import relax_conv2d

MALI, XAVIER, POCL = (targets.load(name) for name in ("hikey970_opencl", "xavier_cuda", "opencl_pocl"))
SAME = (1, 1, 1, 1)


@dataclass(frozen=True)
class Case:
    """density: of the nonzeros. shared: through shared memory, as on a Xavier."""

    name: str
    conv: Conv2d
    algorithm: str = "direct"
    format: str = "dense"
    schedule: str = "scheduled"
    precision: str = "fp32"
    density: float = 1.0
    shared: bool = False

    def weight(self) -> np.ndarray:
        rng, conv = np.random.default_rng(1), self.conv
        weight = rng.standard_normal((conv.CO, conv.CG, conv.KH, conv.KW)).astype("float32")
        return weight * (rng.random(weight.shape) < self.density)


ODD = Conv2d(2, 5, 9, 11, 20, 3, 3, stride=(2, 1), padding=(1, 0, 1, 0))
CASES = [
    Case("seven", Conv2d(1, 12, 7, 7, 20, 3, 3, padding=SAME), "direct", "ell", density=0.2),
    Case("seven_gemm", Conv2d(1, 12, 7, 7, 20, 3, 3, padding=SAME), "gemm", "ell", density=0.2),
    Case("seven_packed", Conv2d(1, 12, 7, 7, 20, 3, 3, padding=SAME), "spatial_pack", "ell", density=0.2),
    Case(
        "pruned_half",
        Conv2d(2, 8, 14, 10, 9, 5, 5, (2, 2), (2, 2, 2, 2)),
        "gemm",
        "ell",
        "scheduled",
        "fp16",
        0.1,
    ),
    Case("one_term", Conv2d(1, 8, 9, 9, 8, 1, 1), "direct", "ell", "minimal", density=0.05),
    Case("one_channel", Conv2d(1, 1, 9, 9, 8, 1, 1), "direct", schedule="minimal"),
    Case("depthwise", Conv2d(1, 6, 7, 5, 6, 1, 1, groups=6), schedule="minimal"),
    Case("odd", ODD, "direct"),
    Case("odd_half", ODD, "spatial_pack", precision="fp16"),
    Case("odd_shared", ODD, "direct", shared=True),
    Case("odd_gemm_shared", ODD, "gemm", shared=True),
    Case("odd_packed_shared", ODD, "spatial_pack", shared=True),
    Case("wide_shared", Conv2d(1, 64, 16, 40, 64, 3, 3, padding=SAME), shared=True),
    Case("point_shared", Conv2d(1, 512, 1, 1, 10, 1, 1), "gemm", shared=True),
    Case("dilated_shared", Conv2d(1, 6, 12, 12, 8, 3, 3, padding=(2, 2, 2, 2), dilation=(2, 2)), shared=True),
    Case("groups_shared", Conv2d(1, 12, 8, 8, 24, 3, 3, padding=SAME, groups=3), "spatial_pack", shared=True),
]


@pytest.mark.opencl
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_convolution_is_right(
    case: Case, pocl: LocalDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "SHARED", ("cuda", "opencl") if case.shared else ("cuda",))
    conv, weight = case.conv, case.weight()
    mod = relax_conv2d(conv, weight, "bias and relu")
    lowered, found = passes.lower(
        mod, case.algorithm, case.schedule, POCL.compiler, case.precision, case.format
    )
    assert (found.as_asked + found.depthwise, found.fallbacks) == (1, ())
    export(lowered, POCL.compiler, tmp_path / "model.so")
    x = np.random.default_rng(2).standard_normal((1, conv.N, conv.CI, conv.H, conv.W)).astype("float32")
    shape = (conv.N, conv.CO, conv.OH, conv.OW)
    job = Job(tmp_path / "model.so", x, shape, threads=1, repeats=0, warmups=0)
    output = pocl.run(replace(job, timeout_s=120)).outputs[0]
    bias = np.arange(conv.CO).reshape(1, -1, 1, 1) / conv.CO - 0.5
    expected = np.maximum(reference.conv2d(x[0], weight, conv) + bias, 0)
    assert np.abs(output - expected).max() < (2e-2 if case.precision == "fp16" else 1e-5) * expected.max()


def widest_writes(func: tirx.PrimFunc) -> list[tuple[str, int, int]]:
    """Of each axis of a block that indexes what it writes: the block, the axis's extent, and the array's."""
    sch, found = s_tir.Schedule(tvm.IRModule({"main": func})), []

    def visit(block: s_tir.schedule.SBlockRV) -> None:
        made = sch.get(block)
        extents = {axis.var: int(axis.dom.extent) for axis in made.iter_vars}
        for region in made.writes:
            for index, size in zip(region.region, region.source.shape, strict=True):
                if index.min in extents:
                    found.append((str(made.name_hint), extents[index.min], int(size)))

    for block in roles.blocks(sch):
        visit(block)
    return found


@pytest.mark.parametrize("schedule", ["minimal", "scheduled"])
@pytest.mark.parametrize("format", ["dense", "ell"])
@pytest.mark.parametrize("algorithm", passes.ALGORITHMS)
@pytest.mark.parametrize("target", [MALI, XAVIER], ids=lambda target: target.name)
def test_no_thread_writes_past_an_array(target: object, algorithm: str, format: str, schedule: str) -> None:
    for extent in (7, 14, 9, 1):
        conv = Conv2d(1, 16, extent, extent, 24, 3, 3, padding=SAME)
        weight = Case("", conv, density=0.1).weight()
        mod = relax_conv2d(conv, weight, "bias and relu")
        lowered, _ = passes.lower(mod, algorithm, schedule, target.compiler, format=format)
        writes = [
            each
            for func in lowered.functions.values()
            if isinstance(func, tirx.PrimFunc)
            for each in widest_writes(func)
        ]
        assert writes
        assert [each for each in writes if each[1] > each[2]] == []


@pytest.mark.parametrize("algorithm", passes.ALGORITHMS)
@pytest.mark.parametrize(
    "conv",
    [
        Conv2d(1, 3, 224, 224, 64, 16, 16, stride=(16, 16)),  # a patch embedding
        Conv2d(1, 3, 227, 227, 64, 11, 11, stride=(4, 4), padding=(2, 2, 2, 2)),  # the first of AlexNet
    ],
)
def test_large_filters_fit_the_shared_memory(conv: Conv2d, algorithm: str) -> None:
    mod = relax_conv2d(conv, np.ones((conv.CO, conv.CG, conv.KH, conv.KW), "float32"))
    lowered, found = passes.lower(mod, algorithm, "scheduled", XAVIER.compiler)
    generate(lowered, XAVIER.compiler)
    assert found.as_asked == 1


LAYERS = [
    Conv2d(1, 3, 224, 224, 64, 7, 7, stride=(2, 2), padding=(3, 3, 3, 3)),
    Conv2d(1, 64, 56, 56, 64, 3, 3, padding=SAME),
    Conv2d(1, 256, 56, 56, 64, 1, 1),
    Conv2d(1, 256, 56, 56, 128, 1, 1),
    Conv2d(1, 128, 56, 56, 128, 3, 3, stride=(2, 2), padding=SAME),
    Conv2d(1, 96, 56, 56, 24, 1, 1),
    Conv2d(1, 512, 7, 7, 2048, 1, 1),
]


@pytest.mark.parametrize("algorithm", passes.ALGORITHMS)
def test_no_kernel_of_a_large_map_spills(algorithm: str, assembled: list[cubin.Cubin]) -> None:
    for conv in LAYERS:
        mod = relax_conv2d(conv, np.ones((conv.CO, conv.CG, conv.KH, conv.KW), "float32"), "bias and relu")
        generate(passes.lower(mod, algorithm, "scheduled", XAVIER.compiler)[0], XAVIER.compiler)
    assert len(assembled) == len(LAYERS)
    for conv, made in zip(LAYERS, assembled, strict=True):
        assert set(re.findall(r"(\d+) bytes spill", made.log)) == {"0"}, conv


def test_compiling_for_cuda_leaves_the_locale() -> None:
    before = locale.getencoding()
    cubin.compile_cuda('extern "C" __global__ void f(float* x) { x[0] = 1; }', "sm_72")
    assert locale.getencoding() == before


def test_what_does_not_compile_is_said_by_its_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mod = relax_conv2d(ODD, np.ones((ODD.CO, ODD.CG, 3, 3), "float32"))
    lowered, _ = passes.lower(mod, "direct", "scheduled", XAVIER.compiler)
    real = device_code.compile_cuda
    monkeypatch.setattr(device_code, "compile_cuda", lambda source, arch: real(source + "\nnonsense;", arch))
    with pytest.raises(BuildError, match=r"^NVRTC does not compile for sm_72: kernels.cu\(\d+\): error: "):
        export(lowered, XAVIER.compiler, tmp_path / "model.so")
    assert not (tmp_path / "model.so").exists()


def test_arithmetic_in_float16_is_refused() -> None:
    head = "__kernel void f(__global half* restrict x, __global float* restrict y) {\n"
    with pytest.raises(BuildError, match="computes in float16: y"):
        device_code.finish_opencl(head + "  y[0] = x[0] + x[1];\n}\n")
