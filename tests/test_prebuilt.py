"""Images that go from machine to machine: what is asked for wrongly, and what is not to be carried."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlas import prebuilt
from dlas.errors import EngineError, StorageError, UsageError
from dlas.hardware import reach, targets
from tests.hardware.fakes import ABSENT, FakeDocker, image

HIKEY = targets.load("hikey")
BASE = HIKEY.image.base if HIKEY.image else ""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    monkeypatch.setattr(reach, "interface_key", lambda target: "f00")
    return FakeDocker(tmp_path, monkeypatch)


def test_an_action_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"images cannot .lod.; did you mean load\?"):
        list(prebuilt.act("lod", tmp_path / "x", (), print))


def test_what_is_not_there_is_not_saved(docker: FakeDocker, tmp_path: Path) -> None:
    docker.answer("image inspect", err=ABSENT, code=1)
    with pytest.raises(EngineError, match="hikey970_neon: image absent; run inv build --target hikey"):
        list(prebuilt.act("save", tmp_path / "x", (HIKEY,), print))
    with pytest.raises(UsageError, match="no target has an image here"):
        list(prebuilt.act("save", tmp_path / "x", (), print))
    assert not (tmp_path / "x").exists()


def test_an_image_of_another_version_is_not_saved_as_todays(docker: FakeDocker, tmp_path: Path) -> None:
    docker.answer("image inspect", image("of an older dlas", base=BASE))
    with pytest.raises(
        EngineError, match="hikey970_neon: the image holds another runner than this version's"
    ):
        list(prebuilt.act("save", tmp_path / "x", (HIKEY,), print))


def test_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no archive")
    with pytest.raises(StorageError, match="x: it is not an archive of images"):
        list(prebuilt.act("verify", tmp_path / "x", (), print))
