"""How a client's bytes travel: kept connections over http.client, or an aiohttp session.

http.client, ssl, asyncio and aiohttp are imported when a call needs them, not before.
"""

import io
import os
import select
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from clarens_lab.answers import Answer, Body, Deadline, Target, judged, unreachable

if TYPE_CHECKING:
    import asyncio
    import http.client
    import socket
    import ssl
    from collections.abc import Iterator, Mapping

    import aiohttp

IDLE_LIMIT = 16  # connections kept for later calls; more calls than that at once open more, which are closed after
PIECE = 64 * 1024


class Connections:
    """The connections that no call is using; each call takes one for itself and puts it back.

    No lock: a deque's append and pop are atomic, and a lock held by another thread during a fork would stay held in
    the child for ever.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: deque[_Connection] = deque()
        self._closed = False
        self._context: ssl.SSLContext | None = None

    @contextmanager
    def exclusive(self, deadline: Deadline) -> "Iterator[_Connection]":
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

    def _open(self, deadline: Deadline) -> "_Connection":
        if self._target.secure and self._context is None:
            import ssl

            self._context = ssl.create_default_context()
        try:
            return _Connection(_connected(self._target, self._context, deadline))
        except OSError as error:
            if deadline.passed:
                raise
            raise unreachable(self._target, error) from error


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

    def post(self, target: Target, body: bytes, deadline: Deadline) -> Answer:
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
            return Answer(response.status, headers, self._read(target, headers, response))

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

    def _read(self, target: Target, headers: "Mapping[str, str]", response: "http.client.HTTPResponse") -> bytes:
        body = Body(target, headers)
        while piece := response.read(PIECE):
            body.add(piece)
        if response.length:  # http.client ends a body that was cut short like a whole one
            raise ConnectionError(f"{response.length} bytes of the answer are missing")
        return body.whole()


class _Wire:
    """A socket as http.client sees it: every wait ends by one deadline, however slowly the bytes drip in."""

    def __init__(self, sock: "socket.socket") -> None:
        self._sock = sock
        self.deadline = Deadline(None)
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


def _connected(target: Target, context: "ssl.SSLContext | None", deadline: Deadline) -> "socket.socket":
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


def _dialled(address: Any, host: str, context: "ssl.SSLContext | None", deadline: Deadline) -> "socket.socket":
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


class Session:
    """The aiohttp session of one AsyncClient, made at its first call, on the loop that runs then."""

    def __init__(self, target: Target) -> None:
        import aiohttp  # here, so that a missing one is noticed when the client is made

        self._target = target
        self._aiohttp = aiohttp
        self.failures = aiohttp.ClientError
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._parents: list[object] = []
        self._closed = False

    async def post(self, body: bytes) -> Any:
        """The value or the Fault answered to one request, which is sent once: aiohttp repeats no POST.

        A server that refuses a large call, and hangs up before it has read all of it, may not be heard: once sending
        fails, asyncio gives up the connection with what had come in on it. That is TransportFailed either way.
        """
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
                    return judged(self._target, await self._answer(response))
                except BaseException:
                    response.close()
                    raise
        except self._aiohttp.ClientConnectorError as error:
            raise unreachable(self._target, error) from error

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
            auto_decompress=False,  # unpacking is counted, in Body
            cookie_jar=self._aiohttp.DummyCookieJar(),
        )

    async def _answer(self, response: "aiohttp.ClientResponse") -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        body = Body(self._target, headers)
        async for piece in response.content.iter_chunked(PIECE):
            body.add(piece)
        return Answer(response.status, headers, body.whole())
