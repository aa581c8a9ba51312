"""The services being served now: one immutable catalogue, replaced as a whole.

A call holds the generations that it runs on, and so does a thread that runs on when its call's time is over. A
generation that was replaced is let go when the last of them has ended; then its `on_unload` hooks run and nothing
of ours refers to it any more.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from clarens_lab.faults import LoadFailed, UnknownMethod
from clarens_lab.service import Kept, Method
from clarens_lab.source import Source


@dataclass(frozen=True, eq=False)
class Generation:
    """One loaded version of a service; immutable once published."""

    service: str
    methods: Mapping[str, Method]
    source: Source | None = None
    """What it was built from; None for a bundled service."""
    notes: tuple[str, ...] = ()
    kept: Kept | None = None
    number: int = 0
    """Counts from 1 for each service and server start; given when it is published."""
    namespace: Mapping[str, object] = field(default_factory=dict, repr=False)
    unload: Callable[[], threading.Thread | None] = field(default=lambda: None, repr=False)
    """Ends it: runs its hooks, on a thread if there are any, and takes its modules away. Called once."""

    @property
    def bundled(self) -> bool:
        """Whether it is one of the services in the box."""
        return self.source is None


@dataclass(frozen=True)
class Catalogue:
    """What is served at one moment: generations by service, and what is wrong with the newest source of some."""

    services: Mapping[str, Generation] = field(default_factory=dict)
    troubles: Mapping[str, str] = field(default_factory=dict)
    """Why the newest source of a service failed to load. One that is also in `services` is stale."""
    methods: Mapping[str, tuple[Generation, Method]] = field(default_factory=dict)

    def find(self, path: str) -> tuple[Generation, Method]:
        """The method called `picalc.digits` and its generation; UnknownMethod names the nearest."""
        found = self.methods.get(path)
        if found is not None:
            return found
        service = path.partition(".")[0]
        if service in self.troubles and service not in self.services:
            raise LoadFailed(f"The service {service!r} could not be loaded: {self.troubles[service]}")
        if service in self.troubles:
            raise UnknownMethod(path, self.methods, because=f" {service!r} is stale: {self.troubles[service]}")
        raise UnknownMethod(path, self.methods)

    def is_stale(self, service: str) -> bool:
        """Whether an older generation serves because the newest source failed to load."""
        return service in self.troubles and service in self.services


def _catalogue(services: Mapping[str, Generation], troubles: Mapping[str, str]) -> Catalogue:
    methods = {
        method.path: (generation, method) for generation in services.values() for method in generation.methods.values()
    }
    return Catalogue(MappingProxyType(dict(services)), MappingProxyType(dict(troubles)), MappingProxyType(methods))


class Registry:
    """Holds the current catalogue, swaps it whole, and knows which generations calls still run on.

    Safe from any thread.
    """

    def __init__(self) -> None:
        self._current = Catalogue()
        self._numbers: Counter[str] = Counter()
        self._held: Counter[Generation] = Counter()
        self._pinned: Counter[Generation] = Counter()
        self._retired: set[Generation] = set()
        self._lock = threading.Lock()

    @property
    def current(self) -> Catalogue:
        """What is served now."""
        return self._current

    def publish(
        self,
        generations: Iterable[Generation] = (),
        *,
        troubles: Mapping[str, str | None] = MappingProxyType({}),
        remove: Iterable[str] = (),
    ) -> dict[str, Generation]:
        """Swaps in new generations, all at once, and returns them with their numbers.

        `troubles` says of a service why its newest source failed, or None where it is mended; publishing a
        generation mends it too. `remove` withdraws services.
        """
        with self._lock:
            services = dict(self._current.services)
            wrong = dict(self._current.troubles)
            fresh: dict[str, Generation] = {}
            for generation in generations:
                self._numbers[generation.service] += 1
                numbered = replace(generation, number=self._numbers[generation.service])
                services[generation.service] = fresh[generation.service] = numbered
                wrong.pop(generation.service, None)
            for service, trouble in troubles.items():
                wrong.pop(service, None)
                if trouble is not None:
                    wrong[service] = trouble
            for service in remove:
                services.pop(service, None)
                wrong.pop(service, None)
            gone = [old for old in self._current.services.values() if services.get(old.service) is not old]
            self._current = _catalogue(services, wrong)
            ended = [old for old in gone if not self._is_used(old)]
            self._retired.update(old for old in gone if self._is_used(old))
        _unload(ended)
        return fresh

    def close(self) -> list[threading.Thread]:
        """Withdraws every service, since the server has stopped; the threads on which `on_unload` hooks run."""
        with self._lock:
            ended = [one for one in self._current.services.values() if not self._held[one]]
            self._current = Catalogue()
        return _unload(ended)

    @contextmanager
    def hold(self, services: Iterable[str]) -> Iterator[Catalogue]:
        """The current catalogue, whose generations of these services stay alive while the block runs."""
        with self._lock:
            catalogue = self._current
            held = [catalogue.services[service] for service in services if service in catalogue.services]
            self._held.update(held)
        try:
            yield catalogue
        finally:
            self._let_go(held, self._held)

    @contextmanager
    def pin(self, generation: Generation) -> Iterator[None]:
        """Keeps a generation alive while the block runs: a body on a thread, which may outlast its call."""
        with self._lock:
            self._pinned[generation] += 1
        try:
            yield
        finally:
            self._let_go([generation], self._pinned)

    def _is_used(self, generation: Generation) -> bool:
        return generation in self._held or generation in self._pinned

    def _let_go(self, generations: list[Generation], users: Counter[Generation]) -> None:
        ended = []
        with self._lock:
            for generation in generations:
                users[generation] -= 1
                if not users[generation]:
                    del users[generation]
                if generation in self._retired and not self._is_used(generation):
                    self._retired.remove(generation)
                    ended.append(generation)
        _unload(ended)

    def in_flight(self) -> dict[str, int]:
        """How many calls run on each generation now, by `picalc=7`."""
        with self._lock:
            return {f"{one.service}={one.number}": count for one, count in self._held.items() if count}


def _unload(generations: Iterable[Generation]) -> list[threading.Thread]:
    return [thread for generation in generations if (thread := generation.unload()) is not None]
