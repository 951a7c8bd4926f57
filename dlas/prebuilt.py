"""Images that were built once and go from machine to machine as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dlas.errors import EngineError, UsageError, did_you_mean
from dlas.hardware import archive, engine, reach, targets
from dlas.values import Target

ACTIONS = ("save", "load", "verify")


def act(action: str, path: Path, chosen: Sequence[Target], say: Callable[[str], None]) -> Iterator[str]:
    """Save, load or verify an archive of images; gives a line for each image in it.

    chosen: what to save; none stands for every target whose image is there. Raises UsageError, EngineError,
    StorageError.
    """
    if action == "save":
        manifest = _save(path, chosen, say)
    elif action == "load":
        manifest = archive.load(engine.at(), path, say)
    elif action == "verify":
        manifest = archive.verify(path)
    else:
        hint = did_you_mean(action, ACTIONS) or f"choose from {', '.join(ACTIONS)}"
        raise UsageError(f"images cannot {action!r}", hint)
    for image in manifest.images:
        mark = ", on a stand-in base" if image.stand_in else ""
        yield f"{image.tag}: {image.image_id}{mark}"


def _save(path: Path, chosen: Sequence[Target], say: Callable[[str], None]) -> archive.Manifest:
    own = engine.at()
    there = chosen or [target for target in targets.known() if own.find_image(target.image_tag)]
    for target in there:
        found, why = reach.usable_image(target, own)
        if found is None:
            raise EngineError(f"{target.name}: {why}", f"run {engine.build_hint(target)}")
    if not there:
        raise UsageError("no target has an image here", "`inv build --target hikey` builds one")
    return archive.save(own, there, path, archive.source_commit(targets.FOLDER.parent), say)
