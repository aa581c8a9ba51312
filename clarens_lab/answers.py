"""What a client sends, and what an answer over HTTP means. No sockets here."""

import os
import time
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from clarens_lab.codec import decode_response, encode_call
from clarens_lab.faults import Fault, ServerFault, TimedOut, TransportFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


BODY_LIMIT = 64 * 1024 * 1024  # of an answer, packed and unpacked: the server's own limit for a call
LONGEST_TIMEOUT = 2_000_000  # seconds; a socket counts milliseconds in 31 bits


@dataclass(frozen=True)
class Target:
    """A server's address in parts, with the headers that every request to it carries."""

    url: str
    secure: bool
    host: str
    port: int
    path: str
    headers: "Mapping[str, str]" = field(repr=False)  # they hold the token


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP; the names of headers in lower case."""

    status: int
    headers: "Mapping[str, str]"
    body: bytes


class Deadline:
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


class Body:
    """An answer's bytes as they come in: counted before they are kept, packed and unpacked alike."""

    def __init__(self, target: Target, headers: "Mapping[str, str]") -> None:
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


def target_of(url: str, token: str | None) -> Target:
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
    return Target(f"{parts.scheme}://{place}{path}", parts.scheme == "https", host, port, path, _headers(place, token))


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


def checked_timeout(timeout: float | None) -> float | None:
    if timeout is not None and not 0 < timeout <= LONGEST_TIMEOUT:
        raise ValueError(
            f"timeout={timeout!r} is no time to wait: give seconds above 0 (at most {LONGEST_TIMEOUT}), "
            "or None to wait without limit"
        )
    return timeout


def public_name(name: str) -> str:
    # Python and its tools probe objects for names with underscores (__deepcopy__, _repr_html_): none is a method.
    if name.startswith("_"):
        raise AttributeError(f"No attribute {name!r}; a method of that name is called with call({name!r}, ...)")
    return name


def request_body(method: str, arguments: "Sequence[Any]", keywords: "Mapping[str, Any]") -> bytes:
    if keywords:
        raise TypeError(
            f"XML-RPC has positions only: pass {', '.join(keywords)} to {method} in the order of "
            f"system.methodSignature({method!r}), or use a notebook proxy, which knows the names"
        )
    return encode_call(method, list(arguments))


def multicall_params(calls: "Iterable[Sequence[Any]]") -> list[dict[str, Any]]:
    """The one argument of system.multicall."""
    return [_entry(call) for call in calls]


def _entry(call: "Sequence[Any]") -> dict[str, Any]:
    # A bare text is a sequence too, of letters.
    if isinstance(call, str) or not call or not isinstance(call[0], str):
        raise TypeError(f"multicall takes (method, argument, ...) for each call, not {call!r}")
    return {"methodName": call[0], "params": list(call[1:])}


def judged(target: Target, answer: Answer) -> Any:
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


def _status(answer: Answer) -> str:
    from http import HTTPStatus

    try:
        return f"HTTP {answer.status} {HTTPStatus(answer.status).phrase}"
    except ValueError:
        return f"HTTP {answer.status}"


def _way_out(answer: Answer) -> str:
    if 300 <= answer.status < 400 and "location" in answer.headers:
        return f"use the URL that it names, {answer.headers['location'][:200]!r}"
    if answer.status >= 500:
        return _WAYS_OUT.get(answer.status, "look at the server's log")
    return _WAYS_OUT.get(answer.status, _CHECK_URL)


def value_of(outcome: Any) -> Any:
    if isinstance(outcome, Fault):
        try:
            raise outcome
        finally:
            del outcome  # else fault, traceback and this frame hold each other until the collector comes by
    return outcome


def slots_of(target: Target, count: int, answer: Any) -> list[Any]:
    """What system.multicall answered: each [value] as the value, each fault struct as a Fault."""
    if not isinstance(answer, list) or len(answer) != count:
        raise TransportFailed(
            f"{target.url} answered a multicall of {count} calls with something else than {count} items: "
            "make the calls one by one."
        )
    return [_slot(target, index, item) for index, item in enumerate(answer)]


def _slot(target: Target, index: int, item: Any) -> Any:
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


def lost(target: Target, method: str, error: Exception, expired_after: float | None) -> ServerFault:
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


def unreachable(target: Target, error: BaseException) -> TransportFailed:
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
