"""Every way a call can fail: its number, its sentence, and the neighbour that was meant.

The numbers are those of the XML-RPC fault-code interoperability list, with one of ours above them
(-32401 not logged in). A service's own numbers pass through untouched.
"""

import difflib
import heapq
from collections.abc import Iterable
from itertools import pairwise
from typing import ClassVar


class Fault(Exception):
    """A call's failure as the caller sees it: an int `code` and a `text`.

    A service raises it with its own number, and both arrive unchanged:

        raise Fault(2001, "no such run")
    """

    fault_id: str | None = None
    """The server's number of the fault, where a client received it."""

    def __init__(self, code: int, text: str) -> None:
        if isinstance(code, bool) or not isinstance(code, int):
            raise TypeError(f"Fault takes a number and a text; {code!r} is no number")
        super().__init__(code, text)
        self.code = code
        self.text = str(text)

    def __str__(self) -> str:
        return f"{self.text} ({self.code})"


class ServerFault(Fault):
    """A failure that this server words itself; the class carries the number."""

    number: ClassVar[int] = -32603

    def __init__(self, text: str) -> None:
        super().__init__(type(self).number, text)

    def __reduce__(self) -> tuple[type[Fault], tuple[object, ...]]:
        return Fault, (self.code, self.text)


class NotWellFormed(ServerFault):
    """The bytes are no XML, or an XML-RPC value is not written as its type asks."""

    number = -32700


class UnsupportedEncoding(ServerFault):
    """The document declares an encoding that is not read here."""

    number = -32701


class InvalidCharacter(ServerFault):
    """The document holds a character that its encoding or XML does not allow."""

    number = -32702


class NotXmlRpc(ServerFault):
    """Well-formed XML, but no XML-RPC message; or a message beyond a limit."""

    number = -32600


class UnknownMethod(ServerFault, LookupError):
    """No method of that name is published; names the nearest one."""

    number = -32601

    def __init__(self, name: str, published: Iterable[str], *, because: str = "") -> None:
        self.name = name
        published = list(published)
        service = f"{name.partition('.')[0]}."
        self.near = nearest(name, [one for one in published if one.startswith(service)]) or nearest(name, published)
        hint = f" Did you mean {self.near!r}?" if self.near else " system.listMethods lists what is."
        super().__init__(f"No method {name!r} is published here.{because or hint}")


class BadArguments(ServerFault, TypeError):
    """The arguments do not fit the method's signature."""

    number = -32602


class CannotEncode(ServerFault, TypeError):
    """A value that XML-RPC cannot carry; `path` says where in the value it stands."""

    number = -32603

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class ServiceRaised(ServerFault):
    """The service's own code raised an exception."""

    number = -32500


class LoadFailed(ServerFault):
    """The service is known, but no version of it could be loaded."""

    number = -32400


class Overloaded(ServerFault):
    """More calls wait than the server takes; the wire's status is 503."""

    number = -32400


class TimedOut(ServerFault):
    """The call took longer than its time limit."""

    number = -32400


class TransportFailed(ServerFault):
    """The server could not be reached, or did not answer as an XML-RPC server does."""

    number = -32300


class NotLoggedIn(ServerFault):
    """The method needs a caller that the server knows."""

    number = -32401


COMPARED = 50
"""How many names are compared letter by letter: a thousand would take a server's event loop some 40 ms."""
LONGEST_COMPARED = 200


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that was most likely meant by `name`, or None."""
    if len(name) > LONGEST_COMPARED:
        return None
    known = sorted(names)
    if len(known) > COMPARED:
        pairs = _pairs(name)
        known = heapq.nlargest(COMPARED, known, key=lambda one: 2 * len(pairs & _pairs(one)) - len(one))
    close = difflib.get_close_matches(name, known, n=1)
    return close[0] if close else None


def _pairs(name: str) -> set[str]:
    """The pairs of letters that follow each other in a name."""
    return {first + second for first, second in pairwise(name)}
