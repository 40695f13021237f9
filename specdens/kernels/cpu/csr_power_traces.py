"""Traces of the third and fourth power of a Hermitian CSR matrix, whose square is not stored."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit, prange

__all__ = ["third_and_fourth"]

Host: TypeAlias = np.ndarray[Any, Any]

PARTS = 16
"""Of the rows: each holds one row of the square, densely; sums are added in order."""


def third_and_fourth(indptr: Host, indices: Host, data: Host) -> tuple[float, float]:
    """Return tr A^3 and tr A^4 = ||A^2||_F^2 of a Hermitian matrix, in double precision.

    Costs as many multiplications as ``A @ A``: the sum of squared row lengths.
    """
    wide = data.astype(np.result_type(data.dtype, np.float64), copy=False)
    sums = np.zeros((PARTS, 2))
    _by_parts(indptr, indices, wide, sums)
    third, fourth = sums.sum(axis=0)
    return float(third), float(fourth)


@njit(parallel=True, nogil=True, cache=True)
def _by_parts(indptr, indices, data, sums):  # type: ignore[no-untyped-def]  # numba has no types
    n = len(indptr) - 1
    for part in prange(PARTS):
        square = np.zeros(n, data.dtype)
        third, fourth = 0.0, 0.0
        for i in range(part * n // PARTS, (part + 1) * n // PARTS):
            # The lower triangle of a Hermitian square says all; indices of a row are sorted.
            for k in range(indptr[i], indptr[i + 1]):
                for m in range(indptr[indices[k]], indptr[indices[k] + 1]):
                    if indices[m] > i:
                        break
                    square[indices[m]] += data[k] * data[m]
            for k in range(indptr[i], indptr[i + 1]):
                if indices[k] > i:
                    break
                times = 1 if indices[k] == i else 2
                third += times * (square[indices[k]] * np.conj(data[k])).real
            for k in range(indptr[i], indptr[i + 1]):
                for m in range(indptr[indices[k]], indptr[indices[k] + 1]):
                    if indices[m] > i:
                        break
                    entry, times = square[indices[m]], 1 if indices[m] == i else 2
                    fourth += times * (entry.real * entry.real + entry.imag * entry.imag)
                    square[indices[m]] = 0
        sums[part, 0], sums[part, 1] = third, fourth
