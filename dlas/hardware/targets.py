"""Targets: one TOML file for each device, loaded into frozen values. A user's own board is one more."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from dlas import tomlfile
from dlas.errors import TargetError
from dlas.hardware import cpu
from dlas.tomlfile import shown
from dlas.values import Board, Bounds, Compiler, Gpu, Image, System, Target

FOLDER = Path(__file__).resolve().parents[2] / "targets"
HEAD = {"description": str, "aliases": tuple[str, ...], "protocol_id": str}
TABLES: dict[str, type] = {
    "compiler": Compiler,
    "board": Board,
    "image": Image,
    "system": System,
    "bounds": Bounds,
    "gpu": Gpu,
}
DETECT = "detect"
DETECTED: dict[str, Callable[[cpu.Cpu], Any]] = {
    "mcpu": lambda host: host.mcpu,
    "mattr": lambda host: host.mattr,
    "vector_lanes": lambda host: host.vector_lanes,
    "vector_registers": lambda host: host.vector_registers,
    "l2_bytes": lambda host: host.l2_bytes,
    "threads": lambda host: host.threads,
    "cpu_set": lambda host: cpu.format_cpus(host.cores),
}
UNDETECTED = cpu.Cpu("", "", (), 0, 0, 0, False, (), False, 0)
TYPE_WORDS = {str: "a string", int: "a whole number", tuple[str, ...]: "a list of strings"}
PLATFORMS = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}

Tables = dict[str, dict[str, Any]]


class Allowed(NamedTuple):
    """What a key's value (each item of it, for a list) may be, as a test and in words."""

    test: Callable[[Any], object]
    words: str


def _one_of(*words: str) -> Allowed:
    return Allowed(words.__contains__, ", ".join(words))


def _matching(pattern: str, words: str) -> Allowed:
    return Allowed(re.compile(pattern).fullmatch, words)


HOST = r"ssh://[\w@\[][\w@.:\[\]-]*|unix:///.+"  # no name that ssh would take for an option
HOST_WORDS = "ssh://NAME, as in your ssh configuration, or unix:///path"
VERSION = r"(\d+(\.\d+)+)?"
NOT_EMPTY = Allowed(bool, "any but the empty string")
SINCE_0 = Allowed(lambda value: value >= 0, "0 and more")
ALLOWED = {
    "aliases": Allowed(tomlfile.NAME.fullmatch, tomlfile.NAME_RULE),
    "kind": _one_of("llvm", "opencl", "cuda"),
    "arch": _one_of(*PLATFORMS),
    "mtriple": NOT_EMPTY,
    "mcpu": NOT_EMPTY,
    "mattr": _matching(r"[+-].+", "an LLVM feature after + or -"),
    "vector_lanes": SINCE_0,
    "vector_registers": SINCE_0,
    "l2_bytes": SINCE_0,
    "cxx": NOT_EMPTY,
    "int8_activations": _one_of("uint8", "int8"),
    "gpu_arch": _matching(r"(sm_\d+)?", "sm_ and a number"),
    "runners": _one_of("local", "docker"),
    "host": _matching(rf"({HOST})?", HOST_WORDS),
    "threads": Allowed(lambda value: value >= 1, "1 and more"),
    "cpu_set": _matching(r"(\d+(-\d+)?(,\d+(-\d+)?)*)?", "CPUs as in taskset, such as 0-3,6"),
    "devices": _matching(r"/.+", "an absolute path"),
    "mounts": _matching(r"/[^:,]+:/[^:,]+(:ro)?", "/host/path:/container/path, with :ro for read-only"),
    "groups": NOT_EMPTY,
    "dockerfile": NOT_EMPTY,
    "base": _matching(r"[^@\s]+@sha256:[0-9a-f]{64}", "an image by its digest, name@sha256:..."),
    "platform": _one_of(*PLATFORMS.values()),
    "stand_in": _matching(r"[a-z]+", "the name of a Debian release, such as bookworm"),
    "id": _matching(r"(sha256:[0-9a-f]{64})?", "an image id, sha256:..."),
    "glibc": _matching(VERSION, "a version such as 2.31"),
    "glibcxx": _matching(VERSION, "a version such as 3.4.28"),
    "cuda": _matching(VERSION, "a version such as 11.4"),
    "shows": _matching(r"/[^:,]+: .+", "/path/of/a/file: a text in it"),
    "device": _matching(r"[^\n]*", "a text without a line break"),
    "timer": _one_of("wall", "events"),
    "least_mhz": SINCE_0,
    "most_celsius": SINCE_0,
    "most_other_percent": SINCE_0,
    "least_free_mib": SINCE_0,
}


def load(name_or_path: str, detect: Callable[[], cpu.Cpu] = cpu.detect) -> Target:
    """The target of a name, of an alias, or of a file anywhere that ends in .toml.

    detect finds out what a file leaves to detection. Raises TargetError.
    """
    path = find(name_or_path)
    tables = _checked(path)
    names = _names()
    for name in (path.stem, *tables[""]["aliases"]):
        if name in names and names[name].resolve() != path.resolve():
            raise _error(path, f"{name!r} is already a name of {shown(names[name])}", "choose another")
    return _target(path, tables, detect)


def known() -> tuple[Target, ...]:
    """The targets that dlas ships. One that detection fails for says why in `detected`, and has no runner."""
    return tuple(_listed(path) for path in tomlfile.shipped(FOLDER).values())


def find(name_or_path: str) -> Path:
    """The file of a target. Raises TargetError, with the names that there are and the closest one."""
    return tomlfile.find("target", name_or_path, _names(), TargetError)


def _names() -> dict[str, Path]:
    """Every name and alias of the shipped targets. Raises TargetError when two files claim one."""
    names: dict[str, Path] = {}
    for path in tomlfile.shipped(FOLDER).values():
        raw = tomlfile.read(path, TargetError)
        aliases = _value(path, "aliases", raw.get("aliases", []), tuple[str, ...])
        for name in (path.stem, *aliases):
            if name in names:
                raise _error(path, f"{name!r} is already a name of {shown(names[name])}", "choose another")
            names[name] = path
    return names


def _error(path: Path, cause: str, next_step: str = "correct the file") -> TargetError:
    return TargetError(f"{shown(path)}: {cause}", next_step)


def _checked(path: Path) -> Tables:
    """The tables of a target file, and as "" what stands above the first: all keys there, and well-typed."""
    tomlfile.check_name("target", path, TargetError)
    raw = tomlfile.read(path, TargetError)
    needed = (*HEAD, "compiler", "board")
    tomlfile.check_keys(f"{shown(path)}:", raw, (*HEAD, *TABLES), needed, TargetError)
    tables: Tables = {"": {key: _value(path, key, raw[key], hint) for key, hint in HEAD.items()}}
    for name, kind in TABLES.items():
        if name in raw:
            tables[name] = _checked_table(path, name, raw[name], kind)
    _check_together(path, tables)
    return tables


def _checked_table(path: Path, name: str, raw: Any, kind: type) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise _error(path, f"{name} is not a table", f"write it as [{name}]")
    hints = get_type_hints(kind)
    required = [field.name for field in fields(kind) if field.default is MISSING]
    tomlfile.check_keys(f"{shown(path)}: [{name}]", raw, hints, required, TargetError)
    return {key: _value(path, f"[{name}] {key}", value, hints[key]) for key, value in raw.items()}


def _value(path: Path, where: str, value: Any, hint: Any) -> Any:
    """A TOML value as its field wants it, lists as tuples; DETECT stays. Raises TargetError."""
    is_list = hint == tuple[str, ...]
    key = where.split()[-1]
    if value == DETECT and key in DETECTED:
        return value
    if is_list and isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = tuple(value)
    elif is_list or type(value) is not hint:  # not isinstance: true is no number
        words = TYPE_WORDS[hint] + (f' or "{DETECT}"' if key in DETECTED else "")
        raise _error(path, f"{where} is {value!r}, allowed is {words}")
    allowed = ALLOWED.get(key)
    for item in value if is_list else (value,):
        if allowed and not allowed.test(item):
            raise _error(path, f"{where} is {item!r}, allowed: {allowed.words}")
    return value


def _check_together(path: Path, tables: Tables) -> None:
    """What no key tells alone. Raises TargetError."""
    compiler, board, image = tables["compiler"], tables["board"], tables.get("image")
    kind, arch = compiler["kind"], compiler["arch"]
    detected = [key for table in tables.values() for key, value in table.items() if value == DETECT]
    units = ("vector_lanes", "vector_registers", "l2_bytes")
    complaints = {
        f'{", ".join(detected)}: "{DETECT}" is only for kind llvm and arch x86_64': (
            detected and (kind, arch) != ("llvm", "x86_64")
        ),
        f"[compiler] gpu_arch is needed for kind cuda, and only there; kind is {kind}": (
            bool(compiler.get("gpu_arch")) != (kind == "cuda")
        ),
        f"[compiler] {', '.join(units)} are 0 on a GPU and 1 or more on a CPU; kind is {kind}": any(
            bool(compiler[unit]) != (kind == "llvm") for unit in units
        ),
        f"[gpu] is only for a GPU; kind is {kind}": "gpu" in tables and kind == "llvm",
        "[board] runners has docker, but there is no [image]": "docker" in board["runners"] and image is None,
        f"[image] platform for arch {arch} is {PLATFORMS[arch]}": (
            image is not None and image["platform"] != PLATFORMS[arch]
        ),
    }
    for complaint, holds in complaints.items():
        if holds:
            raise _error(path, complaint)


def _target(path: Path, tables: Tables, detect: Callable[[], cpu.Cpu]) -> Target:
    asked = [key for table in tables.values() for key, value in table.items() if value == DETECT]
    host = detect() if asked else None
    if host:
        tables = {
            name: {key: DETECTED[key](host) if key in asked else value for key, value in table.items()}
            for name, table in tables.items()
        }
    return Target(
        name=path.stem,
        **tables[""],
        compiler=Compiler(**tables["compiler"]),
        board=Board(**tables["board"]),
        image=Image(**tables["image"]) if "image" in tables else None,
        system=System(**tables.get("system", {})),
        bounds=Bounds(**tables.get("bounds", {})),
        gpu=Gpu(**tables.get("gpu", {})),
        detected=_words(host, asked) if host else "",
    )


def _words(host: cpu.Cpu, asked: list[str]) -> str:
    """What was detected, of what was asked for, as one line to print."""
    words = []
    if "vector_lanes" in asked:
        words.append(f"{host.vectors} ({host.vector_lanes} lanes)")
    if "threads" in asked:
        limited = f" (a CPU limit leaves {host.threads})" if host.threads < len(host.cores) else ""
        unit = "physical core" if host.cores_read else "CPU"
        words.append(f"{len(host.cores)} {unit}{'s' if len(host.cores) > 1 else ''}{limited}")
    if "l2_bytes" in asked:
        kib = host.l2_bytes // 1024
        size = f"{kib} KiB" if kib % 1024 else f"{kib // 1024} MiB"
        words.append(f"{size} L2" if host.l2_read else f"L2 not readable, {size} assumed")
    return ", ".join(words)


def _listed(path: Path) -> Target:
    tables = _checked(path)
    try:
        return _target(path, tables, cpu.detect)
    except TargetError as error:
        target = _target(path, tables, lambda: UNDETECTED)
        return replace(
            target, board=replace(target.board, runners=()), detected=f"cannot be used here: {error.cause}"
        )
