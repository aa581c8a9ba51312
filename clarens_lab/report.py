"""What came of a load: units run, methods added, changed and removed, or why nothing changed."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import CodeType
from typing import Any

from clarens_lab import frames
from clarens_lab.registry import Generation
from clarens_lab.service import Method
from clarens_lab.source import LoadError, Source


@dataclass(frozen=True)
class Report:
    """The outcome of one load of one service.

    `outcome` is `loaded`, `unchanged`, `mended` (unchanged, after a version that failed), `failed`, `refused` or
    `withdrawn`. `generation` is the one that serves now, 0 if none does.
    """

    service: str
    outcome: str
    path: str = ""
    generation: int = 0
    error: str = ""
    """Why it failed or was refused: one sentence that names cell and line."""
    traceback: str = ""
    notes: tuple[str, ...] = ()
    """What the author should know: names that nobody defines, lines that were left out."""
    methods: tuple[str, ...] = ()
    """The signatures of what is published, as `digits(n: int) -> str`."""
    run: tuple[str, ...] = ()
    """The units that ran, by where they are."""
    carried: tuple[str, ...] = ()
    """The units that were carried over without running again."""
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    output: str = ""
    """What the load printed."""
    ms: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the newest source is what serves."""
        return self.outcome in ("loaded", "unchanged", "mended")

    def as_struct(self) -> dict[str, Any]:
        """For the wire: lists for tuples, and `ok` and `text` beside the fields."""
        struct = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**struct, "ok": self.ok, "text": self.text()}

    def text(self) -> str:
        """The report in one line."""
        still = f"; still serving generation {self.generation}" if self.generation else ""
        if self.outcome in ("failed", "refused"):
            return f"{self.error}{still}"
        if self.outcome == "withdrawn":
            return f"{self.service} is withdrawn: {self.error}"
        if self.outcome in ("unchanged", "mended"):
            return f"{self.service} is {self.outcome}{still}"
        return f"{self.service} generation {self.generation} serves ({self._changes()}; {self.ms:.0f} ms)"

    def _changes(self) -> str:
        parts = [
            f"{word} {', '.join(names)}"
            for word, names in (("added", self.added), ("changed", self.changed), ("removed", self.removed))
            if names
        ]
        return "; ".join(parts) or "no method changed"


def loaded(new: Generation, old: Generation | None, output: str, ms: float) -> Report:
    """The report on a generation that was published in place of `old`."""
    before: Mapping[str, Method] = old.methods if old is not None and not old.bundled else {}
    both = [name for name in new.methods if name in before]
    units = tuple(new.source.every_unit()) if new.source else ()
    return Report(
        new.service,
        "loaded",
        path=path_of(new),
        generation=new.number,
        notes=new.notes,
        methods=signatures(new.methods.values()),
        run=tuple(unit.at(None) for unit in units),
        added=tuple(name for name in new.methods if name not in before),
        changed=tuple(name for name in both if _differs(new.methods[name], before[name])),
        removed=tuple(name for name in before if name not in new.methods),
        output=output,
        ms=ms,
    )


def failed(error: LoadError, source: Source, output: str, serving: int) -> Report:
    """The report on source that did not load, while the generation `serving` serves (0: none)."""
    trace = frames.render(error.__cause__, source.by_filename) if error.__cause__ is not None else ""
    path = str(source.path or "")
    return Report(source.service, "failed", path, serving, str(error), traceback=trace, output=output)


def unchanged(generation: Generation, *, mended: bool = False) -> Report:
    """The report on source that is what serves already; `mended` if a broken one came in between."""
    methods = signatures(generation.methods.values())
    return Report(
        generation.service,
        "mended" if mended else "unchanged",
        path=path_of(generation),
        generation=generation.number,
        notes=generation.notes,
        methods=methods,
    )


def path_of(generation: Generation) -> str:
    """The file a generation came from, or an empty text."""
    source = generation.source
    return str(source.path) if source is not None and source.path is not None else ""


def signatures(methods: Iterable[Method]) -> tuple[str, ...]:
    """The methods' signatures, as they read in Python."""
    return tuple(method.signature.text for method in methods)


def _differs(one: Method, other: Method) -> bool:
    if (one.signature.text, one.help, one.signatures) != (other.signature.text, other.help, other.signatures):
        return True
    return _code(one) != _code(other)


def _code(method: Method) -> object:
    """What a function does, whatever line it stands on."""
    code = getattr(getattr(method.function, "__wrapped__", method.function), "__code__", None)
    return _bare(code) if isinstance(code, CodeType) else None


def _bare(code: CodeType) -> tuple[object, ...]:
    consts = tuple(_bare(const) if isinstance(const, CodeType) else (type(const), const) for const in code.co_consts)
    return code.co_code, code.co_names, code.co_varnames, consts
