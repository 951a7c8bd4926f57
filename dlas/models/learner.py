"""What a network learns from, and what happens in a step and in an epoch, told as PyTorch Lightning asks."""
# ruff: noqa: E402

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from dlas import cache
from dlas.errors import TrainingError
from dlas.models import checkpoint, vision
from dlas.models.recipe import Recipe

vision.name_operators()  # Lightning imports TorchVision

from pytorch_lightning import LightningDataModule, LightningModule

Images = Dataset[tuple[Tensor, int]]  # with a length; of float32 (C, H, W) and a label
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Splits:
    """What a network learns from, what is watched meanwhile, and what it is judged on."""

    train: Images
    val: Images
    test: Images


class Order(DistributedSampler[tuple[Tensor, int]]):
    """Which images a device takes, in which order: another one in each epoch, the same when it is resumed.

    workers: draws the seeds of a DataLoader's processes, likewise.
    """

    def __init__(self, images: Images, devices: int, rank: int, shuffle: bool, seed: int) -> None:
        super().__init__(images, devices, rank, shuffle, seed)
        self.workers = torch.Generator()

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.workers.manual_seed(derive_seed(self.seed, epoch, self.rank))


class Loaders(LightningDataModule):
    """Batches of the splits. The recipe's batch is shared by the devices, and no larger than the split."""

    def __init__(self, splits: Splits, recipe: Recipe, workers: int) -> None:
        super().__init__()
        self._splits, self._recipe, self._workers = splits, recipe, workers

    def train_dataloader(self) -> Any:
        # The last images of an epoch, others each time, are left out: a batch norm may fail on one image.
        return self._loader(self._splits.train, shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        return self._loader(self._splits.val)

    def test_dataloader(self) -> Any:
        return self._loader(self._splits.test)

    def _loader(self, images: Images, shuffle: bool = False, drop_last: bool = False) -> Any:
        trainer: Any = self.trainer
        order = Order(images, trainer.world_size, trainer.global_rank, shuffle, self._recipe.seed)
        # Processes begin to read before Lightning sets the epoch; current_epoch is still 0 then.
        order.set_epoch(trainer.fit_loop.epoch_progress.current.processed)
        batch = max(1, self._recipe.batch_size // trainer.world_size)
        return DataLoader(
            images,
            batch_size=min(batch, len(order)),
            sampler=order,
            drop_last=drop_last,
            num_workers=self._workers,
            generator=order.workers,
        )


class Tally:
    """Sums over images: their losses, how many are right, how many they are."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)

    def add(self, logits: Tensor, labels: Tensor, counted: slice = slice(None)) -> None:
        logits, labels = logits[counted].detach(), labels[counted]
        self.sums[0] += cross_entropy(logits, labels, reduction="sum")
        self.sums[1] += (logits.argmax(1) == labels).sum()
        self.sums[2] += len(labels)


class Learner(LightningModule):
    """A network that learns by a recipe.

    name and start: what it is called, and what it computed before it learned anything: it goes on only
    with what a network with the same start has learned. history: the figures of each epoch, which the
    file `metrics` gets as CSV. report: told a line for each epoch.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        start: Tensor,
        recipe: Recipe,
        metrics: Path,
        report: Callable[[str], None] | None,
    ) -> None:
        super().__init__()
        self.name, self.network, self.recipe = name, network, recipe
        self.history: list[dict[str, float]] = []
        self._start = start
        self._metrics, self._report = metrics, report
        self.reports = report is not None
        self._figures: dict[str, float] = {}
        self._tally = self._train_tally = Tally(torch.device("cpu"))
        self._started = 0.0

    def configure_optimizers(self) -> Any:
        # Not Trainer.estimated_stepping_batches: that starts to read the first epoch's images, also where
        # a later one is to be resumed.
        loaders: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        recipe, steps = self.recipe, self.recipe.epochs * len(loaders.train_dataloader())
        optimizer = SGD(
            self.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        scheduler: LRScheduler
        if recipe.schedule == "onecycle":
            # PyTorch's default would let the momentum go the other way; a recipe's stays.
            scheduler = OneCycleLR(optimizer, recipe.learning_rate, steps, cycle_momentum=False)
        else:
            scheduler = CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        # Crops, flips and dropout: a resumed epoch draws what it would have drawn.
        torch.manual_seed(derive_seed(self.recipe.seed, self.current_epoch, self.global_rank))
        self._started = time.monotonic()
        self._train_tally = Tally(self.device)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._figures = {"epoch": self.current_epoch + 1, "learning_rate": float(rate)}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = cross_entropy(logits, labels)
        self._train_tally.add(logits, labels)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._tally = Tally(self.device)

    def validation_step(self, batch: Batch, index: int) -> None:
        self._judge(batch, index, self.trainer.val_dataloaders)

    def on_validation_epoch_end(self) -> None:
        self._figures |= self._means("val", self._tally)
        loss, epoch = self._figures["val_loss"], self.current_epoch + 1
        if not math.isfinite(loss):
            cause = f"{self.name} with recipe {self.recipe.name}: the loss is {loss} after epoch {epoch}"
            raise TrainingError(cause, "give a smaller learning_rate")

    def on_train_epoch_end(self) -> None:
        self._figures |= self._means("train", self._train_tally)
        self._figures["seconds"] = time.monotonic() - self._started
        shown = "val_top1_fraction"
        self.log(shown, self._figures[shown], prog_bar=True, sync_dist=True)
        self.log_dict({k: v for k, v in self._figures.items() if k != shown}, sync_dist=True)
        self.history.append(self._figures)
        if not self.trainer.is_global_zero:
            return
        text = io.StringIO()
        table = csv.DictWriter(text, list(self._figures))
        table.writeheader()
        table.writerows(self.history)
        cache.atomic_write(self._metrics, text.getvalue().encode())
        if self._report is not None:
            accuracy = self._figures["val_top1_fraction"]
            self._report(f"epoch {len(self.history)}/{self.recipe.epochs}, val {accuracy:.1%}")

    def on_test_epoch_start(self) -> None:
        self._tally = Tally(self.device)

    def test_step(self, batch: Batch, index: int) -> None:
        self._judge(batch, index, self.trainer.test_dataloaders)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self._means("test", self._tally), logger=False, sync_dist=True)

    def on_save_checkpoint(self, content: dict[str, Any]) -> None:
        content |= {"history": self.history, "start": self._start}

    def on_load_checkpoint(self, content: dict[str, Any]) -> None:
        start = content["start"]
        if start.shape != self._start.shape or not torch.allclose(start, self._start, rtol=1e-3, atol=1e-6):
            cause = f"{self.name}: its definition, or PyTorch, has changed since its training was interrupted"
            next_step = (
                f"remove {self._metrics.parent / checkpoint.LAST} to start it anew, or undo the change"
            )
            raise TrainingError(cause, next_step)
        self.history = list(content["history"])

    def _judge(self, batch: Batch, index: int, loader: Any) -> None:
        """Count a batch, but not the images with which `Order` makes all devices' shares equally long."""
        images, labels = batch
        order, devices = loader.sampler, self.trainer.world_size
        first = index * loader.batch_size
        counted = math.ceil((len(order.dataset) - self.global_rank) / devices) - first
        self._tally.add(self.network(images), labels, slice(max(0, counted)))

    def _means(self, split: str, tally: Tally) -> dict[str, float]:
        """Loss and top-1 fraction over all devices."""
        loss, correct, n = self.trainer.strategy.reduce(tally.sums, reduce_op="sum").tolist()
        return {f"{split}_loss": loss / n, f"{split}_top1_fraction": correct / n, f"{split}_n": n}


def derive_seed(*parts: int) -> int:
    """A 63-bit seed of its own for each combination."""
    return int(cache.digest(*map(str, parts))[:16], 16) >> 1
