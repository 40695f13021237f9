"""Growth of time and memory with the order of a matrix, at fixed moments and probes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
from speed_settings import Settings
from timing import Row, spread

SIDES = (22, 46, 100, 215)
"""Of 3-D lattices: n = 10^4, 10^5, 10^6 and 10^7."""

LIMIT = 1.05

CODE = """
import json, sys, time, tracemalloc
import specdens
from specdens.testing import laplacian

side, repeats = int(sys.argv[1]), int(sys.argv[2])

def run(a, moments=64):
    started = time.perf_counter()
    specdens.density(a, moments=moments, probes=8, bounds=(0, 12), rng=0)
    return time.perf_counter() - started

a = laplacian(side, side, side)
run(a, 4)  # loads the compiled code
times = [run(a) for _ in range(repeats)]
tracemalloc.start()
run(a, 4)
peak = tracemalloc.get_traced_memory()[1]
print(json.dumps({"n": side**3, "seconds": times, "bytes": peak}))
"""


def rows(settings: Settings) -> list[Row]:
    """Fit exponents to what fresh processes measure: time, and the peak of memory beside A."""
    sides = SIDES[:2] if settings.quick else [s for s in SIDES if s <= 2.15 * settings.side]
    points = [_measured(side, settings.few) for side in sides]
    return [
        row
        for what, values in (
            ("time", [np.median(point["seconds"]) for point in points]),
            ("memory", [point["bytes"] for point in points]),
        )
        for row in [_fitted(what, points, values)]
    ]


def _measured(side: int, repeats: int) -> Row:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(side), str(repeats)], capture_output=True, text=True,
        check=True, env=os.environ,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def _fitted(what: str, points: list[Row], values: list[float]) -> Row:
    orders = [point["n"] for point in points]
    # From the second on: below, the compiled path does not start.
    exponent = float(np.polyfit(np.log(orders[-3:]), np.log(values[-3:]), 1)[0])
    return {
        "work": f"growth of {what}, density, 64 moments, 8 vectors, stored 3-D lattices",
        "against": f"n^1, fitted to n = {orders[-3:][0]:,} to {orders[-1]:,}",
        "ours_seconds": spread(points[-1]["seconds"]),
        "ratio": exponent, "target": LIMIT, "at_most": True,
        "points": [{"n": n, what: float(value)} for n, value in zip(orders, values, strict=True)],
    }  # fmt: skip
