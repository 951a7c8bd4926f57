"""TorchVision's own code downloads an archive of tiny files, from a server on this machine."""

from __future__ import annotations

import errno
import functools
import hashlib
import http.server
import os
import shutil
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dlas.datasets import catalog, splits
from dlas.datasets import fetch as module
from dlas.datasets.fetch import fetch
from dlas.errors import DataError, StorageError
from dlas.values import Data

ARCHIVE = "cifar-10-python.tar.gz"


@dataclass
class Server:
    """Hands out the files in `folder`; notes for each request whether `watched` was there then."""

    folder: Path
    address: str = ""
    watched: Path = Path()
    requests: list[bool] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.address}/{ARCHIVE}"


@pytest.fixture(scope="module")
def archive(cifar10: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / ARCHIVE
    assert cifar10.path is not None
    with tarfile.open(path, "w:gz") as tar:
        tar.add(cifar10.path, catalog.CIFAR10_FOLDER)
    return path


@pytest.fixture
def server(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Where TorchVision believes the published archive to be, and its tiny files to be the published ones."""
    state = Server(tmp_path / "served")
    state.folder.mkdir()
    shutil.copy(archive, state.folder)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self) -> Any:
            state.requests.append(state.watched.exists())
            return super().send_head()

        def copyfile(self, source: Any, outputfile: Any) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # TorchVision had read enough
                super().copyfile(source, outputfile)

        def log_message(self, *_: object) -> None:
            pass

    made = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(state.folder))
    )
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state.address = f"http://127.0.0.1:{made.server_port}"
    publish(monkeypatch, state.url, archive)
    yield state
    made.shutdown()
    thread.join()
    made.server_close()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def publish(monkeypatch: pytest.MonkeyPatch, url: str, archive: Path) -> None:
    from torchvision.datasets import CIFAR10

    with tarfile.open(archive) as tar:
        sums = {
            name: md5(tar.extractfile(f"{catalog.CIFAR10_FOLDER}/{name}").read())  # type: ignore[union-attr]
            for name in catalog.CIFAR10_FILES
        }
    monkeypatch.setattr(CIFAR10, "url", url)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.read_bytes()))
    for listed in ("train_list", "test_list"):
        names = [name for name, _ in getattr(CIFAR10, listed)]
        monkeypatch.setattr(CIFAR10, listed, [[name, sums[name]] for name in names])
    monkeypatch.setitem(CIFAR10.meta, "md5", sums["batches.meta"])


def silent(text: str) -> None:
    pass


def refused(folder: Path) -> DataError:
    """What fetching cifar10 into a folder that is not there says; it leaves nothing behind."""
    before = sorted(folder.parent.iterdir()) if folder.parent.is_dir() else []
    with pytest.raises(DataError) as caught:
        fetch("cifar10", folder, silent)
    assert "\n" not in str(caught.value)
    assert sorted(folder.parent.iterdir()) == before
    return caught.value


def test_cifar10_is_fetched_whole(server: Server, cifar10: Data, tmp_path: Path) -> None:
    said: list[str] = []
    server.watched = folder = tmp_path / "data" / "cifar10"
    data = fetch("cifar10", folder, said.append)
    assert data == Data("cifar10", folder / "cifar-10-batches-py", cifar10.sha256)
    assert said == [
        f"cifar10: 170 MB from {server.url}",
        f"cifar10: fetched into {folder}/cifar-10-batches-py",
    ]
    assert server.requests  # TorchVision asks once for redirections, once for the archive
    assert not any(server.requests)
    assert os.listdir(folder.parent) == ["cifar10"]
    assert os.listdir(folder) == ["cifar-10-batches-py"]
    assert (
        splits.open_split(data, "test").labels.tolist() == splits.open_split(cifar10, "test").labels.tolist()
    )


def test_an_empty_folder_is_filled(server: Server, cifar10: Data, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert fetch("cifar10", tmp_path / "data", silent).sha256 == cifar10.sha256


def test_what_is_there_is_not_fetched(
    server: Server, cifar10: Data, digits: Data, imagenet: Data, tmp_path: Path
) -> None:
    said: list[str] = []
    for data in (cifar10, digits, imagenet):
        assert fetch(data.name, data.path or tmp_path, said.append) == data
    assert said == [
        f"cifar10: nothing to fetch, it lies in {cifar10.path}",
        "digits: nothing to fetch, scikit-learn has it",
        f"imagenet: nothing to fetch, it lies in {imagenet.path}",
    ]
    assert not server.requests


def test_an_archive_that_is_not_the_published_one(server: Server, tmp_path: Path) -> None:
    with (server.folder / ARCHIVE).open("ab") as file:
        file.write(b"0")
    error = refused(tmp_path / "data")
    assert str(error) == (
        f"cifar10 could not be fetched from {server.url}: what came is not the published archive; "
        "try again later, or give a copy with `--data cifar10=PATH`"
    )


@pytest.mark.parametrize("name", catalog.CIFAR10_FILES)
def test_a_file_that_is_not_the_published_one(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    other = md5(b"other")
    if name == "batches.meta":
        monkeypatch.setitem(CIFAR10.meta, "md5", other)
    for listed in ("train_list", "test_list"):
        changed = [[file, other if file == name else known] for file, known in getattr(CIFAR10, listed)]
        monkeypatch.setattr(CIFAR10, listed, changed)
    assert "what came is not the published archive" in refused(tmp_path / "data").cause


def test_an_archive_that_is_not_served(server: Server, tmp_path: Path) -> None:
    (server.folder / ARCHIVE).unlink()
    assert refused(tmp_path / "data").cause.endswith(f"{ARCHIVE}: File not found")


def test_nobody_answers(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/{ARCHIVE}")
    assert "Connection refused" in refused(tmp_path / "data").cause


def test_a_server_that_says_nothing_is_left(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(module, "_SILENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{mute.getsockname()[1]}/{ARCHIVE}")
        hang_up = threading.Timer(10, mute.close)  # the test fails then, instead of waiting for ever
        hang_up.start()
        assert refused(tmp_path / "data").cause.endswith("timed out")
        hang_up.cancel()
    assert socket.getdefaulttimeout() is None


def test_a_full_disk_is_no_failure_of_the_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    def fill(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CIFAR10, "download", fill)
    with pytest.raises(StorageError, match="No space left on device"):
        fetch("cifar10", tmp_path / "data", silent)
    assert not (tmp_path / "data").exists()


def test_nothing_of_the_users_is_overwritten(server: Server, cifar10: Data, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    error = refused(folder)
    assert error.cause.startswith(f"cifar10 is not there: looked in {folder} and ")
    assert error.next_step == f"empty {folder} and run the same command again"
    assert os.listdir(folder) == ["thesis.tex"]
    file = tmp_path / "file"
    file.touch()
    assert "cifar10 is not there" in refused(file).cause
    assert not server.requests


def test_a_damaged_copy_is_named(server: Server, cifar10: Data, tmp_path: Path) -> None:
    assert cifar10.path is not None
    shutil.copytree(cifar10.path.parent, tmp_path / "data")
    (tmp_path / "data/cifar-10-batches-py/data_batch_5").write_bytes(b"")
    error = refused(tmp_path / "data")
    assert "data_batch_5 is no whole pickle file" in error.cause
    assert error.next_step == f"empty {tmp_path}/data and run the same command again"
    assert not server.requests


def test_imagenet_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^imagenet is not there: .*; register at .* 1000 class folders"):
        fetch("imagenet", tmp_path / "gone", silent)


def test_an_unknown_dataset_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^unknown dataset 'cifar', .*; did you mean cifar10\?"):
        fetch("cifar", tmp_path, silent)
