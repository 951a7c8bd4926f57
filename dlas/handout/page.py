"""What the pages of a handout say: the words and numbers that its templates have places for."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlas.errors import DataError
from dlas.handout.measured import Measured
from dlas.hardware import elf, wheels
from dlas.measurement.measure import TOLERANCE
from dlas.results.statistics import proportion_interval
from dlas.values import REPEATS, Artifact, Compiler

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".in"  # of those with places to fill
_PLACE = re.compile(r"@([A-Z_0-9]+)@")
_DEVICES = {"llvm": ("cpu", "kDLCPU"), "opencl": ("opencl", "kDLOpenCL"), "cuda": ("cuda", "kDLCUDA")}
_POOLED = 2  # which of its allocators TVM's virtual machine takes
_ORACLES = {"pytorch": "PyTorch", "onnxruntime": "ONNX Runtime"}


def fill(template: str, values: Mapping[str, str]) -> str:
    """Raises KeyError for a place that there is no value for.

    >>> fill("@A@ and @B@", {"A": "1", "B": "2"})
    '1 and 2'
    """
    return _PLACE.sub(lambda match: values[match[1]], template)


def values(
    measured: Measured, artifact: Artifact, compiler: Compiler, libraries: Sequence[Path]
) -> dict[str, str]:
    """What belongs into the places of the templates. libraries: what is shipped beside model.so.

    Raises BuildError where what they need of a system cannot be found out.
    """
    shape = artifact.input().shape
    versions = ", ".join(f"{name} {version}" for name, version in artifact.versions.items())
    return _code(measured, artifact, compiler) | {
        "CELL": measured.cell,
        "PIP": " ".join((*wheels.versions(), f"numpy=={artifact.versions['numpy']}")),
        "BUILD": build_command(compiler),
        "CROSS": _cross(compiler),
        "SWEEP": measured.sweep,
        "ROWS": " ".join(measured.ids),
        "STARTED": measured.started_at.isoformat(timespec="seconds"),
        "DEVICE_NAME": measured.device,
        "THREADS_IN_WORDS": "1 thread" if measured.threads == 1 else f"{measured.threads} threads",
        "TIME": describe_time(measured),
        "ACCURACY": _accuracy(measured),
        "ERROR": f"{measured.max_error_over_scale:.1e} of the output's scale there",
        "WEIGHTS": artifact.weights,
        "ARITHMETIC": f"{artifact.arithmetic}, its activations lying as {artifact.layout}",
        "SHA256": artifact.sha256,
        "VERSIONS": versions,
        "OUTPUT_SHAPE": ", ".join(map(str, artifact.output_shape)),
        "ORACLE": _ORACLES.get(artifact.oracle_name, artifact.oracle_name),
        "IMAGES": _images(measured.dataset, shape),
        "PROCESSOR": _processor(compiler),
        "SYSTEM": _system([artifact.module, *libraries]),
        "GPU": _gpu(compiler),
        "CPU_SET": f"Here it was bound to CPUs {measured.cpu_set}: `taskset -c {measured.cpu_set} ./load`.\n"
        if measured.cpu_set
        else "",
        "ARCH": compiler.arch,
    }


def describe_time(measured: Measured) -> str:
    """The median, and what it rests on."""
    summary = measured.summary
    if summary is None:
        return "no time, for its processor was imitated: that checks the output and measures nothing"
    processes = "1 process" if summary.processes == 1 else f"{summary.processes} processes"
    text = f"{summary.median_ns / 1e6:.3f} ms, the median of {processes} with {summary.samples} samples"
    if summary.covers_processes:
        text += f", 95% interval {summary.low_ns / 1e6:.3f} .. {summary.high_ns / 1e6:.3f} ms"
    return text if measured.is_publishable else f"{text}; a quick look, a process that counts has {REPEATS}"


def build_command(compiler: Compiler) -> str:
    """The command line that makes `load` of load.cc, in the folder of the handout."""
    # A library that registers itself, and which nothing calls by name, is linked all the same.
    back_end = f" -ldlas_{compiler.kind}" if compiler.is_gpu else ""
    return (
        f"{compiler.cxx} -std=c++17 -O2 load.cc -o load -Iinclude -Llib -Wl,-rpath,'$ORIGIN/lib' "
        f"-Wl,--no-as-needed -ltvm_runtime -ltvm_ffi{back_end}"
    )


def _code(measured: Measured, artifact: Artifact, compiler: Compiler) -> dict[str, str]:
    """What is in the loaders."""
    name, symbol = _DEVICES[compiler.kind]
    shape = artifact.input().shape
    devices = [symbol, *([] if symbol == "kDLCPU" else ["kDLCPU"])]
    back_end = f'ctypes.CDLL("lib/libdlas_{name}.so")  # what TVM lacks for this device\n'
    return {
        "THREADS": str(measured.threads),
        "TOLERANCE": f"{TOLERANCE[measured.precision]:g}",
        "DEVICE": name,
        "DEVICES": ", ".join(f"{each}, 0, {_POOLED}" for each in devices),
        "IMPORTS": "import ctypes\n" if compiler.is_gpu else "",
        "BACK_END": back_end if compiler.is_gpu else "",
        "SHAPE": ", ".join(map(str, shape)),
        "RANK": str(len(shape)),
        "INPUTS": " * ".join(map(str, shape)),
        "OUTPUTS": " * ".join(map(str, artifact.output_shape)),
    }


def _accuracy(measured: Measured) -> str:
    if measured.top1_fraction is None or not measured.top1_n:
        return "not taken"
    low, high = proportion_interval(measured.top1_fraction, measured.top1_n)
    return (
        f"top-1 {measured.top1_fraction:.1%} ({low:.1%} .. {high:.1%}) of {measured.top1_n} "
        f"test images of {measured.dataset}"
    )


def _images(dataset: str, shape: tuple[int, ...]) -> str:
    """How an image becomes an input, found by preparing a black one and a white one."""
    from PIL import Image

    from dlas.datasets import splits  # brings PyTorch

    try:
        prepare = splits.test_transform(dataset, shape)
    except DataError:
        return f"No image of {dataset} has this shape."
    images = [Image.new("RGB", (shape[3], shape[2]), colour) for colour in ("black", "white")]
    ends = list(zip(*(prepare(image)[:, 0, 0].tolist() for image in images), strict=True))
    mean = ", ".join(f"{low / (low - high):.4f}" for low, high in ends)
    std = ", ".join(f"{1 / (high - low):.4f}" for low, high in ends)
    cut = "resized and cut as TorchVision does for the network, then " if dataset == "imagenet" else ""
    channels = f"red, green and blue from 0 to 1, less ({mean})"
    return f"An image of {dataset} is {cut}{channels} and divided by\n({std})."


def _processor(compiler: Compiler) -> str:
    features = [f"`{each}`" for each in compiler.mattr if each.startswith("+")]
    has = " and ".join([f"`{compiler.mcpu}`", *features])
    return f"A processor of {compiler.arch} with the instructions of {has}, as LLVM names them."


def _system(files: Sequence[Path]) -> str:
    newest = elf.needs_together(files)
    glibc, glibcxx = (newest.get(name, "any") for name in ("GLIBC", "GLIBCXX"))
    return f"Linux with glibc {glibc} and libstdc++ {glibcxx} (its GLIBCXX), or newer."


def _gpu(compiler: Compiler) -> str:
    if not compiler.is_gpu:
        return ""
    library = f"`lib/libdlas_{compiler.kind}.so`"
    choose = f"the function `dlas.{compiler.kind}.choose` of TVM's registry takes a text in another's name"
    if compiler.kind == "cuda":
        driver = f"Nvidia's driver, `libcuda.so.1`, and a GPU that runs cubins of {compiler.gpu_arch}."
        kernels = ""
    else:
        driver = "An OpenCL driver, `libOpenCL.so.1`."
        kernels = " The driver compiles the kernels when they are loaded, for seconds to a minute."
    return f"- {driver} {library} opens it, and takes the first GPU; {choose}.{kernels}\n"


def _cross(compiler: Compiler) -> str:
    if compiler.arch == platform.machine():
        return ""
    return (
        f"\n`{compiler.cxx}` is a cross compiler: copy the folder to the device, and run `load` there. A\n"
        "program needs a C library no older than its compiler's; where the device's is (`ldd --version`),\n"
        "compile there, with `g++` and the same line.\n"
    )
