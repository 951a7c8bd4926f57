"""PyTorch Lightning's Trainer, made quiet, atomic and resumable, and leaving the process as it was."""
# ruff: noqa: E402

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from dlas import cache
from dlas.errors import DlasError, TrainingError, UsageError
from dlas.models import checkpoint, vision
from dlas.models import recipe as recipes
from dlas.models.recipe import Recipe

vision.name_operators()  # Lightning imports TorchVision

from lightning_fabric.plugins import CheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.seed import isolate_rng

from dlas.models.learner import Learner, Loaders

if TYPE_CHECKING:
    from dlas.models.train import Machine

# Advice, and what Lightning does to itself: nothing that a user of dlas could act on.
_IDLE_WARNINGS = (
    ".*does not have many workers.*",
    "Checkpoint directory .* exists and is not empty.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*During `trainer.test\\(\\)`, it is recommended to use.*",
)
_LOGGERS = ("pytorch_lightning", "lightning_fabric")
_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG")


class AtomicCheckpoints(CheckpointIO):
    """Checkpoints that are there whole or not at all, also after a kill or a power cut, and run no code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        cache.atomic_write(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def make(
    machine: Machine, recipe: Recipe, folder: Path, progress_bar: bool, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """A Trainer that keeps the last whole epoch in `folder`. Raises UsageError for what is not there."""
    last = ModelCheckpoint(
        dirpath=folder,
        filename=Path(checkpoint.LAST).stem,
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    board = TensorBoardLogger(folder.parent, name="", version=folder.name, default_hp_metric=False)
    board.log_hyperparams(recipes.to_table(recipe))
    try:
        return Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            strategy=machine.strategy,
            precision=machine.precision,  # type: ignore[arg-type]
            max_epochs=recipe.epochs,
            callbacks=[*callbacks, last],
            plugins=[AtomicCheckpoints()],
            logger=board,
            log_every_n_steps=1,
            num_sanity_val_steps=0,  # they would draw random numbers
            use_distributed_sampler=False,  # `learner.Order` is one
            deterministic="warn",
            enable_progress_bar=progress_bar,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError, ImportError) as error:
        cause = f"no training on this machine: {_first_line(error)}"
        raise UsageError(cause, "choose another accelerator, devices, strategy or precision") from error


def fit(trainer: Trainer, learner: Learner, loaders: Loaders, last: Path | None) -> None:
    """Train, going on from `last` if there is one. Raises TrainingError, and KeyboardInterrupt for Ctrl-C."""
    with _failures(learner, last):
        trainer.fit(learner, datamodule=loaders, ckpt_path=last, weights_only=True)


def test(trainer: Trainer, learner: Learner, loaders: Loaders) -> dict[str, float]:
    """The learner's figures on the test split. Raises as `fit`."""
    with _failures(learner, None):
        trainer.test(learner, datamodule=loaders, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def is_first_process() -> bool:
    """Whether this is no process that Lightning started for a further device."""
    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def prepared(seed: int, threads: int) -> Iterator[None]:
    """A process with this seed and number of threads; then it gets back all that Lightning changes in it."""
    strict, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark, threads_before = torch.backends.cudnn.benchmark, torch.get_num_threads()
    environment = {name: os.environ.get(name) for name in _VARIABLES}
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with isolate_rng(), warnings.catch_warnings():
            for message in _IDLE_WARNINGS:
                warnings.filterwarnings("ignore", message)
            torch.set_num_threads(threads or threads_before)
            seed_everything(seed, workers=True)
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_num_threads(threads_before)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _failures(learner: Learner, last: Path | None) -> Iterator[None]:
    """Lightning's ends as ours. It makes an exit of Ctrl-C, and passes on all else that is raised."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except DlasError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {_first_line(error)}"
        if isinstance(error, ProcessRaisedException):  # ends with the traceback of another process
            what = str(error).strip().splitlines()[-1]
        cause = f"training {learner.name} with recipe {learner.recipe.name} failed: {what}"
        next_step = "correct the network, the recipe or the machine's settings"
        if last is not None:
            next_step += f"; if it only fails here, remove {last}"
        raise TrainingError(cause, next_step) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
