"""Stand-ins for base images, where a machine can pull none: a few Debian packages each, and no more.

Each is an archive that is written here and loaded, where others are built: nothing runs, no builder is
needed, an image says for which machine it is (after `docker import` of Docker 20.10 it would be for this
one), and the same packages give the same image id on every engine.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from dlas.cache import atomic_write, source_digest
from dlas.hardware import debian, imagefiles
from dlas.hardware.engine import STAND_IN_LABEL, Engine, Log, environment
from dlas.hardware.imagefiles import (
    Member,
    file_member,
    folder_member,
    link_member,
    pack_image,
    pack_layer,
)
from dlas.values import Target

PACKAGES_LABEL = "dlas.packages"
# What a C++ program needs, and the folders, users and groups of a Debian system. No shell, no tools.
_PACKAGES = ("base-files", "base-passwd", "libc6", "libgcc-s1", "libstdc++6")
_MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")  # links into usr, as where Debian is installed
_LEFT_OUT = tuple(Path("usr/share", name) for name in ("doc", "lintian", "locale", "man"))
_LOAD_S = 1800.0


def stand_in_name(suite: str, platform: str) -> str:
    """
    >>> stand_in_name("bookworm", "linux/arm64")
    'dlas-base:bookworm-arm64'
    """
    return f"dlas-base:{suite}-{_architecture(platform)}"


def make_stand_in(engine: Engine, suite: str, platform: str, artifacts: Path, say: Log) -> str:
    """Make sure that an engine has the stand-in of a Debian release for a platform, and return its name.

    Its archive is kept in artifacts/bases, 20 MB. `say` is told what takes time. Raises BuildError when the
    packages cannot be fetched, EngineError, StorageError.
    """
    name = stand_in_name(suite, platform)
    found = engine.find_image(name)
    if found is None or not found.stand_in or found.platform != platform:
        archive = make_archive(suite, platform, artifacts, say)
        say(f"loading {name} ({archive.stat().st_size / 1e6:.0f} MB) into {engine.host}")
        engine.load(imagefiles.chunks(archive), _LOAD_S)
    return name


def make_all(engine: Engine, targets: Iterable[Target], artifacts: Path, say: Log) -> list[str]:
    """The stand-ins of all that these targets' images are built on. Raises as `make_stand_in` does."""
    images = [target.image for target in targets if target.image]
    wanted = dict.fromkeys((image.stand_in, image.platform) for image in images)
    return [make_stand_in(engine, suite, platform, artifacts, say) for suite, platform in wanted]


def make_archive(suite: str, platform: str, artifacts: Path, say: Log) -> Path:
    """What `docker load` takes, in artifacts/bases; made if it is not there yet.

    Raises BuildError when the packages cannot be fetched, StorageError.
    """
    arch = _architecture(platform)
    path = artifacts / "bases" / f"{suite}-{arch}-{_sources()[:16]}.tar"
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="dlas-base-") as name:
            packages = debian.unpack(suite, arch, _PACKAGES, Path(name), say)
            layer = pack_root(Path(name))
            labels = {STAND_IN_LABEL: "true", PACKAGES_LABEL: " ".join(packages)}
            image = Path(name, "image.tar")
            pack_image([layer], {"Labels": labels}, arch, stand_in_name(suite, platform), image)
            atomic_write(path, image.read_bytes())
    return path


def pack_root(folder: Path) -> bytes:
    """Unpacked packages as a tar archive that depends on nothing but names, modes and contents."""
    members = {
        f"etc/{name}": file_member((folder / "usr/share/base-passwd" / f"{name}.master").read_bytes())
        for name in ("passwd", "group")  # what base-passwd's script would do
    }
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if any(inside.is_relative_to(left_out) for left_out in _LEFT_OUT):
            continue
        top = inside.parts[0]
        if top in _MERGED:
            members[top] = link_member(f"usr/{top}")
            if path.is_symlink() and str(inside) == top:  # since Debian 13 it is in the package
                continue
            inside = "usr" / inside
        members[str(inside)] = _member(path)
    return pack_layer(members)


def builder(engine: Engine) -> dict[str, str]:
    """The environment in which `docker build` works, with whatever builder its command has.

    BuildKit needs a plugin since Docker 23, and such a command refuses to build without being told that it is
    not there. Our Dockerfiles need nothing that the older builder lacks. Raises EngineError.
    """
    plugin = subprocess.run(
        engine.command("buildx", "version"), capture_output=True, env=environment(), check=False
    )
    return {"DOCKER_BUILDKIT": "1" if plugin.returncode == 0 else "0"}


def _sources() -> str:
    return source_digest([Path(__file__), Path(imagefiles.__file__)])


def _architecture(platform: str) -> str:
    """As Debian says it and Docker too: amd64 or arm64."""
    return platform.removeprefix("linux/")


def _member(path: Path) -> Member:
    if path.is_symlink():
        return link_member(str(path.readlink()))
    mode = path.stat().st_mode & 0o7777
    return folder_member(mode) if path.is_dir() else file_member(path.read_bytes(), mode)
