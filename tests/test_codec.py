"""What the codec reads, what it writes, and what it refuses to write."""

import array
import collections
import dataclasses
import decimal
import enum
import fractions
import math
import subprocess
import sys
import uuid
import xmlrpc.client
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone

import numpy as np
import pytest

from clarens_lab import codec, faults


def read(inside: str) -> object:
    document = f"<methodResponse><params><param>{inside}</param></params></methodResponse>"
    return codec.decode_response(document.encode())


def returned(value: object) -> object:
    """The value as a caller gets it."""
    return codec.decode_response(codec.encode_response(value))


def refusal(value: object) -> faults.CannotEncode:
    with pytest.raises(faults.CannotEncode) as refused:
        codec.encode_response(value)
    assert refused.value.code == -32603
    return refused.value


@pytest.mark.parametrize(
    ("inside", "value"),
    [
        ("<value>text</value>", "text"),
        ("<value> two  words\n</value>", " two  words\n"),
        ("<value></value>", ""),
        ("<value/>", ""),
        ("<value><string/></value>", ""),
        ("<value><string></string></value>", ""),
        ("<value>\n <string> x </string>\n</value>", " x "),
        ("<value ><string >x</string ></value >", "x"),
        ("<value>a<!-- b -->c<![CDATA[<d> & e]]>f</value>", "ac<d> & ef"),
        ("<value><string><![CDATA[]]></string></value>", ""),
        ("<value><string><![CDATA[<int>]]]]><![CDATA[>]]></string></value>", "<int>]]>"),
        ("<value>&lt;int&gt;</value>", "<int>"),
        ("<value><string>&lt;/string&gt;</string></value>", "</string>"),
        ("<value>]]&gt;</value>", "]]>"),
        ("<value>]</value>", "]"),
        ("<value>&amp;lt;</value>", "&lt;"),
        ("<value>a\r\nb\rc&#13;d&#xA;</value>", "a\nb\nc\rd\n"),
        ("<value><!-- > ' --><int>1</int></value>", 1),
        ("<value><int>-0012</int></value>", -12),
        ("<value><int>+5</int></value>", 5),
        ("<value><int>1<!-- -->2</int></value>", 12),
        ("<value><int>2147483648</int></value>", 2**31),
        ("<value><i4>2147483647</i4></value>", 2**31 - 1),
        ("<value><i8>-9223372036854775808</i8></value>", -(2**63)),
        ("<value><i1>-128</i1></value>", -128),
        ("<value><ex:i1>127</ex:i1></value>", 127),
        ("<value><ex:i2>32767</ex:i2></value>", 32767),
        ("<value><ex:i8>1</ex:i8></value>", 1),
        ("<value><ex:nil/></value>", None),
        ("<value><nil></nil></value>", None),
        ("<value><nil /></value>", None),
        ("<value><boolean>1</boolean></value>", True),
        ("<value><boolean>0</boolean></value>", False),
        ("<value><double>-1.5e-3</double></value>", -0.0015),
        ("<value><double>.5</double></value>", 0.5),
        ("<value><float>2</float></value>", 2.0),
        ("<value><ex:float>2.5</ex:float></value>", 2.5),
        ("<value><double>-inf</double></value>", -math.inf),
        ("<value><dateTime.iso8601>20251224T18:30:05</dateTime.iso8601></value>", datetime(2025, 12, 24, 18, 30, 5)),
        ("<value><dateTime.iso8601>2025-12-24T18:30:05</dateTime.iso8601></value>", datetime(2025, 12, 24, 18, 30, 5)),
        (
            "<value><dateTime.iso8601>20251224T18:30:05Z</dateTime.iso8601></value>",
            datetime(2025, 12, 24, 18, 30, 5, tzinfo=UTC),
        ),
        ("<value><dateTime.iso8601>00010101T00:00:00</dateTime.iso8601></value>", datetime(1, 1, 1)),
        ("<value><base64>\n YWJj\r\n ZA==\n</base64></value>", b"abcd"),
        ("<value><base64/></value>", b""),
        ("<value><array><data/></array></value>", []),
        ("<value><array>\n<data>\n<value/> <value ><i4>1</i4></value>\n</data></array></value>", ["", 1]),
        ("<value><struct/></value>", {}),
        ("<value><struct> <!-- none --> </struct></value>", {}),
        ("<value><struct><member><name/><value/></member></struct></value>", {"": ""}),
        (
            "<value><struct><member><name>&lt;a</name> <value ><nil/></value></member></struct></value>",
            {"<a": None},
        ),
    ],
)
def test_every_way_of_writing_a_value_is_read(inside: str, value: object) -> None:
    """
    5.5.48: types, prefixes, untyped values, comments, CDATA sections and blanks are read as the rules say.
    """
    result = read(inside)

    assert result == value
    assert type(result) is type(value)


def test_nfc_and_nfd_text_stay_what_they_are() -> None:
    """
    5.5.48: text is never normalised.
    """
    assert returned(["\u00e9", "e\u0301"]) == ["\u00e9", "e\u0301"]


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1", "utf-16", "utf-8-sig"])
def test_the_documented_encodings_are_read(encoding: str) -> None:
    """
    5.5.50: UTF-8, ISO 8859-1 and UTF-16 with its mark are read, said by the mark, the declaration or the transport.
    """
    name = encoding.removesuffix("-sig")
    document = (
        "<methodCall><methodName>m</methodName><params><param><value>é &lt; ü</value></param></params></methodCall>"
    )
    declared = f'<?xml version="1.0" encoding="{name}"?>\n{document}'.encode(encoding)

    assert codec.decode_call(declared) == ("m", ["é < ü"])
    assert codec.decode_call(document.encode(encoding), charset=name.upper()) == ("m", ["é < ü"])


def test_the_transport_s_charset_overrides_the_document_s() -> None:
    """
    5.5.50: what the header says of the encoding is believed before the declaration; an unknown one is refused.
    """
    document = b'<?xml version="1.0" encoding="koi8-r"?>' + codec.encode_call("m", ["\xe9"]).partition(b"?>")[2]

    assert codec.decode_call(document, charset='"utf-8"') == ("m", ["\xe9"])
    with pytest.raises(faults.UnsupportedEncoding, match="koi8-r"):
        codec.decode_call(document)


@pytest.mark.parametrize("params", ["", "<params/>", "<params></params>", "\n<params>\n</params>\n"])
def test_a_call_may_have_no_arguments(params: str) -> None:
    """
    A call with empty params, or none, has no arguments.
    """
    document = f"<methodCall>\n<methodName>a.b_c:d/e-f</methodName>{params}</methodCall>\n<!-- end -->\n"

    assert codec.decode_call(document.encode()) == ("a.b_c:d/e-f", [])


def test_namespaces_may_be_declared_on_the_outermost_tag() -> None:
    """
    The declaration that goes with `ex:` is let pass on the outermost tag.
    """
    document = (
        b'<?xml version="1.0"?><methodCall xmlns:ex="http://ws.apache.org/xmlrpc/namespaces/extensions">'
        b"<methodName>m</methodName><params><param><value><ex:nil/></value></param></params></methodCall>"
    )

    assert codec.decode_call(document) == ("m", [None])
    assert codec.decode_call(b"<!-- first -->" + document[21:]) == ("m", [None])


@pytest.mark.parametrize("size", [65_500, 65_536, 65_540, 200_000])
def test_long_documents_are_read_whole(size: int) -> None:
    """
    Where a document is cut for reading leaves no trace in its values.
    """
    values = ["é" * size, ["x" * 1000 + "\n&<"] * (size // 1000), {"name" * 50: "ü\r\n" * (size // 3)}]

    assert returned(values) == values


def test_a_fault_in_an_answer_is_raised() -> None:
    """
    A fault is raised with its number and text, whatever else the server put beside them.
    """
    with pytest.raises(faults.Fault) as raised:
        codec.decode_response(codec.encode_fault(2001, "no <such> run\r\n"))
    assert (raised.value.code, raised.value.text) == (2001, "no <such> run\r\n")

    for bad in ("<value/>", "<value><struct/></value>"):
        document = f"<methodResponse><fault>{bad}</fault></methodResponse>"
        with pytest.raises(faults.NotXmlRpc, match="faultCode"):
            codec.decode_response(document.encode())


@pytest.mark.parametrize("inside", ["", "<params/>", "<params><param><value/></param><param><value/></param></params>"])
def test_an_answer_has_exactly_one_value(inside: str) -> None:
    """
    An answer with no value, or with two, is refused.
    """
    with pytest.raises(faults.NotXmlRpc):
        codec.decode_response(f"<methodResponse>{inside}</methodResponse>".encode())


def test_a_fault_is_written_whatever_its_text_and_number() -> None:
    """
    In a fault, what XML cannot carry is shown as Python writes it, and a number beyond 32 bits is the nearest within.
    """
    with pytest.raises(xmlrpc.client.Fault) as raised:
        xmlrpc.client.loads(codec.encode_fault(-(10**20), "a\x00b\ud800c\ufffed\x1b"))

    assert raised.value.faultString == "a\\x00b\\ud800c\\ufffed\\x1b"
    assert raised.value.faultCode == -(2**31)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str, enum.Enum):  # noqa: UP042  # the older way, which services still have
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int
    label: str


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024, RUF100


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ((1, [2], {3}), [1, [2], [3]]),
        (frozenset({"a"}), ["a"]),
        (range(3), [0, 1, 2]),
        (range(100), list(range(100))),
        (collections.deque([1]), [1]),
        (array.array("d", [1.5]), [1.5]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        (Pair(1, 2), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.UserDict(a=1), {"a": 1}),
        (collections.UserString("a"), "a"),
        (bytearray(b"a"), b"a"),
        (memoryview(b"abc")[1:], b"bc"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        ({Word.YES: Word.YES}, {"yes": "yes"}),
        (Point(1, "a"), {"x": 1, "label": "a"}),
        (datetime(33, 4, 3, 15), datetime(33, 4, 3, 15)),
        (datetime(2025, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))), datetime(2024, 12, 31, 23)),
        ([True] * 20, [True] * 20),
        ([1, True] * 20, [1, True] * 20),
        ([2**40] * 20, [2**40] * 20),
        (np.float64(1.5), 1.5),
        (np.float32(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.int64(2**40), 2**40),
        (np.uint8(255), 255),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        ({np.str_("a"): 1}, {"a": 1}),
        (np.bytes_(b"a"), b"a"),
        (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        (np.array(7), 7),
        (np.array([None, "x"]), [None, "x"]),
        (xmlrpc.client.Binary(b"a"), b"a"),
        (xmlrpc.client.DateTime("20250101T00:00:00"), datetime(2025, 1, 1)),
    ],
    ids=repr,
)
def test_what_has_a_plain_counterpart_is_written_as_that(value: object, back: object) -> None:
    """
    5.5.48: sequences, mappings, dataclasses, enums, numpy's numbers and arrays arrive as plain values.
    """
    result = returned(value)

    assert result == back
    assert type(result) is type(back)


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("value", "way"),
    [
        (2**63, "beyond 64 bits"),
        (-(2**63) - 1, "beyond 64 bits"),
        (np.uint64(2**63), "beyond 64 bits"),
        ("\x00", "return bytes"),
        ("a\x1bb", "return bytes"),
        ("\ud800", "XML cannot carry"),
        ("\ufffe", "XML cannot carry"),
        ("\uffff" * 3, "XML cannot carry"),
        (datetime(2025, 1, 1, microsecond=5), "replace(microsecond=0)"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))), "out of range"),
        (decimal.Decimal("1.5"), "float(...)"),
        (fractions.Fraction(1, 3), "float(...)"),
        (1j, "[value.real, value.imag]"),
        (date(2025, 1, 1), "isoformat()"),
        (time(1), "isoformat()"),
        (timedelta(1), "total_seconds()"),
        (generator(), "return list(...)"),
        (map(str, [1]), "return list(...)"),
        (uuid.UUID(int=1), "clarens_lab.codec.simplify.register(UUID"),
        (object(), "register"),
        (len, "when called"),
        (Point, "when called"),
        ({1: 2}, "{str(key): value"),
        ({None: 2}, "{str(key): value"),
        ({"a\x00": 2}, "its key 'a\\x00'"),
        (np.datetime64("2025-01-01"), "astype"),
        (np.complex128(1j), "[value.real, value.imag]"),
        (np.zeros(2, dtype=[("a", int)]), "its fields"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_the_wire_cannot_carry_is_refused_with_the_way_out(value: object, way: str) -> None:
    """
    5.5.48: such a value is refused with its path and what to return in its place.
    """
    assert way in str(refusal(value))
    assert refusal(value).path == "result"
    assert refusal({"when": [0, 1, 2, value]}).path == "result['when'][3]"
    assert refusal([[0], Point(0, value)]).path == "result[1]['label']"  # type: ignore[arg-type]


def test_a_refused_argument_is_named_by_its_number() -> None:
    """
    In a call the path begins with the argument's number, from 1.
    """
    with pytest.raises(faults.CannotEncode, match=r"^argument 2\['x'\]: "):
        codec.encode_call("m", [1, {"x": object()}])


@pytest.mark.parametrize("name", ["", "a b", "a\x00", "<b>"])
def test_a_bad_method_name_is_not_sent(name: str) -> None:
    """
    What would be refused as a method's name is not written as one.
    """
    with pytest.raises(faults.CannotEncode, match="method name"):
        codec.encode_call(name, [])


def test_values_without_end_are_refused() -> None:
    """
    A value that contains itself, or nests deeper than 200 levels, is refused with the path; 200 levels pass.
    """
    loop: dict[str, object] = {}
    loop["a"] = [loop, loop]
    deep: object = 1
    for _ in range(200):
        deep = [deep]

    assert refusal(loop).path.startswith("result['a'][0]['a'][0]")
    assert len(str(refusal(loop))) < 400
    assert returned(deep) == deep
    assert "200 levels" in str(refusal([deep]))


def test_a_type_can_register_its_encoder() -> None:
    """
    `simplify.register` makes a type one that the wire carries; an encoder that fails is named.
    """

    class Vector:
        def __init__(self, *numbers: float) -> None:
            self.numbers = numbers

    class Broken:
        pass

    class Stubborn:
        pass

    codec.simplify.register(Vector, lambda vector: vector.numbers)
    codec.simplify.register(Broken, lambda broken: broken.nothing)
    codec.simplify.register(Stubborn, lambda stubborn: stubborn)

    assert returned({"v": Vector(1.5, 2.5)}) == {"v": [1.5, 2.5]}
    assert "raised AttributeError" in str(refusal(Broken()))
    assert "something simpler" in str(refusal(Stubborn()))


def test_a_pandas_frame_is_refused_with_the_way_out() -> None:
    """
    A DataFrame is answered with `.to_dict("records")`.
    """
    frame = type("DataFrame", (), {"__module__": "pandas.core.frame"})()  # pandas is not among the test packages

    assert '.to_dict("records")' in str(refusal(frame))


def test_documents_are_utf_8_and_say_so() -> None:
    """
    Every document begins with the XML declaration, is UTF-8, and has <nil/>, <i8> and &#13; where they belong.
    """
    document = codec.encode_response([None, 2**31, -(2**31), "é\r\n"])

    assert document.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<methodResponse>')
    assert b"<nil/>" in document
    assert b"<i8>2147483648</i8>" in document
    assert b"<int>-2147483648</int>" in document
    assert "é&#13;\n".encode() in document


def test_the_codec_needs_neither_numpy_nor_tornado() -> None:
    """
    Importing the codec, and using it, imports no numpy, tornado, asyncio or xmlrpc.
    """
    script = (
        "import sys; from clarens_lab import codec; codec.decode_response(codec.encode_response([1, {'a': 'b'}]));"
        "print({'numpy', 'tornado', 'asyncio', 'xmlrpc', 'xmlrpc.client'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
