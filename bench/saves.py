"""From a save to the first answer of the new code, for notebooks and for .py files."""

import json
import random
import socket
import statistics
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import processes
from bench.bounds import Bound

SAVES = 40
POLL = 0.001
PATIENCE = 10.0

CODE = '''
@method
def answer(text: str) -> int:
    """Which save this is."""
    return {number}
'''
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def notebook(number: int) -> str:
    """As a working day leaves one: explanations, a few cells of code, and a picture of 100 kB in the outputs."""
    picture = {"output_type": "display_data", "data": {"image/png": "iVBORw0K" * 12_500}, "metadata": {}}
    sources = [
        "import json\nimport math\nfrom clarens_lab import method",
        *(f"def helper{each}(x: float) -> float:\n    return math.sin(x) * {each}" for each in range(8)),
        CODE.format(number=number).strip(),
    ]
    cells: list[dict[str, Any]] = []
    for each, source in enumerate(sources):
        words: dict[str, Any] = {"cell_type": "markdown", "id": f"words-{each}", "metadata": {}}
        code: dict[str, Any] = {"cell_type": "code", "id": f"code-{each}", "metadata": {}, "execution_count": each}
        cells.append({**words, "source": [f"## Step {each}\n", "What it does, and why."]})
        cells.append({**code, "source": source.splitlines(keepends=True), "outputs": [picture] if each == 1 else []})
    return json.dumps({"cells": cells, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def module(number: int) -> str:
    """A module with the same methods."""
    helpers = "\n\n".join(f"def helper{each}(x: float) -> float:\n    return math.sin(x) * {each}" for each in range(8))
    return f"import json\nimport math\n\nfrom clarens_lab import method\n\n{helpers}\n\n{CODE.format(number=number)}"


def save_as_jupyter(path: Path, text: str) -> None:
    """Keeps a copy beside, truncates and rewrites the file itself, removes the copy."""
    copy = path.with_name(f".~{path.name}")
    copy.write_bytes(path.read_bytes())
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
    copy.unlink()


def save_by_rename(path: Path, text: str) -> None:
    """Writes a new file and puts it in the old one's place, as many editors do."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


class Caller:
    """Asks one method again and again, on one connection."""

    def __init__(self, port: int, method: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = xmlrpc.client.dumps(("hello",), method).encode()
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body

    def ask(self) -> int:
        """The method's answer; raises the fault if it is one."""
        self._socket.sendall(self._request)
        received = b""
        while b"</methodResponse>" not in received:
            piece = self._socket.recv(65536)
            if not piece:
                raise SystemExit(f"bench: the server closed the connection: {received!r}")
            received += piece
        (number,), _ = xmlrpc.client.loads(received.partition(b"\r\n\r\n")[2])
        assert isinstance(number, int)
        return number

    def close(self) -> None:
        self._socket.close()


def _save_to_served(caller: Caller, path: Path, save: Callable[[Path, str], None], text: str, number: int) -> float:
    began = time.perf_counter()
    save(path, text)
    while caller.ask() != number:
        if time.perf_counter() - began > PATIENCE:
            raise SystemExit(f"bench: {path.name} was saved, but after {PATIENCE:g} s the old code still serves")
        time.sleep(POLL)
    return (time.perf_counter() - began) * 1000


def _milliseconds(
    work: Path, name: str, make: Callable[[int], str], save: Callable[[Path, str], None]
) -> Sequence[float]:
    folder = work / save.__name__
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(make(0), encoding="utf-8")
    chance = random.Random(1)  # the pauses vary, so that no rhythm of the watcher's flatters or hurts
    taken = []
    with processes.ours(path, work) as server:
        caller = Caller(server.port, f"{path.stem}.answer")
        for number in range(1, SAVES + 1):
            time.sleep(chance.uniform(0.05, 0.25))
            taken.append(_save_to_served(caller, path, save, make(number), number))
        caller.close()
    return taken


CASES = (
    (".ipynb, as Jupyter saves", "book.ipynb", notebook, save_as_jupyter),
    (".py, truncated and rewritten", "book.py", module, save_as_jupyter),
    (".py, by rename", "book.py", module, save_by_rename),
)


def measure() -> Sequence[Bound]:
    """From before the file is opened for writing, to the first new answer; no call in between may fail."""
    print(
        f"saves: from the moment a save begins to the first answer of the new code; {SAVES} saves each,\n"
        f"  called every {POLL * 1000:g} ms meanwhile (a failed call would end the run)"
    )
    print(f"  {'':<32}{'p50':>9}{'p95':>12}{'worst':>12}")
    bounds = []
    with tempfile.TemporaryDirectory(prefix="clarens-bench-") as folder:
        for what, name, make, save in CASES:
            taken = _milliseconds(Path(folder).resolve(), name, make, save)
            p50, p95 = statistics.median(taken), statistics.quantiles(taken, n=20, method="inclusive")[-1]
            print(f"  {what:<32}{p50:>6.0f} ms{p95:>9.0f} ms{max(taken):>9.0f} ms", flush=True)
            bounds += [
                Bound(f"save-to-served p50, {what}", p50, 150, "ms"),
                Bound(f"save-to-served p95, {what}", p95, 250, "ms"),
            ]
    for bound in bounds:
        print(f"  {bound}")
    return bounds
