"""Fixtures of the tests with server processes; the processes themselves are in `servers.py`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from live.servers import ServerProcess, Start


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts server processes; each must end with status 0 when the test does."""
    started: list[ServerProcess] = []

    def begin(*arguments: str | Path, under: tuple[str, ...] = ()) -> ServerProcess:
        folder = tmp_path_factory.mktemp("process")
        started.append(ServerProcess(folder, *map(str, arguments), under=under))
        return started[-1]

    yield begin
    for one in started:
        one.end()
