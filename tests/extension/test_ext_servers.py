"""Servers that are processes of their own: detached, connected, killed, and other than they should be."""

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from kernels import PICALC, Kernel, Ran, Shell
from serving import until, write_notebook
from terminal import Serving, Terminal

from clarens_lab import Client, runfiles


@pytest.fixture
def terminal(tmp_path: Path) -> Any:
    """A terminal in the notebook's folder, whose servers the notebook finds."""
    terminal = Terminal(tmp_path, runfiles.directory().parent)
    yield terminal
    terminal.end()


@pytest.fixture
def server(terminal: Terminal, tmp_path: Path) -> Serving:
    """A server of this folder's project in a process of its own."""
    (tmp_path / "clarens.toml").touch()
    write_notebook(tmp_path / "star.ipynb", PICALC.replace("picalc", "star"))
    return terminal.serve("star.ipynb")


def quickly(run: Callable[[str], Ran], line: str) -> Ran:
    """What came of a line that has to end within a second."""
    started = time.monotonic()
    ran = run(line)
    assert time.monotonic() - started < 1
    return ran


def test_connect_finds_this_projects_server(shell: Shell, server: Serving) -> None:
    """`connect` finds the one server of the project, and binds no name by itself."""
    ran = shell.run("%clarens connect")
    assert ran.ok, ran.text
    assert ran.lines[-4] == f"{server.url} (a process of its own, pid {server.process.pid})"
    assert server.token not in ran.text
    assert "star" not in shell.shell.user_ns
    assert shell.run("%clarens call star.digits(2)").value == "3.1"
    assert shell.run("import clarens_lab; clarens_lab.services['star'].digits(1)").value == "3."


def test_cells_go_live_on_a_connected_server(shell: Shell, server: Serving) -> None:
    """A service cell goes to the server that the notebook is connected to; only what it registers is bound."""
    shell.run("%clarens connect")
    ran = shell.run(PICALC)
    assert ran.ok, ran.text
    assert len(ran.lines) == 1
    with Client(server.url) as client:
        assert client.picalc.digits(2) == "3.1"
    assert "star" not in shell.shell.user_ns
    assert shell.run("picalc.digits(2)").value == "3.1"


def test_what_needs_a_server_in_the_kernel(shell: Shell, server: Serving) -> None:
    """`.function` and `--use` say that they need the server inside the kernel."""
    shell.run("%clarens connect\n")
    shell.run(PICALC)
    ran = shell.run("picalc.digits.function")
    assert "picalc.digits.function needs the server inside this kernel" in ran.text
    shell.run("x = 1")
    ran = shell.run("%%clarens service lent --use x\ny = x\n")
    assert not ran.ok
    assert "--use x works only with a server inside the notebook's own kernel" in ran.text


def test_stop_disconnects(shell: Shell, server: Serving) -> None:
    """`stop` leaves a server that was started elsewhere running, and says how to stop it."""
    shell.run("%clarens connect")
    ran = shell.run("%clarens stop")
    assert ran.lines == [
        f"disconnected; {server.url} runs on, and 'clarens-lab stop --url {server.url}' in a terminal stops it"
    ]
    assert server.process.poll() is None


def test_connect_where_nothing_runs(shell: Shell) -> None:
    """`connect` with no server says how to start one; to an address where nothing is, that it cannot be reached."""
    ran = quickly(shell.run, "%clarens connect")
    assert not ran.ok
    assert ran.lines == [
        "no server of this project runs; '%clarens serve --detach PATH' starts one, "
        "and so does 'clarens-lab serve PATH' in a terminal"
    ]
    ran = quickly(shell.run, "%clarens connect http://127.0.0.1:9/")
    assert not ran.ok
    assert "http://127.0.0.1:9/clarens/ cannot be reached" in ran.text or "http://127.0.0.1:9/ cannot" in ran.text
    assert not shell.run("%clarens connect nonsense://x").ok


def test_connect_where_several_run(shell: Shell, terminal: Terminal, server: Serving) -> None:
    """With several servers `connect` lists them, as lines to type."""
    other = terminal.serve("star.ipynb")
    ran = shell.run("%clarens connect")
    assert not ran.ok
    assert ran.lines[0] == "several servers of this project run; choose one:"
    assert sorted(ran.lines[1:]) == sorted(f"  %clarens connect {one.url}" for one in (server, other))
    assert shell.run(f"%clarens connect {other.url}").ok


def test_a_server_that_was_killed(shell: Shell, server: Serving) -> None:
    """A server that is gone is told within a second, with the ways out, until it is there again or let go."""
    shell.run("%clarens connect")
    shell.run(PICALC)
    server.process.kill()
    server.process.wait()
    for line in ("picalc.digits(1)", "%clarens", "%clarens services", PICALC):
        ran = quickly(shell.run, line)
        assert not ran.ok
        assert server.url in ran.text
        assert "'%clarens connect' finds it again once it runs; '%clarens stop' lets it go" in ran.text
        assert len(ran.lines) <= 2
    assert "does not run any more" in shell.run("%clarens stop").text
    assert shell.run(PICALC).ok


def test_a_server_that_goes_in_the_middle_of_a_call(shell: Shell, server: Serving) -> None:
    """A call whose server is killed under it ends with a fault that says so."""
    shell.run("%clarens connect")
    shell.run(
        "%%clarens service slow\nimport os, signal\nfrom clarens_lab import method\n@method\n"
        "def die() -> int:\n    os.kill(os.getpid(), signal.SIGKILL)\n    return 1\n"
    )
    ran = quickly(shell.run, "slow.die()")
    assert not ran.ok
    assert "gave lab.call no complete HTTP answer" in ran.text
    assert "Traceback" not in ran.text


def test_a_token_that_changed(shell: Shell, terminal: Terminal, server: Serving) -> None:
    """A server that was started anew has another token: the cell fails, and `connect` mends it."""
    shell.run("%clarens connect")
    port = server.url.split(":")[2].split("/")[0]
    server.end()
    again = terminal.start("serve", "star.ipynb", "--port", port)
    until(lambda: any(one.pid == again.pid for one in runfiles.running()))

    ran = quickly(shell.run, "%clarens services")
    assert not ran.ok
    assert ran.lines[0] == (
        f"{server.url} does not take this kernel's token (it was started anew?): '%clarens connect' reads the new one"
    )
    assert shell.run("%clarens connect").ok
    again.terminate()
    again.wait()


def test_a_token_that_is_not_known(shell: Shell, server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a server without a run file the token comes from CLARENS_TOKEN."""
    for file in runfiles.directory().glob("*.json"):
        file.unlink()
    ran = shell.run(f"%clarens connect {server.url}")
    assert ran.lines == [f"{server.url} wants its token: set CLARENS_TOKEN, then connect again"]
    monkeypatch.setenv("CLARENS_TOKEN", server.token)
    assert shell.run(f"%clarens connect {server.url}").ok


def test_a_server_of_another_version(shell: Shell, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of another version is refused, with both versions."""
    other = served()
    monkeypatch.setattr("clarens_lab.bundled.lab.__version__", "9.9.9")
    ran = quickly(shell.run, f"%clarens connect {other.url}")
    assert not ran.ok
    assert "is clarens-lab 9.9.9, and this is" in ran.text
    assert not shell.magics().link.url


def test_a_stranger_at_the_address(shell: Shell) -> None:
    """What is no clarens-lab server is told as such."""

    class Stranger(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        Thread(target=stranger.serve_forever, daemon=True).start()
        ran = quickly(shell.run, f"%clarens connect http://127.0.0.1:{stranger.server_port}/")
        stranger.shutdown()
    assert not ran.ok
    assert "no XML-RPC" in ran.text
    assert len(ran.lines) <= 2


def test_a_kernel_with_a_server_of_its_own(shell: Shell, server: Serving) -> None:
    """A kernel has one server: with its own running, `connect` and `--detach` say to stop it first."""
    shell.run(PICALC)
    for line in (f"%clarens connect {server.url}", "%clarens serve --detach"):
        ran = shell.run(line)
        assert not ran.ok
        assert "'%clarens stop'" in ran.text
    assert shell.run("picalc.digits(1)").ok


def test_a_detached_server_outlives_its_kernel(kernels: Callable[..., Kernel], tmp_path: Path) -> None:
    """`serve --detach` starts a server that other kernels find, and where equal cells make no new generation."""
    write_notebook(tmp_path / "star.ipynb", PICALC.replace("picalc", "star"))
    first = kernels()
    ran = first.run("%clarens serve --detach star.ipynb")
    assert ran.ok, ran.text
    assert "(a process of its own, pid" in ran.text
    assert first.run("star.digits(2)").text.strip() == "'3.1'"
    assert first.run(PICALC, cell_id="a").ok
    url = first.url()
    first.restart()

    second = first.load()
    assert second.run("%clarens connect").ok
    assert second.url() == url
    assert second.run(PICALC, cell_id="a").ok
    told = second.ask("%clarens services --json")
    assert [one["generation"] for one in told if one["service"] == "picalc"] == [1]
    pid = next(one.pid for one in runfiles.running() if one.url == url)
    assert Terminal(tmp_path, runfiles.directory().parent).run("stop", "--url", url).status == 0
    until(lambda: all(one.pid != pid for one in runfiles.running()))


def test_stop_ends_a_detached_server_that_was_started_here(shell: Shell) -> None:
    """The kernel that detached a server stops it with `stop`."""
    ran = shell.run("%clarens serve --detach")
    assert ran.ok, ran.text
    assert "serves " not in ran.text  # no file was named
    assert shell.run(PICALC).ok
    url = shell.magics().link.url
    assert shell.run("%clarens stop").lines == [f"stopped {url}"]
    assert [*runfiles.running()] == []


def test_a_detached_server_that_does_not_start(shell: Shell, server: Serving) -> None:
    """If the server's process ends at once, what it said last is told."""
    port = server.url.split(":")[2].split("/")[0]
    ran = shell.run(f"%clarens serve --detach --port {port}")
    assert not ran.ok
    assert f"port {port} on 127.0.0.1 is in use by another program" in ran.text
    assert "'nope.ipynb' does not exist" in shell.run("%clarens serve --detach nope.ipynb").text


def test_two_notebooks_with_one_service_name(kernels: Callable[..., Kernel], server: Serving, tmp_path: Path) -> None:
    """On one server a second notebook's service of the same name is refused with the first's path."""
    one, other = tmp_path / "one.ipynb", tmp_path / "other.ipynb"
    for file in (one, other):
        write_notebook(file, PICALC)
    first, second = kernels(JPY_SESSION_NAME=str(one)), kernels(JPY_SESSION_NAME=str(other))
    for kernel in (first, second):
        assert kernel.run("%clarens connect").ok
    assert first.run(PICALC, cell_id="a").ok

    ran = second.run(PICALC, cell_id="a")

    assert not ran.ok
    assert str(one) in ran.text
    assert "'remove picalc'" in ran.text
    assert first.run("picalc.digits(1)").ok
    assert second.run("%clarens remove picalc").ok
    assert second.run(PICALC, cell_id="a").ok
