"""Which files define a network: known without torch, and without running them."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

from dlas.errors import ModelError
from dlas.values import ModelSpec

OWN = Path(__file__).parent
# How parameters are come by: their own hash tells what came of it.
TRAINING = {"checkpoint.py", "learner.py", "recipe.py", "train.py", "trainer.py", "weights.py"}


def split_factory(spec: ModelSpec) -> tuple[str, str]:
    """Module and function that `package.module:function` names. Raises ModelError."""
    module, _, function = spec.factory.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise ModelError(
            f"model {spec.name}: factory {spec.factory!r} is not package.module:function",
            "write it as in dlas.models.resnet:resnet18",
        )
    return module, function


def source_files(spec: ModelSpec) -> tuple[Path, ...]:
    """The files whose contents define the network, sorted: ours but for training, and the user's own.

    The user's own are the factory's module and, as far as import statements tell, what it imports of
    what is not installed. If that module is itself an installed one, they are all modules of its package.
    Nothing is imported or run. Raises ModelError when the module cannot be found or parsed.
    """
    include_working_directory()
    module, _ = split_factory(spec)
    files = {path for path in OWN.rglob("*.py") if path.name not in TRAINING}
    if not module.startswith(f"{__package__}."):
        files |= _user_files(spec, module)
    return tuple(sorted(files))


def include_working_directory() -> None:
    """Let modules of the working directory be imported, after all that is installed."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _user_files(spec: ModelSpec, module: str) -> set[Path]:
    path = _source(module)
    if path is None:
        raise ModelError(
            f"model {spec.name}: no Python module {module!r} in {Path.cwd()} or among the installed ones",
            "correct the factory, or run from the folder that holds the module",
        )
    if not _installed(path):
        return _closure(spec, module)
    in_package = "." in module or path.name == "__init__.py"
    return set(path.parent.rglob("*.py")) if in_package else {path}


def _closure(spec: ModelSpec, module: str) -> set[Path]:
    """Files of a module, of the packages around it, and of what they import that is not installed."""
    found: dict[str, Path] = {}
    todo = _with_parents(module)
    while todo:
        name = todo.pop()
        path = None if name in found else _source(name)
        if path is not None and not _installed(path):
            found[name] = path
            for imported in _imports(spec, name, path):
                todo += _with_parents(imported)
    return set(found.values())


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _source(module: str) -> Path | None:
    """The .py file of a module, or None; the import system's finders are asked, parents are not imported."""
    origin, search = None, None
    for name in _with_parents(module):
        found = _find(name, search)
        if found is None:
            return None
        origin, search = found.origin, found.submodule_search_locations
    return Path(origin).resolve() if origin and origin.endswith(".py") else None


def _find(module: str, path: list[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        found = finder.find_spec(module, path)
        if found is not None:
            return found
    return None


def _installed(path: Path) -> bool:
    paths = sysconfig.get_paths()
    folders = (Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return any(path.is_relative_to(folder) for folder in folders)


def _imports(spec: ModelSpec, module: str, path: Path) -> Iterator[str]:
    """Absolute names of what the import statements of a file may mean: modules, or names in them."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        cause = f"model {spec.name}: {path}, line {error.lineno}: {error.msg}"
        raise ModelError(cause, "correct the file") from error
    is_package = path.name == "__init__.py"
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*origin, alias.name]) for alias in node.names if alias.name != "*")
            if origin:
                yield ".".join(origin)
