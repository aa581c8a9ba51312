"""Fixtures of all tests: servers, their run files kept apart, and silence asserted.

Functions that tests share (writing notebooks, waiting, bytes over a socket) are in `serving.py`.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Logged, Serve

from clarens_lab import output
from clarens_lab.server import Server
from clarens_lab.settings import Settings


@pytest.fixture(autouse=True)
def logged() -> Iterator[Logged]:
    """The test's warnings and errors; those left over when it ends fail it."""
    handler = Logged()
    loggers = [logging.getLogger(name) for name in ("clarens_lab", "tornado", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)
    assert handler.unclaimed() == [], "log lines that no test claimed"


@pytest.fixture(autouse=True)
def _own_run_files(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run files go to a folder of the test's own, and no setting comes from the environment."""
    folder = tmp_path_factory.mktemp("runtime")
    folder.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    for name in [name for name in os.environ if name.startswith("CLARENS_")]:
        monkeypatch.delenv(name)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Puts the server's streams before those that pytest has just put in place, if a fixture started one."""
    output.install()
    output.uninstall()


@pytest.fixture
def served(logged: Logged) -> Iterator[Serve]:
    """Starts servers on free ports: `served(path, ..., call_limit=1.0)`; they are stopped when the test ends."""
    servers: list[Server] = []

    def serve(*paths: Path | str, token: str | None = None, **settings: Any) -> Server:
        server = Server(paths, Settings(**{"port": 0, **settings}), token=token)
        servers.append(server)
        return server.start()

    yield serve
    for server in reversed(servers):
        server.stop()
