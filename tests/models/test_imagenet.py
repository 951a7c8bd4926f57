"""TorchVision's networks are those that its weights are for, and these are read as TorchVision reads them."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dlas.errors import DataError, ModelError, StorageError
from dlas.models import imagenet, vision, weights
from dlas.models.loading import load, make
from dlas.models.weights import PRETRAINED, find
from dlas.values import ModelSpec, Weights

ENUMERATIONS = {
    "densenet161": "DenseNet161_Weights",
    "efficientnetb0": "EfficientNet_B0_Weights",
    "resnet50": "ResNet50_Weights",
    "mobilenetv2": "MobileNet_V2_Weights",
}
URL = "url"


def entry(name: str) -> Any:
    vision.name_operators()
    from torchvision import models

    return getattr(models, ENUMERATIONS[name]).IMAGENET1K_V1


def spec_of(name: str, size: int = 224, **arguments: int) -> ModelSpec:
    factory = f"dlas.models.imagenet:{name}"
    return ModelSpec(name, factory, (1, 3, size, size), tuple(arguments.items()))


def publish(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> str:
    """As if TorchVision's file of a network were this one; returns its name."""
    stem = PRETRAINED[spec_of(name).factory].rpartition("-")[0]
    file = f"{stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    published = {**PRETRAINED, spec_of(name).factory: file}
    monkeypatch.setattr(weights, "PRETRAINED", published)
    monkeypatch.setattr(imagenet, "PRETRAINED", published)
    return file


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_the_published_names_are_torchvisions(name: str) -> None:
    assert len(PRETRAINED) == len(ENUMERATIONS)
    assert PRETRAINED[spec_of(name).factory] == entry(name).url.rpartition("/")[2]
    assert re.fullmatch("[0-9a-f]{8}", weights.published_digits(PRETRAINED[spec_of(name).factory]))


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_the_networks_have_as_many_parameters_as_is_published(name: str) -> None:
    with torch.device("meta"):
        module = make(spec_of(name))
        small = make(spec_of(name, classes=7))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert parameters == entry(name).meta["num_params"]
    factory = getattr(imagenet, name)
    assert f"{parameters:,} parameters" in factory.__doc__
    assert f"{entry(name).meta['_ops']:.2f} G multiply" in factory.__doc__
    last = [layer for layer in small.modules() if isinstance(layer, nn.Linear)][-1]
    assert last.out_features == 7


def test_preprocessing_is_the_networks_own() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    results = {}
    for name in ENUMERATIONS:
        ours = imagenet.transform(spec_of(name).factory, (1, 3, 224, 224))
        assert ours is not None
        results[name] = ours(photo)
        assert torch.equal(results[name], entry(name).transforms()(photo))
        assert (results[name].shape, results[name].dtype) == ((3, 224, 224), torch.float32)
    assert not torch.equal(results["efficientnetb0"], results["resnet50"])  # bicubic, bilinear


def test_preprocessing_for_another_size_keeps_the_ratio() -> None:
    photo = Image.new("RGB", (300, 400), "teal")
    smaller: Any = imagenet.transform(spec_of("resnet50").factory, (1, 3, 96, 96))
    assert (smaller.crop_size, smaller.resize_size) == ([96], [110])  # 96 * 256 / 224
    assert smaller(photo).shape == (3, 96, 96)


def test_who_has_no_preprocessing() -> None:
    assert imagenet.transform("dlas.models.resnet:resnet18", (1, 3, 32, 32)) is None
    for shape in ((1, 3, 224, 160), (1, 1, 224, 224), (3, 224, 224)):
        with pytest.raises(ModelError, match=r"squares of 3 channels, input_shape is \["):
            imagenet.transform(spec_of("resnet50").factory, shape)


def perturbed(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """A state dict of this network that no seed of ours gives."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return make(spec).state_dict()


def found(path: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """What is found once `path` is what TorchVision published and lies in its cache."""
    name = publish(monkeypatch, spec.name, path)
    downloads = path.parent / "hub" / "checkpoints"
    downloads.mkdir(parents=True)
    path.rename(downloads / name)
    monkeypatch.setenv("TORCH_HOME", str(path.parent))
    return find(spec, "imagenet", "", "", path.parent)


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnetb0"])
def test_published_weights_are_read_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    spec = spec_of(name, 64)
    state = perturbed(spec)
    torch.save(state, tmp_path / "file.pth")
    pretrained = found(tmp_path / "file.pth", spec, monkeypatch)
    assert pretrained.origin == "pretrained"
    hub, environment = torch.hub.get_dir(), dict(os.environ)
    model = load(spec, pretrained)
    assert (torch.hub.get_dir(), dict(os.environ)) == (hub, environment)
    assert all(torch.equal(value, state[key]) for key, value in model.module.state_dict().items())
    module = make(spec)
    module.load_state_dict(state)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(model.input))
    assert np.array_equal(expected.numpy(), model.output)


def test_densenets_old_names_are_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("densenet161", 32)
    state = perturbed(spec)
    # The published file is older than the counters of batches, too.
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    assert set(old) != set(state)
    torch.save(old, tmp_path / "file.pth")
    model = load(spec, found(tmp_path / "file.pth", spec, monkeypatch))
    assert all(torch.equal(value, state[key]) for key, value in model.module.state_dict().items())


def test_published_weights_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "evil",))

    torch.save({"a": Evil()}, tmp_path / "file.pth")
    spec = spec_of("mobilenetv2", 64)
    with pytest.raises(ModelError, match=r"cannot be read: .*UnpicklingError"):
        load(spec, found(tmp_path / "file.pth", spec, monkeypatch))
    assert not (tmp_path / "evil").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address, and the folder whose files it has."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", folder
        served.shutdown()


def test_weights_are_fetched_once_and_found_then(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    (folder / "file").write_bytes(b"weights")
    name = publish(monkeypatch, "resnet50", folder / "file")
    (folder / "file").rename(folder / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(entry("resnet50").value, URL, f"{address}/{name}")
    assert find(spec_of("resnet50"), "imagenet", "", "", tmp_path).origin == "untrained"
    said: list[str] = []
    path = imagenet.fetch("resnet50", said.append)
    assert path.read_bytes() == b"weights"
    assert find(spec_of("resnet50"), "imagenet", "", "", tmp_path).path == path
    assert address in said[0]
    (folder / name).unlink()
    assert imagenet.fetch("resnet50", said.append) == path
    assert "nothing to fetch" in said[-1]


def test_what_does_not_come_whole_is_not_kept(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    (folder / "file").write_bytes(b"damaged on its way")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    value = entry("resnet50").value
    for url, reason in (
        (f"{address}/file", "invalid hash value"),
        (f"{address}/absent", "File not found"),
        ("http://127.0.0.1:9/file", "refused"),
        ("http://host.invalid/file", "."),
    ):
        monkeypatch.setattr(value, URL, url)
        with pytest.raises(
            DataError, match=f"resnet50-0676ba61.pth did not come from {url}: .*{reason}"
        ) as caught:
            imagenet.fetch("resnet50", lambda line: None)
        assert "copy the file to" in caught.value.next_step
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "torch").rglob("*.*"))


def test_what_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ModelError, match=r"no weights for 'resnet5O', it has them for densenet161.*did you mean"
    ):
        imagenet.fetch("resnet5O", print)
    (tmp_path / "torch").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(StorageError, match="torch"):
        imagenet.fetch("resnet50", lambda line: None)
