"""Both directions of the language of host and runner; what comes back is not believed."""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlas.errors import DeviceError, StorageError
from dlas.hardware import protocol
from dlas.values import Gpu, Job
from tests.hardware.boards import BOARD

JOB = Job(
    Path("model.so"), np.zeros((2, 1, 2), "float32"), (1, 3), threads=2, repeats=4, warmups=2, timeout_s=1
)
RAW = np.array([1, np.nan, -np.inf, 2, 3, 4], "<f4").tobytes()
WALL_NS = 10**9
ANSWER: dict[str, Any] = {
    "protocol": 4,
    "samples_ns": [4, 3, 2, 1],
    "warmup_ns": [9, 8],
    "output": {"count": 2, "shape": [1, 3], "dtype": "float32", "bytes": 24},
    "output_stable": True,
    "threads": 2,
    "cpu_set": "0-3,6",
    "peak_rss_bytes": 4096,
    "before": {"/proc/x": "gr\u00c3\u00bcn\n"},
    "after": {},
    "gpu": "a platform,\na GPU",
    "wait_ns": 300_000_000,
    "run_ns": 500_000_000,
}


def encoded(answer: object, raw: bytes = RAW) -> bytes:
    return json.dumps(answer).encode() + b"\n" + raw


def test_the_archive_is_what_tar_reads_and_always_the_same(tmp_path: Path) -> None:
    module = tmp_path / "model.so"
    module.write_bytes(bytes(range(256)) * 5000)
    twelve = np.arange(12.0, dtype="float32").reshape(2, 2, 3)
    job = replace(JOB, module=module, inputs=twelve, observe=("/a", "/b*"))
    target = replace(
        BOARD,
        compiler=replace(BOARD.compiler, kind="opencl"),
        board=replace(BOARD.board, cpu_set="0-1"),
        gpu=Gpu("Mali", "events"),
    )
    chunks = list(protocol.encode_job(job, target, "/k"))
    assert b"".join(protocol.encode_job(job, target, "/k")) == b"".join(chunks)
    assert max(map(len, chunks)) <= 1 << 20
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        contents = {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
    assert list(contents) == ["job.txt", "model.so", "input.bin"]
    assert contents["model.so"] == module.read_bytes()
    assert np.frombuffer(contents["input.bin"], "<f4").tolist() == list(range(12))
    assert contents["job.txt"].decode().splitlines() == [
        "protocol=4",
        "device=opencl",
        "gpu=Mali",
        "timer=events",
        "kernels=/k",
        "dtype=float32",
        "inputs=2",
        "shape=2,3",
        "output_bytes=12",
        "warmups=2",
        "repeats=4",
        "flush_bytes=0",
        "threads=2",
        "cpus=0-1",
        "observe=/a",
        "observe=/b*",
    ]


def test_an_input_in_another_layout_or_type_is_sent_as_contiguous_float32(tmp_path: Path) -> None:
    module = tmp_path / "model.so"
    module.write_bytes(b"x")
    transposed = np.arange(6.0).reshape(1, 2, 3).transpose(0, 2, 1)
    archive = b"".join(protocol.encode_job(replace(JOB, module=module, inputs=transposed), BOARD))
    assert np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes() in archive
    assert b"inputs=1\nshape=3,2\n" in archive


@pytest.mark.parametrize("shape", [(256, 512, 1024), (1 << 17, 1024)])
def test_inputs_of_any_length_are_sent_in_small_pieces(tmp_path: Path, shape: tuple[int, ...]) -> None:
    module = tmp_path / "model.so"
    module.write_bytes(b"x")
    half_a_gibibyte = np.broadcast_to(np.float32(1), shape)
    tracemalloc.start()
    try:
        lengths = list(
            map(len, protocol.encode_job(replace(JOB, module=module, inputs=half_a_gibibyte), BOARD))
        )
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert sum(lengths) > 512 << 20
    assert len(lengths) < 1000  # and not one for each input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.float32(1)}, r"inputs of shape \(\)"),
        ({"inputs": np.zeros((0, 2), "float32")}, r"inputs of shape \(0, 2\); send 1 to 1000000"),
        ({"inputs": np.zeros((2, 0), "float32")}, r"inputs of shape \(2, 0\)"),
        ({"inputs": np.broadcast_to(np.float32(1), (1_000_001, 1))}, "inputs of shape"),
        ({"inputs": np.broadcast_to(np.float32(1), (1 << 13, 1 << 18))}, "8192 inputs are too many"),
        ({"inputs": np.zeros((1 << 14, 1), "float32"), "output_shape": (1 << 14, 1)}, None),
        ({"inputs": np.zeros((1 << 14, 1), "float32"), "output_shape": ((1 << 14) + 1,)}, "too many"),
        ({"repeats": 0}, "0 repeats and 2 warm-ups; make both 0"),
        ({"warmups": 0}, "4 repeats and 0 warm-ups; make both 0"),
        ({"repeats": 0, "warmups": 0}, None),
    ],
)
def test_a_job_that_cannot_be_is_refused_before_it_is_sent(
    change: dict[str, Any], message: str | None
) -> None:
    if message is None:
        assert next(protocol.encode_job(replace(JOB, **change), BOARD))
        return
    with pytest.raises(DeviceError, match=message):
        protocol.encode_job(replace(JOB, **change), BOARD)


def test_a_module_that_is_not_there_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match=r"no/model\.so"):
        list(protocol.encode_job(replace(JOB, module=Path("no/model.so")), BOARD))


def test_a_line_break_cannot_add_a_line_to_the_job(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="line break"):
        protocol.encode_job(replace(JOB, observe=("/a\nthreads=9",)), BOARD)
    with pytest.raises(DeviceError, match="line break"):
        protocol.encode_job(JOB, BOARD, "/kernels\nthreads=9")


def test_a_good_answer_is_taken_as_it_is() -> None:
    result = protocol.parse_answer(encoded(ANSWER), JOB, WALL_NS, "a log")
    assert (result.outputs.shape, result.outputs.dtype) == ((2, 1, 3), np.float32)
    assert (
        result.outputs.tobytes() == RAW
    )  # NaN and infinity too: judging the output is not the device's part
    assert result.samples_ns == (4, 3, 2, 1)
    assert result.warmup_ns == (9, 8)
    assert result.before == {"/proc/x": "grün\n"}
    assert (result.output_stable, result.threads, result.cpu_set) == (True, 2, "0-3,6")
    assert (result.run_seconds, result.ship_seconds) == (0.5, 0.2)
    assert result.log == "a log"
    assert result.gpu == "a platform, a GPU"


def test_an_answer_without_a_wait_and_without_times_is_taken() -> None:
    untimed = replace(JOB, repeats=0, warmups=0)
    answer = encoded(ANSWER | {"samples_ns": [], "warmup_ns": [], "wait_ns": 0, "run_ns": WALL_NS})
    result = protocol.parse_answer(answer, untimed, WALL_NS)
    assert (result.samples_ns, result.warmup_ns, result.ship_seconds) == ((), (), 0.0)
    with pytest.raises(DeviceError, match="has 2 entries, 0"):
        protocol.parse_answer(encoded(ANSWER), untimed, WALL_NS)


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no field": (lambda a: a.pop("threads"), "'threads' is missing"),
    "a field too many": (lambda a: a.update(run_this="rm"), "unknown field 'run_this'"),
    "another protocol": (lambda a: a.update(protocol=1), "protocol 4"),
    "too few samples": (lambda a: a["samples_ns"].pop(), "has 3 entries, 4"),
    "too many warm-ups": (lambda a: a["warmup_ns"].append(1), "has 3 entries, 2"),
    "no time at all": (lambda a: a.update(samples_ns=[1, 2, 3, 0]), "what is not a time"),
    "a negative time": (lambda a: a.update(samples_ns=[1, 2, 3, -4]), "what is not a time"),
    "a time longer than the job": (lambda a: a.update(samples_ns=[1, 2, 3, 10**9 + 1]), "what is not a time"),
    "a fractional time": (lambda a: a.update(samples_ns=[1, 2, 3, 4.5]), "not the JSON"),
    "true for a time": (lambda a: a.update(samples_ns=[1, 2, 3, True]), "what is not a time"),
    "text for a time": (lambda a: a.update(samples_ns=[1, 2, 3, "4"]), "what is not a time"),
    "NaN": (lambda a: a.update(peak_rss_bytes=float("nan")), "not the JSON"),
    "infinity": (lambda a: a.update(peak_rss_bytes=float("inf")), "not the JSON"),
    "more than int64": (lambda a: a.update(peak_rss_bytes=2**63), "'peak_rss_bytes' is not"),
    "true for a number": (lambda a: a.update(peak_rss_bytes=True), "'peak_rss_bytes' is missing or not of"),
    "a very long number": (lambda a: a.update(peak_rss_bytes=10**4000), "'peak_rss_bytes' is not"),
    "other threads": (lambda a: a.update(threads=1), "did not run with 2 threads"),
    "true for one": (lambda a: a.update(output_stable=1), "'output_stable' is missing or not of type bool"),
    "another shape": (lambda a: a["output"].update(shape=[3, 1]), r"not float32 \(1, 3\)"),
    "another type": (lambda a: a["output"].update(dtype="int32"), "not float32"),
    "another size": (lambda a: a["output"].update(bytes=12), "24 were expected"),
    "outputs too few": (lambda a: a["output"].update(count=1), "for each of 2 inputs"),
    "no count of outputs": (lambda a: a["output"].pop("count"), "'count' is missing"),
    "a run of no time": (lambda a: a.update(run_ns=0), "'run_ns' is not"),
    "a run longer than the answer took": (lambda a: a.update(run_ns=WALL_NS + 1), "'run_ns' is not"),
    "a negative wait": (lambda a: a.update(wait_ns=-1), "'wait_ns' is not a number of 0 to 500000000"),
    "a wait longer than what is left": (lambda a: a.update(wait_ns=WALL_NS // 2 + 1), "'wait_ns' is not"),
    "true for a wait": (lambda a: a.update(wait_ns=True), "'wait_ns' is missing or not of type int"),
    "more in the output": (lambda a: a["output"].update(pickle="x"), "unknown field 'pickle'"),
    "no output": (lambda a: a.update(output=None), "'output' is missing"),
    "not CPUs": (lambda a: a.update(cpu_set="all; rm -r"), "not a list of CPUs"),
    "a file of no text": (lambda a: a.update(after={"/x": ["y"]}), "not text"),
    "no GPU's name": (lambda a: a.update(gpu=None), "'gpu' is missing or not of type str"),
    "characters that are no bytes": (lambda a: a.update(after={"/x": "\ud800"}), "no bytes"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found_out(name: str) -> None:
    change, message = LIES[name]
    answer = json.loads(json.dumps(ANSWER))
    change(answer)
    with pytest.raises(DeviceError, match=message):
        protocol.parse_answer(encoded(answer), JOB, WALL_NS)


@pytest.mark.parametrize(
    ("stdout", "message"),
    [
        (b"", "no first line"),
        (b"{}", "no first line"),
        (b"x" * (2 << 20) + b"\n", "no first line"),
        (b"\n" + RAW, "not the JSON"),
        (b"[]\n" + RAW, "not a JSON object"),
        (b"[" * 500_000 + b"\n", "not the JSON"),
        (b'{"protocol": 4, "protocol": 4}\n', "a key is there twice"),
        (b'{"a": "\xff"}\n', "not the JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "not the JSON"),
        (encoded(ANSWER, RAW[:-1]), "23 bytes, 24 were expected"),
        (encoded(ANSWER, RAW + b"\0"), "25 bytes, 24 were expected"),
        (encoded(ANSWER, b""), "0 bytes, 24 were expected"),
        (encoded({"error": "but it ended with 0"}), "'protocol' is missing"),
    ],
)
def test_what_is_not_the_protocol_is_refused(stdout: bytes, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        protocol.parse_answer(stdout, JOB, WALL_NS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(DeviceError):
        protocol.parse_answer(noise, JOB, WALL_NS)
    assert isinstance(protocol.parse_error(noise), str)


@given(st.sampled_from(sorted(ANSWER)), json_values)
def test_any_value_in_any_field_is_taken_or_refused(key: str, value: object) -> None:
    answer = encoded(ANSWER | {key: value})
    try:
        result = protocol.parse_answer(answer, JOB, WALL_NS)
    except DeviceError:
        return
    assert len(result.samples_ns) == JOB.repeats
    assert all(type(sample) is int and sample > 0 for sample in result.samples_ns)
    assert result.run_seconds > 0 <= result.ship_seconds
    for text in (*result.before, *result.before.values(), *result.after, *result.after.values()):
        text.encode()


def test_what_a_device_says_cannot_drive_a_terminal() -> None:
    error = json.dumps({"error": "\x1b[2J\x07gone\nsecond line"}).encode() + b"\n"
    said = protocol.parse_error(error)
    assert said.isprintable()
    assert "gone second line" in said
    assert protocol.printable("\x1b[31mred\x1b[0m\n").count("\x1b") == 0


def test_a_probe_answer_is_files_by_path() -> None:
    assert protocol.parse_probe(b'{"protocol": 4, "files": {"/a": "b"}}\n') == {"/a": "b"}


@pytest.mark.parametrize(
    "bad", ["2}\n", '2, "files": {}}\nx', '2, "files": {"a": 1}}\n', '1, "files": {}}\n']
)
def test_a_bad_probe_answer_is_refused(bad: str) -> None:
    with pytest.raises(DeviceError):
        protocol.parse_probe(f'{{"protocol": {bad}'.encode())
