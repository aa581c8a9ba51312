"""A service without a server: called as an object, for pytest; and its test cells, run.

Calls go through the signature and the codec, so that what passes here passes over the wire.
"""

import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clarens_lab import frames, loaders, output
from clarens_lab.asserts import explained
from clarens_lab.codec import decode_call, decode_response, encode_call, encode_response
from clarens_lab.dispatch import own_fault
from clarens_lab.faults import ServiceRaised, UnknownMethod
from clarens_lab.output import Output, captured
from clarens_lab.registry import Generation
from clarens_lab.service import Call, Caller, Kept, Method, completed, running
from clarens_lab.source import LoadError, Source, Unit

OUTPUT_LIMIT = 256 * 1024
UNLOAD_SECONDS = 5.0


def load(path: str | Path, service: str = "") -> "LocalService":
    """The service in a notebook, .py file or package, as an object to call.

        pi = load("picalc.ipynb")
        assert pi.digits(5) == "3.1416"

    Of a notebook with several services, `service` says which. Raises FileNotFoundError if there is no such file, and
    LoadError if it does not load.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.absolute()))
    sources = {source.service: source for source in loaders.read(path)}
    if not service and len(sources) > 1:
        raise LoadError(f"{path.name} holds the services {', '.join(sources)}: say which, as load(path, service)")
    wanted = service or next(iter(sources))
    if wanted not in sources:
        raise LoadError(f"{path.name} holds no service {service!r}; it holds {', '.join(sources)}")
    return LocalService(loaders.build(sources[wanted], Kept()))


class LocalService:
    """A service as an object: its methods are attributes. What fails raises Fault, as over the wire."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __getattr__(self, name: str) -> "LocalMethod":
        generation = self._generation
        if name in generation.methods:
            return LocalMethod(generation, generation.methods[name])
        if any(other.startswith(f"{name}.") for other in generation.methods):
            return _Part(generation, name)  # type: ignore[return-value]  # a step on the way to a dotted name
        raise _unknown(generation, name)

    def __dir__(self) -> list[str]:
        return sorted(self._generation.methods)

    def __repr__(self) -> str:
        shown = ", ".join(method.signature.text for method in self._generation.methods.values())
        return f"<service {self._generation.service}: {shown}>"


def _unknown(generation: Generation, name: str) -> AttributeError:
    published = [method.path for method in generation.methods.values()]
    return AttributeError(UnknownMethod(f"{generation.service}.{name}", published).text)


class _Part:
    """Part of a dotted method name."""

    def __init__(self, generation: Generation, prefix: str) -> None:
        self._generation = generation
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        path = f"{self._prefix}.{name}"
        if path in self._generation.methods:
            return LocalMethod(self._generation, self._generation.methods[path])
        if any(other.startswith(f"{path}.") for other in self._generation.methods):
            return _Part(self._generation, path)
        raise _unknown(self._generation, path)


class LocalMethod:
    """A method as a callable; `.function` is the Python function itself."""

    def __init__(self, generation: Generation, method: Method) -> None:
        self._generation = generation
        self._method = method
        self.function: Callable[..., Any] = method.function
        self.__doc__ = method.help

    def __call__(self, *arguments: object) -> Any:
        method = self._method
        _, given = decode_call(encode_call(method.path, arguments))
        bound = method.signature.bind(given, method.path)
        source = self._generation.source
        try:
            with running(Call(0, method.path, Caller(address="127.0.0.1"), self._generation.kept)):
                value = completed(method.function(*bound))
        except Exception as error:
            fault = own_fault(error)
            if fault is not None:
                raise fault from error
            trace = frames.render(error, source.by_filename if source is not None else {})
            raise ServiceRaised(trace) from error
        return decode_response(encode_response(value))

    def __repr__(self) -> str:
        return f"<method {self._generation.service}.{self._method.signature.text}>"


@dataclass(frozen=True)
class Result:
    """How one test cell ended."""

    service: str
    test: str
    """Where it stands: `picalc.ipynb cell 5`."""
    ok: bool
    error: str = ""
    traceback: str = ""
    output: str = ""
    ms: float = 0.0

    def as_struct(self) -> Mapping[str, Any]:
        """For the wire."""
        return asdict(self)


def run_tests_in(path: Path, tell: Callable[[str], object] = lambda note: None) -> list[Result]:
    """Runs the test cells of a notebook, file, package, or of the services in a folder, with no server.

    A service that does not load counts as a test that failed. What its author should know of the source, as a save
    would log it, goes to `tell`, one sentence at a time.
    """
    is_folder = path.is_dir() and not any((path / f"__init__{suffix}").exists() for suffix in loaders.SUFFIXES)
    files = loaders.discover(path).services if is_folder else (path,)
    output.install()  # what the code prints belongs to its result
    try:
        told: dict[str, None] = {}  # of a notebook's several services each says what concerns the notebook
        results = [result for file in files for result in _tests_in(file, told)]
    finally:
        output.uninstall()
    for note in told:
        tell(note)
    return results


def _tests_in(file: Path, told: dict[str, None]) -> list[Result]:
    try:
        sources = loaders.read(file)
    except LoadError as error:
        return [_not_loaded(loaders.identifier(file.stem), file, error)]
    return [result for source in sources for result in _tests_of(source, file, told)]


def _tests_of(source: Source, file: Path, told: dict[str, None]) -> list[Result]:
    printed = Output(OUTPUT_LIMIT)
    try:
        with captured(printed):
            generation = loaders.build(source, Kept())
    except LoadError as error:
        told.update(dict.fromkeys(source.notes))
        return [_not_loaded(source.service, file, error, printed.text())]
    told.update(dict.fromkeys(generation.notes))
    try:
        return run_tests(generation, source.tests)
    finally:
        if (ending := generation.unload()) is not None:
            ending.join(UNLOAD_SECONDS)


def _not_loaded(service: str, file: Path, error: LoadError, printed: str = "") -> Result:
    return Result(service, f"load {file.name}", False, str(error), output=printed)


def run_tests(generation: Generation, tests: Iterable[Unit]) -> list[Result]:
    """Runs a service's test cells, each in a copy of the service's names with the service itself among them."""
    output.install()  # what a test prints belongs to its result
    try:
        return [_run_test(generation, unit) for unit in tests]
    finally:
        output.uninstall()


def _run_test(generation: Generation, unit: Unit) -> Result:
    units = {**(generation.source.by_filename if generation.source else {}), unit.filename: unit}
    names = {**generation.namespace, generation.service: LocalService(generation)}
    printed = Output(OUTPUT_LIMIT)
    started = time.perf_counter()
    error = trace = ""
    try:
        with captured(printed):
            tree = explained(unit.code, unit.filename)
            exec(compile(tree, unit.filename, "exec", dont_inherit=True), names)  # noqa: S102  # its own test
    except BaseException as raised:  # noqa: BLE001  # also SystemExit: it ends the test, not the others
        place = frames.place_of(raised, {unit.filename: unit}) or unit.label
        error = f"{place}: {_said(raised)}"
        trace = frames.render(raised, units)
    ms = (time.perf_counter() - started) * 1000
    return Result(generation.service, unit.at(None), not error, error, trace, printed.text(), ms)


def _said(error: BaseException) -> str:
    fault = own_fault(error)
    return f"{type(error).__name__}: {fault}" if fault is not None else frames.one_line(error)
