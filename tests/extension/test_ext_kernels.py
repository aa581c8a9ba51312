"""Real kernels: interrupting, restarting, forking, asking for input; and the embedded server meanwhile."""

import socket
import threading
import time
from collections.abc import Callable

import pytest
from kernels import PICALC, Kernel
from serving import PATIENCE, until

from clarens_lab import Client, Fault, runfiles
from clarens_lab.bundled.lab import Lab

SLOW = """%%clarens service slow
import threading, time
from clarens_lab import method

@method
def wait(seconds: float) -> str:
    print("waiting")
    time.sleep(seconds)
    return "waited"

@method
def where() -> str:
    return threading.current_thread().name
"""


@pytest.fixture
def port() -> int:
    """A port that is free."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def in_flight(url: str) -> list[str]:
    """The services that have calls in flight."""
    server = next(one for one in runfiles.running() if one.url == url)
    with Client(url, token=server.token) as client:
        return [generation.partition("=")[0] for generation in client.lab.status()["in_flight"]]


def listens(port: int) -> bool:
    """Whether something listens on the port."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_the_first_session(kernel: Kernel) -> None:
    """In a kernel: a service cell, a call, and rich answers with a plain twin."""
    ran = kernel.run(PICALC)
    assert ran.ok, ran.text
    assert "text/html" in ran.outputs[0]
    assert "text/plain" in ran.outputs[0]
    assert kernel.run("picalc.digits(3)").text.strip() == "'3.14'"
    state = kernel.run("%clarens")
    assert state.outputs[0]["text/html"].startswith("<style>")


def test_positions_are_those_of_the_front_end(kernel: Kernel) -> None:
    """A live cell is named by its In[n], blank lines above it count, and its id replaces it."""
    kernel.run("\n\n" + PICALC, cell_id="one")
    kernel.run("1")
    ran = kernel.run("picalc.inverse(0)")
    assert not ran.ok
    assert "picalc In[2], line 15 (inverse)" in ran.text
    assert kernel.run(PICALC.replace("digits", "first"), cell_id="one").ok
    assert kernel.ask("dir(picalc)") == ["first", "inverse"]


@pytest.mark.parametrize("line", ["%clarens nonsense", "%clarens call picalc.nope(1)", "%%clarens service x\n1/0\n"])
def test_failures_are_errors_to_the_front_end(kernel: Kernel, line: str) -> None:
    """What fails ends with status error, so that Run All stops; and the error is short."""
    kernel.run(PICALC)
    ran = kernel.run(line)
    assert not ran.ok
    assert len(ran.lines) <= 4
    assert "extension/clarens_ipython" not in ran.text


def test_it_answers_while_a_cell_computes(kernel: Kernel) -> None:
    """The embedded server answers other programs while a cell sleeps, and while one keeps the interpreter busy."""
    kernel.run(PICALC)
    client = Client(kernel.url(), timeout=PATIENCE)
    started_at = kernel.folder / "started"
    for busy in ("time.sleep(1.5)", "end = time.time() + 1.5\nwhile time.time() < end: pass"):
        number = kernel.start(f"import time; open('started', 'w').close()\n{busy}")
        until(started_at.exists)
        started_at.unlink()
        started = time.monotonic()
        assert client.picalc.digits(2) == "3.1"
        assert time.monotonic() - started < 1
        assert kernel.end(number).ok
    client.close()


def test_it_answers_while_the_debugger_waits(kernel: Kernel) -> None:
    """While `%debug` waits for input the server answers."""
    kernel.run(PICALC)
    client = Client(kernel.url(), timeout=5)
    answered: list[str] = []
    kernel.run("1 / 0")
    ran = kernel.run("%debug", ["q"], asked=lambda: answered.append(client.picalc.digits(2)))
    client.close()
    assert ran.ok, ran.text
    assert answered == ["3.1"]


def test_an_interrupted_call(kernel: Kernel) -> None:
    """An interrupt ends the waiting cell in one line; the next call and other programs are answered."""
    kernel.run(SLOW)
    url = kernel.url()
    number = kernel.start("slow.wait(30)")
    until(lambda: "slow" in in_flight(url))
    kernel.interrupt()
    ran = kernel.end(number, patience=5)
    assert not ran.ok
    assert ran.lines == ["interrupted; slow.wait may be running still, in the server"]
    assert kernel.run("slow.wait(0)").ok
    with Client(url, timeout=5) as client:
        assert client.slow.wait(0) == "waited"


@pytest.mark.skipif(not hasattr(Lab, "interrupt"), reason="the server has no lab.interrupt yet")
@pytest.mark.parametrize("loop", ["while True:\n    pass\n", "import time\nwhile True:\n    time.sleep(0.01)\n"])
def test_an_interrupted_service_cell(kernel: Kernel, loop: str) -> None:
    """A service cell that loops for ever is ended by an interrupt, in one line; what was served before is served."""
    kernel.run(PICALC, cell_id="a")
    url = kernel.url()
    number = kernel.start(f"{PICALC}open('started', 'w').close()\n{loop}", cell_id="a")
    until((kernel.folder / "started").exists)
    kernel.interrupt()
    ran = kernel.end(number)
    assert not ran.ok
    assert ran.lines == ["interrupted; picalc is as it was before this cell"]
    assert kernel.run("picalc.digits(2)").text.strip() == "'3.1'"
    assert kernel.run(PICALC.replace("3.14", "3.15"), cell_id="a").ok
    assert kernel.run("picalc.digits(3)").text.strip() == "'3.15'"
    with Client(url, timeout=5) as client:
        assert client.picalc.digits(3) == "3.15"


def test_what_others_calls_print_is_not_shown(kernel: Kernel) -> None:
    """What a method prints for another program goes to no cell; what it prints for a cell goes under that cell."""
    kernel.run(SLOW)
    url = kernel.url()
    number = kernel.start("import time; time.sleep(1)")
    with Client(url, timeout=5) as client:
        client.slow.wait(0)
    assert kernel.end(number).text == ""
    assert kernel.run("1").text.strip() == "1"
    assert kernel.run("slow.wait(0)").text.count("waiting") == 1


def test_the_servers_log_is_not_shown(kernel: Kernel) -> None:
    """The server's log goes to `%clarens log`, and under no cell, however the user has set up logging."""
    kernel.run("import logging; logging.basicConfig(level=logging.INFO, force=True)")
    kernel.run(PICALC)
    with Client(kernel.url(), timeout=5) as client, pytest.raises(Fault):
        client.picalc.inverse(0)
    assert kernel.run("picalc.digits(1)").text.strip() == "'3.'"
    assert "picalc.inverse" in kernel.run("%clarens log").text


def test_methods_run_on_threads_of_their_own(kernel: Kernel) -> None:
    """Service code never runs on the kernel's main thread."""
    kernel.run(SLOW)
    assert "MainThread" not in kernel.run("slow.where()").text


def test_a_restart_frees_the_port(kernels: Callable[..., Kernel], port: int) -> None:
    """After a restart the same port can be had at once, and the services are gone until their cells run."""
    kernel = kernels(CLARENS_PORT=str(port))
    kernel.run(PICALC)
    assert listens(port)

    kernel.restart()
    assert not listens(port)

    kernel.load()
    assert "no server" in kernel.run("%clarens methods").text
    assert kernel.run(PICALC).ok
    assert kernel.url() == f"http://127.0.0.1:{port}/clarens/"


def test_a_forked_child_does_not_hold_the_port(kernels: Callable[..., Kernel], port: int) -> None:
    """A child that the user forked lives on after `stop`, and the port is free all the same."""
    kernel = kernels(CLARENS_PORT=str(port))
    kernel.run(PICALC)
    child = kernel.ask(
        "import os, time, warnings\nwarnings.simplefilter('ignore')\nchild = os.fork()\n"
        "if not child:\n    time.sleep(60)\n    os._exit(0)\nchild"
    )
    assert child
    kernel.run("%clarens stop")
    assert not listens(port)
    assert kernel.run(PICALC).ok
    assert kernel.url() == f"http://127.0.0.1:{port}/clarens/"
    assert kernel.run("import signal; os.kill(child, signal.SIGKILL); os.waitpid(child, 0)").ok


def test_a_stuck_method_does_not_hold_up_a_restart(kernel: Kernel) -> None:
    """A restart with a method that never ends takes at most a second longer than one without."""
    kernel.run(SLOW)
    without = kernel.restart()
    kernel.load()
    kernel.run(SLOW)
    url = kernel.url()

    def call() -> None:
        with pytest.raises(Fault), Client(url) as client:
            client.slow.wait(600)

    stuck = threading.Thread(target=call)
    stuck.start()
    until(lambda: "slow" in in_flight(url))
    assert kernel.restart() - without < 1.5  # the second, and what two measurements differ by
    stuck.join(PATIENCE)
    assert not stuck.is_alive()


def test_a_port_that_a_stranger_has(kernels: Callable[..., Kernel], port: int) -> None:
    """Where the usual port is taken, the next free one is used and it says so; one that was asked for is strict."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        kernel = kernels(CLARENS_PORT=str(port))
        started = time.monotonic()
        refused = kernel.run(f"%clarens serve --port {port}")
        assert time.monotonic() - started < PATIENCE
        served = kernel.run("%clarens serve")

    assert not refused.ok
    assert f"port {port} on 127.0.0.1 is in use by another program" in refused.text
    assert len(refused.lines) == 1
    assert served.ok
    assert served.lines[1] == f"port {port}, the usual one, is taken by another program"
    assert kernel.run(PICALC).ok


def test_two_kernels_have_a_server_each(kernels: Callable[..., Kernel], port: int) -> None:
    """A second kernel with the same settings takes the next port, without a word from its service cell."""
    one, other = kernels(CLARENS_PORT=str(port)), kernels(CLARENS_PORT=str(port))
    first, second = one.run(PICALC), other.run(PICALC)
    assert first.text == second.text
    assert one.url() != other.url()
    assert other.run("picalc.digits(1)").ok


def test_completion_and_help_through_the_kernel(kernel: Kernel) -> None:
    """Tab and shift-tab work as a front end asks for them."""
    kernel.run(PICALC)
    line = "x = %clarens call picalc.d"
    kernel.client.complete(line)
    reply = kernel.client.get_shell_msg(timeout=PATIENCE)["content"]
    assert reply["matches"] == ["picalc.digits"]
    assert line[reply["cursor_start"] : reply["cursor_end"]] == "picalc.d"
    kernel.client.inspect("picalc.digits", detail_level=0)
    told = kernel.client.get_shell_msg(timeout=PATIENCE)["content"]["data"]["text/plain"]
    assert "n: int" in told
    assert "The first n digits of pi." in told
    kernel.client.inspect("%clarens", detail_level=0)
    assert "usage: %clarens" in kernel.client.get_shell_msg(timeout=PATIENCE)["content"]["data"]["text/plain"]


def test_how_long_a_cell_takes(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    """Running a service cell again and calling it take milliseconds (printed, not asserted)."""
    kernel.run(PICALC)
    code = """
import time
def took(f, n=30):
    times = []
    for i in range(n):
        started = time.perf_counter(); f(i); times.append(time.perf_counter() - started)
    return round(sorted(times)[n // 2] * 1000, 2)
shell = get_ipython()
from IPython.utils.capture import capture_output
def changed(i):
    shell.run_cell_magic("clarens", "service picalc", "from clarens_lab import method\\n@method\\n"
        f"def digits(n: int) -> int:\\n    return n + {i}\\n")
with capture_output():
    told = took(changed), took(lambda i: picalc.digits(3), 100)
told"""
    told = kernel.ask(code)
    with capsys.disabled():
        print(f" [cell to callable {told[0]} ms, call {told[1]} ms]", end="")
    assert len(told) == 2
