"""Python values to XML-RPC bytes: what the wire cannot carry is refused with its path, never converted in silence.

A document is a list of strings, joined once. A type that XML-RPC does not have is first made simpler by `simplify`,
which is open: `simplify.register(MyType, function)`.
"""

import collections
import dataclasses
import enum
import functools
import re
import sys
from binascii import b2a_base64
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, ValuesView
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from clarens_lab import faults
from clarens_lab.codec.decode import METHOD_NAME, read_datetime

DEPTH = 200  # arrays and structs inside each other; what the decoder takes by default

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_INT32 = 0x7FFFFFFF
_INT64 = 0x7FFFFFFFFFFFFFFF


def encode_call(method: str, params: Sequence[object]) -> bytes:
    """A methodCall document; what cannot be carried raises `CannotEncode` for `argument 2['x']` and the like."""
    if not METHOD_NAME.fullmatch(method):
        raise faults.CannotEncode("method name", f"{method!r} is none: 1 to 255 letters, digits and _ . : / - are")
    out = [_HEAD, f"<methodCall><methodName>{method}</methodName><params>"]
    for number, value in enumerate(params, 1):
        _param(value, f"argument {number}", out)
    out.append("</params></methodCall>")
    return "".join(out).encode()


def encode_response(value: object) -> bytes:
    """A methodResponse document; what cannot be carried raises `CannotEncode` for `result['when'][3]` and the like."""
    out = [_HEAD, "<methodResponse><params>"]
    _param(value, "result", out)
    out.append("</params></methodResponse>")
    return "".join(out).encode()


def encode_fault(code: int, text: str) -> bytes:
    """A methodResponse document that is a fault. It never fails, for it is what is sent when something has.

    A character that XML cannot carry is shown as Python would write it, like \\x00; a number beyond 32 bits
    becomes the nearest within, because hardly any client reads a longer faultCode.
    """
    code = max(-_INT32 - 1, min(_INT32, int(code)))
    shown = _escape(legible(text))
    return (
        f"{_HEAD}<methodResponse><fault><value><struct>"
        f"<member><name>faultCode</name><value><int>{code}</int></value></member>"
        f"<member><name>faultString</name><value><string>{shown}</string></value></member>"
        "</struct></value></fault></methodResponse>"
    ).encode()


def legible(text: str) -> str:
    """The text with every character that XML cannot carry shown as Python would write it, like \\x00."""
    if text.isprintable() or _carried(text):
        return text
    return _FORBIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


# --- Writing


class _Refused(Exception):
    """Why a value cannot be carried; the steps to it are added on the way out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.steps: list[object] = []  # the innermost first


def _param(value: object, root: str, out: list[str]) -> None:
    out.append("<param>")
    try:
        _Writer(out).write(value, DEPTH)
    except _Refused as refusal:
        raise faults.CannotEncode(root + _path(refusal.steps), str(refusal)) from refusal.__cause__
    except RecursionError:
        raise faults.CannotEncode(root, "it is nested too deep for the stack; return a flatter value") from None
    out.append("</param>")


def _path(steps: list[object]) -> str:
    shown = [f"[{step!r}]" if len(repr(step)) <= 60 else f"[{repr(step)[:60]}...]" for step in reversed(steps)]
    return "".join(shown) if len(shown) <= 20 else "".join([*shown[:10], "...", *shown[-3:]])


class _Writer:
    """Appends values to the strings of one document."""

    def __init__(self, out: list[str]) -> None:
        self.out = out
        self.append = out.append
        self.names: dict[object, str] = {}  # what each member begins with: rows have the same ones over and over

    def write(self, value: Any, room: int) -> None:
        """Append one value; `room` more arrays or structs may nest."""
        kind = type(value)
        scalar = _SCALARS.get(kind)
        if scalar is not None:
            self.append(scalar(value))
        elif kind is dict:
            self.struct(value, room)
        elif kind is list or kind is tuple:
            self.array(value, room)
        else:
            self.write(_simplified(value), room)

    def array(self, values: Sequence[Any], room: int) -> None:
        if not room:
            raise _too_deep()
        self.append("<value><array><data>")
        if not self.numbers(values):
            write, room, at = self.write, room - 1, 0
            try:
                for value in values:
                    write(value, room)
                    at += 1  # enumerate would make a tuple for every value, for the rare refusal
            except _Refused as refusal:
                refusal.steps.append(at)
                raise
        self.append("</data></array></value>")

    def numbers(self, values: Sequence[Any]) -> bool:
        """Whether `values` were all ints or all floats, and so could be written by a single join."""
        kind = type(values[0]) if len(values) > 8 else None
        if (kind is not int and kind is not float) or set(map(type, values)) != {kind}:
            return False
        if kind is int and not -_INT32 <= min(values) <= max(values) <= _INT32:
            return False
        tag = "int" if kind is int else "double"
        between = f"</{tag}></value><value><{tag}>"
        self.append(f"<value><{tag}>{between.join(map(repr, values))}</{tag}></value>")
        return True

    def struct(self, members: dict[Any, Any], room: int) -> None:
        if not room:
            raise _too_deep()
        self.append("<value><struct>")
        append, write, names, room = self.append, self.write, self.names, room - 1
        key: object = None
        try:
            for key, value in members.items():
                begin = names.get(key) or self.name(key, members)
                scalar = _SCALARS.get(type(value))
                if scalar is not None:
                    append(f"{begin}{scalar(value)}</member>")
                else:
                    append(begin)
                    write(value, room)
                    append("</member>")
        except _Refused as refusal:
            if not isinstance(refusal, _BadKey):
                refusal.steps.append(str.__str__(key))  # any other key has been refused
                raise
            raise _Refused(str(refusal)) from None  # a key has no path of its own: the struct's is given
        append("</struct></value>")

    def name(self, key: object, members: dict[Any, Any]) -> str:
        if type(key) is str:
            written = self.names[key] = _member(key) if len(key) < 100 else _member.__wrapped__(key)
            return written
        if not isinstance(key, str):
            raise _BadKey(
                f"its key {key!r} is {_a(key)}, and XML-RPC has only strings; "
                "return {str(key): value for key, value in ....items()}"
            )
        plain = str.__str__(key)
        if sum(isinstance(other, str) and str.__str__(other) == plain for other in members) > 1:
            raise _BadKey(f"it has two keys that are written {plain!r}")
        return _member(plain)


class _BadKey(_Refused):
    """A struct's key that cannot be carried."""


@functools.lru_cache(maxsize=4096)
def _member(name: str) -> str:
    """What a member begins with: kept from call to call, unless it is long."""
    try:
        return f"<member><name>{_text(name)}</name>"
    except _Refused as refusal:
        raise _BadKey(f"its key {name!r} cannot be carried: {refusal}") from None


def _too_deep() -> _Refused:
    return _Refused(
        f"arrays and structs nest deeper than {DEPTH} levels here, or it contains itself; return a flatter value"
    )


# --- Scalars


def _string(value: str) -> str:
    if value.isprintable() and "&" not in value and "<" not in value and ">" not in value:
        return f"<value><string>{value}</string></value>"
    return f"<value><string>{_text(value)}</string></value>"


def _int(value: int) -> str:
    if -_INT32 - 1 <= value <= _INT32:
        return f"<value><int>{value}</int></value>"
    if -_INT64 - 1 <= value <= _INT64:
        return f"<value><i8>{value}</i8></value>"
    raise _Refused("the int is beyond 64 bits; return float(...) or str(...)")


def _time(value: datetime) -> str:
    if value.tzinfo is not None and value.utcoffset() is not None:
        try:
            value = value.astimezone(UTC)
        except OverflowError:
            raise _Refused("in UTC, as an aware datetime is written, it is out of range; return str(...)") from None
    if value.microsecond:
        raise _Refused(
            "XML-RPC has no fractions of a second; return ....replace(microsecond=0), or ....isoformat() as a string"
        )
    return value.isoformat().replace("-", "") if value.tzinfo is None else _time(value.replace(tzinfo=None))


_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_CONTROLS = bytes(code for code in range(32) if code not in (9, 10, 13))


def _text(text: str) -> str:
    """The text as XML has it. What can be printed can be carried, and Python tells that quickest."""
    if not text.isprintable() and not _carried(text):
        bad = _FORBIDDEN.search(text)
        shown = ascii(bad[0]) if bad else ""
        way = "return bytes" if shown.startswith(("'\\x", "'\\t")) else "return ....encode(...) as bytes"
        raise _Refused(f"XML cannot carry the character {shown} of a string; {way}, or take it out")
    return _escape(text)


def _carried(text: str) -> bool:
    """Whether XML allows every character. By way of bytes: a regular expression takes ten times as long."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return False
    return (
        len(data.translate(None, _CONTROLS)) == len(data)
        and b"\xef\xbf\xbe" not in data  # U+FFFE
        and b"\xef\xbf\xbf" not in data
    )


def _escape(text: str) -> str:
    if "&" in text:
        text = text.replace("&", "&amp;")
    if "<" in text:
        text = text.replace("<", "&lt;")
    if ">" in text:
        text = text.replace(">", "&gt;")
    if "\r" in text:  # as it is, a reader would take it for a line's end and make it \n
        text = text.replace("\r", "&#13;")
    return text


def _double(value: float) -> str:
    return f"<value><double>{value!r}</double></value>"


def _boolean(value: bool) -> str:
    return "<value><boolean>1</boolean></value>" if value else "<value><boolean>0</boolean></value>"


def _nil(value: None) -> str:
    return "<value><nil/></value>"


def _datetime(value: datetime) -> str:
    return f"<value><dateTime.iso8601>{_time(value)}</dateTime.iso8601></value>"


def _base64(value: bytes | bytearray) -> str:
    return f"<value><base64>{b2a_base64(value, newline=False).decode('ascii')}</base64></value>"


_SCALARS: dict[type, Callable[[Any], str]] = {
    str: _string,
    int: _int,
    float: _double,
    bool: _boolean,
    type(None): _nil,
    datetime: _datetime,
    bytes: _base64,
    bytearray: _base64,
}


# --- Making simpler


def _simplified(value: object) -> object:
    try:
        simpler = simplify(value)
    except faults.CannotEncode as refusal:
        raise _Refused(refusal.reason) from None
    except RecursionError:
        raise
    except Exception as error:
        raise _Refused(f"the encoder of {_named(type(value))} raised {type(error).__name__}: {error}") from error
    if type(simpler) is type(value):
        raise _Refused(f"the encoder of {_named(type(value))} made another of it; it has to return something simpler")
    return simpler


def _named(kind: type) -> str:
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _a(value: object) -> str:
    name = _named(type(value))
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _refuse(value: object, way: str) -> faults.CannotEncode:
    return faults.CannotEncode("value", f"{_a(value)} has no XML-RPC type; {way}")


@functools.singledispatch
def simplify(value: object) -> object:
    """A simpler value that the wire can carry, or that can be made simpler in turn; else `CannotEncode`.

    Register a type of your own to have it carried:

        simplify.register(Vector, lambda vector: [vector.x, vector.y])
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    family = type(value).__module__.partition(".")[0]
    foreign = _FOREIGN.get(family)
    if foreign:
        return foreign(value)
    if isinstance(value, type) or callable(value):
        raise _refuse(value, "return what it gives when called")
    raise _refuse(
        value,
        "return its plain values, or register an encoder: "
        f"clarens_lab.codec.simplify.register({type(value).__qualname__}, function)",
    )


simplify.register(int, lambda value: int.__index__(value))
simplify.register(float, lambda value: float.__float__(value))
simplify.register(str, lambda value: str.__str__(value))
simplify.register(collections.UserString, lambda value: value.data)
simplify.register(bytes, lambda value: bytes(memoryview(value)))
simplify.register(bytearray, lambda value: bytes(memoryview(value)))
simplify.register(memoryview, lambda value: value.tobytes())
simplify.register(enum.Enum, lambda value: value.value)
simplify.register(Mapping, dict)
simplify.register(Sequence, list)
simplify.register(Set, list)
simplify.register(ValuesView, list)


@simplify.register
def _(value: datetime) -> object:
    """A subclass of datetime, such as pandas' Timestamp, which has nanoseconds, and NaT, which equals not itself."""
    if value != value:  # noqa: PLR0124, RUF100
        raise _refuse(value, "return None")
    if getattr(value, "nanosecond", 0):
        raise _refuse(value, "its nanoseconds would be lost: return ....isoformat(), or ....floor('s')")
    return datetime(
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, value.tzinfo
    )


_WAYS_OUT: dict[type, str] = {
    Iterator: "return list(...)",
    Decimal: "return float(...), or str(...) to keep every digit",
    Fraction: "return float(...), or [numerator, denominator]",
    complex: "return [value.real, value.imag]",
    date: "return ....isoformat(), or datetime.combine(..., time())",
    time: "return ....isoformat()",
    timedelta: "return ....total_seconds()",
}


def _refuser(way: str) -> Callable[[object], object]:
    def refuse(value: object) -> object:
        raise _refuse(value, way)

    return refuse


for _kind, _way in _WAYS_OUT.items():
    simplify.register(_kind, _refuser(_way))


# --- Types of packages that are never imported here: if such a value exists, its package has been.


def _numpy(value: Any) -> object:
    numpy = sys.modules["numpy"]
    if not isinstance(value, (numpy.generic, numpy.ndarray)):
        raise _refuse(value, "return a list or an array")
    kind = value.dtype.kind
    if kind in "mM":
        raise _refuse(value, "return ....astype('datetime64[s]').tolist(), or numbers: ....astype('int64')")
    if kind == "V":
        raise _refuse(value, "return its fields, each an array")
    if kind == "f":
        return value.astype("float64").tolist()  # from a long double .tolist() would make a long double again
    return value.tolist()


def _pandas(value: Any) -> object:
    name = type(value).__name__
    ways = {"DataFrame": 'return ....to_dict("records")', "Series": "return ....tolist(), or ....to_dict()"}
    raise _refuse(value, ways.get(name, "return ....tolist(), or str(...)"))


def _xmlrpc(value: Any) -> object:
    """The wrappers of Python's own client."""
    if type(value).__name__ == "Binary":
        return value.data
    if type(value).__name__ == "DateTime":
        return read_datetime(value.value)
    raise _refuse(value, "return its plain values")


_FOREIGN: dict[str, Callable[[Any], object]] = {"numpy": _numpy, "pandas": _pandas, "xmlrpc": _xmlrpc}
