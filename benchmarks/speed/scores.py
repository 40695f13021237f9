"""EigenScore and EES against singular values, plain NumPy and loops: seconds, and errors of EES.

What others are: what the public scripts do (`numpy.linalg.svd`), and what a careful user of NumPy
would write: the Gram matrix and a Cholesky factor.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

import specdens
from benchmarks.measuring.timing import Row, compared, once, seconds
from benchmarks.speed.settings import Settings
from send import ees, eigenscore

ALPHA = 1e-3


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


def rows(settings: Settings) -> list[Row]:
    """Return all rows; where ``settings.quick`` says so, of small shapes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specdens.AccuracyWarning)
        if settings.quick:
            return [
                *exact(2048, 500, "float32", target=4, repeats=settings.few),
                *estimated(4000, 1000, repeats=settings.few),
                *batches(1000, 100, repeats=settings.few),
            ]
        return [
            *exact(4096, 1000, "float32", target=4, repeats=settings.repeats),
            *exact(4096, 1000, "float64", target=4, repeats=settings.repeats),
            *exact(20_000, 5000, "float32", target=10, repeats=settings.few),
            *estimated(20_000, 5000, repeats=settings.few),
            *batches(10_000, 1000, repeats=settings.few),
        ]


def exact(d: int, k: int, dtype: str, *, target: float, repeats: int) -> list[Row]:
    """EigenScore of one matrix of Gaussian numbers; singular values of large ones take a minute."""
    e = np.random.default_rng(0).standard_normal((d, k), dtype=dtype)
    others = {
        "numpy.linalg.svd": (seconds if k < 5000 else once)(lambda: by_svd(e)),
        "NumPy Gram, Cholesky in float64": seconds(lambda: by_cholesky(e)),
    }
    if dtype == "float32":
        others["NumPy Gram, Cholesky in float32"] = seconds(lambda: by_cholesky(e, np.float32))
    return compared(
        f"EigenScore ({d}, {k}) {dtype}", seconds(lambda: eigenscore(e)), others,
        {"numpy.linalg.svd": target}, repeats, deviation=abs(float(eigenscore(e)) - by_cholesky(e)),
    )  # fmt: skip


def estimated(d: int, k: int, *, repeats: int) -> list[Row]:
    """EES of a flat and of a decaying spectrum, 20 moments and 20 probes, in float32."""
    rng, found = np.random.default_rng(0), []
    for spectrum, decay in (("Gaussian", np.ones(k)), ("decaying", np.geomspace(1, 1e-3, k))):
        e = rng.standard_normal((d, k), dtype=np.float32)
        e *= decay.astype(np.float32)
        others = {
            "exact eigenscore": seconds(lambda e=e: eigenscore(e)),
            "NumPy Gram, Cholesky in float64": seconds(lambda e=e: by_cholesky(e)),
        }
        if spectrum == "Gaussian":
            others["numpy.linalg.svd"] = once(lambda e=e: by_svd(e))
        info = ees(e, rng=0, return_info=True)[1]
        low, high = info.interval(0.95)
        truth = float(eigenscore(e))
        found += compared(
            f"EES ({d}, {k}) float32, {spectrum} spectrum", seconds(lambda e=e: ees(e, rng=0)),
            others, {"exact eigenscore": 2.5, "numpy.linalg.svd": 25}, repeats,
            exact=truth, deviation=float(info) - truth, interval=[low, high],
            inside=low <= truth <= high, converged=info.converged,
            bias_bound=info.bias_bound if math.isfinite(info.bias_bound) else None,
        )  # fmt: skip
    return found


def batches(count: int, chunk: int, *, repeats: int) -> list[Row]:
    """Many small matrices: seconds of all of them, of which one chunk is computed."""
    batch = np.random.default_rng(0).standard_normal((chunk, 4096, 10), dtype=np.float32)
    turned = np.ascontiguousarray(batch.swapaxes(1, 2)).swapaxes(1, 2)
    found, times = [], count / chunk
    for order, e in (("K contiguous", batch), ("d contiguous", turned)):
        read = "one read of memory, by one thread"
        others = {
            "NumPy loop": seconds(lambda e=e: by_loop(e), times=times),
            "NumPy batched": seconds(lambda e=e: by_batch(e), times=times),
            read: seconds(lambda e=e: e.sum(), times=times),
        }
        deviation = float(np.abs(eigenscore(e[:50]) - by_loop(e[:50].astype(np.float64))).max())
        found += compared(
            f"EigenScore of {count} x (4096, 10) float32, {order}",
            seconds(lambda e=e: eigenscore(e), times=times), others, {"NumPy loop": 5}, repeats,
            at_most=(read,), chunk=chunk, deviation=deviation,
        )  # fmt: skip
    return found
