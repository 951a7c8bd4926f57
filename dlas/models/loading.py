"""From a ModelSpec to a network with an input and the output that PyTorch computes for it."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlas.errors import ModelError
from dlas.models import checkpoint, imagenet, vision
from dlas.models.sources import include_working_directory, split_factory
from dlas.models.weights import file_sha256
from dlas.values import ModelSpec, Weights

Change = Callable[[nn.Module, Tensor], nn.Module]  # of a network, given one input, to another one

_SAME_WITHIN = 1e-3  # of the output's scale: what another machine's arithmetic stays far below


@dataclass(frozen=True)
class Model:
    """A network ready to export: module in eval mode, and what it must compute.

    input and output are float32; output is the oracle that compiled code is compared with.
    """

    module: nn.Module
    input: np.ndarray
    output: np.ndarray


def load(spec: ModelSpec, weights: Weights, change: Change | None = None) -> Model:
    """Make the network with its parameters, an input of standard-normal noise, and the oracle output.

    Without weights, parameters are drawn, and batch norms get statistics that fit the data and differ by
    channel, so that every layer matters to the output; those with statistics of their own are left alone.
    change: what is done to the network, which has its parameters and is in eval mode, before it is used;
    the input is a copy. The same spec and weights give the same model on the same version of PyTorch.
    Raises ModelError, also when the file is not the one that `weights` was found with, or when a network
    that was trained here no longer computes what it did then; and what `change` raises.
    """
    seed = _seed(spec)
    array = noise(spec)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if weights.trained:
            module, expected = _filled(spec, weights)
            first = _forward(spec, module.eval(), array)
        else:
            module, expected = make(spec).eval(), None
            first = _settle_batch_norms(spec, module, array)
        output = _forward(spec, module, array)
        _check_outputs(spec, weights, first, output, expected)
        if change is not None:
            module = change(module, torch.from_numpy(array.copy())).eval()
            output = _forward(spec, module, array)
    return Model(module, array, output)


def predict(module: nn.Module, images: np.ndarray, batch: int = 16) -> np.ndarray:
    """float32 logits (n, classes) of float32 images (n, C, H, W), which may be memory-mapped."""
    module.eval()
    starts = range(0, len(images), batch)
    with torch.no_grad():
        return np.concatenate(
            [module(torch.from_numpy(np.array(images[i : i + batch]))).numpy() for i in starts]
        )


def noise(spec: ModelSpec) -> np.ndarray:
    """The input that a network's oracle is computed for: float32, of its input_shape. Raises ModelError."""
    return np.random.default_rng(_seed(spec)).standard_normal(_checked_shape(spec), dtype=np.float32)


def probe(spec: ModelSpec, module: nn.Module) -> np.ndarray:
    """What a network computes for `noise`: float32. Puts it into eval mode. Raises ModelError."""
    with torch.no_grad():
        return _forward(spec, module.eval(), noise(spec))


def _seed(spec: ModelSpec) -> int:
    """A 63-bit number that depends on the network and not on its name, nor on the process."""
    text = json.dumps([spec.factory, list(spec.input_shape), sorted(spec.arguments)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _checked_shape(spec: ModelSpec) -> tuple[int, ...]:
    if not spec.input_shape or any(size < 1 for size in spec.input_shape):
        raise ModelError(
            f"model {spec.name}: input_shape {list(spec.input_shape)} is not a list of sizes of 1 or more",
            "write it as [1, 3, 32, 32]",
        )
    return spec.input_shape


def make(spec: ModelSpec) -> nn.Module:
    """The network as its factory makes it: with what it starts training with. Raises ModelError."""
    include_working_directory()
    vision.name_operators()
    module_name, function_name = split_factory(spec)
    try:
        namespace = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise _failure(spec, f"importing {module_name} failed", error, "correct the module") from error
    factory = getattr(namespace, function_name, None)
    if not callable(factory):
        cause = f"model {spec.name}: {module_name} has no function {function_name!r}"
        raise ModelError(cause, "correct the factory")
    arguments = dict(spec.arguments)
    try:
        module = factory(**arguments)
    except ModelError as error:
        raise ModelError(f"model {spec.name}: {error.cause}", error.next_step) from error
    except (Exception, SystemExit) as error:
        call = f"{spec.factory}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        raise _failure(spec, f"{call} failed", error, "correct its arguments or the function") from error
    if not isinstance(module, nn.Module):
        cause = f"model {spec.name}: {spec.factory} returned {type(module).__name__}"
        raise ModelError(cause, "return a torch.nn.Module")
    return module


def _check_outputs(
    spec: ModelSpec, weights: Weights, first: np.ndarray, again: np.ndarray, expected: np.ndarray | None
) -> None:
    """Raises ModelError unless a network computes the same twice, and what it did when it was trained."""
    if not np.allclose(first, again, rtol=1e-4, atol=1e-4 * float(np.abs(again).max())):
        cause = f"model {spec.name}: two runs on one input differ"
        raise ModelError(cause, "remove what is random or keeps state in forward")
    if expected is not None and not _alike(again, expected):
        cause = f"model {spec.name}: the network's definition has changed since {weights.path} was trained"
        how = f"after removing {weights.path.parent}" if weights.path and weights.finetuning else ""
        raise ModelError(cause, f"train it again {how or 'with `invoke train --force`'}, or undo the change")


def _filled(spec: ModelSpec, weights: Weights) -> tuple[nn.Module, np.ndarray | None]:
    """The network with the parameters of a file; and what it computed when it was trained, if known."""
    path = weights.path
    if path is None or not path.is_file() or file_sha256(path) != weights.sha256:
        cause = f"model {spec.name}: {path} is not the file that was found before"
        raise ModelError(cause, "run the same command again")
    unreadable = "give a state dict that torch.save wrote"
    published = weights.origin == "pretrained" and not weights.finetuning
    content: Any
    try:
        if published:
            content = imagenet.pretrained(spec.factory, path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling and TorchVision's loader may raise anything
        raise _failure(spec, f"{path} cannot be read", error, unreadable) from error
    if published:
        _check_finite(spec, content.state_dict(), path)
        return content, None
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"model {spec.name}: {path} is no state dict", unreadable)
    _check_finite(spec, state, path)
    module = make(spec)
    _fill(spec, module, state, path)
    if weights.finetuning:
        _check_same_network(spec, content, path)
    ours = weights.origin == "trained" or weights.finetuning != ""
    probed = content.get("probe") if ours else None
    return module, None if probed is None else probed.numpy()


def _check_finite(spec: ModelSpec, state: dict[str, Tensor], path: Path) -> None:
    for name, value in state.items():
        if not torch.isfinite(value).all():
            cause = f"model {spec.name}: {path}: {name} has NaN or infinity"
            raise ModelError(cause, "give weights that are numbers")


def _check_same_network(spec: ModelSpec, content: dict[str, Any], path: Path) -> None:
    """Raises ModelError for a file of another network, whose parameters may well fit this one."""
    about, asked = content.get("about"), checkpoint.describe(spec)
    model = about.get("model") if isinstance(about, dict) else None
    if not isinstance(model, dict) or {**model, "name": spec.name} != asked:
        cause = f"model {spec.name}: {path} is not of this network, pruned and trained on"
        raise ModelError(cause, "give what fine-tuning wrote for it")


def _fill(spec: ModelSpec, module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        names = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # of tensors that have other sizes; the first line only says so
        what = str(error).splitlines()[-1].strip()
    else:
        lacks, brings = names.missing_keys, names.unexpected_keys
        if not lacks and not brings:
            return
        what = f"it lacks {lacks[0]}" if lacks else f"the network has no {brings[0]}"
        what += f" ({len(lacks)} missing, {len(brings)} unexpected)"
    cause = f"model {spec.name}: {path} does not fit: {what}"
    raise ModelError(cause, "give the weights of this network, or correct its arguments")


def _alike(output: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two outputs differ by no more than machines do."""
    if output.shape != expected.shape:
        return False
    return bool(np.abs(output - expected).max() <= _SAME_WITHIN * np.abs(expected).max())


def _settle_batch_norms(spec: ModelSpec, module: nn.Module, array: np.ndarray) -> np.ndarray:
    """Give each fresh batch norm its statistics when the data first reaches it; returns the output.

    The mean and variance of its own input keep activations at a scale of one through any depth. Half a
    deviation more keeps most of what a ReLU gets positive: so no filter is dead, and the network does not
    amplify rounding errors, as random ones with centred activations do. Random factors, and a random scale
    and shift, make a mistake in folding visible.
    """

    def settle(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(norm, _BatchNorm):
            _draw(norm, inputs[0])

    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    handles = [norm.register_forward_pre_hook(settle) for norm in norms]
    try:
        return _forward(spec, module, array)
    finally:
        for handle in handles:
            handle.remove()


def _draw(norm: _BatchNorm, x: Tensor) -> None:
    """Statistics near those of x (N, C, ...), by channel where a channel has more than one value.

    Does nothing to a norm that keeps no statistics, or whose statistics are no longer those of a new one.
    """
    running_mean, running_var = norm.running_mean, norm.running_var
    if running_mean is None or running_var is None or running_mean.any() or (running_var != 1).any():
        return
    over = [axis for axis in range(x.ndim) if axis != 1]
    if x.numel() > x.shape[1]:
        variances, mean = torch.var_mean(x, over, correction=0)
        variance = variances.mean() + norm.eps  # of the layer: a channel that hardly varies is not blown up
    else:
        variance, mean = x.var(correction=0) + norm.eps, x.mean()
    running_mean.normal_(-0.5, 0.2).mul_(variance.sqrt()).add_(mean)
    running_var.uniform_(0.5, 1.5).mul_(variance)
    if norm.affine:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)


def _forward(spec: ModelSpec, module: nn.Module, array: np.ndarray) -> np.ndarray:
    try:
        output = module(torch.from_numpy(array.copy()))
    except (Exception, SystemExit) as error:
        what = f"it cannot take a float32 input of shape {list(spec.input_shape)}"
        raise _failure(spec, what, error, "correct input_shape or the network") from error
    if not isinstance(output, Tensor) or output.dtype != torch.float32 or output.numel() == 0:
        kind = f"a {output.dtype} tensor" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ModelError(f"model {spec.name}: its output is {kind}", "return one float32 tensor, not empty")
    result: np.ndarray = output.numpy().copy()
    if not np.isfinite(result).all() or not result.any():
        cause = f"model {spec.name}: its output has NaN or infinity, or is all zero"
        raise ModelError(cause, "correct the network or its weights")
    return result


def _failure(spec: ModelSpec, what: str, error: BaseException, next_step: str) -> ModelError:
    reason = next(iter(str(error).splitlines()), "")
    return ModelError(f"model {spec.name}: {what}: {type(error).__name__}: {reason}", next_step)
