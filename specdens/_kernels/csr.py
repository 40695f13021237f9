"""A step of a recurrence with a CSR matrix, ``y = a A x + b x + c y``, and its dot products.

One pass over memory: A once, x once and y twice, for all columns together. Rows are cut into chunks
that depend on their number only, and the dot products of chunks are added in their order, so that
results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numba import njit, prange

from specdens._kernels.rows import update_csr_rows

__all__ = ["CHUNK", "csr_step"]

Host: TypeAlias = np.ndarray[Any, Any]

CHUNK = 2048
"""Rows: few enough to balance threads, many enough to make starting a chunk cheap."""


def csr_step(
    indptr: Host, indices: Host, data: Host, x: Host, y: Host, a: Any, b: Any, c: Any
) -> tuple[Host, Host]:
    """Set y to ``a A x + b x + c y``; return ``<y, y>`` and the real part of ``<y, x>`` by columns.

    Parameters
    ----------
    indptr, indices, data : ndarray
        Of A, n x n, in CSR form, of the dtype of x; indices are not checked.
    x, y : ndarray, shape (n, R), C order
        R one of `specdens._kernels.WIDTHS`; y is written.
    a, b, c : float, or ndarray of shape (R,)
        For the number ``a = 0.0`` A is not read.

    Returns
    -------
    ndarray, ndarray, shape (R,)
        float64.
    """
    real = np.float32 if x.dtype in (np.float32, np.complex64) else np.float64
    if isinstance(a, float) and a == 0:
        indptr = np.zeros_like(indptr)
    columns, updated = x.view(real), y.view(real)
    width = columns.shape[1]
    abc = np.empty((3, x.shape[1], width // x.shape[1]), real)
    for place, coefficient in zip(abc, (a, b, c), strict=True):
        place[:] = np.reshape(coefficient, (-1, 1))
    partial = np.empty((-(-len(x) // CHUNK), 2, width))
    _all_rows(width)(indptr, indices, data, columns, updated, abc.reshape(3, width), partial)
    squares, mixed = partial.sum(axis=0).reshape(2, x.shape[1], -1).sum(axis=2)
    return squares, mixed


@lru_cache
def _all_rows(width: int) -> Callable[..., None]:
    """Return the loop over rows for a number of real columns, compiled when it is called."""

    @njit(parallel=True, nogil=True, cache=True)
    def loop(indptr, indices, data, x, y, abc, partial):  # type: ignore[no-untyped-def]
        n = len(indptr) - 1
        for chunk in prange(len(partial)):
            dots = np.zeros((2, width))
            first, last = chunk * CHUNK, min(n, (chunk + 1) * CHUNK)
            update_csr_rows(data, indices, indptr, x, y, first, last, abc, dots, width)
            partial[chunk] = dots

    return loop  # type: ignore[no-any-return]  # numba has no types
