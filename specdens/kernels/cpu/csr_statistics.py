"""What the entries of a CSR matrix say: sums of its rows, and how far it is from its adjoint."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit, prange

from specdens.kernels.cpu.csr_step import CHUNK

__all__ = ["absolute_row_sums", "distances_from_adjoint"]

Host: TypeAlias = np.ndarray[Any, Any]


def absolute_row_sums(indptr: Host, data: Host) -> Host:
    """Return ``sum_j |a_ij|`` in double precision, shape (n,)."""
    sums = np.empty(len(indptr) - 1)
    _sum_rows(indptr, data, sums)
    return sums


def distances_from_adjoint(indptr: Host, indices: Host, data: Host) -> tuple[float, float]:
    """Return the largest ``|a_ij - conj(a_ji)|``, and the largest as a share of both rows' largest.

    Parameters
    ----------
    indptr, indices, data : ndarray
        Of a square matrix in canonical CSR form: the indices of a row are sorted and differ.

    Notes
    -----
    Nothing of the size of the matrix is made: each entry's mirror is looked up by bisection.
    """
    n = len(indptr) - 1
    largest = np.empty(n)
    _largest_of_rows(indptr, data, largest)
    found = np.zeros((-(-n // CHUNK), 2))
    _compare(indptr, indices, data, largest, found)
    distance, share = found.max(axis=0, initial=0.0)
    return float(distance), float(share)


@njit(parallel=True, nogil=True, cache=True)
def _sum_rows(indptr, data, sums):  # type: ignore[no-untyped-def]  # numba has no types
    for i in prange(len(sums)):
        total = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            total += abs(data[k])
        sums[i] = total


@njit(parallel=True, nogil=True, cache=True)
def _largest_of_rows(indptr, data, largest):  # type: ignore[no-untyped-def]
    for i in prange(len(largest)):
        most = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            most = max(most, abs(data[k]))
        largest[i] = most


@njit(parallel=True, nogil=True, cache=True)
def _compare(indptr, indices, data, largest, found):  # type: ignore[no-untyped-def]
    n = len(largest)
    for chunk in prange(len(found)):
        distance, share = 0.0, 0.0
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            for k in range(indptr[i], indptr[i + 1]):
                j = indices[k]
                low, high = indptr[j], indptr[j + 1]
                while low < high:
                    middle = (low + high) // 2
                    if indices[middle] < i:
                        low = middle + 1
                    else:
                        high = middle
                mirror = data[k] * 0
                if low < indptr[j + 1] and indices[low] == i:
                    mirror = data[low]
                apart = abs(data[k] - np.conj(mirror))
                if apart > 0:
                    least = min(largest[i], largest[j])
                    distance = max(distance, apart)
                    share = max(share, apart / least) if least > 0 else np.inf
        found[chunk, 0], found[chunk, 1] = distance, share
