"""How fast are lattices without a matrix? The fused step beside CSR and SciPy, and growth with n.

python benchmarks/speed_lattice.py                  everything up to n = 10^7
python benchmarks/speed_lattice.py --largest 1e8    10^8 sites, too: 6 GB and minutes
python benchmarks/speed_lattice.py --side 46        small
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from specdens import Diagonals, Stencil, aslinearoperator
from specdens.testing import laplacian

REPEATS = 9

CASES = [("float64", 8), ("float64", 32), ("float32", 8), ("float32", 32), ("complex128", 8)]

LINEAR = 1.05
"""The largest exponent of n that still counts as linear."""

DENSITY = """
import json, sys, time, tracemalloc
import numpy as np
import specdens

side, repeats = int(sys.argv[1]), int(sys.argv[2])
near = {tuple(s * np.eye(3, dtype=int)[a]): -1.0 for s in (1, -1) for a in range(3)}

def run(n, moments=64):
    lattice = specdens.Stencil((n, n, n), near | {(0, 0, 0): 6.0}, dtype=np.float32)
    started = time.perf_counter()
    specdens.density(lattice, moments=moments, probes=4, bounds=(0, 12), rng=0)
    return time.perf_counter() - started

run(60, 4)  # loads the compiled code
times = [run(side) for _ in range(repeats)]
tracemalloc.start()
run(side, 4)
print(json.dumps({"seconds": times, "bytes": tracemalloc.get_traced_memory()[1]}))
"""


def rows(side: int = 100, largest: float = 1e7) -> list[dict[str, Any]]:
    """Return the rows of the benchmark.

    Parameters
    ----------
    side : int
        The step is that of a lattice of ``side^3`` sites.
    largest : float
        Sites up to which growth is measured.
    """
    return [*_steps(side), *_growth(largest)]


def _steps(side: int) -> list[dict[str, Any]]:
    """Time one step of the recurrence with its dot products, by all ways, in turn."""
    found = []
    for dtype, width in CASES:
        near = {tuple(s * np.eye(3, dtype=int)[a]): -1.0 for s in (1, -1) for a in range(3)}
        stencil = Stencil((side,) * 3, near | {(0, 0, 0): 6.0}, dtype=dtype)
        csr = sp.csr_array(laplacian(side, side, side).astype(dtype))
        rng = np.random.default_rng(0)
        x, y = (rng.standard_normal((side**3, width)).astype(dtype) for _ in range(2))
        ways: dict[str, Callable[[], object]] = {
            "stencil": _step_of(stencil, x, y),
            "diagonals": _step_of(_diagonals(csr), x, y),
            "CSR, fused": _step_of(aslinearoperator(csr), x, y),
            "SciPy, CSR and NumPy": lambda a=csr, x=x, y=y: _by_scipy(a, x, y),
            "no matrix: three transfers of a block": _step_of(stencil, x, y, a=0.0),
        }
        times = _in_turn(ways)
        work = f"step and dot products, {side}^3 sites, {width} columns, {dtype}"
        for ours, theirs, target in (
            ("stencil", "SciPy, CSR and NumPy", 5.0),
            ("stencil", "CSR, fused", 1.0),
            ("stencil", "no matrix: three transfers of a block", 0.5),
            ("diagonals", "SciPy, CSR and NumPy", 5.0),
            ("diagonals", "CSR, fused", 1.0),
        ):
            found.append(_row(f"{ours}: {work}", theirs, times[ours], times[theirs], target))
    return found


def _step_of(op: Any, x: Any, y: Any, a: float = 0.1) -> Callable[[], object]:
    step = op.recurrence(x.shape[1])
    if step is None:
        raise RuntimeError("no compiled step: is numba installed and the matrix large enough?")
    return lambda: step(x, y, a, -0.6, -0.1)


def _diagonals(csr: sp.csr_array) -> Diagonals:
    dia = sp.dia_array(csr)
    lines = [csr.diagonal(k) for k in dia.offsets.tolist()]
    return Diagonals(lines, dia.offsets.tolist(), shape=csr.shape)


def _by_scipy(a: sp.csr_array, x: Any, y: Any) -> tuple[Any, Any]:
    """Do the same as a user would, in place."""
    np.multiply(y, -0.1, out=y)
    product = a @ x
    product *= 0.1
    y += product
    np.multiply(x, -0.6, out=product)
    y += product
    return np.einsum("nr,nr->r", y.conj(), y), np.einsum("nr,nr->r", y.conj(), x)


def _in_turn(ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name in list(ways) * (REPEATS + 1):
        started = time.perf_counter()
        ways[name]()
        times[name].append(time.perf_counter() - started)
    return {name: found[1:] for name, found in times.items()}


def _row(
    work: str, against: str, ours: list[float], theirs: list[float], target: float
) -> dict[str, Any]:
    return {
        "work": work,
        "against": against,
        "ours_seconds": _spread(ours),
        "theirs_seconds": _spread(theirs),
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "target": target,
    }


def _spread(times: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def _growth(largest: float) -> list[dict[str, Any]]:
    """Return how time and memory of a density grow with the number of sites, in fresh processes."""
    sides = [side for side in (22, 46, 100, 215, 464) if side**3 <= 1.01 * largest]
    points = [(side**3, _density(side, 3 if side < 200 else 1)) for side in sides]
    found = []
    for n, point in points:
        blocks = 2 * 4 * 4 * n
        found.append({
            "work": f"density, 64 moments, 4 probes, 3-D lattice, float32, n = {n}",
            "against": "memory of two blocks",
            "ours_seconds": _spread(point["seconds"]),
            "bytes": point["bytes"],
            "ratio": point["bytes"] / blocks,
            "target": 1.5,
            "at_most": True,
        })
    for least in (0, 900_000):
        chosen = [(n, point) for n, point in points if n >= least]
        if len(chosen) > 1:
            logs = np.log([[n, min(point["seconds"])] for n, point in chosen])
            exponent = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
            found.append({
                "work": f"density, exponent of time from n = {chosen[0][0]} to {chosen[-1][0]}",
                "against": "linear",
                "ratio": exponent,
                "target": LINEAR,
                "at_most": True,
            })
    return found


def _density(side: int, repeats: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", DENSITY, str(side), str(repeats)],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=100, help="sites along each axis, for steps")
    parser.add_argument("--largest", type=float, default=1e7, help="sites, for growth")
    options = parser.parse_args()
    for row in rows(options.side, options.largest):
        seconds = row.get("ours_seconds", {}).get("median", math.nan)
        print(f"{row['work']:75} {row['against']:40} {1e3 * seconds:9.2f} ms  {row['ratio']:.3g}")


if __name__ == "__main__":
    main()
