"""An exception's frames as a service's author reads them: by cell and line, none of the server's own.

The text shown is that of the generation that ran, whatever was saved since.
"""

import linecache
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from clarens_lab.source import Unit

OURS = f"{Path(__file__).parent}{os.sep}"
MOST_FRAMES = 24
MOST_CAUSES = 10
MOST_COLUMNS = 400
MOST_GROUPED = 100
MOST_LINE = 8 * 1024
MOST_TEXT = 32 * 1024
PRIVATE = "_clarens_"
"""How the names begin under which a generation's modules stand in `sys.modules`."""
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
    return [_frame(tb, units) for tb in _shown(error, units)]


def place_of(error: BaseException, units: Units) -> str:
    """Where in the service it happened: `picalc.ipynb cell 4, line 2 (digits)`; empty if nowhere in it."""
    if isinstance(error, SyntaxError) and error.filename in units:
        return units[error.filename or ""].at(error.lineno)
    inside = [tb for tb in _walk(error.__traceback__) if tb.tb_frame.f_code.co_filename in units]
    return _frame(inside[-1], units).where if inside else ""


def one_line(error: BaseException) -> str:
    """`NameError: name 'jsn' is not defined`; the first line of a longer text."""
    first, more, _ = full_text(error).partition("\n")
    return f"{first} ..." if more else first


def full_text(error: BaseException) -> str:
    """As `one_line`, but all of it, up to a limit."""
    kind = type(error)
    # A class of the service goes by its own name: its module's name is another one in each generation.
    known = kind.__module__ in ("builtins", "__main__") or kind.__module__.startswith(PRIVATE)
    name = kind.__qualname__ if known else f"{kind.__module__}.{kind.__qualname__}"
    try:
        told = (error.msg or "") if isinstance(error, SyntaxError) else str(error)
    except BaseException:  # noqa: BLE001  # the author's own __str__, which may raise anything
        told = "<its text cannot be shown: __str__ raises>"
    told = told if len(told) <= MOST_LINE else f"{told[:MOST_LINE]}..."
    return f"{name}: {told}" if told else name


def render(error: BaseException, units: Units) -> str:
    """The whole traceback as text, causes first, bounded in length."""
    text = "\n".join(_chain(error, units, set()))
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT // 2] + "\n  ...\n" + text[-MOST_TEXT // 2 :]


def _chain(error: BaseException, units: Units, seen: set[int]) -> Iterator[str]:
    """The exception, after those that led to it; each is told once."""
    told: list[tuple[BaseException, str]] = []
    one: BaseException | None = error
    after = ""
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        told.append((one, after))
        after = "which was the cause of:" if one.__cause__ is not None else "and while that was handled:"
        one = one.__cause__ if one.__cause__ is not None or one.__suppress_context__ else one.__context__
    if len(told) > MOST_CAUSES:
        yield f"... {len(told) - MOST_CAUSES} earlier exceptions ..."
    for one, after in reversed(told[:MOST_CAUSES]):
        yield from _single(one, units, seen)
        if after:
            yield after


def _single(error: BaseException, units: Units, seen: set[int]) -> Iterator[str]:
    """One exception: its frames, its text, its notes, and what it groups."""
    shown = _shown(error, units)
    if shown:
        yield "Traceback (most recent call last):"
    left_out = len(shown) - MOST_FRAMES
    if left_out > 0:
        yield from (line for tb in shown[: MOST_FRAMES // 2] for line in _lines(_frame(tb, units)))
        yield f"  ... {left_out} more frames ..."
        shown = shown[-MOST_FRAMES // 2 :]
    yield from (line for tb in shown for line in _lines(_frame(tb, units)))
    if isinstance(error, SyntaxError) and error.filename in units:
        yield from _lines(_syntax_frame(error, units))
    yield full_text(error)
    notes = getattr(error, "__notes__", ())
    yield from (f"note: {note}" for note in (notes if isinstance(notes, list) else ()) if isinstance(note, str))
    if isinstance(error, BaseExceptionGroup) and len(seen) < MOST_GROUPED:
        for number, inner in enumerate(error.exceptions[:10], 1):
            yield f"  exception {number} of {len(error.exceptions)}:"
            yield from (f"  {line}" for part in _chain(inner, units, seen) for line in part.split("\n"))


def _lines(frame: Frame) -> Iterator[str]:
    yield f"  {frame.where}"
    stripped = frame.line.lstrip()
    if not stripped:
        return
    if len(stripped) > MOST_COLUMNS:
        yield f"    {stripped[:MOST_COLUMNS]}..."
        return
    yield f"    {stripped}"
    if frame.columns is not None:
        indent = len(frame.line) - len(stripped)
        start, end = frame.columns
        if (start, end) != (indent, len(frame.line)) and start >= indent:
            yield "    " + " " * (start - indent) + "^" * max(1, end - start)


def _shown(error: BaseException, units: Units) -> list[TracebackType]:
    return [tb for tb in _walk(error.__traceback__) if _is_shown(tb, units)]


def _walk(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _is_shown(tb: TracebackType, units: Units) -> bool:
    filename = tb.tb_frame.f_code.co_filename
    return filename in units or not filename.startswith((OURS, "<frozen importlib"))


def _frame(tb: TracebackType, units: Units) -> Frame:
    code, number = tb.tb_frame.f_code, _line_number(tb)
    unit = _unit(tb, units)
    if unit is not None:
        lines = unit.text.split("\n")
        line = lines[number - 1] if 0 < number <= len(lines) else ""
        return Frame(unit.at(number or None, code.co_name), line, _columns(tb, line), True)
    line = linecache.getline(code.co_filename, number, tb.tb_frame.f_globals).rstrip("\n")
    name = "" if code.co_name.startswith("<") else f" ({code.co_name})"
    return Frame(f"{code.co_filename}, line {number}{name}", line, _columns(tb, line), False)


def _unit(tb: TracebackType, units: Units) -> Unit | None:
    """The unit as it was when this frame's code was loaded: what `keep` holds may be an older generation's."""
    filename = tb.tb_frame.f_code.co_filename
    own = getattr(tb.tb_frame.f_globals.get("__spec__"), "loader_state", None)
    return own.get(filename, units[filename]) if filename in units and isinstance(own, Mapping) else units.get(filename)


def _line_number(tb: TracebackType) -> int:
    """Counted from 1; 0 for an instruction that belongs to no line."""
    number: int | None = tb.tb_lineno  # the library's stubs know no None
    return number or 0


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
