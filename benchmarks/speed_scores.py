"""EigenScore and EES against singular values, plain NumPy and loops: seconds, and errors of EES.

`theirs` are what the public scripts do (`numpy.linalg.svd`), and what a careful user of NumPy would
write: the Gram matrix and a Cholesky factor. The jobs take turns.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import specdens
from send import ees, eigenscore

Row = dict[str, Any]
Job = Callable[[], Any]

ALPHA = 1e-3
BATCH, CHUNK = 10_000, 1000


def by_svd(e: np.ndarray) -> float:
    """What the public scripts compute: singular values of the centred matrix."""
    s = np.linalg.svd(e - e.mean(axis=0), compute_uv=False).astype(np.float64)
    return float(np.log(s**2 + ALPHA).sum()) / e.shape[1]


def by_cholesky(e: np.ndarray, dtype: type = np.float64) -> float:
    """What NumPy offers: a centred copy, its Gram matrix, a Cholesky factor."""
    c = e.astype(dtype)
    c -= c.mean(axis=0)
    factor = np.linalg.cholesky(
        c.T @ c + np.asarray(ALPHA, dtype) * np.eye(e.shape[1], dtype=dtype)
    )
    return 2 * float(np.log(np.diagonal(factor)).sum(dtype=np.float64)) / e.shape[1]


def by_loop(batch: np.ndarray) -> list[float]:
    """One small matrix after the other, in the precision they have."""
    found = []
    for e in batch:
        c = e - e.mean(axis=0)
        gram = c.T @ c + np.float32(ALPHA) * np.eye(e.shape[1], dtype=e.dtype)
        found.append(float(np.linalg.slogdet(gram)[1]) / e.shape[1])
    return found


def by_batch(batch: np.ndarray) -> np.ndarray:
    """All small matrices by stacked products and determinants."""
    c = batch - batch.mean(axis=1, keepdims=True)
    gram = c.swapaxes(1, 2) @ c + np.float32(ALPHA) * np.eye(batch.shape[2], dtype=batch.dtype)
    return np.linalg.slogdet(gram)[1] / batch.shape[2]


def in_turn(jobs: dict[str, Job], runs: int) -> dict[str, dict[str, float]]:
    """Return the median, least and largest seconds of jobs, after one run that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(runs + 1):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            if turn:
                spent[name].append(time.perf_counter() - started)
    return {name: summary(times) for name, times in spent.items()}


def summary(times: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def lines(
    work: str, spent: dict[str, dict[str, float]], targets: dict[str, float | None], **more: Any
) -> list[Row]:
    """Return a row of the results for each job that is not ours."""
    ours = spent["ours"]
    return [
        {
            "work": work,
            "against": against,
            "ours_seconds": ours,
            "theirs_seconds": spent[against],
            "ratio": spent[against]["median"] / ours["median"],
            "target": target,
            **more,
        }
        for against, target in targets.items()
    ]


def large(d: int, k: int, dtype: str, *, svd_once: bool, target: float, runs: int) -> list[Row]:
    """EigenScore of one matrix of Gaussian numbers."""
    e = np.random.default_rng(0).standard_normal((d, k), dtype=dtype)
    others: dict[str, Job] = {
        "numpy.linalg.svd": lambda: by_svd(e),
        "NumPy Gram, Cholesky in float64": lambda: by_cholesky(e),
        f"NumPy Gram, Cholesky in {dtype}": lambda: by_cholesky(e, np.dtype(dtype).type),
    }
    svd = others.pop("numpy.linalg.svd") if svd_once else None
    spent = in_turn({"ours": lambda: eigenscore(e), **others}, runs)
    if svd is not None:
        spent["numpy.linalg.svd"] = once(svd)
    error = abs(float(eigenscore(e)) - by_cholesky(e))
    targets = {"numpy.linalg.svd": target, **dict.fromkeys(others)}
    return lines(f"EigenScore ({d}, {k}) {dtype}", spent, targets, error=error)


def once(job: Job) -> dict[str, float]:
    """Time what takes a minute but once."""
    started = time.perf_counter()
    job()
    return summary([time.perf_counter() - started])


def estimated(d: int, k: int, dtype: str, *, runs: int) -> list[Row]:
    """EES of a flat and of a decaying spectrum, 20 moments and 20 probes."""
    rng, found = np.random.default_rng(0), []
    for spectrum, decay in (("Gaussian", 1.0), ("decaying", np.geomspace(1, 1e-3, k))):
        e = rng.standard_normal((d, k), dtype=dtype)
        e *= np.asarray(decay, dtype)
        spent = in_turn(
            {
                "ours": lambda e=e: ees(e, rng=0),
                "exact eigenscore": lambda e=e: eigenscore(e),
                "NumPy Gram, Cholesky in float64": lambda e=e: by_cholesky(e),
            },
            runs,
        )
        targets: dict[str, float | None] = {
            "exact eigenscore": 2.5,
            "NumPy Gram, Cholesky in float64": None,
        }
        if spectrum == "Gaussian":
            spent["numpy.linalg.svd"] = once(lambda e=e: by_svd(e))
            targets["numpy.linalg.svd"] = 25
        info = ees(e, rng=0, return_info=True)[1]
        low, high = info.interval(0.95)
        exact = float(eigenscore(e))
        more = {
            "exact": exact,
            "error": float(info) - exact,
            "interval": [low, high],
            "inside": low <= exact <= high,
            "bias_bound": info.bias_bound if math.isfinite(info.bias_bound) else None,
            "converged": info.converged,
        }
        found += lines(f"EES ({d}, {k}) {dtype}, {spectrum} spectrum", spent, targets, **more)
    return found


def batches(count: int, chunk: int, *, runs: int) -> list[Row]:
    """Many small matrices, in chunks: seconds of all of them."""
    rng, found = np.random.default_rng(0), []
    batch = rng.standard_normal((chunk, 4096, 10), dtype=np.float32)
    turned = np.ascontiguousarray(batch.swapaxes(1, 2)).swapaxes(1, 2)
    for order, e in (("K contiguous", batch), ("d contiguous", turned)):
        jobs: dict[str, Job] = {
            "ours": lambda e=e: eigenscore(e),
            "NumPy loop": lambda e=e: by_loop(e),
            "NumPy batched": lambda e=e: by_batch(e),
            "one read of memory": lambda e=e: e.sum(),  # by one thread
        }
        spent = {
            name: {key: value * count / chunk for key, value in times.items()}
            for name, times in in_turn(jobs, runs).items()
        }
        targets: dict[str, float | None] = {
            "NumPy loop": 5,
            "NumPy batched": None,
            "one read of memory": None,
        }
        error = float(np.abs(eigenscore(e[:50]) - by_loop(e[:50].astype(np.float64))).max())
        more = {"chunk": chunk, "runs": runs, "error": error}
        found += lines(
            f"EigenScore of {count} x (4096, 10) float32, {order}", spent, targets, **more
        )
    return found


def rows(settings: Any = None) -> list[Row]:
    """Return all rows; where ``settings.quick`` says so, of small shapes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specdens.AccuracyWarning)
        if settings is not None and settings.quick:
            return [
                *large(2048, 500, "float32", svd_once=False, target=4, runs=2),
                *estimated(4000, 1000, "float32", runs=2),
                *batches(1000, 100, runs=2),
            ]
        return [
            *large(4096, 1000, "float32", svd_once=False, target=4, runs=7),
            *large(4096, 1000, "float64", svd_once=False, target=4, runs=7),
            *large(20_000, 5000, "float32", svd_once=True, target=10, runs=3),
            *estimated(20_000, 5000, "float32", runs=3),
            *batches(BATCH, CHUNK, runs=5),
        ]


def main() -> None:
    """Print the rows as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small shapes, to try the script")
    for row in rows(parser.parse_args()):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
