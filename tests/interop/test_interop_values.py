"""Values and faults between the server and clients that others wrote: the standard library's, a Perl and a C one."""

import math
import xmlrpc.client
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from clients import CLIENTS, C, Client, Missing, Perl
from samples import ANSWERS, SCALARS, VALUES


def exact(value: Any) -> Any:
    """The value with its type beside every part, so that 1, 1.0 and True differ."""
    if isinstance(value, list):
        return [exact(one) for one in value]
    if isinstance(value, dict):
        return {name: exact(one) for name, one in value.items()}
    return type(value).__name__, value


# --- values ------------------------------------------------------------------------------------


def pairs(values: Mapping[str, Any], *abilities: Callable[[type[Client], Any], bool]) -> list[Any]:
    """Each client with the name of each value that it has these abilities for."""
    return [
        pytest.param(kind, name, id=f"{kind.name}-{name}")
        for kind in CLIENTS
        for name, value in values.items()
        if all(can(kind, value) for can in abilities)
    ]


def sends(kind: type[Client], value: Any) -> bool:
    return kind.sends(value)


def reads(kind: type[Client], value: Any) -> bool:
    return kind.reads(value)


@pytest.mark.parametrize(("kind", "name"), pairs(VALUES, sends, reads))
def test_a_value_that_a_client_sends_comes_back_the_same(
    connect: Callable[..., Client], kind: type[Client], name: str
) -> None:
    """What a client sends to echo.echo it gets back, exactly, and of the same type."""
    assert exact(connect(kind).call("echo.echo", VALUES[name])) == exact([VALUES[name]])


@pytest.mark.parametrize(("kind", "name"), pairs(ANSWERS, reads))
def test_a_value_that_a_notebook_answers_arrives_the_same(
    connect: Callable[..., Client], kind: type[Client], name: str
) -> None:
    """What a method of a served notebook returns arrives exactly, and of the same type."""
    assert exact(connect(kind).call("samples.value", name)) == exact(ANSWERS[name])


def test_every_type_is_sent_and_read_by_the_clients_that_have_it() -> None:
    """Python sends all but i8; Perl knows neither nil nor i8; C sends scalars only, and prints no times."""
    unsent = {kind.name: [name for name, value in VALUES.items() if not kind.sends(value)] for kind in CLIENTS}
    unread = {kind.name: [name for name, value in ANSWERS.items() if not kind.reads(value)] for kind in CLIENTS}
    wide = ["i8", "negative i8", "largest i8", "smallest i8"]

    assert unsent["python"] == wide
    assert unsent["perl"] == [*wide, "nil", "markup names"]
    assert [name for name in unsent["c"] if name in SCALARS] == ["astral", "time"]
    assert unread["python"] == []
    assert unread["perl"] == [*wide, "nil", "everything"]
    assert unread["c"] == ["astral", "time", "nested", "carriage return", "everything"]


def test_several_arguments_keep_their_order(client: Client) -> None:
    """Arguments of many types in one call come back in their order."""
    arguments = [1, "two", 3.0, True, b"five", ""]

    assert exact(client.call("echo.echo", *arguments)) == exact(arguments)
    assert client.call("echo.echo") == []


def test_perl_scalars_arrive_as_the_types_that_frontier_guesses(connect: Callable[..., Perl]) -> None:
    """Bare Perl scalars arrive as Frontier writes them: ints, doubles, and text with character references."""
    answer = connect(Perl).call_with_scalars("echo.echo", "5", "-7", "2.50", "text", "Zürich 中文", "a < b & c", "+5")

    assert exact(answer) == exact([5, -7, 2.5, "text", "Zürich 中文", "a < b & c", 5])


@pytest.mark.parametrize(("name", "tag"), [("i8", "i8"), ("nil", "nil")])
def test_frontier_says_itself_what_it_cannot_read(connect: Callable[..., Perl], name: str, tag: str) -> None:
    """An answer of 64 bits, or nil, is beyond Frontier::Client: it dies naming the tag, and the next call works."""
    perl = connect(Perl)

    assert f"wanted a data type, got `{tag}'" in perl.last_words("samples.value", name)
    assert perl.call("samples.add", 1, 2) == 3


def test_python_without_builtin_types_gets_its_own(proxy: Any) -> None:
    """A ServerProxy with default options sends and gets DateTime and Binary objects."""
    when, data = proxy.echo.echo(xmlrpc.client.DateTime("20251224T18:30:05"), xmlrpc.client.Binary(b"\0\xff"))

    assert (when, type(when)) == (xmlrpc.client.DateTime("20251224T18:30:05"), xmlrpc.client.DateTime)
    assert (data.data, type(data)) == (b"\0\xff", xmlrpc.client.Binary)


def test_python_exchanges_nan_and_infinities(proxy: Any) -> None:
    """NaN and infinities travel both ways as the standard library writes them."""
    nan, up, down = proxy.echo.echo(math.nan, math.inf, -math.inf)

    assert math.isnan(nan)
    assert (up, down) == (math.inf, -math.inf)


def test_python_reads_a_packed_answer_of_a_megabyte(proxy: Any) -> None:
    """A large answer, which travels packed with gzip since this client asks for it, arrives whole."""
    rows = [{"id": number, "name": f"row {number}"} for number in range(10_000)]

    assert proxy.echo.echo(rows) == [rows]


# --- faults ------------------------------------------------------------------------------------


def test_a_fault_of_the_service_arrives_as_it_was_raised(client: Client) -> None:
    """Each client hears a service's own fault with its code, and its text byte for byte."""
    assert client.fault("samples.refuses") == (1234, "No: 2 < 3 & 'two'\nlines, naïve")


def test_an_exception_arrives_as_minus_32500(client: Client) -> None:
    """Each client hears of an exception in a notebook: code -32500, where it was raised, and the fault's number."""
    code, text = client.fault("samples.fails")

    assert code == -32500
    assert "samples.ipynb cell 1, line" in text
    assert "ValueError: a mistake <here> & there" in text
    assert "[fault " in text


def test_an_unknown_method_arrives_as_minus_32601(client: Client) -> None:
    """Each client hears that a method is not there, and which one may have been meant."""
    code, text = client.fault("samples.ad", 1, 2)

    assert code == -32601
    assert "'samples.add'" in text


@pytest.mark.parametrize("arguments", [(), (1, 2, 3), ("one",), (1, 2.5), (True,)], ids=str)
def test_wrong_arguments_arrive_as_minus_32602(client: Client, arguments: tuple[Any, ...]) -> None:
    """Each client hears of a wrong number or type of arguments, with the signature."""
    code, text = client.fault("samples.add", *arguments)

    assert code == -32602
    assert "samples.add(a: int, b: int = 1) -> int" in text


# --- clients that are not there ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [Perl, C], ids=lambda kind: kind.name)
def test_a_missing_client_says_what_installs_it(monkeypatch: pytest.MonkeyPatch, kind: type[Client]) -> None:
    """Without the clients these tests fail, with a sentence that names `make test`; they are never skipped."""
    monkeypatch.setenv("PATH", "")

    with pytest.raises(Missing, match=r"Debian package lib.*: `make test` installs it"):
        kind("http://127.0.0.1:1/")
