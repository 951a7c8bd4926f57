"""Where a network's parameters come from: known without torch, and without reading more than their hash."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache as once
from pathlib import Path

from dlas import cache
from dlas.errors import ModelError, TrainingError
from dlas.models import checkpoint
from dlas.models import recipe as recipes
from dlas.models.checkpoint import Manifest
from dlas.models.recipe import Recipe
from dlas.tomlfile import shown
from dlas.values import ModelSpec, Weights

# The file that TorchVision publishes as IMAGENET1K_V1 for each factory that has one. The eight digits in
# its name begin its sha256. TorchVision itself says so too, but importing it takes seconds.
PRETRAINED: Mapping[str, str] = {
    "dlas.models.imagenet:densenet161": "densenet161-8d451a50.pth",
    "dlas.models.imagenet:efficientnetb0": "efficientnet_b0_rwightman-7f5810bc.pth",
    "dlas.models.imagenet:resnet50": "resnet50-0676ba61.pth",
    "dlas.models.imagenet:mobilenetv2": "mobilenet_v2-b0353104.pth",
}
_DEFAULTS = {"classes": 1000}  # the arguments of these factories, with which the files fit


def find(spec: ModelSpec, dataset: str, recipe: str, data_sha256: str, checkpoints: Path) -> Weights:
    """The parameters that there are for a network: the user's, a checkpoint's, TorchVision's, or none.

    They are looked for in this order. recipe: a name or a file, empty to look for no checkpoint.
    data_sha256: of the dataset on this machine, empty where there is none; a checkpoint of other data is
    left alone, unless there is none to compare with: then the newest is taken. Raises ModelError for
    a file of weights that is missing or damaged, UsageError for a recipe, TrainingError for a checkpoint.
    """
    if spec.weights:
        return _given(spec)
    reasons = []
    if recipe:
        found = trained(spec, dataset, recipes.load(recipe), data_sha256, checkpoints)
        if found.trained:
            return found
        reasons.append(found.reason)
    if dataset == "imagenet":
        found = _pretrained(spec)
        if found.trained:
            return found
        reasons.append(found.reason)
    return Weights("untrained", reason="; ".join(reasons) or f"no recipe and no weights for {spec.name}")


def trained(spec: ModelSpec, dataset: str, recipe: Recipe, data_sha256: str, checkpoints: Path) -> Weights:
    """The finished checkpoint of a recipe, as in `find`; untrained, with the reason, where there is none.

    Raises TrainingError for a damaged one.
    """
    found = checkpoint.finished(checkpoints, spec, dataset, recipe)
    fitting = [pair for pair in found if data_sha256 in ("", pair[1].data_sha256)]
    if not fitting:
        looked_in = shown(checkpoints / dataset / spec.name)
        reason = f"recipe {recipe.name} has not trained it, looked in {looked_in}"
        if found:
            reason = f"{shown(found[0][0])} was trained on other data than this {dataset}"
        return Weights("untrained", reason=f"{reason}: train it with `invoke train`")
    folder, manifest = fitting[0]
    return Weights(
        origin="trained",
        path=checked_file(folder, manifest),
        sha256=manifest.sha256,
        recipe=recipe.name,
        data_sha256=manifest.data_sha256,
        seconds=manifest.seconds,
    )


def checked_file(folder: Path, manifest: Manifest) -> Path:
    """The weights in a checkpoint's folder. Raises TrainingError unless they are those that were trained."""
    path = folder / checkpoint.WEIGHTS
    if not path.is_file() or file_sha256(path) != manifest.sha256:
        cause = f"{path}: {'is not what was trained' if path.exists() else 'is missing'}"
        raise TrainingError(cause, f"remove {folder} and train again")
    return path


def published(spec: ModelSpec) -> str:
    """Name of the file that TorchVision publishes for exactly this network; empty without one."""
    arguments = _DEFAULTS | dict(spec.arguments)
    return PRETRAINED.get(spec.factory, "") if arguments == _DEFAULTS else ""


def published_digits(name: str) -> str:
    """The digits of a published file's name, with which its sha256 begins.

    >>> published_digits("resnet50-0676ba61.pth")
    '0676ba61'
    """
    match = re.search(r"-([0-9a-f]{8,64})\.pth$", name)
    return match[1] if match else ""


def networks() -> dict[str, str]:
    """The published file of each network that has one, by the network's name."""
    return {factory.partition(":")[2]: name for factory, name in PRETRAINED.items()}


def status(network: str) -> str:
    """One line: where its published weights lie, or how to get them. Raises StorageError."""
    spec = ModelSpec(network, next(factory for factory in PRETRAINED if factory.endswith(f":{network}")), ())
    try:
        found = _pretrained(spec)
    except ModelError as error:
        return str(error)
    return f"{found.path}, sha256 {found.sha256[:12]}" if found.trained else found.reason


def torchvision_cache() -> Path:
    """The folder in which TorchVision keeps what it downloads: PyTorch's rules, without PyTorch."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(caches, "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints"


def file_sha256(path: Path) -> str:
    """What `sha256sum path` prints, computed once for each state of the file. Raises StorageError."""
    try:
        state = path.stat()
    except OSError as error:
        raise cache.storage_error(path, error) from error
    return _sha256(path, state.st_mtime_ns, state.st_size)


@once
def _sha256(path: Path, mtime_ns: int, size_bytes: int) -> str:
    return cache.hash_file(path)


def _given(spec: ModelSpec) -> Weights:
    path = Path(spec.weights).expanduser().absolute()
    if not path.is_file():
        cause = f"model {spec.name}: its weights {spec.weights} are no file"
        raise ModelError(cause, "give the path of a state dict that torch.save wrote")
    sha256 = file_sha256(path)
    name = published(spec)
    is_published = name != "" and sha256.startswith(published_digits(name))
    return Weights("pretrained" if is_published else "given", path, sha256)


def _pretrained(spec: ModelSpec) -> Weights:
    name = published(spec)
    if not name:
        reason = f"TorchVision has no weights for {spec.factory} with these arguments"
        return Weights("untrained", reason=f"{reason}: give a file")
    path = torchvision_cache() / name
    if not path.is_file():
        how = f"`invoke data --fetch {spec.factory.partition(':')[2]}`"
        return Weights("untrained", reason=f"there is no {path}: get it with {how}, or copy it there")
    sha256 = file_sha256(path)
    if not sha256.startswith(published_digits(name)):
        raise ModelError(
            f"{path} is damaged: its sha256 begins with {sha256[:8]}", "remove it and get it again"
        )
    return Weights("pretrained", path, sha256)
