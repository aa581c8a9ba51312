"""How service code imports: local modules are read and run anew for each generation, others as ever.

The modules of a generation know themselves by their ordinary names, so that loggers and `__main__` guards read as
one expects. In `sys.modules` they stand under private names, which no import of anybody else's can mean.
"""

import builtins
import importlib.util
import itertools
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from clarens_lab.frames import PRIVATE
from clarens_lab.loaders.syntax import compiled, futures_of
from clarens_lab.service import MARK
from clarens_lab.source import LocalModule, Source, is_folder

_serial = itertools.count(1)
_extensions: dict[str, ModuleType] = {}
"""Compiled modules inside of local packages, by file: their code can be loaded once in a process."""


class Imports:
    """The modules of one generation, and what an import statement in their code does."""

    def __init__(self, source: Source, builtins: dict[str, Any]) -> None:
        self._source = source
        self._private = f"{PRIVATE}{source.service}_{next(_serial)}"
        self._builtins = builtins
        self._local: dict[str, ModuleType] = {}
        self.notes: list[str] = []
        """SyntaxWarnings of local modules."""
        self._importing = threading.RLock()
        self._names: dict[int, str] = {}
        """The private name of each module, by the id of its globals."""

    def main(self) -> ModuleType:
        """The service's own module, empty."""
        service = self._source.service
        module = self._module(service, self._private, service if self._source.is_package else "", self._source.path)
        if self._source.is_package:
            self._local[service] = module
        return module

    def owns(self, value: object) -> bool:
        """Whether a function or class was written in the service itself, not in something it imports."""
        mark = getattr(value, MARK, None)
        if mark is not None and self._is_own(self._names.get(id(mark.home), "")):
            return True
        home = getattr(value, "__module__", None)
        return isinstance(home, str) and self._is_own(home)

    def _is_own(self, module: str) -> bool:
        service, private = self._source.service, self._private
        if self._source.is_package and module.startswith((f"{service}.", f"{private}__{service}__")):
            return True
        return module in (service, private)

    def settle(self, module: ModuleType) -> None:
        """Gives a module's functions and classes the name under which pickle finds them.

        Most classes have it from `build_class`; a namedtuple and its like are made by a call.
        """
        private = self._names[id(vars(module))]
        for name, value in list(vars(module).items()):
            # By type(), for a lazy proxy may raise anything when it is asked for its __class__.
            if issubclass(type(value), FunctionType):
                mine = value.__globals__ is vars(module)
            elif issubclass(type(value), type):
                made_here = (value.__module__, value.__name__) == (module.__name__, name)
                mine = made_here and not _is_known_elsewhere(value)
            else:
                continue
            if mine:
                value.__module__ = private

    def take_away(self) -> None:
        """Takes the modules out of `sys.modules`."""
        for name in self._names.values():
            sys.modules.pop(name, None)

    def _module(self, name: str, private: str, package: str, path: Path | None) -> ModuleType:
        module = ModuleType(name)
        module.__package__ = package
        is_package = package == name
        origin = str(path) if path is not None else None
        # The loader's own part of it is the text, where tracebacks find that of the right generation.
        units = self._source.by_filename
        spec = ModuleSpec(name, None, origin=origin, loader_state=units, is_package=is_package)
        vars(module).update(__file__=origin, __spec__=spec, __builtins__=self._builtins)
        if is_package and path is not None:
            module.__path__ = [str(path if is_folder(path) else path.parent)]
        self._names[id(vars(module))] = private
        sys.modules[private] = module
        return module

    # --- the two builtins through which it works ------------------------------------------------

    def import_(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`builtins.__import__` as service code finds it."""
        absolute = _absolute(name, str((globals or {}).get("__package__") or ""), level) if level else name
        top = absolute.partition(".")[0]
        if top not in self._local and top not in self._source.modules:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        with self._importing:  # no other thread may see a module that is half run
            module = self._find(absolute)
            for item in fromlist or ():
                for member in getattr(module, "__all__", ()) if item == "*" else (item,):
                    if not hasattr(module, member) and self._exists(f"{absolute}.{member}"):
                        self._find(f"{absolute}.{member}")
            return module if fromlist or level else self._find(top)

    def build_class(self, body: Any, name: str, *bases: Any, **keywords: Any) -> Any:
        """`builtins.__build_class__`, but a class's `__module__` leads pickle and dataclasses to its own generation."""
        made = builtins.__build_class__(body, name, *bases, **keywords)
        if isinstance(made, type):
            # Globals that are no module's own are those of a test cell: a copy of the service's.
            made.__module__ = self._names.get(id(body.__globals__), self._private)
        return made

    def _find(self, name: str) -> ModuleType:
        if name in self._local:
            return self._local[name]
        parent, _, child = name.rpartition(".")
        if parent:
            self._find(parent)
        if name not in self._source.modules:
            found = getattr(self._local.get(parent), child, None)
            return found if isinstance(found, ModuleType) else self._extension(name)
        return self._run(self._source.modules[name])

    def _exists(self, name: str) -> bool:
        return name in self._source.modules or self._extension_spec(name) is not None

    def _extension_spec(self, name: str) -> ModuleSpec | None:
        parent = self._local.get(name.rpartition(".")[0])
        spec = PathFinder.find_spec(name, getattr(parent, "__path__", ()))
        return spec if spec is not None and isinstance(spec.loader, ExtensionFileLoader) else None

    def _extension(self, name: str) -> ModuleType:
        """A compiled module inside of a local package."""
        spec = self._extension_spec(name)
        if spec is None or spec.origin is None or spec.loader is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if spec.origin not in _extensions:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            _extensions[spec.origin] = module
        self._local[name] = _extensions[spec.origin]
        self._set_in_parent(name, _extensions[spec.origin])
        return _extensions[spec.origin]

    def _run(self, local: LocalModule) -> ModuleType:
        private = f"{self._private}__{local.name.replace('.', '__')}"
        package = local.name if local.is_package else local.name.rpartition(".")[0]
        module = self._local[local.name] = self._module(local.name, private, package, local.path)
        self._set_in_parent(local.name, module)  # before it runs: modules may import each other
        flags = 0
        try:
            for unit in local.units:
                code, notes = compiled(unit, flags)
                flags |= futures_of(code)
                self.notes += notes
                exec(code, vars(module))  # noqa: S102  # its job
        except BaseException:
            del self._local[local.name]
            self._take_from_parent(local.name)
            raise
        self.settle(module)
        return module

    def _set_in_parent(self, name: str, module: ModuleType) -> None:
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(self._local[parent], child, module)

    def _take_from_parent(self, name: str) -> None:
        parent, _, child = name.rpartition(".")
        vars(self._local.get(parent, ModuleType(""))).pop(child, None)


def _is_known_elsewhere(kind: type) -> bool:
    """Whether a class is what an ordinary module of that name holds: the service may be called as one."""
    return getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind


def _absolute(name: str, package: str, level: int) -> str:
    above = package.split(".")
    if not package or level > len(above):
        written = f"from {'.' * level}{name} import ..."
        raise ImportError(f"{written!r} works inside a package only; a module beside it is imported by its plain name")
    return ".".join([*above[: len(above) - level + 1], *([name] if name else [])])
