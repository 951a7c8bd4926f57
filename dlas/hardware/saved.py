"""What `docker save` of one image without a tag writes: a tar, read as a stream and trusted in nothing.

An engine reads the same bytes with another tar and another JSON parser, which may see another name or tag
in them. So no more is let through than `docker save` writes, and nothing that can be read in two ways.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Collection, Iterator
from typing import Any

from dlas.hardware.engine import BASE_LABEL, RUNNER_LABEL, STAND_IN_LABEL
from dlas.values import ContainerImage

# Gives at most so many bytes, and none at the end.
Read = Callable[[int], bytes]
Write = Callable[[bytes], object]

CHUNK_BYTES = 1 << 20
_MAX_DOCUMENT_BYTES = 1 << 20
_MAX_MEMBERS = 2000  # an image has at most 127 layers, and older engines write four members for each
_HEX = "[0-9a-f]{64}"
# By type. The directories of layers are those of engines before 25, the blobs (of OCI) those of later ones.
_NAMES = {
    b"0": r"manifest\.json|index\.json|oci-layout"
    rf"|{_HEX}\.json|{_HEX}/(VERSION|json|layer\.tar)|blobs/sha256/{_HEX}",
    b"5": rf"({_HEX}|blobs|blobs/sha256)/",
    b"2": rf"{_HEX}/layer\.tar",  # a layer that is there already
}
_LAYER = re.compile(rf"\.\./{_HEX}/layer\.tar")
_LISTED = {"Config", "RepoTags", "Layers", "LayerSources"}
# With these, engines that keep images in containerd give them names.
_NAMING = {"io.containerd.image.name", "org.opencontainers.image.ref.name"}


class Malformed(Exception):
    """Why data is not what it should be, in words."""


def image_of(read: Read, image_id: str, write: Write = bool) -> ContainerImage:
    """What the configuration of the image of this id says; its size is not known. Reads to the end.

    write gets the stream without its times: engines put into it when it was saved, as the time of a layer
    that is there twice. Raises Malformed unless the stream is of this image alone and names no tag.
    """
    digest = image_id.removeprefix("sha256:")
    configurations = {f"{digest}.json", f"blobs/sha256/{digest}"}
    found: dict[str, bytes] = {}
    for name, contents in _members(read, write, {"manifest.json", "index.json"} | configurations):
        if name in found:
            raise Malformed(f"it has {name} twice")
        if len(found) == _MAX_MEMBERS:
            raise Malformed(f"it has more than {_MAX_MEMBERS} members")
        found[name] = contents
    (name, *more) = sorted(configurations & set(found)) or [""]
    if not name or more or hashlib.sha256(found[name]).hexdigest() != digest:
        raise Malformed(f"it has no configuration whose sha256 is the image id {image_id}")
    _check_list(parse_json(found.get("manifest.json", b"")), name, set(found))
    if "index.json" in found:
        _check_names(parse_json(found["index.json"]))
    return _described(image_id, parse_json(found[name]))


def parse_json(text: bytes) -> Any:
    """Raises Malformed, also for a key that is there twice: which one counts differs between parsers."""
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON: {str(error)[:80]}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields


def _members(read: Read, write: Write, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each member, the contents only of those that are wanted."""
    while (block := b"".join(_pieces(read, tarfile.BLOCKSIZE))).strip(b"\0"):
        name, size = _header(block)
        if name in wanted and size > _MAX_DOCUMENT_BYTES:
            raise Malformed(f"{name} has more than {_MAX_DOCUMENT_BYTES} bytes")
        write(_timeless(block))
        kept = []
        for piece in _pieces(read, size):
            write(piece)
            if name in wanted:
                kept.append(piece)
        for piece in _pieces(read, -size % tarfile.BLOCKSIZE):
            write(piece)
        yield name, b"".join(kept)
    write(block)
    while rest := read(CHUNK_BYTES):
        if rest.strip(b"\0"):
            raise Malformed("something follows its end")
        write(rest)


def _header(block: bytes) -> tuple[str, int]:
    """Name and size. As POSIX has it, without its prefix and the extensions of others."""
    name, _, _ = block[:100].partition(b"\0")
    kind, link = block[156:157], block[157:257].partition(b"\0")[0]
    if block[148:156] != _checksum(block):
        raise Malformed("a header of it is damaged")
    if block[257:265] != b"ustar\x0000" or block[345:].strip(b"\0"):
        raise Malformed("a header of it is not plain ustar")
    text = name.decode("latin-1")
    if kind not in _NAMES or not re.fullmatch(_NAMES[kind], text):
        raise Malformed(f"it has a member that docker save does not write: {text[:80]!r}")
    if not re.fullmatch(rb"[0-7]{11}\0", block[124:136]):
        raise Malformed(f"the size of {text} is not a number")
    size = int(block[124:135], 8)
    if kind != b"0" and size:
        raise Malformed(f"{text} has a size, but is not a file")
    if kind == b"2" and not _LAYER.fullmatch(link.decode("latin-1")):
        raise Malformed(f"{text} is a link to what is no layer")
    return text, size


def _timeless(block: bytes) -> bytes:
    block = block[:136] + b"%011o\0" % 0 + block[148:]
    return block[:148] + _checksum(block) + block[156:]


def _checksum(block: bytes) -> bytes:
    return b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * ord(" "))


def _pieces(read: Read, size: int) -> Iterator[bytes]:
    while size:
        piece = read(min(size, CHUNK_BYTES))
        if not piece:
            raise Malformed("it is cut off")
        size -= len(piece)
        yield piece


def _check_list(images: Any, configuration: str, names: set[str]) -> None:
    """Go reads keys in any case, so that one more key could be the tags again."""
    if type(images) is not list or len(images) != 1 or type(images[0]) is not dict:
        raise Malformed("its manifest.json is not of one image")
    (image,) = images
    if set(image) - _LISTED or image.get("Config") != configuration:
        raise Malformed("its manifest.json is not of the image that it should be")
    if image.get("RepoTags"):
        raise Malformed("it brings tags of its own")
    layers = image.get("Layers") or []
    if type(layers) is not list or not all(type(layer) is str and layer in names for layer in layers):
        raise Malformed("its manifest.json lists a layer that it has not")


def _check_names(index: Any) -> None:
    left = [index]
    while left:
        value = left.pop()
        if type(value) is dict:
            if _NAMING & {key.lower() for key in value}:
                raise Malformed("it brings names of its own")
            left += value.values()
        elif type(value) is list:
            left += value


def _described(image_id: str, configuration: Any) -> ContainerImage:
    try:
        labels = configuration["config"].get("Labels") or {}
        texts = {key: labels.get(key, "") for key in (BASE_LABEL, RUNNER_LABEL, STAND_IN_LABEL)}
        system, architecture = configuration["os"], configuration["architecture"]
    except (AttributeError, KeyError, TypeError) as error:
        raise Malformed("its configuration is not of an image") from error
    if not all(type(text) is str for text in (*texts.values(), system, architecture)):
        raise Malformed("its configuration is not of an image")
    return ContainerImage(
        id=image_id,
        base=texts[BASE_LABEL],
        stand_in=texts[STAND_IN_LABEL] == "true",
        runner=texts[RUNNER_LABEL],
        platform=f"{system}/{architecture}",
    )
