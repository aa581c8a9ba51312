"""Values of every type, and the notebook that serves them."""

from datetime import datetime
from pathlib import Path
from typing import Any

from serving import write_notebook

SCALARS: dict[str, Any] = {
    "int": 5,
    "zero": 0,
    "negative int": -5,
    "largest int": 2**31 - 1,
    "smallest int": -(2**31),
    "i8": 2**40,
    "negative i8": -(2**31) - 1,
    "largest i8": 2**63 - 1,
    "smallest i8": -(2**63),
    "double": 3.5,
    "negative double": -0.125,
    "whole double": 2.0,
    "large double": 1e300,
    "true": True,
    "false": False,
    "text": "some text",
    "empty text": "",
    "digits": "00123",
    "spaces": "  two\tspaces \n",
    "markup": "<b>&amp; \"quoted\" 'too'</b> ]]>",
    "latin": "Zürich, naïve",
    "unicode": "π ≈ 3,14 中文 עברית",
    "astral": "𝜋 😀",
    "long text": "a line of a longer text\n" * 1000,
    "bytes": bytes(range(256)),
    "no bytes": b"",
    "time": datetime(2025, 12, 24, 18, 30, 5),
    "nil": None,
}
VALUES: dict[str, Any] = SCALARS | {
    "array": [1, "two", 3.0],
    "empty array": [],
    "array of arrays": [[1, 2], [], [[3]]],
    "struct": {"id": 1, "name": "a name"},
    "empty struct": {},
    "unicode names": {"größe": 1, "長さ": 2, "": 3, "a name": 4},
    "markup names": {"<a>&b": 1},
    "nested": {"rows": [{"id": 1, "tags": ["x", "<y>"]}, {"id": 2, "tags": []}], "at": datetime(1999, 12, 31, 23, 59)},
    "everything simple": [5, -5, 3.5, True, False, "some <text>", "", bytes(range(256)), {"a": [{}]}],
}
ANSWERS: dict[str, Any] = VALUES | {"carriage return": "one\r\ntwo\r", "everything": list(SCALARS.values())}
"""What is answered: also what clients do not send well, as a bare carriage return, which XML makes a newline."""

SERVICE = f"""\
import datetime
from typing import Any

from clarens_lab import Fault, method

ANSWERS = {ANSWERS!r}


@method
def value(name: str) -> Any:
    return ANSWERS[name]


@method
def add(a: int, b: int = 1) -> int:
    \"""The sum.\"""
    return a + b


@method
def refuses() -> None:
    raise Fault(1234, "No: 2 < 3 & 'two'\\nlines, naïve")


@method
def fails() -> None:
    raise ValueError("a mistake <here> & there")
"""


def write_samples(path: Path) -> Path:
    """Writes the notebook; returns its path."""
    return write_notebook(path, SERVICE)
