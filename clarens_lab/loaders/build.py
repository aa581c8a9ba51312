"""A source, run in a fresh namespace: the next generation of its service, or the reason why there is none.

Nothing that is being served is touched. Code is compiled from the text that was read, never from bytecode files.
"""

import builtins
import inspect
import linecache
import logging
import re
import sys
import threading
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from clarens_lab import frames
from clarens_lab.loaders.imports import Imports
from clarens_lab.loaders.magics import names_made
from clarens_lab.loaders.names import missing_names, way_to, way_to_module
from clarens_lab.loaders.syntax import compiled, futures_of
from clarens_lab.registry import Generation
from clarens_lab.service import Building, Kept, Method, building, completed, marked, marked_in
from clarens_lab.signature import Unpublishable, written
from clarens_lab.source import LoadError, Source, Unit, is_file, is_folder

log = logging.getLogger(__name__)

WORD = re.compile(r"""(?<=')[^']+(?=')|(?<=")[^"]+(?=")|[^\s'",:;()]*[^\s'",:;().]""")
Publishers = dict[str, tuple[str, object]]
"""By method: the label of the unit that publishes it, and the function."""


class LoadTimeout(BaseException):
    """Raised inside a load that goes on beyond its time limit."""


def build(source: Source, kept: Kept, lent: Mapping[str, object] | None = None) -> Generation:
    """Builds the next generation of a service, in the calling thread.

    `kept` holds what `keep` made; `lent` the objects that `--use` names. Raises LoadError, whose text
    names the cell and the line, and whose cause is what the code raised.
    """
    codes, notes = _compiled(source.units)
    build = _Build(source, kept, lent or {}, notes)
    try:
        generation = build.run(codes)
    except BaseException:
        build.take_away()
        build.put_lines_back()
        raise
    build.lines_before.clear()
    return generation


def _compiled(units: Sequence[Unit]) -> tuple[list[CodeType], list[str]]:
    """The code of each unit, and the compiler's warnings."""
    codes: list[CodeType] = []
    notes: list[str] = []
    flags = 0
    for unit in units:
        try:
            code, warned = compiled(unit, flags)
        except SyntaxError as error:
            raise LoadError(f"{unit.at(error.lineno)}: {_syntax_text(error)}") from error
        except (RecursionError, MemoryError) as error:  # nesting beyond the compiler's
            raise LoadError(f"{unit.label}: {frames.one_line(error)}") from error
        flags |= futures_of(code)
        codes.append(code)
        notes += warned
    return codes, notes


def _syntax_text(error: SyntaxError) -> str:
    text = frames.one_line(error)
    if "outside" in (error.msg or "") and ("await" in error.msg or "async" in error.msg):
        return f"{text}: no event loop runs at load; await inside an 'async def', or call asyncio.run(...)"
    return text


class _Build:
    """One attempt at a generation."""

    def __init__(self, source: Source, kept: Kept, lent: Mapping[str, object], notes: Sequence[str]) -> None:
        self.source = source
        self.kept = kept
        self.lent = lent
        self.builtins: dict[str, Any] = {**vars(builtins), **STAND_INS}
        self.imports = Imports(source, self.builtins)
        self.builtins.update(__import__=self.imports.import_, __build_class__=self.imports.build_class)
        self.building = Building(kept)
        self.notes: list[str] = [*source.notes, *notes]
        self.lines_before = {filename: linecache.cache.get(filename) for filename in source.by_filename}
        self._keep_lines()
        _enter_path(source.root)

    def run(self, codes: Sequence[CodeType]) -> Generation:
        main = self.imports.main()
        with building(self.building):
            self._run_units(main, codes)
            methods = self._methods(main)
            for hook in self.building.startup:
                self._located(partial(_run_hook, hook))
        self.notes += [*self.imports.notes, *self._remarks(main, methods, codes)]
        return Generation(
            self.source.service,
            methods,
            self.source,
            tuple(self.notes),
            self.kept,
            namespace=vars(main),
            unload=self.unload,
        )

    def _run_units(self, main: ModuleType, codes: Sequence[CodeType]) -> None:
        publishers: Publishers = {}
        for unit, code in zip(self.source.units, codes, strict=True):
            vars(main).update({name: self.lent[name] for name in unit.lent if name in self.lent})
            self._located(partial(exec, code, vars(main)))
            publishers = self._publishers(unit, publishers, marked_in(vars(main), self.imports.owns))
            self.imports.settle(main)

    def _publishers(self, unit: Unit, before: Publishers, now: Mapping[str, object]) -> Publishers:
        """Who publishes what after a unit has run; notes what it took from those above it."""
        for name, (label, function) in before.items():
            if name not in now:
                self.notes.append(f"{unit.label} takes the method {name!r} of {label} away: its name is used anew")
            elif now[name] is not function:
                self.notes.append(f"{unit.label} takes over the method {name!r} from {label}")
        mine = {name: (unit.label, function) for name, function in now.items()}
        return {
            name: before[name] if name in before and before[name][1] is new[1] else new for name, new in mine.items()
        }

    def _methods(self, main: ModuleType) -> Mapping[str, Method]:
        methods: dict[str, Method] = {}
        for name, function in marked_in(vars(main), self.imports.owns).items():
            try:
                methods[name] = marked(function, self.source.service, name)
            except Unpublishable as error:
                raise LoadError(f"{self._home(function)}: {error}") from error
        if not methods and not self.source.live:
            named = self.source.path.name if self.source.path is not None else self.source.service
            if self.source.mistakes:
                raise LoadError(f"{named} publishes no method: {'; '.join(self.source.mistakes)}")
            raise LoadError(
                f"{named} publishes no method: write '@method' above each function that others should call, "
                "after 'from clarens_lab import method'"
            )
        return methods

    def _home(self, function: Callable[..., Any]) -> str:
        """Where a function is written: `picalc.ipynb cell 4, line 2 (digits)`."""
        code = getattr(inspect.unwrap(written(function)), "__code__", None)
        unit = self.source.by_filename.get(code.co_filename) if isinstance(code, CodeType) else None
        return unit.at(code.co_firstlineno, code.co_name) if unit is not None and code else self.source.service

    def _remarks(self, main: ModuleType, methods: Mapping[str, Method], codes: Sequence[CodeType]) -> Iterator[str]:
        source = self.source
        loaded = list(zip(source.units, codes, strict=True))
        yield from missing_names(source.service, loaded, vars(main), source.elsewhere, self.builtins)
        for unit in source.units:
            for name in unit.lent:
                if name not in self.lent:
                    yield (
                        f"{unit.label}: --use {name} lends an object of the running notebook, which a saved copy "
                        "does not have: make it in a service cell"
                    )
        for method in methods.values():
            if fixed := ", ".join(method.signature.fixed):
                yield f"{method.path}: {fixed} can be given by keyword only; over the wire the default holds"

    # --- failing --------------------------------------------------------------------------------

    def _located(self, run: Callable[[], Any]) -> None:
        """Runs a piece of the service; whatever it raises becomes a LoadError with its place."""
        try:
            run()
        except LoadTimeout:
            raise
        except BaseException as error:  # SystemExit and KeyboardInterrupt end a load, not the server
            place = frames.place_of(error, self.source.by_filename) or self.source.service
            raise LoadError(f"{place}: {self._reason(error)}") from error

    def _reason(self, error: BaseException) -> str:
        text = frames.one_line(error)
        if isinstance(error, SystemExit):
            return f"{text}: ending the program is not for a service; put it under if __name__ == '__main__':"
        if isinstance(error, NameError) and error.name:
            later = [unit.label for unit in self.source.units if error.name in names_made(unit.code)]
            if later:
                return f"{text}; {later[0]} defines it, and cells are loaded from top to bottom: move it up"
            way = way_to(error.name, self.source.elsewhere)
            return f"{text}; {way}" if way else text
        if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
            return f"{text}: {way_to_module(error.name, self.source)}"
        return text + relative_path_hint(error, self.source)

    # --- ending ---------------------------------------------------------------------------------

    def _keep_lines(self) -> None:
        """Lets `inspect.getsource`, pdb and others find the text; mtime None keeps `checkcache` from dropping it."""
        for unit in self.source.by_filename.values():
            lines = [f"{line}\n" for line in unit.text.split("\n")]
            linecache.cache[unit.filename] = (len(unit.text), None, lines, unit.filename)

    def put_lines_back(self) -> None:
        """Gives the text of what serves on back to `inspect.getsource` and others, after a load that failed."""
        for filename, entry in self.lines_before.items():
            if entry is None:
                linecache.cache.pop(filename, None)
            else:
                linecache.cache[filename] = entry

    def take_away(self) -> None:
        """Takes all that the interpreter's own tables hold of it."""
        self.imports.take_away()
        for clear in getattr(typing, "_cleanups", ()):  # `Optional[C]` is cached, and with C all that C knows
            clear()
        _leave_path(self.source.root)

    def unload(self) -> threading.Thread | None:
        """Runs the `on_unload` hooks (aside, for they may take their time), then takes the modules away."""
        if not self.building.unload:
            self.take_away()
            return None
        thread = threading.Thread(target=self._unload, name=f"unload {self.source.service}", daemon=True)
        thread.start()
        return thread

    def _unload(self) -> None:
        for hook in self.building.unload:
            try:
                _run_hook(hook)
            except BaseException as error:  # noqa: BLE001  # a hook that fails must not keep the others from running
                place = frames.place_of(error, self.source.by_filename)
                log.warning("%s: on_unload: %s: %s", self.source.service, place, frames.one_line(error))
        self.take_away()


def _run_hook(hook: Callable[[], Any]) -> None:
    """Calls a hook, and waits for it if it is a coroutine function."""
    completed(hook())


def relative_path_hint(error: BaseException, source: Source | None) -> str:
    """The way out for a relative path that would have been found beside the notebook; else an empty text."""
    if not isinstance(error, FileNotFoundError) or source is None or source.path is None:
        return ""
    # numpy tells the name in its text alone.
    told = error.filename
    names = [told] if isinstance(told, str) else [] if told is not None else WORD.findall(frames.one_line(error))
    for name in names:
        beside = source.path.parent / name
        if not Path(name).is_absolute() and (is_file(beside) or (name == told and is_folder(beside))):
            return f"; it stands beside {source.path.name}: open Path(__file__).parent / {name!r}"
    return ""


# --- what a service's code finds instead of some builtins --------------------------------------


def _refused(name: str, why: str) -> Callable[..., None]:
    def stand_in(*_: object, **__: object) -> None:
        raise RuntimeError(f"{name}() is not for a service: {why}")

    return stand_in


def _display(*things: object, **_: object) -> None:
    print(*things, sep="\n")


def _get_ipython() -> None:
    """Raises what plain Python would: code that also runs outside of notebooks is written to expect it."""
    raise NameError("get_ipython() is not for a service: no notebook kernel runs it; keep it out of service cells")


def _exit(code: object = None) -> None:
    """As `exit` and `quit`, which would also close the server's standard input."""
    raise SystemExit if code is None else SystemExit(code)


STAND_INS: Mapping[str, Any] = {
    "display": _display,
    "input": _refused("input", "nobody sits at its terminal; take the value as an argument"),
    "get_ipython": _get_ipython,
    "exit": _exit,
    "quit": _exit,
    "breakpoint": _refused("breakpoint", "nobody sits at its terminal; debug the function in the notebook"),
}


# --- sys.path -----------------------------------------------------------------------------------

_users: Counter[str] = Counter()
_added: set[str] = set()
_path_lock = threading.Lock()


def _enter_path(root: Path | None) -> None:
    """Puts the service's folder first on `sys.path`: for libraries there, and imports that no statement shows."""
    if root is None:
        return
    with _path_lock:
        _users[str(root)] += 1
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
            _added.add(str(root))


def _leave_path(root: Path | None) -> None:
    if root is None:
        return
    with _path_lock:
        _users[str(root)] -= 1
        if not _users[str(root)] and str(root) in _added:
            _added.discard(str(root))
            if str(root) in sys.path:
                sys.path.remove(str(root))
