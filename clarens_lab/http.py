"""HTTP in and out: requests that are calls are answered here, on Tornado's connections; the rest by an application.

A call passes: the Host and Origin checks, so that a web page in the user's browser can neither call nor rebind;
the content type; the limits on bytes, before and after decompression.
"""

import asyncio
import gzip
import hmac
import logging
import time
import zlib
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from http.client import responses
from typing import Any
from urllib.parse import quote, urlsplit

from tornado import httputil, web
from tornado.http1connection import HTTP1Connection

from clarens_lab.codec import decode_call, encode_fault
from clarens_lab.dispatch import LAB, Dispatcher, Outcome
from clarens_lab.engines import Engines
from clarens_lab.faults import NotLoggedIn, Overloaded, ServerFault
from clarens_lab.service import Caller
from clarens_lab.settings import Settings

log = logging.getLogger(__name__)

CALL_PATHS = ("/clarens/", "/clarens", "/RPC2", "/")
XML_TYPES = ("text/xml", "application/xml")
DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_SECONDS = 2.0
LARGE = 64 * 1024
"""Bytes from which decoding and packing are done on a worker thread: they would hold up the loop."""
SMALLEST_PACKED = 1400
HEADER_ROOM = 8 * 1024 * 1024
"""What is read of headers at the most, so that those beyond the limit still get an answer."""


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
        self.port = settings.port
        self.calls: set[asyncio.Task[None]] = set()
        """The calls in flight."""
        self.connections: set[Any] = set()
        self.draining = False
        self._dn = dn
        self._lab = b64encode(f"lab:{token}".encode()).decode()
        self._hosts = {"localhost", "127.0.0.1", "[::1]", settings.host} | _words(settings.allowed_hosts)
        self._origins = _words(settings.allowed_origins)
        self.application = web.Application([(r".*", Page, {"door": self})], log_function=lambda handler: None)

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """A delegate for one request."""
        self.connections.add(server_conn)
        return _Request(self, server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        """Forgets a connection."""
        self.connections.discard(server_conn)

    def check(self, headers: httputil.HTTPHeaders) -> None:
        """Raises Refused for headers that are too large, or a Host or Origin that is not ours."""
        size = sum(len(name) + len(value) for name, value in headers.get_all())
        if size > self.settings.header_limit:
            raise Refused(431, f"The headers take {size} bytes; the limit is {self.settings.header_limit}.")
        host = headers.get("Host", "")
        if _without_port(host) not in self._hosts:
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

    def knows_origin(self, origin: str, host: str) -> bool:
        """Whether a page of that origin may call: one of the server's own, or one that is allowed."""
        return origin in self._origins or (urlsplit(origin).netloc == host and origin.startswith("http"))

    def caller(self, headers: httputil.HTTPHeaders, address: str) -> Caller:
        """Who is calling."""
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        lab = scheme.lower() == "basic" and hmac.compare_digest(given.strip().encode(), self._lab.encode())
        return Caller(dn=self._dn, address=address, lab=lab)


class _Request(httputil.HTTPMessageDelegate):
    """One request: its checks, its body, its answer."""

    def __init__(self, door: Door, server_conn: object, connection: httputil.HTTPConnection) -> None:
        self.door = door
        self.server_conn = server_conn
        self.connection: HTTP1Connection = connection  # type: ignore[assignment]  # the only kind that HTTPServer makes
        self.other: httputil.HTTPMessageDelegate | None = None
        self.refusal: Refused | None = None
        self.answered = False
        self.body = bytearray()
        self.unpacker: Any = None
        self.task: asyncio.Task[None] | None = None

    # --- coming in ------------------------------------------------------------------------------

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> Any:
        """Decides who answers, and refuses what can be refused before the body is read."""
        self.start_line: httputil.RequestStartLine = start_line  # type: ignore[assignment]  # we only serve
        self.headers = headers
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
        self.connection.set_max_body_size(2**62)  # the limit is ours, since Tornado's closes without an answer
        if length.isdecimal() and int(length) > limit:
            raise _too_large(limit)

    def _has_body(self) -> bool:
        return self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers

    def data_received(self, chunk: bytes) -> Any:
        """Takes a piece of the body; of a refused request it is counted and dropped."""
        if self.other is not None:
            return self.other.data_received(chunk)
        if self.refusal is not None:
            self.discarded += len(chunk)
            if self.discarded > DISCARD_BYTES:
                self._close()
            return None
        try:
            self._take(chunk)
        except Refused as refusal:
            self.body.clear()
            self._refuse(refusal)
        return None

    def _take(self, chunk: bytes) -> None:
        limit = self.door.settings.body_limit
        if self.unpacker is None:
            self.body += chunk
        else:
            try:
                self.body += self.unpacker.decompress(chunk, limit + 1 - len(self.body))
            except zlib.error as error:
                raise Refused(400, f"The body is not gzip: {error}.") from None
        if len(self.body) > limit:
            raise _too_large(limit)

    def finish(self) -> None:
        """The request has been read whole."""
        if self.other is not None:
            self.other.finish()
        elif self.refusal is not None:
            self._end_refusal()
        elif self.unpacker is not None and not self.unpacker.eof:
            self._refuse(Refused(400, "The gzip body ends before its end."))
            self._end_refusal()
        else:
            self.task = asyncio.ensure_future(self._answer())
            self.door.calls.add(self.task)
            self.task.add_done_callback(self.door.calls.discard)

    def on_connection_close(self) -> None:
        """The client went away; the call, if it runs, runs to its end."""
        if self.other is not None:
            self.other.on_connection_close()

    # --- going out ------------------------------------------------------------------------------

    def _refuse(self, refusal: Refused) -> None:
        """Answers at once; what still comes is read and dropped for a while, so that the client reads the answer."""
        self.refusal = refusal
        self.discarded = 0
        body = f"{refusal.text}\n".encode()
        headers = httputil.HTTPHeaders({"Content-Type": "text/plain; charset=utf-8", "Connection": "close"})
        for name, value in refusal.headers.items():
            headers[name] = value
        self._write(refusal.status, headers, body)
        address = getattr(self.connection.context, "remote_ip", "") or "-"
        log.info("refused %s %s: %d %s", self.start_line.method, address, refusal.status, refusal.text)
        asyncio.get_running_loop().call_later(DISCARD_SECONDS, self._close)

    def _end_refusal(self) -> None:
        self.connection._disconnect_on_finish = True  # Tornado has no public word for it on the server's side
        self.connection.finish()

    def _close(self) -> None:
        stream = self.connection.stream
        if self.refusal is not None and stream is not None and not stream.closed():
            stream.close()

    async def _answer(self) -> None:
        address = getattr(self.connection.context, "remote_ip", "") or ""
        outcome = await self._outcome(self.door.caller(self.headers, address))
        body = outcome.answer if outcome.fault is None else encode_fault(outcome.fault.code, outcome.fault.text)
        headers = httputil.HTTPHeaders({"Content-Type": "text/xml; charset=utf-8"})
        _tell(headers, outcome)
        origin = self.headers.get("Origin")
        if origin is not None:
            _allow(headers, origin)
        if len(body) >= SMALLEST_PACKED and "gzip" in self.headers.get("Accept-Encoding", ""):
            pack = partial(gzip.compress, body, 1, mtime=0)
            body = pack() if len(body) < LARGE else await self.door.engines.workers.run(pack)
            headers["Content-Encoding"] = "gzip"
            headers["Vary"] = "Accept-Encoding"
        if self.door.draining:
            headers["Connection"] = "close"
        status = _status(outcome)
        if status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="clarens-lab"'
        self._write(status, headers, body)
        if not self.connection.stream.closed():
            self.connection.finish()

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
        return await self.door.engines.workers.run(decode)  # type: ignore[no-any-return]  # as decode does

    def _write(self, status: int, headers: httputil.HTTPHeaders, body: bytes) -> None:
        headers["Server"] = "clarens-lab"
        headers["Date"] = _date()
        headers["Content-Length"] = str(len(body))
        start = httputil.ResponseStartLine("HTTP/1.1", status, responses.get(status, ""))
        self.connection.write_headers(start, headers, body)


class Page(web.RequestHandler):
    """What is no call: a plain page for who looks with a browser, and the answer to a page's preflight."""

    def initialize(self, door: Door) -> None:
        """Takes the door that the request came through."""
        self.door = door

    def set_default_headers(self) -> None:
        """Names the server, as on calls."""
        self.set_header("Server", "clarens-lab")

    def get(self) -> None:
        """The published methods and how to call one, as text."""
        if self.request.path not in CALL_PATHS:
            self.set_status(404)
            self._say(f"Nothing is at {self.request.path!r}; calls go to /clarens/ (POST, text/xml).")
            return
        catalogue = self.door.dispatcher.registry.current
        url = f"{self.request.protocol}://{self.request.host}/clarens/"
        lines = [f"clarens-lab: XML-RPC at {url}", ""]
        for path in sorted(catalogue.methods):
            if not path.startswith(f"{LAB}."):
                generation, method = catalogue.methods[path]
                lines.append(f"{generation.service}.{method.signature.text}")
        stale = [service for service in catalogue.troubles if catalogue.is_stale(service)]
        if stale:
            lines += ["", f"stale (the newest version could not be loaded): {', '.join(sorted(stale))}"]
        lines += ["", "From Python:", f"    xmlrpc.client.ServerProxy({url!r}).echo.echo('hello')"]
        self._say("\n".join(lines))

    head = get

    def options(self) -> None:
        """Lets a page of an allowed origin send a call."""
        self.set_status(204)
        self.set_header("Allow", "GET, HEAD, OPTIONS, POST")
        origin = self.request.headers.get("Origin")
        if origin is not None:
            headers = httputil.HTTPHeaders()
            _allow(headers, origin)
            for name, value in headers.get_all():
                self.set_header(name, value)

    def write_error(self, status_code: int, **_: Any) -> None:
        """One sentence."""
        if status_code == 405:
            self.set_header("Allow", "GET, HEAD, OPTIONS, POST")
        self._say(f"{status_code} {responses.get(status_code, '')}: a call is a POST of text/xml to /clarens/.")

    def _say(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{text}\n")


def _tell(headers: httputil.HTTPHeaders, outcome: Outcome) -> None:
    if outcome.generation is not None:
        headers["X-Clarens-Generation"] = f"{quote(outcome.service)}={outcome.generation}"
    if outcome.stale:
        headers["X-Clarens-Stale"] = quote(outcome.service)
    if outcome.fault_id is not None:
        headers["X-Clarens-Fault"] = str(outcome.fault_id)


def _allow(headers: httputil.HTTPHeaders, origin: str) -> None:
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Allow-Methods"] = "POST"
    headers["Access-Control-Allow-Headers"] = "Content-Type, Authorization"
    headers["Access-Control-Expose-Headers"] = "X-Clarens-Generation, X-Clarens-Stale, X-Clarens-Fault"
    headers["Vary"] = "Origin"


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
