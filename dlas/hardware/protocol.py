"""The language of host and runner: a job is a tar archive, its answer one line of JSON and raw bytes.

runtime/runner.cc is the other end. The archive (ustar) holds job.txt, model.so and input.bin, in this
order; input.bin has the inputs one behind the other, as the raw bytes have the outputs. The JSON has no
floats, and each character of its strings stands for one byte. What comes back is not trusted: every
field is checked, and nothing but DeviceError can come of it.
"""

from __future__ import annotations

import json
import math
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from dlas.errors import DeviceError, StorageError
from dlas.hardware.fields import INT64_MAX, Fields, decode, refuse
from dlas.values import Job, JobResult, Target

PROTOCOL = 4
MAX_LINE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
CPU_LIST = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", re.ASCII)
_MAX_INPUTS = 1_000_000
_MAX_INPUTS_BYTES = 8**11 - 1  # the largest member of a ustar archive
_MAX_OUTPUTS_BYTES = 1 << 30
_MAX_EXIT_CODE = 255


def input_bytes(job: Job) -> int:
    """Size of one float32 input."""
    return math.prod(job.inputs.shape[1:]) * 4


def outputs_bytes(job: Job) -> int:
    """Size of the network's float32 outputs, for all inputs together."""
    return math.prod((*job.inputs.shape[:1], *job.output_shape)) * 4


def encode_job(job: Job, target: Target, kernels: str = "") -> Iterator[bytes]:
    """The job as a tar archive, a piece at a time: module and inputs can be large.

    kernels: a folder of the device where a GPU's compiled kernels are kept, empty for none. Raises
    DeviceError at once for a job that cannot be sent, and later StorageError.
    """
    _check_job(job)
    return _archive(job, _job_text(job, target, kernels).encode())


def encode_probe(patterns: tuple[str, ...]) -> bytes:
    """A question for the contents of the files that match glob patterns."""
    return "".join(f"observe={_one_line(pattern)}\n" for pattern in patterns).encode()


def limit_bytes(job: Job) -> int:
    """More than any answer to a job has."""
    return MAX_LINE_BYTES + outputs_bytes(job) + 1


def answer_bytes(begun: bytes | bytearray, job: Job) -> int | None:
    """How long the answer is that begins so; None where that cannot be told yet.

    Raises DeviceError for one that announces more or less than the job's outputs.
    """
    if len(begun) < MAX_LINE_BYTES and b"\n" not in begun:
        return None
    line, _ = _split_line(begun)
    answer, raw_bytes = Fields(_parse_line(line)), 0
    if not answer.has("error"):
        raw_bytes = Fields(answer.take("output", dict)).integer("bytes", INT64_MAX)
        if raw_bytes != outputs_bytes(job):
            refuse(f"the output has {raw_bytes} bytes, {outputs_bytes(job)} were expected")
    return len(line) + 1 + raw_bytes


def parse_answer(stdout: bytes, job: Job, wall_ns: int, log: str = "") -> JobResult:
    """What a runner said of a job. Raises DeviceError when it is not what the protocol allows.

    wall_ns: from its start to its end.
    """
    line, raw = _split_line(stdout)
    answer = Fields(_parse_line(line))
    if answer.integer("protocol", INT64_MAX) != PROTOCOL:
        refuse(f"it does not speak protocol {PROTOCOL}")
    outputs = _outputs(Fields(answer.take("output", dict)), raw, job)
    if answer.integer("threads", INT64_MAX) != job.threads:
        refuse(f"it did not run with {job.threads} threads")
    longest_ns = int(job.timeout_s * 1e9)
    run_ns = answer.integer("run_ns", wall_ns)
    wait_ns = answer.integer("wait_ns", wall_ns - run_ns, low=0)
    result = JobResult(
        outputs=outputs,
        output_stable=answer.take("output_stable", bool),
        warmup_ns=answer.integers("warmup_ns", job.warmups, longest_ns),
        samples_ns=answer.integers("samples_ns", job.repeats, longest_ns),
        threads=job.threads,
        cpu_set=answer.matching("cpu_set", CPU_LIST, "a list of CPUs"),
        peak_rss_bytes=answer.integer("peak_rss_bytes", INT64_MAX),
        before=answer.files("before"),
        after=answer.files("after"),
        run_seconds=run_ns / 1e9,
        ship_seconds=(wall_ns - run_ns - wait_ns) / 1e9,
        log=log,
        gpu=one_line(decode(answer.take("gpu", str))),
    )
    answer.finish()
    return result


def parse_probe(stdout: bytes) -> dict[str, str]:
    """Contents by path, of the files that exist. Raises DeviceError."""
    line, raw = _split_line(stdout)
    answer = Fields(_parse_line(line))
    if answer.integer("protocol", INT64_MAX) != PROTOCOL or raw:
        refuse(f"it does not speak protocol {PROTOCOL}")
    files = answer.files("files")
    answer.finish()
    return files


def parse_error(stdout: bytes) -> str:
    """The reason that a failed runner gave, in one printable line; empty when it gave none."""
    try:
        return one_line(decode(Fields(_parse_line(_split_line(stdout)[0])).take("error", str)))
    except DeviceError:
        return ""


@dataclass(frozen=True)
class Failure:
    """What a runner that serves says of a job that failed. goes_on: whether it takes the next one.

    exit_code: what the runner would have ended with, had it been its only job.
    """

    exit_code: int
    goes_on: bool


def parse_failure(stdout: bytes) -> Failure | None:
    """None for what is no failure. `parse_error` has its reason. Raises DeviceError."""
    line, raw = _split_line(stdout)
    answer = Fields(_parse_line(line))
    if not answer.has("error"):
        return None
    decode(answer.take("error", str))
    failure = Failure(answer.integer("exit_code", _MAX_EXIT_CODE), answer.take("goes_on", bool))
    answer.finish()
    if raw:
        refuse("a failure has raw bytes behind it")
    return failure


def printable(text: str) -> str:
    """Text of a device, without what could drive a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(text: str) -> str:
    """At most 400 characters, in one line."""
    return " ".join(printable(text).split())[:400]


def _check_job(job: Job) -> None:
    """What the runner refuses too, but only once the job has been sent."""
    inputs = job.inputs
    if inputs.ndim == 0 or not inputs.size or len(inputs) > _MAX_INPUTS:
        raise DeviceError(
            f"a job cannot have inputs of shape {inputs.shape}", f"send 1 to {_MAX_INPUTS} of them"
        )
    if len(inputs) * input_bytes(job) > _MAX_INPUTS_BYTES or outputs_bytes(job) > _MAX_OUTPUTS_BYTES:
        raise DeviceError(
            f"{len(inputs)} inputs are too many for one job: they or their outputs are too long", "send fewer"
        )
    if (job.repeats == 0) != (job.warmups == 0):
        raise DeviceError(
            f"a job cannot have {job.repeats} repeats and {job.warmups} warm-ups", "make both 0 or neither"
        )


def _archive(job: Job, text: bytes) -> Iterator[bytes]:
    yield tar_header("job.txt", len(text)) + text + tar_padding(len(text))
    yield from _module_member(job)
    yield from _input_member(job)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _job_text(job: Job, target: Target, kernels: str) -> str:
    lines = {
        "protocol": PROTOCOL,
        "device": target.processor,
        "gpu": target.gpu.device,
        "timer": target.gpu.timer,
        "kernels": kernels,
        "dtype": "float32",
        "inputs": len(job.inputs),
        "shape": ",".join(map(str, job.inputs.shape[1:])),
        "output_bytes": outputs_bytes(job) // len(job.inputs),
        "warmups": job.warmups,
        "repeats": job.repeats,
        "flush_bytes": job.flush_bytes,
        "threads": job.threads,
        "cpus": target.board.cpu_set,
    }
    text = "".join(f"{key}={_one_line(str(value))}\n" for key, value in lines.items())
    return text + encode_probe(job.observe).decode()


def _one_line(value: str) -> str:
    if "\n" in value:
        raise DeviceError(f"a job cannot carry {value!r}: it has a line break", "take it out")
    return value


def tar_header(name: str, size: int) -> bytes:
    """The header of a file in a ustar archive, with no time and no owner."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def tar_padding(size: int) -> bytes:
    """What follows a file of so many bytes, up to a whole block."""
    return bytes(-size % tarfile.BLOCKSIZE)


def _module_member(job: Job) -> Iterator[bytes]:
    try:
        with job.module.open("rb") as file:
            size = left = job.module.stat().st_size
            yield tar_header("model.so", size)
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise StorageError(f"{job.module}: {error.strerror}", "build the artifact again") from error
    if left:
        raise StorageError(f"{job.module}: it shrank while it was read", "build the artifact again")
    yield tar_padding(size)


def _input_member(job: Job) -> Iterator[bytes]:
    """As many inputs at a time as make a chunk: the array can be larger than the memory."""
    size = len(job.inputs) * input_bytes(job)
    yield tar_header("input.bin", size)
    step = max(1, _CHUNK_BYTES // input_bytes(job))
    for start in range(0, len(job.inputs), step):
        yield np.ascontiguousarray(job.inputs[start : start + step], "<f4").tobytes()
    yield tar_padding(size)


def _outputs(about: Fields, raw: memoryview, job: Job) -> np.ndarray:
    """float32 (count, *output_shape)."""
    if about.take("dtype", str) != "float32" or about.take("shape", list) != list(job.output_shape):
        refuse(f"the output is not float32 {job.output_shape}")
    if about.integer("count", INT64_MAX) != len(job.inputs):
        refuse(f"it has not an output for each of {len(job.inputs)} inputs")
    if about.integer("bytes", INT64_MAX) != outputs_bytes(job) or len(raw) != outputs_bytes(job):
        refuse(f"the output has {len(raw)} bytes, {outputs_bytes(job)} were expected")
    about.finish()
    return np.frombuffer(raw, "<f4").reshape(len(job.inputs), *job.output_shape)


def _split_line(stdout: bytes | bytearray) -> tuple[bytes, memoryview]:
    end = stdout.find(b"\n", 0, MAX_LINE_BYTES)
    if end < 0:
        refuse("it has no first line of at most 1 MiB")
    return bytes(stdout[:end]), memoryview(stdout)[end + 1 :]


def _parse_line(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(
            line.decode("ascii"),
            parse_float=_no_float,
            parse_constant=_no_float,
            object_pairs_hook=_without_repeats,
        )
    except (ValueError, RecursionError) as error:
        refuse(f"its first line is not the JSON of the protocol: {one_line(str(error))}")
    if not isinstance(fields, dict):
        refuse("its first line is not a JSON object")
    return fields


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not an integer")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields
