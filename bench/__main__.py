"""Run every measurement, or those that are named: `python -m bench [NAME...]`."""

import sys
import time
from collections.abc import Callable, Sequence

from bench import calls, cells, codec, imports, saves
from bench.bounds import Bound

MEASUREMENTS: dict[str, Callable[[], Sequence[Bound]]] = {
    "calls": calls.measure,
    "saves": saves.measure,
    "imports": imports.measure,
    "cells": cells.measure,
    "codec": codec.measure,
}


def main(names: Sequence[str]) -> int:
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        print(f"bench: no measurement {unknown[0]!r}; there are {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    bounds: list[Bound] = []
    for name in names or MEASUREMENTS:
        bounds += MEASUREMENTS[name]()
        print(flush=True)
    if bounds:
        print("the bounds, all in one place")
        for bound in bounds:
            print(f"  {bound}")
    print(f"measured in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
