"""The update of a step, ``y = a p + b x + c y``, where the product ``p = A x`` is there already.

One pass over memory. Sums go over every eighth row, then over these eight, then over chunks of
rows: results depend neither on the number of threads nor on the columns beside.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit, prange

from specdens.kernels.cpu.step_frame import stepped

__all__ = ["finish_rows", "update_step"]

Host: TypeAlias = np.ndarray[Any, Any]

CHUNK = 2048

LANES = 8
"""Rows whose sums are apart: a processor adds several at a time, but waits for each."""


def update_step(product: Host, x: Any, y: Any, a: Any, b: Any, c: Any) -> tuple[Host, Host]:
    """Set y to ``a product + b x + c y``; return ``<y, y>`` and the real part of ``<y, x>``.

    Parameters
    ----------
    product, x, y : array in the memory of the host, shape (n, R), C order
        Of one type, of NumPy or Torch; y is written.
    a, b, c : float, or ndarray of shape (R,)

    Returns
    -------
    ndarray, ndarray, shape (R,)
        float64.
    """

    def update(x: Host, y: Host, abc: Host, partial: Host) -> None:
        _all_rows(np.asarray(product).view(abc.dtype), x, y, abc, partial)

    return stepped(update, CHUNK, x, y, a, b, c)


@njit(parallel=True, nogil=True, cache=True)
def _all_rows(product, x, y, abc, partial):  # type: ignore[no-untyped-def]
    n = len(y)
    for chunk in prange(len(partial)):
        first, stop = chunk * CHUNK, min(n, (chunk + 1) * CHUNK)
        finish_rows(product[first:stop], x[first:stop], y[first:stop], abc, partial[chunk])


@njit(nogil=True, cache=True)
def finish_rows(product, x, y, abc, dots):  # type: ignore[no-untyped-def]
    """Update some rows, all in C order; add to both dot products, float64 of shape (2, columns)."""
    columns = x.shape[1]
    length = LANES * columns
    squares, mixed = np.zeros(length), np.zeros(length)
    a, b, c = np.empty(length, x.dtype), np.empty(length, x.dtype), np.empty(length, x.dtype)
    for j in range(length):
        a[j], b[j], c[j] = abc[0, j % columns], abc[1, j % columns], abc[2, j % columns]
    product, x, y = product.reshape(-1), x.reshape(-1), y.reshape(-1)
    for start in range(0, len(y), length):
        p, old, new = product[start:], x[start:], y[start:]
        for j in range(min(length, len(new))):
            value = a[j] * p[j] + b[j] * old[j] + c[j] * new[j]
            new[j] = value
            wide = np.float64(value)
            squares[j] += wide * wide
            mixed[j] += wide * np.float64(old[j])
    for j in range(length):
        dots[0, j % columns] += squares[j]
        dots[1, j % columns] += mixed[j]
