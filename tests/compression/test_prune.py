"""Pruning takes the smallest weights of all convolutions, as many as it should."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from dlas.compression.prune import prune_channels, prune_uniformly, prune_weights, pruned_fraction
from dlas.errors import DlasError, ModelError, UsageError
from dlas.models.mobilenet import mobilenetv1, mobilenetv2
from dlas.models.resnet import resnet18

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weights(module: nn.Module) -> list[np.ndarray]:
    return [m.weight.detach().numpy() for m in module.modules() if isinstance(m, CONVOLUTIONS)]


def flat(module: nn.Module) -> np.ndarray:
    return np.concatenate([weight.ravel() for weight in weights(module)])


def mixed() -> nn.Module:
    """Convolutions of each kind, with layers of very different scales."""
    torch.manual_seed(0)
    module = nn.ModuleList(
        [nn.Conv1d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv3d(4, 4, 3), nn.Linear(8, 8)]
    )
    module[2].weight.data *= 100
    return module


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: resnet18(width=8),
    "mobilenetv1": lambda: mobilenetv1(width=8),
    "mobilenetv2": lambda: mobilenetv2(width=4),
    "mixed": mixed,
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_so_many_of_the_smallest_become_zero(name: str, level: float) -> None:
    torch.manual_seed(0)
    module = NETWORKS[name]()
    before = flat(copy.deepcopy(module))
    others = {key: value.clone() for key, value in module.state_dict().items() if value.ndim < 3}
    prune_weights(module, level)
    after = flat(module)
    count = round(level * len(before))
    assert (after == 0).sum() == count
    assert pruned_fraction(module) == count / len(before)
    assert abs(pruned_fraction(module) - level) < 1e-3
    expected = before.copy()
    expected[np.argsort(np.abs(before), kind="stable")[:count]] = 0
    assert np.array_equal(after, expected)
    assert set(module.state_dict()) == set(NETWORKS[name]().state_dict())
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in others.items())
    assert not [m for m in module.modules() if m._forward_pre_hooks]


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv1", "mobilenetv2"])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_uniform_pruning_takes_the_smallest_of_each_convolution(name: str, level: float) -> None:
    torch.manual_seed(0)
    module = NETWORKS[name]().eval()
    before = weights(copy.deepcopy(module))
    prune_uniformly(module, torch.randn(1, 3, 32, 32), level)
    pruned = 0
    for number, (old, new) in enumerate(zip(before, weights(module), strict=True)):
        if number == 0 or new.shape[1] == 1:
            np.testing.assert_array_equal(new, old)
            continue
        pruned += 1
        assert (new == 0).sum() == round(level * new.size)
        np.testing.assert_array_equal(new[new != 0], old[new != 0])
        assert np.abs(new[new != 0]).min() >= np.abs(old[new == 0]).max()
    assert pruned > 10


def test_the_first_convolution_is_the_first_to_run() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Conv2d(4, 4, 3)
            self.first = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x))

    module = Backwards()
    prune_uniformly(module, torch.randn(1, 3, 8, 8), 0.5)
    assert (module.first.weight != 0).all()
    assert (module.last.weight == 0).sum() == 72
    assert not list(module.named_buffers())  # no mask is left


def test_one_input_channel_is_not_depthwise() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 8, 3))
    prune_uniformly(module, torch.randn(1, 1, 8, 8), 0.5)
    assert (module[1].weight == 0).sum() == 36


def test_a_level_is_of_all_weights_and_keeps_the_zeros_before_it() -> None:
    module = resnet18(width=4)
    prune_weights(module, 0.5)
    first = flat(module) == 0
    prune_weights(module, 0.8)
    assert abs(pruned_fraction(module) - 0.8) < 1e-3
    assert (flat(module)[first] == 0).all()
    prune_weights(module, 0.5)
    assert abs(pruned_fraction(module) - 0.8) < 1e-3


def test_another_memory_format_changes_nothing() -> None:
    module = resnet18(width=4)
    other = copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    prune_weights(module, 0.9)
    prune_weights(other, 0.9)
    assert np.array_equal(flat(module), flat(other))


def test_of_channels_only_convolutions_are_counted() -> None:
    torch.manual_seed(0)
    module = resnet18(width=8).eval()
    x = torch.randn(1, 3, 32, 32)
    before = flat(module).copy()
    prune_channels(module, x, 0.4)
    assert 0.3 < pruned_fraction(module) < 0.9
    kept = flat(module) != 0
    assert np.array_equal(flat(module)[kept], before[kept])
    assert set(module.state_dict()) == set(resnet18(width=8).state_dict())


def broken(value: float) -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    module[1].weight.data[0, 0, 0, 0] = value
    return module


CASES: list[tuple[nn.Module, float, type[DlasError], str]] = [
    (broken(0), 0.0, UsageError, "level 0.0 is not between 0 and 1; give a share"),
    (broken(0), 1.0, UsageError, "level 1.0 is not"),
    (broken(0), -0.1, UsageError, "level -0.1 is not"),
    (broken(0), float("nan"), UsageError, "level nan is not"),
    (broken(float("nan")), 0.5, ModelError, "the weight of 1 has NaN or infinity; correct"),
    (broken(float("inf")), 0.5, ModelError, "the weight of 1 has NaN or infinity; correct"),
    (nn.Linear(3, 3), 0.5, ModelError, "the network has no convolution to prune; leave it dense"),
]


@pytest.mark.parametrize(("module", "level", "kind", "message"), CASES)
def test_what_cannot_be_pruned_says_why(
    module: nn.Module, level: float, kind: type[DlasError], message: str
) -> None:
    before = copy.deepcopy(module.state_dict())
    for prune in (prune_weights, lambda module, level: prune_channels(module, torch.ones(1, 3, 9, 9), level)):
        with pytest.raises(kind, match=message) as caught:
            prune(module, level)
        assert "\n" not in str(caught.value)
    assert all(
        np.array_equal(before[key], value, equal_nan=True) for key, value in module.state_dict().items()
    )
    assert pruned_fraction(nn.Linear(3, 3)) == 0


def test_lightning_is_not_imported() -> None:
    loaded = "{'pytorch_lightning', 'torchvision'} & set(sys.modules)"
    code = f"import sys, dlas.compression.compressed; print({loaded})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
