"""Imports run one way: each module of clarens_lab uses only what stands above it, and each library has its owners."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "clarens_lab"

# From the ground up: a module may use every name before its own. A package counts as its own name; `__init__` is
# `from clarens_lab import method`, which the bundled services write as any service does.
LAYERS = """
    faults settings source frames output runfiles logs acl watch
    codec signature service auth
    stores
    registry sessions compat events loaders records answers transport client proxy engines
    report dispatch reload asserts testing __init__ bundled
    page http server
    verbs cli __main__
"""
ORDER = LAYERS.split()

OWNERS = {
    "tornado": {"http", "page", "server"},
    "aiohttp": {"transport"},
    "watchfiles": {"watch"},
    "nbformat": {"loaders"},
    "tdb": {"stores"},
    "dask": {"engines"},
    "distributed": {"engines"},
    # Jupyter is for extension/ alone.
    **{name: set() for name in ["IPython", "ipykernel", "ipywidgets", "jupyter_client", "traitlets"]},
}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def owner(path: Path) -> str:
    """The name in ORDER that a file counts as: `codec/__init__.py` is `codec`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Every (line, dotted name) that a file imports, wherever in it and however it is written."""
    here = ["clarens_lab", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def used(name: str) -> str:
    """The name in ORDER behind `clarens_lab.codec.decode`; a public name of the package itself is `__init__`."""
    part = f"{name}.".split(".")[1]
    return part if part in {owner(path) for path in files()} else "__init__"


def complaints(path: Path) -> Iterator[str]:
    me = owner(path)
    later = ORDER[ORDER.index(me) + 1 :] if me in ORDER else []  # a module without a place has its own test
    for line, name in imported(path):
        top = name.split(".")[0]
        where = f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}"
        if top == "clarens_lab" and me not in ("__init__", used(name)):
            if used(name) in later:
                yield f"{where}: {me} stands before {used(name)} in ORDER, so it cannot use it"
        elif me not in OWNERS.get(top, {me}):
            yield f"{where}: {top} is for {' and '.join(sorted(OWNERS[top])) or 'extension/'} alone"
        elif top == "clarens_ipython" and me != "__init__":
            yield f"{where}: only `%load_ext clarens_lab` leads to the extension"


def test_every_module_has_its_place_in_the_order() -> None:
    """A module stands in the order of imports before it is written."""
    unknown = {owner(path) for path in files()} - set(ORDER)
    assert not unknown, f"{', '.join(sorted(unknown))}: say in ORDER (tests/test_imports.py) which modules come before"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    """A module imports only modules that stand before it, and a library only where that library belongs."""
    found = list(complaints(path))
    assert not found, "\n".join(found)


def test_importing_the_package_loads_neither_server_nor_parser() -> None:
    """`import clarens_lab` costs a notebook nothing: no tornado, asyncio, XML, nbformat or jsonschema comes with it."""
    heavy = ["tornado", "asyncio", "xml", "nbformat", "jsonschema"]
    ask = f"import sys, clarens_lab; print(*(name for name in {heavy} if name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert (answer.stdout.strip(), answer.stderr) == ("", "")
