"""One call, end to end: what a service does wrong is a fault that says so, and the server goes on as before."""

import gc
import re
import sys
import threading
import weakref
import xmlrpc.client
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import Answer, Logged, Serve, Wire, call, fault_of, post, until, write_notebook

from clarens_lab.client import Client
from clarens_lab.codec import encode_call
from clarens_lab.server import Server

SOURCE = """
import asyncio, decimal, io, sqlite3, sys, threading, time
from xmlrpc.client import Fault as StdFault
from clarens_lab import Fault, current_call, keep, method, on_unload

GATE = threading.Event()

class Odd(Exception):
    def __str__(self):
        raise ValueError("no text")

class Touchy(Exception):
    def __getattr__(self, name):
        raise RuntimeError("do not touch")
    def __repr__(self):
        raise RuntimeError("do not touch")

class Fault_(Exception):
    @property
    def faultCode(self):
        raise RuntimeError("do not touch")
Fault_.__name__ = "Fault"

class Unmade(Fault):
    def __init__(self):
        pass

RAISED = {
    "value": lambda: ValueError("no digits below 0"),
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt(),
    "stop": lambda: StopIteration(1),
    "stopasync": lambda: StopAsyncIteration(),
    "generator": lambda: GeneratorExit(),
    "cancelled": lambda: asyncio.CancelledError(),
    "odd": lambda: Odd(),
    "touchy": lambda: Touchy(),
    "fault_": lambda: Fault_(),
    "unmade": lambda: Unmade(),
    "group": lambda: ExceptionGroup("two", [ValueError("one of them"), KeyError("the other")]),
    "control": lambda: ValueError("\\x1b[31mred\\x00 \\ud800"),
    "huge": lambda: ValueError("x" * 10**6),
    "own": lambda: Fault(2001, "no such run"),
    "own_control": lambda: Fault(2002, "\\x1b[1mbold"),
    "own_long": lambda: Fault(2**70, "a number beyond the wire"),
    "std": lambda: StdFault(7, "from elsewhere"),
    "clarens": lambda: RuntimeError(8, "as Clarens raises it"),
    "sqlite": lambda: sqlite3.ProgrammingError("objects can only be used in that same thread"),
}

@method
def plain(what: str):
    raise RAISED[what]()

@method(inline=True)
def inline(what: str):
    raise RAISED[what]()

@method
async def coroutine(what: str):
    await asyncio.sleep(0)
    raise RAISED[what]()

@method
def add(a: int, b: int = 1) -> int:
    return a + b

@method
def given(what: str):
    return {
        "generator": (n for n in range(3)), "object": object(),
        "big": {"a": [1, 2**63]}, "control": {"when": ["\\x00"]},
        "surrogate": "\\ud800", "fraction": __import__("datetime").datetime(2020, 1, 1, 0, 0, 0, 5),
        "coroutine": lambda: 1, "keys": {1: 2},
    }[what]

@method
async def agiven(what: str):
    return given(what)

LOOP = []
LOOP.append(LOOP)

@method
def endless():
    return LOOP

@method
def deep():
    def down(n):
        return down(n + 1)
    return down(0)

@method
def say(text: str, times: int = 1) -> str:
    for _ in range(times):
        print(text)
        print(text, file=sys.stderr)
        time.sleep(0.001)
    return text

@method
async def asay(text: str, times: int = 1) -> str:
    for _ in range(times):
        print(text)
        await asyncio.sleep(0.001)
    return text

@method
def flood() -> int:
    for _ in range(1000):
        print("x" * 1000)
    return 1

@method
def wait() -> str:
    GATE.wait(20)
    return "done"

@method
async def forever() -> None:
    await asyncio.sleep(60)

@method(timeout=0.05)
async def brief() -> None:
    await asyncio.sleep(60)

@method
def release() -> int:
    GATE.set()
    return 1

@method
async def background(what: str) -> str:
    async def fail():
        raise RAISED[what]()
    await asyncio.create_task(fail())

@method
async def cancels(what: str) -> str:
    for task in asyncio.all_tasks() if what == "all" else [asyncio.current_task()]:
        task.cancel()
    if what != "itself, and returns":
        await asyncio.sleep(60)
    return "done"

@method
async def stops_the_loop() -> None:
    asyncio.get_running_loop().stop()

@method(timeout=0.05)
def late() -> None:
    GATE.wait(20)

UNLOADED = keep("unloaded", list)
TASKS = keep("tasks", list)
on_unload(lambda: UNLOADED.append(1))

@method
async def starts_a_task() -> None:
    TASKS.append(asyncio.create_task(asyncio.sleep(3600)))

@method
def replaces_stdout() -> None:
    sys.stdout = sys.stderr = io.StringIO()

@method
def whoami() -> list:
    call = current_call()
    return [call.id, call.method, call.dn, call.address]
"""


def serve(served: Serve, tmp_path: Path, **settings: Any) -> Server:
    path = tmp_path / "t.py"
    path.write_text(SOURCE, encoding="utf-8")
    return served(path, **settings)


@pytest.fixture
def server(served: Serve, tmp_path: Path) -> Server:
    return serve(served, tmp_path)


def ask(server: Server, name: str, *arguments: object) -> Answer:
    with Wire(server.port) as wire:
        return wire.ask(call(name, *arguments))


def still_serves(server: Server) -> None:
    assert ask(server, "t.add", 2, 3).value == 5
    assert not server.registry.in_flight()


# --- what is asked wrongly -----------------------------------------------------------------------


def test_an_unknown_method_is_answered_with_the_nearest_name(server: Server) -> None:
    """-32601 names the method that was most likely meant."""
    fault = fault_of(ask(server, "t.ad", 1))
    assert fault.code == -32601
    assert re.fullmatch(r"No method 't\.ad' is published here\. Did you mean 't\.add'\? \[fault \d+\]", fault.text)


@pytest.mark.parametrize("name", ["t.__class__", "t.add.__class__", "t.add.__globals__", "__init__", "t", "t.GATE.set"])
def test_a_dotted_name_never_walks_attributes(server: Server, name: str) -> None:
    """Only published names can be called: no attribute, no helper, no module."""
    assert fault_of(ask(server, name)).code == -32601
    still_serves(server)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), r"t\.add\(a: int, b: int = 1\) -> int takes 1 to 2 arguments, 0 given\."),
        ((1, 2, 3), r"t\.add\(a: int, b: int = 1\) -> int takes 1 to 2 arguments, 3 given\."),
        (("1",), r"t\.add\(a: int, b: int = 1\) -> int: a takes an int, not the string '1'\."),
        ((1, True), r"t\.add\(a: int, b: int = 1\) -> int: b takes an int, not the boolean True\."),
        ((None,), r"t\.add\(a: int, b: int = 1\) -> int: a takes an int, not nil\."),
    ],
)
def test_arguments_that_do_not_fit_are_answered_with_the_signature(
    server: Server, arguments: tuple[object, ...], text: str
) -> None:
    """-32602 shows how the method is called and what was wrong."""
    fault = fault_of(ask(server, "t.add", *arguments))
    assert fault.code == -32602
    assert re.fullmatch(rf"{text} \[fault \d+\]", fault.text)


# --- what cannot be answered ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["t.given", "t.agiven"])
@pytest.mark.parametrize(
    ("what", "path"),
    [
        ("generator", "result: .*generator.*list"),
        ("object", "result: "),
        ("big", r"result\['a'\]\[1\]: the int is beyond 64 bits"),
        ("control", r"result\['when'\]\[0\]: XML cannot carry the character '\\x00'"),
        ("surrogate", "result: XML cannot carry"),
        ("fraction", "result: XML-RPC has no fractions of a second"),
        ("coroutine", "result: "),
        ("keys", "result"),
    ],
)
def test_a_value_that_the_wire_cannot_carry_is_a_fault_with_its_path(
    server: Server, method: str, what: str, path: str
) -> None:
    """-32603 says where in the answer the value stands and what to return instead."""
    fault = fault_of(ask(server, method, what))
    assert fault.code == -32603
    assert re.match(path, fault.text)
    still_serves(server)


def test_a_value_that_contains_itself_is_a_fault(server: Server) -> None:
    """An endless value ends at the depth limit."""
    assert fault_of(ask(server, "t.endless")).code == -32603
    still_serves(server)


# --- what the service raises ---------------------------------------------------------------------

FAULTS_OF_ITS_OWN = {
    "own": (2001, "no such run"),
    "own_control": (2002, "\\x1b[1mbold"),
    "own_long": (2**31 - 1, "a number beyond the wire"),
    "std": (7, "from elsewhere"),
    "clarens": (8, "as Clarens raises it"),
}
RAISED = {
    "value": "ValueError: no digits below 0",
    "exit": "SystemExit: 3",
    "interrupt": "KeyboardInterrupt",
    "stop": "StopIteration",
    "stopasync": "StopAsyncIteration",
    "generator": "GeneratorExit",
    "cancelled": "was cancelled by its own code",
    "odd": "Odd: <.*>",
    "touchy": "Touchy",
    "fault_": "Fault",
    "unmade": "Unmade",
    "group": "ExceptionGroup: two",
    "control": r"ValueError: \\x1b\[31mred\\x00 \\ud800",
    "huge": "ValueError: xxx",
    "sqlite": "check_same_thread=False",
}


@pytest.mark.parametrize("kind", ["plain", "inline", "coroutine"])
@pytest.mark.parametrize("what", RAISED)
def test_whatever_a_service_raises_is_a_fault(server: Server, logged: Logged, kind: str, what: str) -> None:
    """-32500 with the exception's text, SystemExit and the like too; the server goes on, its state unchanged."""
    logged.expect(rf"error clarens_lab.dispatch: fault \d+ in t.{kind}, called by")
    before = server.registry.current.services
    answer = ask(server, f"t.{kind}", what)
    fault = fault_of(answer)
    assert fault.code == -32500
    assert answer.status == 200
    assert re.search(RAISED[what], fault.text)
    assert re.search(r"\[fault 1\]$", fault.text)
    assert answer.headers["x-clarens-fault"] == "1"
    assert server.registry.current.services == before
    still_serves(server)


@pytest.mark.parametrize("kind", ["plain", "inline", "coroutine"])
@pytest.mark.parametrize("what", FAULTS_OF_ITS_OWN)
@pytest.mark.parametrize("debug", ["on", "off"])
def test_a_services_own_faults_arrive_as_they_are(
    served: Serve, tmp_path: Path, kind: str, what: str, debug: str
) -> None:
    """A number and text of the service's own pass through, debug or not; the id is in the header only."""
    server = serve(served, tmp_path, debug=debug)
    answer = ask(server, f"t.{kind}", what)
    fault = fault_of(answer)
    assert (fault.code, fault.text) == FAULTS_OF_ITS_OWN[what]
    assert answer.headers["x-clarens-fault"] == "1"


@pytest.mark.parametrize("what", ["exit", "interrupt"])
def test_a_task_of_a_service_cannot_end_the_server(server: Server, logged: Logged, what: str) -> None:
    """SystemExit in a task that a method started and awaits is that call's fault, no more."""
    logged.expect(r"fault \d+ in t.background")
    fault = fault_of(ask(server, "t.background", what))
    assert fault.code == -32500
    logged.claim("a task that a service started raised .*; the server goes on")
    still_serves(server)


def test_debug_tells_where_it_happened(server: Server, logged: Logged) -> None:
    """With debug the fault shows method, file and line, caller and address."""
    fault = fault_of(ask(server, "t.plain", "value"))
    assert "Traceback (most recent call last):" in fault.text
    assert re.search(r"t\.py.*line \d+.*\(plain\)", fault.text)
    assert re.search(r"in t\.plain, called by /O=clarens-lab/CN=\S+ from 127\.0\.0\.1 \[fault 1\]$", fault.text)
    assert "clarens_lab/" not in fault.text
    logged.claim(r"error clarens_lab.dispatch: fault 1 in t\.plain")


def test_without_debug_the_caller_learns_nothing_but_the_id(served: Serve, tmp_path: Path, logged: Logged) -> None:
    """Without debug the fault is one sentence with the id; the log has the traceback under the same id."""
    server = serve(served, tmp_path, debug="off")
    fault = fault_of(ask(server, "t.plain", "value"))
    assert fault.text == "t.plain failed; the server's log has the details. [fault 1]"
    assert "ValueError: no digits below 0" in logged.claim("fault 1 in t.plain")


def test_a_recursion_without_end_is_a_fault_of_readable_length(server: Server, logged: Logged) -> None:
    """A traceback of a thousand frames is shortened."""
    fault = fault_of(ask(server, "t.deep"))
    assert "RecursionError" in fault.text
    assert "more frames" in fault.text
    assert len(fault.text) < 40_000
    logged.claim("fault 1 in t.deep")


def test_faults_are_numbered_one_by_one(server: Server) -> None:
    """Each failed call has an id of its own, in its text and header."""
    ids = [ask(server, "t.none").headers["x-clarens-fault"] for _ in range(3)]
    assert ids == ["1", "2", "3"]


def test_a_fault_that_is_raised_again_keeps_its_text(server: Server) -> None:
    """Ids are told to the caller, and never written into an exception object that a service may raise again."""
    with Wire(server.port) as wire:
        texts = [fault_of(wire.ask(call("t.none"))).text for _ in range(2)]
    assert [text.count("[fault ") for text in texts] == [1, 1]


# --- time limits and overload --------------------------------------------------------------------


def test_a_methods_time_limit_is_a_fault(server: Server) -> None:
    """`@method(timeout=...)` ends a coroutine in time with -32400."""
    fault = fault_of(ask(server, "t.brief"))
    assert (fault.code, fault.text) == (-32400, "t.brief took longer than its limit of 0.05 s. [fault 1]")
    still_serves(server)


@pytest.mark.parametrize("name", ["t.wait", "t.forever"])
def test_the_setting_limits_every_call(served: Serve, tmp_path: Path, name: str) -> None:
    """The setting `call_limit` ends the caller's wait for plain functions and for coroutines."""
    server = serve(served, tmp_path, call_limit=0.05)
    fault = fault_of(ask(server, name))
    assert (fault.code, fault.text) == (-32400, f"{name} took longer than its limit of 0.05 s. [fault 1]")
    assert ask(server, "t.release").value == 1


def test_the_limit_holds_for_each_call_of_a_multicall(served: Serve, tmp_path: Path) -> None:
    """Each call of a multicall has the whole time limit; one that is late is a fault in its slot."""
    server = serve(served, tmp_path, call_limit=0.3)
    entries = [{"methodName": "t.asay", "params": ["x", 100]}] * 4 + [{"methodName": "t.forever", "params": []}]
    slots = ask(server, "system.multicall", entries).value
    assert slots[:4] == [["x"]] * 4
    assert slots[4]["faultCode"] == -32400


def test_more_calls_than_the_queue_takes_are_answered_with_503(served: Serve, tmp_path: Path) -> None:
    """Beyond threads and queue a call is refused with HTTP 503 and -32400; the others are served."""
    server = serve(served, tmp_path, worker_threads=2, queue_limit=1)
    wires = [Wire(server.port) for _ in range(3)]
    for wire in wires:
        wire.send(call("t.wait"))
    until(lambda: server.engines.workers._free == -1)
    refused = ask(server, "t.add", 1)
    assert refused.status == 503
    assert fault_of(refused).code == -32400
    assert "1 calls already wait for one of 2 worker threads" in fault_of(refused).text
    assert ask(server, "echo.echo", 1).value == [1]  # on the loop
    server.engines.workers._queue_limit = 10
    assert ask(server, "t.asay", "x").value == "x"
    with Wire(server.port) as wire:
        wire.send(call("t.release"))
        until(lambda: server.engines.workers._free == -2)
        # The gate opens only when a thread is free: end one of those that wait.
        server.registry.current.services["t"].namespace["GATE"].set()  # type: ignore[attr-defined]
        assert wire.answer().value == 1
    assert [wire.answer().value for wire in wires] == ["done"] * 3
    for wire in wires:
        wire.socket.close()


# --- what a call prints --------------------------------------------------------------------------


def lab(server: Server, name: str, *arguments: Any) -> Any:
    url = server.url.replace("http://", f"http://lab:{server.token}@")
    with xmlrpc.client.ServerProxy(url, allow_none=True) as proxy:
        return getattr(proxy, f"lab.{name}")(*arguments)


def test_what_a_call_prints_is_kept_with_the_call(
    served: Serve, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """stdout and stderr of a call are its output; nothing of it reaches the server's own streams."""
    server = serve(served, tmp_path)
    told = lab(server, "call", "t.say", ["hello"])
    assert (told["value"], told["output"]) == ("hello", "hello\nhello\n")
    assert "hello" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("method", ["t.say", "t.asay"])
def test_calls_at_the_same_time_do_not_mix_their_output(served: Serve, tmp_path: Path, method: str) -> None:
    """Eight calls that print at once each have their own lines and no others'."""
    server = serve(served, tmp_path)
    words = [f"word{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda word: lab(server, "call", method, [word, 20]), words))
    for word, answer in zip(words, told, strict=True):
        assert set(answer["output"].split()) == {word}


def test_output_is_bounded(served: Serve, tmp_path: Path) -> None:
    """Of a call that prints without end as much is kept as the setting says, and the rest is counted."""
    server = serve(served, tmp_path, output_limit=1000)
    output = lab(server, "call", "t.flood", [])["output"]
    assert output.startswith("x" * 998)
    assert output.endswith(f"... {1000 * 1001 - 1000} more characters were dropped")


def test_output_that_xml_cannot_carry_is_made_legible(served: Serve, tmp_path: Path) -> None:
    """Escape sequences and stray characters in what a call printed do not cost its answer."""
    path = write_notebook(
        tmp_path / "colours.ipynb",
        "%%clarens service\nfrom clarens_lab import method\n@method\ndef red() -> int:\n"
        "    print('\\x1b[31mred\\x00 \\ud800')\n    return 1",
    )
    server = served(path)
    assert lab(server, "call", "colours.red", [])["output"] == "\\x1b[31mred\\x00 \\ud800\n"
    items = lab(server, "events", 0)["items"]
    assert items[-1]["output"] == "\\x1b[31mred\\x00 \\ud800\n"


# --- who calls, and what is said of the call -------------------------------------------------------


def test_a_method_knows_its_call(server: Server) -> None:
    """`current_call()` tells the call's id and method and the caller's name and address."""
    first, second = (ask(server, "t.whoami").value for _ in range(2))
    assert second[0] == first[0] + 1
    assert first[1] == "t.whoami"
    assert first[2].startswith("/O=clarens-lab/CN=")
    assert first[3] == "127.0.0.1"


def test_the_generation_is_told_with_every_answer(server: Server) -> None:
    """Header X-Clarens-Generation names service and generation, on faults of the method too."""
    assert ask(server, "t.add", 1).headers["x-clarens-generation"] == "t=1"
    assert ask(server, "t.plain", "own").headers["x-clarens-generation"] == "t=1"
    assert "x-clarens-generation" not in ask(server, "t.none").headers


def test_a_stale_service_says_so(server: Server, logged: Logged) -> None:
    """While the newest source is broken, every answer of the old one carries X-Clarens-Stale."""
    assert "x-clarens-stale" not in ask(server, "t.add", 1).headers
    (path,) = server.paths
    path.write_text("from clarens_lab import method\n@method\ndef add(:\n", encoding="utf-8")
    server.reloader.reload("t")
    logged.expect(r"warning clarens_lab\.reload: t\.py", "SyntaxError")
    answer = ask(server, "t.add", 1)
    assert (answer.value, answer.headers["x-clarens-stale"]) == (2, "t")


def test_every_call_is_one_event_and_one_line(server: Server) -> None:
    """A finished call is an event with its outcome, and an access line; a refused document too."""
    ask(server, "t.add", 1, 2)
    ask(server, "t.plain", "own")
    with Wire(server.port) as wire:
        wire.ask(post(b"no xml"))
    events = [event for event in server.events.since(0)["items"] if event["event"] == "call"]
    told = [(event["method"], event["ok"], event.get("code"), event["generation"]) for event in events]
    assert told == [("t.add", True, None, 1), ("t.plain", False, 2001, 1), ("-", False, -32700, 0)]
    lines = [line["text"] for line in server.log.since(0)["items"] if line["name"] == "clarens_lab.access"]
    assert re.fullmatch(r"t\.add 127\.0\.0\.1 t=1 \d+\.\d ms ok", lines[0])
    assert re.fullmatch(r"t\.plain 127\.0\.0\.1 t=1 \d+\.\d ms fault 1 \(2001\)", lines[1])
    assert re.fullmatch(r"- 127\.0\.0\.1 - \d+\.\d ms fault 2 \(-32700\)", lines[2])


def test_a_method_name_cannot_forge_a_log_line(server: Server) -> None:
    """A method name with a line break in it is refused before it reaches the log."""
    body = encode_call("t.add", []).replace(b"t.add", b"t.add\n2026-01-01 00:00:00.000 access: forged")
    with Wire(server.port) as wire:
        assert fault_of(wire.ask(post(body))).code == -32600
    assert not any("\n2026" in line["text"] for line in server.log.since(0)["items"])


def test_calls_end_on_what_they_began_with(server: Server) -> None:
    """A call that runs while its service is replaced is answered by the old generation, which then is let go."""
    old = server.registry.current.services["t"]
    with Wire(server.port) as wire:
        wire.send(call("t.wait"))
        until(lambda: server.registry.in_flight())
        (path,) = server.paths
        path.write_text(SOURCE + "\nNEW = 1\n", encoding="utf-8")
        until(lambda: server.registry.current.services["t"].number == 2)
        assert server.registry.in_flight() == {"t=1": 1}
        old.namespace["GATE"].set()  # type: ignore[attr-defined]
        answer = wire.answer()
    assert (answer.value, answer.headers["x-clarens-generation"]) == ("done", "t=1")
    until(lambda: not server.registry.in_flight())


def test_many_calls_at_once_each_get_their_own_answer(server: Server) -> None:
    """200 calls over eight connections, plain and asynchronous: every caller gets the answer to his question."""

    def caller(number: int) -> bool:
        with Wire(server.port) as wire:
            for turn in range(25):
                value = number * 1000 + turn
                assert wire.ask(call("t.add", value, 0)).value == value
                assert wire.ask(call("echo.echo", value)).value == [value]
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(caller, range(8)))
    assert threading.active_count() < 100


# --- what a service does to the server ------------------------------------------------------------


def test_a_call_that_cancels_itself_is_answered(server: Server) -> None:
    """A method that cancels its own task gets a fault, and the connection serves on."""
    with Wire(server.port) as wire:
        fault = fault_of(wire.ask(call("t.cancels", "itself")))
        assert (fault.code, fault.text.partition(" [")[0]) == (-32500, "t.cancels was cancelled by its own code.")
        assert wire.ask(call("t.add", 1)).value == 2


def test_a_call_that_cancels_all_tasks_does_not_stop_the_server(server: Server, logged: Logged) -> None:
    """A method that cancels every task there is: each call is answered with a fault, and the server goes on."""
    with Wire(server.port) as idle, Wire(server.port) as other, Wire(server.port) as wire:
        assert idle.ask(call("t.add", 1)).value == 2
        other.send(call("t.forever"))
        until(lambda: server.registry.in_flight())
        assert [fault_of(one).code for one in (wire.ask(call("t.cancels", "all")), other.answer())] == [-32500] * 2
        assert all(one.closed() for one in (idle, other, wire))
    logged.claim("code of a service cancelled the server's own task; the server goes on")
    still_serves(server)


def test_a_call_that_returns_after_it_cancelled_itself_is_answered(server: Server) -> None:
    """The value of a method counts, and the connection serves on, though its task was to be cancelled."""
    with Wire(server.port) as wire:
        assert wire.ask(call("t.cancels", "itself, and returns")).value == "done"
        assert wire.ask(call("t.add", 1)).value == 2


def test_a_service_that_stops_the_event_loop_does_not_stop_the_server(server: Server, logged: Logged) -> None:
    """`loop.stop()` is logged as what a service did, and the server goes on."""
    assert ask(server, "t.stops_the_loop").value is None
    logged.claim("code of a service stopped the event loop; the server goes on")
    still_serves(server)


def test_a_thread_that_outlasts_its_call_keeps_its_generation(server: Server) -> None:
    """`on_unload` of a generation that was replaced waits for a body that runs on after its call's time limit."""
    old: Any = server.registry.current.services["t"]
    assert fault_of(ask(server, "t.late")).code == -32400
    server.reloader.reload("t")
    assert server.registry.current.services["t"].number == 2
    assert old.namespace["UNLOADED"] == []
    old.namespace["GATE"].set()
    until(lambda: old.namespace["UNLOADED"] == [1])


def test_a_task_of_a_service_does_not_keep_old_generations(server: Server) -> None:
    """A task that a method started and that runs on keeps none of what was served then, once it is replaced."""
    assert ask(server, "t.starts_a_task").value is None
    old = weakref.ref(server.registry.current.services["t"])
    server.reloader.reload("t")
    until(lambda: (gc.collect(), old() is None)[1])


def test_output_is_captured_after_a_service_replaced_the_streams(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that puts a stream of its own in the place of sys.stdout costs later calls nothing."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # and puts them back at the end
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    ask(server, "t.replaces_stdout")
    with Wire(server.port) as wire:
        wire.ask(call("t.say", "hello"))
    calls = [event for event in server.events.since(0)["items"] if event["event"] == "call"]
    assert calls[-1]["output"] == "hello\nhello\n"


def test_the_access_line_tells_who_showed_the_token(server: Server) -> None:
    """Calls with the lab token are told from those of strangers."""
    with Client(server.url, token=server.token) as client:
        client.t.add(1)
    lines = [line["text"] for line in server.log.since(0)["items"] if line["name"] == "clarens_lab.access"]
    assert re.fullmatch(r"t\.add 127\.0\.0\.1 \(lab\) t=1 \d+\.\d ms ok", lines[-1])
