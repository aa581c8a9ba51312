"""What has happened: a bounded ring of events and one of log lines, which readers follow by number.

A reader asks for what came since a number and is told the next one to ask for, and how much it lost.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from clarens_lab.logs import line_of

Item = Mapping[str, Any]
"""An event or a log line: a struct of values that the wire carries."""


class Ring:
    """The newest items, bounded in count and in bytes; safe from any thread."""

    def __init__(self, most: int, most_bytes: int | None = None, size: Callable[[Item], int] = lambda item: 0) -> None:
        self._items: deque[Item] = deque()
        self._most = most
        self._most_bytes = most_bytes
        self._size = size
        self._bytes = 0
        self._next = 0
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()
        self._closed = False

    def add(self, item: Item) -> None:
        """Adds an item, drops the oldest beyond the bounds, and wakes who waits."""
        with self._lock:
            self._items.append(item)
            self._next += 1
            self._bytes += self._size(item)
            while len(self._items) > self._most or (self._most_bytes is not None and self._bytes > self._most_bytes):
                self._bytes -= self._size(self._items.popleft())
        if self._waiting:
            self._wake()

    def close(self) -> None:
        """Lets nobody wait any more, now or later: the server stops."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for loop, woken in waiting:
            try:
                loop.call_soon_threadsafe(_wake, woken)
            except RuntimeError:  # its loop is closed: nobody waits there any more
                continue

    def since(self, number: int) -> dict[str, Any]:
        """`{next, lost, items}`: the items from `number` on (negative: from now on) and how many were dropped."""
        with self._lock:
            oldest = self._next - len(self._items)
            start = self._next if number < 0 else min(max(number, oldest), self._next)
            items = [self._items[index] for index in range(start - oldest, len(self._items))]
            return {"next": self._next, "lost": max(0, oldest - max(number, 0)) if number >= 0 else 0, "items": items}

    async def wait(self, number: int, timeout: float) -> dict[str, Any]:
        """As `since`; if there is nothing yet, waits for it up to `timeout` seconds."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        with self._lock:
            number = self._next if number < 0 else number
            waits = number >= self._next and timeout > 0 and not self._closed
            if waits:
                self._waiting.add((loop, woken))
        try:
            if waits:
                await asyncio.wait([woken], timeout=timeout)
        finally:
            with self._lock:
                self._waiting.discard((loop, woken))
        return self.since(number)


def _wake(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)


class RingHandler(logging.Handler):
    """Puts log lines into a ring, as `{time, level, name, text}`.

    Not those of calls of `lab.*`: who follows the log by `lab.log` would be woken by his own questions, for ever.
    """

    def __init__(self, ring: Ring) -> None:
        super().__init__()
        self.ring = ring
        self.addFilter(lambda record: record.name != "clarens_lab.access.lab")

    def emit(self, record: logging.LogRecord) -> None:
        """Adds the line."""
        try:
            self.ring.add(line_of(record))
        except Exception:  # noqa: BLE001  # as logging's own handlers: a line that fails must not fail the call
            self.handleError(record)
