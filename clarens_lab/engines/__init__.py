"""Where a method's body runs: a coroutine on the event loop, a plain function on a worker thread."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from math import inf
from typing import Any, TypeVar

from clarens_lab.engines.threads import Workers
from clarens_lab.faults import TimedOut
from clarens_lab.output import Output, captured
from clarens_lab.service import Call, Method, running

__all__ = ["Engines", "Workers"]

T = TypeVar("T")


SCALARS = (bool, int, float, datetime)
ASIDE = 8
DOCUMENTS = 3
ADVICE = (
    "; a method's timeout=, or the setting call_limit, bounds how long a caller waits, "
    "and the setting worker_threads gives more threads"
)
LARGE = 64 * 1024
"""Bytes, about, from which documents are read and written on a worker thread: they would hold up the loop."""


class Engines:
    """Runs method bodies for one server, whose event loop calls it."""

    def __init__(self, threads: int, queue_limit: int, call_limit: float) -> None:
        self.workers = Workers(threads, queue_limit, ADVICE)
        self.aside = Workers(ASIDE, queue_limit)
        """For the server's own work, which goes on when calls of services occupy every worker."""
        self.documents = Workers(DOCUMENTS, queue_limit)
        """For large documents that are read, written and packed, which nobody's code can keep waiting for long."""
        self._call_limit = call_limit

    async def run(
        self,
        method: Method,
        arguments: Sequence[object],
        call: Call,
        output: Output,
        finish: Callable[[Any], T],
        *,
        own: bool = False,
        pin: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> T:
        """What `finish` makes of the method's value. `own` says that the method is part of the server itself.

        `pin` is entered by a body on a thread, and left when it ends, which may be long after its call.

        Raises whatever the body raises, TimedOut beyond the method's time limit, Overloaded when too many
        calls wait for a thread. A plain function that is beyond its limit runs on: a thread cannot be stopped.
        """
        limit = self._call_limit if method.timeout is None else method.timeout
        ended = self._run(method, arguments, call, output, finish, self.aside if own else self.workers, pin)
        if not 0 < limit < inf:
            return await ended
        try:
            async with asyncio.timeout(limit) as clock:
                return await ended
        except TimeoutError:
            if not clock.expired():
                raise  # the service's own
            raise TimedOut(f"{method.path} took longer than its limit of {limit:g} s.") from None

    async def _run(
        self,
        method: Method,
        arguments: Sequence[object],
        call: Call,
        output: Output,
        finish: Callable[[Any], T],
        workers: Workers,
        pin: Callable[[], AbstractContextManager[None]],
    ) -> T:
        on_loop = method.inline or method.is_async

        def body() -> Any:
            with running(call), captured(output):
                value = method.function(*arguments)
                return value if on_loop or inspect.isawaitable(value) else finish(value)

        def pinned() -> Any:
            with pin():
                return body()

        value = body() if on_loop else await workers.run(pinned, method.path)
        if not on_loop and not inspect.isawaitable(value):
            return value  # type: ignore[no-any-return]  # body() has called finish
        with running(call), captured(output):
            if inspect.isawaitable(value):
                value = await value
            if _is_large(value):
                return await self.documents.run(partial(finish, value))  # type: ignore[no-any-return]  # as finish does
            return finish(value)

    def stop(self) -> None:
        """Takes no more work; threads that are stuck do not hold up the end of the process."""
        self.workers.stop()
        self.aside.stop()
        self.documents.stop()


def _is_large(value: object) -> bool:
    """Whether writing a value down would hold up the loop; looks at no more of it than it takes to know."""
    room = LARGE
    found = [value]
    while found and room > 0:
        thing = found.pop()
        if isinstance(thing, str | bytes | bytearray):
            room -= len(thing)
        elif isinstance(thing, list | tuple | set | frozenset):
            room -= 32 * len(thing)
            if room > 0:
                found += thing
        elif isinstance(thing, dict):
            room -= 64 * len(thing)
            if room > 0:
                found += thing.values()
        elif thing is not None and not isinstance(thing, SCALARS):
            return True  # an array, a class of the service: who knows
    return room <= 0
