"""Plain functions on worker threads, their results back on the event loop with few wake-ups.

Leaner than `run_in_executor`, which costs some 90 us a call. The threads are daemons: a stuck one delays
neither the server's end nor a kernel's restart.
"""

import asyncio
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any

from clarens_lab.faults import Overloaded

log = logging.getLogger(__name__)

Job = tuple[Callable[[], Any], "asyncio.Future[Any]", "_Inbox", str]
PATIENCE_SECONDS = 1.0
"""How long calls may wait for a thread before that is worth a line in the log."""
SILENT_SECONDS = 60.0
"""How long nothing more is said of threads that are busy."""


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

    def __init__(self, threads: int, queue_limit: int, advice: str = "") -> None:
        """`advice` is what the log tells, with who is busy, when calls wait for long."""
        self._advice = advice
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = threads
        self._queue_limit = queue_limit
        self._started = 0
        self._free = 0
        self._running: Counter[str] = Counter()
        self._watched = False
        self._silent_until = 0.0
        self._lock = threading.Lock()
        self._inbox: _Inbox | None = None

    async def run(self, body: Callable[[], Any], name: str = "the server's own work") -> Any:
        """What `body` returns or raises, run on a worker thread; Overloaded if too many wait already.

        It runs in a copy of the caller's context, so that what one call leaves in a ContextVar no other sees.
        `name` is what the log calls it.
        """
        loop = asyncio.get_running_loop()
        if self._inbox is None or self._inbox.loop is not loop:
            self._inbox = _Inbox(loop)
        future: asyncio.Future[Any] = loop.create_future()
        with self._lock:
            self._make_room()
            self._free -= 1
            waits = self._free < 0
        self._jobs.put((partial(copy_context().run, body), future, self._inbox, name))
        if waits and not self._watched:
            self._watched = True
            loop.call_later(PATIENCE_SECONDS, self._tell_who_is_busy)
        try:
            return await future
        except Escaped as escaped:
            raise escaped.error from None

    def _make_room(self) -> None:
        """Sees to it that a thread is free, or that the job may wait for one. `_free` less than 0: so many wait."""
        if self._free > 0 or (self._started < self._threads and self._has_started_one()):
            return
        if -self._free >= self._queue_limit:
            raise Overloaded(
                f"{self._queue_limit} calls already wait for one of {self._started} worker threads; try again later."
            )

    def _has_started_one(self) -> bool:
        """Starts a thread; where the system has none left, those that there are must do."""
        thread = threading.Thread(target=self._work, name=f"clarens worker {self._started + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._started:
                raise Overloaded(f"no worker thread could be started ({error}); try again later.") from None
            return False
        self._started += 1
        self._free += 1
        return True

    def _tell_who_is_busy(self) -> None:
        self._watched = False
        now = time.monotonic()
        with self._lock:
            busy = ", ".join(f"{name} {count}" for name, count in self._running.most_common(5))
            waiting = -self._free
        if waiting > 0 and now >= self._silent_until:
            self._silent_until = now + SILENT_SECONDS
            log.warning(
                "all %d worker threads are busy (%s): %d calls wait%s", self._started, busy, waiting, self._advice
            )

    def stop(self) -> None:
        """Ends the threads that wait for work."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        process = os.getpid()
        while (job := self._jobs.get()) is not None:
            body, future, inbox, name = job
            value, error = None, None
            with self._lock:
                self._running[name] += 1
            try:
                if not future.done():  # else its time was over before its turn came
                    value = body()
            except BaseException as raised:  # noqa: BLE001  # also SystemExit: a service must not end a worker
                error = raised
            if os.getpid() != process:  # a child that the body forked has come back here: it is no server
                os._exit(0)
            with self._lock:
                self._free += 1
                self._running[name] -= 1
                if not self._running[name]:
                    del self._running[name]
            inbox.put(future, value, error)
            del job, body, future, inbox, value, error  # an idle thread must not keep a generation alive
