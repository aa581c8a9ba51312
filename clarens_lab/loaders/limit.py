"""A build on a thread of its own, which is given up when its time is over or its author interrupts it."""

import ctypes
import logging
import sys
import threading
from collections.abc import Mapping

from clarens_lab.loaders.build import LoadTimeout, build
from clarens_lab.output import Output, captured
from clarens_lab.registry import Generation
from clarens_lab.service import Kept
from clarens_lab.source import LoadError, Source

log = logging.getLogger(__name__)

SLOW = 1.0
"""Seconds after which a load that has not ended is told in the log."""


class Interrupted(LoadError):
    """A load that its author gave up."""


class Load:
    """A build that has begun; `result` waits for it, `interrupt` ends the waiting from any thread."""

    def __init__(self, source: Source, kept: Kept, lent: Mapping[str, object] | None, output: Output) -> None:
        self._source = source
        self._ended: list[Generation | BaseException] = []
        self._given_up = False
        self._interrupted = False
        self._deciding = threading.Lock()
        self._wake = threading.Event()
        work = (source, kept, lent, output)
        self._thread = threading.Thread(target=self._run, args=work, name=f"load {source.service}", daemon=True)
        self._thread.start()

    def result(self, limit: float | None = None) -> Generation:
        """As `build`, but raises LoadError that names where the code was when `limit` seconds were over.

        Raises Interrupted, which says the same, once it is interrupted.
        """
        self._wait(limit)
        with self._deciding:
            self._given_up = not self._ended
        if self._given_up:
            place = _running_at(self._thread, self._source)
            _end(self._thread)
            if self._interrupted:
                raise Interrupted(f"{place}: interrupted")
            raise LoadError(
                f"{place}: still running after {limit:g} s, the load limit: do the work in a method or with "
                "keep(...), or raise the setting load_limit; "
                f"'reload {self._source.service} --fresh' tries again, with nothing kept"
            )
        self._thread.join()
        result = self._ended[0]
        if isinstance(result, Generation):
            return result
        raise result

    def _wait(self, limit: float | None) -> None:
        """Waits for the end of the load, or of its time; a slow one is told once."""
        if self._wake.wait(SLOW if limit is None else min(SLOW, limit)) or (limit is not None and limit <= SLOW):
            return
        log.info("loading %s: still at %s", self._source.service, _running_at(self._thread, self._source))
        self._wake.wait(None if limit is None else limit - SLOW)

    def interrupt(self) -> None:
        """Gives the build up: what it still makes is thrown away."""
        self._interrupted = True
        self._wake.set()

    def _run(self, source: Source, kept: Kept, lent: Mapping[str, object] | None, output: Output) -> None:
        result: Generation | BaseException
        try:
            with captured(output):
                result = build(source, kept, lent)
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            result = error
        with self._deciding:
            self._ended.append(result)
        self._wake.set()
        if self._given_up and isinstance(result, Generation):
            result.unload()


def _running_at(thread: threading.Thread, source: Source) -> str:
    """Where in the service a thread is now."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        unit = source.by_filename.get(frame.f_code.co_filename)
        if unit is not None:
            return unit.at(frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return source.service


def _end(thread: threading.Thread) -> None:
    """Ends a thread at its next Python instruction; one that waits in C goes on until that returns."""
    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(LoadTimeout))
