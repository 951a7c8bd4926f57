"""Images of the targets that are shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlas.hardware import engine as engines
from dlas.hardware import reach, targets
from dlas.hardware.image import build_image
from dlas.values import ContainerImage, Target


@contextmanager
def image_of(name: str, artifacts: Path) -> Iterator[tuple[Target, ContainerImage]]:
    """A target and its image. One that this machine's engine has stays; else it is built, and goes again."""
    target, engine = targets.load(name), engines.at()
    found, _ = reach.usable_image(target, engine)
    if found is not None:
        yield target, found
        return
    before = engine.find_image(target.image_tag)
    built = build_image(target, artifacts, "", print)
    try:
        yield target, built
    finally:
        if before is None:
            engine.remove_image(target.image_tag)
        else:
            engine.tag_image(before.id, target.image_tag)
            engine.discard_image(built.id)
