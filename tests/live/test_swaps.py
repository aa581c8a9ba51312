"""Swaps under load: what clients see while notebooks are saved, broken and mended."""

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import PATIENCE, save_as_jupyter, until, write_notebook

from clarens_lab.client import Client
from live.servers import Start

CELLS = (
    "%%clarens service pick\nimport time\nfrom clarens_lab import method\nimport pick_part\nFIRST = {n}\n",
    "%%clarens service pick\ndef helper():\n    return FIRST, LAST\n",
    """%%clarens service pick
@method
def read(seconds: float) -> list:
    before = [FIRST, LAST, *helper(), {n}]
    time.sleep(seconds)
    return [*before, FIRST, LAST, *helper(), {n}]
@method
async def wait(seconds: float) -> list:
    import asyncio
    before = [FIRST, LAST, *helper(), {n}]
    await asyncio.sleep(seconds)
    return [*before, FIRST, LAST, *helper(), {n}]
@method
def late(seconds: float) -> list:
    time.sleep(seconds)
    import pick_part
    return [pick_part.VALUE, *(pick_part.again() for _ in range(3)), {n}]
""",
    "%%clarens service pick\nLAST = {n}\n",
)


def cells(number: int) -> list[str]:
    """The service whose every answer holds this number only."""
    return [text.replace("{n}", str(number)) for text in CELLS]


def part(number: int) -> str:
    return f"VALUE = {number}\ndef again():\n    return VALUE\n"


def broken(number: int) -> list[str]:
    """Ways in which a save can be broken."""
    ways = ["LAST = \n", "LAST = jsn\n", "import no_such_module\n", "raise SystemExit\n", "def read(: pass\n"]
    return [*cells(-1)[:3], f"%%clarens service pick\n{ways[number % len(ways)]}"]


def served(folder: Path) -> Path:
    (folder / "pick_part.py").write_text(part(0), encoding="utf-8")
    return write_notebook(folder / "pick.ipynb", *cells(0))


def test_fifty_swaps_under_eight_clients_fail_no_call(start: Start, tmp_path: Path) -> None:
    """
    With 8 clients calling all the time, 50 saves and 10 broken ones in between lose no call, and each answer is
    from exactly one generation: the one its header names.
    """
    path = served(tmp_path)
    server = start(path)
    stop = threading.Event()
    answers: dict[int, set[int]] = defaultdict(set)
    counts = [0] * 8

    def client(index: int) -> None:
        connection = server.connect()
        while not stop.is_set():
            method = ("pick.read", "pick.wait")[index % 2]
            values = set(connection.call(method, 0.004 * (index % 3)))
            assert len(values) == 1, values
            answers[connection.generations["pick"]] |= values
            counts[index] += 1
        connection.close()

    watcher = server.connect()
    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, index) for index in range(8)]
        try:
            for number in range(1, 51):
                if number % 5 == 0:
                    save_as_jupyter(path, *broken(number // 5))
                    until(lambda: (watcher.call("pick.read", 0), watcher.stale)[1] == "pick")
                save_as_jupyter(path, *cells(number))
                until(lambda number=number: watcher.call("pick.read", 0)[0] == number)
        finally:
            stop.set()
        for one in clients:
            one.result()
    assert min(counts) >= 50
    assert all(values == {generation - 1} for generation, values in answers.items())
    assert len(answers) >= 40
    assert server.generation("pick") == 51
    assert not server.trouble("pick")


def test_a_call_that_began_before_a_swap_ends_on_the_old_code(start: Start, tmp_path: Path) -> None:
    """
    A 2 s call, plain, async, in a multicall or importing late, ends with the constants, helpers and modules that it
    began with; calls made meanwhile get the new ones.
    """
    path = served(tmp_path)
    server = start(path)

    def multicall() -> list[int]:
        with Client(server.url, timeout=PATIENCE) as client:
            results = client.multicall([("pick.read", 1.0), ("pick.late", 1.0), ("pick.read", 0)])
        return [value for result in results for value in result]

    with ThreadPoolExecutor(4) as pool:
        running = [
            pool.submit(lambda: server.connect().call("pick.read", 2.0)),
            pool.submit(lambda: server.connect().call("pick.wait", 2.0)),
            pool.submit(lambda: server.connect().call("pick.late", 2.0)),
            pool.submit(multicall),
        ]
        until(lambda: server.lab.status()["in_flight"].get("pick=1") == 4)
        (tmp_path / "pick_part.py").write_text(part(7), encoding="utf-8")
        save_as_jupyter(path, *cells(7))
        fresh = server.connect()
        until(lambda: set(fresh.call("pick.read", 0)) | set(fresh.call("pick.late", 0)) == {7})
        assert server.lab.status()["in_flight"].get("pick=1") == 4
        assert [set(one.result(PATIENCE)) for one in running] == [{0}] * 4
    until(lambda: "pick=1" not in server.lab.status()["in_flight"])


def test_a_notebook_saved_while_it_is_loaded_is_served_as_it_is_last(start: Start, tmp_path: Path) -> None:
    """
    A save that comes during a slow load wins, and what was loading is not served in between.
    """
    path = write_notebook(tmp_path / "slow.ipynb", "%%clarens service\nfrom clarens_lab import method\n", body(0))
    server = start(path)
    marker = tmp_path / "loading"
    wait = f"import time\nopen({str(marker)!r}, 'w').close()\ntime.sleep(0.5)\n"
    head = "%%clarens service\nfrom clarens_lab import method\n"
    save_as_jupyter(path, head + wait, body(1))
    until(marker.exists)
    save_as_jupyter(path, head, body(2))
    connection, seen = server.connect(), set()

    def done() -> bool:
        seen.add(connection.call("slow.v"))
        return 2 in seen

    until(done)
    assert seen == {0, 2}
    assert server.generation("slow") == 2


def body(number: int) -> str:
    return f"%%clarens service\n@method\ndef v():\n    return {number}\n"


def test_two_notebooks_saved_at_once_are_both_served(start: Start, tmp_path: Path) -> None:
    """
    Two people who save two notebooks at the same time, again and again, each see their own last save.
    """
    head = "%%clarens service\nfrom clarens_lab import method\n"
    paths = [write_notebook(tmp_path / f"{name}.ipynb", head, body(0)) for name in ("one", "two")]
    server = start(tmp_path)

    def person(path: Path) -> None:
        connection = server.connect()
        for number in range(1, 16):
            save_as_jupyter(path, head, body(number))
            until(lambda number=number: connection.call(f"{path.stem}.v") == number)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(person, paths))
    assert {server.generation("one"), server.generation("two")} == {16}


LOCKING = """%%clarens service
import threading, time
from clarens_lab import keep, method
lock = keep("lock", threading.Lock)
%s

@method
def hold(seconds: float) -> int:
    with lock:
        time.sleep(seconds)
    return VALUE

@method
def value() -> int:
    return VALUE

VALUE = %d
"""


def test_service_code_that_holds_a_lock_holds_up_no_swap(start: Start, tmp_path: Path) -> None:
    """
    A call that holds a lock ends on old code after the swap; code that takes the lock at load waits aside for it.
    """
    path = write_notebook(tmp_path / "locking.ipynb", LOCKING % ("", 1))
    server = start(path)
    other = server.connect()
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(lambda: server.connect().call("locking.hold", 1.0))
        until(lambda: server.lab.status()["in_flight"].get("locking=1"))
        save_as_jupyter(path, LOCKING % ("", 2))
        until(lambda: other.call("locking.value") == 2)
        assert not holding.done()
        save_as_jupyter(path, LOCKING % ("with lock: pass", 3))
        assert other.call("locking.value") == 2
        assert holding.result(PATIENCE) == 1
        until(lambda: other.call("locking.value") == 3)


def test_on_unload_runs_once_after_the_last_call(start: Start, tmp_path: Path) -> None:
    """
    The hook of a replaced generation waits for its calls, runs once, and not for a generation that is served still.
    """
    told = tmp_path / "told"
    text = (
        "%%clarens service\nimport time\nfrom clarens_lab import method, on_unload\n"
        f"@on_unload\ndef gone():\n    with open({str(told)!r}, 'a') as file:\n        file.write('VALUE ')\n"
        "@method\ndef v(seconds: float) -> int:\n    time.sleep(seconds)\n    return VALUE\n"
    )
    path = write_notebook(tmp_path / "hooks.ipynb", text.replace("VALUE", "1"))
    server = start(path)
    fresh = server.connect()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: server.connect().call("hooks.v", 1.0))
        until(lambda: server.lab.status()["in_flight"].get("hooks=1"))
        save_as_jupyter(path, text.replace("VALUE", "2"))
        until(lambda: fresh.call("hooks.v", 0) == 2)
        assert not told.exists()
        assert running.result(PATIENCE) == 1
    until(told.exists)
    until(lambda: told.read_text(encoding="utf-8") == "1 ")
    save_as_jupyter(path, text.replace("VALUE", "3"))
    until(lambda: told.read_text(encoding="utf-8") == "1 2 ")
    save_as_jupyter(path, text.replace("VALUE", "3") + "raise SystemExit\n")  # its hook is not run: it never served
    until(lambda: server.trouble("hooks"))
    time.sleep(0.1)
    assert told.read_text(encoding="utf-8") == "1 2 "


@pytest.mark.parametrize("kind", ["read", "wait"])
def test_a_thousand_calls_at_once_survive_twenty_swaps(start: Start, tmp_path: Path, kind: str) -> None:
    """
    5.3.29: a thousand calls, fifty at a time, during 20 swaps: no transport error, each answer of one generation.
    """
    path = served(tmp_path)
    server = start(path)
    local = threading.local()

    def one(_: int) -> set[int]:
        if not hasattr(local, "connection"):
            local.connection = server.connect()
        return set(local.connection.call(f"pick.{kind}", 0.01))

    with ThreadPoolExecutor(50) as pool:
        calls = pool.map(one, range(1000))
        watcher = server.connect()
        for number in range(1, 21):
            save_as_jupyter(path, *cells(number))
            until(lambda number=number: watcher.call("pick.read", 0)[0] == number)
        assert all(len(values) == 1 for values in calls)
