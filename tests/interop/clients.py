"""Clients that others wrote, behind one face: the standard library's, Frontier::Client in Perl, xmlrpc in C.

Each takes and gives Python values, and says which values it cannot send or read; that is its own limit, not ours.
"""

import base64
import json
import re
import shutil
import subprocess
import xmlrpc.client
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE = 20.0
FRONTIER = Path(__file__).with_name("frontier.pl")


class Missing(Exception):
    """A client that is not installed."""

    def __init__(self, client: str, package: str) -> None:
        super().__init__(
            f"{client} is missing (Debian package {package}): `make test` installs it, then runs the tests."
        )


class Heard(NamedTuple):
    """A fault, as a client tells it."""

    code: int
    text: str


class Client(ABC):
    """A client of one server; with a token it calls as the user `lab`."""

    name: str

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        self.token = token

    @property
    def url_with_token(self) -> str:
        """The address with the token in it, where there is one."""
        return self.url.replace("://", f"://lab:{self.token}@", 1) if self.token else self.url

    @abstractmethod
    def call(self, method: str, *arguments: Any) -> Any:
        """The answer."""

    @abstractmethod
    def fault(self, method: str, *arguments: Any) -> Heard:
        """The fault that the call ends with."""

    @abstractmethod
    def status(self, method: str, *arguments: Any) -> int:
        """The HTTP status that the call is refused with."""

    @classmethod
    def sends(cls, value: Any) -> bool:
        """Whether the client has a way to send the value."""
        return _holds(value, cls.sends_leaf)

    @classmethod
    def reads(cls, value: Any) -> bool:
        """Whether the client understands an answer with this value."""
        return _holds(value, cls.reads_leaf)

    @classmethod
    def sends_leaf(cls, value: Any) -> bool:
        """As `sends`, of a value without those inside it."""
        return True

    @classmethod
    def reads_leaf(cls, value: Any) -> bool:
        """As `reads`, of a value without those inside it."""
        return True

    def close(self) -> None:  # noqa: B027  # a client that keeps nothing open has nothing to do
        """Ends it."""


def _holds(value: Any, is_fine: Callable[[Any], bool]) -> bool:
    inner: Sequence[Any] = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else ()
    return is_fine(value) and all(_holds(one, is_fine) for one in inner)


def is_wide(value: Any) -> bool:
    """Whether it is an integer that takes `i8`."""
    return type(value) is int and not -(2**31) <= value < 2**31


def is_astral(value: Any) -> bool:
    """Whether it is text with characters beyond the first 65,536."""
    return isinstance(value, str) and any(ord(one) > 0xFFFF for one in value)


# --- Python -------------------------------------------------------------------------------------


class Python(Client):
    """`xmlrpc.client` of the standard library."""

    name = "python"

    def __init__(self, url: str, token: str = "") -> None:
        super().__init__(url, token)
        self.proxy = xmlrpc.client.ServerProxy(self.url_with_token, allow_none=True, use_builtin_types=True)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.proxy, method)(*arguments)

    def fault(self, method: str, *arguments: Any) -> Heard:
        try:
            answer = self.call(method, *arguments)
        except xmlrpc.client.Fault as fault:
            return Heard(fault.faultCode, fault.faultString)
        raise AssertionError(f"{method} answered {answer!r}")

    def status(self, method: str, *arguments: Any) -> int:
        try:
            answer = self.call(method, *arguments)
        except xmlrpc.client.ProtocolError as error:
            return error.errcode
        raise AssertionError(f"{method} answered {answer!r}")

    @classmethod
    def sends_leaf(cls, value: Any) -> bool:
        return not is_wide(value)  # it raises OverflowError

    def close(self) -> None:
        self.proxy("close")()


# --- Perl ---------------------------------------------------------------------------------------


class Perl(Client):
    """Frontier::Client, in a Perl process that makes one call after the other."""

    name = "perl"

    def __init__(self, url: str, token: str = "") -> None:
        super().__init__(url, token)
        if shutil.which("perl") is None or subprocess.run(["perl", "-MFrontier::Client", "-e1"], stderr=-3).returncode:
            raise Missing("Frontier::Client, a client in Perl,", "libfrontier-rpc-perl")
        command = ["perl", str(FRONTIER), self.url_with_token]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _ask(self, method: str, params: Sequence[Any], objects: bool) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"method": method, "params": params, "objects": objects}
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told

    def call(self, method: str, *arguments: Any) -> Any:
        told = self._ask(method, [_perl(value) for value in arguments], objects=True)
        assert "died" not in told, told["died"]
        return _from_perl(told["value"])

    def call_with_scalars(self, method: str, *scalars: str) -> Any:
        """As `call`, with bare scalars, whose types the client guesses."""
        told = self._ask(method, [["scalar", scalar] for scalar in scalars], objects=True)
        assert "died" not in told, told["died"]
        return _from_perl(told["value"])

    def last_words(self, method: str, *arguments: Any) -> str:
        """What the client dies with."""
        told = self._ask(method, [_perl(value) for value in arguments], objects=False)
        assert "died" in told, told
        return str(told["died"])

    def fault(self, method: str, *arguments: Any) -> Heard:
        words = self.last_words(method, *arguments)
        found = re.fullmatch(r"Fault returned from XML RPC Server, fault code (-?\d+): (.*)\n", words, re.DOTALL)
        assert found, words
        return Heard(int(found[1]), found[2])

    def status(self, method: str, *arguments: Any) -> int:
        words = self.last_words(method, *arguments)
        return int(words.split()[0])  # "401 Unauthorized"

    @classmethod
    def sends_leaf(cls, value: Any) -> bool:
        if isinstance(value, dict):
            return not any(mark in name for name in value for mark in "<&")  # it does not escape names
        return value is not None and not is_wide(value)

    @classmethod
    def reads_leaf(cls, value: Any) -> bool:
        return value is not None and not is_wide(value)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


def _perl(value: Any) -> list[Any]:
    """A value as frontier.pl reads it."""
    match value:
        case bool():
            return ["boolean", str(int(value))]
        case int():
            return ["int", str(value)]
        case float():
            return ["double", repr(value)]
        case str():
            return ["string", value]
        case bytes():
            return ["base64", base64.b64encode(value).decode()]
        case datetime():
            return ["dateTime", value.strftime("%Y%m%dT%H:%M:%S")]
        case list():
            return ["array", [_perl(one) for one in value]]
        case dict():
            return ["struct", {name: _perl(one) for name, one in value.items()}]
    raise TypeError(f"Frontier::Client has no way to send {value!r}")


FROM_PERL: Mapping[str, Callable[[Any], Any]] = {
    "boolean": lambda text: {"0": False, "1": True}[text],
    "int": int,
    "scalar": float,  # with objects only doubles stay bare
    "string": str,
    "base64": lambda text: base64.b64decode("".join(text.split()), validate=True),
    "dateTime": lambda text: datetime.strptime(text, "%Y%m%dT%H:%M:%S"),
    "array": lambda items: [_from_perl(one) for one in items],
    "struct": lambda members: {name: _from_perl(one) for name, one in members.items()},
}


def _from_perl(told: Sequence[Any]) -> Any:
    kind, content = told
    return FROM_PERL[kind](content)


# --- C ------------------------------------------------------------------------------------------


class C(Client):
    """The program `xmlrpc` of Xmlrpc-c, one process a call. Its arguments are scalars only."""

    name = "c"

    def __init__(self, url: str, token: str = "") -> None:
        super().__init__(url, token)
        if shutil.which("xmlrpc") is None:
            raise Missing("xmlrpc, a client in C,", "libxmlrpc-core-c3-dev")

    def _run(self, method: str, arguments: Sequence[Any]) -> "subprocess.CompletedProcess[bytes]":
        login = ["-username=lab", f"-password={self.token}"] if self.token else []
        command = ["xmlrpc", self.url, method, *map(_word, arguments), *login]
        return subprocess.run(command, capture_output=True, timeout=PATIENCE)

    def call(self, method: str, *arguments: Any) -> Any:
        ran = self._run(method, arguments)
        assert ran.returncode == 0, ran.stderr.decode()
        return _Printed(ran.stdout).whole()

    def _failure(self, method: str, arguments: Sequence[Any]) -> str:
        ran = self._run(method, arguments)
        assert ran.returncode == 1, ran.stdout
        return ran.stderr.decode()

    def fault(self, method: str, *arguments: Any) -> Heard:
        words = self._failure(method, arguments)
        pattern = r"Failed\.  Call failed\.  RPC failed at server\.  (.*)\.  \(XML-RPC fault code (-?\d+)\)\n"
        found = re.fullmatch(pattern, words, re.DOTALL)
        assert found, words
        return Heard(int(found[2]), found[1])

    def status(self, method: str, *arguments: Any) -> int:
        words = self._failure(method, arguments)
        found = re.search(r"HTTP response code is (\d+), not 200", words)
        assert found, words
        return int(found[1])

    @classmethod
    def sends_leaf(cls, value: Any) -> bool:
        return not isinstance(value, list | dict | datetime) and not is_astral(value)

    @classmethod
    def reads_leaf(cls, value: Any) -> bool:
        if isinstance(value, str) and "\r" in value:
            return False  # it prints every end of a line as a newline
        return not isinstance(value, datetime) and not is_astral(value)


def _word(value: Any) -> str:
    """A value as an argument of the program."""
    match value:
        case None:
            return "n/"
        case bool():
            return f"b/{'true' if value else 'false'}"
        case int():
            return f"{'I' if is_wide(value) else 'i'}/{value}"
        case float():
            return f"d/{value!r}"
        case str():
            return f"s/{value}"
        case bytes():
            return f"h/{value.hex()}"
    raise TypeError(f"the program xmlrpc has no way to send {value!r}")


def _unescaped(printed: bytes) -> str:
    return printed.decode("unicode_escape").encode("latin-1").decode()


class _Printed:
    """Reads what the program prints; arrays and structs say how many values follow."""

    def __init__(self, printed: bytes) -> None:
        self.printed = printed
        self.at = 0

    def whole(self) -> Any:
        self.take(rb"(Result:)")
        value = self.value()
        assert self.printed[self.at :].strip() == b"", self.printed[self.at :]
        return value

    def take(self, pattern: bytes) -> bytes:
        """What the pattern's group matches here, after white space."""
        found = re.compile(rb"\s*" + pattern).match(self.printed, self.at)
        assert found, (pattern, self.printed[self.at :])
        self.at = found.end()
        return found[1]

    def value(self) -> Any:
        kind = self.take(rb"(Array of|Struct of|Nil|[\w -]+:)").decode()
        return self.READERS[kind](self)

    def text(self) -> str:
        """On one line in quotes; of several lines each has its own, after all that stands before `String:`."""
        start = self.printed.rindex(b"\n", 0, self.at) + 1
        before = self.printed[start : self.at].removesuffix(b"String:")
        if self.printed.startswith(b" '", self.at):
            return _unescaped(self.take(rb"'(.*)'\n"))
        self.at = self.printed.index(b"\n", self.at) + 1
        text = ""
        while self.printed.startswith(before + b"  ", self.at) and (not text or text.endswith("\n")):
            end = self.printed.index(b"\n", self.at)
            text += _unescaped(self.printed[self.at + len(before) + 2 : end])
            self.at = end + 1
        return text

    def array(self) -> list[Any]:
        count = int(self.take(rb"(\d+) items:"))
        return [(self.take(rb"(Index +%d)" % index), self.value())[1] for index in range(count)]

    def struct(self) -> dict[str, Any]:
        count = int(self.take(rb"(\d+) members:"))
        return dict(self.member() for _ in range(count))

    def member(self) -> tuple[str, Any]:
        self.take(rb"(Key:)")
        name = self.value()
        self.take(rb"(Value:)")
        return name, self.value()

    READERS: Mapping[str, Callable[["_Printed"], Any]] = {
        "Integer:": lambda self: int(self.take(rb"(-?\d+)")),
        "64-bit integer:": lambda self: int(self.take(rb"(-?\d+)")),
        "Boolean:": lambda self: self.take(rb"(TRUE|FALSE)") == b"TRUE",
        "Floating Point:": lambda self: float(self.take(rb"([-+.\w]+)")),
        "String:": text,
        "Nil": lambda self: None,
        "Bit string:": lambda self: bytes.fromhex(self.take(rb"((?:[0-9a-f]{2})*)").decode()),
        "Array of": array,
        "Struct of": struct,
    }


CLIENTS: tuple[type[Client], ...] = (Python, Perl, C)
