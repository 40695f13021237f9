"""Whether a matrix as it is stored is singular: in exact arithmetic, where rounding cannot say."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

__all__ = ["is_exactly_singular", "maps_ones_to_zero"]

Host: TypeAlias = np.ndarray[Any, Any]

LARGEST = 400
"""Order up to which elimination modulo a prime takes less than a second."""

PRIMES = (2**31 - 1, 2**31 - 19)
"""Products of two residues fit into 63 bits."""


def is_exactly_singular(a: Any) -> bool:
    """Whether a host matrix, dense or a SciPy CSC array, is known to have determinant 0 exactly.

    A vector of ones (of a connected component) that A or its transpose maps to 0 is a proof, at any
    order. A small matrix is singular if its determinant is 0 modulo two primes: floating-point
    numbers are integers times powers of two, so that no rounding enters. Of other
    matrices nothing is known.
    """
    if any(maps_ones_to_zero(side) for side in (a, a.T)):
        return True
    if a.shape[0] > LARGEST:
        return False
    dense = np.asarray(a if isinstance(a, np.ndarray) else a.toarray())
    if np.iscomplexobj(dense):
        dense = np.block([[dense.real, -dense.imag], [dense.imag, dense.real]])
    return all(_is_singular_modulo(dense, prime) for prime in PRIMES)


def maps_ones_to_zero(a: Any) -> bool:
    """Whether the indicator of a connected component lies in the kernel of A."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    rows = csr_array(a)
    small = np.asarray(np.abs(rows.sum(axis=1))).ravel()
    vanishing = small <= 1e-15 * np.asarray(abs(rows).sum(axis=1)).ravel()
    if not np.any(vanishing):
        return False
    count, component = connected_components(rows, directed=False)
    others = np.bincount(component, weights=~vanishing, minlength=count)
    candidates = np.flatnonzero(others == 0)
    return any(_sums_to_zero(rows, np.flatnonzero(component == k)) for k in candidates)


def _sums_to_zero(rows: Any, chosen: Host) -> bool:
    """Whether the entries of each chosen row of a CSR array add up to 0, without rounding."""
    for i in chosen:
        entries = rows.data[rows.indptr[i] : rows.indptr[i + 1]]
        parts = (entries.real, entries.imag) if np.iscomplexobj(entries) else (entries,)
        if any(math.fsum(part) != 0 for part in parts):
            return False
    return True


def _is_singular_modulo(a: Host, prime: int) -> bool:
    """Whether the determinant of a real matrix is 0 modulo a prime, by elimination."""
    residues = _modulo(a, prime)
    n = len(residues)
    for k in range(n):
        pivots = np.flatnonzero(residues[k:, k])
        if not len(pivots):
            return True
        i = k + int(pivots[0])
        residues[[k, i]] = residues[[i, k]]
        inverse = pow(int(residues[k, k]), -1, prime)
        factors = residues[k + 1 :, k] * inverse % prime
        residues[k + 1 :, k:] -= factors[:, None] * residues[k, k:] % prime
        residues[k + 1 :, k:] %= prime
    return False


def _modulo(a: Host, prime: int) -> Host:
    """Return the residues of floating-point numbers, exactly."""
    mantissas, exponents = np.frexp(a.astype(float))
    integers = np.ldexp(mantissas, 53).astype(np.int64)
    distinct, index = np.unique(exponents, return_inverse=True)
    powers = np.array([pow(2, int(e) - 53, prime) for e in distinct], dtype=np.int64)
    residues: Host = integers % prime * powers[index].reshape(a.shape) % prime
    return residues
