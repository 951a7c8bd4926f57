"""The file of a sweep: its TOML read and checked, so that what is declared is what can be meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

from dlas import tomlfile
from dlas.compression import notation
from dlas.datasets.catalog import DATASETS
from dlas.errors import SweepError, TargetError, UsageError, did_you_mean
from dlas.hardware import targets
from dlas.sweeptables import (
    FIX,
    MAX_DROP_FRACTION,
    PAPER,
    Budget,
    Training,
    budget,
    max_drop,
    named_file,
    tables,
    trainings,
)
from dlas.values import ModelSpec, Scalar

FOLDER = Path(__file__).parent / "sweeps"
OF_DATASET = {"cifar10": "cifar"}  # the sweep of a dataset whose name is not its own
HOST = "host"  # an alias: the machine itself, for a sweep that names no target

_SMALL = ("cifar10", "digits")  # images of 32x32
# The built-in networks, each with its definition for each dataset that it has one for.
FACTORIES: Mapping[str, Mapping[str, str]] = {
    "resnet18": dict.fromkeys(_SMALL, "dlas.models.resnet:resnet18"),
    "mobilenetv1": dict.fromkeys(_SMALL, "dlas.models.mobilenet:mobilenetv1"),
    "mobilenetv2": {
        **dict.fromkeys(_SMALL, "dlas.models.mobilenet:mobilenetv2"),
        "imagenet": "dlas.models.imagenet:mobilenetv2",
    },
    "vgg16": dict.fromkeys(_SMALL, "dlas.models.vgg:vgg16"),
    "densenet161": {"imagenet": "dlas.models.imagenet:densenet161"},
    "efficientnetb0": {"imagenet": "dlas.models.imagenet:efficientnetb0"},
    "resnet50": {"imagenet": "dlas.models.imagenet:resnet50"},
}
# In the order of the expansion, the outermost first.
AXES = ("model", "dataset", "compression", "precision", "format", "algorithm", "tuning", "target")
# What this version runs, of the axes whose values can be listed.
# On a GPU extents are static, and neighbouring threads read neighbouring inputs: rows of one length.
_GPU_FORMATS = ("dense", "ell", "auto")
FORMATS = {  # by what a network runs on
    "cpu": ("dense", "blocked", "csr", "csr_packed", "auto"),
    "opencl": _GPU_FORMATS,
    "cuda": _GPU_FORMATS,
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "model": tuple(FACTORIES),
    "dataset": tuple(DATASETS),
    "precision": ("fp32", "fp16", "int8", "int8_ort_default"),
    "format": tuple(dict.fromkeys(chain(*FORMATS.values()))),
    "algorithm": ("direct", "gemm", "spatial_pack"),
    "tuning": ("minimal", "scheduled", "tuned"),
}
KEYS = ("description", "axes", "include", "exclude", "invalid", "models", "training", "elbow", "tuning")
FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

Values = tuple[str, ...]
Allowed = Mapping[str, Values]
Point = Mapping[str, str]  # a value, or a glob, for some or all axes


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file declares it, checked.

    axes holds every axis of AXES. models holds the user's networks and the built-in ones; an empty
    input_shape is the dataset's, and a factory may be the name of a built-in network. invalid: what
    cannot be, and why. training: by dataset. max_drop_fraction: what the elbow may cost.
    budget: how long the workloads of tuned cells are searched.
    """

    name: str
    description: str
    axes: Mapping[str, tuple[str, ...]]
    include: tuple[Point, ...]
    exclude: tuple[Point, ...]
    invalid: tuple[tuple[Point, str], ...]
    models: Mapping[str, ModelSpec]
    training: Mapping[str, Training]
    max_drop_fraction: float = MAX_DROP_FRACTION
    budget: Budget = PAPER


def load(name_or_path: str) -> Sweep:
    """The sweep of a name, or of a file anywhere that ends in .toml. Raises SweepError."""
    path = tomlfile.find("sweep", name_or_path, tomlfile.shipped(FOLDER), SweepError)
    file = tomlfile.shown(path)
    raw = tomlfile.read(path, SweepError)
    tomlfile.check_keys(f"{file}:", raw, KEYS, KEYS[:2], SweepError)
    tomlfile.check_name("sweep", path, SweepError)
    if not isinstance(raw["description"], str):
        raise SweepError(f"{file}: description is {raw['description']!r}, allowed is a string", FIX)
    models = _models(file, raw.get("models", {}), path.parent)
    allowed = {**ALLOWED, "model": tuple(models)}
    axes = _axes(f"{file}: [axes]", raw["axes"], allowed)
    include = [
        {axis: _checked(f"{where} {axis}", axis, value, allowed) for axis, value in entry.items()}
        for where, entry in _entries(file, raw, "include")
    ]
    known = {axis: (*axes[axis], *(entry[axis] for entry in include if axis in entry)) for axis in AXES}
    return Sweep(
        name=path.stem,
        description=raw["description"],
        axes=axes,
        include=tuple(include),
        exclude=tuple(_glob(where, entry, axes) for where, entry in _entries(file, raw, "exclude")),
        invalid=tuple(
            (_glob(where, entry, known), entry["reason"])
            for where, entry in _entries(file, raw, "invalid", "reason")
        ),
        models=models,
        training=trainings(file, raw.get("training", {}), path.parent),
        max_drop_fraction=max_drop(f"{file}: [elbow]", raw.get("elbow", {})),
        budget=budget(f"{file}: [tuning]", raw.get("tuning", {})),
    )


def narrow(sweep: Sweep, values: Mapping[str, Values]) -> Sweep:
    """The sweep with these values for these axes, and nothing included or excluded. Raises SweepError."""
    allowed = {**ALLOWED, "model": tuple(sweep.models)}
    chosen = {
        axis: tuple(_checked(f"--{axis}", axis, value, allowed) for value in values[axis]) for axis in values
    }
    return replace(sweep, axes={**sweep.axes, **chosen}, include=(), exclude=())


def define(model: ModelSpec, dataset: str) -> ModelSpec:
    """The network as it is for a dataset: its definition, and its input where the sweep gives none.

    Raises SweepError where a built-in network has no definition for it.
    """
    shape = model.input_shape or DATASETS[dataset].input_shape
    definitions = FACTORIES.get(model.factory, {dataset: model.factory})
    if dataset not in definitions:
        cause = f"{model.factory} has no definition for {dataset}, only for {', '.join(definitions)}"
        raise SweepError(cause, "exclude it, or choose another network")
    return replace(model, input_shape=shape, factory=definitions[dataset])


def _models(file: str, raw: Any, folder: Path) -> dict[str, ModelSpec]:
    """The built-in networks, then the sweep's own. Raises SweepError."""
    models = {name: ModelSpec(name, name, ()) for name in FACTORIES}
    for name, where, table in tables(file, raw, "models"):
        if not tomlfile.NAME.fullmatch(name):
            raise SweepError(f"{where} names the model {name!r}, allowed: {tomlfile.NAME_RULE}", FIX)
        if name in FACTORIES:
            raise SweepError(f"{where} is the name of a built-in model", "choose another name")
        models[name] = _model(where, name, table, folder)
    return models


def _model(where: str, name: str, table: dict[str, Any], folder: Path) -> ModelSpec:
    keys = ("factory", "input_shape", "arguments", "weights")
    tomlfile.check_keys(where, table, keys, keys[:1], SweepError)
    factory, shape, arguments = table["factory"], table.get("input_shape", []), table.get("arguments", {})
    if not isinstance(factory, str) or not (factory in FACTORIES or FACTORY.fullmatch(factory)):
        words = f"package.module:function, {', '.join(FACTORIES)}"
        near = did_you_mean(str(factory), FACTORIES) or FIX
        raise SweepError(f"{where} factory is {factory!r}, allowed: {words}", near)
    if factory not in FACTORIES:
        tomlfile.check_keys(where, table, keys, keys[:2], SweepError)
    is_shape = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
    if not is_shape or ("input_shape" in table and len(shape) != 4):
        raise SweepError(f"{where} input_shape is {shape!r}, allowed are 4 sizes, as in [1, 3, 32, 32]", FIX)
    if not isinstance(arguments, dict) or not all(
        key.isidentifier() and isinstance(value, Scalar) for key, value in arguments.items()
    ):
        words = "a table of strings, numbers and booleans by parameter"
        raise SweepError(f"{where} arguments is {arguments!r}, allowed is {words}", FIX)
    weights = table.get("weights", "")
    if "weights" in table:
        weights = named_file(f"{where} weights", weights, folder)
    return ModelSpec(name, factory, tuple(shape), tuple(sorted(arguments.items())), weights)


def _axes(where: str, raw: Any, allowed: Allowed) -> Allowed:
    """Every axis with its values, in the order of AXES. Raises SweepError."""
    if not isinstance(raw, dict):
        raise SweepError(f"{where} is not a table", "write it as [axes]")
    tomlfile.check_keys(where, raw, AXES, AXES[:-1], SweepError)
    axes = {}
    for axis in AXES:
        values = raw.get(axis, [HOST])
        if not isinstance(values, list) or not values:
            raise SweepError(f"{where} {axis} is {values!r}, allowed is a list of one or more strings", FIX)
        axes[axis] = tuple(_checked(f"{where} {axis}", axis, value, allowed) for value in values)
        twice = [value for value in axes[axis] if axes[axis].count(value) > 1]
        if twice:
            raise SweepError(f"{where} {axis} has {twice[0]!r} twice", "name each value once")
    return axes


def _checked(where: str, axis: str, value: Any, allowed: Allowed) -> str:
    """A value of an axis, a target by its first name. Raises SweepError."""
    if not isinstance(value, str):
        raise SweepError(f"{where} has {value!r}, allowed is a string", FIX)
    if axis == "target":
        return _target_name(where, value)
    if axis == "compression":
        return _compression(where, value)
    if value not in allowed[axis]:
        words = ", ".join(allowed[axis])
        own = "declare a network of your own as [models.NAME]" if axis == "model" else FIX
        near = did_you_mean(value, allowed[axis]) or own
        raise SweepError(f"{where} has unknown {value!r}, allowed: {words}", near)
    return value


def _compression(where: str, name: str) -> str:
    try:
        notation.parse(name)
    except UsageError as error:
        raise SweepError(f"{where}: {error.cause}", error.next_step) from error
    return name


def _target_name(where: str, name: str) -> str:
    if name.endswith(tomlfile.SUFFIX):
        raise SweepError(f"{where} has {name!r}, allowed are names and aliases", "give a path with --target")
    try:
        return targets.find(name).stem
    except TargetError as error:
        raise SweepError(f"{where}: {error.cause}", error.next_step) from error


def _entries(file: str, raw: Mapping[str, Any], key: str, *also: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables of an array of tables, each with its place. also: keys that are needed and are no axis."""
    tables = raw.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SweepError(f"{file}: {key} is not a list of tables", f"write each as [[{key}]]")
    for number, table in enumerate(tables, start=1):
        where = f"{file}: [[{key}]] {number}"
        tomlfile.check_keys(where, table, (*AXES, *also), also, SweepError)
        if not set(table) - set(also):
            raise SweepError(f"{where} names no axis, allowed: {', '.join(AXES)}", FIX)
        for name in also:
            if not isinstance(table[name], str) or not table[name]:
                raise SweepError(f"{where} {name} is {table[name]!r}, allowed is a string that says why", FIX)
        yield where, table


def _glob(where: str, entry: dict[str, Any], known: Allowed) -> Point:
    """Globs for some axes. Each must match a value of its axis, so that a misspelt one is found out."""
    glob = {}
    for axis in filter(entry.__contains__, AXES):
        value = entry[axis]
        if not isinstance(value, str):
            raise SweepError(f"{where} {axis} is {value!r}, allowed is a string", FIX)
        is_plain = not set("*?[") & set(value)
        # A glob may mean a board that only --target names.
        glob[axis] = _target_name(f"{where} {axis}", value) if axis == "target" and is_plain else value
        if axis != "target" and not any(fnmatchcase(one, value) for one in known[axis]):
            words, near = ", ".join(known[axis]), did_you_mean(value, known[axis]) or FIX
            raise SweepError(f"{where} {axis}: {value!r} matches none of {words}", near)
    return glob
