"""Names that a service's code reads and nobody defines: found when it is built, not when a stranger calls."""

import ast
import builtins
import importlib.util
import symtable
import sys
from collections.abc import Container, Iterator, Mapping

from clarens_lab.faults import nearest
from clarens_lab.source import Unit

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
    service: str, units: tuple[Unit, ...], defined: Container[str], elsewhere: Mapping[str, str], extra: Container[str]
) -> Iterator[str]:
    """A sentence for each global name that the units read and that neither they nor builtins define.

    `defined` are the names of the built service, `elsewhere` names that other cells define and where,
    `extra` names that every service has.
    """
    told: set[str] = set()
    made = set().union(*(_made_global(unit.code) for unit in units)) if units else set()
    for unit in units:
        for scope, name in sorted(_reads(unit.code)):
            known = name in defined or name in made or name in extra or hasattr(builtins, name)
            if not known and name not in told:
                told.add(name)
                where = f"{service}.{scope}" if scope else unit.label
                yield f"{where} uses {name}, which nothing defines: {_way_out(name, elsewhere, defined)}"


def way_to(name: str, elsewhere: Mapping[str, str]) -> str:
    """What to do about a missing name, if there is anything sure to say; else an empty text."""
    if name in elsewhere:
        return f"it is made in {elsewhere[name]}"
    if name in USUAL:
        return f"add '{USUAL[name]}' to a service cell"
    if name in sys.stdlib_module_names or name in sys.modules or _importable(name):
        return f"add 'import {name}' to a service cell"
    return ""


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
    try:
        table = symtable.symtable(code, "<unit>", "exec")
    except (SyntaxError, ValueError):
        return set()
    found: set[tuple[str, str]] = set()
    waiting = [(child, child.get_name()) for child in table.get_children()]
    while waiting:
        scope, shown = waiting.pop()
        if scope.get_type() == "function":  # a class body has just run, as the top level has
            reads = (symbol for symbol in scope.get_symbols() if symbol.is_global() and symbol.is_referenced())
            found.update((shown, symbol.get_name()) for symbol in reads)
        waiting += [(child, shown) for child in scope.get_children()]
    return found


def _made_global(code: str) -> set[str]:
    """Names that some function declares `global`, and so may make when it runs."""
    if "global" not in code:
        return set()
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return set()
    return {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
