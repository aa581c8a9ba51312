"""How fast the codec is, and what hostile documents cost it; `xmlrpc.client` beside it in the same run."""

import statistics
import time
import tracemalloc
import xmlrpc.client
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from bench.bounds import Bound
from clarens_lab import codec, faults

FIELDS = [7, "some text", 2.5, True, datetime(2025, 12, 24, 18, 30)]
ROW = {"id": 12345, "name": "a name", "value": 3.25, "ok": True, "tag": "x<y"}

PAYLOADS: dict[str, list[Any]] = {
    "tiny": [1, "two"],
    "struct of 20": [{f"field{number}": FIELDS[number % 5] for number in range(20)}],
    "100,000 ints": [list(range(100_000))],
    "5,000 rows": [[ROW] * 5000],
    "1 MB text": ["Some lines of text, with a few marks & signs, as a log has.\n" * 17_500],
}


def _seconds(work: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def _ratio(theirs: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Our seconds, and how many times faster than theirs (medians of rounds in turn)."""
    times = max(1, int(0.02 / (_seconds(ours, 1) + 1e-6)))
    rounds = [(_seconds(theirs, times), _seconds(ours, times)) for _ in range(7)]
    return statistics.median(our for _, our in rounds), statistics.median(their / our for their, our in rounds)


def _their_bytes(params: list[Any]) -> bytes:
    return xmlrpc.client.dumps(tuple(params), "a.b", allow_none=True).encode()


def speed() -> None:
    print(f"{'payload':<16}{'bytes':>10}{'decode':>12}{'ratio':>7}{'encode':>12}{'ratio':>7}")
    for name, params in PAYLOADS.items():
        wire = xmlrpc.client.dumps(tuple(params), "a.b").encode()
        read, read_ratio = _ratio(
            partial(xmlrpc.client.loads, wire, use_builtin_types=True),
            partial(codec.decode_call, wire),
        )
        write, write_ratio = _ratio(
            partial(_their_bytes, params),
            partial(codec.encode_call, "a.b", params),
        )
        print(
            f"{name:<16}{len(wire):>10}{read * 1e6:>9.0f} us{read_ratio:>6.2f}x"
            f"{write * 1e6:>9.0f} us{write_ratio:>6.2f}x"
        )


def _call(inside: str) -> bytes:
    return f"<methodCall><methodName>m</methodName><params><param>{inside}</param></params></methodCall>".encode()


HOSTILE: dict[str, bytes] = {
    "100,000 arrays deep": _call("<value><array><data>" * 100_000),
    "200,000 attributes": b"<methodCall " + b" ".join(b'a%d=""' % number for number in range(200_000)) + b">",
    "attributes with >": b"<methodCall " + b" ".join(b'a%d=">"' % number for number in range(200_000)) + b">",
    "10 MB tag": b"<" + b"a" * 10_000_000,
    "10 MB comment": b"<!--" + b"a" * 10_000_000,
    "10 MB entity": _call("<value>&" + "a" * 10_000_000),
    "10 MB of <": b"<" * 10_000_000,
    "10 MB of comments": b"<!---->" * 1_428_571,
    "billion laughs": b'<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><methodCall>&b;</methodCall>',
    "10 MB int": _call(f"<value><int>{'9' * 10_000_000}</int></value>"),
    "10 MB double": _call(f"<value><double>{'9' * 10_000_000}</double></value>"),
    "10 MB bad base64": _call(f"<value><base64>{'A===' * 2_500_000}</base64></value>"),
    "1,000,000 <value/>": _call(f"<value><array><data>{'<value/>' * 1_000_000}</data></array></value>"),
    "10 kB <value/>": _call(f"<value><array><data>{'<value/>' * 1_220}</data></array></value>"),
    "10 kB deep, cut": _call("<value><array><data>" * 490),
    "10 kB of structs": _call(f"<value><array><data>{'<value><struct></struct></value>' * 305}</data></array></value>"),
    "10 kB of &lt;": _call(f"<value>{'&lt;' * 2_450}</value>"),
}


def _outcome(data: bytes) -> str:
    try:
        codec.decode_call(data)
    except faults.Fault as fault:
        return str(fault.code)
    return "read"


def hostile() -> None:
    print(f"\n{'hostile document':<22}{'bytes':>10}{'answer':>9}{'time':>12}{'peak memory':>14}")
    for name, data in HOSTILE.items():
        began = time.process_time()
        answer = _outcome(data)
        took = time.process_time() - began
        tracemalloc.start()  # slows everything, so it has a run of its own
        _outcome(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{name:<22}{len(data):>10}{answer:>9}{took * 1e3:>9.2f} ms{peak / 1e6:>11.2f} MB")


def measure() -> Sequence[Bound]:
    """Both tables. Nothing was promised of these figures but what the tests hold."""
    speed()
    hostile()
    return ()
