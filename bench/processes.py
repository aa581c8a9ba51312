"""The servers that are measured: real processes, each with its log in a file, ended when the measurement ends."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE = 30.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Serving:
    """A server that runs: its process and its port on loopback."""

    pid: int
    port: int

    def cpu_seconds(self) -> float:
        """The processor time that the process has taken, its own and the system's for it."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / TICKS


def _environment(work: Path) -> dict[str, str]:
    """Ours without settings: the defaults are measured. Run files go where nobody looks for servers."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CLARENS_")}
    return {**plain, "XDG_RUNTIME_DIR": str(work)}


@contextmanager
def _running(command: list[str], ready: Path, work: Path) -> Iterator[int]:
    log = work / f"{ready.name}.err"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, *command], stdout=file, stderr=file, env=_environment(work))
    try:
        deadline = time.monotonic() + PATIENCE
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"bench: {' '.join(command)} does not serve:\n{log.read_text()}")
            time.sleep(0.01)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def ours(path: Path, work: Path) -> Iterator[Serving]:
    """clarens-lab on a file, with its default settings: every check, the access log, reloading."""
    ready = work / "ours.json"
    serve = ["-m", "clarens_lab", "serve", str(path), "--port", "0"]
    with _running([*serve, "--run-file", str(ready), "--log-file", str(work / "ours.log")], ready, work) as pid:
        told = json.loads(ready.read_text())
        yield Serving(pid, urlsplit(told["url"]).port or 0)


@contextmanager
def peer(work: Path) -> Iterator[Serving]:
    """SimpleXMLRPCServer with its defaults; stderr, where its log goes, is a file here too."""
    ready = work / "peer.port"
    with _running(["-m", "bench.peer", str(ready)], ready, work) as pid:
        yield Serving(pid, int(ready.read_text()))
