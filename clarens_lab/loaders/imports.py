"""How service code imports: local modules are read and run anew for each generation, others as ever.

The modules of a generation know themselves by their ordinary names, so that loggers and `__main__` guards read as
one expects. In `sys.modules` they stand under private names, which no import of anybody else's can mean.
"""

import builtins
import inspect
import itertools
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from clarens_lab.source import LocalModule, Source

_serial = itertools.count(1)


class Imports:
    """The modules of one generation, and what an import statement in their code does."""

    def __init__(self, source: Source, builtins: dict[str, Any]) -> None:
        self._source = source
        self._private = f"_clarens_{source.service}_{next(_serial)}"
        self._builtins = builtins
        self._local: dict[str, ModuleType] = {}
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
        home = getattr(value, "__module__", None)
        if not isinstance(home, str):
            return False
        service = self._source.service
        own = home in (service, self._private)
        return own or home.startswith((f"{service}.", f"{self._private}__{service}__"))

    def settle(self, module: ModuleType) -> None:
        """Gives a module's functions the name under which pickle finds them."""
        for value in vars(module).values():
            if inspect.isfunction(value) and value.__globals__ is vars(module):
                value.__module__ = self._names[id(vars(module))]

    def take_away(self) -> None:
        """Takes the modules out of `sys.modules`."""
        for name in self._names.values():
            sys.modules.pop(name, None)

    def _module(self, name: str, private: str, package: str, path: Path | None) -> ModuleType:
        module = ModuleType(name)
        module.__package__ = package
        is_package = package == name
        origin = str(path) if path is not None else None
        spec = ModuleSpec(name, None, origin=origin, is_package=is_package)
        vars(module).update(__file__=origin, __spec__=spec, __builtins__=self._builtins)
        if is_package and path is not None:
            module.__path__ = [str(path if path.is_dir() else path.parent)]
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
        module = self._find(absolute)
        for item in fromlist or ():
            for member in getattr(module, "__all__", ()) if item == "*" else (item,):
                if not hasattr(module, member) and f"{absolute}.{member}" in self._source.modules:
                    self._find(f"{absolute}.{member}")
        return module if fromlist or level else self._find(top)

    def build_class(self, body: Any, name: str, *bases: Any, **keywords: Any) -> Any:
        """`builtins.__build_class__`, but a class's `__module__` leads pickle and dataclasses to its own generation."""
        made = builtins.__build_class__(body, name, *bases, **keywords)
        private = self._names.get(id(body.__globals__))
        if private is not None and isinstance(made, type):
            made.__module__ = private
        return made

    def _find(self, name: str) -> ModuleType:
        if name in self._local:
            return self._local[name]
        parent, _, child = name.rpartition(".")
        if parent:
            self._find(parent)
        if name not in self._source.modules:
            found = getattr(self._local.get(parent), child, None)
            if isinstance(found, ModuleType):
                return found
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = self._run(self._source.modules[name])
        if parent:
            setattr(self._local[parent], child, module)
        return module

    def _run(self, local: LocalModule) -> ModuleType:
        private = f"{self._private}__{local.name.replace('.', '__')}"
        package = local.name if local.is_package else local.name.rpartition(".")[0]
        module = self._local[local.name] = self._module(local.name, private, package, local.path)
        try:
            for unit in local.units:
                exec(compile(unit.code, unit.filename, "exec", dont_inherit=True), vars(module))  # noqa: S102  # its job
        except BaseException:
            del self._local[local.name]
            raise
        self.settle(module)
        return module


def _absolute(name: str, package: str, level: int) -> str:
    above = package.split(".")
    if not package or level > len(above):
        written = f"from {'.' * level}{name} import ..."
        raise ImportError(f"{written!r} works inside a package only; a module beside it is imported by its plain name")
    return ".".join([*above[: len(above) - level + 1], *([name] if name else [])])
