"""One fused step, ``y = a A x + b x + c y`` with its dot products, beside the speed of memory."""

from __future__ import annotations

from typing import Any

import numpy as np

import specdens
from benchmarks.measuring.timing import Job, Row, compared, seconds
from benchmarks.speed.memory_floor import step_bytes, streaming
from benchmarks.speed.settings import Settings
from specdens.arrays.libraries import zero_block
from specdens.testing import laplacian

COLUMNS = (4, 8, 16, 32)
TIMES = 3
"""Steps a turn: their mean counts."""


def rows(settings: Settings) -> list[Row]:
    """Compare the steps of each width and precision with a triad that moves the same bytes."""
    lattice = laplacian(settings.side, settings.side, settings.side)
    found = []
    for dtype in (np.float64, np.float32, np.complex128):
        a = lattice.astype(dtype)
        for columns in COLUMNS:
            size = step_bytes(settings.n, a.nnz, columns, a.dtype.itemsize)
            work = f"one step, 3-D lattice, n = {settings.n:,}, R = {columns}, {a.dtype}"
            found += compared(
                work, fused(a, columns), {"memory floor": streaming(size, times=TIMES)},
                {"memory floor": target(a.dtype, columns)}, 2 * settings.repeats,
                at_most=True, bytes=size, columns=columns, dtype=str(a.dtype),
            )  # fmt: skip
    return found


def target(dtype: Any, columns: int) -> float | None:
    """Return how many times the floor a step may take."""
    if dtype == np.float32:
        return 2.0
    return {8: 1.5, 16: 1.5, 32: 2.0}.get(columns) if dtype == np.float64 else None


def fused(
    a: Any, columns: int, bounds: tuple[float, float] = (0.0, 12.0), *, product: bool = True
) -> Job:
    """Return our step as a job, with a product or without one: all it moves is x and y, then.

    x stays, and y goes to and fro, so that nothing grows.
    """
    step = specdens.aslinearoperator(a).recurrence(columns)
    assert step is not None, "the matrix is too small for the compiled step, or numba is missing"
    rng = np.random.default_rng(0)
    # Blocks begin at a cache line, as those of recurrences do.
    x, y = (zero_block(np, (a.shape[0], columns), a.dtype, None) for _ in range(2))
    x[:], y[:] = (rng.standard_normal(x.shape) for _ in range(2))
    half, center = (bounds[1] - bounds[0]) / 2, (bounds[1] + bounds[0]) / 2

    def work() -> None:
        for _ in range(TIMES):
            step(x, y, product / half, -center / half, -1.0)

    return seconds(work, times=1 / TIMES)
