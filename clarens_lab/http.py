"""HTTP in and out: requests that are calls are answered here, on Tornado's connections; the rest by an application.

A call passes: the Host and Origin checks, so that a web page in the user's browser can neither call nor rebind;
the content type; the limits on bytes, before and after decompression.
"""

import asyncio
import gzip
import hmac
import logging
import resource
import time
import zlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import responses
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import quote

from tornado import httputil, web
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.iostream import IOStream
from tornado.tcpserver import TCPServer

from clarens_lab.codec import decode_call, encode_fault
from clarens_lab.dispatch import LAB, Dispatcher, Outcome
from clarens_lab.engines import LARGE, Engines
from clarens_lab.faults import NotLoggedIn, Overloaded, ServerFault, ServiceRaised
from clarens_lab.page import CALL_PATHS, Page, allowing
from clarens_lab.service import Caller
from clarens_lab.settings import Settings

log = logging.getLogger(__name__)

XML_TYPES = ("text/xml", "application/xml")
DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_SECONDS = 2.0
SMALLEST_PACKED = 1400
UNPACKED_AT_ONCE = 1024 * 1024
HEADER_ROOM = 1024 * 1024
"""What is read of headers beyond the limit, so that they still get an answer."""
SPARE_DESCRIPTORS = 64
"""Descriptors that connections leave to files, pipes and what services open."""
SILENT_SECONDS = 60.0
"""How long nothing more is said of connections that are turned away."""
IDLE_SECONDS = 3600.0
BODY_SECONDS = 600.0


class Refused(Exception):
    """A request that is not taken: an HTTP status and a sentence."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Door(httputil.HTTPServerConnectionDelegate):
    """Takes the requests of one server."""

    def __init__(self, dispatcher: Dispatcher, engines: Engines, settings: Settings, token: str, dn: str) -> None:
        self.dispatcher = dispatcher
        self.engines = engines
        self.settings = settings
        self.calls: set[asyncio.Task[None]] = set()
        """The calls in flight."""
        self.connections: dict[HTTP1ServerConnection, _Request] = {}
        """The open connections, each with the request that it is at."""
        self.draining = False
        self._dn = dn
        self._lab = b64encode(f"lab:{token}".encode())
        self._hosts = {"localhost", "127.0.0.1", "[::1]", settings.host.lower()} | _words(
            settings.allowed_hosts.lower()
        )
        self._origins = _words(settings.allowed_origins)
        self.application = web.Application(
            [(r".*", Page, {"registry": dispatcher.registry})], log_function=lambda handler: None
        )

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """A delegate for one request; Tornado asks for it as soon as it waits for one."""
        request = _Request(self, server_conn, request_conn)
        self.connections[cast(HTTP1ServerConnection, server_conn)] = request
        return request

    def on_close(self, server_conn: object) -> None:
        """Forgets a connection that has ended, or whose task was cancelled by code of a service."""
        connection = cast(HTTP1ServerConnection, server_conn)
        request = self.connections.pop(connection, None)
        if request is not None and not connection.stream.closed():
            request.close_when_answered()

    def close_idle(self) -> None:
        """Closes the connections on which nothing has come for too long. (A timer for each call would cost more.)"""
        now = time.monotonic()
        for request in list(self.connections.values()):
            if request.idle(now):
                request.close()

    async def close_connections(self) -> None:
        """Closes every connection, and waits until each has been let go."""
        await asyncio.sleep(0)  # one that has just been accepted is known from its task's first step on
        while self.connections:
            await next(iter(self.connections)).close()

    def close_in_child(self) -> None:
        """Lets go of the connections in a forked child, for whose end clients would wait else."""
        for connection in self.connections:
            if connection.stream.socket is not None:
                connection.stream.socket.close()

    def check(self, headers: httputil.HTTPHeaders) -> None:
        """Raises Refused for headers that are too large, or a Host or Origin that is not ours."""
        size = sum(len(name) + len(value) for name, value in headers.get_all())
        if size > self.settings.header_limit:
            raise Refused(431, f"The headers take {size} bytes; the limit is {self.settings.header_limit}.")
        host = headers.get("Host", "")
        if not self.is_host(host):
            raise Refused(
                403,
                f"The Host {host!r} is not one of this server's names; "
                "the setting allowed_hosts adds one (`clarens-lab config allowed_hosts NAME`).",
            )
        origin = headers.get("Origin")
        if origin is not None and not self.knows_origin(origin, host):
            raise Refused(
                403,
                f"Pages of {origin!r} may not call this server; the setting allowed_origins lets them "
                "(`clarens-lab config allowed_origins ORIGIN`).",
            )

    def is_host(self, host: str) -> bool:
        """Whether a Host header names this server.

        Behind a name that is not known may be any address, ours too (DNS rebinding); behind an address only itself.
        """
        name = _without_port(host)
        return name in self._hosts or (not self.settings.loopback and _is_address(name))

    def knows_origin(self, origin: str, host: str) -> bool:
        """Whether a page of that origin may call: one of the server's own, or one that is allowed."""
        return origin in self._origins or origin in (f"http://{host}", f"https://{host}")

    def caller(self, headers: httputil.HTTPHeaders, address: str) -> Caller:
        """Who is calling."""
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        lab = scheme.lower() == "basic" and hmac.compare_digest(given.strip().encode(), self._lab)
        return Caller(dn=self._dn, address=address, lab=lab)


class Listener(TCPServer):
    """Accepts connections for a door."""

    def __init__(self, door: Door) -> None:
        super().__init__()
        self._door = door
        self._silent_until = 0.0
        # The limits on body and time are the door's: Tornado's close without an answer, or cost each call a timer.
        room = door.settings.header_limit + HEADER_ROOM
        self._parameters = HTTP1ConnectionParameters(max_header_size=room, max_body_size=2**62)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Serves a new connection, or closes it where the process would run out of descriptors.

        Without one for the next connection, it could not even be turned away: the loop would try for ever.
        """
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and stream.socket.fileno() >= most - min(SPARE_DESCRIPTORS, most // 4):
            stream.close()
            self._tell_turned_away(most)
            return
        stream.set_nodelay(True)  # every answer is written in one piece: nothing to wait for
        stream.set_nodelay = _leave_nodelay  # type: ignore[method-assign]  # Tornado turns it on and off at each answer
        HTTP1ServerConnection(stream, self._parameters, _Peer(str(address[0]))).start_serving(self._door)

    def _tell_turned_away(self, most: int) -> None:
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + SILENT_SECONDS
            log.warning(
                "new connections are turned away: %d are open, and the process may have %d files and connections "
                "(`ulimit -n` raises that)",
                len(self._door.connections),
                most,
            )


def _leave_nodelay(value: bool) -> None:
    """Two system calls less a call."""


@dataclass(frozen=True)
class _Peer:
    """Who is at the other end, as Tornado asks for it."""

    remote_ip: str
    protocol: str = "http"

    def __str__(self) -> str:
        return self.remote_ip


class _Request(httputil.HTTPMessageDelegate):
    """One request: its checks, its body, its answer."""

    def __init__(self, door: Door, server_conn: object, connection: httputil.HTTPConnection) -> None:
        self.door = door
        self.server_conn = server_conn
        self.connection: HTTP1Connection = connection  # type: ignore[assignment]  # the only kind that HTTPServer makes
        self.other: httputil.HTTPMessageDelegate | None = None
        self.refusal: Refused | None = None
        self.body = bytearray()
        self.received = 0
        self.unpacker: Any = None
        self.waits_for = "a request"
        self.since = time.monotonic()
        self.answered = False

    def idle(self, now: float) -> bool:
        """Whether the client has kept the server waiting for too long."""
        limit = {"a request": IDLE_SECONDS, "its body": BODY_SECONDS}.get(self.waits_for)
        return limit is not None and now - self.since > limit

    def close(self) -> None:
        """Closes the connection."""
        stream = self.connection.stream
        if stream is not None and not stream.closed():
            stream.close()

    def close_when_answered(self) -> None:
        """Closes the connection, after the answer if a call is being answered."""
        if self.waits_for:
            self.close()
        else:
            self.connection._disconnect_on_finish = True  # as in _write

    # --- coming in ------------------------------------------------------------------------------

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> Any:
        """Decides who answers, and refuses what can be refused before the body is read."""
        self.start_line: httputil.RequestStartLine = start_line  # type: ignore[assignment]  # we only serve
        self.headers = headers
        self.waits_for = "its body"
        self.since = time.monotonic()
        path = self.start_line.path.partition("?")[0]
        try:
            self.door.check(headers)
            if self.start_line.method == "POST" and path in CALL_PATHS:
                self._check_call(headers)
            elif self._has_body():
                raise Refused(400, f"{self.start_line.method} takes no body here; a call is a POST of text/xml.")
            else:
                self.other = self.door.application.start_request(self.server_conn, self.connection)
                return self.other.headers_received(start_line, headers)
        except Refused as refusal:
            self._refuse(refusal)
        return None

    def _check_call(self, headers: httputil.HTTPHeaders) -> None:
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in XML_TYPES:
            given = f"not {kind!r}" if kind else "and this one has no Content-Type"
            raise Refused(415, f"A call is text/xml or application/xml, {given}.")
        packed = headers.get("Content-Encoding", "identity").strip().lower()
        if packed in ("gzip", "x-gzip"):
            self.unpacker = zlib.decompressobj(wbits=31)
        elif packed != "identity":
            raise Refused(415, f"A call may be packed with gzip, not with {packed!r}.", Accept_Encoding="gzip")
        length = headers.get("Content-Length", "")
        limit = self.door.settings.body_limit
        if length.isdecimal() and (len(length) > 18 or int(length) > limit):
            raise _too_large(limit)

    def _has_body(self) -> bool:
        return self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers

    def data_received(self, chunk: bytes) -> Any:
        """Takes a piece of the body; of a refused request it is counted and dropped."""
        if self.other is not None:
            return self.other.data_received(chunk)
        self.received += len(chunk)
        if self.refusal is not None:
            if self.received > self.allowance:
                self.close()
        elif self.received > self.door.settings.body_limit:
            self._refuse(_too_large(self.door.settings.body_limit))
        elif self.unpacker is None:
            self.body += chunk
        else:
            return self._unpack(chunk)
        return None

    async def _unpack(self, chunk: bytes) -> None:
        """Decompresses in steps, so that a small chunk that stands for many megabytes holds up nobody."""
        limit = self.door.settings.body_limit
        try:
            while chunk and not self.unpacker.eof:
                self.body += self.unpacker.decompress(chunk, UNPACKED_AT_ONCE)
                chunk = self.unpacker.unconsumed_tail
                if len(self.body) > limit:
                    raise _too_large(limit)
                if chunk:
                    await asyncio.sleep(0)
            if chunk or self.unpacker.unused_data:
                raise Refused(400, "The gzip body has something after its end.")
        except zlib.error as error:
            self._refuse(Refused(400, f"The body is not gzip: {error}."))
        except Refused as refusal:
            self._refuse(refusal)

    def finish(self) -> None:
        """The request has been read whole."""
        self.waits_for = ""
        if self.other is not None:
            self.other.finish()
            return
        if self.refusal is None and self.unpacker is not None and not self.unpacker.eof:
            self._refuse(Refused(400, "The gzip body ends before its end."))
        if self.refusal is not None:
            self.connection.finish()
            return
        task = asyncio.ensure_future(self._answer())
        self.door.calls.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Sees to it that no client waits for ever, whatever became of its call."""
        self.door.calls.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("a call's answer failed: this is a mistake of the server's", exc_info=error)
        if self.answered and error is None:
            return
        stream = self.connection.stream
        if self.answered or stream is None or stream.closed() or self.door.dispatcher.ending:
            self.close()
            return
        text = "The call was cancelled by code of a service." if error is None else "The server failed; see its log."
        body = encode_fault(ServiceRaised.number, text)
        self._write(200, {"Content-Type": "text/xml; charset=utf-8"}, body, close=True)
        self.connection.finish()

    def on_connection_close(self) -> None:
        """The client went away; the call, if it runs, runs to its end."""
        if self.other is not None:
            self.other.on_connection_close()

    # --- going out ------------------------------------------------------------------------------

    def _refuse(self, refusal: Refused) -> None:
        """Answers at once; what still comes is read and dropped for a while, so that the client reads the answer."""
        self.refusal = refusal
        self.allowance = self.received + DISCARD_BYTES
        self.body.clear()
        self.unpacker = None
        body = f"{refusal.text}\n".encode()
        self._write(refusal.status, {"Content-Type": "text/plain; charset=utf-8", **refusal.headers}, body, close=True)
        log.info("refused %s %s: %d %s", self.start_line.method, self._address(), refusal.status, refusal.text)
        asyncio.get_running_loop().call_later(DISCARD_SECONDS, self.close)

    def _address(self) -> str:
        return cast(_Peer, self.connection.context).remote_ip

    async def _answer(self) -> None:
        outcome = await self._outcome(self.door.caller(self.headers, self._address()))
        body = outcome.answer if outcome.fault is None else encode_fault(outcome.fault.code, outcome.text)
        headers = {"Content-Type": "text/xml; charset=utf-8", **_told(outcome)}
        origin = self.headers.get("Origin")
        if origin is not None:
            headers |= allowing(origin)
        if len(body) >= SMALLEST_PACKED:
            headers["Vary"] = "Origin, Accept-Encoding"
            if _takes_gzip(self.headers.get("Accept-Encoding", "")):
                body = await self._packed(body, headers)
        status = _status(outcome)
        if status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="clarens-lab"'
        self._write(status, headers, body, close=self.door.draining)
        if not self.connection.stream.closed():
            self.connection.finish()

    async def _packed(self, body: bytes, headers: dict[str, str]) -> bytes:
        pack = partial(gzip.compress, body, 1, mtime=0)
        try:
            packed: bytes = pack() if len(body) < LARGE else await self.door.engines.documents.run(pack)
        except Overloaded:  # the call has been made: its answer goes out as it is
            return body
        headers["Content-Encoding"] = "gzip"
        return packed

    async def _outcome(self, caller: Caller) -> Outcome:
        try:
            name, arguments = await self._decoded()
        except ServerFault as fault:
            return self.door.dispatcher.refused(fault, caller)
        return await self.door.dispatcher.call(name, arguments, caller)

    async def _decoded(self) -> tuple[str, list[Any]]:
        settings = self.door.settings
        decode: Callable[[], tuple[str, list[Any]]] = partial(
            decode_call,
            bytes(self.body),
            charset=_charset(self.headers.get("Content-Type", "")),
            depth=settings.depth_limit,
            digits=settings.int_digits,
        )
        size = len(self.body)
        self.body.clear()
        if size < LARGE:
            return decode()
        return await self.door.engines.documents.run(decode)  # type: ignore[no-any-return]  # as decode does

    def _write(self, status: int, headers: dict[str, str], body: bytes, *, close: bool) -> None:
        """Writes the answer in one piece; Tornado's own way of putting headers together takes longer than the call."""
        self.answered = True
        if close:
            self.connection._disconnect_on_finish = True  # Tornado has no public word for it on the server's side
        if self.connection._disconnect_on_finish:
            headers["Connection"] = "close"
        elif self.start_line.version == "HTTP/1.0":
            headers["Connection"] = "keep-alive"
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"HTTP/1.1 {status} {responses.get(status, '')}\r\n{lines}"
        head += f"Server: clarens-lab\r\nDate: {_date()}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.connection.write(head.encode("latin-1") + (b"" if self.start_line.method == "HEAD" else body))


def _told(outcome: Outcome) -> dict[str, str]:
    headers = {}
    if outcome.generation is not None:
        headers["X-Clarens-Generation"] = f"{quote(outcome.service)}={outcome.generation}"
    if outcome.stale:
        headers["X-Clarens-Stale"] = quote(outcome.service)
    if outcome.fault_id is not None:
        headers["X-Clarens-Fault"] = str(outcome.fault_id)
    return headers


def _status(outcome: Outcome) -> int:
    if isinstance(outcome.fault, Overloaded):
        return 503
    if isinstance(outcome.fault, NotLoggedIn) and outcome.method.startswith(f"{LAB}."):
        return 401
    return 200


def _too_large(limit: int) -> Refused:
    return Refused(413, f"The body is larger than the limit of {limit} bytes (the setting body_limit).")


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding header names gzip, and not to refuse it."""
    for offer in accepted.split(","):
        coding, _, options = offer.partition(";")
        if coding.strip().lower() in ("gzip", "x-gzip"):
            return options.replace(" ", "").rstrip("0.") != "q="
    return False


def _charset(content_type: str) -> str | None:
    _, options = httputil._parse_header(content_type)  # what tornado.web itself reads forms with
    return options.get("charset")


_dates: dict[int, str] = {}


def _date() -> str:
    """The time as HTTP writes it, formatted once a second."""
    now = int(time.time())
    if now not in _dates:
        _dates.clear()
        _dates[now] = httputil.format_timestamp(now)
    return _dates[now]
