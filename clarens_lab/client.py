"""Calling a server from Python: `Client` waits for the answer, `AsyncClient` lets you await it.

Both write the same request and judge the answer by the same functions; only the middle, how bytes go out and come
back, is their own.
"""

import copy
from typing import TYPE_CHECKING, Any, Self

from clarens_lab.answers import (
    Deadline,
    checked_timeout,
    judged,
    lost,
    multicall_params,
    public_name,
    request_body,
    slots_of,
    target_of,
    value_of,
)
from clarens_lab.codec import encode_call
from clarens_lab.transport import Connections, Session

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence
    from types import TracebackType


class _Caller:
    """What `Client` and `AsyncClient` have in common: where to, how long, and the names of methods as attributes."""

    def __init__(self, url: str, token: str | None, timeout: float | None) -> None:
        self._target = target_of(url, token)
        self._timeout = checked_timeout(timeout)

    def call(self, method: str, /, *arguments: Any, **keywords: Any) -> Any:
        raise NotImplementedError

    def with_timeout(self, seconds: float | None) -> Self:
        """The same client, connections included, with another limit: `client.with_timeout(60).picalc.digits(10**6)`."""
        other = copy.copy(self)
        other._timeout = checked_timeout(seconds)
        return other

    def __getattr__(self, name: str) -> "Remote":
        return Remote(self, public_name(name))

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
        self._connections = Connections(self._target)

    def call(self, method: str, /, *arguments: Any, **keywords: Any) -> Any:
        """The value that `method`, named in full, answers to `arguments`."""
        return value_of(self._outcome(method, request_body(method, arguments, keywords)))

    def multicall(self, calls: "Iterable[Sequence[Any]]") -> list[Any]:
        """The outcomes of several calls sent as one: `multicall([("echo.echo", 1), ("picalc.digits", 5)])`.

        A list with one item a call, in their order: the value, or the `Fault` object where that call failed. Such a
        fault is an item, never raised, so that the other answers are not lost.
        """
        params = multicall_params(calls)
        if not params:
            return []
        answer = self._outcome("system.multicall", encode_call("system.multicall", [params]))
        return slots_of(self._target, len(params), value_of(answer))

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

        deadline = Deadline.after(self._timeout)
        try:
            with self._connections.exclusive(deadline) as connection:
                return judged(self._target, connection.post(self._target, body, deadline))
        except (OSError, http.client.HTTPException) as error:
            raise lost(self._target, method, error, self._timeout if deadline.passed else None) from error


class AsyncClient(_Caller):
    """Calls a server's methods without blocking the event loop: what `Client` does, awaited.

        async with AsyncClient("http://127.0.0.1:8642", timeout=10) as client:
            await client.picalc.digits(50)

    Any number of calls may be awaited at once. It belongs to the event loop of its first call. Arguments are written
    when the call is made, not when it is awaited: what cannot be sent is raised there.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float | None = None) -> None:
        super().__init__(url, token, timeout)
        self._session = Session(self._target)

    def call(self, method: str, /, *arguments: Any, **keywords: Any) -> "Coroutine[Any, Any, Any]":
        """The value that `method`, named in full, answers to `arguments`."""
        return self._call(method, request_body(method, arguments, keywords))

    def multicall(self, calls: "Iterable[Sequence[Any]]") -> "Coroutine[Any, Any, list[Any]]":
        """The outcomes of several calls sent as one: each a value, or the `Fault` object where that call failed."""
        params = multicall_params(calls)
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
        return value_of(await self._outcome(method, body))

    async def _multicall(self, count: int, body: bytes) -> list[Any]:
        return slots_of(self._target, count, value_of(await self._outcome("system.multicall", body))) if count else []

    async def _outcome(self, method: str, body: bytes) -> Any:
        """The value or the Fault that the server answers."""
        import asyncio

        limit = asyncio.timeout(self._timeout)
        try:
            # Not aiohttp's own time limit: above five seconds it is rounded up to a whole second.
            async with limit:
                return await self._session.post(body)
        except (OSError, self._session.failures) as error:
            raise lost(self._target, method, error, self._timeout if limit.expired() else None) from error


class Remote:
    """A name on the server: a service, whose methods are its attributes, and callable as a method."""

    def __init__(self, client: _Caller, name: str) -> None:
        self._client = client
        self._name = name

    def __getattr__(self, name: str) -> "Remote":
        return Remote(self._client, f"{self._name}.{public_name(name)}")

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._client.call(self._name, *arguments, **keywords)

    def __repr__(self) -> str:
        return f"<{self._name} of {self._client!r}>"
