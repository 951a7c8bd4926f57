"""The docker command: what is asked of it, and what is made of what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlas.errors import EngineError
from dlas.hardware import engine
from dlas.hardware.engine import Engine, EngineFacts
from dlas.values import ContainerImage
from tests.hardware.fakes import ABSENT, SSH_FAILED, FakeDocker, image, info

BOARD = Engine("ssh://hikey")


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    return FakeDocker(tmp_path, monkeypatch)


def test_an_engine_is_that_of_the_address_then_of_the_environment_then_this_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://other")
    monkeypatch.setenv("DOCKER_CONTEXT", "a third one")
    assert (engine.at("ssh://hikey"), engine.at()) == (BOARD, Engine("ssh://other"))
    assert not {"DOCKER_HOST", "DOCKER_CONTEXT"} & set(engine.environment())
    monkeypatch.delenv("DOCKER_HOST")
    assert engine.at() == Engine("unix:///var/run/docker.sock")
    assert (engine.at().is_local, BOARD.is_local) == (True, False)


def test_a_command_says_which_engine_it_is_for(docker: FakeDocker) -> None:
    docker.answer("info", info("arm64", Runtimes={"nvidia": {}, "runc": {}}))
    assert BOARD.facts() == EngineFacts("27.0", "aarch64", 8, ("nvidia", "runc"))
    assert docker.asked == [["--host=ssh://hikey", "info", "--format={{json .}}"]]


def test_an_image_says_what_it_is(docker: FakeDocker) -> None:
    docker.answer("image inspect", image("f00", stand_in="true"))
    expected = ContainerImage(f"sha256:{'ab' * 32}", "debian@sha256:0", True, "f00", "linux/arm64", 9)
    assert BOARD.find_image("dlas/x") == expected
    docker.answer("image inspect", "[]", err=ABSENT, code=1)
    assert BOARD.find_image("dlas/x") is None


def test_what_is_gone_already_need_not_be_removed(docker: FakeDocker) -> None:
    docker.answer("container rm", err="Error response from daemon: No such container: x", code=1)
    BOARD.remove_container("x")
    docker.answer("container rm", err="Error response from daemon: it is stuck", code=1)
    with pytest.raises(EngineError, match=r"ssh://hikey: the Docker engine refused: .* it is stuck"):
        BOARD.remove_container("x")


@pytest.mark.parametrize("answer", [{"err": SSH_FAILED, "code": 1}, {"out": info(ServerErrors=[SSH_FAILED])}])
def test_why_an_engine_does_not_answer_is_one_line(docker: FakeDocker, answer: dict[str, Any]) -> None:
    docker.answer("info", **answer)
    with pytest.raises(EngineError) as failure:
        BOARD.facts()
    assert str(failure.value) == (
        "no Docker engine answers: ssh://hikey: ssh: connect to host hikey port 22: No route to host; "
        "see that `docker --host ssh://hikey version` answers"
    )


@pytest.mark.parametrize(
    "said",
    [
        "",
        "hello",
        "[]",
        "null",
        '{"ServerVersion": "27"}',
        info(NCPU="many"),
        info(Runtimes=7),
        info(ServerErrors=7),
    ],
)
def test_an_engine_that_talks_nonsense_is_refused(docker: FakeDocker, said: str) -> None:
    docker.answer("info", said)
    with pytest.raises(EngineError, match="ssh://hikey") as failure:
        BOARD.facts()
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "said", ["", "[]", "[7]", "{}", '[{"Id": 7}]', '[{"Id": "x", "Config": {"Labels": [1]}}]']
)
def test_an_image_that_is_none_is_refused(docker: FakeDocker, said: str) -> None:
    docker.answer("image inspect", said)
    with pytest.raises(EngineError, match="ssh://hikey"):
        BOARD.find_image("dlas/x")


def test_an_engine_that_says_too_much_is_refused(docker: FakeDocker) -> None:
    docker.answer("info", info(Name="x" * (9 << 20)))
    with pytest.raises(EngineError, match="longer than"):
        BOARD.facts()


def test_an_engine_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\nsleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(EngineError, match=r"no answer within 0\.2 s"):
        BOARD.ask("info", timeout_s=0.2)


def test_without_a_docker_command_there_is_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineError, match="there is no docker command; install it"):
        BOARD.facts()
