"""One file for the images of targets: an ordinary tar of manifest.json and a `docker save | zstd` for each.

It takes images to engines that reach no registry. The same images give the same bytes, and every byte counts:
`verify` needs no engine, and an engine gets nothing of an archive before all of it was found good.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dlas.cache import storage_error, sync, temporary_folder
from dlas.errors import EngineError, StorageError, TargetError, UsageError
from dlas.hardware.engine import Engine, Log, build_hint
from dlas.hardware.manifest import Manifest, SavedImage, parse_manifest
from dlas.hardware.packing import Packer, Part, Tap, finish, keep_place, layout, unpacked
from dlas.hardware.saved import CHUNK_BYTES, Malformed, image_of
from dlas.values import ContainerImage, Target

__all__ = ["Commit", "Manifest", "SavedImage", "load", "save", "source_commit", "verify"]

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "dlas", "zstandard")
_LOAD_S = 300
_LOAD_BYTES_PER_S = 1 << 18  # a board behind a slow line
_ANSWER_S = 60
_AGAIN = "get it again, or make it with `inv images save`"


class Commit(NamedTuple):
    """sha: empty when not known. dirty: whether there are changes that are not in it."""

    sha: str
    dirty: bool


def source_commit(root: Path) -> Commit:
    """The commit of the checkout with this root; none without git, or when root is no checkout's own."""
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return Commit("", False)
        return Commit(_git(root, "rev-parse", "HEAD"), bool(_git(root, "status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return Commit("", False)


def save(engine: Engine, targets: Iterable[Target], path: Path, commit: Commit, say: Log) -> Manifest:
    """Write the images that the engine has for these targets to one file, which replaces an older one.

    It is there whole or not at all. say gets a line for each image. Raises UsageError, TargetError,
    EngineError, also for an image that is not there, and StorageError.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "name the file to write, such as images.tar")
    draft = _draft(engine, targets, commit)
    try:
        with temporary_folder(path.parent) as folder:
            file = folder / path.name
            manifest = _write(engine, draft, file, say)
            os.replace(file, path)
        sync(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    return manifest


def verify(path: Path) -> Manifest:
    """What is in an archive, every byte of which was checked; no engine is asked. Raises StorageError."""
    with _opened(path) as file:
        return _checked(file)[0]


def load(engine: Engine, path: Path, say: Log) -> Manifest:
    """Give an engine the images of an archive, each under its target's tag. say gets a line for each.

    Raises StorageError before anything is loaded, and EngineError, also when the engine has then not
    the very image that was saved. What was loaded before stays, and loading again is no harm.
    """
    with _opened(path) as file:
        manifest, parts = _checked(file)
        for image, part in zip(manifest.images, parts, strict=True):
            engine.load(_pieces(image, part), _LOAD_S + image.stream_bytes / _LOAD_BYTES_PER_S)
            if _known(engine, image.image_id) != image.image:
                raise EngineError(
                    f"{engine.host}: it loaded {image.member}, and does not have the image {image.image_id}",
                    "engines with the containerd image store give other ids: switch it off there",
                )
            engine.tag_image(image.image_id, image.tag)
            say(f"{image.tag}: loaded {image.image_id}")
    return manifest


def _git(root: Path, *arguments: str) -> str:
    # A hook of git's has variables that name another checkout than the folder's.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(root), *arguments]
    said = subprocess.run(
        command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=True
    )
    return os.fsdecode(said.stdout).rstrip("\n")


def _draft(engine: Engine, targets: Iterable[Target], commit: Commit) -> Manifest:
    """A manifest without sizes and hashes, before anything large is moved."""
    chosen = {target.name: target for target in targets}
    if not chosen:
        raise UsageError("there is no image to save", "name a target with --target")
    images = []
    for name, target in sorted(chosen.items()):
        if target.image is None:
            raise TargetError(f"{name}: it has no image", "give its TOML an [image] table")
        found = _known(engine, target.image_tag)
        if found is None:
            raise EngineError(f"{name}: image absent on {engine.host}", f"run {build_hint(target)}")
        about = (found.id, found.platform, found.base, found.stand_in, found.runner)
        images.append(SavedImage(name, target.image_tag, *about))
    versions = _versions(engine, chosen.values())
    draft = Manifest(commit.sha, commit.dirty, versions, tuple(images))
    try:
        return parse_manifest(draft.encode())
    except Malformed as error:
        cause = f"{engine.host}: its images cannot be archived: {error}"
        raise EngineError(cause, "build them again") from error


def _known(engine: Engine, reference: str) -> ContainerImage | None:
    """What is the same on every engine."""
    found = engine.find_image(reference)
    return found and replace(found, size_bytes=0)


def _versions(engine: Engine, targets: Iterable[Target]) -> dict[str, str]:
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    versions["docker"] = engine.facts().version
    for cxx in {target.compiler.cxx for target in targets if shutil.which(target.compiler.cxx)}:
        said = subprocess.run([cxx, "-dumpfullversion"], capture_output=True, text=True, check=False)
        if said.returncode == 0:  # not every compiler knows the option; the runner's key covers them all
            versions[Path(cxx).name] = said.stdout.strip()
    return versions


def _write(engine: Engine, draft: Manifest, path: Path, say: Log) -> Manifest:
    with path.open("xb") as file:
        keep_place(file, draft)
        manifest = replace(draft, images=tuple(_append(engine, image, file, say) for image in draft.images))
        finish(file, manifest)
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _append(engine: Engine, image: SavedImage, file: BinaryIO, say: Log) -> SavedImage:
    packer = Packer(file)
    with engine.saving(image.image_id) as read:
        try:
            if image_of(read, image.image_id, packer.write) != image.image:
                raise Malformed("its configuration says other things than the engine")
        except Malformed as error:
            raise EngineError(
                f"{engine.host}: what `docker save` wrote for {image.target} cannot be archived: {error}",
                "engines with the containerd image store give images other ids: switch it off there",
            ) from error
    saved = packer.finish(image)
    say(f"{image.tag}: saved {image.image_id}, {saved.member_bytes / 1e6:.1f} MB")
    return saved


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        if path.exists() and not path.is_file():
            raise Malformed("it is not a file")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise storage_error(path, error) from error
    except Malformed as error:
        raise StorageError(f"{path}: {error}", _AGAIN) from error


def _checked(file: BinaryIO) -> tuple[Manifest, list[Part]]:
    """The manifest, and what holds its images, unread."""
    manifest, parts = layout(file)
    for image, part in zip(manifest.images, parts(), strict=True):
        if hashlib.file_digest(part, "sha256").hexdigest() != image.member_sha256:  # type: ignore[arg-type]
            raise Malformed(f"{image.member} is damaged: its sha256 is not that of manifest.json")
    for image, part in zip(manifest.images, parts(), strict=True):
        try:
            _check_stream(image, part)
        except Malformed as error:
            raise Malformed(f"{image.member}: {error}") from error
    return manifest, parts()


def _check_stream(image: SavedImage, part: Part) -> None:
    tap = Tap(unpacked(part), image.stream_bytes)
    if image_of(tap.read, image.image_id) != image.image:
        raise Malformed("manifest.json says other things of it than its configuration")
    _check_end(image, tap)


def _check_end(image: SavedImage, tap: Tap) -> None:
    if (tap.bytes, tap.sha256) != (image.stream_bytes, image.stream_sha256):
        raise Malformed("it does not unpack to the sha256 of manifest.json")


def _pieces(image: SavedImage, part: Part) -> Iterator[bytes]:
    """Checked once more: the file may have changed since."""
    tap = Tap(unpacked(part), image.stream_bytes)
    while piece := tap.read(CHUNK_BYTES):
        yield piece
    _check_end(image, tap)
