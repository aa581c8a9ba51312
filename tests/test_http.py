"""HTTP, byte by byte: what is taken, what is refused and how, and that nothing a client sends holds up the others."""

import asyncio
import base64
import contextlib
import gzip
import http.client
import math
import re
import resource
import socket
import threading
import time
import xmlrpc.client
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, Answer, Logged, Serve, Wire, call, fault_of, post, until

from clarens_lab.codec import encode_call
from clarens_lab.engines import Workers
from clarens_lab.server import Server

MIB = 1024 * 1024
ECHO = encode_call("echo.echo", ["x"])


@pytest.fixture
def server(served: Serve) -> Server:
    return served()


@pytest.fixture
def small(served: Serve) -> Server:
    """A server with a limit of 1 MiB."""
    return served(body_limit=MIB)


def ask(server: Server, request: bytes, method: str = "POST") -> Answer:
    with Wire(server.port) as wire:
        return wire.ask(request, method)


def refused(server: Server, request: bytes, status: int, text: str = "", method: str = "POST") -> Answer:
    """The answer to a request that is refused; the connection is closed after it."""
    with Wire(server.port) as wire:
        answer = wire.ask(request, method)
        assert (answer.status, answer.headers["connection"]) == (status, "close"), answer
        assert re.search(text, answer.text), answer.text
        assert wire.closed()
    assert ask(server, post(ECHO)).value == ["x"]
    return answer


def get(path: str = "/", *headers: str, verb: str = "GET", host: str = "localhost") -> bytes:
    return "\r\n".join([f"{verb} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


def resident() -> float:
    """MiB of memory that this process has in use."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


# --- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/clarens/", "/clarens", "/RPC2", "/", "/RPC2?x=1"])
def test_calls_are_taken_at_each_address(server: Server, path: str) -> None:
    """XML-RPC is served at /clarens/, /RPC2 and /."""
    assert ask(server, post(ECHO, path=path)).value == ["x"]


@pytest.mark.parametrize(
    "kind", ["text/xml", "application/xml", "TEXT/XML", "text/xml; charset=utf-8", 'text/xml;charset="UTF-8"']
)
def test_both_content_types_are_taken(server: Server, kind: str) -> None:
    """5.5.50: text/xml and application/xml, in any case and with a charset."""
    assert ask(server, post(ECHO, kind=kind)).value == ["x"]


def test_the_charset_of_the_header_wins(server: Server) -> None:
    """5.5.50: a body in the header's charset is read so, whatever is said in the document."""
    body = (
        "<methodCall><methodName>echo.echo</methodName><params><param><value>\xe9</value></param></params></methodCall>"
    )
    assert ask(server, post(body.encode("latin-1"), kind="text/xml; charset=iso-8859-1")).value == ["\xe9"]
    prolog = b'<?xml version="1.0" encoding="iso-8859-1"?>' + body.encode("latin-1")
    assert ask(server, post(prolog)).value == ["\xe9"]


def test_an_answer_is_complete(server: Server) -> None:
    """An answer names its type, its length, its date and its server."""
    answer = ask(server, post(ECHO))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/xml; charset=utf-8"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["server"] == "clarens-lab"
    assert answer.headers["date"].endswith("GMT")
    assert answer.headers["x-clarens-generation"] == "echo=1"
    assert "connection" not in answer.headers


def test_a_connection_serves_many_calls(server: Server) -> None:
    """Connections are kept alive."""
    with Wire(server.port) as wire:
        assert [wire.ask(call("echo.echo", number)).value for number in range(50)] == [[n] for n in range(50)]


def test_a_client_can_have_its_connection_closed(server: Server) -> None:
    """`Connection: close` is honoured and confirmed."""
    with Wire(server.port) as wire:
        answer = wire.ask(post(ECHO, "Connection: close"))
        assert (answer.value, answer.headers["connection"]) == (["x"], "close")
        assert wire.closed()


def test_pipelined_calls_are_answered_in_order(server: Server) -> None:
    """Requests sent without waiting for answers are answered one by one, in their order, faults among them."""
    with Wire(server.port) as wire:
        wire.send(b"".join([call("echo.echo", n) for n in range(10)]) + call("no.such") + call("echo.echo", "end"))
        assert [wire.answer().value for _ in range(10)] == [[n] for n in range(10)]
        assert fault_of(wire.answer()).code == -32601
        assert wire.answer().value == ["end"]


def test_http_1_0_is_spoken(server: Server) -> None:
    """A client of HTTP/1.0 gets its answer and the connection's end; one that asks may keep it."""
    request = post(ECHO).replace(b"HTTP/1.1", b"HTTP/1.0")
    with Wire(server.port) as wire:
        assert wire.ask(request).value == ["x"]
        assert wire.closed()
    kept = request.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n", 1)
    with Wire(server.port) as wire:
        for _ in range(2):
            answer = wire.ask(kept)
            assert (answer.value, answer.headers["connection"].lower()) == (["x"], "keep-alive")


def chunked(*parts: bytes, headers: tuple[str, ...] = ()) -> bytes:
    head = ["POST /RPC2 HTTP/1.1", "Host: localhost", "Content-Type: text/xml", "Transfer-Encoding: chunked", *headers]
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def test_a_body_may_come_in_chunks(server: Server) -> None:
    """Chunked requests are read, whatever their pieces."""
    assert ask(server, chunked(*[ECHO[i : i + 7] for i in range(0, len(ECHO), 7)])).value == ["x"]


def test_a_client_that_asks_first_is_told_to_continue(server: Server) -> None:
    """5.5.50: `Expect: 100-continue` is answered before the body is sent."""
    head, _, body = post(ECHO, "Expect: 100-continue").partition(b"\r\n\r\n")
    with Wire(server.port) as wire:
        wire.send(head + b"\r\n\r\n")
        assert wire.socket.recv(100).startswith(b"HTTP/1.1 100 ")
        assert wire.ask(body).value == ["x"]


def test_a_client_that_asks_first_is_told_at_once_what_is_refused(small: Server) -> None:
    """`Expect: 100-continue` with a body beyond the limit is answered by 413 alone."""
    with Wire(small.port) as wire:
        answer = wire.ask(post(b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: %d" % (2 * MIB)))
        assert answer.status == 413


def test_a_slow_client_is_waited_for_and_holds_up_nobody(server: Server) -> None:
    """5.5.49: a request that comes byte by byte is answered in the end, and others meanwhile."""
    slow = [Wire(server.port) for _ in range(20)]
    request = post(ECHO)
    for position in range(len(request)):
        for wire in slow:
            wire.send(request[position : position + 1])
        if position % 50 == 0:
            assert ask(server, post(ECHO)).value == ["x"]
    assert [wire.answer().value for wire in slow] == [["x"]] * 20
    for wire in slow:
        wire.socket.close()


def test_idle_connections_are_closed_in_the_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection idle for an hour is closed, and a body that takes ten minutes; others are not."""
    monkeypatch.setattr("clarens_lab.http.IDLE_SECONDS", 0.2)
    monkeypatch.setattr("clarens_lab.http.BODY_SECONDS", 0.1)
    assert server._loop is not None
    with Wire(server.port) as idle, Wire(server.port) as begun:
        assert idle.ask(post(ECHO)).value == ["x"]
        begun.send(post(ECHO)[:-5])
        until(lambda: sorted(one.waits_for for one in server._door.connections.values()) == ["a request", "its body"])
        time.sleep(0.25)  # longer than both limits
        with Wire(server.port) as fresh:
            assert fresh.ask(post(ECHO)).value == ["x"]
            server._loop.call_soon_threadsafe(server._door.close_idle)
            assert idle.closed()
            assert begun.closed()
            assert fresh.ask(post(ECHO)).value == ["x"]
    until(lambda: not server._door.connections)


def test_a_client_that_goes_away_leaves_nothing(server: Server) -> None:
    """Clients that hang up in the middle of a request or before the answer cost no connection and no log line."""
    for part in (b"", post(ECHO)[:40], post(ECHO)[:-10], post(ECHO), chunked(ECHO)[:-9], b"\r\n"):
        with Wire(server.port) as wire:
            wire.send(part)
    with Wire(server.port) as wire:
        wire.send(post(ECHO))
        linger = b"\x01\0\0\0\0\0\0\0"
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # closed by a reset
    until(lambda: not server._door.connections and not server._door.calls)
    assert ask(server, post(ECHO)).value == ["x"]


# --- what is not XML-RPC ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"not xml", -32700),
        (ECHO[:-20], -32700),
        (ECHO + b"junk", -32700),
        (b"\x00\x01", -32702),
        (b"<html></html>", -32600),
        (ECHO.replace(b"methodCall", b"methodResponse"), -32600),
        (b'<!DOCTYPE m [<!ENTITY x "y">]>' + ECHO, -32700),
        (ECHO.replace(b"?>", b' standalone="no"?><!DOCTYPE m SYSTEM "http://localhost/x">'), -32700),
    ],
)
def test_what_is_no_call_is_a_fault_with_http_200(server: Server, body: bytes, code: int) -> None:
    """Documents that are not XML, or no call, are answered by a fault that says what and where; nothing is logged."""
    answer = ask(server, post(body))
    fault = fault_of(answer)
    assert answer.status == 200
    assert fault.code in ({code, -32600} if b"DOCTYPE" in body else {code})
    assert answer.headers["x-clarens-fault"] == "1"
    if code == -32700 and b"DOCTYPE" not in body:
        assert re.search(r"line \d+, column \d+", fault.text)


DEEP = b"<array><data><value>"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(DEEP * 100_000, id="nested 100,000 deep"),
        pytest.param(b"<string " + b"".join(b'a%d="" ' % n for n in range(200_000)) + b"/>", id="200,000 attributes"),
        pytest.param(b"<int>" + b"1" * 4001 + b"</int>", id="4,001 digits"),
        pytest.param(b"<int>1_000</int>", id="an underscore"),
        pytest.param("<int>\u0661\u0662</int>".encode(), id="Arabic digits"),
        pytest.param(b"<i4>2147483648</i4>", id="beyond its tag"),
        pytest.param(b"<base64>%%</base64>", id="bad base64"),
        pytest.param(b"<boolean>2</boolean>", id="boolean 2"),
        pytest.param(b"<dateTime.iso8601>20230230T00:00:00</dateTime.iso8601>", id="impossible date"),
        pytest.param(b"<int>1</int><int>2</int>", id="two children"),
        pytest.param(b"text<int>1</int>", id="text beside a type"),
        pytest.param(b"<struct><member><value/></member></struct>", id="member without name"),
        pytest.param(b"<what/>", id="unknown tag"),
        pytest.param(b"&lol;", id="unknown entity"),
    ],
)
def test_hostile_values_are_faults_and_cost_nothing(server: Server, value: bytes) -> None:
    """5.5.49: what overloads a parser, or no two readers agree on, is -32700 or -32600 within a bound of time."""
    body = ECHO.replace(b"<string>x</string>", value)
    began = time.monotonic()
    answer = ask(server, post(body))
    assert (answer.status, fault_of(answer).code) in {(200, -32700), (200, -32600)}
    assert time.monotonic() - began < 5
    assert ask(server, post(ECHO)).value == ["x"]


def test_values_come_back_as_they_were_sent(server: Server) -> None:
    """5.5.48: what the wire can carry comes through a call and back unchanged."""
    values: list[Any] = [
        None, 2**31, 2**63 - 1, -(2**63), 1.5, float("inf"), "", "\r\n\t ]]> & <", "e\u0301", "\xe9", "\U0001f600",
        b"\0\xff", b"",
        datetime(1899, 12, 31, 23, 59, 59), True, [], {}, [[[]]], {"": {"a b": [None]}},
    ]  # fmt: skip
    assert ask(server, post(encode_call("echo.echo", values))).value == values
    assert math.isnan(ask(server, post(encode_call("echo.echo", [float("nan")]))).value[0])


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (b"plain text", "plain text"),
        (b"", ""),
        (b"<nil/>", None),
        (b"<ex:nil/>", None),
        (b"<i8>9223372036854775807</i8>", 2**63 - 1),
        (b"<i4>-2147483648</i4>", -(2**31)),
        (b"<base64>aGVs\r\nbG8=\r\n</base64>", b"hello"),
    ],
)
def test_values_as_other_clients_write_them_are_read(server: Server, written: bytes, value: Any) -> None:
    """5.5.48: untyped values, nil in both spellings, the other names of int, base64 with line breaks."""
    body = ECHO.replace(b"<methodCall>", b'<methodCall xmlns:ex="http://ws.apache.org/xmlrpc/namespaces/extensions">')
    assert ask(server, post(body.replace(b"<string>x</string>", written))).value == [value]


def test_a_large_document_that_is_slow_to_read_holds_up_nobody(server: Server) -> None:
    """While megabytes of comments are read, the slowest that XML can hold, other callers are answered."""
    body = ECHO.replace(b"<params>", b"<!---->" * (8 * MIB // 7) + b"<params>")
    answers: list[object] = []

    def slow() -> None:
        answers.append(ask(server, post(body)))

    thread = threading.Thread(target=slow)
    thread.start()
    until(lambda: any(one.waits_for == "" for one in server._door.connections.values()))
    longest, count = 0.0, 0
    with Wire(server.port) as wire:
        while thread.is_alive():
            began = time.monotonic()
            assert wire.ask(post(ECHO)).value == ["x"]
            longest, count = max(longest, time.monotonic() - began), count + 1
    thread.join()
    assert count > 3, "the document was read before anything else could be asked"
    assert longest < 0.5
    (answer,) = answers
    assert isinstance(answer, Answer)
    assert answer.status == 200


# --- what is too large -----------------------------------------------------------------------------


def test_a_body_beyond_the_limit_is_refused_unread(small: Server) -> None:
    """A Content-Length beyond the limit is answered by 413 before the body is sent, and the connection is closed."""
    with Wire(small.port) as wire:
        answer = wire.ask(post(b"").replace(b"Length: 0", b"Length: %d" % (MIB + 1)))
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert answer.text == "The body is larger than the limit of 1048576 bytes (the setting body_limit).\n"
        assert wire.closed()


def test_a_body_of_just_the_limit_is_taken(small: Server) -> None:
    """The limit itself is within."""
    body = encode_call("echo.echo", ["x" * (MIB - len(encode_call("echo.echo", [""])))])
    assert len(body) == MIB
    assert len(ask(small, post(body)).value[0]) > MIB - 300
    refused(small, post(body + b" "), 413)


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, str(2**63), str(10**9)])
def test_an_absurd_length_is_refused(small: Server, length: str) -> None:
    """5.5.49: any number of digits is too large, and none is an error of the server's."""
    with Wire(small.port) as wire:
        assert wire.ask(post(b"").replace(b"Length: 0", f"Length: {length}".encode())).status == 413


@pytest.mark.parametrize("length", ["-1", "x", "1, 2", "0x10", "1_0", "+5"])
def test_a_length_that_is_no_number_is_refused(small: Server, length: str) -> None:
    """A Content-Length that is none is HTTP 400."""
    with Wire(small.port) as wire:
        assert wire.ask(post(b"").replace(b"Length: 0", f"Length: {length}".encode())).status == 400


def flood(wire: Wire, head: bytes, piece: bytes, most: int) -> int:
    """Sends pieces until the server has had enough; how many bytes that took."""
    wire.send(head)
    sent = 0
    wire.socket.settimeout(5)
    try:
        while sent < most:
            wire.send(piece)
            sent += len(piece)
    except OSError:  # closed by the server, or no longer read
        return sent
    return sent


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_in_chunks_beyond_the_limit_is_refused(small: Server, packed: bool) -> None:
    """5.5.49: chunks without end are refused at the limit; a client that sends on is read for a while, then cut off."""
    headers = ("Content-Encoding: gzip",) if packed else ()
    head = chunked(headers=headers).removesuffix(b"0\r\n\r\n")
    data = gzip.compress(b"", 0) if packed else b" " * 65536
    piece = b"%x\r\n%s\r\n" % (len(data), data) if not packed else b""
    with Wire(small.port) as wire:
        if packed:  # one stream, of which megabytes come out
            packer = zlib.compressobj(wbits=31)
            data = packer.compress(b" " * (4 * MIB)) + packer.flush()
            wire.send(head + b"%x\r\n%s\r\n" % (len(data), data))
        else:
            wire.send(head + piece * 20)
        answer = wire.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        began = time.monotonic()
        sent = flood(wire, b"", b"%x\r\n%s\r\n" % (65536, b" " * 65536), 1024 * MIB)
        assert sent < 200 * MIB
        assert time.monotonic() - began < PATIENCE
    assert ask(small, post(ECHO)).value == ["x"]


def test_memory_stays_flat_while_floods_are_refused(small: Server) -> None:
    """5.5.49: floods by length, by chunks and by gzip leave the server's memory where it was."""
    bomb = gzip.compress(b"\0" * (256 * MIB), 9)

    def attack(number: int) -> None:
        with Wire(small.port) as wire:
            if number % 3 == 0:
                flood(wire, post(b"").replace(b"Length: 0", b"Length: %d" % 10**9), b" " * MIB, 100 * MIB)
            elif number % 3 == 1:
                head = chunked().removesuffix(b"0\r\n\r\n")
                flood(wire, head, b"%x\r\n%s\r\n" % (MIB, b" " * MIB), 100 * MIB)
            else:
                assert wire.ask(post(bomb, "Content-Encoding: gzip")).status == 413

    attack(2)
    before = resident()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(attack, range(9)))
    assert resident() - before < 32
    assert ask(small, post(ECHO)).value == ["x"]


def test_the_loop_goes_on_while_a_bomb_expands(served: Serve) -> None:
    """5.5.49: a small gzip body that stands for a large one is expanded in steps, between which others are served."""
    server = served()
    bomb = gzip.compress(b"\0" * (100 * MIB), 9)
    longest = 0.0
    with Wire(server.port) as attacker, Wire(server.port) as wire:
        attacker.send(post(bomb, "Content-Encoding: gzip"))
        for _ in range(10):
            began = time.monotonic()
            assert wire.ask(post(ECHO)).value == ["x"]
            longest = max(longest, time.monotonic() - began)
        assert attacker.answer().status == 413
    assert longest < 0.5


@pytest.mark.parametrize("count", [1, 3000])
def test_headers_beyond_the_limit_are_refused(server: Server, count: int) -> None:
    """More than 64 KiB of headers are HTTP 431, in one or in many."""
    size = 66_000 // count
    headers = [f"X-{number}: {'x' * size}" for number in range(count)]
    refused(server, post(ECHO, *headers), 431, r"The headers take \d+ bytes; the limit is 65536\.")
    assert ask(server, post(ECHO, *headers[: count // 2])).status == 200


def test_headers_without_end_are_cut_off(server: Server) -> None:
    """Headers that never end are read up to a bound, then the connection is closed; quickly, and memory flat."""
    before = resident()
    with Wire(server.port) as wire:
        sent = flood(wire, b"POST / HTTP/1.1\r\n", b"X: " + b"x" * 8000 + b"\r\n", 100 * MIB)
    assert sent < 20 * MIB
    assert resident() - before < 32
    assert ask(server, post(ECHO)).value == ["x"]


@pytest.mark.parametrize("line", [b"X: y\r\n", b"X-%d: y\r\n"])
def test_very_many_headers_hold_up_nobody(server: Server, line: bytes) -> None:
    """A megabyte of tiny headers, of one name or of many, is refused within a bound of time."""
    count = 900_000 // len(line % 10**5 if b"%" in line else line)
    lines = b"".join(line % number if b"%" in line else line for number in range(count))
    with Wire(server.port) as wire:
        began = time.monotonic()
        answer = wire.ask(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
        assert answer.status == 431
        assert time.monotonic() - began < 5


def test_the_limit_on_headers_may_be_raised(served: Serve) -> None:
    """What the setting header_limit allows is read, also beyond a megabyte."""
    server = served(header_limit=4 * MIB)
    assert ask(server, post(ECHO, f"X-Large: {'x' * 2 * MIB}")).value == ["x"]


# --- what the server has no room for ---------------------------------------------------------------


def test_connections_beyond_what_the_process_may_open_are_turned_away(served: Serve, logged: Logged) -> None:
    """When descriptors grow scarce new connections are closed at once; those that are open are served on."""
    server = served()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as wires:
        first = wires.enter_context(Wire(server.port))
        assert first.ask(post(ECHO)).value == ["x"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (first.socket.fileno() + 1 + 64 + 40, limits[1]))
        wires.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        many = [wires.enter_context(Wire(server.port)) for _ in range(40)]
        assert many[-1].closed()
        logged.claim(r"new connections are turned away: \d+ are open, and the process may have \d+ files")
        assert [wire.ask(post(ECHO)).value for wire in (first, many[0])] == [["x"]] * 2
    until(lambda: not server._door.connections)
    assert ask(server, post(ECHO)).value == ["x"]


def occupied(server: Server, workers: Workers, count: int, gate: threading.Event) -> None:
    """Gives a pool of threads so many jobs that wait for the gate."""
    assert server._loop is not None
    for _ in range(count):
        asyncio.run_coroutine_threadsafe(workers.run(lambda: gate.wait(2 * PATIENCE)), server._loop)


def test_large_calls_are_read_while_cells_are_registered(served: Serve) -> None:
    """Cells that load for ever on every thread of `lab.*` do not keep large calls from being read and answered."""
    server = served()
    gate = threading.Event()
    occupied(server, server.engines.aside, 8, gate)
    text = "x" * 200_000
    assert ask(server, post(encode_call("echo.echo", [text]), "Accept-Encoding: gzip")).status == 200
    gate.set()


def test_an_answer_that_cannot_be_packed_is_sent_as_it_is(served: Serve, tmp_path: Path) -> None:
    """When too much waits to be packed, a call that has been made is still answered."""
    (tmp_path / "t.py").write_text(
        "from clarens_lab import method\n@method\ndef large(): return 'x' * 200_000\n", encoding="utf-8"
    )
    server = served(tmp_path / "t.py", queue_limit=1)
    gate = threading.Event()
    occupied(server, server.engines.documents, 4, gate)
    answer = ask(server, post(encode_call("t.large", []), "Accept-Encoding: gzip"))
    assert ("content-encoding" in answer.headers, len(answer.value)) == (False, 200_000)
    gate.set()


# --- gzip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "GZIP"])
def test_a_packed_call_is_read(server: Server, name: str) -> None:
    """Calls may be packed with gzip."""
    assert ask(server, post(gzip.compress(ECHO), f"Content-Encoding: {name}")).value == ["x"]


def test_a_large_packed_call_is_read(server: Server) -> None:
    """Megabytes come through gzip whole, both ways."""
    text = "".join(map(str, range(400_000)))
    request = post(
        gzip.compress(encode_call("echo.echo", [text])), "Content-Encoding: gzip", "Accept-Encoding: gzip, deflate"
    )
    answer = ask(server, request)
    assert answer.headers["content-encoding"] == "gzip"
    assert xmlrpc.client.loads(gzip.decompress(answer.body))[0][0] == [text]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (gzip.compress(ECHO)[:-12], "ends before its end"),
        (b"", "ends before its end"),
        (gzip.compress(ECHO) + b"junk", "has something after its end"),
        (gzip.compress(ECHO) + gzip.compress(ECHO), "has something after its end"),
        (b"plain", "not gzip"),
        (zlib.compress(ECHO), "not gzip"),
        (gzip.compress(ECHO)[:-6] + b"\0\0\0\0\0\0", "not gzip"),
    ],
)
def test_a_body_that_is_not_gzip_is_refused(server: Server, body: bytes, text: str) -> None:
    """What says gzip and is not, wholly and exactly, is HTTP 400."""
    refused(server, post(body, "Content-Encoding: gzip"), 400, text)


@pytest.mark.parametrize("name", ["deflate", "br", "gzip, gzip", "x"])
def test_other_packings_are_refused(server: Server, name: str) -> None:
    """A packing that is not known is HTTP 415, which names the one that is."""
    answer = refused(server, post(ECHO, f"Content-Encoding: {name}"), 415, "gzip")
    assert answer.headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip", True), ("deflate, gzip;q=0.5", True), ("x-gzip", True), ("GZIP", True), ("gzip;q=0", False),
     ("gzip; q=0.000", False), ("deflate", False), ("", False), ("notgzip", False)],
)  # fmt: skip
def test_answers_are_packed_for_who_takes_it(server: Server, accepted: str, packed: bool) -> None:
    """Large answers are packed only if the client takes gzip."""
    answer = ask(server, post(encode_call("echo.echo", ["x" * 5000]), f"Accept-Encoding: {accepted}"))
    assert ("content-encoding" in answer.headers) is packed
    assert "Accept-Encoding" in answer.headers["vary"]
    body = gzip.decompress(answer.body) if packed else answer.body
    assert xmlrpc.client.loads(body)[0][0] == ["x" * 5000]
    small = ask(server, post(ECHO, f"Accept-Encoding: {accepted}"))
    assert "content-encoding" not in small.headers


# --- who may call ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "localhost:1234"])
def test_the_servers_own_names_are_taken(server: Server, host: str) -> None:
    """Loopback's names and addresses, with or without a port."""
    assert ask(server, post(ECHO, host=host)).value == ["x"]
    assert ask(server, post(ECHO, host=f"{host.partition(':1234')[0]}:{server.port}")).value == ["x"]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "10.0.0.1", "::1", "127.0.0.1.", "a b"])
def test_other_hosts_are_refused(server: Server, host: str) -> None:
    """Another Host, as a page in a browser would have it after rebinding its name, is 403; the way out is named."""
    with Wire(server.port) as wire:
        answer = wire.ask(post(ECHO, host=host))
    assert answer.status in (400, 403)
    assert answer.status == 403 or host in ("", "a b")
    assert answer.status == 400 or "the setting allowed_hosts adds one" in answer.text
    refused(server, get(host="evil.example"), 403, method="GET")


def test_hosts_can_be_allowed(served: Serve) -> None:
    """The setting allowed_hosts adds names, in any case."""
    server = served(allowed_hosts="lab.example, Other.Example")
    assert ask(server, post(ECHO, host="lab.example:80")).value == ["x"]
    assert ask(server, post(ECHO, host="OTHER.example")).value == ["x"]
    refused(server, post(ECHO, host="third.example"), 403)


def test_a_server_for_the_network_takes_any_address_but_no_name(served: Serve, logged: Logged) -> None:
    """Bound to all addresses it is reached by any of them; a name still has to be known."""
    server = served(host="0.0.0.0")
    assert ask(server, post(ECHO, host="192.168.7.7:8642")).value == ["x"]
    assert ask(server, post(ECHO, host="[fe80::1]")).value == ["x"]
    refused(server, post(ECHO, host="evil.example"), 403)
    assert server.url == f"http://127.0.0.1:{server.port}/clarens/"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost.evil.example", "http://localhost:1", "http://["]
)
def test_pages_of_others_are_refused(server: Server, origin: str) -> None:
    """A page of another origin can neither call nor ask whether it may."""
    text = "allowed_origins"
    refused(server, post(ECHO, f"Origin: {origin}"), 403, text)
    refused(server, get("/RPC2", f"Origin: {origin}", verb="OPTIONS"), 403, text, "OPTIONS")


def test_the_servers_own_pages_may_call(server: Server) -> None:
    """A page that came from the server itself may call it."""
    host = f"localhost:{server.port}"
    assert ask(server, post(ECHO, f"Origin: http://{host}", host=host)).value == ["x"]


def test_allowed_pages_may_call(served: Serve) -> None:
    """5.5.50: a page of an allowed origin may call with its token, read answer and headers; its preflight says so."""
    server = served(allowed_origins="https://page.example")
    preflight = ask(server, get("/RPC2", "Origin: https://page.example", verb="OPTIONS"), "OPTIONS")
    assert preflight.status == 204
    answer = ask(server, post(encode_call("echo.echo", ["x" * 5000]), "Origin: https://page.example"))
    assert len(answer.value[0]) == 5000
    for one in (preflight, answer):
        assert one.headers["access-control-allow-origin"] == "https://page.example"
        assert "Authorization" in one.headers["access-control-allow-headers"]
        assert "X-Clarens-Fault" in one.headers["access-control-expose-headers"]
        assert "Origin" in one.headers["vary"]
    assert "access-control-allow-origin" not in ask(server, post(ECHO)).headers


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/form-data; boundary=x", "text/xmlx", ""])
def test_other_content_types_are_refused(server: Server, kind: str) -> None:
    """A body of another type, as a form in a page could send it, is 415."""
    refused(server, post(ECHO, kind=kind), 415, "A call is text/xml or application/xml")
    headless = post(ECHO).replace(b"Content-Type: text/xml\r\n", b"")
    refused(server, headless, 415, "this one has no Content-Type")


# --- what is no call ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/clarens/", "/RPC2"])
def test_a_browser_is_shown_a_page(server: Server, path: str) -> None:
    """5.5.50: GET answers plain text that lists the methods and shows a call; of `lab` nothing."""
    answer = ask(server, get(path), "GET")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "echo.echo(*args)" in answer.text.replace(": Any", "")
    assert "lab." not in answer.text
    assert server.token not in answer.text


def test_what_a_docstring_holds_is_text_on_the_page(served: Serve, tmp_path: Path) -> None:
    """5.5.49: markup in names and defaults of a service is shown as text, never run by a browser."""
    path = tmp_path / "page.py"
    path.write_text("from clarens_lab import method\n@method\ndef f(x='<script>alert(1)</script>'):\n    '<b>'\n")
    answer = ask(served(path), get(), "GET")
    assert "<script>" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_head_answers_the_same_without_a_body(server: Server) -> None:
    """5.5.50: HEAD has GET's headers and no body, and the connection goes on."""
    with Wire(server.port) as wire:
        shown = wire.ask(get(), "GET")
        answer = wire.ask(get(verb="HEAD"), "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-length"] == shown.headers["content-length"]
        assert wire.ask(post(ECHO)).value == ["x"]


def test_another_address_is_not_found(server: Server) -> None:
    """GET and POST elsewhere are 404 or 405 and say where calls go."""
    answer = ask(server, get("/elsewhere"), "GET")
    assert (answer.status, "/clarens/" in answer.text) == (404, True)
    answer = ask(server, get("/<script>"), "GET")
    assert answer.headers["content-type"].startswith("text/plain")
    assert ask(server, get("/elsewhere", "Content-Length: 0", verb="POST")).status in (404, 405)


@pytest.mark.parametrize("verb", ["PUT", "DELETE", "PATCH", "TRACE", "BREW"])
def test_other_verbs_are_refused(server: Server, verb: str, logged: Logged) -> None:
    """Other verbs are 405, which says what is allowed."""
    answer = ask(server, get(verb=verb), verb)
    assert answer.status == 405
    assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize("verb", ["GET", "HEAD", "OPTIONS", "PUT"])
def test_a_body_on_anything_but_a_call_is_refused(server: Server, verb: str) -> None:
    """A GET with a body, by length or in chunks, is 400: it is read by nobody."""
    with Wire(server.port) as wire:
        assert wire.ask(get("/RPC2", "Content-Length: 5", verb=verb) + b"12345", verb).status == 400
        assert wire.closed()
    with Wire(server.port) as wire:
        chunks = get("/RPC2", "Transfer-Encoding: chunked", verb=verb) + b"5\r\n12345\r\n0\r\n\r\n"
        assert wire.ask(chunks, verb).status == 400
        assert wire.closed()


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"POST / HTTP/3.0\r\nHost: localhost\r\n\r\n",
        post(ECHO, "Transfer-Encoding: chunked"),
        post(ECHO, "Transfer-Encoding: gzip"),
        post(ECHO, "Content-Length: 7"),
        post(ECHO, "Bad\x00Name: x"),
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_malformed_requests_get_400_and_the_connections_end(server: Server, request_: bytes) -> None:
    """What is no HTTP, or says two things about its length, is closed after a 400 at the most; nobody else notices."""
    with Wire(server.port) as wire:
        wire.send(request_)
        wire.socket.shutdown(socket.SHUT_WR)
        told = b""
        try:
            while piece := wire.socket.recv(65536):
                told += piece
        except ConnectionResetError:
            pass
    assert told == b"" or re.match(rb"HTTP/1.1 4\d\d ", told)
    assert ask(server, post(ECHO)).value == ["x"]


# --- the token ---------------------------------------------------------------------------------------


def test_the_lab_needs_its_token(server: Server) -> None:
    """`lab.*` without the token, or with a wrong one, is HTTP 401 and -32401; other calls do not mind either."""

    def basic(text: str) -> str:
        return "Authorization: Basic " + base64.b64encode(text.encode()).decode()

    body = encode_call("lab.status", [])
    wrong = [
        "",
        basic("lab:wrong"),
        basic(f"root:{server.token}"),
        basic("lab:"),
        "Authorization: Basic \xff",
        "Authorization: x",
    ]
    for header in wrong:
        answer = ask(server, post(body, *filter(None, [header])))
        assert (answer.status, fault_of(answer).code) == (401, -32401), header
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert ask(server, post(ECHO, *filter(None, [header]))).value == ["x"]
    assert ask(server, post(encode_call("lab.nothing", []))).status == 401
    answer = ask(server, post(body, basic(f"lab:{server.token}")))
    assert answer.value["services"] == ["echo", "lab", "system"]
    assert server.token not in answer.body.decode()


# --- clients -------------------------------------------------------------------------------------------


def test_the_standard_librarys_client_is_served(server: Server) -> None:
    """5.5.50: ServerProxy calls, keeps its connection, reads faults and packs its requests."""
    with xmlrpc.client.ServerProxy(server.url, allow_none=True, use_builtin_types=True) as proxy:
        assert proxy.echo.echo(1, "a", None, b"\x00", [True], {"x": 1.5}) == [1, "a", None, b"\x00", [True], {"x": 1.5}]
        with pytest.raises(xmlrpc.client.Fault, match=r"Did you mean 'echo\.echo'"):
            proxy.echo.eco()
        many = xmlrpc.client.MultiCall(proxy)
        many.echo.echo(1)
        many.echo.echo(2)
        assert list(many()) == [[1], [2]]
    transport = xmlrpc.client.Transport()
    transport.encode_threshold = 10
    with xmlrpc.client.ServerProxy(server.url, transport) as proxy:
        assert proxy.echo.echo("packed") == ["packed"]


def test_a_call_over_http_client(server: Server) -> None:
    """Any HTTP client that posts XML is served."""
    connection = http.client.HTTPConnection("localhost", server.port, timeout=PATIENCE)
    connection.request("POST", "/", ECHO, {"Content-Type": "application/xml"})
    assert b"<string>x</string>" in connection.getresponse().read()
    connection.close()
