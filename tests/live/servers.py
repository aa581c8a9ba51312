"""Servers as processes of their own, as people run them: `python -m clarens_lab serve`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serving import PATIENCE, until

from clarens_lab.client import Client
from clarens_lab.codec import decode_response, encode_call


class Connection:
    """A client that keeps its connection, and the headers of its last answer."""

    def __init__(self, url: str) -> None:
        self._http = HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
        self.generations: dict[str, int] = {}
        self.stale = ""

    def call(self, method: str, *arguments: object) -> Any:
        """The method's value; raises the Fault that it answers."""
        self._http.request("POST", "/clarens/", encode_call(method, arguments), {"Content-Type": "text/xml"})
        response = self._http.getresponse()
        body = response.read()
        assert response.status == 200, body
        told = response.getheader("X-Clarens-Generation", "")
        self.generations = {name: int(number) for name, _, number in (one.partition("=") for one in told.split(", "))}
        self.stale = response.getheader("X-Clarens-Stale", "")
        return decode_response(body)

    def close(self) -> None:
        self._http.close()


class ServerProcess:
    """A running `clarens-lab serve`."""

    def __init__(self, folder: Path, *arguments: str, under: tuple[str, ...] = ()) -> None:
        self.log_file = folder / "server.log"
        run_file = folder / "run.json"
        serve = [sys.executable, "-m", "clarens_lab", "serve", *arguments]
        command = [*under, *serve, "--port", "0", "--run-file", str(run_file)]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(lambda: run_file.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log
        told = json.loads(run_file.read_text(encoding="utf-8"))
        self.url, self.token, self.pid = told["url"], told["token"], told["pid"]
        self.client = Client(self.url, token=self.token, timeout=PATIENCE)
        self.lab = self.client.lab
        self._connections: list[Connection] = []

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def connect(self) -> Connection:
        """A connection of its own, closed when the server ends."""
        self._connections.append(Connection(self.url))
        return self._connections[-1]

    def generation(self, service: str) -> int:
        return next((one["generation"] for one in self.lab.services() if one["service"] == service), 0)

    def trouble(self, service: str) -> str:
        return next((one["trouble"] for one in self.lab.services() if one["service"] == service), "")

    # --- what it uses ---------------------------------------------------------------------------

    def memory(self) -> int:
        """Its resident memory in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def end(self) -> None:
        for connection in (*self._connections, self.client):
            connection.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            assert self.process.wait(PATIENCE) == 0, self.log
        finally:
            self.process.kill()


Start = Callable[..., ServerProcess]
