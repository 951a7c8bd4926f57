"""What the back ends make of the bytes in a library and of a kernel's call, whatever these are."""

from __future__ import annotations

import random
import re
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from dlas import cache
from dlas.hardware import runner, wheels
from tests.hardware import gpus

HERE = Path(__file__).parent
HEADERS = Path(runner.__file__).parent / "runtime" / "gpu"
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def compile_reader(path: Path, *flags: str) -> bool:
    library = wheels.libraries()[1].parent
    include = [f"-isystem{folder}" for folder in (*wheels.includes(), HEADERS / "shim")]
    link = [f"-L{library}", f"-Wl,-rpath,{library}", "-ltvm_ffi"]
    source = str(HERE / "gpu_reader.cc")
    command = ["g++", "-std=c++17", "-O1", *flags, f"-I{HEADERS}", *include, source, "-o", str(path), *link]
    return subprocess.run(command, check=False).returncode == 0


@pytest.fixture(scope="session")
def reader(artifacts: Path) -> Path:
    """The program of gpu_reader.cc, with sanitizers where the compiler has them."""
    key = cache.source_digest([HERE / "gpu_reader.cc", HEADERS])[:16]
    folder = artifacts / "gpu_reader" / key
    if not folder.exists():
        with cache.atomic_folder(folder) as made:
            program = made / "reader"
            assert compile_reader(program, *SANITIZED) or compile_reader(program)
    return folder / "reader"


@pytest.fixture(scope="session", params=["cl", "cuda"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """As TVM writes them."""
    path = tmp_path_factory.mktemp("kernels") / "model.so"
    target = {"cl": gpus.OPENCL, "cuda": gpus.CUDA}[request.param]
    gpus.export_network(target, path, code=lambda source: source)
    return gpus.find_kernels(path.read_bytes(), request.param)


def read(reader: Path, images: Iterable[bytes]) -> list[str]:
    """What is said of each. None makes the program crash, or allocate much more than it has."""
    images = list(images)
    stdin = b"".join(struct.pack("<Q", len(image)) + image for image in images)
    ended = subprocess.run([reader, "images"], input=stdin, capture_output=True, timeout=120)
    assert ended.returncode == 0, ended.stderr.decode()
    lines = [line.rpartition(" ") for line in ended.stdout.decode(errors="replace").split("\n")[:-1]]
    for image, (said, _, allocated_bytes) in zip(images, lines, strict=True):
        assert int(allocated_bytes) < 16 * len(image) + (64 << 10), said
    return [said for said, _, _ in lines]


def test_what_tvm_writes_is_read(reader: Path, kernels: bytes) -> None:
    (said,) = read(reader, [kernels])
    assert re.match(r"(cl|cuda) \d{4} ", said)
    kernel = "_kernel(handle,handle,handle,int64,int64,)blockIdx.x,threadIdx.x,"
    assert sorted(said.split()[2:]) == [f"add{kernel}", f"multiply{kernel}"]


def test_every_beginning_of_kernels_is_damaged(reader: Path, kernels: bytes) -> None:
    for said in read(reader, (kernels[:size] for size in range(len(kernels)))):
        assert said.startswith("error: the kernels are damaged: ")


def test_nothing_follows_the_code(reader: Path, kernels: bytes) -> None:
    assert read(reader, [kernels + b"\0"]) == ["error: the kernels are damaged: something follows their code"]


@pytest.mark.parametrize("number", [1 << 32, 1 << 61, (1 << 64) - 1])
def test_a_huge_count_or_length_is_damage(reader: Path, kernels: bytes, number: int) -> None:
    huge = struct.pack("<Q", number)
    images = [kernels[:at] + huge + kernels[at + 8 :] for at in range(len(kernels) - 8)]
    said = read(reader, images)
    (format_bytes,) = struct.unpack_from("<Q", kernels)
    count, first_key, second_key = (8 + format_bytes + skip for skip in (0, 8, 8 + 8 + len("add_kernel")))
    for at in (0, count, first_key, second_key):
        assert re.match(f"error: the kernels are damaged: {number} (bytes|elements) ", said[at])


def test_random_damage_is_read_or_refused(reader: Path, kernels: bytes) -> None:
    rng = random.Random(0)
    front = kernels.rindex(b"threadIdx.x\5") + 100  # where the code begins, about

    def damaged() -> bytes:
        image = bytearray(kernels)
        for _ in range(rng.randint(1, 6)):
            image[rng.randrange(front)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        return bytes(image)

    said = read(reader, (damaged() for _ in range(3000)))
    assert 0 < sum(line.startswith("error: ") for line in said) < len(said)


def test_noise_is_refused(reader: Path) -> None:
    rng = random.Random(0)
    noise = [rng.randbytes(rng.randrange(200)) for _ in range(1000)]
    assert all(said.startswith("error: ") for said in read(reader, noise))


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def test_elements_need_room(reader: Path) -> None:
    front = text("cl") + struct.pack("<Q", 1) + text("k") + text("k")
    said = read(reader, [front + struct.pack("<Q", count) + bytes(16) for count in (4, 5)])
    assert said[0] == "error: the kernels are damaged: 8 bytes where 0 are left"
    assert said[1] == "error: the kernels are damaged: 5 elements in 16 bytes"


def test_a_kernel_that_takes_a_tensor_map_is_refused(reader: Path) -> None:
    numbers = struct.pack("<QQQi", 0, 0, 1, 7)
    image = text("cuda") + struct.pack("<Q", 1) + text("k") + text("") + numbers + text("code")
    assert read(reader, [image]) == ["error: kernel  takes tensor maps, which no device here has"]


LAUNCHES = {
    "int32 int64 | blockIdx.x threadIdx.x | 5 -2 7 8": "7x1x1 groups of 8x1x1 threads, 0 bytes: "
    "05000000 feffffffffffffff",
    "int8 uint8 int16 bool | threadIdx.z blockIdx.y | -1 255 -2 1 3 4": "1x4x1 groups of 1x1x3 threads, "
    "0 bytes: ff ff feff 01",
    "float32 float64 float32 | | 2.5 2.5 3": "1x1x1 groups of 1x1x1 threads, 0 bytes: "
    "00002040 0000000000000440 00004040",
    "handle | tirx.use_dyn_shared_memory | @123456789a 4096": "1x1x1 groups of 1x1x1 threads, 4096 bytes: "
    "9a78563412000000",
    "| blockIdx.x | 0": "1x1x1 groups of 1x1x1 threads, 0 bytes:",
    "int32 | | 1 2": "error: k is called with 2 values, it takes 1",
    "int32 | blockIdx.x | 1": "error: k is called with 1 values, it takes 2",
    "| blockIdx.w | 1": "error: k is launched by blockIdx.w, which no device here has",
    "| clusterIdx.x | 1": "error: k is launched by clusterIdx.x, which no device here has",
    "| blockIdx.x | -1": "error: k: an extent of -1",
    "| threadIdx.x | 9223372036854775807": "error: k: an extent of 9223372036854775807",
    "float16 | | 1.0": "error: k takes a float16, which cannot be given",
    "float32x4 | | 1.0": "error: k takes a float32x4, which cannot be given",
    "int32x2 | | 1": "error: k takes a int32x2, which cannot be given",
}


@pytest.mark.parametrize("call", LAUNCHES)
def test_a_call_is_read_as_the_devices_compiler_laid_it_out(reader: Path, call: str) -> None:
    said = subprocess.run([reader, "launches"], input=f"{call}\n", capture_output=True, text=True, check=True)
    assert said.stdout == f"{LAUNCHES[call]}\n"
