"""A cell that was run, laid over the service's source: which unit it replaces, or whether it is a new one."""

import ast
from dataclasses import dataclass, replace
from pathlib import Path

from clarens_lab.loaders.modules import with_local_modules
from clarens_lab.loaders.notebook import unit_of
from clarens_lab.loaders.syntax import parsed
from clarens_lab.source import Source, Unit


@dataclass(frozen=True)
class LiveCell:
    """A cell as a notebook's kernel sends it: the raw text with its `%%` line, and what is known of its place."""

    text: str
    id: str = ""
    notebook: Path | None = None
    execution_count: int | None = None
    lent: tuple[str, ...] = ()


def with_cell(service: str, base: Source | None, cell: LiveCell) -> Source:
    """The service's source with the cell in it, in place of the unit that it is an edit of."""
    unit, notes = _unit(service, cell)
    if base is None:
        root = cell.notebook.parent if cell.notebook else None
        base = Source(service, cell.notebook, (), root=root, live=True)
    units = placed(base.units, unit)
    notes += _taken_over(base.units, units, unit)
    return with_local_modules(replace(base, units=units, notes=tuple(notes)))


def with_test(tests: tuple[Unit, ...], service: str, cell: LiveCell) -> tuple[Unit, ...]:
    """The service's test cells with this one among them."""
    return placed(tests, _unit(service, cell)[0])


def placed(units: tuple[Unit, ...], unit: Unit) -> tuple[Unit, ...]:
    """The units with this one in place of the same one, else at the end.

    Two pieces of source are the same unit if the id matches, else if the text is equal, else if one publishes a
    method that the other publishes.
    """
    index = _same(units, unit)
    if index is None:
        return (*units, unit)
    return (*units[:index], unit, *units[index + 1 :])


def _same(units: tuple[Unit, ...], unit: Unit) -> int | None:
    publishes = _published_in(unit.code)
    tests = (
        lambda one: one.key == unit.key,
        lambda one: one.text == unit.text,
        lambda one: bool(publishes & _published_in(one.code)),
    )
    for test in tests:
        for index, one in enumerate(units):
            if test(one):
                return index
    return None


def _taken_over(before: tuple[Unit, ...], after: tuple[Unit, ...], unit: Unit) -> list[str]:
    """A note for the cell that this one replaces though it is another one: it publishes a method of that one."""
    gone = [one for one in before if one not in after and one.key != unit.key and one.text != unit.text]
    publishes = _published_in(unit.code)
    return [
        f"{unit.label} takes over {', '.join(sorted(publishes & _published_in(one.code)))} from {one.at(None)}"
        for one in gone
    ]


def _unit(service: str, cell: LiveCell) -> tuple[Unit, list[str]]:
    count = "" if cell.execution_count is None else str(cell.execution_count)
    label = f"{service} In[{count}]"
    known = cell.notebook is not None and cell.id
    filename = f"{cell.notebook}#cell-id={cell.id}" if known else f"<{label}>"
    unit, notes = unit_of(cell.text, key=cell.id or cell.text, label=label, filename=filename, lent=cell.lent)
    return replace(unit, live=True), notes


def _published_in(code: str) -> frozenset[str]:
    """The functions that the code marks with `@method`, by name."""
    tree = parsed(code)
    if tree is None:
        return frozenset()
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if any(_is_mark(mark) for mark in node.decorator_list))


def _is_mark(mark: ast.expr) -> bool:
    target = mark.func if isinstance(mark, ast.Call) else mark
    return (isinstance(target, ast.Name) and target.id == "method") or (
        isinstance(target, ast.Attribute) and target.attr == "method"
    )
