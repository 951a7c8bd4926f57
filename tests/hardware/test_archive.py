"""Archives of images: whole, damaged and hostile, on an engine that is a script, and on real ones."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dlas.errors import EngineError, StorageError, TargetError, UsageError
from dlas.hardware import engine as engines
from dlas.hardware.archive import Commit, load, save, source_commit, verify
from dlas.hardware.engine import Engine
from dlas.hardware.manifest import Manifest, SavedImage, parse_manifest
from dlas.hardware.packing import Packer, finish, keep_place
from dlas.hardware.saved import Malformed, image_of
from dlas.values import Board, Compiler, ContainerImage, Image, Target
from tests.hardware.engines import clean_engine

COMMIT = Commit("0123456789abcdef0123456789abcdef01234567", True)
LAYER = "5d02820db14e33782f5d973caaa526b10b3d83a336f9357b3e9ff06d0ef8393d"
MIB = 1 << 20
Member = tuple[str | tarfile.TarInfo, bytes]


def target(name: str) -> Target:
    image = Image("docker/runner/Dockerfile", "debian:bookworm-slim", "linux/amd64", "bookworm")
    compiler = Compiler("llvm", "x86_64", "x86_64-linux-gnu", "x86-64", (), 4, 16, 1 << 18, "g++")
    return Target(name, (name[:2],), "a target", "", compiler, Board(("docker",), threads=1), image)


@dataclass(frozen=True)
class Stream:
    """What an engine would save of an image, and what it says of it."""

    data: bytes
    image: ContainerImage

    @property
    def digest(self) -> str:
        return self.image.id.removeprefix("sha256:")


def tar(members: list[Member]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def configuration(**changes: Any) -> bytes:
    labels = {"dlas.runner": "f00d", "dlas.base": "debian:12", "dlas.stand-in": "true"}
    return json.dumps(
        {"os": "linux", "architecture": "arm64", "config": {"Labels": labels}} | changes
    ).encode()


def stream(
    more: Callable[[str], list[Member]] = lambda digest: [],
    listed: Mapping[str, Any] | None = None,
    layer: bytes = b"a layer",
) -> Stream:
    """An image of one layer, as engines before 25 save it, and members that are no part of it."""
    about = configuration()
    digest = hashlib.sha256(about).hexdigest()
    entry = {"Config": f"{digest}.json", "RepoTags": None, "Layers": [f"{LAYER}/layer.tar"]} | dict(
        listed or {}
    )
    members: list[Member] = [
        (f"{digest}.json", about),
        (f"{LAYER}/layer.tar", layer),
        ("manifest.json", json.dumps([entry]).encode()),
    ]
    image = ContainerImage(f"sha256:{digest}", "debian:12", True, "f00d", "linux/arm64")
    return Stream(tar(members + more(digest)), image)


def entry(name: str, saved: Stream) -> SavedImage:
    image = saved.image
    about = (image.id, image.platform, image.base, image.stand_in, image.runner)
    return SavedImage(name, f"dlas/{name}", *about, stream_bytes=len(saved.data))


def pack(path: Path, entries: list[SavedImage], data: bytes) -> Manifest:
    """An archive that is right in all but what it says and holds."""
    manifest = Manifest(*COMMIT, {"dlas": "0.1.0"}, tuple(entries))
    with path.open("wb") as file:
        keep_place(file, manifest)
        packed = []
        for image in entries:
            packer = Packer(file)
            packer.write(data)
            packed.append(replace(packer.finish(image), stream_bytes=image.stream_bytes))
        manifest = replace(manifest, images=tuple(packed))
        finish(file, manifest)
    return manifest


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Manifest]:
    path, saved = tmp_path / "small.tar", stream()
    return path, pack(path, [entry("board", saved), entry("host", saved)], saved.data)


class FakeEngine:
    """A docker command that says what lies in a folder, and writes down what it was asked."""

    SCRIPT = """#!/bin/sh
shift
cd {folder} && echo "$*" >> calls
fail() {{ cat failure >&2; exit 1; }}
case "$1 $2" in
    "info "*) echo '{{"Architecture": "x86_64", "ServerVersion": "20.10", "NCPU": 2}}' ;;
    "save "*) cat "$2"; [ -e failure ] && fail; exit 0 ;;
    "load "*) [ -e failure ] && fail; cat > loaded ;;
    "image inspect") cat "about/$3" 2>&- || {{ echo "Error: No such image: $3" >&2; exit 1; }} ;;
esac
"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = Engine(f"unix://{folder}/none.sock")
        (folder / "about" / "dlas").mkdir(parents=True)
        script = folder / "docker"
        script.write_text(self.SCRIPT.format(folder=folder))
        script.chmod(0o755)

    def add(self, saved: Stream, *tags: str, **labels: str) -> None:
        image = saved.image
        own = {"dlas.runner": image.runner, "dlas.base": image.base, "dlas.stand-in": "true"}
        system, _, architecture = image.platform.partition("/")
        about = {"Id": image.id, "Os": system, "Architecture": architecture, "Size": 9}
        (self.folder / image.id).write_bytes(saved.data)
        for name in (image.id, *tags):
            text = json.dumps([about | {"Config": {"Labels": own | labels}}])
            (self.folder / "about" / name).write_text(text)

    def fail(self, words: str) -> None:
        (self.folder / "failure").write_text(words)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    made = FakeEngine(tmp_path / "engine")
    monkeypatch.setenv("PATH", str(made.folder), prepend=os.pathsep)
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The file


def test_an_archive_is_an_ordinary_tar(small: tuple[Path, Manifest]) -> None:
    path, manifest = small
    assert verify(path) == manifest
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == ["manifest.json", "board.tar.zst", "host.tar.zst"]
        assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} == {
            (0, 0, "", 0o644)
        }
        texts = [file.read() for member in members if (file := archive.extractfile(member))]
    about, packed = json.loads(texts[0]), texts[2]
    assert about["images"][0]["image_id"] == stream().image.id
    assert (about["commit"], about["dirty"], about["format"]) == (*COMMIT, 1)
    assert hashlib.sha256(packed).hexdigest() == about["images"][1]["member_sha256"]
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed) == stream().data


def test_every_byte_counts(tmp_path: Path) -> None:
    path = tmp_path / "one.tar"
    pack(path, [entry("board", stream())], stream().data)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(StorageError):
            verify(path)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "drop", "repeat", "zero"]), st.floats(0, 1), st.integers(1, 600)
    ),
    min_size=1,
    max_size=3,
)


def changed(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    for what, where, count in changes:
        at = int(where * len(data))
        end = at + count
        if what == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (count % 255 + 1)]) + data[at + 1 :]
        elif what == "cut":
            data = data[:at]
        elif what == "drop":
            data = data[:at] + data[end:]
        elif what == "repeat":
            data = data[:end] + data[at:]
        else:
            data = data[:at] + bytes(len(data[at:end])) + data[end:]
    return data


@given(changes=CHANGES)
def test_a_damaged_archive_is_refused_or_the_same(
    changes: list[tuple[str, float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, saved = tmp_path_factory.getbasetemp() / "damaged.tar", stream()
    manifest = pack(path, [entry("board", saved)], saved.data)
    path.write_bytes(changed(path.read_bytes(), changes))
    with suppress(StorageError):
        assert verify(path) == manifest


@given(changes=CHANGES)
def test_a_damaged_manifest_is_refused_or_the_same(changes: list[tuple[str, float, int]]) -> None:
    manifest = Manifest(*COMMIT, {"dlas": "0.1.0"}, (entry("board", stream()),))
    with suppress(Malformed):
        assert parse_manifest(changed(manifest.encode(), changes)) == manifest


@given(changes=CHANGES)
def test_a_damaged_stream_is_refused_or_of_the_image(changes: list[tuple[str, float, int]]) -> None:
    saved = stream(lambda digest: [("index.json", b'{"manifests": []}')])
    with suppress(Malformed):
        assert image_of(io.BytesIO(changed(saved.data, changes)).read, saved.image.id) == saved.image


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1], "it is truncated: it has [0-9]+ bytes, [0-9]+ were expected"),
        (lambda data: data[:700], "it is truncated: its manifest.json is cut off"),
        (lambda data: data + b"\0", "something follows its end"),
        (lambda data: b"", "it is not an archive of images, or its beginning is damaged"),
        (lambda data: stream().data, "it is not an archive of images"),
        (lambda data: data.replace(b"(\xb5/\xfd", b"(\xb5/\xfc", 1), "board.tar.zst is damaged: its sha256"),
        (
            lambda data: data.replace(b'"dirty": true', b'"dirty": null', 1),
            "manifest.json: its commit is none",
        ),
        (
            lambda data: data.replace(b'"dirty": true', b'"dirty":false', 1),
            "manifest.json: its sha256 is not",
        ),
        (lambda data: data.replace(b"debian:12", b"debian:13"), "manifest.json: its sha256 is not that"),
        (
            lambda data: data.replace(b'"format": 1', b'"format": 2'),
            "it has format 2, this version of dlas reads 1",
        ),
        (
            lambda data: data.replace(b"host.tar.zst", b"../x.tar.zst"),
            "the header of host.tar.zst is damaged",
        ),
    ],
)
def test_what_is_wrong_is_named(
    damage: Callable[[bytes], bytes], words: str, small: tuple[Path, Manifest]
) -> None:
    path, _ = small
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageError, match=f"small.tar: .*{words}.*; get it again, or make it with"):
        verify(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, words in (("fifo", "it is not a file"), (".", "not a file"), ("none", "No such file")):
        with pytest.raises(StorageError, match=words):
            verify(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tag": "debian"}, "the tag of an image is none"),
        ({"tag": "dlas/board:1"}, "the tag of an image is none"),
        ({"tag": "dlas/other"}, "the stand_in or the tag of an image is none"),
        ({"target": "../board"}, "the target of an image is none"),
        ({"image_id": "debian"}, "the image_id of an image is none"),
        ({"base": "debian\x1b[2J"}, "the base of an image is none"),
        ({"stream_bytes": True}, "the stream_bytes of an image are not 1 to"),
        ({"member_bytes": 8**11}, "the member_bytes of an image are not 1 to"),
        ({"stand_in": "yes"}, "the stand_in or the tag"),
    ],
)
def test_a_manifest_that_asks_for_more_is_refused(changes: dict[str, Any], words: str) -> None:
    image = replace(entry("board", stream()), **changes)
    with pytest.raises(Malformed, match=words):
        parse_manifest(Manifest(*COMMIT, {}, (image,)).encode())


def test_a_manifest_has_the_keys_of_its_format_and_no_others() -> None:
    good = Manifest(*COMMIT, {}, (entry("board", stream()),)).encode()
    with pytest.raises(Malformed, match="its keys are not"):
        parse_manifest(good.replace(b"{", b'{"extra": 1, ', 1))
    with pytest.raises(Malformed, match="an image has not the keys"):
        parse_manifest(good.replace(b'"base"', b'"case"', 1))
    for text in (b"[" * 100_000, b"9" * 100_000, b'{"format": 1, "format": 1}', b"[1]", b"\xff"):
        with pytest.raises(Malformed):
            parse_manifest(text)
    image = entry("board", stream())
    for images in ((), (image, image), (entry("host", stream()), image)):
        with pytest.raises(Malformed, match=r"1 to 100 images|not in order"):
            parse_manifest(Manifest(*COMMIT, {}, images).encode())


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path, saved = tmp_path / "bomb.tar", stream(layer=bytes(200 * MIB))
    pack(path, [replace(entry("board", saved), stream_bytes=9000)], saved.data)
    assert path.stat().st_size < MIB
    tracemalloc.start()
    try:
        with pytest.raises(StorageError, match=r"board.tar.zst: it has more than 9000 bytes"):
            verify(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def info(name: str, **changes: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


LINK = {"type": tarfile.SYMTYPE}
HOSTILE: dict[str, tuple[Stream, str]] = {
    "tags": (stream(listed={"RepoTags": ["debian:12"]}), "it brings tags of its own"),
    "tags in Go": (stream(listed={"repotags": ["debian:12"]}), "not of the image that it should be"),
    "tags by its parent": (stream(listed={"Parent": "x"}), "not of the image that it should be"),
    "names": (
        stream(lambda _: [("index.json", b'{"m": [{"Io.containerd.image.\\u006eame": "debian:12"}]}')]),
        "it brings names of its own",
    ),
    "two lists": (stream(lambda _: [("manifest.json", b"[]")]), "it has manifest.json twice"),
    "repositories": (stream(lambda _: [("repositories", b"{}")]), "that docker save does not write"),
    "a way out": (stream(lambda _: [("../manifest.json", b"[]")]), "that docker save does not write"),
    "another way to it": (stream(lambda _: [("./manifest.json", b"[]")]), "that docker save does not write"),
    "a link out": (
        stream(lambda _: [(info(f"{LAYER[::-1]}/layer.tar", linkname="/etc/passwd", **LINK), b"")]),
        "is a link to what is no layer",
    ),
    "a link to its list": (
        stream(lambda _: [(info("manifest.json", linkname="x", **LINK), b"")]),
        "that docker save does not write",
    ),
    "no layer": (stream(listed={"Layers": [f"{LAYER[::-1]}/layer.tar"]}), "lists a layer that it has not"),
    "another configuration": (
        stream(lambda digest: [(f"blobs/sha256/{digest}", configuration())]),
        "it has no configuration whose sha256",
    ),
    "a directory of some size": (
        stream(lambda _: [(info(f"{LAYER[::-1]}/", type=tarfile.DIRTYPE, size=7), b"1234567")]),
        "has a size, but is not a file",
    ),
    "a long list": (stream(listed={"Layers": ["x" * (1 << 20)]}), "manifest.json has more than"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_stream_is_refused(how: str, tmp_path: Path) -> None:
    saved, words = HOSTILE[how]
    path = tmp_path / "hostile.tar"
    pack(path, [entry("board", saved)], saved.data)
    with pytest.raises(StorageError, match=f"board.tar.zst: .*{words}"):
        verify(path)


def test_a_header_that_others_read_differently_is_refused() -> None:
    saved = stream()
    block = saved.data[:512]
    for at, text in (
        (345, b"evil"),
        (257, b"ustar  \0"),
        (124, b"\x80"),
        (500, b"tar\0"),
        (156, b"x"),
        (156, b"L"),
    ):
        header = bytearray(block)
        header[at : at + len(text)] = text
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
        with pytest.raises(Malformed, match=r"plain ustar|is not a number|does not write"):
            image_of(io.BytesIO(header + saved.data[512:]).read, saved.image.id)


def test_a_manifest_cannot_call_an_image_what_it_is_not(tmp_path: Path) -> None:
    saved = stream()
    for changes in ({"stand_in": False}, {"base": "l4t"}, {"platform": "linux/amd64"}, {"runner": "ab"}):
        pack(tmp_path / "a.tar", [replace(entry("board", saved), **changes)], saved.data)
        with pytest.raises(StorageError, match="says other things of it than its configuration"):
            verify(tmp_path / "a.tar")


def test_blobs_as_later_engines_save_them() -> None:
    about = configuration()
    digest = hashlib.sha256(about).hexdigest()
    blob = f"blobs/sha256/{digest}"
    listed = [{"Config": blob, "RepoTags": [], "Layers": [], "LayerSources": {}}]
    members: list[Member] = [
        (info("blobs/", type=tarfile.DIRTYPE), b""),
        (info("blobs/sha256/", type=tarfile.DIRTYPE), b""),
        (blob, about),
        ("index.json", b'{"schemaVersion": 2, "manifests": [{"digest": "sha256:0"}]}'),
        ("manifest.json", json.dumps(listed).encode()),
        ("oci-layout", b"{}"),
    ]
    assert image_of(io.BytesIO(tar(members)).read, f"sha256:{digest}") == stream().image


# Saving and loading


def test_two_saves_are_the_same_bytes(fake: FakeEngine, tmp_path: Path) -> None:
    fake.add(stream(), "dlas/board", "dlas/host")
    said: list[str] = []
    manifest = save(
        fake.engine, [target("host"), target("board")], tmp_path / "new" / "a", COMMIT, said.append
    )
    again = save(fake.engine, [target("board"), target("host")], tmp_path / "b", COMMIT, lambda line: None)
    assert verify(tmp_path / "new" / "a") == manifest == again
    assert (tmp_path / "new" / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [image.target for image in manifest.images] == ["board", "host"]
    assert {"apache-tvm", "apache-tvm-ffi", "dlas", "docker", "zstandard"} <= set(manifest.versions)
    assert [line.split()[:2] for line in said] == [["dlas/board:", "saved"], ["dlas/host:", "saved"]]


def test_the_times_of_a_save_are_left_out(fake: FakeEngine, tmp_path: Path) -> None:
    link = info(f"{LAYER[::-1]}/layer.tar", linkname=f"../{LAYER}/layer.tar", mtime=1_700_000_000, **LINK)
    for second, name in enumerate("ab"):
        link.mtime += second
        fake.add(stream(lambda _: [(link, b"")]), "dlas/board")
        save(fake.engine, [target("board")], tmp_path / name, COMMIT, print)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_save_leaves_what_was_there(fake: FakeEngine, tmp_path: Path) -> None:
    saved, path = stream(), tmp_path / "out" / "images.tar"
    path.parent.mkdir()
    path.write_text("old")
    fake.add(saved, "dlas/board", "dlas/host")

    def attempt(error: type[BaseException], words: str | None, say: Callable[[str], Any] = print) -> None:
        with pytest.raises(error, match=words):
            save(fake.engine, [target("board"), target("host")], path, COMMIT, say)
        assert names(path.parent) == ["images.tar"]
        assert path.read_text() == "old"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    attempt(KeyboardInterrupt, None, interrupt)
    fake.fail("Error response from daemon: its disk is gone")
    attempt(EngineError, "the Docker engine refused: Error response from daemon: its disk is gone")
    (fake.folder / "failure").unlink()
    (fake.folder / saved.image.id).write_bytes(saved.data[:3000])
    attempt(EngineError, "wrote for board cannot be archived: it is cut off")
    fake.add(replace(stream(), data=HOSTILE["tags"][0].data), "dlas/host")
    attempt(EngineError, "cannot be archived: it brings tags")
    fake.add(saved, "dlas/host", **{"dlas.base": "another"})
    attempt(EngineError, "for host cannot be archived: its configuration says other things than the engine")
    fake.add(saved, "dlas/host", **{"dlas.base": "a b"})
    attempt(EngineError, "cannot be archived: the base of an image is none")
    (fake.folder / "about" / "dlas" / "host").unlink()
    attempt(EngineError, "host: image absent on .*; run inv build --target ho")


def test_nothing_to_save_is_said(fake: FakeEngine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no image to save"):
        save(fake.engine, [], tmp_path / "a", COMMIT, print)
    with pytest.raises(UsageError, match="is a folder"):
        save(fake.engine, [target("board")], tmp_path, COMMIT, print)
    with pytest.raises(TargetError, match="board: it has no image"):
        save(fake.engine, [replace(target("board"), image=None)], tmp_path / "a", COMMIT, print)
    fake.add(stream(), "dlas/board")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"/file/.*: File exists"):
        save(fake.engine, [target("board")], tmp_path / "file" / "a", COMMIT, print)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_said(fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.add(stream(layer=secrets.token_bytes(MIB)), "dlas/board")
    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode="r", **more: (
            opened(Path("/dev/full"), "r+b", 0) if mode == "xb" else opened(path, mode, **more)
        ),
    )
    with pytest.raises(StorageError, match=r"a: No space left on device; free some"):
        save(fake.engine, [target("board")], tmp_path / "out" / "a", COMMIT, print)
    assert names(tmp_path / "out") == []


def test_loading_gives_the_engine_what_was_saved(fake: FakeEngine, small: tuple[Path, Manifest]) -> None:
    path, manifest = small
    fake.add(stream())
    assert load(fake.engine, path, print) == manifest
    image_id = stream().image.id
    once = ["load --quiet", f"image inspect {image_id}", f"image tag {image_id} dlas/"]
    assert fake.calls == [once[0], once[1], f"{once[2]}board", once[0], once[1], f"{once[2]}host"]
    assert (fake.folder / "loaded").read_bytes() == stream().data


def test_memory_does_not_grow_with_the_image(fake: FakeEngine, tmp_path: Path) -> None:
    fake.add(stream(layer=secrets.token_bytes(MIB) * 64), "dlas/board")
    tracemalloc.start()
    try:
        save(fake.engine, [target("board")], tmp_path / "a", COMMIT, quiet)
        load(fake.engine, tmp_path / "a", quiet)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


def test_an_engine_sees_nothing_of_a_damaged_archive(fake: FakeEngine, small: tuple[Path, Manifest]) -> None:
    path, _ = small
    data = path.read_bytes()
    at = data.rindex(b"(\xb5/\xfd")  # in the last image
    path.write_bytes(data[: at + 9] + bytes([data[at + 9] ^ 4]) + data[at + 10 :])
    with pytest.raises(StorageError, match=r"host.tar.zst is damaged"):
        load(fake.engine, path, print)
    assert fake.calls == []


def test_what_an_engine_does_not_take_is_said(fake: FakeEngine, small: tuple[Path, Manifest]) -> None:
    path, _ = small
    with pytest.raises(EngineError, match=r"it loaded board.tar.zst, and does not have the image sha256:"):
        load(fake.engine, path, print)
    fake.fail("Error processing tar file(exit status 1): write /layer.tar: no space left on device")
    with pytest.raises(EngineError, match=r"no space is left for the image: .*; free some"):
        load(fake.engine, path, print)
    fake.fail("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?")
    with pytest.raises(EngineError, match="no Docker engine answers"):
        load(fake.engine, path, print)


def test_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "checkout"
    (root / "inside").mkdir(parents=True)
    assert source_commit(root) == ("", False)
    assert source_commit(tmp_path / "none") == ("", False)

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)

    git("init")
    assert source_commit(root) == ("", False)  # nothing is committed yet
    git("commit", "--allow-empty", "--message=first")
    commit = source_commit(root)
    assert len(commit.sha) == 40
    assert not commit.dirty
    assert source_commit(root / "inside") == ("", False)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    (root / "inside" / "new").write_text("")
    assert source_commit(root) == (commit.sha, True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_commit(root) == ("", False)


# Real engines


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Callable[[str, int], Target]]:
    """Builds an image of so many random bytes for a new target of some platform; all go again."""
    engine, made = engines.at(), list[Target]()

    def build(platform: str, size: int) -> Target:
        new = target(f"test_{secrets.token_hex(8)}")
        context = tmp_path / new.name
        context.mkdir()
        (context / "bytes").write_bytes(secrets.token_bytes(size))
        lines = ["FROM scratch", "COPY bytes /a", "COPY bytes /a", "USER 10001"]
        (context / "Dockerfile").write_text("\n".join(lines))
        labels = [f"--label={key}" for key in ("dlas.runner=f00d", "dlas.base=scratch", "dlas.stand-in=true")]
        command = engine.command(
            "build", f"--platform={platform}", f"--tag={new.image_tag}", *labels, str(context)
        )
        subprocess.run(command, env=os.environ | {"DOCKER_BUILDKIT": "0"}, check=True, capture_output=True)
        made.append(new)
        return new

    yield build
    for one in made:
        with suppress(EngineError):
            engine.remove_image(one.image_tag)


def quiet(line: str) -> None:
    pass


@pytest.mark.docker
def test_an_image_comes_back_as_it_was(built: Callable[[str, int], Target], tmp_path: Path) -> None:
    engine = engines.at()
    chosen = [built("linux/amd64", 1000), built("linux/arm64", 2000)]
    before = [engine.find_image(one.image_tag) for one in chosen]
    manifest = save(engine, chosen, tmp_path / "a.tar", COMMIT, quiet)
    assert verify(tmp_path / "a.tar") == manifest
    for one in chosen:
        engine.remove_image(one.image_tag)
        assert engine.find_image(one.image_tag) is None
    assert load(engine, tmp_path / "a.tar", quiet) == manifest
    assert [engine.find_image(one.image_tag) for one in chosen] == before
    assert {image.platform for image in manifest.images} == {"linux/amd64", "linux/arm64"}
    save(engine, chosen, tmp_path / "b.tar", COMMIT, quiet)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.docker
def test_a_clean_engine_gets_the_same_image(built: Callable[[str, int], Target], tmp_path: Path) -> None:
    chosen = [built("linux/amd64", 1000), built("linux/arm64", 2000)]
    path = tmp_path / "a.tar"
    save(engines.at(), chosen, path, COMMIT, quiet)
    with clean_engine(tmp_path / "clean") as other:
        assert other.find_image(chosen[0].image_tag) is None
        for _ in range(2):  # once more is no harm
            manifest = load(other, path, quiet)
        for image in manifest.images:
            found = other.find_image(image.tag)
            assert found == engines.at().find_image(image.tag)
            assert found is not None
            assert found.id == image.image_id
        save(other, chosen, tmp_path / "b.tar", COMMIT, quiet)
    assert path.read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.docker
def test_an_engine_without_space_says_so_and_goes_on(
    built: Callable[[str, int], Target], tmp_path: Path
) -> None:
    save(engines.at(), [built("linux/amd64", 20 * MIB)], tmp_path / "large.tar", COMMIT, quiet)
    small = save(engines.at(), [built("linux/amd64", 1000)], tmp_path / "small.tar", COMMIT, quiet)
    with clean_engine(tmp_path / "clean", size_mib=24) as other:
        with pytest.raises(EngineError, match=r"no space is left for the image: .*; free some"):
            load(other, tmp_path / "large.tar", quiet)
        assert load(other, tmp_path / "small.tar", quiet) == small
        assert other.ask("image", "ls", "--quiet", "--no-trunc").split() == [small.images[0].image_id]


@pytest.mark.docker
def test_a_clean_engine_ends_with_its_test(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), clean_engine(tmp_path / "clean") as other:
        assert other.facts().cpus
        raise ZeroDivisionError
    with pytest.raises(EngineError, match="no Docker engine answers"):
        other.facts()
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in left
    assert names(tmp_path / "clean") == ["dockerd.log"]
