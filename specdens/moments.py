"""Chebyshev moments ``<v, T_k(B) v>``, where B is A with its spectrum mapped into [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from specdens._arrays import Array, column_dots, device, eps, namespace, to_host
from specdens._kernels import padded_width
from specdens.lanczos import NotHermitianError
from specdens.linear_operator import LinearOperator, Step

__all__ = ["EscapeError", "chebyshev_moments", "chebyshev_vectors", "require_inside"]

Host: TypeAlias = np.ndarray[Any, Any]


class EscapeError(ValueError):
    """An eigenvalue lies outside the interval: moments would grow without bound."""


def chebyshev_moments(
    op: LinearOperator, start: Array, count: int, low: float, high: float
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
    center, half = (high + low) / 2, (high - low) / 2
    if half == 0:
        half = 1.0  # a multiple of the identity: B = 0

    mass = _real_dots(start, start)
    table = [np.ones_like(mass)]
    unit = eps(start)
    # B is a difference of numbers as large as the centre: a narrow interval magnifies rounding.
    magnified = unit * max(1.0, abs(center) / half)
    tolerance = 1 + min(0.1, (1000 + 10 * np.sqrt(start.shape[0])) * magnified)

    def keep(row: Host) -> None:
        # The first product is finite unless A is not; a later infinity is growth.
        if not np.all(np.isfinite(row)) and len(table) == 1:
            msg = "a product with A contains NaN or infinity; expected finite numbers."
            raise ValueError(msg)
        if not np.all(np.abs(row) <= tolerance * (1 + len(table) * unit)):
            msg = f"moment {len(table)} exceeds mu_0: the spectrum is not inside [{low}, {high}]."
            raise EscapeError(msg)
        table.append(row)

    if count == 1:
        return np.stack(table)
    for current, squares, mixed in _steps(op, start, center, half):
        if len(table) == 3:
            _require_hermitian(_real_dots(start, current) / mass, table[2], tolerance - 1)
        keep(mixed / mass if len(table) == 1 else 2 * mixed / mass - table[1])
        if len(table) < count:
            keep(2 * squares / mass - 1)
        if len(table) == count:
            break
    return np.stack(table)


def _steps(
    op: LinearOperator, start: Array, center: float, half: float
) -> Iterator[tuple[Array, Host, Host]]:
    """Run the recurrence.

    Yields
    ------
    array, ndarray, ndarray
        ``v_k = T_k(B) v``, ``<v_k, v_k>`` and ``<v_k, v_(k-1)>``, from k = 1 on.
    """
    step = op.recurrence(start.shape[1]) if start.dtype == op.dtype else None
    width = padded_width(start.shape[1])
    if step is not None and width is not None:
        yield from _fused_steps(step, start, width, center, half)
        return
    previous = start
    current = (op.matmat(start) - center * start) / half
    while True:
        yield current, _real_dots(current, current), _real_dots(current, previous)
        following = 2 * ((op.matmat(current) - center * current) / half) - previous
        previous, current = current, following


def _fused_steps(
    step: Step, start: Array, width: int, center: float, half: float
) -> Iterator[tuple[Array, Host, Host]]:
    """Do the same in two blocks, each step one pass over memory.

    Yields
    ------
    array, ndarray, ndarray
    """
    count = start.shape[1]
    xp, size = namespace(start), (len(start), width)
    x, y = (xp.zeros(size, dtype=start.dtype, device=device(start)) for _ in range(2))
    x[:, :count] = start
    a = 1 / half
    while True:
        squares, mixed = step(x, y, a, -a * center, -1.0)
        yield y[:, :count], to_host(squares[:count]), to_host(mixed[:count])
        x, y, a = y, x, 2 / half


def _real_dots(a: Array, b: Array) -> Host:
    return np.real(column_dots(a, b))


def _require_hermitian(found: Host, expected: Host, tolerance: float) -> None:
    if np.any(np.abs(found - expected) > tolerance):
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
