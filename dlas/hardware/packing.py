"""The file of an archive of images: a tar without times, owners or anything else that could differ.

manifest.json is its first member, so that `tar` shows it at once, though what it says is known last: its
place is kept, and filled at the end. So no member is written twice, as temporary files would be.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from typing import IO, BinaryIO, cast

import zstandard

from dlas.hardware.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_STREAM_BYTES,
    Manifest,
    SavedImage,
    parse_manifest,
)
from dlas.hardware.protocol import tar_header, tar_padding
from dlas.hardware.saved import Malformed, Read

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_MANIFEST = "manifest.json"
_LEVEL = 10  # one thread: how several share the work could change the bytes
_MAX_WINDOW_BYTES = 1 << 23  # of memory for whoever reads; level 10 takes half of it


class _Digest:
    """sha256 and number of the bytes so far."""

    def __init__(self) -> None:
        self.bytes = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def update(self, data: bytes) -> None:
        self.bytes += len(data)
        self._hash.update(data)


class Tap(_Digest):
    """Counts and hashes what is read through it. Raises Malformed when that is more than `most` bytes."""

    def __init__(self, read: Read, most: int) -> None:
        super().__init__()
        self._read = read
        self._most = most

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self.update(data)
        if self.bytes > self._most:
            raise Malformed(f"it has more than {self._most} bytes")
        return data


class Packer:
    """A compressed member at the end of a new archive. Raises Malformed when it gets too much."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = file.tell()
        file.seek(_BLOCK, os.SEEK_CUR)
        self._stream = _Digest()
        self._packed = _Digest()
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()

    def write(self, data: bytes) -> None:
        self._stream.update(data)
        if self._stream.bytes > MAX_STREAM_BYTES:
            raise Malformed(f"it has more than {MAX_STREAM_BYTES} bytes")
        self._append(self._zstd.compress(data))

    def finish(self, image: SavedImage) -> SavedImage:
        """The image, with what is known of its member now."""
        self._append(self._zstd.flush())
        size = self._packed.bytes
        self._file.write(tar_padding(size))
        end = self._file.tell()
        self._file.seek(self._start)
        self._file.write(tar_header(image.member, size))
        self._file.seek(end)
        return replace(
            image,
            member_sha256=self._packed.sha256,
            member_bytes=size,
            stream_sha256=self._stream.sha256,
            stream_bytes=self._stream.bytes,
        )

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._packed.update(data)


def keep_place(file: BinaryIO, draft: Manifest) -> None:
    """Begin an archive with nothing, where a manifest of as many images will be."""
    file.seek(len(_first(draft)))


def finish(file: BinaryIO, manifest: Manifest) -> None:
    """Write the end, and what a place was kept for."""
    file.write(_END)
    file.seek(0)
    file.write(_first(manifest))


class Part(io.RawIOBase):
    """Some bytes of a file, as a file of their own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._file = file
        self._at = start
        self._end = start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = os.pread(self._file.fileno(), min(len(buffer), self._end - self._at), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def unpacked(part: Part) -> Read:
    """Raises Malformed while it is read. A frame that is cut off ends early: count what comes out."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    reader = decompressor.stream_reader(cast(IO[bytes], part), read_across_frames=True)

    def read(size: int) -> bytes:
        try:
            return reader.read(size)
        except zstandard.ZstdError as error:
            raise Malformed(f"it cannot be unpacked: {error}") from error

    return read


def layout(file: BinaryIO) -> tuple[Manifest, Callable[[], list[Part]]]:
    """The manifest, and what makes the parts of its images, in its order, to be read from their beginnings.

    Each byte that is in no part is checked. Raises Malformed.
    """
    manifest, start = _read_manifest(file)
    total = os.fstat(file.fileno()).st_size
    places = []
    for image in manifest.images:
        places.append((start + _BLOCK, image.member_bytes))
        start += _BLOCK + image.member_bytes + len(tar_padding(image.member_bytes))
    if total != start + len(_END):
        what = "it is truncated" if total < start + len(_END) else "something follows its end"
        raise Malformed(f"{what}: it has {total} bytes, {start + len(_END)} were expected")
    for image, (place, size) in zip(manifest.images, places, strict=True):
        after = tar_padding(size)
        if _pread(file, _BLOCK, place - _BLOCK) != tar_header(image.member, size):
            raise Malformed(f"the header of {image.member} is damaged")
        if _pread(file, len(after), place + size) != after:
            raise Malformed(f"what follows {image.member} is damaged")
    if _pread(file, len(_END), start) != _END:
        raise Malformed("its end is damaged")
    return manifest, lambda: [Part(file, place, size) for place, size in places]


def _read_manifest(file: BinaryIO) -> tuple[Manifest, int]:
    """And where it ends."""
    block = _pread(file, _BLOCK, 0)
    number = block[124:135]
    size = int(number, 8) if re.fullmatch(rb"[0-7]{11}", number) else 0
    if not 0 < size <= MAX_MANIFEST_BYTES or block != tar_header(_MANIFEST, size):
        raise Malformed("it is not an archive of images, or its beginning is damaged")
    data, after = _pread(file, size, _BLOCK), _pread(file, len(tar_padding(size)), _BLOCK + size)
    if len(data) + len(after) != size + len(tar_padding(size)):
        raise Malformed(f"it is truncated: its {_MANIFEST} is cut off")
    if after != tar_padding(size):
        raise Malformed(f"what follows {_MANIFEST} is damaged")
    try:
        return parse_manifest(data), _BLOCK + size + len(after)
    except Malformed as error:
        raise Malformed(f"{_MANIFEST}: {error}") from error


def _first(manifest: Manifest) -> bytes:
    data = manifest.encode()
    return tar_header(_MANIFEST, len(data)) + data + tar_padding(len(data))


def _pread(file: BinaryIO, size: int, start: int) -> bytes:
    return os.pread(file.fileno(), size, start)
