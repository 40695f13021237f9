"""Chebyshev moments ``<v, T_k(B) v>``, where B is A with its spectrum mapped into [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, column_dots, eps, namespace, to_host
from specdens.operators.hermitian import is_surely_hermitian
from specdens.operators.linear_operator import LinearOperator
from specdens.recurrences.lanczos import NotHermitianError
from specdens.recurrences.step import fast_step, pair_of_blocks, plain_step

__all__ = ["EscapeError", "chebyshev_moments", "chebyshev_vectors", "require_inside"]

Host: TypeAlias = np.ndarray[Any, Any]


class EscapeError(ValueError):
    """An eigenvalue lies outside the interval: moments would grow without bound."""


def chebyshev_moments(
    op: LinearOperator,
    start: Array,
    count: int,
    low: float,
    high: float,
    *,
    overwrite: bool = False,
) -> Host:
    r"""Return the Chebyshev moments of each column's spectral measure, mapped from [low, high].

    With ``v_k = T_k(B) v``: ``mu_2k = 2 <v_k, v_k> - mu_0`` and
    ``mu_(2k+1) = 2 <v_(k+1), v_k> - mu_1``.

    Parameters
    ----------
    op : LinearOperator, shape (n, n)
        Hermitian.
    start : array, shape (n, R)
        No zero column; norms do not matter.
    count : int
        At least 1. Costs ``floor(count / 2)`` products with each column.
    low, high : float
        An interval that contains the spectrum, low < high.
    overwrite : bool
        Whether `start` may be written to, which saves a block of memory.

    Returns
    -------
    ndarray, shape (count, R)
        float64 on the host, each column divided by its ``mu_0``.

    Raises
    ------
    EscapeError
        If some ``|mu_k|`` exceeds ``mu_0``, which can only mean a spectrum outside the interval.
    NotHermitianError
        If ``<v, B^2 v>`` is not ``<B v, B v>``.
    ValueError
        If a product is not finite.

    References
    ----------
    Weiße et al., Rev. Mod. Phys. 78, 275 (2006), eqs. 34-38.
    """
    center, half = (high + low) / 2, (high - low) / 2 or 1.0  # 1 for a multiple of the identity
    unit = eps(start)
    # B is a difference of numbers as large as the centre: a narrow interval magnifies rounding.
    magnified = unit * max(1.0, abs(center) / half)
    rounding = min(0.1, (1000 + 10 * math.sqrt(start.shape[0])) * magnified)
    rows: list[Any] = []
    for squares, mixed in _dots(op, start, center, half, rounding, overwrite=overwrite):
        found = [squares] if not rows else [mixed if len(rows) == 1 else 2 * mixed - rows[1]]
        if rows and len(rows) + 1 < count:
            found.append(2 * squares - rows[0])
        rows += found
        if isinstance(squares, np.ndarray):  # a device is waited for at the end only
            _require_bounded(rows, len(found), rounding, unit, (low, high))
        if len(rows) == count:
            break
    table: Host = to_host(namespace(rows[0]).stack(rows))
    _require_bounded(table, count, rounding, unit, (low, high))
    normalized: Host = table / table[0]
    return normalized


def _dots(
    op: LinearOperator,
    start: Array,
    center: float,
    half: float,
    rounding: float,
    *,
    overwrite: bool,
) -> Iterator[tuple[Any, Any]]:
    """Run the recurrence ``v_k = T_k(B) v`` in two blocks.

    Yields
    ------
    array, array, shape (R,)
        ``<v_k, v_k>`` and ``<v_k, v_(k-1)>``, the first of them twice, where the step leaves them.
    """
    fast, count = fast_step(op, start), start.shape[1]
    step, width = fast or (plain_step(op), count)
    dtype = op.xp.result_type(start.dtype, op.dtype)
    kept = None if fast else start  # entries that a step reads by itself were compared before
    x, y = pair_of_blocks(start, width, dtype, overwrite=overwrite and kept is None)
    del start
    mass, _ = step(x, y, 0.0, 1.0, 0.0)
    yield mass[:count], mass[:count]
    a, c, last = 1 / half, 0.0, mass
    while True:
        squares, mixed = step(x, y, a, -a * center, c)
        if kept is not None and c:
            found = np.real(column_dots(kept, y))
            difference = np.abs(found / mass - (2 * last / mass - 1))
            _require_hermitian(op, difference, rounding)
            kept = None
        yield squares[:count], mixed[:count]
        x, y, a, c, last = y, x, 2 / half, -1.0, squares


def _require_bounded(
    rows: Any, new: int, rounding: float, unit: float, interval: tuple[float, float]
) -> None:
    """Raise an error if one of the last rows cannot be a moment of a spectrum in the interval."""
    for k in range(len(rows) - new, len(rows)):
        # The first product is finite unless A is not; a later infinity is growth.
        if k <= 1 and not np.all(np.isfinite(rows[k])):
            msg = "a product with A contains NaN or infinity; expected finite numbers."
            raise ValueError(msg)
        if not np.all(np.abs(rows[k]) <= (1 + rounding) * (1 + k * unit) * rows[0]):
            low, high = interval
            msg = f"moment {k} exceeds mu_0: the spectrum is not inside [{low}, {high}]."
            raise EscapeError(msg)


def _require_hermitian(op: LinearOperator, difference: Host, tolerance: float) -> None:
    if np.any(difference > tolerance) and not is_surely_hermitian(op):
        msg = (
            "the operator is not Hermitian: <v, A A v> and <A v, A v> differ. "
            "Pass hermitian=False, with an adjoint product (rmatvec=) if it is only applied."
        )
        raise NotHermitianError(msg)


def chebyshev_vectors(op: LinearOperator, start: Array, low: float, high: float) -> Iterator[Array]:
    """Give the vectors ``T_k(B) v``, k = 0, 1, ..., away; each but the first costs a product.

    Yields
    ------
    array, shape (n, R)
    """
    center, half = (high + low) / 2, (high - low) / 2 or 1.0  # 1 for a multiple of the identity
    previous = start
    yield previous
    current = (op.matmat(start) - center * start) / half
    while True:
        yield current
        previous, current = current, 2 * (op.matmat(current) - center * current) / half - previous


def require_inside(vectors: Array, squares: Host, low: float, high: float) -> None:
    """Raise an EscapeError if ``|T_k(B) v|^2`` exceeds ``|v|^2`` in a column."""
    found = np.real(column_dots(vectors, vectors))
    tolerance = 1 + (1000 + 10 * math.sqrt(vectors.shape[0])) * eps(vectors)
    if not np.all(np.isfinite(found)) or np.any(found > tolerance * squares):
        msg = f"a Chebyshev vector grows: the spectrum is not inside [{low}, {high}]."
        raise EscapeError(msg)
