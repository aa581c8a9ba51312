"""The services in the box: `system` and `echo` as clients know them, `lab` behind its token as docs/lab.md says."""

import inspect
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from serving import Logged, Serve, Wire, call, fault_of, post, save_as_jupyter, until, write_notebook

from clarens_lab.bundled.lab import LONGEST_WAIT, OPTIONS, Lab
from clarens_lab.client import Client
from clarens_lab.codec import encode_call
from clarens_lab.events import Ring
from clarens_lab.faults import Fault
from clarens_lab.server import Server

PAGE = Path(__file__).parent.parent / "docs" / "lab.md"

PETS = """%%clarens service pets
from typing import Any
from clarens_lab import Fault, keep, method

kept = keep("kept", list)

@method
def feed(name: str, grams: int = 50) -> int:
    '''Feeds a pet.

    Twice a day.'''
    print("yum")
    kept.append(name)
    return len(kept)

@method(name="deep.er", signatures=["string,int", ("string",)], help="Deeper.")
def deeper(n: int = 1) -> str:
    return "x" * n

@method
def anything(*things: Any):
    return None

@method
def refuse():
    raise Fault(2001, "\\x1b[31mno")
"""
TEST = "%%clarens test pets\nassert pets.deep.er(2) == 'xx'"


@pytest.fixture
def server(served: Serve, tmp_path: Path) -> Server:
    return served(write_notebook(tmp_path / "pets.ipynb", PETS, TEST))


@pytest.fixture
def client(server: Server) -> Any:
    with Client(server.url, token=server.token) as client:
        yield client


@pytest.fixture
def stranger(server: Server) -> Any:
    with Client(server.url) as client:
        yield client


# --- system ------------------------------------------------------------------------------------------

SYSTEM = [
    "system.getCapabilities", "system.listMethods", "system.list_methods", "system.methodHelp",
    "system.methodSignature", "system.method_help", "system.method_signature", "system.multicall",
]  # fmt: skip
OPEN = ["echo.echo", "echo.hostname", "pets.anything", "pets.deep.er", "pets.feed", "pets.refuse", *SYSTEM]


def test_list_methods_lists_what_the_caller_can_call(client: Client, stranger: Client) -> None:
    """Everyone sees the methods of all services, sorted; those of `lab` only who shows the token."""
    assert stranger.system.listMethods() == stranger.system.list_methods() == OPEN
    lab = re.findall(r"^### `(lab\.\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert client.system.listMethods() == sorted([*OPEN, *lab])


def test_method_signature_lists_one_for_each_length(stranger: Client) -> None:
    """Trailing defaults may be left out: each allowed length has its signature; written ones are taken as they are."""
    signature = stranger.system.methodSignature
    assert signature("pets.feed") == [["int", "string"], ["int", "string", "int"]]
    assert signature("pets.deep.er") == [["string", "int"], ["string"]]
    assert signature("echo.echo") == [["array"], ["array", "undef"]]
    assert signature("system.methodSignature") == stranger.system.method_signature("system.methodSignature")


def test_method_help_shows_how_it_is_called(stranger: Client) -> None:
    """Help is the signature as Python has it, and the docstring."""
    told = stranger.system.methodHelp("pets.feed")
    assert told == "pets.feed(name: str, grams: int = 50) -> int\n\nFeeds a pet.\n\nTwice a day."
    assert stranger.system.method_help("pets.deep.er").endswith("\n\nDeeper.")
    assert stranger.system.methodHelp("pets.refuse") == "pets.refuse()"


@pytest.mark.parametrize("asked", ["methodHelp", "methodSignature", "method_help", "method_signature"])
def test_help_for_an_unknown_method_names_the_nearest(stranger: Client, asked: str) -> None:
    """Asking about a method that does not exist is -32601 with the one that was meant."""
    with pytest.raises(Fault, match=r"Did you mean 'pets\.feed'") as caught:
        getattr(stranger.system, asked)("pets.fed")
    assert caught.value.code == -32601


def test_every_bundled_method_has_help_and_signatures(client: Client) -> None:
    """Whatever is in the box explains itself."""
    for name in client.system.listMethods():
        if not name.startswith("pets."):
            assert len(client.system.methodHelp(name).split("\n\n", 1)[1]) > 10, name
            assert client.system.methodSignature(name), name


def test_capabilities_are_told(stranger: Client) -> None:
    """getCapabilities names specifications with their address and version."""
    told = stranger.system.getCapabilities()
    assert {"xmlrpc", "introspect", "system.multicall", "faults_interop", "nil"} <= set(told)
    for one in told.values():
        assert set(one) == {"specUrl", "specVersion"}


# --- multicall ---------------------------------------------------------------------------------------


def entry(name: str, *params: Any) -> dict[str, Any]:
    return {"methodName": name, "params": list(params)}


def test_a_multicall_answers_each_call_in_its_slot(stranger: Client) -> None:
    """Values come as arrays of one, faults as structs, in the order of the calls; no fault stops the rest."""
    slots = stranger.system.multicall(
        [entry("pets.deep.er", 3), entry("pets.refuse"), entry("pets.non"), entry("echo.echo", [1], None)]
    )
    assert slots[0] == ["xxx"]
    assert slots[1] == {"faultCode": 2001, "faultString": "\\x1b[31mno"}
    assert slots[2]["faultCode"] == -32601
    assert slots[3] == [[[1], None]]
    assert stranger.system.multicall([]) == []


@pytest.mark.parametrize(
    ("wrong", "code", "text"),
    [
        (7, -32602, "a struct with 'methodName'"),
        ({}, -32602, "a struct with 'methodName'"),
        ({"methodName": 7, "params": []}, -32602, "a struct with 'methodName'"),
        ({"methodName": "echo.echo", "params": {}}, -32602, "params of echo.echo are no array"),
        ({"methodName": "system.multicall", "params": [[]]}, -32600, "put all calls into one array"),
    ],
)
def test_a_malformed_entry_is_a_fault_in_its_slot(stranger: Client, wrong: Any, code: int, text: str) -> None:
    """5.5.49: what is no call inside a multicall fails alone; a multicall in a multicall is not run."""
    before, slot, after = stranger.system.multicall([entry("echo.echo", 1), wrong, entry("echo.echo", 2)])
    assert (before, after) == ([[1]], [[2]])
    assert slot["faultCode"] == code
    assert text in slot["faultString"]


def test_a_multicall_runs_on_what_was_served_when_it_began(served: Serve, tmp_path: Path) -> None:
    """A save in the middle of a multicall changes nothing for its later calls."""
    path = tmp_path / "two.ipynb"
    cell = "%%clarens service two\nfrom clarens_lab import method\nimport threading\nGATE = threading.Event()\nN = {}\n"
    cell += "@method\ndef wait() -> int:\n    GATE.wait(20)\n    return N\n@method\ndef n() -> int:\n    return N\n"
    write_notebook(path, cell.replace("{}", "1"))
    other = served(path)
    slots: list[Any] = []

    def ask() -> None:
        with Client(other.url) as one:
            slots.extend(one.system.multicall([entry("two.wait"), entry("two.n"), entry("echo.echo")]))

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: other.registry.in_flight().get("two=1"))
    gate: Any = other.registry.current.services["two"].namespace["GATE"]
    save_as_jupyter(path, cell.replace("{}", "2"))
    until(lambda: other.registry.current.services["two"].number == 2)
    gate.set()
    thread.join()
    assert slots == [[1], [1], [[]]]
    with Client(other.url) as one:
        assert one.two.n() == 2


def test_a_multicall_of_many_entries_is_done_and_holds_up_nobody(server: Server, stranger: Client) -> None:
    """5.5.49: twenty thousand calls in one document are all answered, other callers meanwhile too."""
    body = encode_call("system.multicall", [[entry("echo.echo", 1)] * 20_000])
    longest = 0.0
    with Wire(server.port) as wire:
        wire.send(post(body))
        for _ in range(10):
            began = time.monotonic()
            assert stranger.echo.echo(1) == [1]
            longest = max(longest, time.monotonic() - began)
        assert wire.answer().value == [[[1]]] * 20_000
    assert longest < 1


def test_the_lab_inside_a_multicall_needs_the_token(stranger: Client, client: Client) -> None:
    """`lab.*` without the token is a -32401 in its slot; the other calls are done."""
    calls = [entry("echo.echo", 1), entry("lab.status"), entry("lab.nothing"), entry("echo.echo", 2)]
    slots = stranger.system.multicall(calls)
    assert (slots[0], slots[3]) == ([[1]], [[2]])
    assert [slot["faultCode"] for slot in slots[1:3]] == [-32401, -32401]
    told = client.system.multicall(calls)
    assert told[1][0]["services"] == ["echo", "lab", "pets", "system"]
    assert told[2]["faultCode"] == -32601


# --- echo --------------------------------------------------------------------------------------------


def test_echo_answers_the_array_of_its_arguments(stranger: Client) -> None:
    """`echo.echo("x")` is `["x"]`, as Clarens clients expect."""
    assert stranger.echo.echo() == []
    assert stranger.echo.echo("x") == ["x"]
    assert stranger.echo.echo([1], {"a": None}) == [[1], {"a": None}]


def test_hostname_names_the_machine(stranger: Client) -> None:
    """`echo.hostname` answers the machine's name and an address."""
    name, address = stranger.echo.hostname()
    assert name == socket.gethostname()
    socket.inet_aton(address)


# --- lab ---------------------------------------------------------------------------------------------


def tables() -> dict[str, list[str]]:
    """The first column of the tables under each heading of the page, by heading and by the table's own head."""
    told: dict[str, list[str]] = {}
    heading = head = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading, head = line.lstrip("# ").strip("`"), ""
        elif line.startswith("|"):
            first = line.split("|")[1].strip()
            if not head:
                head = first
            elif not first.startswith("---"):
                told.setdefault(f"{heading}: {head}", []).extend(re.findall(r"`(\w+)`", first))
        elif not line.strip():
            head = ""
    return told


TABLES = tables()
REPORT = TABLES["The reload report: member"]


def documented(method: str) -> list[str]:
    """The members that the page gives for a method's answer."""
    (found,) = [names for heading, names in TABLES.items() if re.match(rf"lab\.{method}\(.*\): member$", heading)]
    return found


def plain_signature(function: Any) -> str:
    """The parameters with their defaults, without hints and `self`."""
    shape = inspect.signature(function)
    plain = [each.replace(annotation=each.empty) for each in list(shape.parameters.values())[1:]]
    return str(shape.replace(parameters=plain, return_annotation=shape.empty))


def test_the_page_has_every_method_with_its_arguments(client: Client) -> None:
    """docs/lab.md has a heading for each method of `lab` and no other, with its arguments and their defaults."""
    headings = re.findall(r"^### `(.*)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    names = [name.removeprefix("lab.") for name in client.system.listMethods() if name.startswith("lab.")]
    assert sorted(headings) == [f"lab.{name}{plain_signature(getattr(Lab, name))}" for name in names]
    assert TABLES["lab.register(service, source, options=None): option"] == list(OPTIONS)


def test_status_tells_what_the_page_says(client: Client, server: Server, tmp_path: Path) -> None:
    """`lab.status` describes the server, and never tells the token."""
    told = client.lab.status()
    assert sorted(told) == sorted(documented("status"))
    assert (told["url"], told["paths"], told["debug"]) == (server.url, [str(tmp_path / "pets.ipynb")], True)
    assert (told["services"], told["stale"]) == (["echo", "lab", "pets", "system"], [])
    assert abs(told["started"] - time.time()) < 60
    assert server.token not in str(told)


def test_services_tells_what_the_page_says(client: Client, tmp_path: Path, logged: Logged) -> None:
    """`lab.services` describes every service, stale ones and those that never loaded too."""
    told = {one["service"]: one for one in client.lab.services()}
    assert sorted(told) == ["echo", "lab", "pets", "system"]
    for one in told.values():
        assert sorted(one) == sorted(documented("services"))
    assert told["pets"]["path"] == str(tmp_path / "pets.ipynb")
    assert (told["pets"]["bundled"], told["echo"]["bundled"]) == (False, True)

    logged.expect("SyntaxError")
    client.lab.register("new", "%%clarens service new\ndef broken(:")
    save_as_jupyter(tmp_path / "pets.ipynb", PETS, "%%clarens service pets\nbroken(")
    until(lambda: client.lab.status()["stale"] == ["pets"])
    told = {one["service"]: one for one in client.lab.services()}
    assert told["pets"]["generation"] == 1
    assert "pets.ipynb cell 2" in told["pets"]["trouble"]


def test_a_cell_is_put_live(client: Client, stranger: Client, server: Server) -> None:
    """`lab.register` makes a service of a cell, live when the answer comes, which is what the page says."""
    cell = "%%clarens service live\nfrom clarens_lab import method\n@method\ndef n() -> int:\n    return 1\n"
    report = client.lab.register("live", cell, {"id": "a", "execution_count": 3, "notebook": "/nowhere/nb.ipynb"})
    assert sorted(report) == sorted(REPORT)
    assert (report["outcome"], report["generation"], report["added"]) == ("loaded", 1, ["n"])
    assert stranger.live.n() == 1
    assert client.lab.register("live", cell, {"id": "a", "execution_count": 4})["outcome"] == "unchanged"
    changed = client.lab.register("live", cell.replace("1\n", "2\n"), {"id": "a", "execution_count": 5})
    assert (changed["generation"], changed["changed"]) == (2, ["n"])
    assert stranger.live.n() == 2
    assert {one["service"]: one["live"] for one in client.lab.services()}["live"] is True


def test_a_cell_that_fails_leaves_the_old_one_serving(client: Client, stranger: Client, logged: Logged) -> None:
    """A broken cell is answered with cell and line, and with what still serves; it is no fault."""
    logged.expect(r"live In\[2\], line 2")
    cell = "%%clarens service live\nfrom clarens_lab import method\n@method\ndef n() -> int:\n    return 1\n"
    client.lab.register("live", cell, {"id": "a", "execution_count": 1})
    report = client.lab.register("live", "%%clarens service live\n1 / 0", {"id": "a", "execution_count": 2})
    assert (report["ok"], report["outcome"], report["generation"]) == (False, "failed", 1)
    assert report["text"] == "live In[2], line 2: ZeroDivisionError: division by zero; still serving generation 1"
    assert "1 / 0" in report["traceback"]
    assert stranger.live.n() == 1


def test_a_load_that_prints_stray_characters_is_told(client: Client) -> None:
    """What a cell prints when it loads is in its report, made legible."""
    cell = "%%clarens service live\nfrom clarens_lab import method\n@method\ndef n(): return 1\n"
    report = client.lab.register("live", cell + "print('\\x1b[1mbold\\x00')")
    assert report["outcome"] == "loaded"
    assert "\x1b" not in report["output"]
    assert client.lab.events(0)["items"][-1]["service"] == "live"
    assert any("printed at load" in line["text"] for line in client.lab.log(0)["items"]) == bool(report["output"])


@pytest.mark.parametrize(
    ("service", "options", "text"),
    [
        ("no name", {}, "cannot name a service"),
        ("", {}, "cannot name a service"),
        ("ok", {"kind": "other"}, "kind is 'service' or 'test'"),
        ("ok", {"id": 7}, "the option 'id' cannot be 7"),
        ("ok", {"execution_count": "7"}, "the option 'execution_count' cannot be '7'"),
        ("ok", {"strange": 1}, "no option 'strange'; there are id, notebook"),
    ],
)
def test_register_refuses_what_it_does_not_know(
    client: Client, service: str, options: dict[str, Any], text: str
) -> None:
    """A name or option that cannot be is fault -32602 naming it."""
    with pytest.raises(Fault, match=text) as caught:
        client.lab.register(service, "%%clarens service x\npass", options)
    assert caught.value.code == -32602


@pytest.mark.parametrize("name", ["system", "lab"])
def test_the_servers_own_names_are_not_taken(client: Client, name: str, logged: Logged) -> None:
    """No cell becomes `system` or `lab`: the report says refused."""
    logged.expect("no service can be called")
    report = client.lab.register(name, "%%clarens service\nfrom clarens_lab import method\n@method\ndef n(): pass")
    assert (report["outcome"], report["ok"]) == ("refused", False)
    assert client.lab.status()["services"] == ["echo", "lab", "pets", "system"]


def test_a_service_of_a_bundled_name_replaces_it_until_it_is_removed(
    client: Client, stranger: Client, logged: Logged
) -> None:
    """A service called `echo` is served instead of the one in the box, which is back when it is removed."""
    logged.expect("echo is withdrawn: it was removed")
    cell = "%%clarens service echo\nfrom clarens_lab import method\n@method\ndef echo(x: str) -> str:\n    return x\n"
    client.lab.register("echo", cell)
    assert stranger.echo.echo("x") == "x"
    report = client.lab.remove("echo")
    assert (sorted(report), report["outcome"]) == (sorted(REPORT), "withdrawn")
    assert stranger.echo.echo("x") == ["x"]


def test_remove_and_reload(client: Client, stranger: Client, logged: Logged) -> None:
    """A removed service is gone until it is reloaded by name; `fresh` forgets what `keep` made."""
    logged.expect("pets is withdrawn: it was removed; 'reload pets' brings it back")
    assert [stranger.pets.feed("a"), stranger.pets.feed("b")] == [1, 2]
    assert client.lab.reload("pets")["generation"] == 2
    assert stranger.pets.feed("c") == 3
    assert client.lab.remove("pets")["outcome"] == "withdrawn"
    with pytest.raises(Fault, match=r"No method 'pets\.feed' is published here"):
        stranger.pets.feed("d")
    report = client.lab.reload("pets", True)
    assert (sorted(report), report["outcome"]) == (sorted(REPORT), "loaded")
    assert stranger.pets.feed("e") == 1


@pytest.mark.parametrize("verb", ["remove", "reload"])
@pytest.mark.parametrize("name", ["nothing", "echo", "lab"])
def test_what_came_from_nowhere_is_not_removed_or_reloaded(client: Client, verb: str, name: str) -> None:
    """Bundled and unknown services are refused with -32602."""
    with pytest.raises(Fault, match="came neither from a file nor from a cell") as caught:
        getattr(client.lab, verb)(name)
    assert caught.value.code == -32602


def test_call_tells_all_there_is_to_say(client: Client) -> None:
    """`lab.call` answers value, output, generation and time; a failure is told, not raised."""
    told = client.lab.call("pets.feed", ["Tom"])
    assert sorted(told) == sorted(set(documented("call")) - {"fault"})
    assert (told["value"], told["output"], told["generation"], told["stale"]) == (1, "yum\n", 1, False)
    failed = client.lab.call("pets.refuse", [])
    assert sorted(failed) == sorted(set(documented("call")) - {"value"})
    assert failed["fault"] == {"code": 2001, "text": "\\x1b[31mno", "id": 1}
    assert failed["call"] > told["call"]
    unknown = client.lab.call("pets.non", [])
    assert (unknown["fault"]["code"], unknown["generation"]) == (-32601, 0)
    assert client.lab.call("pets.anything", [])["value"] is None
    assert client.lab.call("lab.call", ["echo.echo", [1]])["value"]["value"] == [1]


def test_test_runs_the_test_cells(client: Client) -> None:
    """`lab.test` runs a service's tests against what is served, and names what failed and where."""
    (result,) = client.lab.test("pets")
    assert sorted(result) == sorted(documented("test"))
    assert (result["test"], result["ok"], result["error"]) == ("pets.ipynb cell 2", True, "")
    kept = client.lab.register("pets", "%%clarens test pets\nassert pets.feed('x') == 7", {"kind": "test", "id": "t"})
    assert (kept["outcome"], kept["ok"]) == ("kept", True)
    good, bad = client.lab.test()
    assert (good["ok"], bad["ok"], bad["test"]) == (True, False, kept["test"])
    assert "AssertionError" in bad["error"]
    assert bad["output"] == "yum\n"
    with pytest.raises(Fault, match=r"no service 'pet'.*did you mean 'pets'") as caught:
        client.lab.test("pet")
    assert caught.value.code == -32602


# --- events and log -----------------------------------------------------------------------------------


def test_events_are_followed_by_number(client: Client, stranger: Client) -> None:
    """Who asks with the `next` of the answer before sees every event once; calls of `lab` are none."""
    told = client.lab.events(-1)
    assert sorted(told) == sorted(["next", "lost", "items"])
    assert (told["items"], told["lost"]) == ([], 0)
    stranger.pets.feed("Tom")
    with pytest.raises(Fault):
        stranger.pets.refuse()
    client.lab.reload("pets")
    items = client.lab.events(told["next"])["items"]
    assert [(one["event"], one.get("method", one.get("service"))) for one in items] == [
        ("call", "pets.feed"), ("call", "pets.refuse"), ("reload", "pets"),
    ]  # fmt: skip
    members = TABLES["lab.events(since=0, timeout=0.0): member"]
    common = ["event", "time"]
    call_members = members[3:]  # after next, lost, items
    assert sorted(items[1]) == sorted(common + call_members)
    assert sorted(items[0]) == sorted(set(common + call_members) - {"fault", "code", "text"})
    assert sorted(items[2]) == sorted(common + REPORT)
    assert items[0]["output"] == "yum\n"
    assert client.lab.events(told["next"] + 3)["items"] == []


def test_events_that_are_lost_are_counted(served: Serve) -> None:
    """The ring keeps the newest events; a reader who was too slow is told how many are gone."""
    server = served(event_ring=5)
    with Client(server.url, token=server.token) as client:
        for number in range(12):
            client.echo.echo(number)
        told = client.lab.events(0)
        assert (told["next"], told["lost"], len(told["items"])) == (12, 7, 5)
        assert client.lab.events(9)["lost"] == 0
        assert client.lab.events(100)["next"] == 12


@pytest.mark.parametrize("kind", ["events", "log"])
def test_a_reader_waits_for_the_next(server: Server, client: Client, kind: str) -> None:
    """With a timeout the answer comes when something happens, at once then."""
    said: list[Any] = []

    def follow() -> None:
        with Client(server.url, token=server.token) as reader:
            said.append(getattr(reader.lab, kind)(-1, 30.0))

    thread = threading.Thread(target=follow)
    thread.start()
    until(lambda: (server.events if kind == "events" else server.log)._waiting)
    began = time.monotonic()
    client.echo.echo(1)
    thread.join()
    assert time.monotonic() - began < 10
    (told,) = said
    assert len(told["items"]) >= 1


@pytest.mark.parametrize("kind", ["events", "log"])
@pytest.mark.parametrize("timeout", [0.0, -5.0, float("nan"), float("-inf"), 0.01])
def test_a_reader_that_does_not_wait_is_answered_at_once(client: Client, kind: str, timeout: float) -> None:
    """No, a negative or an impossible timeout waits for nothing."""
    began = time.monotonic()
    assert getattr(client.lab, kind)(-1, timeout)["items"] == []
    assert time.monotonic() - began < 5


def test_no_reader_waits_for_ever(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    """However long a reader wants to wait, the answer comes after a bound."""
    assert LONGEST_WAIT == 60
    monkeypatch.setattr("clarens_lab.bundled.lab.LONGEST_WAIT", 0.05)
    assert client.lab.events(-1, float("inf"))["items"] == []
    assert client.lab.events(2**62, 1e300)["items"] == []


def test_the_lab_has_no_call_limit(served: Serve) -> None:
    """The setting call_limit, made for services, does not cut short who follows events."""
    server = served(call_limit=0.05)
    with Client(server.url, token=server.token) as client:
        assert client.lab.events(-1, 0.3)["items"] == []


def test_the_log_is_read_by_number(client: Client, stranger: Client) -> None:
    """`lab.log` answers lines of time, level, name and text; those of its own calls are not among them."""
    told = client.lab.log(-1)
    stranger.pets.feed("Tom")
    (line,) = client.lab.log(told["next"])["items"]
    assert sorted(line) == sorted(TABLES["lab.log(since=0, timeout=0.0): member of a line"])
    assert (line["level"], line["name"]) == ("info", "clarens_lab.access")
    assert re.fullmatch(r"pets\.feed 127\.0\.0\.1 pets=1 \d+\.\d ms ok", line["text"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])


def test_a_ring_is_bounded_in_bytes() -> None:
    """Log lines are dropped beyond a number of bytes too."""
    ring = Ring(1000, 100, lambda item: len(item["text"]))
    for number in range(20):
        ring.add({"text": f"{number:030}"})
    told = ring.since(0)
    assert [int(item["text"]) for item in told["items"]] == [17, 18, 19]
    assert (told["next"], told["lost"]) == (20, 17)


def test_wrong_arguments_of_the_lab_are_faults(server: Server) -> None:
    """`lab.*` checks its arguments like any service."""
    with Client(server.url, token=server.token) as client:
        for name, arguments in {"call": ["x"], "events": ["x"], "register": [1, 2], "reload": []}.items():
            with pytest.raises(Fault) as caught:
                getattr(client.lab, name)(*arguments)
            assert caught.value.code == -32602
    with Wire(server.port) as wire:
        assert fault_of(wire.ask(call("lab.call", "echo.echo", []))).code == -32401
