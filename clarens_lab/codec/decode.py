"""XML-RPC bytes to Python values: strict, and bounded in time and memory whatever is sent.

expat does the lexing: it comes with Python, and knows every rule of XML. No handler of ours runs while it does: it
appends each piece of the document, tags as written and text, to a list (all in C), and a descent of one step a value
reads that list. A handler for every tag, as is usual, takes half as much time again. (lxml would be about as fast,
for a dependency and a tree of the whole document.)

What is read, beyond the letter of XML-RPC: `nil`, `i1`, `i2`, `i8` and `float`, bare or with the prefix `ex:`
(declared or not); an `int` of up to 64 bits, because py-xmlrpc writes any int so; doubles `nan`, `inf` and `-inf`,
as Python's client writes them; dates with dashes, and with a trailing `Z`, which gives an aware UTC datetime
(all others are naive). Attributes are refused, but for `xmlns` declarations on the outermost tag.
"""

import binascii
import contextlib
import functools
import itertools
import operator
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeAlias, TypeVar
from xml.parsers import expat

from clarens_lab import faults
from clarens_lab.codec.guard import as_utf8, look_over, short, shown

_T = TypeVar("_T")

Value: TypeAlias = "bool | int | float | str | bytes | datetime | list[Value] | dict[str, Value] | None"
"""What a decoded document holds, and what comes back from an encoded one."""

METHOD_NAME = re.compile(r"[\w.:/-]{1,255}")

LONGEST_DOUBLE = 1200  # of characters; the smallest double written out in full has 1,077
CHUNK = 64 * 1024  # of bytes: so much of the document is in pieces at one time


def decode_call(
    data: bytes, *, charset: str | None = None, depth: int = 200, digits: int = 20
) -> tuple[str, list[Value]]:
    """The method's name and the arguments of a methodCall document.

    `charset` is the transport's word on the encoding (it overrides the document's own), `depth` the most
    arrays and structs inside each other, `digits` the most digits of an int.
    """
    return _read(data, _Reader.call, charset, depth, digits)


def decode_response(data: bytes, *, charset: str | None = None, depth: int = 200, digits: int = 20) -> Value:
    """The value of a methodResponse document; a fault in it is raised as `faults.Fault`."""
    answer = _read(data, _Reader.response, charset, depth, digits)
    if isinstance(answer, faults.Fault):
        raise answer
    return answer


_WHITE = " \t\r\n"
_INT_CHARACTERS = "0123456789+-"
_DOUBLE_CHARACTERS = "0123456789+-.eE"


# --- Scalars: each reader gets a tag's text and raises ValueError with the reason.

_BITS = {"int": 64, "i1": 8, "i2": 16, "i4": 32, "i8": 64, "ex:i1": 8, "ex:i2": 16, "ex:i8": 64}


def _int_reader(bits: int, digits: int) -> Callable[[str], int]:
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1

    def read(text: str) -> int:
        if len(text) > digits and len(text.lstrip("+-")) > digits:
            raise ValueError(f"has more than {digits} digits")
        if text.strip(_INT_CHARACTERS):  # else int() would also take 1_000, spaces and other scripts' digits
            raise ValueError("is no integer")
        try:
            number = int(text)
        except ValueError:
            raise ValueError("is no integer") from None
        if not least <= number <= most:
            raise ValueError(f"is beyond {bits} bits")
        return number

    return read


def _boolean(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("is neither 0 nor 1")
    return text == "1"


_NOT_FINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def _double(text: str) -> float:
    if text in _NOT_FINITE:
        return _NOT_FINITE[text]
    if len(text) > LONGEST_DOUBLE:
        raise ValueError(f"has more than {LONGEST_DOUBLE} characters")
    if text.strip(_DOUBLE_CHARACTERS):  # the same as for int()
        raise ValueError("is no double")
    try:
        number = float(text)
    except ValueError:
        raise ValueError("is no double") from None
    if number - number != 0:
        raise ValueError("is beyond the range of a double")
    return number


_DATETIME = re.compile(
    r"([0-9]{4})(?:([0-9]{2})([0-9]{2})|-([0-9]{2})-([0-9]{2}))T([0-9]{2}):([0-9]{2}):([0-9]{2})(Z?)", re.ASCII
)


def read_datetime(text: str) -> datetime:
    """The datetime of `20251224T18:30:00`, naive, or aware in UTC where a `Z` follows."""
    parts = _DATETIME.fullmatch(text)
    if not parts:
        raise ValueError("is no date and time like 20251224T18:30:00")
    year, month, day, dashed_month, dashed_day, hour, minute, second, utc = parts.groups()
    try:
        return datetime(
            int(year),
            int(month or dashed_month),
            int(day or dashed_day),
            int(hour),
            int(minute),
            int(second),
            tzinfo=UTC if utc else None,
        )
    except ValueError as error:
        raise ValueError(f"is no possible time ({error})") from None


def _base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.encode("ascii").translate(None, b" \t\r\n"), strict_mode=True)
    except UnicodeEncodeError:
        raise ValueError("is no base64 (it is not ASCII)") from None
    except binascii.Error as error:
        raise ValueError(f"is no base64 ({error})") from None


def _nil(text: str) -> None:
    if text.strip(_WHITE):
        raise ValueError("should be empty")


_READERS: dict[str, Callable[[str], Value]] = {
    "string": str,
    "boolean": _boolean,
    "double": _double,
    "float": _double,
    "ex:float": _double,
    "dateTime.iso8601": read_datetime,
    "base64": _base64,
    "nil": _nil,
    "ex:nil": _nil,
}


@functools.lru_cache(maxsize=8)
def _scalars(digits: int) -> dict[str, tuple[Callable[[str], Value], str]]:
    """Each scalar's opening tag, with its reader and its closing tag."""
    readers = _READERS | {name: _int_reader(bits, digits) for name, bits in _BITS.items()}
    return {f"<{name}>": (reader, f"</{name}>") for name, reader in readers.items()}


# --- Reading: expat's pieces, one after the other, and what they mean


def _read(data: bytes, document: Callable[["_Reader"], _T], charset: str | None, depth: int, digits: int) -> _T:
    data = as_utf8(data, charset)
    look_over(data)
    # Named here, the encoding overrides what the document declares: it was UTF-8 or is now.
    parser = expat.ParserCreate("utf-8")
    reader = _Reader(parser, data, depth, digits)
    try:
        answer = document(reader)
        reader.finish()
    except expat.ExpatError as error:
        raise _not_well_formed(error, parser.ErrorByteIndex, data) from None
    except _Refused as refusal:
        raise refusal.kind(f"{refusal}: {_position(data, reader.taken())}") from None
    except RecursionError:
        where = _position(data, reader.taken())
        raise faults.NotXmlRpc(f"Arrays and structs are nested too deep for the stack: {where}") from None
    finally:
        reader.close()
    return answer


class _Refused(Exception):
    """Why the document is refused; where is found out by whoever catches it."""

    def __init__(self, reason: str, kind: type[faults.ServerFault] = faults.NotXmlRpc) -> None:
        super().__init__(reason)
        self.kind = kind


class _Reader:
    """A descent through the pieces of one document.

    A piece is a tag or comment as written, or text; text that looks like either is marked by a NUL before it (XML has
    none). expat has seen to it that tags match; what is checked here is which tag, and that no text stands between.
    """

    def __init__(self, parser: expat.XMLParserType, data: bytes, depth: int, digits: int) -> None:
        self.parser = parser
        self.pieces: list[str] = []  # of the current chunk
        self.current: Iterator[str] = iter(())
        self.before = 0  # how many earlier chunks had
        _listen(parser, data, self.pieces.append)
        self.rest = itertools.chain.from_iterable(self.chunks(data))
        self.take = self.rest.__next__  # never fails before the end: expat answers for the last closing tag
        self.scalars = _scalars(digits)
        self.names: dict[str, str] = {}  # one object for each member name, however many rows have it
        self.depth = depth

    def chunks(self, data: bytes) -> Iterator[Iterator[str]]:
        for at in range(0, len(data), CHUNK):
            self.parser.Parse(data[at : at + CHUNK], at + CHUNK >= len(data))
            self.current = iter(self.pieces)
            yield self.current
            self.before += len(self.pieces)
            self.pieces.clear()

    def taken(self) -> int:
        """How many pieces have been read."""
        return self.before + len(self.pieces) - operator.length_hint(self.current)

    def close(self) -> None:
        """Let go of the document at once, not when the collector comes by."""
        del self.take, self.rest

    # The message

    def call(self) -> tuple[str, list[Value]]:
        self.root("<methodCall>")
        self.expect("<methodName>")
        name = self.text("</methodName>")
        if not METHOD_NAME.fullmatch(name):
            raise _Refused(f"{shown(name)} is no method name (1 to 255 letters, digits and _ . : / -)")
        arguments: list[Value] = []
        tag = self.tag()
        if tag == "<params>":
            while (tag := self.tag()) == "<param>":
                arguments.append(self.any_value(self.tag(), self.depth, "<value>"))
                self.expect("</param>")
            if tag != "</params>":
                self.misplaced(tag, "<param>")
            tag = self.tag()
        elif tag == "<params/>":
            tag = self.tag()
        if tag != "</methodCall>":
            self.misplaced(tag, "<params>, once, or </methodCall>")
        return name, arguments

    def response(self) -> "Value | faults.Fault":
        self.root("<methodResponse>")
        tag = self.tag()
        answer: Value | faults.Fault
        if tag == "<fault>":
            answer = self.fault(self.any_value(self.tag(), self.depth, "<value>"))
            self.expect("</fault>")
        elif tag == "<params>":
            self.expect("<param>")
            answer = self.any_value(self.tag(), self.depth, "<value>")
            self.expect("</param>")
            self.expect("</params>")
        else:
            self.misplaced(tag, "<params> or <fault>")
        self.expect("</methodResponse>")
        return answer

    def fault(self, value: object) -> faults.Fault:
        """The fault that was sent. More members are let pass: what failed matters more than the form."""
        match value:
            case {"faultCode": int(code), "faultString": str(text)} if not isinstance(code, bool):
                return faults.Fault(code, text)
        raise _Refused("The fault has no int faultCode and string faultString")

    def root(self, expected: str) -> None:
        """Pass the XML declaration and the outermost tag, which may declare namespaces."""
        piece = self.take()
        if piece.startswith("<?xml"):
            piece = self.take()
        while not _is_tag(piece):
            self.skip(piece)
            piece = self.take()
        if "=" in piece:
            if not _DECLARES.fullmatch(piece):
                self.attribute(piece)
            piece = f"{piece.split(maxsplit=1)[0]}>"
        if (tag := _tidy(piece)) != expected:
            self.misplaced(tag, expected)

    def finish(self) -> None:
        """Pass what follows the message: blanks and comments, for expat refuses all else but <?...?>."""
        for piece in self.rest:
            self.skip(piece)

    # Tags and text

    def tag(self, piece: str = "") -> str:
        """The next tag, as `<name>`, `</name>` or `<name/>`; `piece` is one that has been taken already."""
        piece = piece or self.take()
        while not _is_tag(piece):
            self.skip(piece)
            piece = self.take()
        return self.tidy(piece)

    def tidy(self, piece: str) -> str:
        if "=" in piece:
            self.attribute(piece)
        return _tidy(piece)

    def expect(self, expected: str) -> None:
        if (tag := self.tag()) != expected:
            self.misplaced(tag, expected)

    def skip(self, piece: str) -> None:
        """Pass what may stand between tags: blanks, comments, CDATA sections of blanks."""
        if piece.startswith("<!--"):
            return
        if piece.startswith("<?"):
            raise _Refused("Processing instructions are not read here")
        if piece.strip(_WHITE) and piece not in _CDATA:
            raise _Refused(f"The text {shown(piece)} stands where only tags may")

    def text(self, closing: str, *taken: str) -> str:
        """The text up to its closing tag; `taken` are pieces that have been taken already."""
        text, tag = self.text_and_tag(*taken)
        if tag != closing:
            self.misplaced(tag, closing)
        return text

    def text_and_tag(self, *taken: str) -> tuple[str, str]:
        """The text up to the next tag, and that tag; comments vanish."""
        parts: list[str] = []
        for piece in itertools.chain(taken, self.rest):
            if piece[0] == "\0":
                parts.append(piece[1:])
            elif _is_tag(piece):
                return "".join(parts), self.tidy(piece)
            elif (piece[0] == "<" and piece != "<") or piece in _CDATA:
                self.skip(piece)
            else:
                parts.append(piece)
        raise AssertionError("expat passed a document that ends inside a tag")

    def misplaced(self, tag: str, expected: str) -> NoReturn:
        raise _Refused(f"{short(tag)} stands where {expected} should")

    def attribute(self, tag: str) -> NoReturn:
        raise _Refused(f"{short(tag)} has an attribute; XML-RPC has none (xmlns on the outermost tag is let pass)")

    # Values. Where a piece is compared before a method is called, that is for speed: nearly all pieces are as expected.

    def any_value(self, tag: str, room: int, expected: str) -> Any:
        """The value that begins with `tag`, if it does."""
        if tag == "<value>":
            return self.value(room)
        if tag == "<value/>":
            return ""
        return self.misplaced(tag, expected)

    def value(self, room: int) -> Any:
        """The value whose <value> was just taken, up to and with </value>; `room` more arrays or structs may nest."""
        take = self.take
        tag = take()
        scalar = self.scalars.get(tag)
        if scalar is None and tag not in _CONTAINERS:
            text, tag = self.text_and_tag(tag)
            if tag == "</value>":
                return text
            if text.strip(_WHITE):
                raise _Refused(f"The text {shown(text)} stands beside {short(tag)}")
            scalar = self.scalars.get(tag)
        if scalar is not None:
            read, closing = scalar
            content = take()
            if content[0] in "<\0]":
                content = self.text(closing, content)
            elif (piece := take()) != closing:
                content = self.text(closing, content, piece)
            try:
                value = read(content)
            except ValueError as error:
                raise _Refused(f"{tag} holds {shown(content)}, which {error}", faults.NotWellFormed) from None
        else:
            value = self.other(tag, room)
        piece = take()
        if piece != "</value>" and (piece := self.tag(piece)) != "</value>":
            self.misplaced(piece, "</value>")
        return value

    def other(self, tag: str, room: int) -> Any:
        """An array, a struct, or a type's empty tag."""
        if tag in _CONTAINERS and not room:
            raise _Refused(f"Arrays and structs are nested deeper than {self.depth} levels")
        if tag == "<struct>":
            return self.struct(room - 1)
        if tag == "<array>":
            return self.array(room - 1)
        if tag == "<struct/>":
            return {}
        scalar = self.scalars.get(tag.replace("/>", ">"))
        if scalar is None:
            raise _Refused(f"{short(tag)} is no type of XML-RPC")
        try:
            return scalar[0]("")
        except ValueError as error:
            raise _Refused(f"{tag} is empty, which {error}", faults.NotWellFormed) from None

    def array(self, room: int) -> list[Any]:
        tag = self.tag()
        values: list[Any] = []
        if tag == "<data>":
            take, value = self.take, self.value
            while True:
                piece = take()
                if piece == "<value>":
                    values.append(value(room))
                elif piece != "\n":
                    tag = self.tag(piece)
                    if tag == "</data>":
                        break
                    values.append(self.any_value(tag, room, "<value>"))
        elif tag != "<data/>":
            self.misplaced(tag, "<data>")
        self.expect("</array>")
        return values

    def struct(self, room: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        take, value, names = self.take, self.value, self.names
        while True:
            piece = take()
            if piece == "\n":
                piece = take()
            if piece != "<member>" and (tag := self.tag(piece)) != "<member>":
                if tag == "</struct>":
                    return members
                self.misplaced(tag, "<member>")
            name = self.name()
            if name in members:
                raise _Refused(f"The struct has two members {shown(name)}")
            piece = take()
            if piece == "\n":
                piece = take()
            name = names.setdefault(name, name)
            members[name] = value(room) if piece == "<value>" else self.any_value(self.tag(piece), room, "<value>")
            piece = take()
            if piece == "\n":
                piece = take()
            if piece != "</member>" and (tag := self.tag(piece)) != "</member>":
                self.misplaced(tag, "</member>")

    def name(self) -> str:
        piece = self.take()
        if piece == "\n":
            piece = self.take()
        if piece != "<name>" and (tag := self.tag(piece)) != "<name>":
            return "" if tag == "<name/>" else self.misplaced(tag, "<name>")
        name = self.take()
        if name[0] in "<\0]":
            return self.text("</name>", name)
        piece = self.take()
        return name if piece == "</name>" else self.text("</name>", name, piece)


_CDATA = ("<![CDATA[", "]]>")
_CONTAINERS = frozenset(("<struct>", "<array>"))
_DECLARES = re.compile(r"<\w+(?:\s+xmlns(?::\w+)?\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*>")
_REFERENCES = (b"&l", b"&g", b"&#")  # what it takes for text to begin with < or ]]>, outside of CDATA sections


def _listen(parser: expat.XMLParserType, data: bytes, take: Callable[[str], object]) -> None:
    """Have the parser give every piece of the document to `take`."""

    def mark(text: str) -> None:
        take("\0" + text if text[0] in "<]" else text)

    # Merging text costs a fifth, and pays for long texts only. Unmerged, the character of a reference comes alone, and
    # a lone < is no tag: so only merged text and CDATA sections have to be marked, by a costly call for each.
    parser.buffer_text = merged = len(data) > 100 * data.count(b"<")
    marked = b"<!" in data or (merged and any(reference in data for reference in _REFERENCES))
    parser.DefaultHandler = take
    parser.CharacterDataHandler = mark if marked else take


def _is_tag(piece: str) -> bool:
    return piece[0] == "<" and piece[1:2] not in "!?"  # a lone < is text: "" is in every string


def _tidy(tag: str) -> str:
    return "".join(tag.split()) if tag[-2] in _WHITE or tag[-3] in _WHITE else tag


class _Found(Exception):
    pass


def _position(data: bytes, number: int) -> str:
    """Line and column of the document's so-many-th piece: read again, for keeping them all would cost every call."""
    parser = expat.ParserCreate("utf-8")
    numbers = itertools.count(1)
    line, column = 1, 0

    def look(piece: str) -> None:
        nonlocal line, column
        line, column = parser.CurrentLineNumber, parser.CurrentColumnNumber
        if next(numbers) == number:
            raise _Found

    _listen(parser, data, look)
    # The same chunks, for they end pieces too. (What is no XML further on is not the matter here.)
    with contextlib.suppress(_Found, expat.ExpatError):
        for at in range(0, len(data), CHUNK):
            parser.Parse(data[at : at + CHUNK], at + CHUNK >= len(data))
    return f"line {line}, column {column + 1}"


def _not_well_formed(error: expat.ExpatError, at: int, data: bytes) -> faults.ServerFault:
    """expat's complaint as a fault: about a character, else about the form."""
    where = f"line {error.lineno}, column {error.offset + 1}"
    code = error.code
    if code == _BAD_REFERENCE:
        return faults.InvalidCharacter(f"A character reference names no character of XML: {where}")
    if code == _INVALID_TOKEN:
        rest = data[at : at + 4]
        try:
            character = rest.decode("utf-8")[:1]
        except UnicodeDecodeError as problem:
            if problem.start == 0 and problem.reason != "unexpected end of data":
                return faults.InvalidCharacter(f"The bytes {rest!r} are no UTF-8: {where}")
            character = rest[: problem.start].decode("utf-8")[:1]
        if character and (character in "\ufffe\uffff" or (character < " " and character not in _WHITE)):
            return faults.InvalidCharacter(f"XML does not allow the character {character!r}: {where}")
    return faults.NotWellFormed(f"The document is no well-formed XML ({expat.ErrorString(code)}): {where}")


_BAD_REFERENCE = expat.errors.codes[expat.errors.XML_ERROR_BAD_CHAR_REF]
_INVALID_TOKEN = expat.errors.codes[expat.errors.XML_ERROR_INVALID_TOKEN]
