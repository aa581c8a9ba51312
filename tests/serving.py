"""What tests of the server share: notebooks saved as Jupyter does, waiting for things, plain bytes over a socket."""

import io
import json
import logging
import re
import socket
import time
import uuid
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, TypeVar

from clarens_lab.codec import decode_response, encode_call
from clarens_lab.faults import Fault
from clarens_lab.server import Server

T = TypeVar("T")

PATIENCE = 20.0
"""The deadline of every wait in the tests, in seconds; nothing that works comes near it."""


def until(condition: Callable[[], T], patience: float = PATIENCE) -> T:
    """What `condition` gives as soon as it is true; fails after the deadline."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)
    return value


# --- servers and their log ----------------------------------------------------------------------

Serve = Callable[..., Server]
"""Starts a server, as the fixture `served` does."""


class Logged(logging.Handler):
    """The warnings and errors of the server and of what it stands on. A line that no test claims fails the test."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._expected: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the line, as `warning clarens_lab.reload: text`."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self.lines.append(f"{record.levelname.lower()} {record.name}: {text}")

    def claim(self, pattern: str) -> str:
        """Waits for a line that matches the pattern (a regular expression), takes it out and returns it."""

        def found() -> str | None:
            return next((line for line in list(self.lines) if re.search(pattern, line)), None)

        line = until(found)
        assert line is not None
        self.lines.remove(line)
        return line

    def expect(self, *patterns: str) -> None:
        """Lets lines that match one of the patterns pass, however many come and whenever."""
        self._expected += patterns

    def unclaimed(self) -> list[str]:
        """The lines that nobody claimed or expects."""
        return [line for line in self.lines if not any(re.search(pattern, line) for pattern in self._expected)]


# --- notebooks ---------------------------------------------------------------------------------


def notebook(*cells: str | dict[str, Any], **metadata: Any) -> str:
    """A notebook's text: each cell is code, or a dict of fields over those of a code cell."""
    made = [_cell(number, cell) for number, cell in enumerate(cells, 1)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": made, "metadata": {**kernel, **metadata}, "nbformat": 4, "nbformat_minor": 5})


def _cell(number: int, cell: str | dict[str, Any]) -> dict[str, Any]:
    given = {"source": cell} if isinstance(cell, str) else cell
    plain = {"cell_type": "code", "id": f"cell-{number}", "metadata": {}, "outputs": [], "execution_count": None}
    return {**plain, **given}


def write_notebook(path: Path, *cells: str | dict[str, Any], **metadata: Any) -> Path:
    """Writes a notebook for the first time; returns its path."""
    path.write_text(notebook(*cells, **metadata), encoding="utf-8")
    return path


def save_as_jupyter(path: Path, *cells: str | dict[str, Any], **metadata: Any) -> None:
    """Saves a notebook as Jupyter does: the file itself is truncated, then written."""
    text = notebook(*cells, **metadata)
    with path.open("w", encoding="utf-8") as file:
        file.flush()
        file.write(text)


def save_by_rename(path: Path, text: str) -> None:
    """Saves a file as editors do that write a new one and put it in the old one's place."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


# --- HTTP, byte by byte -------------------------------------------------------------------------


class Wire:
    """A connection to a server, for requests that no decent client would send."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = _Reader(socket.SocketIO(self.socket, "r"))

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Sends bytes."""
        self.socket.sendall(data)

    def answer(self, method: str = "POST") -> "Answer":
        """Reads one response; `method` is what was asked with."""
        response = HTTPResponse(self._reader, method=method)  # type: ignore[arg-type]  # all it wants is makefile
        response.begin()
        return Answer(response.status, dict(response.getheaders()), response.read())

    def ask(self, request: bytes, method: str = "POST") -> "Answer":
        """Sends a request and reads its response."""
        self.send(request)
        return self.answer(method)

    def closed(self) -> bool:
        """Whether the server closes the connection, with nothing more to say; waits for it."""
        try:
            return self._reader.read(1) == b""
        except ConnectionResetError:
            return True


class _Reader(io.BufferedReader):
    """What comes from a socket, for one response after the other: what was read too far belongs to the next."""

    def makefile(self, mode: str) -> "_Reader":
        """Itself."""
        return self

    def close(self) -> None:
        """Nothing: a response that ends is not the connection's end."""


class Answer:
    """An HTTP response: status, headers (any case), body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def value(self) -> Any:
        """The value of an XML-RPC response; raises the Fault that it is."""
        return decode_response(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:200]!r}>"


def post(body: bytes, *headers: str, path: str = "/clarens/", host: str = "localhost", kind: str = "text/xml") -> bytes:
    """The bytes of a request that calls; further headers as `Name: value`."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def call(name: str, *arguments: object) -> bytes:
    """The bytes of a request that calls a method."""
    return post(encode_call(name, arguments))


def fault_of(answer: Answer) -> Fault:
    """The fault that a response is."""
    try:
        value = answer.value
    except Fault as fault:
        return fault
    raise AssertionError(f"no fault but {value!r}")
