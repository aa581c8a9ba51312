"""Source text as Python reads it: parsed once, and compiled with its warnings kept apart.

A save has the same text looked at several times. Python would print a SyntaxWarning each time, and none of them
says in which cell.
"""

import __future__

import ast
import symtable
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import CodeType

from clarens_lab.source import Unit

_one_at_a_time = threading.Lock()
FUTURES = [getattr(__future__, name).compiler_flag for name in __future__.all_feature_names]


@lru_cache(maxsize=512)
def parsed(code: str) -> ast.Module | None:
    """The tree of a piece of Python, which its users leave as it is; None if it does not parse."""
    with _warned():
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def symbols(code: str) -> symtable.SymbolTable | None:
    """What the compiler knows of each name in a piece of Python; None if it does not parse."""
    with _warned():
        try:
            return symtable.symtable(code, "<unit>", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def compiled(unit: Unit, flags: int = 0) -> tuple[CodeType, list[str]]:
    """The code of a unit, and a note for each SyntaxWarning.

    Raises SyntaxError, which names the file and mostly the line; for nesting beyond the compiler's limits also
    RecursionError and MemoryError.
    """
    with _warned() as found:
        try:
            code = compile(unit.code, unit.filename, "exec", flags, dont_inherit=True)
        except ValueError as error:  # a lone surrogate; before Python 3.12 a NUL byte too
            raise _misplaced(unit, error) from None
        except SyntaxError as error:
            if error.filename is not None:
                raise
            raise _misplaced(unit, error) from None
    mine = [one for one in found if one.filename == unit.filename]
    for one in found:
        if one not in mine:  # another thread's, which came meanwhile
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    told = [one for one in mine if issubclass(one.category, SyntaxWarning)]
    return code, [f"{unit.at(one.lineno)}: {one.category.__name__}: {one.message}" for one in told]


def futures_of(code: CodeType) -> int:
    """The flags of what the code imports from `__future__`; they hold for the cells below it, as in a notebook."""
    return sum(flag for flag in FUTURES if code.co_flags & flag)


def _misplaced(unit: Unit, error: Exception) -> SyntaxError:
    """A character that no source may hold; Python says neither in which file nor on which line."""
    at = error.start if isinstance(error, UnicodeEncodeError) else unit.code.find("\0")
    line = unit.code.count("\n", 0, at) + 1 if at >= 0 else None
    return SyntaxError(str(error), (unit.filename, line, None, None))


@contextmanager
def _warned() -> Iterator[list[warnings.WarningMessage]]:
    """While the block runs, warnings are kept and none is printed or raised."""
    with _one_at_a_time, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found
