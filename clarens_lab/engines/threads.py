"""Plain functions on worker threads, their results back on the event loop with few wake-ups.

Leaner than `run_in_executor`, which costs some 90 us a call. The threads are daemons: a stuck one delays
neither the server's end nor a kernel's restart.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any

from clarens_lab.faults import Overloaded

Job = tuple[Callable[[], Any], "asyncio.Future[Any]", "_Inbox"]


class _Inbox:
    """Results on their way to one event loop: many come with one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._results: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._woken = False

    def put(self, future: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
        self._results.append((future, value, error))
        if not self._woken:
            self._woken = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop has been closed meanwhile: nobody waits for it
                self._results.clear()

    def _deliver(self) -> None:
        self._woken = False  # before the queue is emptied, so that a result put from now on wakes again
        while self._results:
            future, value, error = self._results.popleft()
            if future.done():  # it took longer than its limit, or its caller is gone
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(_awaitable(error))


def _awaitable(error: BaseException) -> BaseException:
    """A future refuses StopIteration, and re-raises SystemExit and KeyboardInterrupt into its loop."""
    return error if isinstance(error, Exception) and not isinstance(error, StopIteration) else Escaped(error)


class Escaped(Exception):
    """Carries an exception that a future cannot carry; `error` is the real one."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(repr(error))
        self.error = error


class Workers:
    """A bounded pool of daemon threads, started as they are needed."""

    def __init__(self, threads: int, queue_limit: int) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = threads
        self._queue_limit = queue_limit
        self._started = 0
        self._free = 0
        self._lock = threading.Lock()
        self._inbox: _Inbox | None = None

    async def run(self, body: Callable[[], Any]) -> Any:
        """What `body` returns or raises, run on a worker thread; Overloaded if too many wait already.

        It runs in a copy of the caller's context, so that what one call leaves in a ContextVar no other sees.
        """
        loop = asyncio.get_running_loop()
        if self._inbox is None or self._inbox.loop is not loop:
            self._inbox = _Inbox(loop)
        future: asyncio.Future[Any] = loop.create_future()
        with self._lock:
            self._make_room()
            self._free -= 1
        self._jobs.put((partial(copy_context().run, body), future, self._inbox))
        try:
            return await future
        except Escaped as escaped:
            raise escaped.error from None

    def _make_room(self) -> None:
        """Sees to it that a thread is free, or that the job may wait for one. `_free` less than 0: so many wait."""
        if self._free > 0:
            return
        if self._started < self._threads:
            self._started += 1
            self._free += 1
            threading.Thread(target=self._work, name=f"clarens worker {self._started}", daemon=True).start()
        elif -self._free >= self._queue_limit:
            raise Overloaded(
                f"{self._queue_limit} calls already wait for one of {self._threads} worker threads; try again later."
            )

    def stop(self) -> None:
        """Ends the threads that wait for work."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            body, future, inbox = job
            value, error = None, None
            try:
                if not future.done():  # else its time was over before its turn came
                    value = body()
            except BaseException as raised:  # noqa: BLE001  # also SystemExit: a service must not end a worker
                error = raised
            with self._lock:
                self._free += 1
            inbox.put(future, value, error)
            del job, body, future, inbox, value, error  # an idle thread must not keep a generation alive
