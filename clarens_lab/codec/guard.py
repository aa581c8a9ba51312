"""What is refused before the parser sees it: encodings that are not read, DTDs, entities, long tags.

Linear in the document, whatever it holds.
"""

import re
from typing import NoReturn

from clarens_lab import faults

LONGEST_TAG = 2048  # of bytes; a comment is held to it too, for expat keeps either whole before it says a word


def short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def shown(text: str) -> str:
    return repr(short(text))


# --- Encodings

_CODECS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "ascii": "ascii",
    "iso-8859-1": "latin-1",
    "latin-1": "latin-1",
    "latin1": "latin-1",
    "utf-16": "utf-16",
}
_DECLARATION = re.compile(
    r"<\?xml[ \t\r\n][^<>]{0,200}?[ \t\r\n]encoding[ \t\r\n]*=[ \t\r\n]*[\"']([^\"'<>]{0,80})[\"']"
)


def as_utf8(data: bytes, charset: str | None) -> bytes:
    """The document in UTF-8: a byte order mark says what it was, else the transport, else its own declaration."""
    if data.startswith(b"\xef\xbb\xbf"):
        mark, data = "utf-8", data[3:]
    else:
        mark = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
    head = data[:400].decode("utf-16" if mark == "utf-16" else "latin-1", "replace")
    declared = _DECLARATION.match(head)
    named = charset or (declared[1] if declared else "") or mark or "utf-8"
    codec = _CODECS.get(named.strip("\"' ").lower())
    if codec is None:
        raise faults.UnsupportedEncoding(
            f"The encoding {shown(named)} is not read here (utf-8, us-ascii, iso-8859-1, utf-16 are): line 1, column 1"
        )
    if codec != (mark or codec) or (codec == "utf-16" and not mark):
        has = f"has the byte order mark of {mark}" if mark else "has no byte order mark"
        raise faults.UnsupportedEncoding(f"The document is said to be {named}, but {has}: line 1, column 1")
    if codec == "utf-8":
        return data  # checked by expat as it reads
    try:
        return data.decode(codec).encode("utf-8")
    except UnicodeDecodeError as error:
        place = _place(data[: error.start].decode(codec, "replace").encode("utf-8"))
        raise faults.InvalidCharacter(
            f"The bytes {data[error.start : error.end][:4]!r} are no {named} ({error.reason}): {place}"
        ) from None


def _place(before: bytes) -> str:
    """Line and column of what follows `before`."""
    line = before.rpartition(b"\n")[2]
    return f"line {before.count(10) + 1}, column {len(line.decode('utf-8', 'replace')) + 1}"


# --- The look over the bytes, before expat sees them. expat keeps a piece of markup whole until it ends, and looks
# --- at it anew for each chunk; and it has entities. So long markup, DTDs and entities are refused here.

_HEAD = re.compile(
    rb"(?:<\?xml[ \t\r\n][^<>]{0,200}\?>)?[ \t\r\n]*"
    rb"(?:<[A-Za-z]+(?:[ \t\r\n]+xmlns(?::[A-Za-z]+)?[ \t\r\n]*=[ \t\r\n]*(?:\"[^\"<]*\"|'[^'<]*'))*[ \t\r\n]*>)?"
)
_ENTITY = rb"&(?!(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});)"
_STRANGE_ENTITY = re.compile(_ENTITY)
_STRANGE = re.compile(rb"<(?!/?[A-Za-z][A-Za-z0-9:.]{0,31}[ \t\r\n]{0,8}/?>)|" + _ENTITY)
_EQUALS = re.compile(rb"=[ \t\r\n\"']")
_TAG = re.compile(rb"<[^<>\"']*(?:\"[^\"<]*\"[^<>\"']*|'[^'<]*'[^<>\"']*)*>")


def look_over(data: bytes) -> None:
    """Refuse what expat should not be given; linear in the document, whatever it holds."""
    if not data.strip(b" \t\r\n"):
        raise faults.NotWellFormed("The document is empty: line 1, column 1")
    head = _HEAD.match(data, 0, LONGEST_TAG)
    begin = head.end() if head else 0
    if data.find(b"<!", begin) >= 0 or data.find(b"<?", begin) >= 0 or _EQUALS.search(data, begin):
        _look_closely(data, begin)
    else:  # no comment and no attribute anywhere, so that a tag simply ends at the next >
        _look_for_long_tags(data, begin)
        strange = _STRANGE_ENTITY.search(data, begin)
        if strange:
            _refuse_entity(data, strange.start())


def _look_for_long_tags(data: bytes, begin: int) -> None:
    """Only the pieces without < and > can be inside a long tag, so that most of the work is a search in C."""
    step = LONGEST_TAG // 2
    in_tag = False
    for at in range(begin, len(data), step):
        opening = data.rfind(b"<", at, at + step)
        closing = data.rfind(b">", at, at + step)
        if opening != closing:
            in_tag = opening > closing
        elif in_tag:
            _measure(data, data.rfind(b"<", 0, at), data.find(b">", at))


def _look_closely(data: bytes, at: int) -> None:
    """The same where comments, CDATA sections or attributes may hide a <, > or &."""
    while strange := _STRANGE.search(data, at):
        at = strange.start()
        if data[at] == ord("&"):
            _refuse_entity(data, at)
        elif data.startswith(b"<!--", at):
            end = data.find(b"-->", at + 4)
            _measure(data, at, end)
            at = end + 3
        elif data.startswith(b"<![CDATA[", at):
            end = data.find(b"]]>", at + 9)
            if end < 0:
                raise faults.NotWellFormed(f"A CDATA section does not end: {_place(data[:at])}")
            at = end + 3
        elif data.startswith(b"<!", at):
            raise faults.NotXmlRpc(f"Declarations like <!DOCTYPE> are not read here: {_place(data[:at])}")
        elif data.startswith((b"<?xml ", b"<?xml?"), at):
            raise faults.NotWellFormed(f"<?xml ...?> is not at the very start: {_place(data[:at])}")
        elif data.startswith(b"<?", at):
            raise faults.NotXmlRpc(f"Processing instructions are not read here: {_place(data[:at])}")
        else:
            tag = _TAG.match(data, at, at + LONGEST_TAG)
            if not tag:
                if data.find(b"<", at + 1, at + LONGEST_TAG) < 0:
                    _measure(data, at, -1)
                return  # a < inside a tag, or the document ends in one: there expat stops
            at = tag.end()


def _measure(data: bytes, at: int, end: int) -> None:
    """Refuse the markup that begins at `at` if it is too long; `end` is -1 where it does not end."""
    if (end if end >= 0 else len(data)) - at >= LONGEST_TAG:
        raise faults.NotXmlRpc(f"A tag or comment is longer than {LONGEST_TAG} bytes: {_place(data[:at])}")
    if end < 0:
        raise faults.NotWellFormed(f"The document ends inside a tag or comment: {_place(data[:at])}")


def _refuse_entity(data: bytes, at: int) -> NoReturn:
    named = data[at : at + 20].decode("utf-8", "replace").partition(";")[0]
    raise faults.NotWellFormed(
        f"{named!r} is no entity of XML-RPC (&amp; &lt; &gt; &quot; &apos; and &#NUMBER; are): {_place(data[:at])}"
    )
