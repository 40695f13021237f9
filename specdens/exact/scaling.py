"""Rows and columns scaled by powers of two, so that a tiny pivot can only come from cancellation.

``max_j |a_ij| = 1`` is quick, and mostly enough. Of ``D_1 A D_2`` with wild diagonals it may find
neither: ``min sum (log|a_ij| - r_i - c_j)^2`` over all entries that are not 0 does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, namespace, to_host

__all__ = ["balanced", "equilibrated", "evened", "sparse_evened"]

Host: TypeAlias = np.ndarray[Any, Any]

STEPS = 60
"""Of conjugate gradients: powers of two need no more than one digit."""

ROUNDS = 20
"""Of the scaling by largest entries after it."""


def equilibrated(a: Array) -> tuple[Array, float] | None:
    """Divide rows, then columns, of a dense matrix by powers of two next to their largest entries.

    Return also what log2|det| has lost; None if a row or column is zero.
    """
    xp, lost = namespace(a), 0.0
    for axis in (0, 1):
        largest = xp.max(xp.abs(a), axis=1 - axis)
        if bool(xp.any(largest == 0)):
            return None
        powers = xp.round(xp.log2(largest))
        a = _divided(a, powers, axis)
        lost += float(xp.sum(powers))
    return a, lost


def _divided(a: Array, powers: Array, axis: int) -> Array:
    """Divide rows (axis 0) or columns by 2^powers."""
    xp = namespace(a)
    half = xp.floor(powers / 2)
    # In two steps: the inverse of a denormal power of two overflows.
    for step in (half, powers - half):
        a = a * xp.expand_dims(xp.astype(2.0 ** (-step), a.dtype), axis=1 - axis)
    return a


def balanced(a: Any) -> tuple[Any, float] | None:
    """Scale rows and columns alike by powers of two until no row has a maximum far from 1.

    Symmetry survives, and with it the diagonal's right to be the pivot of a definite matrix.
    Return also the sum of the exponents that log2|det| has lost; None if a row is zero.

    References
    ----------
    Ruiz, Rutherford Appleton Laboratory report RAL-TR-2001-034.
    """
    from scipy.sparse import diags_array

    lost = 0.0
    for _ in range(40):
        largest = abs(a).max(axis=1).toarray().ravel()
        if not np.all(largest > 0):
            return None
        powers = np.round(np.log2(largest) / 2)
        if not np.any(powers):
            break
        scaling = diags_array(2.0**-powers)
        a = (scaling @ a @ scaling).tocsc()
        lost += 2 * float(powers.sum())
    return a, lost


class _Logarithms(NamedTuple):
    """Sums over rows and columns of log2|a_ij|, and products with the pattern of the nonzeros."""

    rows: Host
    columns: Host
    times: Callable[[Host], Host]
    adjoint_times: Callable[[Host], Host]


def evened(a: Array) -> tuple[Array, float] | None:
    """Scale a dense matrix so that the logarithms of its nonzero entries are as even as can be.

    Return also what log2|det| has lost; None if a row or column is zero.
    """
    xp = namespace(a)
    size = xp.abs(a)
    pattern = xp.astype(size > 0, size.dtype)
    logs = xp.log2(xp.where(size > 0, size, xp.ones_like(size)))

    def times(matrix: Array) -> Callable[[Host], Host]:
        return lambda v: to_host(matrix @ xp.asarray(v, dtype=size.dtype, device=a.device))

    rows, columns = (to_host(xp.sum(logs, axis=axis)) for axis in (1, 0))
    found = _even_powers(
        _Logarithms(rows, columns, times(pattern), times(xp.matrix_transpose(pattern)))
    )
    if found is None:
        return None
    for axis, powers in enumerate(found):
        a = _divided(a, xp.asarray(powers, dtype=size.dtype, device=a.device), axis)
    scaled = equilibrated(a)
    assert scaled is not None  # no row is zero, and powers of two leave it so
    return scaled[0], scaled[1] + float(sum(powers.sum() for powers in found))


def sparse_evened(a: Any, *, hermitian: bool) -> tuple[Any, float] | None:
    """Do the same to a SciPy CSC array without stored zeros; alike on both sides if Hermitian."""
    pattern = a.copy()
    pattern.data = np.ones(a.nnz)
    logs = a.copy()
    logs.data = np.log2(np.abs(a.data))
    transposed = pattern.T
    found = _even_powers(
        _Logarithms(
            logs.sum(axis=1), logs.sum(axis=0), lambda v: pattern @ v, lambda v: transposed @ v
        )
    )
    if found is None:
        return None
    lost = 0.0
    for _ in range(ROUNDS):
        powers = [np.round(sum(found) / 2)] * 2 if hermitian else found
        if not any(np.any(side) for side in powers):
            break
        a, lost = _sparse_divided(a, *powers), lost + float(sum(side.sum() for side in powers))
        size = abs(a)
        found = [np.round(np.log2(size.max(axis=k).toarray().ravel()) / 2) for k in (1, 0)]
    return a, lost


def _sparse_divided(a: Any, rows: Host, columns: Host) -> Any:
    """Divide the entries of a SciPy CSC array by ``2^(rows_i + columns_j)``, without overflow."""
    exponents = -(rows[a.indices] + np.repeat(columns, np.diff(a.indptr))).astype(np.int64)
    a = a.copy()
    if np.iscomplexobj(a.data):
        a.data = np.ldexp(a.data.real, exponents) + 1j * np.ldexp(a.data.imag, exponents)
    else:
        a.data = np.ldexp(a.data, exponents)
    return a


def _even_powers(logs: _Logarithms) -> list[Host] | None:
    """Return integers r, c that nearly minimise ``sum (log2|a_ij| - r_i - c_j)^2``.

    References
    ----------
    Curtis and Reid, IMA J. Appl. Math. 10, 118 (1972).
    """
    ones = np.ones(len(logs.columns))
    per_row, per_column = logs.times(ones), logs.adjoint_times(np.ones(len(logs.rows)))
    if not (np.all(per_row > 0) and np.all(per_column > 0)):
        return None

    def columns(r: Host) -> Host:
        return (logs.columns - logs.adjoint_times(r)) / per_column

    # c is the best for each r, which leaves a singular but consistent system for r.
    r = np.zeros(len(per_row))
    residual = logs.rows - logs.times(columns(r))
    search, last = np.zeros_like(r), math.inf
    for _ in range(STEPS):
        scaled = residual / per_row
        norm = float(residual @ scaled)
        if math.sqrt(norm) <= 0.01 * math.sqrt(len(r)):
            break
        search = scaled + norm / last * search
        image = per_row * search - logs.times(logs.adjoint_times(search) / per_column)
        curvature = float(search @ image)
        if curvature <= 0:  # only the constant is left
            break
        step, last = norm / curvature, norm
        r, residual = r + step * search, residual - step * image
    return [np.round(r), np.round(columns(r))]
