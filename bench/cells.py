"""A notebook's own side, in a real kernel: loading the extension, a cell until it can be called, a call, completion."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from jupyter_client.manager import KernelManager

from bench.bounds import Bound

ROUNDS = 100
LOADS = 7
PATIENCE = 60

CELL = '''%%clarens service benched
from clarens_lab import method

@method
def add(a: int, b: int) -> int:
    """Version {version}."""
    return a + b
'''
CALLS = """
import time
took = []
for number in range(200):
    began = time.perf_counter()
    assert benched.add(number, 1) == number + 1
    took.append((time.perf_counter() - began) * 1000)
sorted(took)[100]
"""
LOAD = """
import time
began = time.perf_counter()
get_ipython().run_line_magic("load_ext", "clarens_lab")
(time.perf_counter() - began) * 1000
"""


class _Kernel:
    """A kernel that cells are run in."""

    def __init__(self) -> None:
        self._manager = KernelManager(transport="ipc")
        self._manager.start_kernel()
        self._client: Any = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE)

    def run(self, code: str) -> str:
        """The text of the cell's value."""
        values: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "error":
                raise RuntimeError("\n".join(content["traceback"]))
            if message["msg_type"] == "execute_result":
                values.append(content["data"]["text/plain"])

        self._client.execute_interactive(code, timeout=PATIENCE, output_hook=hook)
        return values[-1] if values else ""

    def complete(self, code: str) -> list[str]:
        """What may come at the end of the code."""
        matches: list[str] = self._client.complete(code, reply=True, timeout=PATIENCE)["content"]["matches"]
        return matches

    def close(self) -> None:
        """Ends the kernel."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _load() -> float:
    kernel = _Kernel()
    try:
        return float(kernel.run(LOAD))
    finally:
        kernel.close()


def measure() -> Sequence[Bound]:
    """One kernel for all but the loading, which has a new one each time; through the kernel's own messages."""
    loads = [_load() for _ in range(LOADS)]
    kernel = _Kernel()
    try:
        kernel.run("%load_ext clarens_lab")
        kernel.run(CELL.format(version=0))
        empty = [_timed(lambda: kernel.run("pass")) for _ in range(ROUNDS)]
        cells = [_timed(lambda version=version: kernel.run(CELL.format(version=version))) for version in range(ROUNDS)]  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        call = statistics.median(float(kernel.run(CALLS)) for _ in range(5))
        assert "benched.add" in kernel.complete("x = %clarens call ben")
        completions = [_timed(lambda: kernel.complete("x = %clarens call ben")) for _ in range(ROUNDS)]
    finally:
        kernel.close()
    bounds = [
        Bound("%load_ext clarens_lab beyond IPython, median", statistics.median(loads), 250, "ms"),
        Bound("run a cell to callable, p50, beyond an empty cell", _over(cells, empty), 25, "ms"),
        Bound("call from a cell to the embedded server, p50", call, 3, "ms"),
        Bound("completion through the kernel, p50", statistics.median(completions), 10, "ms"),
    ]
    print(f"cells: a kernel, {ROUNDS} cells (an empty one takes {statistics.median(empty):.1f} ms), {LOADS} loads")
    for bound in bounds:
        print(f"  {bound}")
    return bounds


def _over(cells: list[float], empty: list[float]) -> float:
    return statistics.median(cells) - statistics.median(empty)
