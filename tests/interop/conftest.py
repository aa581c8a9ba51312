"""A server in a process of its own, and every client of it."""

import json
import os
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from clients import CLIENTS, Client, Missing
from samples import write_samples
from serving import until


class Serving(NamedTuple):
    """Where the server is, and its token."""

    url: str
    token: str


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Serves the notebook `samples`, as `clarens-lab serve` does."""
    folder = tmp_path_factory.mktemp("interop")
    folder.chmod(0o700)
    path = write_samples(folder / "samples.ipynb")
    run_file, log = folder / "run.json", folder / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLARENS_")}
    command = ["-m", "clarens_lab", "serve", str(path), "--port", "0", "--run-file", str(run_file)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=file, stderr=file, env=environment | {"XDG_RUNTIME_DIR": str(folder)}
        )
    try:
        until(lambda: run_file.exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        told: dict[str, Any] = json.loads(run_file.read_text())
        yield Serving(told["url"], told["token"])
    finally:
        process.terminate()
        assert process.wait(20) == 0, log.read_text()


@pytest.fixture(scope="session")
def connect(server: Serving) -> Iterator[Callable[..., Client]]:
    """The client of a kind, with or without the token; one of each for all tests."""
    clients: dict[tuple[type[Client], bool], Client] = {}

    def connected(kind: type[Client], *, lab: bool = False) -> Client:
        if (kind, lab) not in clients:
            try:
                clients[kind, lab] = kind(server.url, server.token if lab else "")
            except Missing as missing:
                pytest.fail(str(missing), pytrace=False)
        return clients[kind, lab]

    yield connected
    for client in clients.values():
        client.close()


@pytest.fixture
def proxy(server: Serving) -> Iterator[Any]:
    """The standard library's client with its default options."""
    with xmlrpc.client.ServerProxy(server.url) as one:
        yield one


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.name)
def client(request: pytest.FixtureRequest, connect: Callable[..., Client]) -> Client:
    """Each client in turn, as anyone uses it."""
    return connect(request.param)


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.name)
def lab(request: pytest.FixtureRequest, connect: Callable[..., Client]) -> Client:
    """Each client in turn, with the lab token."""
    return connect(request.param, lab=True)
