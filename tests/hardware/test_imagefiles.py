"""Images as files: the same parts make the same image, whoever built it and when."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dlas.errors import EngineError
from dlas.hardware import engine, imagefiles
from dlas.hardware.image import build_image
from dlas.values import Target
from tests.hardware.engines import clean_engine

SETTINGS = {"User": "10001:10001", "Labels": {"a": "b"}, "Hostname": "of the builder", "Cmd": None}


def layer(mtime: int, *, uid: int = 0, pax: bool = False) -> bytes:
    """opt/dlas/x as a builder may have written it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, size in (("opt", tarfile.DIRTYPE, 0), ("opt/x", tarfile.REGTYPE, 3)):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode, info.mtime, info.uid = kind, size, 0o755, mtime, uid
            info.pax_headers = {"mtime": f"{mtime}.25"} if pax else {}
            archive.addfile(info, io.BytesIO(b"abc"[:size]))
    return out.getvalue()


def test_an_image_has_nothing_in_it_but_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    image_id = imagefiles.pack_image([b"low", b"high"], SETTINGS, "arm64", "dlas/x", path)
    with tarfile.open(path) as archive:
        assert {member.mtime for member in archive} == {0}
        (about,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        text = archive.extractfile(about["Config"]).read()  # type: ignore[union-attr]
    assert about == {
        "Config": f"{image_id[7:]}.json",
        "Layers": ["0.tar", "1.tar"],
        "RepoTags": ["dlas/x"],
    }
    assert hashlib.sha256(text).hexdigest() == image_id[7:]
    config = json.loads(text)
    assert config["config"] == {"User": "10001:10001", "Labels": {"a": "b"}}
    assert (config["architecture"], config["os"]) == ("arm64", "linux")
    assert config["rootfs"]["diff_ids"] == [
        f"sha256:{hashlib.sha256(part).hexdigest()}" for part in (b"low", b"high")
    ]


def saved(path: Path, base: bytes, ours: bytes, created: str) -> Path:
    """As an engine saves what it has built."""
    config = {"architecture": "arm64", "config": SETTINGS, "created": created, "container": "c0ffee"}
    with tarfile.open(path, "w") as archive:
        for name, contents in {
            "c.json": json.dumps(config).encode(),
            "1/layer.tar": base,
            "2/layer.tar": ours,
            "manifest.json": json.dumps(
                [{"Config": "c.json", "Layers": ["1/layer.tar", "2/layer.tar"]}]
            ).encode(),
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
    return path


def test_what_differs_between_builds_is_left_out(tmp_path: Path) -> None:
    files = []
    for number, ours in enumerate((layer(5), layer(1_700_000_000, pax=True))):
        built = saved(tmp_path / f"saved{number}", b"base", ours, f"202{number}-01-01T00:00:00Z")
        files.append(tmp_path / f"made{number}")
        imagefiles._rewrite(built, files[-1], 1, tmp_path)
    assert files[0].read_bytes() == files[1].read_bytes()
    with tarfile.open(files[0]) as archive:
        assert archive.extractfile("0.tar").read() == b"base"  # type: ignore[union-attr]
        with tarfile.open(fileobj=archive.extractfile("1.tar")) as inner:
            assert [(m.name, m.mode, m.mtime) for m in inner] == [("opt", 0o755, 0), ("opt/x", 0o755, 0)]
            assert inner.extractfile("opt/x").read() == b"abc"  # type: ignore[union-attr]


def test_the_base_stays_as_it_is(tmp_path: Path) -> None:
    ids = {
        imagefiles._rewrite(saved(tmp_path / "saved", base, layer(1), "2026"), tmp_path / "made", 1, tmp_path)
        for base in (b"base", b"bass")
    }
    assert len(ids) == 2


@pytest.mark.docker
def test_an_image_that_an_engine_names_otherwise_is_refused(
    host: Target, base: str, monkeypatch: pytest.MonkeyPatch, artifacts: Path
) -> None:
    made: list[str] = []
    pack_image = imagefiles.pack_image

    def misname(*parts: object) -> str:
        made.append(pack_image(*parts))  # type: ignore[arg-type]
        return f"sha256:{'0' * 64}"

    monkeypatch.setattr(imagefiles, "pack_image", misname)
    other = replace(host, name="test_misnamed")
    with pytest.raises(EngineError, match="another id than the hash of its configuration"):
        build_image(other, artifacts, base, lambda line: None)
    assert made
    assert engine.at().find_image(other.image_tag) is None


@pytest.mark.docker
def test_building_elsewhere_and_later_gives_the_same_image(
    host: Target, base: str, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an engine that shares nothing with this one but the base."""
    here = build_image(host, artifacts, base, lambda line: None)
    time.sleep(1.1)  # the resolution of the times in an archive
    with clean_engine(tmp_path) as elsewhere:
        carried = tmp_path / "base.tar"
        engine.at().ask("save", f"--output={carried}", base)
        elsewhere.ask("load", f"--input={carried}", timeout_s=120)
        monkeypatch.setenv("DOCKER_HOST", elsewhere.host)
        there = build_image(host, artifacts, base, lambda line: None)
        assert elsewhere.find_image(host.image_tag) == there
    assert there == here
