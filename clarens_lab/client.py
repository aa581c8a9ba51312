"""Calling a server from Python: `Client` waits for the answer, `AsyncClient` lets you await it.

Both write the same request and judge the answer by the same functions; only the middle, how bytes go out and come
back, is their own. http.client, ssl, asyncio and aiohttp are imported when a call needs them, not before.
"""

import copy
import io
import os
import select
import time
from base64 import b64encode
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

from clarens_lab.codec import decode_response, encode_call
from clarens_lab.faults import Fault, ServerFault, TimedOut, TransportFailed

if TYPE_CHECKING:
    import asyncio
    import http.client
    import socket
    import ssl
    from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    import aiohttp

BODY_LIMIT = 64 * 1024 * 1024  # of an answer, packed and unpacked: the server's own limit for a call
IDLE_LIMIT = 16  # connections kept for later calls; more calls than that at once open more, which are closed after
PIECE = 64 * 1024
LONGEST_TIMEOUT = 2_000_000  # seconds; a socket counts milliseconds in 31 bits


class _Caller:
    """What `Client` and `AsyncClient` have in common: where to, how long, and the names of methods as attributes."""

    def __init__(self, url: str, token: str | None, timeout: float | None) -> None:
        self._target = _target(url, token)
        self._timeout = _checked(timeout)

    def call(self, method: str, /, *arguments: Any, **keywords: Any) -> Any:
        raise NotImplementedError

    def with_timeout(self, seconds: float | None) -> Self:
        """The same client, connections included, with another limit: `client.with_timeout(60).picalc.digits(10**6)`."""
        other = copy.copy(self)
        other._timeout = _checked(seconds)
        return other

    def __getattr__(self, name: str) -> "Remote":
        return Remote(self, _public(name))

    def __repr__(self) -> str:
        timeout = "" if self._timeout is None else f", timeout={self._timeout:g}"
        return f"{type(self).__name__}({self._target.url!r}{timeout})"


class Client(_Caller):
    """Calls a server's methods as if they were here, and waits for each answer.

        with Client("http://127.0.0.1:8642", timeout=10) as client:
            client.picalc.digits(50)
            client.call("picalc.digits", 50)

    A URL without a path means /clarens/. `token` is what the server's run file holds, for `lab.*`. `timeout` is the
    whole wait of one call in seconds: connecting, sending, the method's own time, reading (but not the look-up of a
    host's name, which cannot be interrupted). None waits without limit.

    One client may be used from several threads: each call has a connection to itself, and connections are kept for
    the next calls. A call is sent once, whatever happens.

    A fault that the server answers is raised as `Fault`, with its `fault_id` as the server gave it, or None. What
    goes wrong on the way is `TransportFailed` or, after `timeout`, `TimedOut`. A service whose name is that of one of
    the client's own methods, and a name that begins with an underscore, is reached through `call`.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float | None = None) -> None:
        super().__init__(url, token, timeout)
        self._connections = _Connections(self._target)

    def call(self, method: str, /, *arguments: Any, **keywords: Any) -> Any:
        """The value that `method`, named in full, answers to `arguments`."""
        return _value(self._outcome(method, _request(method, arguments, keywords)))

    def multicall(self, calls: "Iterable[Sequence[Any]]") -> list[Any]:
        """The outcomes of several calls sent as one: `multicall([("echo.echo", 1), ("picalc.digits", 5)])`.

        A list with one item a call, in their order: the value, or the `Fault` object where that call failed. Such a
        fault is an item, never raised, so that the other answers are not lost.
        """
        params = _multicall(calls)
        if not params:
            return []
        answer = self._outcome("system.multicall", encode_call("system.multicall", [params]))
        return _slots(self._target, len(params), _value(answer))

    def close(self) -> None:
        """Closes the kept connections; calls that are under way end, later ones are refused."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    def _outcome(self, method: str, body: bytes) -> Any:
        """The value or the Fault that the server answers."""
        import http.client

        deadline = _Deadline.after(self._timeout)
        try:
            with self._connections.exclusive(deadline) as connection:
                return _judged(self._target, connection.post(self._target, body, deadline))
        except (OSError, http.client.HTTPException) as error:
            raise _lost(self._target, method, error, self._timeout if deadline.passed else None) from error


class AsyncClient(_Caller):
    """Calls a server's methods without blocking the event loop: what `Client` does, awaited.

        async with AsyncClient("http://127.0.0.1:8642", timeout=10) as client:
            await client.picalc.digits(50)

    Any number of calls may be awaited at once. It belongs to the event loop of its first call. Arguments are written
    when the call is made, not when it is awaited: what cannot be sent is raised there.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float | None = None) -> None:
        super().__init__(url, token, timeout)
        self._session = _Session(self._target)

    def call(self, method: str, /, *arguments: Any, **keywords: Any) -> "Coroutine[Any, Any, Any]":
        """The value that `method`, named in full, answers to `arguments`."""
        return self._call(method, _request(method, arguments, keywords))

    def multicall(self, calls: "Iterable[Sequence[Any]]") -> "Coroutine[Any, Any, list[Any]]":
        """The outcomes of several calls sent as one: each a value, or the `Fault` object where that call failed."""
        params = _multicall(calls)
        return self._multicall(len(params), encode_call("system.multicall", [params]))

    async def close(self) -> None:
        """Closes the kept connections; later calls are refused."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        await self.close()

    async def _call(self, method: str, body: bytes) -> Any:
        return _value(await self._outcome(method, body))

    async def _multicall(self, count: int, body: bytes) -> list[Any]:
        return _slots(self._target, count, _value(await self._outcome("system.multicall", body))) if count else []

    async def _outcome(self, method: str, body: bytes) -> Any:
        """The value or the Fault that the server answers."""
        import asyncio

        import aiohttp

        limit = asyncio.timeout(self._timeout)
        try:
            # Not aiohttp's own time limit: above five seconds it is rounded up to a whole second.
            async with limit:
                return await self._session.post(body)
        except (OSError, aiohttp.ClientError) as error:
            raise _lost(self._target, method, error, self._timeout if limit.expired() else None) from error


class Remote:
    """A name on the server: a service, whose methods are its attributes, and callable as a method."""

    def __init__(self, client: _Caller, name: str) -> None:
        self._client = client
        self._name = name

    def __getattr__(self, name: str) -> "Remote":
        return Remote(self._client, f"{self._name}.{_public(name)}")

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._client.call(self._name, *arguments, **keywords)

    def __repr__(self) -> str:
        return f"<{self._name} of {self._client!r}>"


# What both clients share: where to, what goes out, what an answer means. No sockets here.


@dataclass(frozen=True)
class _Target:
    """A server's address in parts, with the headers that every request to it carries."""

    url: str
    secure: bool
    host: str
    port: int
    path: str
    headers: "Mapping[str, str]" = field(repr=False)  # they hold the token


@dataclass(frozen=True)
class _Answer:
    """What came back over HTTP; the names of headers in lower case."""

    status: int
    headers: "Mapping[str, str]"
    body: bytes


class _Deadline:
    """The moment until which a call may wait, on the clock that never jumps."""

    def __init__(self, at: float | None) -> None:
        self._at = at

    @classmethod
    def after(cls, seconds: float | None) -> Self:
        return cls(None if seconds is None else time.monotonic() + seconds)

    @property
    def passed(self) -> bool:
        return self._at is not None and time.monotonic() >= self._at

    def left(self) -> float | None:
        """Seconds as a socket wants them: None for ever, never 0 (which a socket takes for 'do not wait')."""
        if self._at is None:
            return None
        seconds = self._at - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("no time left")
        return seconds


class _Body:
    """An answer's bytes as they come in: counted before they are kept, packed and unpacked alike."""

    def __init__(self, target: _Target, headers: "Mapping[str, str]") -> None:
        self._target = target
        self._packed_room = self._room = BODY_LIMIT
        self._pieces: list[bytes] = []
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise self._refused(f"is in the content coding {encoding[:40]!r}, which was not asked for")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > BODY_LIMIT:
            raise self._too_large()
        self._unpacker = _unpacker() if "gzip" in encoding else None

    def add(self, piece: bytes) -> None:
        # The packed bytes are counted too: a stream of empty gzip blocks unpacks to nothing, without end.
        self._packed_room -= len(piece)
        unpacked = self._unpacked(piece)
        self._room -= len(unpacked)
        if self._room < 0 or self._packed_room < 0:
            raise self._too_large()
        self._pieces.append(unpacked)

    def whole(self) -> bytes:
        if self._unpacker and not self._unpacker.eof:
            raise self._refused("is a gzip stream that ends too early")
        return b"".join(self._pieces)

    def _unpacked(self, piece: bytes) -> bytes:
        if self._unpacker is None:
            return piece
        if self._unpacker.eof:
            raise self._refused("goes on after the end of its gzip stream")
        import zlib

        try:
            unpacked: bytes = self._unpacker.decompress(piece, self._room + 1)
        except zlib.error as error:
            raise self._refused(f"is no gzip stream ({error})") from error
        if self._unpacker.unused_data:
            raise self._refused("goes on after the end of its gzip stream")
        return unpacked

    def _too_large(self) -> TransportFailed:
        return TransportFailed(
            f"The answer from {self._target.url} is larger than {BODY_LIMIT >> 20} MiB: ask for less in one call."
        )

    def _refused(self, reason: str) -> TransportFailed:
        return TransportFailed(f"The answer from {self._target.url} {reason}: {_CHECK_URL}.")


_CHECK_URL = "check that this is the address of an XML-RPC server"

_WAYS_OUT = {
    401: "give the client the server's token (token=...)",
    403: "call it under the host name that it allows, or ask who runs it",
    404: "check the URL's path (a clarens-lab server answers at /clarens/)",
    405: "check the URL's path (a clarens-lab server answers at /clarens/)",
    413: "send less in one call",
    429: "call again later",
    502: "check that the server behind this proxy runs",
    503: "call again later",
    504: "check that the server behind this proxy runs",
}


def _target(url: str, token: str | None) -> _Target:
    from urllib.parse import quote, urlsplit

    wanted = "write it as http://HOST:PORT/clarens/"
    if not isinstance(url, str):
        raise TypeError(f"A server's URL is a text, not {url!r}: {wanted}")
    # Looked at before anything may quote the URL: what stands before the @ is a secret.
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("A URL with a user and a password in it is not taken: pass token=... instead.")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = host if host.isascii() else host.encode("idna").decode()
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL of a server ({error}): {wanted}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{url!r} is no URL of a server: {wanted}")
    path = quote(parts.path or "/clarens/", safe="/%:@!$&'()*+,;=~")
    if parts.query:
        path += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    place = f"[{host}]" if ":" in host else host
    if parts.port:
        place += f":{port}"
    return _Target(f"{parts.scheme}://{place}{path}", parts.scheme == "https", host, port, path, _headers(place, token))


def _headers(place: str, token: str | None) -> dict[str, str]:
    headers = {
        "Host": place,
        "Content-Type": "text/xml",
        "Accept": "text/xml",
        "Accept-Encoding": "gzip",
        "User-Agent": "clarens-lab",
    }
    if token is not None:
        headers["Authorization"] = "Basic " + b64encode(f"lab:{token}".encode()).decode()
    return headers


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and not 0 < timeout <= LONGEST_TIMEOUT:
        raise ValueError(
            f"timeout={timeout!r} is no time to wait: give seconds above 0 (at most {LONGEST_TIMEOUT}), "
            "or None to wait without limit"
        )
    return timeout


def _public(name: str) -> str:
    # Python and its tools probe objects for names with underscores (__deepcopy__, _repr_html_): none is a method.
    if name.startswith("_"):
        raise AttributeError(f"No attribute {name!r}; a method of that name is called with call({name!r}, ...)")
    return name


def _request(method: str, arguments: "Sequence[Any]", keywords: "Mapping[str, Any]") -> bytes:
    if keywords:
        raise TypeError(
            f"XML-RPC has positions only: pass {', '.join(keywords)} to {method} in the order of "
            f"system.methodSignature({method!r}), or use a notebook proxy, which knows the names"
        )
    return encode_call(method, list(arguments))


def _multicall(calls: "Iterable[Sequence[Any]]") -> list[dict[str, Any]]:
    """The one argument of system.multicall."""
    return [_entry(call) for call in calls]


def _entry(call: "Sequence[Any]") -> dict[str, Any]:
    # A bare text is a sequence too, of letters.
    if isinstance(call, str) or not call or not isinstance(call[0], str):
        raise TypeError(f"multicall takes (method, argument, ...) for each call, not {call!r}")
    return {"methodName": call[0], "params": list(call[1:])}


def _judged(target: _Target, answer: _Answer) -> Any:
    """The value or the Fault that `answer` holds; whatever is neither is TransportFailed."""
    try:
        value = decode_response(answer.body, charset=_charset(answer.headers))
    except ServerFault as error:  # the codec's own word on the bytes; what a server says is a plain Fault
        unreadable = error.text
    except Fault as fault:
        # Whatever the status: a refusal for want of a token is HTTP 401 and a fault.
        vars(fault)["fault_id"] = answer.headers.get("x-clarens-fault")
        return fault.with_traceback(None)
    else:
        if answer.status == 200:
            return value
    if answer.status != 200:
        raise TransportFailed(f"{target.url} answered {_status(answer)}: {_way_out(answer)}.")
    kind = answer.headers.get("content-type", "")[:60]
    raise TransportFailed(f"{target.url} answered {kind!r} that is no XML-RPC ({unreadable}): {_CHECK_URL}.")


def _charset(headers: "Mapping[str, str]") -> str | None:
    for parameter in headers.get("content-type", "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None


def _status(answer: _Answer) -> str:
    from http import HTTPStatus

    try:
        return f"HTTP {answer.status} {HTTPStatus(answer.status).phrase}"
    except ValueError:
        return f"HTTP {answer.status}"


def _way_out(answer: _Answer) -> str:
    if 300 <= answer.status < 400 and "location" in answer.headers:
        return f"use the URL that it names, {answer.headers['location'][:200]!r}"
    if answer.status >= 500:
        return _WAYS_OUT.get(answer.status, "look at the server's log")
    return _WAYS_OUT.get(answer.status, _CHECK_URL)


def _value(outcome: Any) -> Any:
    if isinstance(outcome, Fault):
        try:
            raise outcome
        finally:
            del outcome  # else fault, traceback and this frame hold each other until the collector comes by
    return outcome


def _slots(target: _Target, count: int, answer: Any) -> list[Any]:
    """What system.multicall answered: each [value] as the value, each fault struct as a Fault."""
    if not isinstance(answer, list) or len(answer) != count:
        raise TransportFailed(
            f"{target.url} answered a multicall of {count} calls with something else than {count} items: "
            "make the calls one by one."
        )
    return [_slot(target, index, item) for index, item in enumerate(answer)]


def _slot(target: _Target, index: int, item: Any) -> Any:
    if isinstance(item, list) and len(item) == 1:
        return item[0]
    code, text = (item.get("faultCode"), item.get("faultString")) if isinstance(item, dict) else (None, None)
    if not isinstance(code, int) or isinstance(code, bool) or not isinstance(text, str):
        raise TransportFailed(
            f"{target.url} answered call {index + 1} of a multicall with neither a value nor a fault: "
            "make the calls one by one."
        )
    fault = Fault(code, text)
    vars(fault)["fault_id"] = None
    return fault


def _lost(target: _Target, method: str, error: Exception, expired_after: float | None) -> ServerFault:
    """What the caller is told of a call that got no answer; `expired_after` is its limit if that was the end of it."""
    if expired_after is not None:
        return TimedOut(
            f"{method} at {target.url} took longer than {expired_after:g} s: it may still be running there; "
            "allow more time with timeout=... or with_timeout(...)."
        )
    return TransportFailed(
        f"{target.url} gave {method} no complete HTTP answer ({_reason(error)}): "
        "it may have run, so it is not sent a second time; see the server's log before calling again."
    )


def _unreachable(target: _Target, error: BaseException) -> TransportFailed:
    if "certificate" in type(error).__name__.lower() or "CERTIFICATE" in str(error):
        way_out = "name the file with its authority's certificate in SSL_CERT_FILE"
    else:
        way_out = "start a server there (clarens-lab serve), or correct the URL"
    return TransportFailed(f"{target.url} cannot be reached ({_reason(error)}): {way_out}.")


def _reason(error: BaseException) -> str:
    """An exception in a few words; the innermost cause is the one that names the reason."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno and type(error).__module__ == "builtins":
        return os.strerror(error.errno)  # asyncio puts other words there; those of ssl and getaddrinfo are not errnos
    text = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:200] or type(error).__name__


def _unpacker() -> Any:  # zlib does not name the type of its decompressors
    import zlib

    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


# How Client's bytes travel.


class _Connections:
    """The connections that no call is using; each call takes one for itself and puts it back.

    No lock: a deque's append and pop are atomic, and a lock held by another thread during a fork would stay held in
    the child for ever.
    """

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._idle: deque[_Connection] = deque()
        self._closed = False
        self._context: ssl.SSLContext | None = None

    @contextmanager
    def exclusive(self, deadline: _Deadline) -> "Iterator[_Connection]":
        if self._closed:
            raise RuntimeError(f"The client of {self._target.url} is closed: make a new one.")
        connection = self._take() or self._open(deadline)
        try:
            yield connection
        except BaseException:
            # KeyboardInterrupt too: the answer that is still to come must not meet the next call.
            connection.drop()
            raise
        self._put(connection)

    def close(self) -> None:
        self._closed = True
        self._keep(0)

    def _take(self) -> "_Connection | None":
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was quicker
                return None
            if connection.usable():
                return connection
            connection.drop()
        return None

    def _put(self, connection: "_Connection") -> None:
        if connection.ended:
            connection.drop()
            return
        self._idle.append(connection)
        # Looked at after the append: whichever of the two, this call or close(), comes second closes the connection.
        self._keep(0 if self._closed else IDLE_LIMIT)

    def _keep(self, count: int) -> None:
        while len(self._idle) > count:
            try:
                self._idle.popleft().drop()
            except IndexError:
                return

    def _open(self, deadline: _Deadline) -> "_Connection":
        if self._target.secure and self._context is None:
            import ssl

            self._context = ssl.create_default_context()
        try:
            return _Connection(_connected(self._target, self._context, deadline))
        except OSError as error:
            if deadline.passed:
                raise
            raise _unreachable(self._target, error) from error


class _Connection:
    """One kept HTTP connection of this process."""

    def __init__(self, sock: "socket.socket") -> None:
        import http.client

        self._sock = sock
        self._owner = os.getpid()
        self._wire = _Wire(sock)
        self._http = http.client.HTTPConnection("")
        self._http.auto_open = 0  # it must never connect, and so send, by itself
        # http.client only ever calls a socket's sendall, makefile and close.
        self._http.sock = cast("socket.socket", self._wire)

    @property
    def ended(self) -> bool:
        """Whether this was its last call."""
        return self._wire.ended

    def usable(self) -> bool:
        """Whether a call may be sent: ours, not the parent's after a fork, and silent.

        An idle connection on which something can be read has been closed by the server, or carries an answer that
        nobody asked for. Finding that out after sending would be too late, since a call is never sent again.
        """
        if self.ended or self._sock.fileno() < 0 or self._owner != os.getpid():
            return False
        waiting = select.poll()  # select() takes no descriptors above 1023
        waiting.register(self._sock, select.POLLIN)
        return not waiting.poll(0)

    def post(self, target: _Target, body: bytes, deadline: _Deadline) -> _Answer:
        """The answer to one request; sent once, never again.

        Once a byte has gone out nobody here knows whether the method ran: HTTP says so only in its answer. A second
        try could run it twice.
        """
        self._wire.deadline = deadline
        try:
            self._http.request("POST", target.path, body, target.headers)
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses a call may answer and hang up before all of it is sent. What it said can be read.
            self._wire.ended = True
        with self._http.getresponse() as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            return _Answer(response.status, headers, self._read(target, headers, response))

    def drop(self) -> None:
        """Closes the socket; for a child process only its copy, since the parent may be using the connection."""
        import socket

        self._wire.ended = True
        try:
            if self._owner == os.getpid():
                # A child that holds a copy keeps a merely closed connection open.
                self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is closed already
            pass
        finally:
            self._sock.close()

    def _read(self, target: _Target, headers: "Mapping[str, str]", response: "http.client.HTTPResponse") -> bytes:
        body = _Body(target, headers)
        while piece := response.read(PIECE):
            body.add(piece)
        if response.length:  # http.client ends a body that was cut short like a whole one
            raise ConnectionError(f"{response.length} bytes of the answer are missing")
        return body.whole()


class _Wire:
    """A socket as http.client sees it: every wait ends by one deadline, however slowly the bytes drip in."""

    def __init__(self, sock: "socket.socket") -> None:
        self._sock = sock
        self.deadline = _Deadline(None)
        self.ended = False

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(self.deadline.left())
            rest = rest[self._sock.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self))

    def receive_into(self, buffer: Any) -> int:
        self._sock.settimeout(self.deadline.left())
        return self._sock.recv_into(buffer)

    def close(self) -> None:
        # http.client closes as soon as the headers say that no call may follow, with the body still to be read. So
        # this is a mark, and the connection's owner closes the socket.
        self.ended = True


class _Incoming(io.RawIOBase):
    """The reading side of a wire, for io's buffering."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive_into(buffer)


def _connected(target: _Target, context: "ssl.SSLContext | None", deadline: _Deadline) -> "socket.socket":
    """A socket to the first of the host's addresses that takes one."""
    import socket

    failure: OSError = ConnectionError("the host has no address")
    for address in socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM):
        try:
            return _dialled(address, target.host, context, deadline)
        except OSError as error:
            failure = error
            if deadline.passed:
                break
    try:
        raise failure
    finally:
        del failure  # else it, its traceback and this frame hold each other


def _dialled(address: Any, host: str, context: "ssl.SSLContext | None", deadline: _Deadline) -> "socket.socket":
    """A socket to one address, as getaddrinfo tells it."""
    import socket

    family, kind, protocol, _, place = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(deadline.left())
        sock.connect(place)
        # Headers and body go out in two writes: without this the second waits for the first's acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            return sock
        sock.settimeout(deadline.left())
        return context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


# How AsyncClient's bytes travel.


class _Session:
    """The aiohttp session of one AsyncClient, made at its first call, on the loop that runs then."""

    def __init__(self, target: _Target) -> None:
        import aiohttp  # here, so that a missing one is noticed when the client is made

        self._target = target
        self._aiohttp = aiohttp
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._parents: list[object] = []
        self._closed = False

    async def post(self, body: bytes) -> Any:
        """The value or the Fault answered to one request, which is sent once: aiohttp repeats no POST."""
        import asyncio

        session = self._current()
        # Two turns of the loop: the first looks at the sockets, the second takes those that the server has closed
        # meanwhile out of the session. Else a loop that has just been started again would send into one of them.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        # A stream, since aiohttp warns of bytes above 1 MiB.
        request = session.post(
            self._target.url, data=io.BytesIO(body), headers=self._target.headers, allow_redirects=False
        )
        try:
            async with request as response:
                try:
                    return _judged(self._target, await self._answer(response))
                except BaseException:
                    response.close()
                    raise
        except self._aiohttp.ClientConnectorError as error:
            raise _unreachable(self._target, error) from error

    async def close(self) -> None:
        self._closed = True
        if self._session is not None and self._process == os.getpid():
            await self._session.close()

    def _current(self) -> "aiohttp.ClientSession":
        import asyncio

        if self._closed:
            raise RuntimeError(f"The client of {self._target.url} is closed: make a new one.")
        loop = asyncio.get_running_loop()
        if self._process != os.getpid():
            # Kept untouched: closing the parent's sockets here would take them out of the epoll set that the parent
            # still waits on.
            self._parents += [self._session, self._loop]
            self._session, self._process = None, os.getpid()
        if self._session is None:
            self._session, self._loop = self._made(), loop
        elif self._loop is not loop:
            raise RuntimeError("An AsyncClient belongs to the event loop of its first call: make one for each loop.")
        return self._session

    def _made(self) -> "aiohttp.ClientSession":
        return self._aiohttp.ClientSession(
            connector=self._aiohttp.TCPConnector(limit=0),  # calls do not queue here: their time limit is running
            timeout=self._aiohttp.ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,  # unpacking is counted, in _Body
            cookie_jar=self._aiohttp.DummyCookieJar(),
        )

    async def _answer(self, response: "aiohttp.ClientResponse") -> _Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        body = _Body(self._target, headers)
        async for piece in response.content.iter_chunked(PIECE):
            body.add(piece)
        return _Answer(response.status, headers, body.whole())
