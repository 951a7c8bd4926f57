"""Lightning's callbacks that prune a network when its training starts, and keep the zeros while it lasts.

Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015: prune what is
small, train on, prune more. Apart from `prune`, as importing Lightning takes seconds.
"""
# ruff: noqa: E402

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import prune

from dlas.compression import channel
from dlas.compression.notation import check_level
from dlas.compression.prune import targets
from dlas.models import vision

vision.name_operators()  # Lightning imports TorchVision

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelPruning


class PruneWeights(ModelPruning):
    """Prunes a learner's network to an absolute level when its training starts, and never again.

    The masks come from the network as it is before a checkpoint is restored. So a training that goes on has
    those that it began with, whatever has become zero meanwhile; and a checkpoint holds plain parameters.
    """

    def __init__(self, level_fraction: float) -> None:
        check_level(level_fraction)
        super().__init__(
            "l1_unstructured",
            amount=level_fraction,
            apply_pruning=False,  # at the end of epochs
            use_global_unstructured=True,
            use_lottery_ticket_hypothesis=False,
        )
        self._masks: list[tuple[nn.Module, str, Tensor]] = []

    def filter_parameters_to_prune(self, parameters_to_prune: Any = ()) -> Any:
        """Of all parameters, the weights of convolutions."""
        return [
            (module, name)
            for module, name in parameters_to_prune
            if name == "weight" and isinstance(module, _ConvNd)
        ]

    def mask(self, network: nn.Module) -> None:
        """Put PyTorch's masks on what is pruned."""
        targets(network)
        self.apply_pruning(self.amount)  # type: ignore[arg-type]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        super().setup(trainer, pl_module, stage)
        network: Any = pl_module.network
        self.mask(network)
        self._masks = [
            (module, name.removesuffix("_mask"), value.clone())
            for module in network.modules()
            for name, value in module.named_buffers(recurse=False)
            if name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in module._parameters
        ]
        self.make_pruning_permanent(network)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for module, name, mask in self._masks:
            prune.custom_from_mask(module, name, mask.to(pl_module.device))  # type: ignore[no-untyped-call]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # As on_train_end, which is left out where no epoch was left to train.
        self.make_pruning_permanent(pl_module)


class PruneChannels(PruneWeights):
    """The same of whole channels, on all parameters that belong to them. x: one input of the network."""

    def __init__(self, level_fraction: float, x: Tensor) -> None:
        super().__init__(level_fraction)
        self._x = x

    def mask(self, network: nn.Module) -> None:
        targets(network)
        training = network.training
        channel.mask_channels(network.eval(), self._x, float(self.amount))  # type: ignore[arg-type]
        network.train(training)
