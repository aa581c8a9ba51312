"""Client and AsyncClient against a real HTTP server on a thread, well-behaved and not."""

import asyncio
import contextlib
import gzip
import http.server
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clarens_lab.answers import BODY_LIMIT
from clarens_lab.client import AsyncClient, Client
from clarens_lab.faults import Fault, TimedOut, TransportFailed
from clarens_lab.transport import IDLE_LIMIT

PATIENCE = 20.0  # the deadline of every wait here; nothing that works comes near it


class Peer(http.server.ThreadingHTTPServer):
    """An XML-RPC server of the standard library's parts; `respond` may be replaced to behave badly."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.context = context
        self.url = f"{'https' if context else 'http'}://{'localhost' if context else '127.0.0.1'}:{self.server_port}"
        self.opened = 0
        self.sockets: set[socket.socket] = set()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.requests: list[tuple[str, Any]] = []
        self.released = threading.Event()
        self.respond: Callable[[Handler, bytes], None] = Handler.answer
        self.methods: dict[str, Callable[..., Any]] = {
            "echo.echo": lambda *arguments: list(arguments),
            "picalc.digits": lambda n: "3.14159265358979"[: n + 1],
            "deep.er.name": lambda: "here",
            "plain": lambda: "no service",
            "system.multicall": self.multicall,
        }

    def multicall(self, entries: list[dict[str, Any]]) -> list[Any]:
        return [self.slot(entry["methodName"], entry["params"]) for entry in entries]

    def slot(self, name: str, params: list[Any]) -> Any:
        try:
            return [self.methods[name](*params)]
        except xmlrpc.client.Fault as fault:
            return {"faultCode": fault.faultCode, "faultString": fault.faultString}

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        if self.context:
            request = self.context.wrap_socket(request, server_side=True)
        self.opened += 1
        self.sockets.add(request)
        return request, address

    def shutdown_request(self, request: Any) -> None:
        self.sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up in the middle are what is tested."""

    def hang_up(self) -> None:
        """Closes every connection, as a server does with idle ones; ends when all are closed."""
        for sock in list(self.sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        until(lambda: not self.sockets)


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads one request and lets the peer's `respond` answer it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Peer

    def do_POST(self) -> None:
        if self.server.respond is refuse_unread:
            refuse_unread(self, b"")
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers))
        params, name = xmlrpc.client.loads(body, use_builtin_types=True)
        self.server.calls.append((name or "", params))
        self.server.respond(self, body)

    def answer(self, body: bytes) -> None:
        self.send(answered(self.server, body))

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "text/xml", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence is asserted elsewhere; here it is just silent."""


def answered(peer: Peer, body: bytes) -> bytes:
    """The response document to a call document."""
    params, name = xmlrpc.client.loads(body, use_builtin_types=True)
    try:
        value = peer.methods[name or ""](*params)
    except xmlrpc.client.Fault as fault:
        return xmlrpc.client.dumps(fault, methodresponse=True).encode()
    return xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True).encode()


def until(condition: Callable[[], object]) -> None:
    """Returns as soon as `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def refuse_unread(handler: Handler, body: bytes) -> None:
    handler.send(b"too much", 413)
    handler.close_connection = True


def raw(data: bytes) -> Callable[[Handler, bytes], None]:
    """A `respond` that writes bytes instead of an HTTP answer, and hangs up."""

    def respond(handler: Handler, body: bytes) -> None:
        handler.wfile.write(data)
        handler.close_connection = True

    return respond


def sends(body: bytes, status: int = 200, **headers: str) -> Callable[[Handler, bytes], None]:
    return lambda handler, _: handler.send(body, status, **headers)


def fault_document(code: int, text: str) -> bytes:
    return xmlrpc.client.dumps(xmlrpc.client.Fault(code, text), methodresponse=True).encode()


class Waited:
    """An AsyncClient used like a Client: the loop runs only while a call waits."""

    def __init__(self, url: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.asynchronous = AsyncClient(url, **options)

    def call(self, method: str, /, *arguments: Any, **keywords: Any) -> Any:
        return self.runner.run(self.awaited(lambda: self.asynchronous.call(method, *arguments, **keywords)))

    def multicall(self, calls: Any) -> Any:
        return self.runner.run(self.awaited(lambda: self.asynchronous.multicall(calls)))

    async def awaited(self, begin: Callable[[], Any]) -> Any:
        return await begin()

    def close(self) -> None:
        self.runner.run(self.asynchronous.close())
        self.runner.close()


@contextlib.contextmanager
def serving(peer: Peer) -> Iterator[Peer]:
    thread = threading.Thread(target=peer.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield peer
    finally:
        peer.released.set()
        peer.shutdown()
        thread.join()
        peer.hang_up()
        peer.server_close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving(Peer()) as peer:
        yield peer


@pytest.fixture(params=[Client, Waited], ids=["Client", "AsyncClient"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of either kind, and closes them."""
    with contextlib.ExitStack() as made:

        def make(url: str, **options: Any) -> Any:
            client = request.param(url, **options)
            made.callback(client.close)
            return client

        yield make


# Calling


def test_attributes_name_methods(peer: Peer) -> None:
    """`client.service.method(...)` and `call("service.method", ...)` are the same call."""
    with Client(peer.url) as client:
        assert client.picalc.digits(5) == client.call("picalc.digits", 5) == "3.1415"
        assert client.deep.er.name() == "here"
        assert client.plain() == "no service"


def test_attributes_of_an_async_client_are_awaited(peer: Peer) -> None:
    """AsyncClient has the same names, each call awaited, several at once on as many connections."""

    async def session() -> tuple[Any, ...]:
        async with AsyncClient(peer.url) as client:
            return (
                await client.picalc.digits(5),
                await client.deep.er.name(),
                await asyncio.gather(*(client.echo.echo(number) for number in range(20))),
                await client.with_timeout(5).call("plain"),
            )

    assert asyncio.run(session()) == ("3.1415", "here", [[n] for n in range(20)], "no service")


def test_values_arrive_as_they_were_sent(make: Callable[..., Any], peer: Peer) -> None:
    """Arguments and answers pass through the codec unchanged."""
    value = [1, True, 2.5, "é\n<&>", b"\x00\xff", {"a": [{}, []]}]

    assert make(peer.url).call("echo.echo", *value) == value


def test_an_address_without_path_means_clarens(make: Callable[..., Any], peer: Peer) -> None:
    """A URL without a path posts to /clarens/; a path that is given is kept."""
    for url in (peer.url, peer.url + "/", peer.url + "/RPC2?a=b c"):
        make(url).call("plain")

    assert [path for path, _ in peer.requests] == ["/clarens/", "/", "/RPC2?a=b%20c"]


@pytest.mark.parametrize(
    "url", ["localhost:8642", "ftp://localhost/", "http://", "http:///clarens/", "http://[::1", "http://h:99999", ""]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """What is no http or https URL of a host is refused when the client is made, with the form that is wanted."""
    with pytest.raises(ValueError, match="write it as http://HOST:PORT/clarens/"):
        Client(url)


def test_a_password_in_the_address_is_refused_without_being_shown() -> None:
    """Credentials in the URL are refused, since URLs are shown; the message does not repeat them."""
    with pytest.raises(ValueError, match="pass token=") as refusal:
        Client("http://lab:sesame@[localhost/")

    assert "sesame" not in str(refusal.value)


def test_the_token_is_sent_but_never_shown(make: Callable[..., Any], peer: Peer) -> None:
    """The token goes out as HTTP Basic user lab; neither repr nor messages hold it."""
    client = make(peer.url, token="sesame", timeout=5)
    client.call("plain")
    real = client.asynchronous if isinstance(client, Waited) else client

    assert peer.requests[0][1]["Authorization"] == "Basic bGFiOnNlc2FtZQ=="
    assert repr(real) == f"{type(real).__name__}('{peer.url}/clarens/', timeout=5)"
    assert "sesame" not in repr(vars(real))


def test_keywords_are_refused_with_the_way_out(make: Callable[..., Any], peer: Peer) -> None:
    """A keyword argument is a TypeError that says where the order of positions is to be found; nothing is sent."""
    with pytest.raises(TypeError, match=r"pass n to picalc\.digits in the order of system\.methodSignature"):
        make(peer.url).call("picalc.digits", n=5)

    assert peer.calls == []


def test_names_with_underscores_are_no_methods() -> None:
    """Python's and IPython's probing of attributes finds nothing on clients and their services."""
    with Client("http://localhost:1") as client:
        assert not hasattr(client, "_repr_html_")
        assert not hasattr(client.picalc, "__wrapped__")
        assert repr(client.picalc) == "<picalc of Client('http://localhost:1/clarens/')>"


# Faults


def boom() -> None:
    raise xmlrpc.client.Fault(2001, "no such run")


def test_a_fault_is_raised_with_its_number_text_and_id(make: Callable[..., Any], peer: Peer) -> None:
    """A fault keeps number and text, carries the server's fault id or None, and leaves the connection in use."""
    peer.methods["run.boom"] = boom
    client = make(peer.url)
    with pytest.raises(Fault, match=r"no such run \(2001\)") as without:
        client.call("run.boom")
    peer.respond = sends(fault_document(-32500, "broken [fault 17]"), X_Clarens_Fault="17")
    with pytest.raises(Fault) as with_id:
        client.call("run.boom")

    assert (without.value.code, without.value.text, without.value.fault_id) == (2001, "no such run", None)
    assert (with_id.value.code, with_id.value.fault_id) == (-32500, "17")
    assert peer.opened == 1


def test_a_refusal_that_is_a_fault_is_that_fault(make: Callable[..., Any], peer: Peer) -> None:
    """HTTP 401 with a fault document raises the fault, not a transport failure."""
    peer.respond = sends(fault_document(-32401, "lab.status needs the token"), 401)
    with pytest.raises(Fault, match="needs the token") as refusal:
        make(peer.url).call("lab.status")

    assert refusal.value.code == -32401
    assert not isinstance(refusal.value, TransportFailed)


def test_multicall_answers_faults_in_their_place(make: Callable[..., Any], peer: Peer) -> None:
    """A multicall is one request; each item of its list is a value or a Fault object, and nothing is raised."""
    peer.methods["run.boom"] = boom
    first, second, third = make(peer.url).multicall([("echo.echo", 1, "a"), ("run.boom",), ["picalc.digits", 5]])

    assert (first, third) == ([1, "a"], "3.1415")
    assert isinstance(second, Fault)
    assert (second.code, second.text, second.fault_id) == (2001, "no such run", None)
    assert len(peer.requests) == 1


def test_a_multicall_of_nothing_is_nothing(make: Callable[..., Any], peer: Peer) -> None:
    """No calls are an empty list, and nothing is sent."""
    assert make(peer.url).multicall([]) == []
    assert peer.requests == []


@pytest.mark.parametrize("entry", ["echo.echo", (), (1, 2)])
def test_multicall_says_what_a_call_looks_like(make: Callable[..., Any], peer: Peer, entry: Any) -> None:
    """An entry that is not (method, argument, ...) is a TypeError."""
    with pytest.raises(TypeError, match=r"multicall takes \(method, argument, \.\.\.\)"):
        make(peer.url).multicall([entry])


@pytest.mark.parametrize("answer", ["text", [], [[1], [2]], [7], [[1, 2]], [{"faultCode": "x", "faultString": "y"}]])
def test_a_multicall_answer_that_does_not_fit_is_a_failure(make: Callable[..., Any], peer: Peer, answer: Any) -> None:
    """Items that are neither values nor faults, or too few or many, are TransportFailed."""
    peer.methods["system.multicall"] = lambda _: answer
    with pytest.raises(TransportFailed, match="make the calls one by one"):
        make(peer.url).multicall([("echo.echo", 1)])


# Connections


def test_calls_share_one_connection(make: Callable[..., Any], peer: Peer) -> None:
    """Calls after one another use one connection, faults between them too."""
    peer.methods["run.boom"] = boom
    client = make(peer.url)
    for number in range(30):
        assert client.call("echo.echo", number) == [number]
    with pytest.raises(Fault):
        client.call("run.boom")
    client.call("plain")

    assert peer.opened == 1


def test_a_server_that_closes_after_each_answer_is_called_anew(make: Callable[..., Any], peer: Peer) -> None:
    """`Connection: close` is heeded: the next call opens its own connection."""

    def respond(handler: Handler, body: bytes) -> None:
        handler.send(answered(peer, body), Connection="close")

    peer.respond = respond
    client = make(peer.url)

    assert [client.call("echo.echo", n) for n in range(3)] == [[0], [1], [2]]
    assert peer.opened == 3
    assert isinstance(client, Waited) or not client._connections._idle


def test_threads_each_get_their_own_answers(peer: Peer) -> None:
    """One client used by several threads gives each its own answers, on no more connections than threads."""
    wrong: list[Any] = []

    def work(thread: int) -> None:
        for number in range(25):
            answer = client.echo.echo(thread, number)
            if answer != [thread, number]:
                wrong.append(answer)

    with Client(peer.url, timeout=PATIENCE) as client:
        in_threads(work, 8)

    assert wrong == []
    assert len(peer.calls) == 8 * 25
    assert peer.opened <= 8


def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_few_idle_connections_are_kept(peer: Peer) -> None:
    """More calls at once than IDLE_LIMIT all run; afterwards only so many connections stay, and none after close."""
    together = threading.Barrier(IDLE_LIMIT + 4)
    peer.methods["meet"] = lambda: together.wait(PATIENCE) >= 0
    with Client(peer.url, timeout=PATIENCE) as client:
        in_threads(lambda _: client.meet(), IDLE_LIMIT + 4)
        assert peer.opened == IDLE_LIMIT + 4
        until(lambda: len(peer.sockets) == IDLE_LIMIT)

    until(lambda: not peer.sockets)


def test_an_idle_connection_that_the_server_closed_is_noticed(make: Callable[..., Any], peer: Peer) -> None:
    """After the server has closed idle connections the next call takes a new one, and is sent once."""
    client = make(peer.url)
    for number in range(5):
        assert client.call("echo.echo", number) == [number]
        peer.hang_up()

    assert len(peer.calls) == 5
    assert peer.opened == 5


def test_a_call_is_never_sent_twice(make: Callable[..., Any], peer: Peer) -> None:
    """A connection lost after the call went out is a failure that says so; the call is not repeated."""
    client = make(peer.url)
    client.call("plain")
    peer.respond = raw(b"")
    with pytest.raises(TransportFailed, match="it may have run, so it is not sent a second time") as failure:
        client.call("echo.echo", 1)

    assert peer.url in failure.value.text
    assert peer.calls[1:] == [("echo.echo", (1,))]


def test_answers_nobody_asked_for_are_not_read(peer: Peer) -> None:
    """A connection on which more came than was asked for is not used again."""

    def twice(handler: Handler, body: bytes) -> None:
        handler.send(answered(peer, body))
        handler.wfile.flush()
        handler.server.released.wait(PATIENCE)
        handler.answer(body)

    peer.respond = twice
    with Client(peer.url, timeout=PATIENCE) as client:
        assert client.echo.echo(1) == [1]
        peer.respond = Handler.answer
        peer.released.set()
        [connection] = client._connections._idle
        until(lambda: not connection.usable())
        assert client.echo.echo(2) == [2]

    assert peer.opened == 2


def test_a_closed_client_says_so(make: Callable[..., Any], peer: Peer) -> None:
    """Closing twice is allowed; calling after it is a RuntimeError that names the way out."""
    client = make(peer.url)
    client.call("plain")
    if isinstance(client, Waited):
        client.runner.run(client.asynchronous.close())
    else:
        client.close()
    with pytest.raises(RuntimeError, match="make a new one"):
        client.call("plain")

    until(lambda: not peer.sockets)


def test_closing_lets_running_calls_end(peer: Peer) -> None:
    """A call under way when another thread closes the client gets its answer; its connection is closed after it."""
    begun = threading.Event()
    peer.methods["slow"] = lambda: begun.set() or peer.released.wait(PATIENCE)
    answers: list[Any] = []
    client = Client(peer.url, timeout=PATIENCE)
    thread = threading.Thread(target=lambda: answers.append(client.slow()))
    thread.start()
    assert begun.wait(PATIENCE)
    client.close()
    peer.released.set()
    thread.join(PATIENCE)

    assert answers == [True]
    until(lambda: not peer.sockets)


def test_an_interrupted_call_leaves_a_usable_client(make: Callable[..., Any], peer: Peer) -> None:
    """KeyboardInterrupt in the middle of a wait drops that connection; the next call gets its own answer."""

    def interrupt(handler: Handler, body: bytes) -> None:
        # To the main thread by name: the kernel may hand a process's signal to any thread.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        peer.released.wait(PATIENCE)
        handler.answer(body)

    client = make(peer.url, timeout=PATIENCE)
    client.call("plain")
    peer.respond = interrupt
    with pytest.raises(KeyboardInterrupt):
        client.call("echo.echo", "interrupted")
    peer.respond = Handler.answer
    peer.released.set()

    assert client.call("echo.echo", "next") == ["next"]
    assert peer.opened == 2


def test_a_cancelled_task_leaves_a_usable_client(peer: Peer) -> None:
    """Cancelling the task that waits drops its connection; other calls go on."""
    peer.methods["slow"] = lambda: peer.released.wait(PATIENCE)

    async def session() -> Any:
        async with AsyncClient(peer.url) as client:
            task = asyncio.create_task(client.slow())
            while not peer.calls:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.echo.echo("next")

    assert asyncio.run(session()) == ["next"]


def test_an_async_client_belongs_to_one_loop(peer: Peer) -> None:
    """On a second event loop an AsyncClient says that each loop needs its own."""
    client = Waited(peer.url)
    client.call("plain")
    with pytest.raises(RuntimeError, match="make one for each loop"):
        asyncio.run(client.awaited(lambda: client.asynchronous.call("plain")))
    client.close()


FORK = """
    import asyncio, os, sys
    from clarens_lab.client import AsyncClient, Client

    def sync_calls(url):
        client = Client(url, timeout=20)
        assert client.echo.echo("before") == ["before"]
        child = os.fork()
        for number in range(20):
            assert client.echo.echo(os.getpid(), number) == [os.getpid(), number]
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert client.echo.echo("after") == ["after"]
        client.close()

    async def calls(client):
        for number in range(20):
            assert await client.echo.echo(os.getpid(), number) == [os.getpid(), number]

    async def async_calls(url):
        async with AsyncClient(url, timeout=20) as client:
            await calls(client)
            child = os.fork()
            if child == 0:
                asyncio.events._set_running_loop(None)
                try:
                    asyncio.new_event_loop().run_until_complete(calls(client))
                finally:
                    os._exit(0 if sys.exc_info()[0] is None else 1)
            assert os.waitpid(child, 0)[1] == 0
            await calls(client)

    if sys.argv[1] == "Client":
        sync_calls(sys.argv[2])
    else:
        asyncio.run(async_calls(sys.argv[2]))
"""


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_a_forked_child_has_its_own_connections(peer: Peer, kind: str) -> None:
    """After a fork parent and child call over different connections, the parent over its old one."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(FORK), kind, peer.url],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert peer.opened == 2


# Time limits


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(timeout: float) -> None:
    """A time limit is a number of seconds above 0, or None."""
    with pytest.raises(ValueError, match="or None to wait without limit"):
        Client("http://localhost:1", timeout=timeout)


def drip(data: bytes) -> Callable[[Handler, bytes], None]:
    """A `respond` that never pauses long and never ends."""

    def respond(handler: Handler, body: bytes) -> None:
        handler.wfile.write(data)
        while not handler.server.released.wait(0.02):
            handler.wfile.write(b"x")

    return respond


@pytest.mark.parametrize(
    "respond",
    [
        lambda handler, body: handler.server.released.wait(PATIENCE),
        drip(b"HTTP/1.1 200 OK\r\nX-Endless: "),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    ],
    ids=["silent", "dripping-header", "dripping-body"],
)
def test_the_limit_holds_for_the_whole_wait(make: Callable[..., Any], peer: Peer, respond: Any) -> None:
    """A call ends at its limit, silent or dripping server alike, and names method, URL and limit."""
    client = make(peer.url, timeout=0.3)
    peer.respond = respond
    begun = time.monotonic()
    with pytest.raises(TimedOut, match=r"echo\.echo at http://127.* took longer than 0\.3 s") as late:
        client.call("echo.echo", 1)

    assert 0.3 <= time.monotonic() - begun < 5
    assert late.value.code == -32400
    peer.respond = Handler.answer
    assert client.call("echo.echo", 2) == [2]


def test_the_limit_holds_while_sending(make: Callable[..., Any]) -> None:
    """A server that takes the connection and reads nothing does not hold a large call beyond its limit."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = make(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.3)
        with pytest.raises(TimedOut):
            client.call("echo.echo", b"\x00" * 16_000_000)


def test_a_limit_can_be_given_for_one_call(peer: Peer) -> None:
    """`with_timeout` gives the same client, connections included, another limit; the client keeps its own."""
    peer.methods["slow"] = lambda: peer.released.wait(PATIENCE)
    with Client(peer.url, timeout=PATIENCE) as client:
        client.plain()
        with pytest.raises(TimedOut, match=r"slow at .* longer than 0\.2 s"):
            client.with_timeout(0.2).slow()
        peer.released.set()
        assert client.with_timeout(None).slow() is True
        assert repr(client).endswith("timeout=20)")

    assert peer.opened == 2


# Answers that are none


PLAIN = {"Content_Type": "text/plain"}


@pytest.mark.parametrize(
    ("respond", "words"),
    [
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "gave echo.echo no complete HTTP answer"),
        (raw(b"\x00" * 100_000), "gave echo.echo no complete HTTP answer"),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000), "gave echo.echo no complete HTTP answer"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n<?xml"), "gave echo.echo no complete HTTP answer"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nxx"), "gave echo.echo no complete HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxx"), "gave echo.echo no complete HTTP"),
        (sends(b"<html><p>hello</html>", Content_Type="text/html"), "answered 'text/html' that is no XML-RPC"),
        (sends(b""), "that is no XML-RPC"),
        (sends(b"<greeting/>"), "that is no XML-RPC"),
        (sends(answered.__name__.encode(), Content_Encoding="br"), "content coding 'br', which was not asked for"),
        (sends(b"no gzip", Content_Encoding="gzip"), "is no gzip stream"),
        (sends(gzip.compress(b"x" * 999)[:-4], Content_Encoding="gzip"), "is a gzip stream that ends too early"),
        (sends(gzip.compress(b"x") + b"more", Content_Encoding="gzip"), "goes on after the end of its gzip stream"),
        (sends(b"who?", 401, **PLAIN), r"HTTP 401 Unauthorized: give the client the server's token"),
        (sends(b"no", 404, **PLAIN), "HTTP 404 Not Found: check the URL's path"),
        (sends(b"", 302, Location="http://elsewhere/"), "HTTP 302 Found: use the URL that it names, 'http://else"),
        (sends(b"", 503), "HTTP 503 Service Unavailable: call again later"),
        (sends(b"", 500), "HTTP 500 Internal Server Error: look at the server's log"),
        (sends(b"", 599), "HTTP 599: look at the server's log"),
        (sends(xmlrpc.client.dumps((1,), methodresponse=True).encode(), 404), "HTTP 404 Not Found"),
    ],
)
def test_what_is_no_answer_is_one_sentence(make: Callable[..., Any], peer: Peer, respond: Any, words: str) -> None:
    """Whatever is no XML-RPC answer is TransportFailed with URL, reason and way out, and the next call is unharmed."""
    client = make(peer.url, timeout=PATIENCE)
    peer.respond = respond
    with pytest.raises(TransportFailed, match=words.replace("?", r"\?")) as failure:
        client.call("echo.echo", 1)
    peer.respond = Handler.answer

    assert failure.value.code == -32300
    assert peer.url in failure.value.text
    assert "\n" not in failure.value.text
    assert client.call("echo.echo", 2) == [2]


def test_packed_answers_are_unpacked(make: Callable[..., Any], peer: Peer) -> None:
    """The client asks for gzip and unpacks it; the connection stays in use."""

    def respond(handler: Handler, body: bytes) -> None:
        handler.send(gzip.compress(answered(peer, body)), Content_Encoding="gzip")

    peer.respond = respond
    client = make(peer.url)
    text = "packed " * 100_000

    assert client.call("echo.echo", text) == [text]
    assert client.call("echo.echo", "again") == ["again"]
    assert [headers["Accept-Encoding"] for _, headers in peer.requests] == ["gzip", "gzip"]
    assert peer.opened == 1


def endless(handler: Handler, body: bytes) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        handler.wfile.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")


def endless_name(handler: Handler, body: bytes) -> None:
    """A gzip stream whose header names a file, for ever: it unpacks to nothing."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\0\0\0\0\0\0")
    while True:
        handler.wfile.write(b"x" * 0x100000)


def bomb() -> bytes:
    """A gzip stream of one MiB more than the limit, with a long way to go after it."""
    return gzip.compress(bytes(BODY_LIMIT + (1 << 20)), compresslevel=1)


@pytest.mark.parametrize(
    "respond",
    [
        raw(f"HTTP/1.1 200 OK\r\nContent-Length: {BODY_LIMIT + 1}\r\n\r\n<?xml".encode()),
        endless,
        endless_name,
        lambda handler, body: handler.send(bomb(), Content_Encoding="gzip"),
    ],
    ids=["announced", "endless", "endless-name", "packed"],
)
def test_an_answer_too_large_is_not_read_to_its_end(make: Callable[..., Any], peer: Peer, respond: Any) -> None:
    """An answer above 64 MiB, announced, endless or once unpacked, is refused; the next call is unharmed."""
    client = make(peer.url, timeout=60)
    peer.respond = respond
    with pytest.raises(TransportFailed, match=r"is larger than 64 MiB: ask for less in one call"):
        client.call("echo.echo", 1)
    peer.respond = Handler.answer

    assert client.call("echo.echo", 2) == [2]


def test_a_large_call_arrives_whole(make: Callable[..., Any], peer: Peer) -> None:
    """A call of several MiB is sent and answered."""
    data = os.urandom(3_000_000)

    assert make(peer.url, timeout=60).call("echo.echo", data) == [data]


def test_a_refusal_before_all_is_sent_is_heard(make: Callable[..., Any], peer: Peer) -> None:
    """A server that answers 413 and hangs up without reading the call is quoted by Client, and fails AsyncClient too.

    AsyncClient may not come to read the answer: asyncio drops the connection, and what came in, when sending fails.
    """
    heard = r"HTTP 413 .*: send less in one call"
    lost = r"no complete HTTP answer \((Broken pipe|Connection reset by peer|Connection lost|.*closing transport)\)"
    peer.respond = refuse_unread
    client = make(peer.url, timeout=PATIENCE)
    with pytest.raises(TransportFailed, match=heard if type(client) is Client else f"{heard}|{lost}"):
        client.call("echo.echo", b"\x00" * 16_000_000)


def test_no_server_is_one_sentence(make: Callable[..., Any]) -> None:
    """An address where nobody listens is TransportFailed naming URL, reason and the command that starts a server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TransportFailed) as failure:
        make(f"http://127.0.0.1:{port}").call("plain")

    assert failure.value.text == (
        f"http://127.0.0.1:{port}/clarens/ cannot be reached (Connection refused): "
        "start a server there (clarens-lab serve), or correct the URL."
    )


def test_localhost_is_tried_at_all_its_addresses(make: Callable[..., Any], peer: Peer) -> None:
    """A host with several addresses is reached at the one that listens."""
    assert make(f"http://localhost:{peer.server_port}").call("plain") == "no service"


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", folder / "key", "-out", folder / "certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both"
    both.write_bytes((folder / "key").read_bytes() + (folder / "certificate").read_bytes())
    return both


@pytest.fixture
def secure_peer(certificate: Path) -> Iterator[Peer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(Peer(context)) as peer:
        yield peer


def test_https_calls_share_one_connection(secure_peer: Peer, certificate: Path) -> None:
    """Over https the server's certificate is checked, large and small calls pass, and connections are kept."""
    script = f"""
        from clarens_lab.client import Client
        with Client({secure_peer.url!r}, timeout=20) as client:
            for size in (1, 2, 3_000_000, 4, 5):
                assert client.echo.echo("x" * size) == ["x" * size]
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SSL_CERT_FILE": str(certificate)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert secure_peer.opened <= 2  # a ticket that comes late makes an idle connection look used


def test_an_unknown_certificate_is_refused(make: Callable[..., Any], secure_peer: Peer) -> None:
    """A certificate that no known authority signed is a failure that names the way out; nothing is sent."""
    with pytest.raises(
        TransportFailed, match=r"cannot be reached \(self.signed certificate\): name the file .* SSL_CE"
    ):
        make(secure_peer.url, timeout=PATIENCE).call("plain")

    assert secure_peer.calls == []


# Imports


def test_importing_the_client_imports_no_network_library() -> None:
    """http.client, ssl, asyncio and aiohttp are imported by the first call, aiohttp by AsyncClient only."""
    script = """
        import sys
        from clarens_lab.client import Client
        heavy = {"http.client", "ssl", "asyncio", "aiohttp", "email", "tornado"} & sys.modules.keys()
        assert not heavy, heavy
        Client("http://localhost:1").close()
        assert "aiohttp" not in sys.modules and "http.client" not in sys.modules
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        timeout=60,
    )
