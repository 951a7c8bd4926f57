"""A network is pruned once when its training starts, and training keeps the zeros."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlas.compression import channel
from dlas.compression.prune import prune_channels, prune_weights, pruned_fraction
from dlas.compression.prune_callbacks import PruneChannels, PruneWeights
from dlas.models.learner import LightningModule
from dlas.models.resnet import resnet18


def flat(module: nn.Module) -> np.ndarray:
    return np.concatenate(
        [m.weight.detach().numpy().ravel() for m in module.modules() if isinstance(m, nn.Conv2d)]
    )


class Holder(LightningModule):
    """As a learner holds its network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def train(holder: Holder, steps: int = 5) -> None:
    """With momentum and decay, which move weights without a gradient as well."""
    optimizer = torch.optim.SGD(holder.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        holder.network(torch.randn(8, 3, 32, 32)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("technique", ["weight", "channel"])
def test_training_keeps_the_zeros_and_prunes_once(technique: str) -> None:
    torch.manual_seed(0)
    trainer: Any = None
    x = torch.randn(1, 3, 32, 32)
    holder = Holder(resnet18(width=4).train())
    once = copy.deepcopy(holder.network).eval()
    if technique == "weight":
        prune_weights(once, 0.8)
    else:
        prune_channels(once, x, 0.4)
    pruning = PruneWeights(0.8) if technique == "weight" else PruneChannels(0.4, x)
    pruning.setup(trainer, holder, "test")
    assert pruned_fraction(holder.network) == 0
    pruning.setup(trainer, holder, "fit")
    assert holder.network.training
    assert np.array_equal(flat(holder.network), flat(once))
    # What a checkpoint brings back may have other zeros; the masks stay.
    first = next(m for m in holder.network.modules() if isinstance(m, nn.Conv2d))
    kept = first.weight.detach().flatten().nonzero()[0]
    first.weight.data.view(-1)[kept] = 0
    pruning.on_fit_start(trainer, holder)
    train(holder)
    content: dict[str, Any] = {}
    pruning.on_save_checkpoint(trainer, holder, content)
    zeros = flat(once) == 0
    for end in (None, pruning.on_train_epoch_end, pruning.on_train_end):
        if end is not None:
            end(trainer, holder)
        assert np.array_equal(flat(holder.network) == 0, zeros)
    assert set(content["state_dict"]) == {f"network.{name}" for name in once.state_dict()}
    plain = copy.deepcopy(holder)
    plain.load_state_dict(content["state_dict"])
    assert np.array_equal(flat(plain.network), flat(holder.network))
    before = flat(holder.network).copy()
    train(holder, 1)
    assert not np.array_equal(flat(holder.network), before)


def test_masks_are_those_of_the_channels() -> None:
    """All parameters of a pruned channel are held at zero: a batch norm's shift would bring it back."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32)
    holder = Holder(resnet18(width=4).train())
    masked = copy.deepcopy(holder.network).eval()
    channel.mask_channels(masked, x, 0.4)
    pruning = PruneChannels(0.4, x)
    pruning.setup(None, holder, "fit")  # type: ignore[arg-type]
    pruning.on_fit_start(None, holder)  # type: ignore[arg-type]
    wanted = {name: value for name, value in masked.named_buffers() if name.endswith("_mask")}
    found = {name: value for name, value in holder.network.named_buffers() if name.endswith("_mask")}
    assert set(found) == set(wanted)
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())
