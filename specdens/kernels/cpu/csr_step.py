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

from specdens.kernels.cpu.csr_rows import update_csr_rows
from specdens.kernels.cpu.step_frame import needs_product, stepped

__all__ = ["CHUNK", "csr_step"]

Host: TypeAlias = np.ndarray[Any, Any]

CHUNK = 2048
"""Rows: few enough to balance threads, many enough to make starting a chunk cheap."""


def csr_step(
    indptr: Host, indices: Host, data: Host, x: Any, y: Any, a: Any, b: Any, c: Any
) -> tuple[Host, Host]:
    """Set y to ``a A x + b x + c y``; return ``<y, y>`` and the real part of ``<y, x>`` by columns.

    Parameters
    ----------
    indptr, indices, data : ndarray
        Of A, n x n, in CSR form, of the dtype of x; indices are not checked.
    x, y : array in the memory of the host, shape (n, R), C order
        Each R is compiled for itself; y is written.
    a, b, c : float, or ndarray of shape (R,)
        For the number ``a = 0.0`` A is not read.

    Returns
    -------
    ndarray, ndarray, shape (R,)
        float64.
    """
    rows = indptr if needs_product(a) else np.zeros_like(indptr)

    def update(x: Host, y: Host, abc: Host, partial: Host) -> None:
        _all_rows(x.shape[1])(rows, indices, data, x, y, abc, partial)

    return stepped(update, CHUNK, x, y, a, b, c)


@lru_cache
def _all_rows(width: int) -> Callable[..., None]:
    """Return the loop over rows for a number of real columns, compiled when it is called."""

    @njit(parallel=True, nogil=True, cache=True)
    def loop(indptr, indices, data, x, y, abc, partial):  # type: ignore[no-untyped-def]
        n = len(indptr) - 1
        for chunk in prange(len(partial)):
            first, last = chunk * CHUNK, min(n, (chunk + 1) * CHUNK)
            update_csr_rows(data, indices, indptr, x, y, first, last, abc, partial[chunk], width)

    return loop  # type: ignore[no-any-return]  # numba has no types
