"""What a call prints is kept with the call, and does not run into what others print.

`sys.stdout` and `sys.stderr` are replaced once by streams that look up whose code is writing. What is written
outside of any call goes where it always went.
"""

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO


class Output:
    """The text that one call printed, up to a limit; what is beyond it is counted and dropped."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.dropped = 0
        self._parts: list[str] = []
        self._length = 0

    def write(self, text: str) -> None:
        """Keeps the text, or what of it fits."""
        fits = text[: max(0, self.limit - self._length)]
        if fits:
            self._parts.append(fits)
            self._length += len(fits)
        self.dropped += len(text) - len(fits)

    def text(self) -> str:
        """All that was kept, with a last line that says how much was dropped."""
        kept = "".join(self._parts)
        return f"{kept}\n... {self.dropped} more characters were dropped" if self.dropped else kept


_output: ContextVar[Output | None] = ContextVar("output", default=None)


class CallStream(io.TextIOBase):
    """A stand-in for `sys.stdout`: writes to the running call's output, else to the stream it stands for."""

    def __init__(self, beneath: TextIO) -> None:
        self.beneath = beneath

    def write(self, text: str) -> int:
        """Writes the text; returns its length."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        output = _output.get()
        if output is None:
            return self.beneath.write(text)
        output.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream beneath."""
        if _output.get() is None:
            self.beneath.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.beneath, name)

    def isatty(self) -> bool:
        """As the stream beneath says, but never while a call runs."""
        return _output.get() is None and self.beneath.isatty()

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """That of the stream beneath."""
        return self.beneath.fileno()

    def close(self) -> None:
        """Nothing: the stream beneath belongs to the process."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in the base class
        """That of the stream beneath."""
        return self.beneath.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # a plain attribute in the base class
        """That of the stream beneath."""
        return self.beneath.errors


_users = 0
_lock = threading.Lock()


def install() -> None:
    """Puts the streams in place, for one user more."""
    global _users
    with _lock:
        _users += 1
    renew()


def renew() -> None:
    """Puts the streams in place again where somebody took them away, as who redirects a piece of a program does."""
    with _lock:
        for name in ("stdout", "stderr") if _users else ():
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, CallStream):
                setattr(sys, name, CallStream(stream))


def uninstall() -> None:
    """For the last user, puts the process's own streams back, where nobody else replaced ours."""
    global _users
    with _lock:
        _users -= 1
        for name in ("stdout", "stderr") if not _users else ():
            stream = getattr(sys, name)
            if isinstance(stream, CallStream):
                setattr(sys, name, stream.beneath)


@contextmanager
def captured(output: Output) -> Iterator[None]:
    """While the block runs, what this code prints goes to `output`."""
    if not (isinstance(sys.stdout, CallStream) and isinstance(sys.stderr, CallStream)):
        renew()  # code that ran before has put a stream of its own in the place of ours
    token = _output.set(output)
    try:
        yield
    finally:
        _output.reset(token)
