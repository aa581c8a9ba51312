"""A service's source: units of text, each knowing where its author finds it.

A unit is a notebook cell or a module file. Positions are written the same way everywhere:
`picalc.ipynb cell 4, line 2 (digits)`.
"""

import hashlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

places: dict[str, str] = {}
"""Where each saved cell stood when its notebook was last read: its label, by its file name with the cell's id."""


class LoadError(Exception):
    """A source that cannot be loaded; the text names the place, the reason and the way out."""


class Unsettled(LoadError):
    """A file that may be in the middle of being written: worth another look before it counts as broken."""


@dataclass(frozen=True)
class Unit:
    """The smallest piece of source that is reloaded: a notebook cell, or a module file."""

    key: str
    """What makes it the same unit after an edit: the cell's id, else its number (of a live cell, its text); a
    module's name."""
    label: str
    """Where its author finds it: `picalc.ipynb cell 4`, `picalc/core.py`, `picalc In[7]`."""
    filename: str
    """What its frames carry: `/abs/picalc.ipynb#cell-id=ID`."""
    text: str
    """The text as its author sees it; line 1 of a service cell is the `%%clarens` line."""
    code: str
    """What is compiled: the same lines, those that are no Python blanked."""
    lent: tuple[str, ...] = ()
    """Names that `--use` lends from the notebook's own namespace."""
    live: bool = False
    """Whether it is a cell that was run, not one that was saved."""

    def at(self, line: int | None, function: str = "") -> str:
        """A position in it: `picalc.ipynb cell 4, line 2 (digits)`.

        A saved cell is named by where it stands now, though it may have moved since it was loaded.
        """
        label = self.label if self.live else places.get(self.filename, self.label)
        where = label if line is None or line < 1 else f"{label}, line {line}"
        return f"{where} ({function})" if function and not function.startswith("<") else where


@dataclass(frozen=True)
class LocalModule:
    """A module beside the service that it imports, loaded anew with each generation."""

    name: str
    path: Path
    units: tuple[Unit, ...]
    is_package: bool = False


@dataclass(frozen=True)
class Source:
    """All that one generation of a service is made of, read at one moment."""

    service: str
    path: Path | None
    """The notebook, file or package; None for live cells of a notebook that is not known."""
    units: tuple[Unit, ...]
    modules: Mapping[str, LocalModule] = field(default_factory=dict)
    """The local modules that it imports, by name, in the order they were found."""
    tests: tuple[Unit, ...] = ()
    notes: tuple[str, ...] = ()
    """What its author should know: lines that were blanked, cells that were left out."""
    mistakes: tuple[str, ...] = ()
    """The notes on cells that look as if they were meant for a service, and are part of none."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Names that source outside of the service defines, and where: for the hint about a missing name."""
    root: Path | None = None
    """The folder from which it imports."""
    is_package: bool = False
    live: bool = False
    """Whether the service is made of cells that were run, and of no saved file."""

    @cached_property
    def digest(self) -> str:
        """The same for the same code: outputs, metadata and the cells' places do not count."""
        told = hashlib.sha256()
        for unit in self.every_unit():
            told.update(f"{unit.key}\0{unit.code}\0".encode("utf-8", "surrogatepass"))
        return told.hexdigest()

    @cached_property
    def files(self) -> frozenset[Path]:
        """Every file that was read for it."""
        mine = {self.path} if self.path is not None else set()
        return frozenset(mine | {module.path for module in self.modules.values()})

    @cached_property
    def by_filename(self) -> Mapping[str, Unit]:
        """Its units by the file name that their frames carry."""
        return {unit.filename: unit for unit in (*self.every_unit(), *self.tests)}

    def every_unit(self) -> Iterator[Unit]:
        """Its own units, then those of its local modules."""
        yield from self.units
        for module in self.modules.values():
            yield from module.units


# --- what stands in a place, which may be one that we may not look into -------------------------


def is_folder(path: Path) -> bool:
    """Whether a folder is there, and may be seen."""
    return stat.S_ISDIR(_mode(path) or 0)


def is_file(path: Path) -> bool:
    """Whether a regular file is there, and may be seen."""
    return stat.S_ISREG(_mode(path) or 0)


def is_there(path: Path) -> bool:
    """Whether anything is there; what may not be seen counts as there."""
    return _mode(path) is not None


def _mode(path: Path) -> int | None:
    """The kind of what is there, 0 if it may not be seen, None if nothing is there."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return 0
