"""Growth of time and memory with the order of a matrix, at fixed moments and probes.

Each order has a process of its own, which runs this script: its peak of memory is its alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import numpy as np

import specdens
from benchmarks.measuring.processes import with_benchmarks
from benchmarks.measuring.timing import Row, spread
from benchmarks.speed.lattice import stencil
from benchmarks.speed.settings import Settings
from specdens.testing import laplacian

SIDES = (22, 46, 100, 215, 464)
"""Of 3-D lattices: n = 10^4, 10^5, 10^6, 10^7 and 10^8."""

LATTICES = {
    "stored, float64": lambda side: laplacian(side, side, side),
    "a stencil, float32": lambda side: stencil(side, np.float32),
}
MOMENTS, PROBES = 64, 8
LINEAR = 1.05
"""The largest exponent of n that still counts as linear."""

BLOCKS = 1.5
"""Peak of memory beside A, in pairs of blocks of vectors."""


def rows(settings: Settings) -> list[Row]:
    """Fit exponents to what fresh processes measure: time, and the peak of memory beside A."""
    found = []
    for lattice in LATTICES:
        largest = settings.largest if "stencil" in lattice else min(settings.largest, 1e7)
        sides = [side for side in SIDES if side**3 <= 1.01 * largest]
        points = [_in_process(lattice, side, settings.few) for side in sides]
        last = points[-1]
        about = f"density, {MOMENTS} moments, {PROBES} vectors, 3-D lattice, {lattice}"
        shared = {"ours_seconds": spread(last["seconds"]), "at_most": True}
        # Below 10^5 the compiled path does not start, and below 10^6 caches hold the blocks.
        for what, least in (("seconds", 10**5), ("seconds", 10**6), ("bytes", 10**5)):
            chosen = [point for point in points if point["n"] > 0.9 * least]
            if len(chosen) > 1:
                found.append(shared | {
                    "work": f"growth of its {what}: {about}",
                    "against": f"n^1, fitted to n = {chosen[0]['n']:,} to {last['n']:,}",
                    "ratio": _exponent(chosen, what), "target": LINEAR, "points": points,
                })  # fmt: skip
        found.append(shared | {
            "work": f"peak of memory beside A, {about}, n = {last['n']:,}",
            "against": "two blocks of vectors",
            "ratio": last["bytes"] / last["two_blocks"],
            "target": BLOCKS if "stencil" in lattice else None,  # checks transpose a stored one
        })  # fmt: skip
    return found


def _exponent(points: list[Row], what: str) -> float:
    logs = np.log([[point["n"], np.median(point[what])] for point in points])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def _in_process(lattice: str, side: int, repeats: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.speed.growth", lattice, str(side), str(repeats)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=with_benchmarks()
    )
    return dict(json.loads(done.stdout))


def measured(lattice: str, side: int, repeats: int) -> Row:
    """Return the seconds of each run, and the peak of one with few moments."""
    a = LATTICES[lattice](side)
    _seconds(a, 4)  # loads the compiled code
    times = [_seconds(a, MOMENTS) for _ in range(repeats)]
    tracemalloc.start()
    _seconds(a, 4)
    peak = tracemalloc.get_traced_memory()[1]
    blocks = 2 * PROBES * a.shape[0] * np.dtype(a.dtype).itemsize
    return {"n": a.shape[0], "seconds": times, "bytes": peak, "two_blocks": blocks}


def _seconds(a: Any, moments: int) -> float:
    started = time.perf_counter()
    specdens.density(a, moments=moments, probes=PROBES, bounds=(0, 12), rng=0)
    return time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
