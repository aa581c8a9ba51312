"""Hostile and broken documents: each gets its number, says where, and costs little."""

import contextlib
import time
import tracemalloc

import pytest

from clarens_lab import codec, faults


def call(inside: str) -> bytes:
    return f"<methodCall><methodName>m</methodName><params><param>{inside}</param></params></methodCall>".encode()


def typed(tag: str, text: str) -> bytes:
    return call(f"<value><{tag}>{text}</{tag}></value>")


MEMBER = "<member><name>a</name><value>1</value></member>"
PLACED = r"line \d+, column \d+ \(-\d+\)$"

BAD: dict[str, tuple[int, bytes]] = {
    "empty": (-32700, b""),
    "blank": (-32700, b" \n "),
    "no XML": (-32700, b"hello"),
    "JSON": (-32700, b'{"method": "m"}'),
    "truncated": (-32700, call("<value>1</value>")[:-9]),
    "cut in a tag": (-32700, call("<value>1</value>")[:-2]),
    "trailing junk": (-32700, call("<value>1</value>") + b"junk"),
    "a second message": (-32700, call("<value>1</value>") * 2),
    "tags that do not match": (-32700, call("<value><int>1</string></value>")),
    "late declaration": (-32700, b'\n<?xml version="1.0"?>' + call("<value/>")),
    "DTD without entities": (-32600, b"<!DOCTYPE methodCall>" + call("<value>1</value>")),
    "billion laughs": (-32600, b'<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>' + call("<value>&b;</value>")),
    "external entity": (-32600, b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + call("<value>&x;</value>")),
    "parameter entity": (-32600, b'<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]>' + call("<value/>")),
    "undeclared entity": (-32700, call("<value>&x;</value>")),
    "processing instruction": (-32600, call("<value><?php exit ?></value>")),
    "processing instruction at the end": (-32600, call("<value/>") + b"<?php exit ?>"),
    "attribute": (-32600, call('<value type="int">1</value>')),
    "attribute on the outermost tag": (-32600, b'<methodCall a="1"><methodName>m</methodName></methodCall>'),
    "i4 too large": (-32700, typed("i4", "2147483648")),
    "i1 too large": (-32700, typed("i1", "128")),
    "i2 too small": (-32700, typed("i2", "-32769")),
    "i8 too large": (-32700, typed("i8", "9223372036854775808")),
    "int too large": (-32700, typed("int", "9223372036854775808")),
    "int of 4,001 digits": (-32700, typed("int", "1" * 4001)),
    "int of 4,301 digits": (-32700, typed("int", "1" * 4301)),
    "int with underscore": (-32700, typed("int", "1_000")),
    "int in Arabic digits": (-32700, typed("int", "١٢")),
    "int with blanks": (-32700, typed("int", " 1 ")),
    "int with a point": (-32700, typed("int", "1.0")),
    "int of signs": (-32700, typed("int", "+-1")),
    "empty int": (-32700, typed("int", "")),
    "empty int tag": (-32700, call("<value><int/></value>")),
    "empty boolean": (-32700, call("<value><boolean/></value>")),
    "boolean 2": (-32700, typed("boolean", "2")),
    "boolean true": (-32700, typed("boolean", "true")),
    "double with underscore": (-32700, typed("double", "1_0.5")),
    "double out of range": (-32700, typed("double", "1e999")),
    "double of a word": (-32700, typed("double", "Infinity")),
    "double in hex": (-32700, typed("double", "0x1p3")),
    "double of a megabyte": (-32700, typed("double", "9" * 1_000_000)),
    "30 February": (-32700, typed("dateTime.iso8601", "20240230T00:00:00")),
    "25 o'clock": (-32700, typed("dateTime.iso8601", "20240220T25:00:00")),
    "half dashes": (-32700, typed("dateTime.iso8601", "2024-0220T05:00:00")),
    "no date": (-32700, typed("dateTime.iso8601", "yesterday")),
    "date with a line's end": (-32700, typed("dateTime.iso8601", "20240220T05:00:00\n")),
    "base64 of other characters": (-32700, typed("base64", "YW*=")),
    "base64 without padding": (-32700, typed("base64", "YQ")),
    "base64 with data after padding": (-32700, typed("base64", "YQ==YQ==")),
    "base64 that is not ASCII": (-32700, typed("base64", "é")),
    "nil with text": (-32700, typed("nil", "x")),
    "two children": (-32600, call("<value><int>1</int><int>2</int></value>")),
    "text before a type": (-32600, call("<value>x<int>1</int></value>")),
    "text after a type": (-32600, call("<value><int>1</int>x</value>")),
    "CDATA after a type": (-32600, call("<value><int>1</int><![CDATA[x]]></value>")),
    "text in an array": (-32600, call("<value><array><data>x</data></array></value>")),
    "text in a struct": (-32600, call(f"<value><struct>x{MEMBER}</struct></value>")),
    "tag in a scalar": (-32600, call("<value><int><b>1</b></int></value>")),
    "duplicate member": (-32600, call(f"<value><struct>{MEMBER}{MEMBER}</struct></value>")),
    "member without name": (-32600, call("<value><struct><member><value>1</value></member></struct></value>")),
    "member without value": (-32600, call("<value><struct><member><name>a</name></member></struct></value>")),
    "empty member": (-32600, call("<value><struct><member/></struct></value>")),
    "member with two values": (
        -32600,
        call("<value><struct><member><name>a</name><value/><value/></member></struct></value>"),
    ),
    "value before name": (
        -32600,
        call("<value><struct><member><value/><name>a</name></member></struct></value>"),
    ),
    "array without data": (-32600, call("<value><array></array></value>")),
    "array with two datas": (-32600, call("<value><array><data/><data/></array></value>")),
    "unknown type": (-32600, call("<value><bigdecimal>1</bigdecimal></value>")),
    "unknown empty type": (-32600, call("<value><bigdecimal/></value>")),
    "unknown prefix": (-32600, call("<value><ey:nil/></value>")),
    "value in value": (-32600, call("<value><value>1</value></value>")),
    "param without value": (-32600, call("")),
    "param with two values": (-32600, call("<value/><value/>")),
    "text in param": (-32600, call("x<value/>")),
    "other document": (-32600, b"<html></html>"),
    "an answer": (-32600, codec.encode_response(1)),
    "no method name": (-32600, b"<methodCall><params/></methodCall>"),
    "empty call": (-32600, b"<methodCall/>"),
    "empty method name": (-32600, b"<methodCall><methodName></methodName></methodCall>"),
    "two method names": (-32600, b"<methodCall><methodName>m</methodName><methodName>n</methodName></methodCall>"),
    "two params": (-32600, b"<methodCall><methodName>m</methodName><params/><params/></methodCall>"),
    "method name with a blank": (-32600, b"<methodCall><methodName>a b</methodName></methodCall>"),
    "method name with markup": (-32600, b"<methodCall><methodName>&lt;b&gt;</methodName></methodCall>"),
    "method name of 256": (-32600, b"<methodCall><methodName>" + b"a" * 256 + b"</methodName></methodCall>"),
    "201 arrays": (-32600, call("<value><array><data>" * 201 + "</data></array></value>" * 201)),
    "NUL": (-32702, call("<value>a\0b</value>")),
    "escape": (-32702, call("<value>a\x1bb</value>")),
    "reference to NUL": (-32702, call("<value>&#0;</value>")),
    "reference to a control": (-32702, call("<value>&#x1F;</value>")),
    "reference to a surrogate": (-32702, call("<value>&#xD800;</value>")),
    "U+FFFE": (-32702, call("<value>\ufffe</value>")),
    "U+FFFF by reference": (-32702, call("<value>&#xFFFF;</value>")),
    "bytes that are no UTF-8": (-32702, call("<value>x</value>").replace(b"x", b"\xff\xfe")),
    "surrogate in UTF-8": (-32702, call("<value>x</value>").replace(b"x", b"\xed\xa0\x80")),
    "bytes that are no ASCII": (-32702, b'<?xml version="1.0" encoding="us-ascii"?>' + call("<value>\xe9</value>")),
    "UTF-16 cut in two": (-32702, call("<value/>").decode().encode("utf-16")[:-1]),
    "other encoding": (-32701, b'<?xml version="1.0" encoding="shift_jis"?>' + call("<value/>")),
    "UTF-16 without a mark": (-32701, b'<?xml version="1.0" encoding="utf-16"?>' + call("<value/>")),
    "UTF-8 mark, other declaration": (
        -32701,
        b'\xef\xbb\xbf<?xml version="1.0" encoding="iso-8859-1"?>' + call("<value/>"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_document_is_refused_with_its_number_and_place(name: str) -> None:
    """
    5.5.49: what is not XML, or not XML-RPC, gets the number of its kind and says line and column.
    """
    number, document = BAD[name]

    with pytest.raises(faults.ServerFault, match=PLACED) as refused:
        codec.decode_call(document)

    assert refused.value.code == number, refused.value
    assert len(refused.value.text) < 400


BIG: dict[str, bytes] = {
    "100,000 arrays deep": call("<value><array><data>" * 100_000 + "</data></array></value>" * 100_000),
    "100,000 structs deep": call("<value><struct><member><name>a</name>" * 100_000),
    "200,000 attributes": b"<methodCall " + b" ".join(b'a%d=""' % number for number in range(200_000)) + b"/>",
    "attributes that hold >": b"<methodCall><a "
    + b" ".join(b'a%d=">"' % n for n in range(200_000))
    + b"/></methodCall>",
    "attributes behind a comment": b"<!-- > --><methodCall "
    + b" ".join(b"a%d='>'" % n for n in range(200_000))
    + b"/>",
    "200,000 namespaces": b"<methodCall " + b" ".join(b'xmlns:a%d=""' % number for number in range(200_000)) + b"/>",
    "a tag of 4 MB": b"<" + b"a" * 4_000_000,
    "a closing tag of 4 MB": call("<value>1</value" + " " * 4_000_000 + ">"),
    "a comment of 4 MB": b"<!--" + b"a" * 4_000_000,
    "an entity of 4 MB": call("<value>&" + "a" * 4_000_000),
    "a CDATA section without end": call("<value><![CDATA[" + "a" * 4_000_000),
    "4 MB of <": b"<" * 4_000_000,
    "an int of 4 MB": typed("int", "9" * 4_000_000),
}


@pytest.mark.parametrize("name", BIG)
def test_a_large_attack_costs_little_time_and_memory(name: str) -> None:
    """
    5.5.49: attacks of megabytes are refused within a second, in memory of a few times their size at most.
    """
    document = BIG[name]
    began = time.process_time()
    with pytest.raises(faults.ServerFault, match=PLACED):
        codec.decode_call(document)
    assert time.process_time() - began < 1

    tracemalloc.start()
    try:
        with pytest.raises(faults.ServerFault):
            codec.decode_call(document)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(document)
    finally:
        tracemalloc.stop()


SMALL: dict[str, bytes] = {
    "empty values": call(f"<value><array><data>{'<value/>' * 1_220}</data></array></value>"),
    "empty structs": call(f"<value><array><data>{'<value><struct/></value>' * 400}</data></array></value>"),
    "arrays, cut": call("<value><array><data>" * 490),
    "references": call(f"<value>{'&lt;' * 2_450}</value>"),
    "comments": call(f"<value>{'<!---->' * 1_400}</value>"),
    "CDATA sections": call(f"<value>{'<![CDATA[<]]>' * 750}</value>"),
    "line ends": call("<value>" + "\r\n" * 4_900 + "</value>"),
    "an int": typed("int", "9" * 9_800),
    "a double": typed("double", "9" * 1_200 + "e-1000"),
    "attributes": b"<methodCall " + b" ".join(b'a%d=""' % number for number in range(1_000)) + b"/>",
    "openings": b"<" * 9_999,
    "ampersands": call("<value>" + "&" * 9_800),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_document_under_10_kb_never_takes_more_than_5_ms(name: str) -> None:
    """
    5.5.49: however it is made, a document under 10 kB is read or refused within 5 ms.
    """
    document = SMALL[name]
    assert len(document) < 10_000
    times = []
    for _ in range(5):  # the best of five, for other programs run on this machine too
        began = time.process_time()
        with contextlib.suppress(faults.ServerFault):
            codec.decode_call(document)
        times.append(time.process_time() - began)

    assert min(times) < 0.005


def test_a_refused_document_is_let_go_at_once() -> None:
    """
    Nothing of a refused document stays in memory until the collector comes by.
    """
    document = call("<value>" + "x" * 4_000_000 + "</value><value/>")
    tracemalloc.start()
    try:
        with pytest.raises(faults.NotXmlRpc):
            codec.decode_call(document)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_limits_are_the_caller_s_to_set() -> None:
    """
    Depth and digits are arguments, and the message names the limit.
    """
    nested = call("<value><array><data>" * 3 + "</data></array></value>" * 3)

    assert codec.decode_call(nested, depth=3) == ("m", [[[[]]]])
    with pytest.raises(faults.NotXmlRpc, match="deeper than 2 levels"):
        codec.decode_call(nested, depth=2)
    with pytest.raises(faults.NotWellFormed, match="more than 3 digits"):
        codec.decode_call(typed("int", "-1234"), digits=3)


def test_the_place_is_where_the_fault_stands() -> None:
    """
    Line and column point at the tag at which the document goes wrong, counted in characters from 1.
    """
    document = "<methodCall>\n<methodName>m</methodName>\n<params>é<param>".encode()

    with pytest.raises(faults.NotXmlRpc, match=r"'é' stands .*: line 3, column 9 "):
        codec.decode_call(document + b"<value/></param></params></methodCall>")
