"""What is in an archive of images: its manifest.json, written in one way only and read back with distrust."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from dlas.hardware.saved import Malformed, parse_json
from dlas.values import ContainerImage

FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_MEMBER_BYTES = 8**11 - 1  # of a ustar archive
MAX_STREAM_BYTES = 8 * 10**9  # also when it does not compress, it fits a member
_MAX_IMAGES = 100
_MAX_VERSIONS = 100

_SHA256 = re.compile("[0-9a-f]{64}")
_COMMIT = re.compile("(?:[0-9a-f]{40}|[0-9a-f]{64})?")
_PROGRAM = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_VERSION = re.compile(r"[!-~]{1,64}")
_TEXTS = {
    "target": re.compile("[a-z0-9_]{1,64}"),
    "tag": re.compile("dlas/[a-z0-9_]{1,64}"),
    "image_id": re.compile("sha256:[0-9a-f]{64}"),
    "platform": re.compile("[a-z0-9]{1,16}/[a-z0-9_]{1,16}"),
    "base": re.compile("[!-~]{0,256}"),
    "runner": re.compile("[0-9a-f]{0,64}"),
    "member_sha256": _SHA256,
    "stream_sha256": _SHA256,
}
_SIZES = {"member_bytes": MAX_MEMBER_BYTES, "stream_bytes": MAX_STREAM_BYTES}


@dataclass(frozen=True)
class SavedImage:
    """One image of an archive. member_*: of the compressed file in it. stream_*: of what `docker save` wrote,
    less the times in it.

    image_id, platform, base, stand_in and runner are as in `ContainerImage`.
    """

    target: str
    tag: str
    image_id: str
    platform: str
    base: str
    stand_in: bool
    runner: str
    member_sha256: str = "0" * 64
    member_bytes: int = MAX_MEMBER_BYTES
    stream_sha256: str = "0" * 64
    stream_bytes: int = MAX_STREAM_BYTES

    @property
    def member(self) -> str:
        """Its name in the archive."""
        return f"{self.target}.tar.zst"

    @property
    def image(self) -> ContainerImage:
        """What an engine says of it, but for the size."""
        return ContainerImage(self.image_id, self.base, self.stand_in, self.runner, self.platform)


@dataclass(frozen=True)
class Manifest:
    """commit: of the source, empty when not known. dirty: whether the source was not what was committed.

    versions: of the programs that made images and archive, as they were when it was saved.
    """

    commit: str
    dirty: bool
    versions: Mapping[str, str]
    images: tuple[SavedImage, ...]

    def encode(self) -> bytes:
        """The bytes of manifest.json, of one length whatever the sizes and hashes of its images are.

        It can therefore be written last into a place that was kept for it. `sha256` is of the rest.
        """
        widest = [
            replace(image, member_bytes=MAX_MEMBER_BYTES, stream_bytes=MAX_STREAM_BYTES)
            for image in self.images
        ]
        length = len(replace(self, images=tuple(widest))._text())
        return f"{self._text():{length}}\n".encode("ascii")

    def _text(self) -> str:
        about = {"format": FORMAT, **asdict(self)}
        checksum = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        return json.dumps(about | {"sha256": checksum}, indent=1, sort_keys=True)


def parse_manifest(data: bytes) -> Manifest:
    """Raises Malformed for all that `Manifest.encode` does not write."""
    about = parse_json(data)
    version = about.get("format") if type(about) is dict else None
    if type(version) is not int:
        raise Malformed("it names no format")
    if version != FORMAT:
        raise Malformed(f"it has format {version}, this version of dlas reads {FORMAT}")
    if set(about) != {"format", "sha256"} | {field.name for field in fields(Manifest)}:
        raise Malformed("its keys are not those of its format")
    if not _matches(_COMMIT, about["commit"]) or type(about["dirty"]) is not bool:
        raise Malformed("its commit is none")
    manifest = Manifest(
        about["commit"], about["dirty"], _versions(about["versions"]), _images(about["images"])
    )
    if manifest.encode() != data:
        raise Malformed("its sha256 is not that of its contents")
    return manifest


def _versions(raw: Any) -> dict[str, str]:
    if type(raw) is not dict or len(raw) > _MAX_VERSIONS:
        raise Malformed("its versions are no table")
    if not all(_matches(_PROGRAM, key) and _matches(_VERSION, value) for key, value in raw.items()):
        raise Malformed("one of its versions is none")
    return raw


def _images(raw: Any) -> tuple[SavedImage, ...]:
    if type(raw) is not list or not 1 <= len(raw) <= _MAX_IMAGES:
        raise Malformed(f"it does not list 1 to {_MAX_IMAGES} images")
    images = tuple(map(_image, raw))
    names = [image.target for image in images]
    if names != sorted(set(names)):
        raise Malformed("its targets are not in order, or one is there twice")
    return images


def _image(raw: Any) -> SavedImage:
    if type(raw) is not dict or set(raw) != {field.name for field in fields(SavedImage)}:
        raise Malformed("an image has not the keys of its format")
    for key, pattern in _TEXTS.items():
        if not _matches(pattern, raw[key]):
            raise Malformed(f"the {key} of an image is none")
    for key, most in _SIZES.items():
        if type(raw[key]) is not int or not 1 <= raw[key] <= most:
            raise Malformed(f"the {key} of an image are not 1 to {most}")
    if type(raw["stand_in"]) is not bool or raw["tag"] != f"dlas/{raw['target']}":
        raise Malformed("the stand_in or the tag of an image is none")
    return SavedImage(**raw)


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return type(value) is str and pattern.fullmatch(value) is not None
