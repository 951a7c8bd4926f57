"""Files named by what they were made from, that appear whole or not at all; and the disk they take."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dlas.errors import StorageError, UsageError

SOURCES = (".py", ".cc", ".h", ".toml")
# The start time tells a process from a later one with the same id.
_TEMPORARY = re.compile(r"\.dlas-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]+\.tmp")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL_BELOW_BYTES = 1 << 20


def digest(*parts: str | bytes) -> str:
    """sha256 in hexadecimal of the parts, each behind its length, so that their borders count.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    state = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return state.hexdigest()


def hash_file(path: Path) -> str:
    """What `sha256sum path` prints. Raises StorageError."""
    with _storage_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """One digest of the contents, in the given order; names do not count. Raises StorageError."""
    return digest(*(hash_file(path) for path in paths))


def source_digest(packages: Iterable[Path]) -> str:
    """One digest of the names and contents of all sources (`SOURCES`) in these folders or files.

    Where the folders lie and in which order they are given does not count. Raises StorageError,
    also for a folder without sources: its digest would never change.
    """
    parts: list[tuple[str, str]] = []
    for package in packages:
        found = [package] if package.is_file() else _sources(package)
        if not found:
            raise StorageError(f"{package} has no source files", "check the installation of dlas")
        parts += [(path.relative_to(package.parent).as_posix(), hash_file(path)) for path in found]
    return digest(*(text for part in sorted(parts) for text in part))


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut. Replaces an older one.

    Makes the folders above it. Raises StorageError and leaves nothing behind.
    """
    temporary = _temporary_beside(path)
    with _storage_errors(path):
        _make_folder(path.parent)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in `parent` for the length of the block. Raises StorageError.

    What a killed process leaves of it, `remove_leftovers` finds.
    """
    folder = _temporary_beside(parent / "any")
    try:
        with _storage_errors(folder):
            _make_folder(parent)
            folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `final` when the block ends, and is removed when it raises.

    A `final` that is already there, say from another process that was faster, stays as it is and the
    new folder is dropped: what has the same name was made from the same inputs. Raises StorageError.
    """
    folder = _temporary_beside(final)
    try:
        with _storage_errors(final):
            _make_folder(final.parent)
            folder.mkdir()
        try:
            yield folder
        except OSError as error:
            # A short write of NumPy's has no errno.
            if error.errno in _FULL or shutil.disk_usage(folder).free < _FULL_BELOW_BYTES:
                raise storage_error(final, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
            raise
        with _storage_errors(final):
            _sync_tree(folder)
            _publish(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def storage_error(path: Path, error: OSError) -> StorageError:
    """What an OSError means to a user who wanted to write or read `path`."""
    if error.errno in _FULL:
        next_step = "free some with `invoke clean` and run the same command again"
    elif error.errno in _REFUSED:
        next_step = "give this user the right to read and write there"
    else:
        next_step = "check the path and the disk"
    return StorageError(f"{path}: {error.strerror or error}", next_step)


def usage(artifacts: Path) -> list[tuple[str, int, int]]:
    """Name, files and bytes of each folder in `artifacts`. Follows no links. Raises StorageError."""
    with _storage_errors(artifacts):
        return [(folder.name, *_size(folder)) for folder in _folders(artifacts)]


def free(artifacts: Path, names: Iterable[str]) -> int:
    """Delete these folders of `artifacts`, and all that killed processes left. Returns the bytes freed.

    Only what is named goes. Each folder goes whole: a kill in between leaves no half of an artifact
    under its name. Raises UsageError for a name that is not there, before anything is deleted, and
    StorageError for a link, which may lead out of `artifacts`.
    """
    folders = {folder.name: folder for folder in _folders(artifacts)}
    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if name not in folders:
            there = ", ".join(folders) or "nothing is there"
            raise UsageError(f"{artifacts} has no folder {name!r}", f"choose from: {there}")
        if folders[name].is_symlink():
            target = os.readlink(folders[name])
            raise StorageError(f"{folders[name]} is a link to {target}", "delete what it points to yourself")
    freed = 0
    for name in chosen:
        trash = _temporary_beside(folders[name])
        with _storage_errors(folders[name]):
            freed += _size(folders[name])[1]
            os.rename(folders[name], trash)
            shutil.rmtree(trash)
    return freed + remove_leftovers(artifacts)


def remove_leftovers(folder: Path) -> int:
    """Delete the temporary files and folders in here whose process is gone. Returns the bytes freed.

    Processes are looked up on this machine: do not call it on a folder that another one writes to.
    """
    freed = 0
    with _storage_errors(folder):
        for parent, names, files in os.walk(folder):
            leftovers = [Path(parent, name) for name in (*names, *files) if _is_leftover(name)]
            names[:] = [name for name in names if not _TEMPORARY.fullmatch(name)]
            for path in leftovers:
                freed += _size(path)[1]
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
    return freed


def _sources(package: Path) -> list[Path]:
    return [path for path in package.rglob("*") if path.suffix in SOURCES and path.is_file()]


def _temporary_beside(final: Path) -> Path:
    pid = os.getpid()
    return final.parent / f".dlas-{pid}-{_started(pid) or 0}-{secrets.token_hex(8)}.tmp"


def _started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19])  # field 22 of proc(5); the split begins at the third


def _is_leftover(name: str) -> bool:
    match = _TEMPORARY.fullmatch(name)
    return match is not None and _started(int(match["pid"])) != int(match["start"])


def _folders(artifacts: Path) -> list[Path]:
    if not artifacts.is_dir():
        return []
    with _storage_errors(artifacts):
        return sorted(path for path in artifacts.iterdir() if path.is_dir() and not path.name.startswith("."))


def _size(path: Path) -> tuple[int, int]:
    """Files and bytes of a file, a link or a folder, as they are now: others may be writing."""
    if path.is_symlink() or not path.is_dir():
        return 1, path.lstat().st_size
    files = total_bytes = 0
    for parent, _, names in os.walk(path, onerror=_refuse):
        for name in names:
            try:
                total_bytes += Path(parent, name).lstat().st_size
            except FileNotFoundError:
                continue
            files += 1
    return files, total_bytes


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _publish(folder: Path, final: Path) -> None:
    try:
        os.rename(folder, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not final.is_dir():
            raise
    sync(final.parent)


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for path in (*(Path(parent, name) for name in names), Path(parent)):
            if path.is_dir() or (path.is_file() and not path.is_symlink()):
                sync(path)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error
