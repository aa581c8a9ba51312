"""Module files: a service in a .py file or package, and the local modules that a service imports.

The text of every module that can be reached by an import statement is read when the service is, before anything
runs. So one generation is one moment's text, whatever is saved meanwhile.
"""

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from clarens_lab.loaders.notebook import identifier, read_bytes, units_to_import
from clarens_lab.loaders.syntax import parsed
from clarens_lab.source import LoadError, LocalModule, Source, Unit, Unsettled, is_file, is_folder

OURS = "clarens_lab"
"""Never a local module: a service in a checkout of this project uses the server's own copy."""


def read_file(path: Path) -> tuple[Source, ...]:
    """The service of a single .py file."""
    unit = _file_unit(path, path.name, "")
    if not unit.text.strip():
        raise Unsettled(f"{path.name} is empty")
    service = identifier(path.stem)
    notes = (f"{path.name} is served as {service!r}",) if service != path.stem else ()
    return (Source(service, path, (unit,), notes=notes, root=path.parent),)


def read_package(path: Path) -> tuple[Source, ...]:
    """The service of a package: a folder with an `__init__.py`, or an `__init__.ipynb`."""
    if not path.name.isidentifier():
        raise LoadError(f"{path.name}/ cannot be a package: its name is no Python name; {identifier(path.name)!r} is")
    module = _local_module(path.name, path.parent)
    if module is None:
        raise LoadError(f"{path.name}/ is no package: it has no __init__.py")
    if not any(unit.text.strip() for unit in module.units):
        raise Unsettled(f"{module.units[0].label if module.units else path.name} is empty")
    return (Source(path.name, module.path, module.units, root=path.parent, is_package=True),)


def with_local_modules(source: Source) -> Source:
    """The source together with the text of each local module that it can import."""
    if source.root is None:
        return source
    found: dict[str, LocalModule] = {}
    own = source.service if source.is_package else ""
    waiting = list(_imported(source.units, own, source.is_package))
    while waiting:
        name = waiting.pop()
        for part in _with_parents(name):
            if part in found or part == own or part.partition(".")[0] == OURS:
                continue
            module = _local_module(part, source.root)
            if module is None:
                break
            found[part] = module
            waiting += _imported(module.units, part, module.is_package)
    return replace(source, modules={name: found[name] for name in sorted(found)})


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _imported(units: Iterable[Unit], module: str, is_package: bool) -> Iterator[str]:
    """The dotted names of all that the units' import statements may mean."""
    package = module if is_package else module.rpartition(".")[0]
    for unit in units:
        for level, name, members in _import_statements(unit.code):
            base = name
            if level:
                above = package.split(".")[: len(package.split(".")) - level + 1]
                base = ".".join([*above, *([name] if name else [])])
            if base:
                yield base
                yield from (f"{base}.{member}" for member in members)


@lru_cache(maxsize=2048)
def _import_statements(code: str) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """(level, module, members) of each import statement; none if the code does not parse.

    What `__all__` lists counts too: in a package it may be modules, for those who import `*`.
    """
    tree = parsed(code)
    if tree is None:
        return ()
    found: list[tuple[int, str, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Assign) and any(
            isinstance(one, ast.Name) and one.id == "__all__" for one in node.targets
        ):
            found.append((1, "", _texts_in(node.value)))
    return tuple(found)


def _texts_in(node: ast.expr) -> tuple[str, ...]:
    members = node.elts if isinstance(node, ast.List | ast.Tuple) else []
    return tuple(one.value for one in members if isinstance(one, ast.Constant) and isinstance(one.value, str))


def _local_module(name: str, root: Path) -> LocalModule | None:
    """The module of that name under `root`, read; None if there is none, so that it is imported as usual."""
    place = root.joinpath(*name.split("."))
    relative = "/".join(name.split("."))
    for path, label, is_package in (
        (place / "__init__.py", f"{relative}/__init__.py", True),
        (place / "__init__.ipynb", f"{relative}/__init__.ipynb", True),
        (place.with_name(f"{place.name}.py"), f"{relative}.py", False),
        (place.with_name(f"{place.name}.ipynb"), f"{relative}.ipynb", False),
    ):
        if is_file(path) and (path.suffix == ".py" or not _is_installed(name)):
            units = (_file_unit(path, label, name),) if path.suffix == ".py" else units_to_import(path, label, name)
            return LocalModule(name, path, units, is_package)
    if _holds_modules(place) and not _is_installed(name):  # a namespace package
        return LocalModule(name, place, (), True)
    return None


def _is_installed(name: str) -> bool:
    """Whether an ordinary module has that name: it goes before a notebook or a bare folder, as it does in Python.

    A notebook about numpy is mostly called `numpy.ipynb`.
    """
    if "." in name:
        return False
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def _holds_modules(folder: Path) -> bool:
    return is_folder(folder) and any(any(folder.glob(pattern)) for pattern in ("*.py", "*.ipynb", "*/*.py"))


def _file_unit(path: Path, label: str, key: str) -> Unit:
    try:
        text = importlib.util.decode_source(read_bytes(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise LoadError(f"{label}: its text cannot be decoded: {error}") from None
    return Unit(key, label, str(path), text, text)
