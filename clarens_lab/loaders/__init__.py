"""From a path to the services in it, and from a source to a generation.

for source in read(Path("picalc.ipynb")):
    generation = build(source, Kept())
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clarens_lab.loaders.build import build, relative_path_hint
from clarens_lab.loaders.limit import Interrupted, Load
from clarens_lab.loaders.live import LiveCell, with_cell, with_test
from clarens_lab.loaders.magics import cell_magic
from clarens_lab.loaders.modules import read_file, read_package, with_local_modules
from clarens_lab.loaders.notebook import Header, cells_of, header_of, identifier, read_bytes, read_notebook
from clarens_lab.source import LoadError, Source, Unsettled, is_file, is_folder

__all__ = [
    "SUFFIXES", "Found", "Header", "Interrupted", "LiveCell", "Load", "build", "cell_magic", "discover", "folders_in",
    "header_of", "identifier", "read", "relative_path_hint", "shows_a_service", "with_cell", "with_test",
]  # fmt: skip

SHOWN_IN_FILE = re.compile(r"^\s*@(\w+\.)?method\b|^methods_list\s*=", re.MULTILINE)
SHOWN_IN_CELL = re.compile(r"\A\s*%%clarens\s+service\b|^\s*@(\w+\.)?method\b|^methods_list\s*=", re.MULTILINE)
SUFFIXES = (".ipynb", ".py")
UNSEEN = ("__pycache__", "node_modules")

_shown_before: dict[Path, tuple[tuple[int, ...], bool]] = {}
"""Whether a file shows a service, as long as its stamp holds: folders are looked through again and again."""


def read(path: Path) -> tuple[Source, ...]:
    """The services in a notebook, a .py file or a package, with the local modules that they import.

    Nothing runs. Raises Unsettled while the file may be being written, else LoadError.
    """
    path = path.absolute()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise Unsettled(f"{path.name} is not there any more") from None
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        sources = read_package(path)
    elif path.stem == "__init__" and path.suffix in SUFFIXES:
        sources = read_package(path.parent)
    elif path.suffix == ".ipynb":
        sources = read_notebook(path)
    elif path.suffix == ".py":
        sources = read_file(path)
    else:
        raise LoadError(f"{path.name} is no service: serve a notebook (.ipynb), a .py file, a package or a folder")
    return tuple(with_local_modules(source) for source in sources)


@dataclass(frozen=True)
class Found:
    """What a folder holds: files and packages that are services, and files that are not."""

    services: tuple[Path, ...]
    skipped: tuple[Path, ...]


def discover(folder: Path) -> Found:
    """The services in a folder and the folders below it.

    Only files that show it in their text count: a `%%clarens service` cell, `@method`, or `methods_list`.
    """
    services: list[Path] = []
    skipped: list[Path] = []
    for path in _candidates(folder.absolute()):
        (services if shows_a_service(path) else skipped).append(path)
    gone = set(_shown_before) - {*services, *skipped}
    for path in gone:
        if path.is_relative_to(folder) and not is_file(path):
            _shown_before.pop(path, None)
    return Found(tuple(services), tuple(skipped))


def folders_in(folder: Path) -> Iterator[Path]:
    """A folder and those below it, but for hidden ones, caches and installed environments."""
    waiting = [folder]
    while waiting:
        each = waiting.pop()
        yield each
        waiting += sorted(_listed(each)[0], reverse=True)


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders in a folder (but for links and what is never looked at), and its notebooks and .py files."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for one in entries:
                path = folder / one.name
                if one.name.startswith(".") or one.name in UNSEEN:
                    continue
                if one.is_dir(follow_symlinks=False):
                    folders += [] if is_file(path / "pyvenv.cfg") else [path]
                elif one.name.endswith(SUFFIXES) and is_file(path):
                    files.append(path)
    except OSError:  # it was taken away, or is not ours to read
        return [], []
    return folders, files


def _candidates(folder: Path) -> Iterator[Path]:
    packages: set[Path] = set()
    for each in folders_in(folder):
        if each.parent in packages:
            packages.add(each)  # part of a package, which is one service or none
        elif each != folder and any(is_file(each / f"__init__{suffix}") for suffix in SUFFIXES):
            packages.add(each)
            yield each
        else:
            yield from sorted(_listed(each)[1])


def shows_a_service(path: Path) -> bool:
    """Whether the text of a file or package shows that it is a service: a marked cell or function."""
    if not is_folder(path):
        return _shows(path)
    files = (file for folder in folders_in(path) for file in _listed(folder)[1])
    return any(_shows(file) for file in files if file.suffix == ".py" or file.stem == "__init__")


def _shows(path: Path) -> bool:
    try:
        now = path.stat()
    except OSError:  # it was taken away, or is not ours to look at
        return False
    stamp = (now.st_mtime_ns, now.st_ctime_ns, now.st_size)
    before = _shown_before.get(path)
    if before is None or before[0] != stamp:
        before = _shown_before[path] = (stamp, _shows_now(path))
    return before[1]


def _shows_now(path: Path) -> bool:
    if path.suffix == ".py":
        return bool(SHOWN_IN_FILE.search(_text(path)))
    try:
        return any(cell.kind == "code" and SHOWN_IN_CELL.search(cell.text) for cell in cells_of(path))
    except Unsettled:
        return True  # it is being written: what it is will be seen when it is loaded
    except LoadError:
        return False


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8", "replace")
    except LoadError:
        return ""
