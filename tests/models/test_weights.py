"""Which weights a network gets, in which order they are looked for, and why it gets none."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dlas.errors import ModelError, TrainingError, UsageError
from dlas.models import checkpoint
from dlas.models import recipe as recipes
from dlas.models import weights as weights_module
from dlas.models.weights import find
from dlas.values import ModelSpec, Weights

RESNET50 = ModelSpec("resnet50", "dlas.models.imagenet:resnet50", (1, 3, 224, 224))
SMALL = ModelSpec("mine", "own_net:net", (1, 3, 32, 32), (("width", 8),))
RECIPE = recipes.load("digits")
DATA_SHA256 = "d" * 64


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def publish(monkeypatch: pytest.MonkeyPatch, content: bytes) -> str:
    """As if TorchVision published this as the weights of ResNet50; returns the file's name."""
    name = f"resnet50-{sha256(content)[:8]}.pth"
    monkeypatch.setattr(weights_module, "PRETRAINED", {RESNET50.factory: name})
    return name


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TorchVision's cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def finish(
    root: Path,
    spec: ModelSpec = SMALL,
    dataset: str = "digits",
    data_sha256: str = DATA_SHA256,
    content: bytes = b"weights",
    finished_at: str = "2026-01-01T00:00:00.000000+00:00",
) -> Path:
    """A finished checkpoint; returns its weights."""
    folder = checkpoint.folder(root, spec, dataset, RECIPE, data_sha256)
    manifest = checkpoint.Manifest(
        key=checkpoint.key(spec, dataset, RECIPE),
        sha256=sha256(content),
        model=checkpoint.describe(spec),
        dataset=dataset,
        data_sha256=data_sha256,
        recipe=RECIPE,
        val_top1_fraction=0.5,
        val_n=2,
        test_top1_fraction=0.25,
        test_n=4,
        seconds=3.5,
        versions={"torch": "0"},
        finished_at=finished_at,
    )
    checkpoint.write(folder, manifest)
    path = folder / checkpoint.WEIGHTS
    path.write_bytes(content)
    return path


def test_the_users_file_comes_first(tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (downloads / publish(monkeypatch, b"published")).write_bytes(b"published")
    finish(tmp_path, RESNET50, "imagenet")
    own = tmp_path / "own.pt"
    own.write_bytes(b"mine")
    found = find(replace(RESNET50, weights=str(own)), "imagenet", "digits", DATA_SHA256, tmp_path)
    assert found == Weights("given", own, sha256(b"mine"))


def test_torchvisions_file_is_known_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, b"published")
    own = tmp_path / "own.pt"
    own.write_bytes(b"published")
    spec = replace(RESNET50, weights=str(own))
    assert find(spec, "imagenet", "", "", tmp_path) == Weights("pretrained", own, sha256(b"published"))
    with_defaults = replace(spec, arguments=(("classes", 1000),))
    assert find(with_defaults, "imagenet", "", "", tmp_path).origin == "pretrained"
    other = replace(spec, arguments=(("classes", 10),))
    assert find(other, "imagenet", "", "", tmp_path).origin == "given"
    assert find(replace(SMALL, weights=str(own)), "digits", "", "", tmp_path).origin == "given"


def test_the_users_file_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.pt").write_bytes(b"mine")
    assert find(replace(SMALL, weights="~/own.pt"), "digits", "", "", tmp_path).path == tmp_path / "own.pt"


@pytest.mark.parametrize("name", ["absent.pt", ""])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"model mine: its weights .* are no file; give the path"):
        find(replace(SMALL, weights=str(tmp_path / name)), "digits", "", "", tmp_path)


def test_a_checkpoint_comes_before_torchvisions(
    tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = downloads / publish(monkeypatch, b"published")
    file.write_bytes(b"published")
    path = finish(tmp_path, RESNET50, "imagenet")
    found = find(RESNET50, "imagenet", "digits", DATA_SHA256, tmp_path)
    assert found == Weights("trained", path, sha256(b"weights"), "digits", DATA_SHA256, 3.5)
    assert find(RESNET50, "imagenet", "", DATA_SHA256, tmp_path).origin == "pretrained"
    path.parent.joinpath(checkpoint.MANIFEST).unlink()
    found = find(RESNET50, "imagenet", "digits", DATA_SHA256, tmp_path)
    assert found == Weights("pretrained", file, sha256(b"published"))


def test_a_checkpoint_of_other_data_is_left_alone(tmp_path: Path) -> None:
    path = finish(tmp_path, data_sha256="a" * 64)
    found = find(SMALL, "digits", "digits", DATA_SHA256, tmp_path)
    assert found.origin == "untrained"
    assert f"{path.parent} was trained on other data than this digits" in found.reason
    ours = finish(tmp_path)
    assert find(SMALL, "digits", "digits", DATA_SHA256, tmp_path).path == ours


def test_without_data_the_newest_checkpoint_is_taken(tmp_path: Path) -> None:
    times = {"a": "2026-01-02T00:00:00.000000+00:00", "b": "2026-01-01T00:00:00.000000+00:00"}
    paths = {name: finish(tmp_path, data_sha256=name * 64, finished_at=at) for name, at in times.items()}
    found = find(SMALL, "digits", "digits", "", tmp_path)
    assert (found.path, found.data_sha256) == (paths["a"], "a" * 64)


def test_a_checkpoint_is_of_its_network_and_recipe(tmp_path: Path) -> None:
    finish(tmp_path)
    wider = replace(SMALL, arguments=(("width", 9),))
    for spec, recipe in ((wider, "digits"), (SMALL, "paper")):
        found = find(spec, "digits", recipe, DATA_SHA256, tmp_path)
        assert found.origin == "untrained"
        assert f"recipe {recipe} has not trained it" in found.reason
        assert str(tmp_path / "digits" / "mine") in found.reason


def test_a_checkpoint_without_its_weights_or_with_others_is_an_error(tmp_path: Path) -> None:
    path = finish(tmp_path)
    path.write_bytes(b"other")
    with pytest.raises(TrainingError, match=r"is not what was trained; remove .* and train again"):
        find(SMALL, "digits", "digits", DATA_SHA256, tmp_path)
    path.unlink()
    with pytest.raises(TrainingError, match="is missing; remove"):
        find(SMALL, "digits", "digits", DATA_SHA256, tmp_path)


def test_torchvisions_file_must_be_whole(
    tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = downloads / publish(monkeypatch, b"published")
    file.write_bytes(b"publish")
    with pytest.raises(ModelError, match=f"{file.name} is damaged: its sha256 begins with .*; remove it"):
        find(RESNET50, "imagenet", "", "", tmp_path)


def test_what_is_untrained_says_why(tmp_path: Path, downloads: Path) -> None:
    def reason(spec: ModelSpec, dataset: str, recipe: str) -> str:
        found = find(spec, dataset, recipe, "", tmp_path)
        assert found == Weights("untrained", reason=found.reason)
        assert not found.trained
        return found.reason

    assert "no recipe and no weights" in reason(SMALL, "digits", "")
    absent = reason(RESNET50, "imagenet", "")
    assert f"there is no {downloads / 'resnet50-0676ba61.pth'}" in absent
    assert "fetch resnet50" in absent
    both = reason(RESNET50, "imagenet", "paper")
    assert both.endswith(absent)
    assert "recipe paper has not trained it" in both
    assert "with these arguments" in reason(replace(RESNET50, arguments=(("classes", 9),)), "imagenet", "")
    assert "TorchVision has no weights for own_net:net" in reason(SMALL, "imagenet", "")
    assert "no recipe" in reason(RESNET50, "cifar10", "")


def test_the_status_of_a_network_says_where_its_weights_are(
    downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(weights_module.networks()) == ["densenet161", "efficientnetb0", "resnet50", "mobilenetv2"]
    assert weights_module.networks()["resnet50"] == "resnet50-0676ba61.pth"
    assert "get it with `invoke data --fetch resnet50`" in weights_module.status("resnet50")
    file = downloads / publish(monkeypatch, b"published")
    file.write_bytes(b"published")
    assert weights_module.status("resnet50") == f"{file}, sha256 {sha256(b'published')[:12]}"
    file.write_bytes(b"publish")
    assert "is damaged" in weights_module.status("resnet50")


def test_an_unknown_recipe_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'papr'"):
        find(SMALL, "digits", "papr", "", tmp_path)


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"TORCH_HOME": "/t", "XDG_CACHE_HOME": "/x"}, "/t/hub/checkpoints"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/torch/hub/checkpoints"),
        ({"TORCH_HOME": "~/t"}, "/h/t/hub/checkpoints"),
        ({}, "/h/.cache/torch/hub/checkpoints"),
    ],
)
def test_torchvisions_cache_is_where_pytorch_has_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], where: str
) -> None:
    import torch

    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/h", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    assert weights_module.torchvision_cache() == Path(where)
    assert Path(torch.hub.get_dir()) / "checkpoints" == Path(where)


def test_a_file_is_hashed_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"one")
    hashed = []
    hash_file = weights_module.cache.hash_file
    monkeypatch.setattr(
        weights_module.cache, "hash_file", lambda path: hashed.append(path) or hash_file(path)
    )
    assert weights_module.file_sha256(path) == weights_module.file_sha256(path) == sha256(b"one")
    assert hashed == [path]
    path.write_bytes(b"other")
    assert weights_module.file_sha256(path) == sha256(b"other")


def test_neither_torch_nor_numpy_is_imported() -> None:
    code = (
        "import sys; from pathlib import Path; from dlas.models.weights import find; "
        "from dlas.values import ModelSpec; "
        f"find({RESNET50!r}, 'imagenet', 'paper', '', Path('absent')); "
        "print({'torch', 'numpy', 'torchvision'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["TORCH_HOME"] = "/absent"
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"
