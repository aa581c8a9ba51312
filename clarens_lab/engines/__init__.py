"""Where a method's body runs: a coroutine on the event loop, a plain function on a worker thread."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from clarens_lab.engines.threads import Workers
from clarens_lab.faults import TimedOut
from clarens_lab.output import Output, captured
from clarens_lab.service import Call, Method, running

__all__ = ["Engines", "Workers"]

T = TypeVar("T")


class Engines:
    """Runs method bodies for one server, whose event loop calls it."""

    def __init__(self, threads: int, queue_limit: int, call_limit: float) -> None:
        self.workers = Workers(threads, queue_limit)
        self._call_limit = call_limit

    async def run(
        self, method: Method, arguments: Sequence[object], call: Call, output: Output, finish: Callable[[Any], T]
    ) -> T:
        """What `finish` makes of the method's value; both run where the method does.

        Raises whatever the body raises, TimedOut beyond the method's time limit, Overloaded when too many
        calls wait for a thread. A plain function that is beyond its limit runs on: a thread cannot be stopped.
        """

        def body() -> Any:
            with running(call), captured(output):
                value = method.function(*arguments)
                return value if inspect.isawaitable(value) else finish(value)

        limit = method.timeout or self._call_limit
        if not limit:
            return await self._run(method, body, call, output, finish)
        try:
            async with asyncio.timeout(limit) as clock:
                return await self._run(method, body, call, output, finish)
        except TimeoutError:
            if not clock.expired():
                raise  # the service's own
            raise TimedOut(f"{method.path} took longer than its limit of {limit:g} s.") from None

    async def _run(
        self, method: Method, body: Callable[[], Any], call: Call, output: Output, finish: Callable[[Any], T]
    ) -> T:
        value = body() if method.inline or method.is_async else await self.workers.run(body)
        if not inspect.isawaitable(value):
            return value  # type: ignore[no-any-return]  # body() has called finish
        with running(call), captured(output):
            return finish(await value)

    def stop(self) -> None:
        """Takes no more work; threads that are stuck do not hold up the end of the process."""
        self.workers.stop()
