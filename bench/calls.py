"""Calls a second, and processor time a call on the server's side, of a tiny call; SimpleXMLRPCServer beside us."""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.bounds import Bound
from bench.processes import Serving

ROUNDS = 5
WARM_UP = 0.7
"""Seconds before counting: for so long the scheduler may keep caller and server on one core, which halves the peer."""
SECONDS = 1.3
CONNECTIONS = (1, 8)
SATURATED = 0.9
"""With several callers a server has always something to do. One that is less busy was held up by the machine or by
its callers, and its calls a second are not its own limit."""
PEER = "SimpleXMLRPCServer"
PLAIN = "plain function (thread)"
STYLES = {PLAIN: "plain", "inline": "inline", "async": "coroutine"}

SERVICE = """
from clarens_lab import method


@method
def plain(text: str) -> str:
    return text


@method(inline=True)
def inline(text: str) -> str:
    return text


@method
async def coroutine(text: str) -> str:
    return text
"""


@dataclass(frozen=True)
class Round:
    """One burst: calls a second, the server's microseconds of processor time a call, the share of time it worked."""

    rate: float
    cpu: float
    busy: float


def _burst(server: Serving, method: str, connections: int) -> Round:
    before = server.cpu_seconds()
    words = [server.port, f"measured.{method}", connections, WARM_UP, SECONDS]
    command = [sys.executable, "-m", "bench.load", *map(str, words)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    calls, seconds, everything = int(said[0]), float(said[1]), int(said[2])
    worked = server.cpu_seconds() - before
    return Round(calls / seconds, worked / everything * 1e6, worked / (WARM_UP + seconds))


Rounds = list[dict[str, Round]]


def _rounds(peer: Serving, ours: Serving, connections: int) -> Rounds:
    """Everybody in turn in each round, so that all meet the same noise."""

    def one() -> dict[str, Round]:
        burst = {PEER: _burst(peer, "plain", connections)}
        return burst | {style: _burst(ours, method, connections) for style, method in STYLES.items()}

    return [one() for _ in range(ROUNDS)]


def _rate_ratio(rounds: Rounds, name: str) -> float:
    return statistics.median(one[name].rate / one[PEER].rate for one in rounds)


def _median(rounds: Rounds, name: str, figure: Callable[[Round], float]) -> float:
    return statistics.median(figure(one[name]) for one in rounds)


def _show(rounds: Rounds, connections: int) -> None:
    columns = f"{'calls/s':>9}{'of peer':>9}{'CPU a call':>13}{'of peer':>9}{'busy':>7}"
    print(f"  {f'{connections} at once':<26}{columns}   calls/s, lowest to highest")
    for name in (PEER, *STYLES):
        rates = [one[name].rate for one in rounds]
        cpu = _median(rounds, name, lambda one: one.cpu)
        cpu_ratio = statistics.median(one[name].cpu / one[PEER].cpu for one in rounds)
        print(
            f"  {name:<26}{statistics.median(rates):>9.0f}{_rate_ratio(rounds, name):>8.2f}x"
            f"{cpu:>10.0f} us{cpu_ratio:>8.2f}x{_median(rounds, name, lambda one: one.busy):>7.0%}"
            f"   {min(rates):.0f} to {max(rates):.0f}"
        )


def _doubt(rounds: Rounds, connections: int) -> str:
    busy = _median(rounds, PEER, lambda one: one.busy)
    if connections == 1 or busy >= SATURATED:
        return ""
    return f"the peer was only {busy:.0%} busy, so the ratio flatters us; measure on a quiet machine"


def measure() -> Sequence[Bound]:
    """Both servers run all the time; only one of them is called at a time."""
    print(
        f"calls: a method that returns its text; medians of {ROUNDS} rounds of {SECONDS} s, all in turn in each.\n"
        f"  Ours: default settings, every check, access log to a file. {PEER}: its defaults, log to a file;\n"
        "  it closes the connection after each answer, so its callers connect anew for each call."
    )
    bounds = []
    with tempfile.TemporaryDirectory(prefix="clarens-bench-") as folder:
        work = Path(folder).resolve()
        service = work / "measured.py"
        service.write_text(SERVICE, encoding="utf-8")
        with processes.peer(work) as peer, processes.ours(service, work) as ours:
            for connections in CONNECTIONS:
                rounds = _rounds(peer, ours, connections)
                _show(rounds, connections)
                what = f"calls/s of {PEER}'s, {PLAIN.partition(' (')[0]}, {connections} at once"
                ratio, doubt = _rate_ratio(rounds, PLAIN), _doubt(rounds, connections)
                bounds.append(Bound(what, ratio, 0.6, "x", at_least=True, doubt=doubt))
                print(f"  {bounds[-1]}", flush=True)
    return bounds
