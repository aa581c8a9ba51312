"""What is not Python in a cell: `%` and `!` lines, `obj?`, and `%%` cells.

Lines are blanked one for one, so that every position stays that of the cell as its author sees it.
"""

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from clarens_lab.loaders.syntax import parsed

LINE = re.compile(r"\s*[%!?]")
ASSIGNED = re.compile(r"\s*(?P<target>[^\W\d][\w.\[\]'\", ()*]*?)\s*=\s*[%!](?!=)")
HELP = re.compile(r"\s*%{0,2}[^\W\d][\w.\[\]*]*\?{1,2}\s*;?\s*$")
TIMED = re.compile(r"\s*%time\s+(?P<statement>.+)")
MARKER = re.compile(r"\s*(?P<signs>%{1,2})\s*(?P<word>\w+)\s+(?P<verb>service|test)\b(?P<rest>[^\n]*)$")
NAME = re.compile(r"[^\W\d]\w*")
TOKEN = re.compile(r"#.*|'''|\"\"\"|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[()\[\]{}]|\\$")


@dataclass(frozen=True)
class Blanked:
    """A line that was no Python, and the names that it would have made."""

    line: int
    text: str
    names: tuple[str, ...]


def cell_magic(text: str) -> str | None:
    """The `%%` line that a cell begins with (blank lines above it do not count), else None."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    return first.strip() if first.startswith("%%") else None


def marker_mistake(text: str) -> tuple[int, str, str] | None:
    """A line that looks as if it marked the cell, and does not: its number, what is meant, and why it does not count.

    A cell that another `%%` line begins may be marked below it; so may one with blanks where none may be.
    """
    lines = text.split("\n")
    begins = next((index for index, line in enumerate(lines) if line.strip()), 0)
    for index in _statement_starts(lines):
        found = MARKER.match(lines[index])
        if found is None or not difflib.get_close_matches(found["word"].lower(), ["clarens"], cutoff=0.75):
            continue
        if found["signs"] == "%" and found["verb"] == "test":  # `%clarens test` runs the tests
            continue
        meant = f"%%clarens {found['verb']}{found['rest'].rstrip()}"
        if lines[index].rstrip() != meant:
            return index + 1, meant, f"did you mean {meant!r}?"
        if index != begins:
            only_comments = all(line.lstrip().startswith("#") or not line.strip() for line in lines[:index])
            above = "the comment" if only_comments else f"{lines[begins].strip()!r}"
            return index + 1, meant, f"'%%clarens' counts only as the first line of a cell; move {above} below it"
    return None


def blank(text: str) -> tuple[str, list[Blanked]]:
    """The Python of a cell, line for line, and what was blanked in it."""
    if parsed(text) is not None:
        return text, []
    lines = text.split("\n")
    blanked: list[Blanked] = []
    for index in _statement_starts(lines):
        line = lines[index]
        if LINE.match(line) or HELP.match(line) or ASSIGNED.match(line):
            blanked.append(Blanked(index + 1, line.strip(), _names_of(line)))
            _blank_at(lines, index)
    return "\n".join(lines), blanked


def _names_of(line: str) -> tuple[str, ...]:
    """The names that a line would have made: of `x = %pwd`, and of `%time x = f()`."""
    target = ASSIGNED.match(line)
    if target:
        return tuple(NAME.findall(target["target"]))
    timed = TIMED.match(line)
    return tuple(sorted(names_made(timed["statement"]))) if timed else ()


def _blank_at(lines: list[str], index: int) -> None:
    """Puts nothing in place of a line, or `pass` in a block, and nothing in place of the lines that continue it."""
    indent = lines[index][: len(lines[index]) - len(lines[index].lstrip())]
    continued = lines[index].endswith("\\")
    lines[index] = f"{indent}pass" if indent else ""
    while continued and index + 1 < len(lines):
        index += 1
        continued = lines[index].endswith("\\")
        lines[index] = ""


def _statement_starts(lines: list[str]) -> Iterator[int]:
    """The lines at which a statement may begin: not inside a bracket, a long string or a continued line.

    The caller may blank lines from the one given on; what is scanned is the text as it is then.
    """
    depth, quote, continued = 0, "", False
    for index in range(len(lines)):
        if not depth and not quote and not continued:
            yield index
        line, at, continued = lines[index], 0, False
        while at < len(line):
            if quote:
                end = line.find(quote, at)
                if end < 0:
                    break
                at, quote = end + 3, ""
                continue
            token = TOKEN.search(line, at)
            if token is None:
                break
            at = token.end()
            found = token.group()
            if found in ("'''", '"""'):
                quote = found
            elif found in ("(", "[", "{"):
                depth += 1
            elif found in (")", "]", "}"):
                depth = max(0, depth - 1)
            continued = found == "\\"


def names_made(code: str) -> frozenset[str]:
    """The names that a piece of Python binds at its top level; none if it does not parse."""
    tree = parsed(code)
    return frozenset(_bound(tree.body)) if tree is not None else frozenset()


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                yield alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
