"""What `import clarens_lab` costs, over a Python that imports nothing."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.bounds import Bound

ROUNDS = 41
PROGRAMS = {
    "bare Python": "pass",
    "import clarens_lab": "import clarens_lab",
    "from clarens_lab import method": "from clarens_lab import method",
    "from clarens_lab import Client": "from clarens_lab import Client",
    "from clarens_lab import Server": "from clarens_lab import Server",
}


def _milliseconds(program: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return (time.perf_counter() - began) * 1000


def measure() -> Sequence[Bound]:
    """Whole processes, one program after the other in each round, so that all meet the same noise."""
    for program in PROGRAMS.values():
        _milliseconds(program)  # fills the caches, bytecode files among them
    rounds = [{name: _milliseconds(program) for name, program in PROGRAMS.items()} for _ in range(ROUNDS)]
    bare, *others = PROGRAMS
    print(f"imports: median of {ROUNDS} processes; over bare Python, median of the differences in each round")
    print(f"  {bare:<34}{statistics.median(one[bare] for one in rounds):>8.1f} ms")
    over = {name: statistics.median(one[name] - one[bare] for one in rounds) for name in others}
    for name, difference in over.items():
        print(f"  {name:<34}{statistics.median(one[name] for one in rounds):>8.1f} ms{difference:>+9.1f} ms")
    bound = Bound("import clarens_lab over bare Python", over["import clarens_lab"], 60, "ms")
    print(f"  {bound}")
    return [bound]
