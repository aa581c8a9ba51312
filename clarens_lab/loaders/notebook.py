"""A saved notebook, cut into the units of its services.

The file is read with `json` and our own tolerant look at `cells`: nbformat is only imported to upgrade notebooks
of format 3, since importing it costs seconds beside JupyterLab. The format is nbformat's, versions 3 to 4.5.
"""

import json
import keyword
import re
import shlex
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarens_lab.loaders.magics import blank, cell_magic, marker_mistake, names_made
from clarens_lab.source import LoadError, Source, Unit, Unsettled, places


@dataclass(frozen=True)
class Cell:
    """One cell: its place (from 1, all cells counted), kind, id, text and tags."""

    number: int
    kind: str
    id: str | None
    text: str
    tags: frozenset[str]


@dataclass(frozen=True)
class Header:
    """What a `%%clarens` line says: the verb, the service (None: the file's name), the names lent, and `--here`."""

    verb: str
    service: str | None
    lent: tuple[str, ...] = ()
    here: bool = False


def identifier(text: str) -> str:
    """A file's name made the name of a service: `01-my nb` gives `_01_my_nb`."""
    name = re.sub(r"\W", "_", unicodedata.normalize("NFKC", text)) or "_"  # as Python reads its own names
    name = name if name.isidentifier() else f"_{name}"
    return f"{name}_" if keyword.iskeyword(name) else name


def header_of(text: str, where: str) -> Header | None:
    """The `%%clarens` line that a cell begins with, read; None for any other cell.

    Raises LoadError for a line that says nothing we know.
    """
    line = cell_magic(text)
    if line is None or line.split()[0] != "%%clarens":
        return None
    try:
        words = shlex.split(line)[1:]
    except ValueError as error:
        raise LoadError(f"{where}, line 1: {line!r}: {error}") from None
    if not words or words[0] not in ("service", "test"):
        raise LoadError(f"{where}, line 1: {line!r}: write '%%clarens service NAME' or '%%clarens test NAME'")
    return _header(words, line, where)


def _header(words: list[str], line: str, where: str) -> Header:
    verb, rest = words[0], iter(words[1:])
    service: str | None = None
    lent: tuple[str, ...] = ()
    for word in rest:
        if word == "--use" or word.startswith("--use="):
            names = word.removeprefix("--use=") if "=" in word else next(rest, "")
            lent = tuple(name for name in names.split(",") if name)
        elif word.startswith("--"):
            if word != "--here":
                raise LoadError(f"{where}, line 1: {line!r}: no option {word!r}; there are --here and --use NAMES")
        elif service is None:
            service = word
        else:
            raise LoadError(f"{where}, line 1: {line!r}: one name of a service, not {service!r} and {word!r}")
    if service is not None and (not service.isidentifier() or keyword.iskeyword(service)):
        raise LoadError(f"{where}, line 1: {service!r} cannot name a service; {identifier(service)!r} can")
    return Header(verb, service, lent, "--here" in words)


def unit_of(text: str, *, key: str, label: str, filename: str, lent: tuple[str, ...] = ()) -> tuple[Unit, list[str]]:
    """A cell's text as a unit, with a note for each line that was blanked."""
    body = text
    if cell_magic(text) is not None:
        lines = text.split("\n")
        header = next(index for index, line in enumerate(lines) if line.strip())
        body = "\n".join(["" if index <= header else line for index, line in enumerate(lines)])
    code, blanked = blank(body)
    notes = [f"{label}, line {one.line}: {one.text!r} is left out: it is no Python" for one in blanked]
    return Unit(key, label, filename, text, code, lent), notes


def cell_filename(path: Path, cell: Cell) -> str:
    """What a cell's frames carry: `/abs/picalc.ipynb#cell-id=ID`, or its number where it has no id."""
    return f"{path}#cell-id={cell.id}" if cell.id else f"{path}#cell={cell.number}"


def read_notebook(path: Path) -> tuple[Source, ...]:
    """The services of a notebook, one for each name that its `%%clarens service` cells give.

    A notebook without such a cell is one service, of every code cell but those tagged `skip`. Raises
    Unsettled while the file is no JSON (it may be being written), LoadError if it cannot be served.
    """
    return _Cut(path, cells_of(path)).sources()


def cells_of(path: Path) -> list[Cell]:
    """The cells of a notebook of any format; raises Unsettled or LoadError."""
    data = read_bytes(path)
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:  # also UnicodeDecodeError
        raise Unsettled(f"{path.name} is not JSON: {error}") from None
    except RecursionError:
        raise LoadError(f"{path.name} is JSON nested too deep for a notebook") from None
    if isinstance(notebook, dict) and "worksheets" in notebook:
        notebook = _upgraded(notebook, path)
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise LoadError(f"{path.name} is JSON, but no notebook: it has no list of cells")
    _check_language(notebook, path)
    return list(_cells(cells))


def read_bytes(path: Path) -> bytes:
    """The file's bytes; Unsettled if it is not there, LoadError if it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, and nobody writes to it
            raise LoadError(f"{path.name} is no file that can be read to its end: put a regular file in its place")
        return path.read_bytes()
    except FileNotFoundError:
        raise Unsettled(f"{path.name} is not there any more") from None
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error.strerror}") from None


def _upgraded(notebook: dict[str, Any], path: Path) -> Any:
    import nbformat  # slow to import, and format 3 is rare

    try:
        upgraded = nbformat.convert(nbformat.from_dict(notebook), 4)  # type: ignore[no-untyped-call]  # has no types
    except Exception as error:  # noqa: BLE001  # what it raises on odd notebooks is not documented
        raise LoadError(f"{path.name}: a notebook of format 3 that cannot be upgraded: {error}") from None
    for cell in upgraded["cells"]:
        cell.pop("id", None)  # made up anew at each upgrade, so it names nothing
    return upgraded


def _check_language(notebook: dict[str, Any], path: Path) -> None:
    metadata = notebook.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    for place, key in (("kernelspec", "language"), ("language_info", "name")):
        told = metadata.get(place)
        language = told.get(key) if isinstance(told, dict) else None
        if isinstance(language, str) and not language.lower().startswith(("python", "ipython")):
            raise LoadError(f"{path.name} is written in {language}; only Python notebooks are served")


def _cells(cells: list[Any]) -> Iterator[Cell]:
    seen: set[str] = set()
    for number, cell in enumerate(cells, 1):
        if not isinstance(cell, dict):
            continue
        source = cell.get("source", "")
        parts = source if isinstance(source, list) else [source]
        text = "".join(part for part in parts if isinstance(part, str))
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        metadata = cell.get("metadata")
        tags = metadata.get("tags") if isinstance(metadata, dict) else None
        told = cell.get("id")
        name = told if isinstance(told, str) and told and told not in seen else None
        seen.update([name] if name else [])
        tagged = frozenset(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else frozenset()
        yield Cell(number, str(cell.get("cell_type")), name, text, tagged)


def _headers(name: str, code: list[Cell]) -> tuple[dict[int, Header | None], bool]:
    """The `%%clarens` line of each cell, and whether one of them marks a service cell."""
    headers = {cell.number: header_of(cell.text, f"{name} cell {cell.number}") for cell in code}
    return headers, any(header and header.verb == "service" for header in headers.values())


def units_to_import(path: Path, label: str, key: str) -> tuple[Unit, ...]:
    """A notebook that is imported as a module: its service cells, else every code cell that would be served."""
    code = [cell for cell in cells_of(path) if cell.kind == "code" and cell.text.strip()]
    headers, marked = _headers(label, code)
    units: list[Unit] = []
    for cell in code:
        header = headers[cell.number]
        taken = header is not None and header.verb == "service"
        if taken or not (marked or header or cell_magic(cell.text) or "skip" in cell.tags):
            where = f"{key} {cell.id or cell.number}"
            labelled = f"{label} cell {cell.number}"
            unit, _ = unit_of(cell.text, key=where, label=labelled, filename=cell_filename(path, cell))
            units.append(unit)
    return tuple(units)


class _Cut:
    """Sorts a notebook's cells into services, tests and what is left out."""

    def __init__(self, path: Path, cells: list[Cell]) -> None:
        self.path = path
        self.code = [cell for cell in cells if cell.kind == "code" and cell.text.strip()]
        self.notes: list[str] = []
        self.mistakes: list[str] = []
        """What may have been meant for a service and is not: told with each, for nobody knows which one is meant."""
        self.left_out: dict[int, str] = {}
        self.services: dict[str, list[Unit]] = {}
        self.service_notes: dict[str, list[str]] = {}
        self.tests: dict[str, list[Unit]] = {}
        self.own = identifier(path.stem)
        if self.own != path.stem:
            self.own_note = f"{path.name} is served as {self.own!r}: a service's name is a Python name"
        else:
            self.own_note = ""

    def sources(self) -> tuple[Source, ...]:
        headers, marked = _headers(self.path.name, self.code)
        for cell in self.code:
            self._sort(cell, headers[cell.number], marked)
        if not marked and not self.services:
            self.services[self.own] = []
        self._settle_tests()
        return tuple(self._source(name) for name in self.services)

    def _sort(self, cell: Cell, header: Header | None, marked: bool) -> None:
        if header is not None:
            kind = self.services if header.verb == "service" else self.tests
            name = header.service or (self.own if header.verb == "service" else "")
            kind.setdefault(name, []).append(self._unit(cell, name or self.own, header.lent))
            return
        if mistake := self._mistake(cell, marked):
            self.mistakes.append(mistake)
        magic = cell_magic(cell.text)
        if marked:
            self.left_out[cell.number] = "which is no service cell: begin it with '%%clarens service', or move it"
        elif magic is not None:
            self.left_out[cell.number] = f"which is left out: {magic.split()[0]!r} cells are no Python"
            self.notes.append(f"{self._label(cell)} is left out: it begins with {magic.split()[0]!r}")
        elif "skip" in cell.tags:
            self.left_out[cell.number] = "which is tagged 'skip'"
        else:
            self.services.setdefault(self.own, []).append(self._unit(cell, self.own))

    def _mistake(self, cell: Cell, marked: bool) -> str:
        """What to say of a cell that is not marked, if it looks as if it should be; else an empty text."""
        if found := marker_mistake(cell.text):
            line, _, why = found
            return f"{self._label(cell)}, line {line}: {why}" if line > 1 else f"{self._label(cell)}: {why}"
        if marked and "skip" not in cell.tags and re.search(r"^@(\w+\.)?method\b", cell.text, re.MULTILINE):
            way = "begin it with '%%clarens service', or tag it 'skip'"
            return f"{self._label(cell)} has '@method' but is no service cell: {way}"
        return ""

    def _settle_tests(self) -> None:
        """Tests that name no service are those of the file's own, or of the only one that there is."""
        only = next(iter(self.services)) if len(self.services) == 1 else self.own
        self.tests.setdefault(only, []).extend(self.tests.pop("", []))
        for name, units in self.tests.items():
            if name not in self.services:
                self.notes += [f"{unit.label} tests {name!r}, which is no service of this notebook" for unit in units]

    def _unit(self, cell: Cell, service: str, lent: tuple[str, ...] = ()) -> Unit:
        label, filename = self._label(cell), cell_filename(self.path, cell)
        if cell.id:
            places[filename] = label
        key = cell.id or f"cell {cell.number}"
        unit, notes = unit_of(cell.text, key=key, label=label, filename=filename, lent=lent)
        self.service_notes.setdefault(service, []).extend(notes)
        return unit

    def _source(self, service: str) -> Source:
        own_note = [self.own_note] if service == self.own and self.own_note else []
        return Source(
            service,
            self.path,
            tuple(self.services[service]),
            tests=tuple(self.tests.get(service, ())),
            notes=tuple(own_note + self.mistakes + self.notes + self.service_notes.get(service, [])),
            mistakes=tuple(self.mistakes),
            elsewhere=self._elsewhere(),
            root=self.path.parent,
        )

    def _elsewhere(self) -> Mapping[str, str]:
        made: dict[str, str] = {}
        for cell in self.code:
            code, blanked = blank(cell.text.partition("\n")[2] if cell_magic(cell.text) else cell.text)
            for one in blanked:
                made |= {name: f"{self._label(cell)}, whose line {one.text!r} is no Python" for name in one.names}
            if cell.number in self.left_out:
                why = self.left_out[cell.number]
                made |= {name: f"{self._label(cell)}, {why}" for name in sorted(names_made(code))}
        return made

    def _label(self, cell: Cell) -> str:
        return f"{self.path.name} cell {cell.number}"
