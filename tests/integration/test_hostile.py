"""Boards that lie: what their engines say is refused or harmless, and costs neither memory nor time."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dlas import doctor
from dlas.errors import DeviceError, DlasError, EngineError
from dlas.hardware import identity, targets
from dlas.hardware.engine import BASE_LABEL, RUNNER_LABEL, Engine, EngineFacts
from dlas.hardware.reach import Access, docker_device
from dlas.hardware.runner import interface_key
from dlas.measurement.environment import find_breach
from dlas.progress import Progress
from dlas.values import Bounds, ContainerImage, Target
from tests.hardware.boards import write_command
from tests.integration import engine_of_lies
from tests.integration.board import Board, Neighbourhood

SOON_S = 30.0
INFO = {
    "Architecture": "x86_64",
    "ServerVersion": "20.10.24",
    "NCPU": 4,
    "Runtimes": {"runc": {"path": "runc"}},
}
HASH = "sha256:" + "ab" * 32
CLEAR = "\x1b[2J\x1b]0;title\x07\r"


def about_image(target: Target, **changes: Any) -> dict[str, Any]:
    """What an honest engine says of a target's image, but for what is changed."""
    assert target.image is not None
    labels = {RUNNER_LABEL: interface_key(target), BASE_LABEL: target.image.base}
    config = {"Labels": labels}
    return {"Id": HASH, "Os": "linux", "Architecture": "amd64", "Size": 1000, "Config": config} | changes


@pytest.fixture(scope="module")
def x86() -> Target:
    return replace(targets.load("x86"), detected="")


# A docker command that is a liar, on this machine.

FakeDocker = Callable[..., Path]


@pytest.fixture
def fake_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """Puts a `docker` first on PATH that says these files; says where it writes down how it was called."""

    def make(**answers: str) -> Path:
        folder = tmp_path / "fake"
        folder.mkdir()
        for name, text in answers.items():
            (folder / name).write_text(text, errors="surrogateescape")
        write_command(folder / "docker", f'echo "$@" >>{folder}/calls\nexec cat {folder}/$2')
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        return folder / "calls"

    return make


def clean(error: BaseException) -> None:
    text = str(error)
    assert text.isprintable(), text
    assert len(text) < 1000


@pytest.mark.parametrize(
    "info",
    [
        "",
        "hello",
        "null",
        "[]",
        "{}",
        "7",
        "\udcff\udcfe",
        "[" * 100_000,
        '{"Architecture": "x86_64"',
        json.dumps({**INFO, "Architecture": None}),
        json.dumps({**INFO, "Architecture": ["x86_64"]}),
        json.dumps({**INFO, "NCPU": "many"}),
        json.dumps({**INFO, "NCPU": None}),
        json.dumps({**INFO, "NCPU": float("nan")}),
        json.dumps({**INFO, "ServerVersion": {}}),
        json.dumps({**INFO, "Runtimes": 3}),
        json.dumps({**INFO, "ServerErrors": 3}),
        json.dumps({**INFO, "ServerErrors": [3]}),
        json.dumps({**INFO, "ServerErrors": [CLEAR * 1000]}),
        json.dumps({**INFO, "Architecture": CLEAR * 1000}),
    ],
)
def test_an_engine_that_is_none_is_refused(fake_docker: FakeDocker, x86: Target, info: str) -> None:
    fake_docker(info=info, image=json.dumps([about_image(x86)]))
    with pytest.raises(EngineError) as failure:
        docker_device(x86, Access("docker"), Path("nowhere"), print)
    clean(failure.value)


@pytest.mark.parametrize(
    "image",
    [
        "",
        "[]",
        "{}",
        "[null]",
        "[{}]",
        "[{}, {}]",
        "[" * 100_000,
        {"Config": None},
        {"Config": {"Labels": "many"}},
        {"Config": {"Labels": [RUNNER_LABEL]}},
        {"Config": {"Labels": {RUNNER_LABEL: 7}}},
        {"Config": {"Labels": {RUNNER_LABEL: CLEAR}}},
        {"Size": "big"},
        {"Size": float("inf")},
        {"Os": 7},
        {"Id": 7},
        {"Id": ""},
        {"Id": "--env-file=/etc/shadow"},  # it would be sent to the board
        {"Id": "--cidfile=/tmp/written"},
        {"Id": "dlas/x86_avx"},
        {"Id": HASH + "\n"},
        {"Id": HASH + CLEAR},
    ],
)
def test_an_image_that_is_none_is_refused(
    fake_docker: FakeDocker, x86: Target, image: str | dict[str, Any]
) -> None:
    said = image if isinstance(image, str) else json.dumps([about_image(x86, **image)])
    calls = fake_docker(info=json.dumps(INFO), image=said, run="")
    with pytest.raises(EngineError) as failure:
        docker_device(x86, Access("docker"), Path("nowhere"), print)[0].probe()
    clean(failure.value)
    assert " run " not in calls.read_text()


def test_an_honest_image_is_taken_and_its_labels_cannot_drive_a_terminal(
    fake_docker: FakeDocker, x86: Target
) -> None:
    labels = {RUNNER_LABEL: interface_key(x86), BASE_LABEL: CLEAR * 1000, "dlas.stand-in": "true"}
    image = about_image(x86, Config={"Labels": labels})
    fake_docker(info=json.dumps(INFO | {"ServerVersion": CLEAR * 1000}), image=json.dumps([image]))
    device, line = docker_device(x86, Access("docker"), Path("nowhere"), print)
    assert (device.image.id, device.image.stand_in) == (HASH, True)
    for text in (line, device.image.base):
        assert text.isprintable()
        assert len(text) < 1500


@contextmanager
def little_memory() -> Iterator[None]:
    """What is allocated inside is at most 32 MiB at a time."""
    tracemalloc.start()
    try:
        yield
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 32 << 20


@pytest.mark.parametrize("verb", ["info", "image"])
def test_an_engine_that_says_too_much_costs_little(fake_docker: FakeDocker, x86: Target, verb: str) -> None:
    answers = {"info": json.dumps(INFO), "image": json.dumps([about_image(x86)])}
    fake_docker(**{**answers, verb: '"' + "x" * (200 << 20)})
    with little_memory(), pytest.raises(EngineError, match="longer than"):
        docker_device(x86, Access("docker"), Path("nowhere"), print)


class Saying(Engine):
    """An engine that says what it is told to."""

    text = ""

    def ask(self, *arguments: str, timeout_s: float = 1.0) -> str:
        return self.text


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(INFO)), values)
def test_any_value_in_an_engines_facts_is_taken_or_refused(key: str, value: object) -> None:
    engine = Saying()
    object.__setattr__(engine, "text", json.dumps({**INFO, key: value}))
    try:
        facts = engine.facts()
    except EngineError as error:
        clean(error)
        return
    assert all(name.isprintable() for name in (facts.version, facts.architecture, *facts.runtimes))
    assert facts.cpus > 0
    assert isinstance(facts, EngineFacts)


@given(
    st.sampled_from(["Id", "Os", "Architecture", "Size", "Config", "Labels", RUNNER_LABEL, BASE_LABEL]),
    values,
)
def test_any_value_in_an_image_is_taken_or_refused(key: str, value: object) -> None:
    labels = {RUNNER_LABEL: "ab", BASE_LABEL: "debian"}
    about: dict[str, Any] = {"Id": HASH, "Os": "linux", "Architecture": "amd64", "Size": 1}
    about["Config"] = {"Labels": {**labels, key: value} if key in labels else labels}
    if key == "Labels":
        about["Config"] = {"Labels": value}
    elif key in about:
        about[key] = value
    engine = Saying()
    object.__setattr__(engine, "text", json.dumps([about]))
    try:
        image = engine.find_image("dlas/x")
    except EngineError as error:
        clean(error)
        return
    assert isinstance(image, ContainerImage)
    assert image.id == HASH
    assert all(text.isprintable() for text in (image.base, image.runner, image.platform))


CPU = "/sys/devices/system/cpu"
FILES = {identity.MACHINE_ID: "f00", identity.CPU_INFO: "model name : A CPU", identity.CPUS: "0"}


def probed(files: Mapping[str, str]) -> str:
    """What a runner says that was asked for files."""
    return json.dumps({"protocol": 4, "files": {**FILES, **files}}) + "\n"


def test_a_doctor_prints_nothing_that_could_drive_a_terminal_or_a_shell(
    fake_docker: FakeDocker, x86: Target, tmp_path: Path
) -> None:
    files = {identity.CPU_INFO: f"model name : {CLEAR}", f"{CPU}/cpu0/cpufreq/scaling_governor": CLEAR}
    fake_docker(
        info=json.dumps(INFO | {"ServerVersion": CLEAR, "Runtimes": {CLEAR: {}}}),
        image=json.dumps([about_image(x86)]),
        run=probed(files),
        container=f"dlas-one\n{CLEAR}two\n$(touch${{IFS}}three)\n",
    )
    board = replace(x86.board, container_runtime="nvidia")
    target = replace(x86, board=board, bounds=Bounds(governor="performance"))
    said: list[str] = []
    with pytest.raises(DeviceError):
        doctor.examine(target, Access("docker"), tmp_path, said.append)
    assert any(line.startswith("failed  bounds") for line in said)
    assert [line for line in said if not line.isprintable()] == []
    assert [line for line in said if "$(" in line] == []  # a remedy may be pasted into a shell


@pytest.mark.parametrize("online", ["many", "0-", "5-1", "-", "0-4000000", "9" * 5000])
def test_a_doctor_is_not_led_astray_by_a_list_of_cpus(
    fake_docker: FakeDocker, x86: Target, tmp_path: Path, online: str
) -> None:
    fake_docker(
        info=json.dumps(INFO),
        image=json.dumps([about_image(x86)]),
        run=probed({doctor.ONLINE: online}),
        container="",
    )
    with little_memory(), suppress(DlasError):
        doctor.examine(x86, Access("docker"), tmp_path, lambda line: None)


numbers = st.integers(-10, 10**6).map(str) | st.sampled_from(["9" * 400, "9" * 5000, "\u0663", "\u00b2", ""])
words = st.lists(numbers | st.text(max_size=3), max_size=16).map(" ".join)
states = st.fixed_dictionaries(
    {},
    optional={
        "/proc/meminfo": numbers.map(lambda number: f"MemAvailable: {number} kB\n"),
        "/proc/self/stat": words.map(lambda text: f"1 (runner) R {text}"),
        "/proc/stat": words.map(lambda text: f"cpu  1 2\ncpu0 {text}\n"),
        "/sys/class/thermal/thermal_zone0/temp": numbers,
        f"{CPU}/cpu0/cpufreq/scaling_cur_freq": numbers,
        f"{CPU}/cpu0/cpufreq/scaling_governor": st.text(max_size=5),
        f"{CPU}/cpu{'9' * 5000}/cpufreq/scaling_governor": st.text(max_size=5),
    },
)


@given(states, states)
def test_whatever_a_board_says_of_its_state_can_be_judged(
    before: dict[str, str], after: dict[str, str]
) -> None:
    bounds = Bounds("performance", least_mhz=1, most_celsius=1, most_other_percent=1, least_free_mib=1)
    assert isinstance(find_breach(bounds, "0", before, after), str)


def test_a_reason_that_a_board_had_a_part_in_cannot_drive_a_terminal() -> None:
    governors = {f"{CPU}/cpu0/cpufreq/scaling_governor": CLEAR}
    reason = find_breach(Bounds(governor="performance"), "0", governors, governors)
    written = StringIO()
    with Progress(Console(file=written)) as progress:
        progress.done("a cell", f"quarantined: {reason}")
    assert "governor of CPU 0 is" in written.getvalue()
    assert "\x1b" not in written.getvalue()


# An engine that is a liar, on a board, behind the real docker command and the real ssh.

Hostile = Callable[[list[tuple[str, str]]], Any]


@pytest.fixture
def hostile(neighbourhood: Neighbourhood, tmp_path: Path) -> Hostile:
    """Makes a board whose engine answers paths so."""

    @contextmanager
    def make(answers: list[tuple[str, str]]) -> Iterator[Board]:
        path = tmp_path / "answers"
        path.write_text(json.dumps([("/_ping", "OK"), *answers]))
        command = f"{sys.executable} {engine_of_lies.__file__} {path}"
        with neighbourhood.board("dlas-hostile", command=command) as board:
            yield board

    return make


def refused(board: Board, target: Target) -> DlasError:
    began = time.monotonic()
    with pytest.raises(EngineError) as failure:
        docker_device(target, Access("docker", board.host), Path("nowhere"), print)[0].probe()
    assert time.monotonic() - began < SOON_S
    clean(failure.value)
    return failure.value


@pytest.mark.board
@pytest.mark.docker
@pytest.mark.parametrize(
    "info",
    [
        "",
        "hello",
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps({**INFO, "Architecture": CLEAR * 1000}),
        json.dumps({**INFO, "NCPU": "many"}),
        json.dumps({**INFO, "ServerVersion": "x" * (50 << 20)}),
    ],
    ids=["nothing", "no_json", "list", "no_fields", "nested", "escapes", "wrong_type", "huge"],
)
def test_a_hostile_board_is_refused(hostile: Hostile, x86: Target, info: str) -> None:
    with hostile([("/info", info)]) as board:
        refused(board, x86)


@pytest.mark.board
@pytest.mark.docker
@pytest.mark.parametrize(
    "changes",
    [
        {"Id": "x" * (50 << 20)},
        {"Config": {"Labels": {RUNNER_LABEL: CLEAR}}},
        {"Config": None},
    ],
    ids=["huge", "escapes", "no_labels"],
)
def test_an_image_of_a_hostile_board_is_refused(
    hostile: Hostile, x86: Target, changes: dict[str, Any]
) -> None:
    with hostile(
        [("/info", json.dumps(INFO)), ("/images/", json.dumps(about_image(x86, **changes)))]
    ) as board:
        refused(board, x86)


@pytest.mark.board
@pytest.mark.docker
def test_a_hostile_board_gets_no_file_of_this_machine(hostile: Hostile, x86: Target, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("PASSWORD=hunter2\n")
    image = about_image(x86, Id=f"--env-file={secret}")
    with hostile([("/info", json.dumps(INFO)), ("/images/", json.dumps(image))]) as board:
        refused(board, x86)
    assert "hunter2" not in (tmp_path / "answers.told").read_text()


@pytest.mark.board
@pytest.mark.docker
def test_a_hostile_board_that_passes_for_one_gives_no_facts(hostile: Hostile, x86: Target) -> None:
    answers = [("/info", json.dumps(INFO)), ("/images/", json.dumps(about_image(x86)))]
    answers += [("/containers/create", json.dumps({"Id": "ab" * 32, "Warnings": [CLEAR]}))]
    with hostile(answers) as board:
        device, _ = docker_device(x86, Access("docker", board.host), Path("nowhere"), print)
        with pytest.raises((DeviceError, EngineError)) as failure:
            device.probe()
        clean(failure.value)


@pytest.mark.board
@pytest.mark.docker
@pytest.mark.parametrize(
    "command",
    [f"printf '{CLEAR}%0100000d' 7 >&2; exit 1", "exit 0", "yes", "head -c 100M /dev/zero"],
    ids=["escapes", "nothing", "endless", "zeros"],
)
def test_what_is_no_engine_is_refused(neighbourhood: Neighbourhood, x86: Target, command: str) -> None:
    with neighbourhood.board("dlas-nobody", command=command) as board:
        refused(board, x86)
