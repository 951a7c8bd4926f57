from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlas import cache
from dlas.errors import StorageError, UsageError

PARTS = st.lists(st.text(alphabet="ab", max_size=3), max_size=4)
# Fills a temporary folder and tells its name, then waits for its end.
WRITER = """
import sys, time
from pathlib import Path
from dlas.cache import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_artifacts(root: Path) -> Path:
    for name, size in (
        ("modules/key/model.so", 1000),
        ("modules/key/input.npy", 24),
        ("results/smoke/row", 70),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (root / "README.md").write_text("stays")
    return root


@given(a=PARTS, b=PARTS)
def test_digest_tells_lists_of_parts_apart(a: list[str], b: list[str]) -> None:
    assert (cache.digest(*a) == cache.digest(*b)) == (a == b)


def test_digest_takes_bytes_and_any_text() -> None:
    assert cache.digest("é") == cache.digest("é".encode())
    assert cache.digest("\udc80") != cache.digest("?")
    assert len(cache.digest()) == 64


def test_hash_of_files(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"one")
    b.write_bytes(b"two")
    assert cache.hash_file(a) == hashlib.sha256(b"one").hexdigest()
    before = cache.hash_files([a, b])
    assert cache.hash_files([b, a]) != before
    renamed = a.rename(tmp_path / "c")
    assert cache.hash_files([renamed, b]) == before
    renamed.write_bytes(b"ONE")
    assert cache.hash_files([renamed, b]) != before
    with pytest.raises(StorageError, match=r"/a: No such file or directory"):
        cache.hash_files([a])


def make_package(root: Path) -> Path:
    package = root / "package"
    (package / "runtime").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "runtime" / "runner.cc").write_text("int main() {}")
    return package


def test_source_digest_is_of_names_and_contents_wherever_they_lie(tmp_path: Path) -> None:
    package, twin = make_package(tmp_path / "here"), make_package(tmp_path / "there")
    single = tmp_path / "single.py"
    single.write_text("x = 1")
    before = cache.source_digest([package, single])
    assert cache.source_digest([single, twin]) == before

    (package / "notes.md").write_text("not a source")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.pyc").write_bytes(b"")
    assert cache.source_digest([package, single]) == before

    seen = {before}
    for name in ("new.py", "new.cc", "new.h", "new.toml"):
        (package / name).write_text("")
        seen.add(cache.source_digest([package, single]))
    (package / "new.py").rename(package / "other.py")
    seen.add(cache.source_digest([package, single]))
    (package / "runtime" / "runner.cc").write_text("int main() { }")
    seen.add(cache.source_digest([package, single]))
    assert len(seen) == 7


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_source_digest_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    package = make_package(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match=f"/{name} has no source files"):
        cache.source_digest([package, tmp_path / name])


def test_atomic_write_makes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    cache.atomic_write(path, b"old")
    cache.atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


def test_atomic_write_leaves_the_old_file_when_the_kernel_refuses(tmp_path: Path) -> None:
    path = tmp_path / "file"
    cache.atomic_write(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # a write stops short after 1000 bytes
    try:
        with pytest.raises(StorageError, match=r"/file: File too large; check the path and the disk"):
            cache.atomic_write(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "next_step"),
    [
        (errno.ENOSPC, "invoke clean"),
        (errno.EDQUOT, "invoke clean"),
        (errno.EACCES, "right"),
        (errno.EROFS, "right"),
    ],
)
def test_atomic_write_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, next_step: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError) as caught:
        cache.atomic_write(tmp_path / "file", b"new")
    assert str(tmp_path / "file") in caught.value.cause
    assert next_step in caught.value.next_step
    assert names(tmp_path) == []


def test_file_in_the_way_of_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"/below: File exists; check the path"):
        cache.atomic_write(tmp_path / "file" / "below", b"")
    with pytest.raises(StorageError, match="Not a directory"), cache.atomic_folder(tmp_path / "file"):
        pass
    assert names(tmp_path) == ["file"]


def test_atomic_folder_appears_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "modules" / "key"
    with cache.atomic_folder(final) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        (folder / "link").symlink_to("/nowhere")
        assert folder.parent == final.parent
        assert not final.exists()
    assert names(final.parent) == ["key"]
    assert (final / "sub" / "file").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), FileNotFoundError(2, "no g++")])
def test_atomic_folder_leaves_nothing_when_its_block_raises(tmp_path: Path, error: BaseException) -> None:
    def fill() -> None:
        with cache.atomic_folder(tmp_path / "key") as folder:
            (folder / "file").write_text("x")
            raise error

    with pytest.raises(type(error)) as caught:
        fill()
    assert caught.value is error
    assert names(tmp_path) == []


def test_full_disk_inside_an_atomic_folder_is_a_storage_error(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="No space left on device; free some with"),
        cache.atomic_folder(tmp_path / "key"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_slower_of_two_drops_its_folder(tmp_path: Path) -> None:
    final = tmp_path / "key"
    with cache.atomic_folder(final) as slow:
        (slow / "file").write_text("slow")
        with cache.atomic_folder(final) as fast:
            assert fast != slow
            (fast / "file").write_text("fast")
    assert (final / "file").read_text() == "fast"
    assert names(tmp_path) == ["key"]


def test_usage_counts_files_and_bytes(tmp_path: Path) -> None:
    assert cache.usage(tmp_path / "absent") == []
    artifacts = make_artifacts(tmp_path)
    with cache.atomic_folder(artifacts / "new"):
        assert cache.usage(artifacts) == [("modules", 2, 1024), ("results", 1, 70)]


def test_free_deletes_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    artifacts = make_artifacts(tmp_path)
    assert cache.free(artifacts, []) == 0
    assert cache.free(artifacts, ["modules", "modules"]) == 1024
    assert names(artifacts) == ["README.md", "results"]
    assert cache.free(artifacts, ["results"]) == 70
    assert names(artifacts) == ["README.md"]


@pytest.mark.parametrize("name", ["absent", "..", ".", "", "modules/key", "README.md", "/"])
def test_free_deletes_nothing_when_a_name_is_wrong(tmp_path: Path, name: str) -> None:
    artifacts = make_artifacts(tmp_path)
    with pytest.raises(UsageError, match="choose from: modules, results"):
        cache.free(artifacts, ["modules", name])
    assert cache.usage(artifacts) == [("modules", 2, 1024), ("results", 1, 70)]


def test_free_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x" * 500)
    artifacts = make_artifacts(tmp_path / "artifacts")
    (artifacts / "modules" / "folder").symlink_to(outside)
    (artifacts / "modules" / "file").symlink_to(outside / "precious")
    (artifacts / "linked").symlink_to(outside)
    assert ("linked", 1) in [(name, files) for name, files, _ in cache.usage(artifacts)]
    with pytest.raises(
        StorageError, match=r"linked is a link to .*outside; delete what it points to yourself"
    ):
        cache.free(artifacts, ["modules", "linked"])
    assert cache.free(artifacts, ["modules"]) == 1024 + len(str(outside / "precious"))
    assert (outside / "precious").exists()
    assert names(artifacts) == ["README.md", "linked", "results"]


def test_only_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    artifacts = make_artifacts(tmp_path)
    final = artifacts / "modules" / "new"
    with subprocess.Popen([sys.executable, "-c", WRITER, final], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        folder = Path(writer.stdout.readline().strip())
        try:
            assert cache.remove_leftovers(artifacts) == 0
            assert names(folder) == ["half"]
        finally:
            writer.send_signal(signal.SIGKILL)
    assert not final.exists()
    assert names(folder) == ["half"]
    assert cache.free(artifacts, []) == 1000
    assert cache.usage(artifacts) == [("modules", 2, 1024), ("results", 1, 70)]


def test_leftover_of_an_earlier_process_with_the_same_id_is_removed(tmp_path: Path) -> None:
    with cache.atomic_folder(tmp_path / "key") as folder:
        dot, pid, _, rest = folder.name.rsplit("-", 3)
        earlier = tmp_path / "-".join((dot, pid, "1", rest))
        earlier.write_bytes(b"x" * 10)
        assert cache.remove_leftovers(tmp_path) == 10
        assert names(tmp_path) == [folder.name]


def test_files_that_only_look_temporary_stay(tmp_path: Path) -> None:
    for name in (".dlas-x-1-aa.tmp", "a.tmp", ".dlas-1-1-aa.tmp.txt"):
        (tmp_path / name).write_text("x")
    assert cache.remove_leftovers(tmp_path) == 0
    assert len(names(tmp_path)) == 3
