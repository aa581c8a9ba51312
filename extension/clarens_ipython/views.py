"""What is shown under a cell: HTML that follows the light and dark theme, and the same as plain text."""

import linecache
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any

import IPython
from IPython.core.getipython import get_ipython

import clarens_lab
from clarens_lab.faults import Fault

# No <pre>: the front ends colour those themselves.
STYLE = (
    "<style>.clarens{font-family:var(--jp-code-font-family,monospace);font-size:var(--jp-code-font-size,13px);"
    "line-height:1.5;padding:0 var(--jp-code-padding,5px);color:var(--jp-content-font-color1,inherit);"
    "white-space:pre-wrap}.clarens .quiet{opacity:.7}.clarens .bad{color:var(--jp-error-color1,#d32f2f)}"
    ".clarens .warn{color:var(--jp-warn-color0,#b26a00)}.clarens .good{color:var(--jp-success-color1,#388e3c)}</style>"
)
MISSING = re.compile(r"(?P<who>\S+) uses (?P<name>\w+), which nothing defines")
Line = tuple[str, str]
"""A kind (`plain`, `quiet`, `good`, `warn`, `bad`) and a text."""


class View:
    """Lines to look at; in a notebook as HTML, elsewhere as text."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = list(lines)

    def __repr__(self) -> str:
        return "\n".join(text for _, text in self.lines)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.html()}

    def html(self) -> str:
        """The lines as one block; everything that was given is escaped."""
        rows = "".join(f'<div class="{kind}">{escape(text)}</div>' for kind, text in self.lines)
        return f'{STYLE}<div class="clarens">{rows}</div>'


class Shown(BaseException):
    """What ends a cell with one short rendering: which line of the cell it was, then the text; no frame of ours."""

    def _render_traceback_(self) -> list[str]:
        return [*_called_from(self.__traceback__), *str(self).split("\n")]


class Failed(Shown, Exception):
    """Fails the cell; the text is all that is shown."""


class Interrupted(Shown, KeyboardInterrupt):
    """The user's interrupt, while the server was asked."""


class WrongCall(Failed, TypeError):
    """Arguments that do not fit a method's signature."""


class NoMethod(Failed, AttributeError):
    """A method that a service does not have."""


class CallFailed(Failed, Fault):
    """A call's fault: what the server says of it, by cell and line."""

    def __init__(self, code: int, text: str, fault_id: int = 0) -> None:
        super().__init__(code, text)
        self.fault_id = str(fault_id)

    def __str__(self) -> str:
        # The server's own numbers say no more than its sentences; a service's own is part of its answer.
        return self.text if -32768 <= self.code <= -32000 else f"{self.text} (fault {self.code})"


OURS = (f"{Path(str(clarens_lab.__file__)).parent}/", f"{Path(__file__).parent}/")
IPYTHON = f"{Path(IPython.__file__).parent}/"


def _called_from(tb: TracebackType | None) -> Iterator[str]:
    """The user's lines that led to a failure; of a cell of one line, none."""
    shell = get_ipython()
    while tb is not None and not tb.tb_frame.f_code.co_filename.startswith(OURS):
        filename, number, name = tb.tb_frame.f_code.co_filename, tb.tb_lineno, tb.tb_frame.f_code.co_name
        tb = tb.tb_next
        lines = linecache.getlines(filename)
        if filename.startswith(IPYTHON) or len(lines) < 2:
            continue
        cell = shell.compile.format_code_name(filename) if shell is not None else None
        where = f"{cell[1] if cell else filename}, line {number}{'' if name.startswith('<') else f' ({name})'}"
        text = lines[number - 1].strip() if number <= len(lines) else ""
        # A magic is kept as what IPython makes of it, which its author did not write.
        yield where if "get_ipython()." in text else f"{where}: {text}"


def registered(report: Mapping[str, Any], bound: str, names: Container[str] = ()) -> View:
    """The answer under a service cell: the same for the same source. `bound` says how to call the service.

    `names` are those of the notebook, which the service does not see.
    """
    service, methods = report["service"], report.get("methods", [])
    if methods:
        lines: list[Line] = [("plain", f"{service}: {', '.join(methods)} · {bound}")]
    else:
        lines = [("plain", f"{service} has no method yet: write '@method' above a function")]
    lines += [("warn", _told_here(note, names)) for note in report.get("notes", [])]
    return View(lines)


def _told_here(note: str, names: Container[str]) -> str:
    """A note; of a missing name that this notebook has, with the ways out that there are here."""
    missing = MISSING.match(note)
    if missing is None or missing["name"] not in names:
        return note
    name = missing["name"]
    ways = f"define it in a service cell, or lend it with '%%clarens service ... --use {name}'"
    return f"{missing['who']} uses {name}: it is in this notebook, whose names a service does not see; {ways}"


def refused(report: Mapping[str, Any]) -> str:
    """What is said under a cell that did not become part of its service: why, then the line with its caret.

    Of an error that passed through several lines, all of them.
    """
    trace = str(report.get("traceback", "")).split("\n")
    frames = [line for line in trace if line.startswith("  ") and not line.startswith("    ")]
    shown = trace if len(frames) > 1 else [line for line in trace if line.startswith("    ")]
    return "\n".join([str(report["text"]), *shown])


def results(told: Sequence[Mapping[str, Any]]) -> View:
    """Test cells, passed and failed, with the failing values."""
    lines: list[Line] = []
    for one in told:
        lines.append(("good", f"passed  {one['test']}") if one["ok"] else ("bad", f"FAILED  {one['test']}"))
        if one["output"]:
            lines.append(("quiet", one["output"].rstrip("\n")))
        if not one["ok"]:
            lines.append(("plain", one["traceback"] or one["error"]))
    return View(lines or [("quiet", "no test cells: one begins with '%%clarens test'")])


def table(rows: Sequence[Sequence[str]], empty: str) -> View:
    """Rows in columns."""
    if not rows:
        return View([("quiet", empty)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return View([("plain", text) for text in texts])
