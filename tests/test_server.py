"""A server's life: on a thread, in a process, several in one; drained, stopped, ended by signals, its port freed."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, Logged, Serve, Wire, call, until

from clarens_lab import output, runfiles
from clarens_lab.client import Client
from clarens_lab.faults import Fault
from clarens_lab.server import PortInUse, Server
from clarens_lab.settings import Settings

SLOW = """
import asyncio, pathlib, threading, time
from clarens_lab import method, on_unload
GATE = threading.Event()

@method
def wait() -> str:
    GATE.wait(60)
    return "done"

@method
async def await_() -> str:
    while not GATE.is_set():
        await asyncio.sleep(0.005)
    return "done"

@method
async def stubborn() -> str:
    while not GATE.is_set():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@method
async def holding() -> str:
    pathlib.Path(__file__).with_name("held").touch()
    while not GATE.is_set():
        time.sleep(0.005)
    return "done"

@method
async def default_executor() -> None:
    await asyncio.to_thread(GATE.wait, 60)

@method
def say(text: str) -> str:
    print(text)
    return text

UNLOADED = []

@on_unload
def unload():
    UNLOADED.append(1)
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    path = tmp_path / "slow.py"
    path.write_text(SLOW, encoding="utf-8")
    return path


def gate(server: Server) -> Any:
    return server.registry.current.services["slow"].namespace["GATE"]


def is_free(port: int) -> bool:
    """Whether a program could listen on the port at once."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
            one.listen()
        except OSError:
            return False
        return True


def echoes(server: Server) -> bool:
    with Client(server.url, timeout=PATIENCE) as client:
        return bool(client.echo.echo("x") == ["x"])


# --- on a thread of another program ----------------------------------------------------------------------


def test_a_server_runs_on_a_thread_while_a_block_lasts() -> None:
    """`with Server(...)` serves at `url` inside the block; after it the port is free and nothing is left running."""
    before = set(threading.enumerate())
    with Server([], Settings(port=0)) as server:
        port = server.port
        assert server.url == f"http://127.0.0.1:{port}/clarens/"
        assert repr(server) == f"<Server {server.url}>"
        assert echoes(server)
        (run,) = runfiles.running()
        assert (run.url, run.token, run.pid) == (server.url, server.token, os.getpid())
    assert is_free(port)
    assert list(runfiles.running()) == []
    until(lambda: set(threading.enumerate()) <= before)


def test_starting_and_stopping_leaves_nothing(slow: Path) -> None:
    """Twenty servers one after the other leave no thread, no descriptor, no stream and no log handler behind."""

    def one() -> None:
        with Server([slow], Settings(port=0)) as server, Client(server.url) as client:
            assert client.slow.say("x") == "x"

    def left() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208  # what it counts is itself

    streams = sys.stdout, sys.stderr
    handlers = list(logging.getLogger("clarens_lab").handlers)
    one()
    before = left()
    for _ in range(20):
        one()
    until(lambda: left() <= before)
    assert (sys.stdout, sys.stderr) == streams
    assert logging.getLogger("clarens_lab").handlers == handlers


def test_stop_may_be_called_at_any_time(slow: Path) -> None:
    """Stopping twice, or a server that never ran, is harmless."""
    server = Server([slow], Settings(port=0))
    server.stop()
    server.start()
    server.stop()
    server.stop()


def test_a_server_runs_once(served: Serve) -> None:
    """A server that was stopped, or runs, is not started again: the error says to make another."""
    server = served()
    with pytest.raises(RuntimeError, match="runs once: make a new Server"):
        server.start()
    assert echoes(server)
    server.stop()
    with pytest.raises(RuntimeError, match="runs once: make a new Server"):
        server.start()


def test_stopping_while_services_load_does_not_wait_for_them(tmp_path: Path, logged: Logged) -> None:
    """A load that takes long does not keep the server from being stopped."""
    (tmp_path / "long.py").write_text(
        "import time\nfrom clarens_lab import method\ntime.sleep(3)\n@method\ndef f(): pass\n"
    )
    server = Server([tmp_path / "long.py"], Settings(port=0))
    starter = threading.Thread(target=server.start)
    starter.start()
    until(lambda: server._loop is not None)
    began = time.monotonic()
    server.stop()
    starter.join(PATIENCE)
    assert time.monotonic() - began < 2.5
    assert is_free(server.port or 1) or server.port == 0


def test_who_connects_while_services_load_is_answered_when_they_have(tmp_path: Path) -> None:
    """A call that comes before the first load has ended waits for it; it is not told that there is no such method."""
    marker = tmp_path / "go"
    (tmp_path / "late.py").write_text(
        f"import time, pathlib\nfrom clarens_lab import method\n"
        f"while not pathlib.Path({str(marker)!r}).exists(): time.sleep(0.01)\n@method\ndef f(): return 7\n"
    )
    server = Server([tmp_path / "late.py"], Settings(port=0))
    server.listen()
    starter = threading.Thread(target=server.start)
    starter.start()
    with Wire(server.port) as wire:
        wire.send(call("late.f"))
        marker.touch()
        assert wire.answer().value == 7
    starter.join(PATIENCE)
    server.stop()


def test_a_server_that_cannot_start_says_so_and_frees_its_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong at the start is raised by `start`, and the port is free after it."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    (runtime / "clarens-lab").mkdir(mode=0o755)
    (runtime / "clarens-lab").chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    server = Server([], Settings(port=0))
    server.listen()
    port = server.port
    with pytest.raises(PermissionError, match="not a folder of yours alone"):
        server.start()
    assert is_free(port)


# --- the port ----------------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_sentence(served: Serve) -> None:
    """A second server on a port is told what to do; the first is not disturbed."""
    server = served()
    with pytest.raises(PortInUse) as caught:
        Server([], Settings(port=server.port)).start()
    assert caught.value.strerror == (
        f"port {server.port} on 127.0.0.1 is in use by another program; "
        "stop that, or take another port with --port (0 takes any free one)"
    )
    assert echoes(server)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_an_address_that_is_not_there_is_named(host: str) -> None:
    """A host that cannot be listened on is named with the reason."""
    with pytest.raises(OSError, match=f"cannot listen on {host}:0: .+"):
        Server([], Settings(port=0, host=host)).start()


@pytest.mark.parametrize("host", ["localhost", "::1", "0.0.0.0"])
def test_other_addresses_are_listened_on(served: Serve, host: str) -> None:
    """A server's url leads to it whatever address it listens on."""
    try:
        server = served(host=host)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    assert echoes(server)


def test_the_port_is_free_again_at_once(slow: Path, served: Serve) -> None:
    """A port that a server had, with connections open and calls made, can be taken by the next."""
    server = served(slow)
    port = server.port
    for _ in range(3):
        with Client(server.url) as client:
            client.slow.say("x")
            server.stop()
            server = served(slow, port=port)
            assert echoes(server)


def test_a_forked_child_does_not_keep_the_port(slow: Path) -> None:
    """While a child that a service forked lives on, the server's port and connections end with the server."""
    code = f"""
        import os, socket, sys, time
        from clarens_lab.server import Server
        from clarens_lab.settings import Settings
        from clarens_lab.client import Client
        server = Server([{str(slow)!r}], Settings(port=0)).start()
        kept = socket.create_connection(("127.0.0.1", server.port))
        kept.sendall(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        assert kept.recv(9)
        child = os.fork()
        if not child:
            kept.close()
            time.sleep(60)
            os._exit(0)
        port = server.port
        with Client(server.url) as client:
            assert client.slow.say("x") == "x"
        server.stop()
        kept.settimeout(10)
        while kept.recv(65536):
            pass
        Server([], Settings(port=port)).start().stop()
        os.kill(child, 9)
        os.waitpid(child, 0)
        print("free")
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (told.stdout, told.stderr) == ("free\n", "")


# --- several in one process ----------------------------------------------------------------------------------


def test_several_servers_in_one_process_do_not_meet(served: Serve, tmp_path: Path, slow: Path) -> None:
    """Each has its services, token, events and generation numbers."""
    other = tmp_path / "other.py"
    other.write_text("from clarens_lab import method\n@method\ndef f(): return 'other'\n", encoding="utf-8")
    one, two = served(slow), served(other)
    assert len(list(runfiles.running())) == 2
    with Client(one.url, token=one.token) as first, Client(two.url, token=two.token) as second:
        assert (first.slow.say("x"), second.other.f()) == ("x", "other")
        with pytest.raises(Fault, match="No method"):
            second.slow.say("x")
        assert [event["method"] for event in first.lab.events(0)["items"] if event["event"] == "call"] == ["slow.say"]
    with Client(one.url, token=two.token) as wrong, pytest.raises(Fault) as caught:
        wrong.lab.status()
    assert caught.value.code == -32401


def test_output_stays_with_its_call_when_another_server_stops(served: Serve, slow: Path) -> None:
    """The first of two servers to stop does not take the capture of output away from the other."""
    one, two = served(slow), served(slow)
    one.stop()
    assert isinstance(sys.stdout, output.CallStream)
    with Client(two.url, token=two.token) as client:
        assert client.lab.call("slow.say", ["hello"])["output"] == "hello\n"
    two.stop()
    assert not isinstance(sys.stdout, output.CallStream)


# --- draining ------------------------------------------------------------------------------------------------


def stopping(server: Server) -> threading.Thread:
    thread = threading.Thread(target=server.stop)
    thread.start()
    until(lambda: server._door.draining)
    return thread


@pytest.mark.parametrize("method", ["slow.wait", "slow.await_"])
def test_calls_in_flight_may_end(served: Serve, slow: Path, method: str) -> None:
    """A call that runs when the server is stopped is answered and its connection closed; no new one is let in."""
    server = served(slow, drain_limit=PATIENCE)
    with Wire(server.port) as wire:
        wire.send(call(method))
        until(lambda: server.registry.in_flight())
        opened = gate(server)
        thread = stopping(server)
        with pytest.raises(OSError):
            Wire(server.port or 1)
        opened.set()
        answer = wire.answer()
        assert (answer.value, answer.headers["connection"]) == ("done", "close")
        assert wire.closed()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_call_that_comes_while_others_end_is_answered_too(served: Serve, slow: Path) -> None:
    """On a connection that is open already a call is still answered while the server drains; none is lost."""
    server = served(slow, drain_limit=PATIENCE)
    with Wire(server.port) as busy, Wire(server.port) as late:
        assert late.ask(call("echo.echo", 1)).value == [1]
        busy.send(call("slow.wait"))
        until(lambda: server.registry.in_flight())
        opened = gate(server)
        thread = stopping(server)
        late.send(call("slow.wait"))
        until(lambda: server.registry.in_flight().get("slow=1") == 2)
        opened.set()
        assert (busy.answer().value, late.answer().value) == ("done", "done")
    thread.join(PATIENCE)


@pytest.mark.parametrize("method", ["wait", "await_", "stubborn", "default_executor"])
def test_a_stuck_call_does_not_hold_up_the_end(served: Serve, slow: Path, logged: Logged, method: str) -> None:
    """Beyond the drain limit the server stops, whatever still runs: threads, coroutines, even one that refuses to be
    cancelled."""
    server = served(slow, drain_limit=0.1)
    port = server.port
    with Wire(server.port) as wire:
        wire.send(call(f"slow.{method}"))
        until(lambda: server.registry.in_flight())
        opened = gate(server)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 10
        assert server._thread is not None
        assert not server._thread.is_alive()
        assert wire.closed()
    assert is_free(port)
    logged.claim("stopped with 1 calls unfinished")
    opened.set()


def test_who_waits_for_events_is_answered_when_the_server_stops(served: Serve) -> None:
    """Readers of events and of the log do not delay the end: they are answered at once."""
    server = served(drain_limit=PATIENCE)
    told: list[Any] = []

    def follow(kind: str) -> None:
        with Client(server.url, token=server.token) as client:
            told.append(getattr(client.lab, kind)(2**40, 60.0)["items"])

    threads = [threading.Thread(target=follow, args=(kind,)) for kind in ("events", "log")]
    for thread in threads:
        thread.start()
    until(lambda: server.events._waiting and server.log._waiting)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10
    for thread in threads:
        thread.join(PATIENCE)
    assert told == [[], []]


def test_hooks_run_when_the_server_has_stopped(served: Serve, slow: Path) -> None:
    """`on_unload` of what is served runs at the end, once."""
    server = served(slow)
    unloaded: Any = server.registry.current.services["slow"].namespace["UNLOADED"]
    server.stop()
    server.stop()
    assert unloaded == [1]


# --- a process of its own ------------------------------------------------------------------------------------


class Process:
    """A server in a process of its own."""

    def __init__(self, tmp_path: Path, *paths: Path, **settings: Any) -> None:
        code = f"""
            import logging, sys
            from clarens_lab.server import Server
            from clarens_lab.settings import Settings
            logging.basicConfig(format="%(message)s")
            logging.getLogger().handlers[0].setLevel(logging.WARNING)
            Server({[str(path) for path in paths]!r}, Settings(**{ {"port": 0, **settings}!r})).run(
                lambda: print("ready", flush=True)
            )
            print("ended", flush=True)
        """
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]
        (self.file,) = runfiles.directory().glob(f"{self.process.pid}-*.json")
        told = json.loads(self.file.read_text(encoding="utf-8"))
        self.url, self.port = told["url"], int(told["url"].split(":")[2].split("/")[0])
        self.token = told["token"]

    def ended(self) -> tuple[int, str, str]:
        """How it ended: status, and the rest of what it said."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture
def process(tmp_path: Path, slow: Path) -> Iterator[Any]:
    started: list[Process] = []

    def start(**settings: Any) -> Process:
        started.append(Process(tmp_path, slow, **settings))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def running(one: Process) -> bool:
    with Client(one.url, token=one.token) as client:
        return "slow=1" in client.lab.status()["in_flight"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0(process: Any, number: int) -> None:
    """SIGTERM and SIGINT end serving, silently; the run file is gone and the port free."""
    one = process()
    with Client(one.url) as client:
        assert client.slow.say("x") == "x"
        one.process.send_signal(number)
        assert one.ended() == (0, "ended\n", "")
    assert not one.file.exists()
    assert is_free(one.port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_calls_in_flight_end(process: Any, number: int, tmp_path: Path) -> None:
    """A call that runs when the signal comes is answered before the process ends."""
    text = (tmp_path / "slow.py").read_text(encoding="utf-8")
    (tmp_path / "slow.py").write_text(text.replace("GATE.wait(60)", "time.sleep(0.5)"), encoding="utf-8")
    one = process(drain_limit=PATIENCE)
    with Wire(one.port) as wire:
        wire.send(call("slow.wait"))
        until(lambda: running(one))
        one.process.send_signal(number)
        assert wire.answer().value == "done"
    assert one.ended() == (0, "ended\n", "")


@pytest.mark.parametrize("method", ["wait", "await_", "stubborn", "default_executor"])
def test_a_stuck_call_ends_with_the_process(process: Any, method: str) -> None:
    """Whatever a stuck call runs on, the process ends after the drain limit, with status 0."""
    one = process(drain_limit=0.1)
    with Wire(one.port) as wire:
        wire.send(call(f"slow.{method}"))
        until(lambda: running(one))
        one.process.send_signal(signal.SIGTERM)
        status, _, err = one.ended()
        assert (status, "stopped with 1 calls unfinished" in err) == (0, True)
        assert wire.closed()
    assert not one.file.exists()


def test_a_call_that_holds_up_the_loop_does_not_keep_the_process(process: Any, tmp_path: Path) -> None:
    """A coroutine that blocks the event loop keeps nobody from ending the server: it is ended by force in the end."""
    one = process(drain_limit=0.1)
    with Wire(one.port) as wire:
        wire.send(call("slow.holding"))
        until((tmp_path / "held").exists)  # nothing can be asked meanwhile: the loop is held up
        one.process.send_signal(signal.SIGTERM)
        status, _, err = one.ended()
    assert status == 0
    assert "stopped by force: code of a service did not end" in err
    assert not one.file.exists()


def test_a_second_signal_ends_it_at_once(process: Any) -> None:
    """While calls in flight are waited for, a second signal ends the process there and then."""
    one = process(drain_limit=60)
    with Wire(one.port) as wire:
        wire.send(call("slow.wait"))
        until(lambda: running(one))
        one.process.send_signal(signal.SIGTERM)
        until(lambda: is_free(one.port))
        began = time.monotonic()
        one.process.send_signal(signal.SIGINT)
        assert one.ended()[0] == 1
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("signals", [1, 2])
def test_a_run_file_of_the_users_is_removed_at_a_forced_end(tmp_path: Path, slow: Path, signals: int) -> None:
    """The file of --run-file goes with a server that is ended by force, as at a clean stop."""
    run_file = tmp_path / "run.json"
    command = [sys.executable, "-m", "clarens_lab", "serve", str(slow), "--port", "0", "--run-file", str(run_file)]
    environment = {**os.environ, "CLARENS_DRAIN_LIMIT": "0.1" if signals == 1 else "60"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        try:
            until(run_file.exists)
            with Wire(int(json.loads(run_file.read_text())["url"].split(":")[2].split("/")[0])) as wire:
                wire.send(call("slow.holding"))
                until((tmp_path / "held").exists)
                process.send_signal(signal.SIGTERM)
                if signals == 2:
                    time.sleep(0.2)  # else the system may make one of the two
                    process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE) == signals - 1
        finally:
            process.kill()
    assert not run_file.exists()
    assert not list(runfiles.directory().glob(f"{process.pid}-*.json"))
