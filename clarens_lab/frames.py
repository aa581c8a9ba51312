"""An exception's frames as a service's author reads them: by cell and line, none of the server's own.

The text shown is that of the generation that ran, whatever was saved since.
"""

import linecache
import os
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from clarens_lab.source import Unit

OURS = f"{Path(__file__).parent}{os.sep}"
MOST_FRAMES = 24
MOST_TEXT = 32 * 1024
Units = Mapping[str, Unit]
"""Units by the file name that their frames carry."""


@dataclass(frozen=True)
class Frame:
    """One frame: where it is, the line's text, and the columns (from 0) of what was being evaluated."""

    where: str
    line: str
    columns: tuple[int, int] | None
    in_service: bool


def frames_of(error: BaseException, units: Units) -> list[Frame]:
    """The frames of an exception, oldest first, without the server's own."""
    return [_frame(tb, units) for tb in _walk(error.__traceback__) if _is_shown(tb, units)]


def place_of(error: BaseException, units: Units) -> str:
    """Where in the service it happened: `picalc.ipynb cell 4, line 2 (digits)`; empty if nowhere in it."""
    if isinstance(error, SyntaxError) and error.filename in units:
        return units[error.filename or ""].at(error.lineno)
    inside = [frame.where for frame in frames_of(error, units) if frame.in_service]
    return inside[-1] if inside else ""


def one_line(error: BaseException) -> str:
    """`NameError: name 'jsn' is not defined`."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return traceback.format_exception_only(error)[0].strip()


def render(error: BaseException, units: Units) -> str:
    """The whole traceback as text, causes first, bounded in length."""
    text = "\n".join(_chain(error, units, set()))
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT // 2] + "\n  ...\n" + text[-MOST_TEXT // 2 :]


def _chain(error: BaseException, units: Units, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _chain(before, units, seen)
        how = "which was the cause of" if error.__cause__ else "and while that was handled"
        yield f"{how}:"
    frames = frames_of(error, units)
    if frames:
        yield "Traceback (most recent call last):"
    if len(frames) > MOST_FRAMES:
        left_out = len(frames) - MOST_FRAMES
        yield from (line for frame in frames[: MOST_FRAMES // 2] for line in _lines(frame))
        yield f"  ... {left_out} more frames ..."
        frames = frames[-MOST_FRAMES // 2 :]
    yield from (line for frame in frames for line in _lines(frame))
    if isinstance(error, SyntaxError) and error.filename in units:
        yield from _lines(_syntax_frame(error, units))
    yield one_line(error)
    yield from (f"note: {note}" for note in getattr(error, "__notes__", ()) if isinstance(note, str))
    if isinstance(error, BaseExceptionGroup):
        for number, inner in enumerate(error.exceptions[:10], 1):
            yield f"  exception {number} of {len(error.exceptions)}:"
            yield from (f"  {line}" for part in _chain(inner, units, seen) for line in part.split("\n"))


def _lines(frame: Frame) -> Iterator[str]:
    yield f"  {frame.where}"
    stripped = frame.line.lstrip()
    if not stripped:
        return
    yield f"    {stripped}"
    if frame.columns is not None:
        indent = len(frame.line) - len(stripped)
        start, end = frame.columns
        if (start, end) != (indent, len(frame.line)) and start >= indent:
            yield "    " + " " * (start - indent) + "^" * max(1, end - start)


def _walk(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _is_shown(tb: TracebackType, units: Units) -> bool:
    filename = tb.tb_frame.f_code.co_filename
    return filename in units or not filename.startswith((OURS, "<frozen importlib"))


def _frame(tb: TracebackType, units: Units) -> Frame:
    code = tb.tb_frame.f_code
    unit = units.get(code.co_filename)
    if unit is not None:
        lines = unit.text.split("\n")
        line = lines[tb.tb_lineno - 1] if 0 < tb.tb_lineno <= len(lines) else ""
        return Frame(unit.at(tb.tb_lineno, code.co_name), line, _columns(tb, line), True)
    line = linecache.getline(code.co_filename, tb.tb_lineno, tb.tb_frame.f_globals).rstrip("\n")
    name = "" if code.co_name.startswith("<") else f" ({code.co_name})"
    return Frame(f"{code.co_filename}, line {tb.tb_lineno}{name}", line, _columns(tb, line), False)


def _columns(tb: TracebackType, line: str) -> tuple[int, int] | None:
    """Character columns of the expression; Python keeps them as bytes of the UTF-8 line."""
    positions = list(tb.tb_frame.f_code.co_positions())
    if tb.tb_lasti < 0 or tb.tb_lasti // 2 >= len(positions):
        return None
    first, last, start, end = positions[tb.tb_lasti // 2]
    if start is None or end is None or first != tb.tb_lineno:
        return None
    data = line.encode("utf-8", "replace")
    stop = end if last == first else len(data)
    return len(data[:start].decode("utf-8", "replace")), len(data[:stop].decode("utf-8", "replace"))


def _syntax_frame(error: SyntaxError, units: Units) -> Frame:
    unit = units[error.filename or ""]
    lines = unit.text.split("\n")
    number = error.lineno or 1
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    start = max(0, (error.offset or 1) - 1)
    end = error.end_offset - 1 if error.end_offset and error.end_lineno == number else start + 1
    return Frame(unit.at(number), line, (start, max(end, start + 1)), True)
