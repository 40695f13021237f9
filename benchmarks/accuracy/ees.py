"""Why not EES at K = 10: time and error of EES, of the exact EigenScore, and of a full SVD.

Medians of interleaved runs on one machine; ratios to the exact EigenScore are what counts.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np

import specdens
from benchmarks.measuring.record import record
from send import ees, eigenscore

RUNS = 7


def by_svd(e: np.ndarray) -> float:
    """What the public scripts compute: singular values of the centred matrix."""
    s = np.linalg.svd(e - e.mean(axis=0), compute_uv=False)
    return float(np.log(s**2 + 1e-3).sum() + (e.shape[1] - len(s)) * np.log(1e-3)) / e.shape[1]


def medians(jobs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each job, run in turn."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(RUNS):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            spent[name].append(time.perf_counter() - started)
    return {name: float(np.median(times)) for name, times in spent.items()}


def main() -> None:
    """Measure all shapes and print the table."""
    warnings.simplefilter("ignore", specdens.AccuracyWarning)
    table = []
    for d, k in ((2048, 10), (4096, 10), (4096, 100), (4096, 1000)):
        rng = np.random.default_rng(k)
        e = rng.standard_normal((d, k)) * np.geomspace(1, 0.1, k) + rng.standard_normal((d, 1))
        exact = float(eigenscore(e))
        seconds = medians({
            "exact": lambda e=e: eigenscore(e),
            "ees": lambda e=e: ees(e, rng=0),
            "paper": lambda e=e: ees(e, mode="paper", rng=0),
            "svd": lambda e=e: by_svd(e),
        })
        info = ees(e, rng=0, return_info=True)[1]
        row = {
            "d": d,
            "K": k,
            "exact": exact,
            "ees_error": float(info) - exact,
            "ees_half_width": (info.interval()[1] - info.interval()[0]) / 2,
            "paper_minus_exact": float(ees(e, mode="paper", rng=0)) - exact,
            "time_over_exact": {name: s / seconds["exact"] for name, s in seconds.items()},
        }
        table.append(row)
        ratios = ", ".join(f"{name} {r:.1f}" for name, r in row["time_over_exact"].items())
        print(f"d = {d}, K = {k}: EES off by {row['ees_error']:.2g}; time over exact: {ratios}")
    record("ees", {"runs": RUNS, "table": table})


if __name__ == "__main__":
    main()
