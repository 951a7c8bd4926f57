"""A network as a compression makes it: dense, pruned, or without the channels that were pruned."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dlas.compression import channel, levels
from dlas.compression.prune import named, prune_channels, prune_uniformly, prune_weights, pruned_fraction
from dlas.errors import ModelError
from dlas.models import checkpoint, loading
from dlas.models.loading import Model
from dlas.values import Compression, ModelSpec, Weights

_SAME_WITHIN = 1e-3  # of all weights


def load(spec: ModelSpec, weights: Weights, compression: Compression) -> Model:
    """The network with its parameters, pruned, and what PyTorch computes with it: as `models.loading.load`.

    Weights that fine-tuning wrote are pruned already, to this level. All others are pruned here, and not
    trained after it. Raises ModelError as `loading.load`,
    also for weights of another level, TrainingError where nothing tells their level, and ValueError for a
    level that is not known yet, or weights that are pruned for a dense network.
    """
    if compression.technique == "dense":
        if weights.finetuning:
            raise ValueError(f"{weights.path} is pruned, a dense network was asked for")
        return loading.load(spec, weights)
    level = compression.level_fraction
    if level is None:
        raise ValueError("the elbow is not known yet")
    if weights.finetuning:
        _check_level(spec, weights, compression.technique, level)

    def change(module: nn.Module, x: Tensor) -> nn.Module:
        if weights.finetuning:
            _check_zeros(spec, weights, compression.technique, level, module)
        elif compression.technique == "weight":
            prune_weights(module, level)
        elif compression.technique == "uniform":
            prune_uniformly(module, x, level)
        else:
            prune_channels(module, x, level)
        return channel.shrink(module, x) if compression.shrunk else module

    with named(spec):
        return loading.load(spec, weights, change)


def _check_level(spec: ModelSpec, weights: Weights, technique: str, level: float) -> None:
    if weights.path is None:
        raise ValueError("weights that are pruned have a file")
    manifest = checkpoint.read_as(levels.Level, weights.path.parent)
    if (manifest.technique, manifest.level_fraction) != (technique, level):
        raise _misfit(
            spec, weights, f"{manifest.technique} level {manifest.level_fraction:g}", technique, level
        )


def _check_zeros(spec: ModelSpec, weights: Weights, technique: str, level: float, module: nn.Module) -> None:
    """Raises ModelError unless the weights are as sparse as they should be, as far as rounding allows."""
    count = sum(conv.weight.numel() for conv in module.modules() if isinstance(conv, _ConvNd))
    found = pruned_fraction(module)
    if technique == "weight" and abs(found - level) > _SAME_WITHIN + 0.5 / max(1, count):
        raise _misfit(spec, weights, f"{found:.1%} zeros", technique, level)


def _misfit(spec: ModelSpec, weights: Weights, found: str, technique: str, level: float) -> ModelError:
    cause = f"model {spec.name}: {weights.path} has {found}, wanted is {technique} level {level:g}"
    return ModelError(cause, "give the weights of that level, or remove the file and fine-tune again")
