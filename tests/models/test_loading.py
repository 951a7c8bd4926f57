"""Every layer of a loaded network matters to its output, and what cannot be loaded says why."""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dlas.errors import ModelError
from dlas.models import checkpoint
from dlas.models.loading import Model, load, predict
from dlas.models.mobilenet import mobilenetv1
from dlas.values import ModelSpec, Weights

NETWORKS = {"resnet18": "resnet", "vgg16": "vgg", "mobilenetv1": "mobilenet", "mobilenetv2": "mobilenet"}
UNTRAINED = Weights("untrained")
TINY = ModelSpec("tiny", "dlas.models.mobilenet:mobilenetv1", (1, 3, 32, 32), (("width", 1),))


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(name, f"dlas.models.{NETWORKS[name]}:{name}", (1, 3, 32, 32))


@pytest.fixture(scope="module", params=NETWORKS)
def model(request: pytest.FixtureRequest) -> Model:
    return load(spec_of(request.param), UNTRAINED)


def change(model: Model, output: torch.Tensor) -> float:
    """Largest difference from the oracle, over the oracle's largest value."""
    return float(np.abs(output.numpy() - model.output).max() / np.abs(model.output).max())


def run(module: nn.Module, array: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return module(torch.from_numpy(array))


def test_a_model_is_its_module_and_what_it_computes(model: Model) -> None:
    assert not model.module.training
    assert (model.input.shape, model.input.dtype) == ((1, 3, 32, 32), np.float32)
    assert (model.output.shape, model.output.dtype) == ((1, 10), np.float32)
    assert change(model, run(model.module, model.input)) == 0


def test_the_output_has_a_healthy_scale(model: Model) -> None:
    largest = float(np.abs(model.output).max())
    assert 0.1 < largest < 100
    assert model.output.std() > 0.2 * largest
    other = np.random.default_rng(0).standard_normal(model.input.shape, dtype=np.float32)
    assert change(model, run(model.module, other)) > 0.05


def test_small_errors_are_not_amplified(model: Model) -> None:
    exact = copy.deepcopy(model.module).double()
    output = run(exact, model.input.astype(np.float64))
    assert change(model, output) < 1e-5  # of rounding
    noise = np.random.default_rng(0).standard_normal(model.input.shape)
    disturbed = run(exact, model.input + 1e-6 * noise)
    assert float((disturbed - output).abs().max()) < 1e-5 * np.abs(model.output).max()


def test_an_error_in_any_convolution_reaches_the_output(model: Model) -> None:
    for layer in model.module.modules():
        if isinstance(layer, nn.Conv2d):
            broken = layer.out_channels // 2
            kept = layer.weight.data[broken].clone()
            layer.weight.data[broken] = 0
            assert change(model, run(model.module, model.input)) > 1e-3
            layer.weight.data[broken] = kept


def test_batch_norms_are_far_enough_from_neutral_for_a_mistake_to_show(model: Model) -> None:
    for norm in model.module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, neutral in (
                (norm.weight, 1),
                (norm.bias, 0),
                (norm.running_mean, 0),
                (norm.running_var, 1),
            ):
                assert (values != neutral).all()
                assert values.std() > 0


def test_the_same_spec_gives_the_same_model_and_leaves_torch_alone() -> None:
    state = torch.random.get_rng_state()
    renamed = ModelSpec("renamed", TINY.factory, TINY.input_shape, TINY.arguments)
    first, second = load(TINY, UNTRAINED), load(renamed, UNTRAINED)
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(first.input, second.input)
    assert np.array_equal(first.output, second.output)
    weights = second.module.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.module.state_dict().items())
    wider = load(ModelSpec("tiny", TINY.factory, TINY.input_shape, (("width", 2),)), UNTRAINED)
    assert not np.array_equal(first.input, wider.input)


def test_the_seed_does_not_depend_on_the_process() -> None:
    code = (
        "from dlas.models.loading import load; from dlas.values import ModelSpec, Weights; "
        f"print(load({TINY!r}, {UNTRAINED!r}).input.tobytes().hex()[:64])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == load(TINY, UNTRAINED).input.tobytes().hex()[:64]


NET = """
    import torch
    from torch import nn

    def conv(channels=4):
        return nn.Conv2d(3, channels, 3)

    def trained():
        norm = nn.BatchNorm2d(3)
        norm.running_mean.fill_(0.25)
        return norm

    def without_statistics():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))

    def without_affine():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))

    def single_pixel():
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def lazy():
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())

    class Fn(nn.Module):
        def __init__(self, fn):
            super().__init__()
            self.fn = fn

        def forward(self, x):
            return self.fn(x)

    def two():
        return Fn(lambda x: (x, x))

    def whole_numbers():
        return Fn(lambda x: x.argmax(1))

    def empty():
        return Fn(lambda x: x[:0])

    def infinite():
        return Fn(lambda x: x / 0)

    def zero():
        return Fn(lambda x: x * 0)

    def noisy():
        return Fn(lambda x: nn.functional.dropout(x, training=True))

    def half():
        return nn.Conv2d(3, 4, 3).half()

    def leaving():
        raise SystemExit("enough")

    def nothing():
        return None

    number = 3
"""
SHAPE = (1, 3, 5, 5)


def test_a_module_of_the_working_directory_is_found(write: Callable[[str, str], Path]) -> None:
    write("own_net.py", NET)
    model = load(ModelSpec("own", "own_net:conv", SHAPE, (("channels", 7),)), UNTRAINED)
    assert model.output.shape == (1, 7, 3, 3)


@pytest.mark.parametrize("function", ["without_statistics", "without_affine", "single_pixel", "lazy"])
def test_other_batch_norms_load(write: Callable[[str, str], Path], function: str) -> None:
    write("own_net.py", NET)
    assert load(ModelSpec("own", f"own_net:{function}", SHAPE), UNTRAINED).output.shape[1] == 4


def test_statistics_that_a_module_brings_are_kept(write: Callable[[str, str], Path]) -> None:
    write("own_net.py", NET)
    norm = load(ModelSpec("own", "own_net:trained", SHAPE), UNTRAINED).module
    assert isinstance(norm, nn.BatchNorm2d)
    assert (norm.running_mean == 0.25).all()
    assert (norm.weight == 1).all()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("own_net", "factory 'own_net' is not package.module:function; write it as in dlas"),
        ("own net:conv", "is not package.module:function"),
        ("own_absent:conv", "importing own_absent failed: ModuleNotFoundError: No module named 'own_absent'"),
        ("own_broken:conv", "importing own_broken failed: ZeroDivisionError"),
        ("own_net:absent", "own_net has no function 'absent'"),
        ("own_net:number", "own_net has no function 'number'"),
        ("own_net:nothing", "own_net:nothing returned NoneType; return a torch.nn.Module"),
        ("own_net:leaving", r"own_net:leaving\(\) failed: SystemExit: enough"),
        ("own_net:two", "its output is a tuple; return one float32 tensor"),
        ("own_net:whole_numbers", "its output is a torch.int64 tensor"),
        ("own_net:empty", "its output is a torch.float32 tensor; return one float32 tensor, not empty"),
        ("own_net:infinite", "its output has NaN or infinity"),
        ("own_net:zero", "or is all zero"),
        ("own_net:noisy", "two runs on one input differ; remove what is random"),
        ("own_net:half", r"it cannot take a float32 input of shape \[1, 3, 5, 5\]: RuntimeError"),
    ],
)
def test_what_cannot_be_loaded_says_why_in_one_line(
    write: Callable[[str, str], Path], factory: str, message: str
) -> None:
    write("own_net.py", NET)
    write("own_broken.py", "1 / 0")
    with pytest.raises(ModelError, match=message) as caught:
        load(ModelSpec("mine", factory, SHAPE), UNTRAINED)
    assert str(caught.value).startswith("model mine: ")
    assert "\n" not in str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((1, 4, 5, 5), (), r"cannot take a float32 input of shape \[1, 4, 5, 5\]: RuntimeError"),
        ((1, 3, 2, 2), (), r"cannot take a float32 input of shape \[1, 3, 2, 2\]: RuntimeError"),
        ((1, 3, 0, 5), (), r"input_shape \[1, 3, 0, 5\] is not a list of sizes of 1 or more"),
        ((), (), r"input_shape \[\] is not"),
        (SHAPE, (("depth", 3),), r"own_net:conv\(depth=3\) failed: TypeError"),
    ],
)
def test_a_shape_or_an_argument_that_does_not_fit(
    write: Callable[[str, str], Path],
    shape: tuple[int, ...],
    arguments: tuple[tuple[str, int], ...],
    message: str,
) -> None:
    write("own_net.py", NET)
    with pytest.raises(ModelError, match=message) as caught:
        load(ModelSpec("mine", "own_net:conv", shape, arguments), UNTRAINED)
    assert "\n" not in str(caught.value)


def test_a_width_below_one_names_the_model() -> None:
    with pytest.raises(ModelError, match="model thin: width 0 is below 1; 64 is the published width"):
        load(ModelSpec("thin", "dlas.models.resnet:resnet18", (1, 3, 32, 32), (("width", 0),)), UNTRAINED)


def test_networks_of_torchvision_can_be_named() -> None:
    spec = ModelSpec("vision", "torchvision.models:squeezenet1_1", (1, 3, 64, 64), (("num_classes", 7),))
    assert load(spec, UNTRAINED).output.shape == (1, 7)


def save(path: Path, content: object) -> Weights:
    """The user's file, as `weights.find` would have it."""
    torch.save(content, path)
    return Weights("given", path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Parameters of TINY that are not those it is made with."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return load(TINY, UNTRAINED).module.state_dict() | {"linear.bias": torch.randn(10)}


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_fills_the_network(tmp_path: Path, state: dict[str, torch.Tensor], wrapped: bool) -> None:
    weights = save(tmp_path / "own.pt", {"state_dict": state, "epoch": 3} if wrapped else state)
    model = load(TINY, weights)
    assert not model.module.training
    assert all(torch.equal(value, state[name]) for name, value in model.module.state_dict().items())
    assert np.array_equal(model.input, load(TINY, UNTRAINED).input)
    assert change(model, run(model.module, model.input)) == 0


def test_statistics_of_a_file_are_kept_even_where_they_are_those_of_a_new_network(tmp_path: Path) -> None:
    fresh = mobilenetv1(width=1)
    module = load(TINY, save(tmp_path / "own.pt", fresh.state_dict())).module
    means = [norm.running_mean for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert means
    assert not any(mean.any() for mean in means)


def test_a_file_that_does_not_fit_says_where(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    def refused(content: object) -> str:
        with pytest.raises(ModelError, match=r"^model tiny: ") as caught:
            load(TINY, save(tmp_path / "own.pt", content))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    less = {name: value for name, value in state.items() if name != "linear.bias"}
    assert "does not fit: it lacks linear.bias (1 missing, 0 unexpected); give" in refused(less)
    assert "the network has no bias (0 missing, 1 unexpected)" in refused({**state, "bias": torch.ones(1)})
    wrong = refused({**state, "linear.bias": torch.ones(9)})
    assert "size mismatch for linear.bias" in wrong
    assert "torch.Size([9])" in wrong
    assert "is no state dict" in refused([1])
    assert "is no state dict" in refused({"state_dict": 3})
    assert "is no state dict" in refused({"epoch": 3})
    for number in (torch.nan, -torch.inf):
        broken = refused({**state, "linear.bias": torch.full((10,), number)})
        assert "own.pt: linear.bias has NaN or infinity; give weights that are numbers" in broken
    assert "own.pt cannot be read: UnpicklingError" in refused(mobilenetv1(width=1))


def test_a_file_that_is_not_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    path.write_bytes(b"no weights")
    weights = Weights("given", path, hashlib.sha256(b"no weights").hexdigest())
    with pytest.raises(ModelError, match=r"own.pt cannot be read: .*; give a state dict") as caught:
        load(TINY, weights)
    assert "\n" not in str(caught.value)


def test_a_file_that_changed_since_it_was_found(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    weights = save(tmp_path / "own.pt", state)
    save(tmp_path / "own.pt", mobilenetv1(width=1).state_dict())
    with pytest.raises(ModelError, match=r"own.pt is not the file that was found before"):
        load(TINY, weights)
    (tmp_path / "own.pt").unlink()
    with pytest.raises(ModelError, match=r"own.pt is not the file that was found before"):
        load(TINY, weights)


def test_a_trained_network_must_compute_what_it_did_when_it_was_trained(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    def trained(probe: np.ndarray) -> Weights:
        content = {"state_dict": state, "probe": torch.from_numpy(probe)}
        return replace(save(tmp_path / "own.pt", content), origin="trained")

    output = load(TINY, save(tmp_path / "own.pt", state)).output
    scale = np.abs(output).max()
    assert np.array_equal(load(TINY, trained(output)).output, output)
    nearly = output + np.float32(5e-4) * scale
    assert np.array_equal(load(TINY, trained(nearly)).output, output)
    for other in (output + np.float32(2e-3) * scale, output[:, :9], np.full_like(output, np.nan)):
        with pytest.raises(ModelError, match=r"was trained; train it again with `invoke train --force`"):
            load(TINY, trained(other))
        assert load(TINY, replace(trained(other), origin="given")).output.shape == (1, 10)


def test_a_network_may_be_changed_before_it_is_used(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    seen = []

    def silence(module: nn.Module, x: torch.Tensor) -> nn.Module:
        seen.append((module.training, x.numpy().copy(), run(module, x.numpy()).numpy()))
        module.linear.bias.zero_()
        x.zero_()
        return nn.Sequential(module, nn.Flatten())

    weights = save(tmp_path / "own.pt", state)
    trained = {"state_dict": state, "probe": torch.from_numpy(load(TINY, weights).output)}
    for found in (UNTRAINED, weights, replace(save(tmp_path / "trained.pt", trained), origin="trained")):
        plain, changed = load(TINY, found), load(TINY, found, silence)
        training, array, before = seen.pop()
        assert not training
        assert np.array_equal(array, plain.input)
        assert np.array_equal(before, plain.output)
        assert isinstance(changed.module, nn.Sequential)
        assert not changed.module.training
        assert np.array_equal(changed.input, plain.input)
        difference = plain.output - changed.output
        np.testing.assert_allclose(difference[0], plain.module.linear.bias.detach(), atol=1e-5)


def test_weights_that_were_trained_on_are_of_this_network(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    output = load(TINY, save(tmp_path / "own.pt", state)).output

    def level(spec: ModelSpec, probe: np.ndarray = output) -> Weights:
        about = {"model": checkpoint.describe(spec)}
        content = {"state_dict": state, "probe": torch.from_numpy(probe), "about": about}
        return replace(save(tmp_path / "level.pt", content), origin="pretrained", finetuning="mine")

    for name in ("tiny", "renamed"):
        assert np.array_equal(load(TINY, level(replace(TINY, name=name))).output, output)
    for other in (replace(TINY, factory="own:net"), replace(TINY, input_shape=(1, 3, 64, 64))):
        with pytest.raises(
            ModelError, match=r"^model tiny: .*level.pt is not of this network, pruned"
        ) as caught:
            load(TINY, level(other))
        assert "\n" not in str(caught.value)
    plain = replace(save(tmp_path / "own.pt", state), finetuning="mine")
    with pytest.raises(ModelError, match="is not of this network, pruned and trained on"):
        load(TINY, plain)
    with pytest.raises(ModelError, match=r"definition has changed since .*; train it again after removing"):
        load(TINY, level(TINY, 2 * output))


@pytest.mark.parametrize(("count", "batch"), [(1, 16), (5, 2), (6, 3)])
def test_predictions_are_those_of_each_image(tmp_path: Path, count: int, batch: int) -> None:
    module = load(TINY, UNTRAINED).module.train()
    images = np.random.default_rng(0).standard_normal((count, 3, 32, 32), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch's, of arrays that cannot be written to
        logits = predict(module, mapped, batch)
    assert (logits.shape, logits.dtype) == ((count, 10), np.float32)
    one_by_one = np.concatenate([run(module, images[i : i + 1]).numpy() for i in range(count)])
    np.testing.assert_allclose(logits, one_by_one, rtol=0, atol=1e-5 * np.abs(logits).max())
