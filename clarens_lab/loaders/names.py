"""Names that a service's code reads and nobody defines: found when it is built, not when a stranger calls."""

import ast
import builtins
import dis
import importlib.util
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType

from clarens_lab.faults import nearest
from clarens_lab.loaders.syntax import parsed, symbols
from clarens_lab.source import Source, Unit, is_folder

NAMELESS = ("lambda", "listcomp", "setcomp", "dictcomp", "genexpr")
"""What the symbol table calls scopes that have no name."""
USUAL = {
    "np": "import numpy as np",
    "pd": "import pandas as pd",
    "plt": "import matplotlib.pyplot as plt",
    "sns": "import seaborn as sns",
    "sp": "import scipy as sp",
    "xr": "import xarray as xr",
    "nx": "import networkx as nx",
    "tf": "import tensorflow as tf",
    "dt": "import datetime as dt",
    "method": "from clarens_lab import method",
    "keep": "from clarens_lab import keep",
    "Fault": "from clarens_lab import Fault",
    "Path": "from pathlib import Path",
    "datetime": "from datetime import datetime",
    "dataclass": "from dataclasses import dataclass",
    "partial": "from functools import partial",
    "defaultdict": "from collections import defaultdict",
    "Counter": "from collections import Counter",
}


def missing_names(
    service: str,
    loaded: Sequence[tuple[Unit, CodeType]],
    defined: Container[str],
    elsewhere: Mapping[str, str],
    extra: Container[str],
) -> Iterator[str]:
    """A sentence for each global name that the units read and that neither they nor builtins define.

    `defined` are the names of the built service, `elsewhere` names that other cells define and where,
    `extra` names that every service has.
    """
    told: set[str] = set()
    made = {name for unit, _ in loaded for name in _made_global(unit.code)}
    for unit, code in loaded:
        for scope, name in _suspects(unit, code, lambda name: name in defined or name in made or name in extra):
            if name not in told:
                told.add(name)
                where = f"{service}.{scope}" if scope else unit.label
                yield f"{where} uses {name}, which nothing defines: {_way_out(name, elsewhere, defined)}"


def _suspects(unit: Unit, code: CodeType, known: Callable[[str], bool]) -> list[tuple[str, str]]:
    found = [
        (scope, name) for scope, name in sorted(_reads(unit.code)) if not known(name) and not hasattr(builtins, name)
    ]
    if not found:
        return []
    # The symbol table counts hints that are never evaluated; what the code loads is the truth, but slow to list.
    loads = set(_loads(code))
    return [(scope, name) for scope, name in found if name in loads]


def _loads(code: CodeType) -> Iterator[str]:
    yield from (each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL")
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _loads(inner)


def way_to(name: str, elsewhere: Mapping[str, str]) -> str:
    """What to do about a missing name, if there is anything sure to say; else an empty text."""
    if name in elsewhere:
        return f"it is made in {elsewhere[name]}"
    if name in USUAL:
        return f"add '{USUAL[name]}' to a service cell"
    if name in sys.stdlib_module_names or name in sys.modules or _importable(name):
        return f"add 'import {name}' to a service cell"
    return ""


def way_to_module(name: str, source: Source) -> str:
    """What to do about a module that is not found: it may be meant to stand beside the service, or be installed."""
    install = f"{sys.executable} -m pip install {name}"
    if source.root is None or source.path is None:
        return f"install it where the server runs, with {install}"
    near = nearest(name, _modules_in(source.root))
    meant = f" (did you mean {near!r}?)" if near else ""
    beside = source.path.parent.name if source.is_package else source.path.name
    return (
        f"no {name}.py stands beside {beside}{meant}, and no module of that name is installed where the server runs "
        f"({install})"
    )


def _modules_in(folder: Path) -> set[str]:
    try:
        return {path.stem for path in folder.iterdir() if path.suffix in (".py", ".ipynb") or is_folder(path)}
    except OSError:  # it is not ours to read
        return set()


def _way_out(name: str, elsewhere: Mapping[str, str], defined: Container[str]) -> str:
    way = way_to(name, elsewhere)
    if way:
        return way
    near = nearest(name, defined) if isinstance(defined, Mapping) else None
    return f"did you mean {near!r}?" if near else "define it in a service cell"


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _reads(code: str) -> set[tuple[str, str]]:
    """(function, name) of each global that is read inside a function; top-level code has just run."""
    table = symbols(code)
    found: set[tuple[str, str]] = set()
    waiting = [(child, "") for child in table.get_children()] if table is not None else []
    while waiting:
        scope, shown = waiting.pop()
        name = scope.get_name()
        shown = shown or (name if name.isidentifier() and name not in NAMELESS else "")
        # A class body has just run, as the top level has, and so have the comprehensions in them.
        if scope.get_type() == "function" and (shown or name == "lambda"):
            reads = (symbol for symbol in scope.get_symbols() if symbol.is_global() and symbol.is_referenced())
            found.update((shown, symbol.get_name()) for symbol in reads)
        waiting += [(child, shown) for child in scope.get_children()]
    return found


def _made_global(code: str) -> set[str]:
    """Names that some function declares `global`, and so may make when it runs."""
    tree = parsed(code) if "global" in code else None
    nodes = ast.walk(tree) if tree is not None else ()
    return {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
