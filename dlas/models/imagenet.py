"""TorchVision's networks for ImageNet, what they want done to an image, and their published weights."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from dlas import cache
from dlas.datasets.fetch import NETWORK_ERRORS, patience
from dlas.errors import DataError, ModelError, did_you_mean
from dlas.models import vision
from dlas.models.weights import PRETRAINED, file_sha256, published_digits, torchvision_cache

# TorchVision's function and the enumeration of its weights, by the name of ours.
_NAMES = {
    "densenet161": ("densenet161", "DenseNet161_Weights"),
    "efficientnetb0": ("efficientnet_b0", "EfficientNet_B0_Weights"),
    "resnet50": ("resnet50", "ResNet50_Weights"),
    "mobilenetv2": ("mobilenet_v2", "MobileNet_V2_Weights"),
}
_MODULE = "dlas.models.imagenet"
_SIZE = 224  # of the images that the networks were trained on


def densenet161(classes: int = 1000) -> nn.Module:
    """DenseNet161 of TorchVision: 28,681,000 parameters, 7.73 G multiply-accumulates for 224x224."""
    return _build("densenet161", num_classes=classes)


def efficientnetb0(classes: int = 1000) -> nn.Module:
    """EfficientNetB0 of TorchVision: 5,288,548 parameters, 0.39 G multiply-accumulates for 224x224."""
    return _build("efficientnetb0", num_classes=classes)


def resnet50(classes: int = 1000) -> nn.Module:
    """ResNet50 of TorchVision: 25,557,032 parameters, 4.09 G multiply-accumulates for 224x224."""
    return _build("resnet50", num_classes=classes)


def mobilenetv2(classes: int = 1000) -> nn.Module:
    """MobileNetV2 of TorchVision: 3,504,872 parameters, 0.30 G multiply-accumulates for 224x224."""
    return _build("mobilenetv2", num_classes=classes)


def transform(factory: str, input_shape: tuple[int, ...]) -> Callable[[Any], Tensor] | None:
    """From a PIL image (RGB) to float32 (3, H, W), as TorchVision evaluates this network; None for others.

    The shorter side is resized and the middle square of H cut out; where H is not 224, both sizes keep
    their ratio. Raises ModelError when input_shape is not (N, 3, H, H).
    """
    if factory not in PRETRAINED:
        return None
    if len(input_shape) != 4 or input_shape[1] != 3 or input_shape[2] != input_shape[3]:
        cause = f"{factory}: its images are squares of 3 channels, input_shape is {list(input_shape)}"
        raise ModelError(cause, "write it as [1, 3, 224, 224]")
    preset = _published(factory.partition(":")[2]).transforms
    size = input_shape[2]
    resized = preset().resize_size[0] * size / _SIZE
    made: Callable[[Any], Tensor] = preset(crop_size=size, resize_size=round(resized))
    return made


def fetch(name: str, say: Callable[[str], None]) -> Path:
    """Make sure that TorchVision's cache has the weights of a network, resnet50 say; returns their file.

    PyTorch downloads them, shows its progress and compares their sha256 with the published digits.
    Raises ModelError for an unknown name, DataError when they do not come, StorageError for a full disk.
    """
    if name not in _NAMES:
        cause = f"TorchVision has no weights for {name!r}, it has them for {', '.join(_NAMES)}"
        raise ModelError(cause, did_you_mean(name, _NAMES) or "give one of them")
    file = PRETRAINED[f"{_MODULE}:{name}"]
    path = torchvision_cache() / file
    digits = published_digits(file)
    if path.is_file() and file_sha256(path).startswith(digits):
        say(f"{name}: nothing to fetch, {path} is there")
        return path
    url = _published(name).url
    say(f"{name}: {file} from {url}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with patience():
            torch.hub.download_url_to_file(url, str(path), digits)
    except (*NETWORK_ERRORS, RuntimeError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        cause = f"{file} did not come from {url}: {reason}"
        raise DataError(cause, f"try again later, or copy the file to {path.parent}") from error
    except OSError as error:
        raise cache.storage_error(path, error) from error
    return path


def pretrained(factory: str, path: Path) -> nn.Module:
    """A network with its published weights from `path`, whatever that file is called.

    TorchVision's own loader reads them, which knows the names that parameters had when some of the
    files were written. It is made to look in a folder where it finds `path`, and asks no network.
    Raises what that loader raises.
    """
    name = factory.partition(":")[2]
    weights = _published(name)
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder, _weights_only():
        link = Path(folder, "checkpoints", weights.url.rpartition("/")[2])
        link.parent.mkdir()
        link.symlink_to(path.absolute())
        torch.hub.set_dir(folder)
        try:
            return _build(name, weights=weights)
        finally:
            torch.hub.set_dir(before)


def _build(name: str, **options: Any) -> nn.Module:
    vision.name_operators()
    from torchvision import models

    module: nn.Module = getattr(models, _NAMES[name][0])(**options)
    return module


def _published(name: str) -> Any:
    """TorchVision's own entry for the weights: where they are and how an image is prepared for them."""
    vision.name_operators()
    from torchvision import models

    return getattr(models, _NAMES[name][1]).IMAGENET1K_V1


@contextmanager
def _weights_only() -> Iterator[None]:
    """No pickled code, please: TorchVision does not ask for that, and eight digits of a hash are few."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
