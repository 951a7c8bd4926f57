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
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from dlas.errors import DeviceError, StorageError
from dlas.values import Job, JobResult

PROTOCOL = 2
MAX_LINE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
CPU_LIST = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", re.ASCII)
_INT64_MAX = 2**63 - 1
_MAX_INPUTS = 1_000_000
_MAX_INPUTS_BYTES = 8**11 - 1  # the largest member of a ustar archive
_MAX_OUTPUTS_BYTES = 1 << 30


def input_bytes(job: Job) -> int:
    """Size of one float32 input."""
    return math.prod(job.inputs.shape[1:]) * 4


def outputs_bytes(job: Job) -> int:
    """Size of the network's float32 outputs, for all inputs together."""
    return math.prod((*job.inputs.shape[:1], *job.output_shape)) * 4


def encode_job(job: Job, cpu_set: str) -> Iterator[bytes]:
    """The job as a tar archive, a piece at a time: module and inputs can be large.

    Raises DeviceError at once for a job that cannot be sent, and later StorageError.
    """
    _check_job(job)
    return _archive(job, _job_text(job, cpu_set).encode())


def encode_probe(patterns: tuple[str, ...]) -> bytes:
    """A question for the contents of the files that match glob patterns."""
    return "".join(f"observe={_one_line(pattern)}\n" for pattern in patterns).encode()


def parse_answer(stdout: bytes, job: Job, wall_ns: int, log: str = "") -> JobResult:
    """What a runner said of a job. Raises DeviceError when it is not what the protocol allows.

    wall_ns: from its start to its end.
    """
    line, raw = _split_line(stdout)
    answer = _Fields(_parse_line(line))
    if answer.integer("protocol", _INT64_MAX) != PROTOCOL:
        _refuse(f"it does not speak protocol {PROTOCOL}")
    outputs = _outputs(_Fields(answer.take("output", dict)), raw, job)
    if answer.integer("threads", _INT64_MAX) != job.threads:
        _refuse(f"it did not run with {job.threads} threads")
    longest_ns = int(job.timeout_s * 1e9)
    run_ns = answer.integer("run_ns", wall_ns)
    wait_ns = answer.integer("wait_ns", wall_ns - run_ns, low=0)
    result = JobResult(
        outputs=outputs,
        output_stable=answer.take("output_stable", bool),
        warmup_ns=answer.integers("warmup_ns", job.warmups, longest_ns),
        samples_ns=answer.integers("samples_ns", job.repeats, longest_ns),
        threads=job.threads,
        cpu_set=answer.cpu_list("cpu_set"),
        peak_rss_bytes=answer.integer("peak_rss_bytes", _INT64_MAX),
        before=answer.files("before"),
        after=answer.files("after"),
        run_seconds=run_ns / 1e9,
        ship_seconds=(wall_ns - run_ns - wait_ns) / 1e9,
        log=log,
    )
    answer.finish()
    return result


def parse_probe(stdout: bytes) -> dict[str, str]:
    """Contents by path, of the files that exist. Raises DeviceError."""
    line, raw = _split_line(stdout)
    answer = _Fields(_parse_line(line))
    if answer.integer("protocol", _INT64_MAX) != PROTOCOL or raw:
        _refuse(f"it does not speak protocol {PROTOCOL}")
    files = answer.files("files")
    answer.finish()
    return files


def parse_error(stdout: bytes) -> str:
    """The reason that a failed runner gave, in one printable line; empty when it gave none."""
    try:
        return one_line(_decode(_Fields(_parse_line(_split_line(stdout)[0])).take("error", str)))
    except DeviceError:
        return ""


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


def _job_text(job: Job, cpu_set: str) -> str:
    lines = {
        "protocol": PROTOCOL,
        "device": "cpu",
        "dtype": "float32",
        "inputs": len(job.inputs),
        "shape": ",".join(map(str, job.inputs.shape[1:])),
        "output_bytes": outputs_bytes(job) // len(job.inputs),
        "warmups": job.warmups,
        "repeats": job.repeats,
        "threads": job.threads,
        "cpus": cpu_set,
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


def _outputs(about: _Fields, raw: memoryview, job: Job) -> np.ndarray:
    """float32 (count, *output_shape)."""
    if about.take("dtype", str) != "float32" or about.take("shape", list) != list(job.output_shape):
        _refuse(f"the output is not float32 {job.output_shape}")
    if about.integer("count", _INT64_MAX) != len(job.inputs):
        _refuse(f"it has not an output for each of {len(job.inputs)} inputs")
    if about.integer("bytes", _INT64_MAX) != outputs_bytes(job) or len(raw) != outputs_bytes(job):
        _refuse(f"the output has {len(raw)} bytes, {outputs_bytes(job)} were expected")
    about.finish()
    return np.frombuffer(raw, "<f4").reshape(len(job.inputs), *job.output_shape)


def _split_line(stdout: bytes) -> tuple[bytes, memoryview]:
    end = stdout.find(b"\n", 0, MAX_LINE_BYTES)
    if end < 0:
        _refuse("it has no first line of at most 1 MiB")
    return stdout[:end], memoryview(stdout)[end + 1 :]


def _parse_line(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(
            line.decode("ascii"),
            parse_float=_no_float,
            parse_constant=_no_float,
            object_pairs_hook=_without_repeats,
        )
    except (ValueError, RecursionError) as error:
        _refuse(f"its first line is not the JSON of the protocol: {one_line(str(error))}")
    if not isinstance(fields, dict):
        _refuse("its first line is not a JSON object")
    return fields


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not an integer")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields


def _decode(text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:
        _refuse("a string holds characters that are no bytes")


def _refuse(what: str) -> NoReturn:
    raise DeviceError(f"the runner's answer cannot be used: {what}", "build the runner or its image again")


class _Fields:
    """The fields of a JSON object, each taken once and checked."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = dict(fields)

    def take(self, key: str, kind: type) -> Any:
        value = self._fields.pop(key, None)
        if type(value) is not kind:  # not isinstance: True is no integer here
            _refuse(f"'{key}' is missing or not of type {kind.__name__}")
        return value

    def finish(self) -> None:
        if self._fields:
            _refuse(f"unknown field '{one_line(next(iter(self._fields)))}'")

    def integer(self, key: str, high: int, low: int = 1) -> int:
        value: int = self.take(key, int)
        if not low <= value <= high:
            _refuse(f"'{key}' is not a number of {low} to {high}")
        return value

    def integers(self, key: str, count: int, high: int) -> tuple[int, ...]:
        values: list[Any] = self.take(key, list)
        if len(values) != count:
            _refuse(f"'{key}' has {len(values)} entries, {count} were asked for")
        if not all(type(value) is int and 1 <= value <= high for value in values):
            _refuse(f"'{key}' holds what is not a time of 1 to {high} ns")
        return tuple(values)

    def cpu_list(self, key: str) -> str:
        value: str = self.take(key, str)
        if len(value) > 4096 or not CPU_LIST.fullmatch(value):
            _refuse(f"'{key}' is not a list of CPUs")
        return value

    def files(self, key: str) -> dict[str, str]:
        files: dict[str, Any] = self.take(key, dict)
        if not all(type(contents) is str for contents in files.values()):
            _refuse(f"'{key}' holds a file that is not text")
        return {_decode(path): _decode(contents) for path, contents in files.items()}
