"""Small datasets in the formats of the published ones."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_BATCH = 40


class Python2Pickler(pickle._Pickler):
    """Writes what cPickle of Python 2 wrote: text as byte strings, and NumPy's core by its old name."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_byte_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        length = b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))
        self.write(length + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_byte_string


def python2_pickle(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def published_meta() -> bytes:
    """batches.meta, byte for byte."""
    start = b"\x80\x02}q\x01(U\x13num_cases_per_batchq\x02M\x10'U\x0blabel_namesq\x03]q\x04("
    names = [b"U%c%bq%c" % (len(name), name.encode(), 5 + i) for i, name in enumerate(CLASSES)]
    return start + b"".join(names) + b"eU\x07num_visq\x0fM\x00\x0cu."


def write_cifar10(folder: Path, per_batch: int = PER_BATCH) -> dict[str, np.ndarray]:
    """Files of noise, each class as often in each. Returns the pixels of each batch, (N, 32, 32, 3).

    The first pixel of an image is its label in every channel.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(5)
    written = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        labels = [i % 10 for i in range(per_batch)]
        pixels = random.integers(0, 256, (per_batch, 32, 32, 3), np.uint8)
        pixels[:, 0, 0, :] = np.array(labels)[:, np.newaxis]
        planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(per_batch, 3072)
        names = [f"{CLASSES[label]}_s_{i:06}.png" for i, label in enumerate(labels)]
        entry = {"batch_label": name, "labels": labels, "data": planes, "filenames": names}
        (folder / name).write_bytes(python2_pickle(entry))
        written[name] = pixels
    (folder / "batches.meta").write_bytes(published_meta())
    return written


def colour(label: int) -> tuple[int, int, int]:
    """A colour that tells an image's class, also after JPEG."""
    return (label // 100 * 25, label // 10 % 10 * 25, label % 10 * 25)


def label_of(pixels: np.ndarray) -> int:
    hundreds, tens, ones = np.rint(pixels[8, 8] / 25).astype(int)
    return int(hundreds * 100 + tens * 10 + ones)


def write_imagenet(folder: Path) -> None:
    """1000 folders as ILSVRC's, in each a JPEG of 16x16 with its class as colour; two in some of them."""
    for label in reversed(range(1000)):
        inside = folder / f"n{1_440_764 + 7 * label:08}"
        inside.mkdir(parents=True)
        for number in range(2 if label % 10 == 0 else 1):
            image = Image.new("RGB", (16, 16), colour(label))
            # Pixels differ at the edge, so that no two images are the same.
            image.putpixel((0, 0), (255 * number, 0, 0))
            name = f"ILSVRC2012_val_{label * 37 % 1000 * 2 + number:08}.JPEG"
            image.save(inside / name, quality=100, subsampling=0)


def raw(image: Any) -> torch.Tensor:
    """A transform that keeps the pixels: uint8 (H, W, C)."""
    return torch.from_numpy(np.array(image))
