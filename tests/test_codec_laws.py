"""Laws of the codec: what is encoded decodes to itself, and Python's own client reads and writes the same."""

import math
import xmlrpc.client
from datetime import datetime, timedelta, timezone
from typing import Any
from xml.parsers.expat import ExpatError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clarens_lab import codec, faults

LAW = settings(deadline=None, max_examples=100)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff").filter(
    lambda character: character >= " " or character in "\t\n\r"
))  # fmt: skip
whole_seconds = st.datetimes().map(lambda moment: moment.replace(microsecond=0, fold=0))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary()
    | whole_seconds
)


def _nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=12) | st.dictionaries(texts, inner, max_size=5), max_leaves=20
    )


values = _nested(scalars)


@LAW
@given(values)
def test_a_value_comes_back_from_an_answer_as_it_was(value: object) -> None:
    """
    decode(encode(v)) == v for everything the wire can carry, with the very same types.
    """
    back = codec.decode_response(codec.encode_response(value))

    assert repr(back) == repr(value)


@LAW
@given(st.lists(values, max_size=4))
def test_arguments_come_back_from_a_call_as_they_were(arguments: list[object]) -> None:
    """
    A call's name and arguments arrive as they were sent.
    """
    assert codec.decode_call(codec.encode_call("a.b", arguments)) == ("a.b", arguments)


@LAW
@given(_nested(st.lists(scalars, max_size=3).map(tuple) | st.sets(st.integers(0, 99)) | st.sets(texts).map(frozenset)))
def test_tuples_and_sets_come_back_as_lists(value: object) -> None:
    """
    Tuples, sets and frozensets are arrays on the wire, and lists when they arrive.
    """

    def as_lists(value: object) -> object:
        if isinstance(value, dict):
            return {key: as_lists(item) for key, item in value.items()}
        return [as_lists(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value

    assert codec.decode_response(codec.encode_response(value)) == as_lists(value)


@LAW
@given(st.lists(st.floats(), max_size=20))
def test_nan_comes_back_as_nan(numbers: list[float]) -> None:
    """
    5.5.48: every double survives, NaN and the infinities too.
    """
    back = codec.decode_response(codec.encode_response(numbers))

    assert isinstance(back, list)
    assert [str(number) for number in back] == [str(number) for number in numbers]


@LAW
@given(st.datetimes(), st.lists(st.integers(), max_size=3))
def test_a_fraction_of_a_second_is_refused_with_its_path(moment: datetime, before: list[int]) -> None:
    """
    Datetimes go to the second, and a fraction is refused, not dropped.
    """
    before = [number % 100 for number in before]
    value = {"when": [*before, moment]}

    if moment.microsecond:
        with pytest.raises(faults.CannotEncode) as refused:
            codec.encode_response(value)
        assert refused.value.path == f"result['when'][{len(before)}]"
    else:
        assert codec.decode_response(codec.encode_response(value)) == value


@LAW
@given(whole_seconds.filter(lambda moment: 2 < moment.year < 9998), st.integers(-1439, 1439))
def test_an_aware_datetime_is_written_as_utc(moment: datetime, minutes: int) -> None:
    """
    5.5.48: an aware datetime arrives as the same moment in UTC, naive as all datetimes of XML-RPC.
    """
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))

    assert codec.decode_response(codec.encode_response(aware)) == moment - timedelta(minutes=minutes)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float) and math.isnan(ours):
        return math.isnan(theirs)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in ours)
    return type(ours) is type(theirs) and bool(ours == theirs)


@LAW
@given(values)
def test_what_is_written_python_s_client_reads_the_same(value: object) -> None:
    """
    Whatever is encoded, xmlrpc.client reads as the same value.
    """
    (theirs,), _ = xmlrpc.client.loads(codec.encode_response(value), use_builtin_types=True)

    assert _same(value, theirs)


pieces = st.sampled_from(
    [
        "<value>", "</value>", "<int>", "</int>", "<string>", "</string>", "<double>", "</double>", "<boolean>",
        "</boolean>", "<array><data>", "</data></array>", "<struct>", "</struct>", "<member>", "</member>",
        "<name>a</name>", "<name>b</name>", "<nil/>", "<value/>", "1", "-7", "2147483648", "1.5", "nan", " ", "\n",
        "x", "&lt;", "&#13;", "]]&gt;", "<!-- c -->", "<![CDATA[<b>]]>", "<base64>", "</base64>", "YQ==", "\r\n",
        "<value><int>5</int></value>", "<value>text</value>", "<value><i8>5</i8></value>", "<string/>",
    ]
)  # fmt: skip
documents = (
    st.lists(pieces, max_size=8).map("".join)
    | _nested(scalars | st.floats()).map(lambda value: codec.encode_response(value).decode().split("param>")[1][:-2])
    | st.tuples(st.sampled_from(["int", "i4", "double", "string", "boolean", "base64", "dateTime.iso8601"]),
                st.text("0123456789+-.eE_nai \n=T:Zé", max_size=18)).map(
        lambda pair: f"<value><{pair[0]}>{pair[1]}</{pair[0]}></value>"
    )
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(documents)
def test_we_agree_with_python_s_client_wherever_both_accept(inside: str) -> None:
    """
    A document that both decoders take means the same to both; and ours fails with a fault or not at all.
    """
    document = f"<methodResponse><params><param>{inside}</param></params></methodResponse>".encode()
    try:
        ours = codec.decode_response(document)
    except faults.Fault as fault:
        assert fault.code in (-32700, -32600)  # noqa: PT017  # that it raises nothing is as good
        return
    try:
        theirs, _ = xmlrpc.client.loads(document, use_builtin_types=True)
    except (ExpatError, xmlrpc.client.Error, ValueError, TypeError, IndexError):
        return
    assert _same([ours], theirs)


@LAW
@given(st.binary(max_size=60), st.integers(0, 200), st.booleans())
def test_damaged_bytes_give_a_fault_and_nothing_else(noise: bytes, at: int, cut: bool) -> None:
    """
    Whatever is done to a document, the answer is a value or a fault of the documented numbers.
    """
    good = codec.encode_call("a.b", [1, "zwölf", {"x": [2.5, b"123", None]}])
    bad = good[:at] + noise + (b"" if cut else good[at:])
    try:
        codec.decode_call(bad)
    except faults.Fault as fault:
        assert fault.code in (-32700, -32701, -32702, -32600)  # noqa: PT017  # that it raises nothing is as good


@LAW
@given(st.integers(), st.text())
def test_a_fault_is_always_written(code: int, text: str) -> None:
    """
    Any number and any text make a fault that every reader takes.
    """
    document = codec.encode_fault(code, text)

    with pytest.raises(faults.Fault) as ours:
        codec.decode_response(document)
    with pytest.raises(xmlrpc.client.Fault) as theirs:
        xmlrpc.client.loads(document)
    assert (ours.value.code, ours.value.text) == (theirs.value.faultCode, theirs.value.faultString)
    if -(2**31) <= code < 2**31:
        assert ours.value.code == code
