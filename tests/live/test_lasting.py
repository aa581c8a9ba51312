"""What stays behind after many reloads: nothing that grows, and no old generation once its last call has ended."""

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, Logged, Serve, save_as_jupyter, until, write_notebook

from clarens_lab.client import Client
from clarens_lab.faults import Fault
from live.servers import Start

MIB = 1024 * 1024


def test_two_hundred_reloads_leave_memory_threads_and_descriptors_flat(start: Start, tmp_path: Path) -> None:
    """
    Each generation holds 256 KiB, a class, a local module and a hook; 200 of them, every tenth after a broken save,
    cost at most 16 MiB (bounded caches fill, and some wait for the garbage collector) and no thread or descriptor.
    """
    text = (
        "%%clarens service\nimport dataclasses, part\nfrom clarens_lab import method, on_unload\n"
        "BALLAST = bytearray(256 * 1024)\n@dataclasses.dataclass\nclass Thing:\n    n: int\n"
        "on_unload(lambda: None)\n@method\ndef v() -> int:\n    return Thing(NUMBER).n + part.ZERO\n"
    )
    (tmp_path / "part.py").write_text("ZERO = 0\n", encoding="utf-8")
    path = write_notebook(tmp_path / "many.ipynb", text.replace("NUMBER", "0"))
    server = start(path)
    connection = server.connect()

    def reload(number: int) -> None:
        if number % 10 == 0:
            save_as_jupyter(path, text.replace("NUMBER", "jsn()") + "NOPE\n")
            until(lambda: (connection.call("many.v"), connection.stale)[1])
        save_as_jupyter(path, text.replace("NUMBER", str(number)))
        until(lambda: connection.call("many.v") == number)

    for number in range(1, 41):  # until caches and worker threads are there
        reload(number)
    threads, descriptors, memory = server.threads(), server.descriptors(), server.memory()
    for number in range(41, 241):
        reload(number)
    assert server.generation("many") == 241
    assert until(lambda: server.threads() <= threads + 1)
    assert until(lambda: server.descriptors() <= descriptors + 1)
    assert server.memory() - memory <= 16 * MIB


def weak(namespace: Any) -> dict[str, "weakref.ref[Any]"]:
    """Weak references to all of a generation that takes one."""
    found = {}
    for name in ("v", "fail", "Thing", "hold", "helper"):
        found[name] = weakref.ref(namespace[name])
    return found


TEXT = """%%clarens service
import functools, threading
from clarens_lab import keep, method, on_startup, on_unload
from free_part import helper

gate = keep("gate", threading.Event)
VALUE = 0

class Thing:
    pass

class Ballast(bytearray):
    pass

hold = Ballast(10)

@on_startup
def started(): pass

@on_unload
def ended(): pass

@functools.lru_cache
def cached(): return Thing()

@method
def v(wait: bool = False) -> int:
    print(cached())
    if wait:
        gate.wait(20)
    return VALUE + helper()

@method
async def coroutine() -> int:
    return v()

@method
def fail():
    thing = Thing()
    try:
        raise KeyError(thing)
    except KeyError as error:
        raise ValueError(thing) from error
"""


def test_an_old_generation_is_freed_after_its_last_call(served: Serve, tmp_path: Path, logged: Logged) -> None:
    """
    A replaced generation lives as long as a call runs on it, and is gone with it: functions, classes, modules, data.
    Calls that succeeded, failed, were part of a multicall, and reloads that failed, hold nothing.
    """
    (tmp_path / "free_part.py").write_text("def helper():\n    return 0\n", encoding="utf-8")
    path = write_notebook(tmp_path / "free.ipynb", TEXT)
    server = served(path)
    old = weak(server.registry.current.services["free"].namespace)
    generation = weakref.ref(server.registry.current.services["free"])
    with Client(server.url, timeout=PATIENCE) as client, ThreadPoolExecutor(1) as pool:
        assert client.free.v() == client.free.coroutine() == 0
        with pytest.raises(Fault):
            client.free.fail()
        client.multicall([("free.v",), ("free.fail",), ("free.coroutine",)])
        running = pool.submit(waiting, server.url)
        until(lambda: server.registry.in_flight().get("free=1") == 1)
        save_as_jupyter(path, TEXT + "NOPE\n")
        until(lambda: server.registry.current.is_stale("free"))
        save_as_jupyter(path, TEXT.replace("VALUE = 0", "VALUE = 1"))
        until(lambda: client.free.v() == 1)
        gc.collect()
        assert all(one() is not None for one in old.values())
        kept = server.registry.current.services["free"].namespace["gate"]
        assert isinstance(kept, threading.Event)
        kept.set()
        assert running.result(PATIENCE) == 0

    def freed() -> bool:
        gc.collect()
        return generation() is None and all(one() is None for one in old.values())

    until(freed)
    logged.expect("fault", "NOPE", "Traceback")


def test_a_large_generation_is_freed_soon_after_it_was_replaced(served: Serve, tmp_path: Path) -> None:
    """
    Though functions and their globals refer to each other, a replaced generation's data go without more reloads.
    """
    text = (
        "%%clarens service\nfrom clarens_lab import method\nclass Model: pass\nmodel = Model()\n"
        "@method\ndef v(): return {}\n"
    )
    path = write_notebook(tmp_path / "large.ipynb", text.format(1))
    server = served(path)
    model = weakref.ref(server.registry.current.services["large"].namespace["model"])
    save_as_jupyter(path, text.format(2))
    until(lambda: model() is None)


def waiting(url: str) -> int:
    with Client(url, timeout=PATIENCE) as client:
        return int(client.free.v(True))


def test_live_cells_run_again_and_again_hold_nothing_old(served: Serve, tmp_path: Path) -> None:
    """
    The generations of cells that were run are freed as those of files are.
    """
    server = served(token="secret")
    references: list[Callable[[], Any]] = []
    with Client(server.url, token="secret", timeout=PATIENCE) as client:
        for number in range(20):
            text = f"%%clarens service cells\nfrom clarens_lab import method\n@method\ndef v(): return {number}\n"
            client.lab.register("cells", text, {"execution_count": number, "id": "one"})
            assert client.cells.v() == number
            references.append(weakref.ref(server.registry.current.services["cells"]))

    def alive() -> int:
        gc.collect()
        return sum(reference() is not None for reference in references)

    until(lambda: alive() == 1)
