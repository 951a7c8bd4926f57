"""Which device a target is, and what is refused before anything runs on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dlas.errors import DlasError, EngineError, TargetError, UsageError
from dlas.hardware import reach, targets
from dlas.hardware.device import DockerDevice
from dlas.hardware.engine import Engine
from dlas.hardware.reach import Access
from dlas.hardware.runner import interface_key, runner_key
from dlas.values import Image, Target
from tests.hardware.fakes import ABSENT, FakeDocker, image, info

HIKEY = targets.load("hikey")
BASE = HIKEY.image.base if HIKEY.image else ""
PINNED = f"sha256:{'ab' * 32}"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    monkeypatch.setattr(reach, "interface_key", lambda target: "f00")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    fake = FakeDocker(tmp_path, monkeypatch)
    fake.answer("info", info())
    fake.answer("image inspect", image("f00", base=BASE))
    return fake


def found(target: Target, access: Access, root: Path) -> tuple[DockerDevice, str]:
    device, why = reach.device(target, access, root, lambda line: None)
    assert isinstance(device, DockerDevice)
    return device, why


def test_a_board_is_reached_where_its_target_says(docker: FakeDocker, tmp_path: Path) -> None:
    device, why = found(HIKEY, Access(wait_s=7), tmp_path)
    assert (device.engine, device.emulated, device.wait_s) == (Engine("ssh://hikey"), False, 7)
    assert device.target == HIKEY
    assert device.lock == "/run/lock"
    assert why == "docker: engine 27.0 at ssh://hikey has the image dlas/hikey970_neon"
    assert {words[0] for words in docker.asked} == {"--host=ssh://hikey"}


@pytest.mark.parametrize(
    ("access", "environment", "host"),
    [
        (Access(), "", "ssh://hikey"),
        (Access(), "ssh://elsewhere", "ssh://hikey"),
        (Access(host="ssh://desk"), "ssh://elsewhere", "ssh://desk"),
        (Access(emulate=True), "", "unix:///var/run/docker.sock"),
        (Access(emulate=True), "ssh://elsewhere", "ssh://elsewhere"),
        (Access(host="ssh://desk", emulate=True), "ssh://elsewhere", "ssh://desk"),
    ],
)
def test_what_the_command_line_says_goes_before_the_target(
    monkeypatch: pytest.MonkeyPatch, access: Access, environment: str, host: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", environment)
    assert reach.engine_of(HIKEY, access) == Engine(host)


def test_an_emulated_board_has_nothing_that_only_the_board_has(docker: FakeDocker, tmp_path: Path) -> None:
    docker.answer("info", info("x86_64", NCPU=2))
    board = replace(HIKEY.board, devices=("/dev/mali0",), groups=("video",), container_runtime="nvidia")
    device, why = found(replace(HIKEY, board=board), Access(emulate=True), tmp_path)
    assert device.emulated
    assert why.endswith("; aarch64 is emulated on x86_64: only outputs count")
    assert device.target.board == replace(HIKEY.board, threads=2, cpu_set="")


def test_a_stand_in_base_is_said(docker: FakeDocker, tmp_path: Path) -> None:
    docker.answer("image inspect", image("f00", stand_in="true"))
    device, why = found(HIKEY, Access(), tmp_path)
    assert device.image.stand_in
    assert why.endswith("has the image dlas/hikey970_neon on a stand-in base, debian@sha256:0")


@pytest.mark.parametrize(
    ("answers", "access", "error", "message"),
    [
        (
            {"info": info("x86_64")},
            Access(),
            EngineError,
            "ssh://hikey is x86_64, the target is aarch64; name the board with --device ssh://BOARD, or "
            "check outputs alone with --emulate",
        ),
        (
            {},
            Access(host="ssh://hikey", emulate=True),
            UsageError,
            "is aarch64 itself, there is nothing to emulate",
        ),
        (
            {"image inspect": image("old", base=BASE)},
            Access(),
            EngineError,
            "the image holds another runner than this version's; run inv build --target hikey",
        ),
        (
            {"image inspect": image("f00", base="debian@sha256:1")},
            Access(),
            EngineError,
            f"the image is built on debian@sha256:1, and not on {BASE}; run inv build --target hikey",
        ),
        ({}, Access("local"), TargetError, "it has no runner 'local'; choose from docker"),
        ({}, Access("podman"), UsageError, "unknown runner 'podman'"),
    ],
)
def test_a_device_that_will_not_do_is_refused(
    docker: FakeDocker,
    tmp_path: Path,
    answers: dict[str, str],
    access: Access,
    error: type[DlasError],
    message: str,
) -> None:
    for start, out in answers.items():
        docker.answer(start, out)
    with pytest.raises(error) as failure:
        found(HIKEY, access, tmp_path)
    assert message in str(failure.value)


def test_an_image_that_is_nowhere_is_to_be_built(docker: FakeDocker, tmp_path: Path) -> None:
    docker.answer("image inspect", err=ABSENT, code=1)
    with pytest.raises(EngineError) as failure:
        found(HIKEY, Access(), tmp_path)
    assert str(failure.value) == (
        "hikey970_neon: image absent at ssh://hikey, and not here; run inv build --target hikey"
    )


@pytest.mark.parametrize(("there", "is_it"), [(PINNED, True), (f"sha256:{'cd' * 32}", False)])
def test_a_target_can_pin_its_image(docker: FakeDocker, tmp_path: Path, there: str, is_it: bool) -> None:
    pinned = replace(HIKEY, image=replace(HIKEY.image or Image("", "", ""), id=PINNED))
    docker.answer("image inspect", image("f00", there, base=BASE))
    if is_it:
        assert found(pinned, Access(), tmp_path)[0].image.id == PINNED
        return
    with pytest.raises(EngineError, match=r"the image is sha256:cdcdcdcdcdcd, and not sha256:abab.* pins"):
        found(pinned, Access(), tmp_path)


def test_a_board_is_never_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    away = replace(targets.load("x86"), board=replace(targets.load("x86").board, host="ssh://hikey"))
    with pytest.raises(EngineError, match="there is no docker command"):
        reach.device(away, Access(), tmp_path, print)
    with pytest.raises(TargetError, match="it is not this machine; use --runner docker"):
        reach.device(away, Access("local"), tmp_path, print)


def test_containers_of_two_machines_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = reach.container_name(HIKEY, tmp_path)
    assert mine.startswith("dlas-hikey970_neon-")
    assert reach.container_name(HIKEY, tmp_path) == mine
    assert reach.container_name(HIKEY, tmp_path / "another checkout") != mine
    monkeypatch.setattr("socket.gethostname", lambda: "another machine")
    assert reach.container_name(HIKEY, tmp_path) != mine


def test_a_key_is_known_without_fetching_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlas.hardware.wheels.foreign_libraries", lambda *asked: pytest.fail("it fetches"))
    assert runner_key(HIKEY) == runner_key(targets.load("xavier_cpu")) != runner_key(targets.load("x86"))


def test_a_runner_for_a_gpu_is_another_one() -> None:
    names = ("xavier_cpu", "xavier_cuda", "hikey970_opencl")
    assert len({runner_key(targets.load(name)) for name in names}) == 3


def test_what_a_host_must_know_of_a_runner_is_not_its_compiler() -> None:
    other = replace(HIKEY, compiler=replace(HIKEY.compiler, cxx="g++"))
    assert runner_key(other) != runner_key(HIKEY)
    assert interface_key(other) == interface_key(HIKEY) != interface_key(targets.load("x86"))


@pytest.mark.parametrize(
    "host", ["hikey", "tcp://hikey:2375", "ssh://-oProxyCommand=true", "ssh://a b", "ssh://"]
)
def test_a_device_that_is_no_address_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="--device is"):
        found(HIKEY, Access(host=host), tmp_path)


@pytest.mark.parametrize("host", ["ssh://hikey", "ssh://me@192.0.2.7:2222", "ssh://me@[2001:db8::7]:22"])
def test_an_address_of_ssh_is_taken(host: str) -> None:
    assert reach.engine_of(HIKEY, Access(host=host)).host == host


def test_values_detected_here_are_not_for_another_machine(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://elsewhere")
    docker.answer("info", info("x86_64"))
    x86 = targets.load("x86")
    with pytest.raises(
        TargetError, match="detected on this machine, not at ssh://elsewhere; use --runner local"
    ):
        reach.device(x86, Access(), tmp_path, print)
    assert not reach.is_this_machine(x86, Access())
    assert reach.is_this_machine(x86, Access("local"))
