"""Every bundled method, called by clients that others wrote."""

import xmlrpc.client
from collections.abc import Callable
from typing import Any

import pytest
from clients import Client

Check = Callable[[Any], bool]

SIGNATURES = [["int", "int"], ["int", "int", "int"]]
HELP = "samples.add(a: int, b: int = 1) -> int\n\nThe sum."
CALLS = [{"methodName": "samples.add", "params": [1, 2]}, {"methodName": "samples.ad", "params": []}]

OPEN: dict[str, tuple[tuple[Any, ...], Check]] = {
    "system.listMethods": ((), lambda names: {"samples.add", "echo.echo", "system.multicall"} <= set(names)),
    "system.list_methods": ((), lambda names: names == sorted(names) and "samples.add" in names),
    "system.methodSignature": (("samples.add",), lambda answer: answer == SIGNATURES),
    "system.method_signature": (("samples.add",), lambda answer: answer == SIGNATURES),
    "system.methodHelp": (("samples.add",), lambda answer: answer == HELP),
    "system.method_help": (("samples.add",), lambda answer: answer == HELP),
    "system.getCapabilities": ((), lambda answer: answer["xmlrpc"]["specVersion"] == 1),
    "system.multicall": ((CALLS,), lambda slots: slots[0] == [3] and slots[1]["faultCode"] == -32601),
    "echo.echo": ((1, "two", 3.5), lambda answer: answer == [1, "two", 3.5]),
    "echo.hostname": ((), lambda answer: [type(one) for one in answer] == [str, str]),
}
"""What anyone may call: arguments, and whether the answer is right."""

CELL = (
    "%%clarens service live\nfrom clarens_lab import method\n\n@method\ndef twice(n: int) -> int:\n    return 2 * n\n"
)
TEST = "%%clarens test live\nassert live.twice(21) == 42\n"

LAB: list[tuple[str, tuple[Any, ...], Check]] = [
    ("lab.register", ("live", CELL), lambda report: report["ok"] and report["service"] == "live"),
    ("live.twice", (4,), lambda answer: answer == 8),
    ("lab.register", ("live", TEST, {"kind": "test"}), lambda report: report["ok"]),
    ("lab.test", ("live",), lambda results: all(one["ok"] and one["service"] == "live" for one in results)),
    ("lab.call", ("live.twice", [5]), lambda told: told["value"] == 10 and "fault" not in told),
    ("lab.call", ("live.once", [5]), lambda told: told["fault"]["code"] == -32601 and "value" not in told),
    ("lab.reload", ("live", True), lambda report: report["ok"]),
    ("lab.services", (), lambda services: {"live", "samples"} <= {one["service"] for one in services}),
    ("lab.status", (), lambda status: "live" in status["services"] and status["stale"] == []),
    ("lab.events", (0, 0.0), lambda told: any(one.get("method") == "live.twice" for one in told["items"])),
    ("lab.log", (0, 0.0), lambda told: any("live.twice" in one["text"] for one in told["items"])),
    ("lab.interrupt", ("live",), lambda was: was is False),
    ("lab.remove", ("live",), lambda report: report["outcome"] == "withdrawn"),
]
"""What the developer does with the token, one after the other."""


@pytest.mark.parametrize("method", OPEN)
def test_a_client_calls_what_is_open_to_anyone(client: Client, method: str) -> None:
    """Each client calls each method of system and echo, wherever it has a way to write the arguments."""
    arguments, is_right = OPEN[method]
    if all(map(client.sends, arguments)):
        answer = client.call(method, *arguments)

        assert is_right(answer), answer
    else:
        assert (client.name, method) == ("c", "system.multicall")  # it takes an array


def test_a_client_with_the_token_does_all_that_the_lab_can(lab: Client) -> None:
    """Each client, by Basic auth, puts a cell live, calls, tests, reloads and removes it, and reads events and log."""
    done = set()
    for method, arguments, is_right in LAB:
        if all(map(lab.sends, arguments)):
            answer = lab.call(method, *arguments)
            assert is_right(answer), (method, answer)
            done.add(method)

    left_out = {method for method, _, _ in LAB} - done
    assert left_out == ({"lab.call"} if lab.name == "c" else set())


@pytest.mark.parametrize("method", sorted({method for method, _, _ in LAB if method.startswith("lab.")}))
def test_a_client_without_the_token_is_refused_by_the_lab(client: Client, method: str) -> None:
    """Each client without the token sees HTTP 401 for each method of the lab."""
    assert client.status(method) == 401


def test_these_tests_call_every_bundled_method(lab: Client) -> None:
    """No bundled method is left out here: those listed for the developer are those called above."""
    listed = {name for name in lab.call("system.listMethods") if name.partition(".")[0] in ("system", "echo", "lab")}

    assert listed == {*OPEN, *(method for method, _, _ in LAB if method != "live.twice")}


def test_only_the_developer_is_shown_the_lab(client: Client) -> None:
    """Without the token system.listMethods lists nothing of the lab."""
    assert [name for name in client.call("system.listMethods") if name.startswith("lab.")] == []


def test_a_multicall_object_of_python_works(proxy: Any) -> None:
    """xmlrpc.client.MultiCall collects calls, gets their answers, and raises the fault of the one that failed."""
    calls = xmlrpc.client.MultiCall(proxy)
    calls.samples.add(1, 2)
    calls.lab.status()
    answers = calls()

    assert answers[0] == 3
    with pytest.raises(xmlrpc.client.Fault) as refused:
        answers[1]
    assert refused.value.faultCode == -32401
