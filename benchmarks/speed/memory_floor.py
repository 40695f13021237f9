"""The least time in which memory gives and takes so many bytes: a triad on all threads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from benchmarks.measuring.timing import Job, seconds

__all__ = ["step_bytes", "streaming"]


def step_bytes(n: int, nnz: int, columns: int, item: int) -> int:
    """Return the bytes of one fused step: A once, x once, y twice."""
    return nnz * (item + 4) + 4 * n + 3 * n * columns * item


def streaming(size: int, *, times: int = 1) -> Job:
    """Return the job that moves so many bytes, two thirds in and one third out, per time."""
    x, y = (np.ones(max(1, size // 24)) for _ in range(2))

    def work() -> None:
        for _ in range(times):
            _triad(x, y, 0.5)

    return seconds(work, times=1 / times)


@njit(parallel=True, cache=True)
def _triad(x: Any, y: Any, a: float) -> None:
    for i in prange(len(x)):
        y[i] = a * x[i] + y[i] * a
