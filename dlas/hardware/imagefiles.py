"""Images as files, as `docker save` writes and `docker load` reads them, with nothing in them but what they
are made of: the same parts give the same bytes, and with them the same image id, on any machine.

A builder puts into an image when it was built, and its steps; so what one has built is written anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from dlas.errors import EngineError
from dlas.hardware.engine import Engine

Member = tuple[tarfile.TarInfo, bytes]

_OLDEST = "1970-01-01T00:00:00Z"
_SETTINGS = (
    "User",
    "Env",
    "Entrypoint",
    "Cmd",
    "WorkingDir",
    "Labels",
)  # of containers; all that counts here
_TRANSFER_S = 1800.0
_CHUNK_BYTES = 1 << 20


def pack_image(
    layers: Iterable[bytes | Path], settings: Mapping[str, Any], arch: str, name: str, path: Path
) -> str:
    """Write an image into a file, and return its id.

    layers: tar archives, the lowest first. settings: as in the configuration of an image. arch: amd64, arm64.
    name: its tag, empty for none. Follows the image specification of Docker 1.2.
    """
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        names, digests = [], []
        for number, layer in enumerate(layers):
            names.append(f"{number}.tar")
            digests.append(_add(archive, names[-1], layer))
        config = {
            "architecture": arch,
            "config": {key: settings[key] for key in _SETTINGS if settings.get(key)},
            "created": _OLDEST,
            "history": [{"created": _OLDEST, "created_by": "dlas"} for _ in names],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        }
        text = json.dumps(config, sort_keys=True).encode()
        image = hashlib.sha256(text).hexdigest()
        _add(archive, f"{image}.json", text)
        manifest = [{"Config": f"{image}.json", "Layers": names, "RepoTags": [name] if name else None}]
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return f"sha256:{image}"


def make_reproducible(engine: Engine, image_id: str, base: str) -> str:
    """Put an image that was built on a base into an engine once more, without what differs between builds.

    Returns the id of the new one, and removes the old one. Raises EngineError.
    """
    kept = len(json.loads(engine.ask("image", "inspect", "--format={{json .RootFS.Layers}}", base)))
    with tempfile.TemporaryDirectory(prefix="dlas-image-") as name:
        saved, made = Path(name, "saved.tar"), Path(name, "made.tar")
        engine.ask("save", f"--output={saved}", image_id, timeout_s=_TRANSFER_S)
        new_id = _rewrite(saved, made, kept, Path(name))
        engine.load(chunks(made), _TRANSFER_S)
    if engine.find_image(new_id) is None:
        raise EngineError(
            f"{engine.host} gives an image another id than the hash of its configuration",
            "switch off its containerd image store",
        )
    if new_id != image_id:
        engine.discard_image(image_id)
    return new_id


def chunks(path: Path) -> Iterator[bytes]:
    """The contents of a file, a piece at a time."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def pack_layer(members: Mapping[str, Member]) -> bytes:
    """A tar archive, sorted by name; no times, and all of it root's, as a new TarInfo has it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, (info, contents) in sorted(members.items()):
            info.name = name
            archive.addfile(info, io.BytesIO(contents))
    return out.getvalue()


def file_member(contents: bytes, mode: int = 0o644) -> Member:
    info = tarfile.TarInfo()
    info.size, info.mode = len(contents), mode
    return info, contents


def link_member(target: str) -> Member:
    info = tarfile.TarInfo()
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    return info, b""


def folder_member(mode: int) -> Member:
    info = tarfile.TarInfo()
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def _rewrite(saved: Path, made: Path, kept: int, folder: Path) -> str:
    """kept: how many of its layers are the base's, and stay as they are."""
    with tarfile.open(saved) as archive:
        (about,) = json.loads(_read(archive, "manifest.json"))
        config = json.loads(_read(archive, about["Config"]))
        layers: list[bytes | Path] = []
        for number, name in enumerate(about["Layers"]):
            contents = _open(archive, name)
            if number < kept:
                copy = folder / f"base{number}"
                with copy.open("wb") as file:
                    shutil.copyfileobj(contents, file)
                layers.append(copy)
            else:
                layers.append(_timeless(contents))
    return pack_image(layers, config["config"], config["architecture"], "", made)


def _timeless(layer: IO[bytes]) -> bytes:
    """A layer that our Dockerfiles make: files and folders."""
    members: dict[str, Member] = {}
    with tarfile.open(fileobj=layer) as archive:
        for info in archive:
            if info.isfile():
                members[info.name] = file_member(_read(archive, info.name), info.mode)
            elif info.isdir():
                members[info.name] = folder_member(info.mode)
            else:
                raise EngineError(
                    f"{info.name} of the image is no file and no folder", "copy only those into it"
                )
    return pack_layer(members)


def _open(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member = archive.extractfile(name)
    if member is None:
        raise EngineError(f"the engine saved an image whose {name} is no file", "report this defect of dlas")
    return member


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    return _open(archive, name).read()


def _add(archive: tarfile.TarFile, name: str, contents: bytes | Path) -> str:
    """Returns the sha256 of the contents."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    if isinstance(contents, bytes):
        info.size = len(contents)
        archive.addfile(info, io.BytesIO(contents))
        return hashlib.sha256(contents).hexdigest()
    info.size = contents.stat().st_size
    with contents.open("rb") as file:
        archive.addfile(info, file)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
