"""`lab`: the developers' side of the server. Needs the lab token; magics, widgets and the CLI use nothing else.

What services printed, raised and logged is made legible: a character that XML cannot carry must not cost the answer.
The setting `call_limit` is for services: a cell that is registered runs until it is done.
"""

import os
import platform
import time
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from clarens_lab import __version__
from clarens_lab.codec import legible
from clarens_lab.dispatch import Dispatcher
from clarens_lab.events import Ring
from clarens_lab.faults import BadArguments, LoadFailed, ServerFault, nearest
from clarens_lab.loaders import LiveCell
from clarens_lab.registry import Catalogue
from clarens_lab.reload import Reloader
from clarens_lab.report import path_of, signatures
from clarens_lab.service import current_call, method
from clarens_lab.source import LoadError
from clarens_lab.testing import run_tests

LONGEST_WAIT = 60.0
OPTIONS: Mapping[str, type] = {"id": str, "notebook": str, "execution_count": int, "lent": list, "kind": str}


class Lab:
    """The methods of the service `lab`."""

    def __init__(
        self, dispatcher: Dispatcher, reloader: Reloader, events: Ring, log: Ring, facts: Mapping[str, Any]
    ) -> None:
        self._dispatcher = dispatcher
        self._reloader = reloader
        self._events = events
        self._log = log
        self._facts = facts
        self._started = time.time()

    @method(inline=True)
    def status(self) -> dict[str, Any]:
        """The server in a few values: version, python, pid, url, project, paths, debug, watching, started (seconds
        since 1970), services, stale (names), refused (why files are not served, by path), in_flight (calls by
        generation)."""
        catalogue = self._dispatcher.registry.current
        status: dict[str, Any] = {
            "version": __version__,
            "python": platform.python_version(),
            "pid": os.getpid(),
            "started": self._started,
            "paths": [str(path) for path in self._reloader.paths],
            "watching": self._reloader.watching,
            "services": sorted(catalogue.services),
            "stale": sorted(service for service in catalogue.troubles if catalogue.is_stale(service)),
            "refused": {legible(str(path)): why for path, why in self._reloader.refused.items()},
            "in_flight": self._dispatcher.registry.in_flight(),
            **self._facts,
        }
        return _legible(status)

    @method(inline=True)
    def services(self) -> list[dict[str, Any]]:
        """Every service: service, generation (0: none could be loaded), stale, trouble (why its newest source does not
        serve), path, bundled, live, methods (signatures), notes."""
        catalogue = self._dispatcher.registry.current
        names = sorted({*catalogue.services, *catalogue.troubles})
        return [_legible(_described(catalogue, service)) for service in names]

    @method(timeout=inf)
    def register(self, service: str, source: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Puts a cell live as part of a service, or keeps it as the service's test; answers the reload report.

        `source` is the raw cell with its `%%` line. Options: id (the cell's), notebook (its path),
        execution_count, lent (names of objects that the kernel lends), kind (`service` or `test`).
        """
        told = _checked(options or {})
        if not service.isidentifier():
            raise BadArguments(f"lab.register: {service!r} cannot name a service: it takes a Python name.")
        cell = LiveCell(
            source.replace("\r\n", "\n"),
            told.get("id", ""),
            Path(told["notebook"]).absolute() if told.get("notebook") else None,
            told.get("execution_count"),
            tuple(told.get("lent", ())),
        )
        try:
            if told.get("kind", "service") == "test":
                test = self._reloader.register_test(service, cell)
                kept = {"service": service, "outcome": "kept", "ok": True, "test": test}
                return _legible({**kept, "text": f"{service}: the test is kept"})
            return _legible(self._reloader.register(service, cell).as_struct())
        except LoadError as error:
            raise BadArguments(f"lab.register: {error}") from None

    @method(inline=True)
    def interrupt(self, service: str) -> bool:
        """Gives up the cell of a service that is being loaded, if one is; answers whether one was. What was served
        before it is served on."""
        return self._reloader.interrupt(service)

    @method(timeout=inf)
    def remove(self, service: str) -> dict[str, Any]:
        """Withdraws a service and frees its name; answers the reload report."""
        try:
            return _legible(self._reloader.remove(service).as_struct())
        except LoadError as error:
            raise BadArguments(f"lab.remove: {error}") from None

    @method(timeout=inf)
    def reload(self, service: str, fresh: bool = False) -> dict[str, Any]:
        """Loads a service again, changed or not; `fresh` also forgets what `keep` made. Answers the reload report."""
        try:
            return _legible(self._reloader.reload(service, fresh=fresh).as_struct())
        except LoadError as error:
            raise BadArguments(f"lab.reload: {error}") from None

    @method(timeout=inf)
    async def call(self, method: str, args: list[Any]) -> dict[str, Any]:
        """Calls a method and answers all there is to say: value or fault ({code, text, id}), output (what it printed),
        call, generation, stale, ms."""
        outcome = await self._dispatcher.call(method, args, current_call().caller)
        told = {
            "output": legible(outcome.output),
            "call": outcome.call,
            "generation": outcome.generation or 0,
            "stale": outcome.stale,
            "ms": outcome.ms,
        }
        if outcome.fault is None:
            return {"value": outcome.value, **told}
        fault = {"code": outcome.fault.code, "text": outcome.text, "id": outcome.fault_id}
        return {"fault": fault, **told}

    @method(timeout=inf)
    async def events(self, since: int = 0, timeout: float = 0.0) -> dict[str, Any]:
        """What happened since an event's number (negative: from now on): next, lost, items. Waits up to `timeout`
        seconds for the first one."""
        return _legible(await self._events.wait(since, min(timeout, LONGEST_WAIT)))

    @method(timeout=inf)
    async def log(self, since: int = 0, timeout: float = 0.0) -> dict[str, Any]:
        """Log lines since a line's number (negative: from now on): next, lost, items of {time, level, name, text}."""
        return _legible(await self._log.wait(since, min(timeout, LONGEST_WAIT)))

    @method(timeout=inf)
    def test(self, service: str = "") -> list[dict[str, Any]]:
        """Runs the test cells of a service (of all, without a name) against what is served: for each service, test,
        ok, error, traceback, output, ms."""
        catalogue: Catalogue = self._dispatcher.registry.current
        if service and service not in catalogue.services:
            raise _absent(catalogue, service)
        wanted = [service] if service else sorted(self._reloader.tests)
        return [
            _legible(result.as_struct())
            for name in wanted
            if name in catalogue.services
            for result in run_tests(catalogue.services[name], self._reloader.tests.get(name, ()))
        ]


def _legible(struct: Mapping[str, Any]) -> dict[str, Any]:
    """The struct with every text in it made legible."""
    return {key: _legible_value(value) for key, value in struct.items()}


def _legible_value(value: Any) -> Any:
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, list):
        return [_legible_value(one) for one in value]
    return _legible(value) if isinstance(value, Mapping) else value


def _absent(catalogue: Catalogue, service: str) -> ServerFault:
    if service in catalogue.troubles:
        return LoadFailed(f"The service {service!r} could not be loaded: {catalogue.troubles[service]}")
    near = nearest(service, catalogue.services)
    hint = f"did you mean {near!r}?" if near else "lab.services() lists what is."
    return BadArguments(f"lab.test: no service {service!r} is served here; {hint}")


def _described(catalogue: Catalogue, service: str) -> dict[str, Any]:
    generation = catalogue.services.get(service)
    told = {"service": service, "stale": catalogue.is_stale(service), "trouble": catalogue.troubles.get(service, "")}
    if generation is None:
        empty: dict[str, Any] = {"generation": 0, "path": "", "bundled": False, "live": False}
        return {**told, **empty, "methods": [], "notes": []}
    return {
        **told,
        "generation": generation.number,
        "path": path_of(generation),
        "bundled": generation.bundled,
        "live": any(unit.live for unit in generation.source.units) if generation.source else False,
        "methods": list(signatures(generation.methods.values())),
        "notes": list(generation.notes),
    }


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if name not in OPTIONS:
            raise BadArguments(f"lab.register: no option {name!r}; there are {', '.join(OPTIONS)}.")
        if type(value) is not OPTIONS[name]:
            raise BadArguments(f"lab.register: the option {name!r} cannot be {value!r}.")
    if options.get("kind", "service") not in ("service", "test"):
        raise BadArguments(f"lab.register: kind is 'service' or 'test', not {options['kind']!r}.")
    return options
