"""Lanczos tridiagonalisation and Golub-Kahan bidiagonalisation of a block of independent vectors.

Each column of the block runs its own recurrence; the products are shared. Without
reorthogonalisation the tridiagonals still carry a near-optimal quadrature (Greenbaum 1989); with it
(n at most `EXACT_UP_TO`) n steps are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, column_dots, eps, namespace, power_of_two, to_host
from specdens.operators.hermitian import is_surely_hermitian
from specdens.operators.linear_operator import LinearOperator, Step
from specdens.recurrences.step import fast_step, pair_of_blocks

__all__ = [
    "EXACT_UP_TO",
    "BasisStep",
    "Bidiagonal",
    "NotHermitianError",
    "Tridiagonal",
    "assembled",
    "assembled_bidiagonals",
    "bidiagonal_steps",
    "bidiagonalize",
    "coefficients",
    "lanczos_steps",
    "tridiagonalize",
]

Host: TypeAlias = np.ndarray[Any, Any]

EXACT_UP_TO = 512
"""Order up to which all basis vectors are kept and used, so that n steps are exact."""

SMALLEST, LARGEST = 1e-100, 1e100
"""Products whose squares can be summed as they are."""


class NotHermitianError(ValueError):
    """The products of an operator contradict the claim that it is Hermitian."""


@dataclass(frozen=True)
class Tridiagonal:
    """One vector's tridiagonal: diagonal, off-diagonal, and the coefficient of the next step.

    Attributes
    ----------
    diagonal : ndarray, shape (m,)
    off_diagonal : ndarray, shape (m - 1,)
    residual : float
        ``beta_m``: 0 if the Krylov space is invariant, so that the quadrature is exact.
    """

    diagonal: Host
    off_diagonal: Host
    residual: float

    @cached_property
    def ritz(self) -> tuple[Host, Host, Host]:
        """Ritz values, ascending, and the first and last components of their vectors."""
        from scipy.linalg import eigh_tridiagonal

        if len(self.diagonal) == 1:
            return self.diagonal.copy(), np.ones(1), np.ones(1)
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return values, vectors[0].copy(), vectors[-1].copy()

    def negated(self) -> Tridiagonal:
        """Return that of the negative matrix: signs beside the diagonal do not count."""
        return Tridiagonal(-self.diagonal, self.off_diagonal, self.residual)

    def leading(self, size: int) -> Tridiagonal:
        """Return what the recurrence had found after `size` steps."""
        if size >= len(self.diagonal):
            return self
        return Tridiagonal(
            self.diagonal[:size], self.off_diagonal[: size - 1], float(self.off_diagonal[size - 1])
        )


@dataclass(frozen=True)
class Bidiagonal:
    """One vector's upper bidiagonal factor B, ``A V = U B``.

    Attributes
    ----------
    diagonal : ndarray, shape (m,)
    super_diagonal : ndarray, shape (m - 1,)
    residual : float
        ``beta_m``: the next entry above the diagonal.
    """

    diagonal: Host
    super_diagonal: Host
    residual: float

    def leading(self, size: int) -> Bidiagonal:
        """Return what the recurrence had found after `size` steps."""
        if size >= len(self.diagonal):
            return self
        return Bidiagonal(
            self.diagonal[:size],
            self.super_diagonal[: size - 1],
            float(self.super_diagonal[size - 1]),
        )


class _Columns:
    """Arithmetic on the columns of blocks: each has its own coefficient, kept on the host."""

    def __init__(self, like: Array, op: LinearOperator) -> None:
        self.xp, self.dtype, self.device = op.xp, like.dtype, op.device
        self.unit = eps(like)

    def times(self, block: Array, factors: Host) -> Array:
        return block * self.xp.asarray(factors, dtype=self.dtype, device=self.device)[None, :]

    def norms(self, block: Array) -> Host:
        squares = np.real(column_dots(block, block))
        if not np.all(np.isfinite(squares)):
            msg = "a product with A contains NaN or infinity; expected finite numbers."
            raise ValueError(msg)
        return np.sqrt(squares)

    def normalized(self, block: Array, norms: Host) -> Array:
        return self.times(block, np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0))

    def against(self, block: Array, basis: list[Array], passes: int) -> Array:
        """Subtract the components along earlier basis blocks; twice is enough for all of them."""
        for _ in range(passes):
            for vectors in basis:
                block = block - self.times(vectors, column_dots(vectors, block))
        return block

    def exponent(self, block: Array) -> float:
        """Return the power of two that brings a product near 1 where squares would overflow."""
        largest = float(self.xp.max(self.xp.abs(block)))
        return 1.0 if SMALLEST < largest < LARGEST else power_of_two(largest)


@dataclass(frozen=True)
class BasisStep:
    """One step of the Lanczos recurrence of a block.

    Attributes
    ----------
    q : array, shape (n, R)
        The basis vector of each column; zero once its Krylov space is exhausted.
    alpha, beta : ndarray, shape (R,)
        The diagonal entry of each tridiagonal, and the one beside it: ``beta = 0`` is the end.
    """

    q: Array
    alpha: Host
    beta: Host


def tridiagonalize(
    op: LinearOperator, start: Array, steps: int, *, overwrite: bool = False
) -> list[Tridiagonal]:
    """Run the Lanczos recurrence from each column of a block.

    Parameters
    ----------
    op : LinearOperator, shape (n, n)
        Hermitian; a contradiction shows in the recurrence and is raised.
    start : array, shape (n, R)
        No zero column; norms do not matter.
    steps : int
        m: the number of products with each column.
    overwrite : bool
        Whether `start` may be written to, which saves a block of memory.

    Returns
    -------
    list of Tridiagonal, length R
        Shorter than m where the Krylov space is exhausted.

    Raises
    ------
    NotHermitianError
        If ``<q_j, A q_(j+1)>`` is not the conjugate of ``<q_(j+1), A q_j>``.
    ValueError
        If a product is not finite.

    References
    ----------
    Golub and Meurant, Matrices, Moments and Quadrature (2010), section 4.1.
    """
    return assembled(*zip(*coefficients(op, start, steps, overwrite=overwrite), strict=True))


def coefficients(
    op: LinearOperator, start: Array, steps: int, *, overwrite: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Run the recurrence for its coefficients alone; parameters are those of `tridiagonalize`.

    Without reorthogonalisation two passes over two blocks do, if the operator has a step of its
    own.

    Yields
    ------
    array, array, shape (R,)
        ``alpha_j`` and ``beta_j``, where the step leaves them.
    """
    fast = fast_step(op, start) if start.shape[0] > EXACT_UP_TO else None
    if fast is not None:
        x, y = pair_of_blocks(start, fast[1], op.dtype, overwrite=overwrite)
        count = start.shape[1]
        del start
        found = _fast_coefficients(op, fast[0], x, y, steps)
        first = next(found)
        if _in_range(first):
            yield from ((alpha[:count], beta[:count]) for alpha, beta in chain([first], found))
            return
        start = x[:, :count]  # not written to yet
    yield from ((step.alpha, step.beta) for step in lanczos_steps(op, start, steps))


def _in_range(found: tuple[Any, Any]) -> bool:
    """Whether squares of products can be summed as they are; what is not finite is not, either."""
    largest = float(to_host(namespace(*found).max(abs(found[0]) + found[1])))
    return bool(SMALLEST < largest < LARGEST)


def _fast_coefficients(
    op: LinearOperator, step: Step, x: Array, y: Array, steps: int
) -> Iterator[tuple[Any, Any]]:
    """Run the recurrence of Paige with vectors that keep their norms: a step divides by them.

    The entries that the step reads by itself were compared with those of the adjoint before.

    Yields
    ------
    array, array
        As `coefficients`, for padding too.

    References
    ----------
    Paige, J. Inst. Maths Applics 10, 373 (1972), algorithm A1 (2, 7).
    """
    squares, _ = step(x, y, 0.0, 1.0, 0.0)
    xp = namespace(squares)
    beta, c = xp.sqrt(squares), 0.0
    size, zero, one = xp.zeros_like(beta), xp.zeros_like(beta), xp.ones_like(beta)
    for _ in range(min(steps, x.shape[0])):
        lives = beta > 0
        inverse = xp.where(lives, 1 / xp.where(lives, beta, one), zero)
        _, mixed = step(x, y, inverse, 0.0, c)
        alpha = mixed * inverse
        squares, _ = step(x, y, 0.0, -alpha * inverse, 1.0)
        beta = xp.sqrt(squares)
        size = xp.maximum(size, xp.abs(alpha) + beta)
        beta = xp.where(beta <= 10 * op.unit * size, zero, beta)
        yield alpha, beta
        if isinstance(beta, np.ndarray) and not beta.any():
            return
        c = -beta * inverse
        x, y = y, x


def assembled(alphas: Sequence[Any], betas: Sequence[Any]) -> list[Tridiagonal]:
    """Return the tridiagonal of each column from the coefficients of all steps so far."""
    alpha, beta = (to_host(namespace(rows[0]).stack(list(rows))) for rows in (alphas, betas))
    if not np.all(np.isfinite(alpha) & np.isfinite(beta)):
        msg = "a product with A contains NaN or infinity; expected finite numbers."
        raise ValueError(msg)
    ended = beta == 0
    length = np.where(ended.any(axis=0), ended.argmax(axis=0) + 1, len(beta))
    return [
        Tridiagonal(alpha[:m, r], beta[: m - 1, r], float(beta[m - 1, r]))
        for r, m in enumerate(length)
    ]


def lanczos_steps(op: LinearOperator, start: Array, steps: int) -> Iterator[BasisStep]:
    """Run the Lanczos recurrence and give each step away: who wants the basis keeps it.

    Parameters, errors and reference are those of `tridiagonalize`.

    Yields
    ------
    BasisStep
    """
    columns = _Columns(start, op)
    n, count = start.shape
    steps = min(steps, n)
    keep = n <= EXACT_UP_TO
    passes = 2 if keep else 1
    q = columns.normalized(start, columns.norms(start))
    previous: Array | None = None
    basis: list[Array] = []
    scale, size = 1.0, np.zeros(count)
    beta = np.zeros(count)
    for j in range(steps):
        w = op.matmat(q)
        scale = columns.exponent(w) if j == 0 else scale
        w = w / scale if scale != 1 else w
        projection = column_dots(q, w)
        alpha = np.real(projection)
        asymmetry = np.abs(projection - alpha)
        size = np.maximum(size, np.abs(alpha))
        if previous is not None:
            overlap = column_dots(previous, w)
            asymmetry += np.abs(overlap - beta)
            w = w - columns.times(previous, overlap)
        w = w - columns.times(q, projection)
        basis = [*basis, q] if keep else ([q] if previous is None else [previous, q])
        w = columns.against(w, basis, passes)
        beta = columns.norms(w)
        size = np.maximum(size, np.abs(alpha) + beta)
        _require_hermitian(op, asymmetry, _rounding(n, max(columns.unit, op.unit)) * size)
        beta[beta <= 10 * columns.unit * size] = 0
        yield BasisStep(q, alpha * scale, beta * scale)
        if not beta.any():
            return
        previous, q = q, columns.normalized(w, beta)


def _require_hermitian(op: LinearOperator, asymmetry: Host, tolerance: Host) -> None:
    if np.any(asymmetry > tolerance) and not is_surely_hermitian(op):
        msg = (
            "the operator is not Hermitian: <x, A y> and <A x, y> differ by "
            f"{np.max(asymmetry):.3g} for unit vectors. "
            "Pass hermitian=False, with an adjoint product (rmatvec=) if it is only applied."
        )
        raise NotHermitianError(msg)


def _rounding(n: int, unit: float) -> float:
    """Return what a product of length n may be off by rounding; a real asymmetry is far larger."""
    return (1000 + 10 * math.sqrt(n)) * unit


def bidiagonalize(op: LinearOperator, start: Array, steps: int) -> list[Bidiagonal]:
    """Run the Golub-Kahan recurrence from each column of a block.

    Parameters
    ----------
    op : LinearOperator, shape (m, n)
        With an adjoint product.
    start : array, shape (n, R)
        No zero column; norms do not matter.
    steps : int
        The number of products with A, and of products with its adjoint, of each column.

    Returns
    -------
    list of Bidiagonal, length R

    Raises
    ------
    ValueError
        If a product is not finite, or the adjoint product is not that of the adjoint.

    References
    ----------
    Golub and Kahan, SIAM J. Numer. Anal. 2, 205 (1965); upper bidiagonal form.
    """
    pairs = list(bidiagonal_steps(op, start, steps))
    return assembled_bidiagonals([alpha for alpha, _ in pairs], [beta for _, beta in pairs])


def assembled_bidiagonals(alphas: list[Host], betas: list[Host]) -> list[Bidiagonal]:
    """Return the bidiagonal of each column from the coefficients of all steps so far."""
    alpha, beta = np.array(alphas), np.array(betas)
    ended = beta == 0
    length = np.where(ended.any(axis=0), ended.argmax(axis=0) + 1, len(beta))
    return [
        Bidiagonal(alpha[:m, r], beta[: m - 1, r], float(beta[m - 1, r]))
        for r, m in enumerate(length)
    ]


def bidiagonal_steps(op: LinearOperator, start: Array, steps: int) -> Iterator[tuple[Host, Host]]:
    """Run the Golub-Kahan recurrence, and give the coefficients of each step away.

    Parameters, errors and reference are those of `bidiagonalize`.

    Yields
    ------
    tuple of ndarray, shape (R,)
        The diagonal entry of each column, and the one beside it: 0 is the end.
    """
    columns = _Columns(start, op)
    rows, n = op.shape
    keep = n <= EXACT_UP_TO
    passes = 2 if keep else 1
    v = columns.normalized(start, columns.norms(start))
    left: list[Array] = []
    right: list[Array] = []
    count = start.shape[1]
    scale, size, beta = 1.0, np.zeros(count), np.zeros(count)
    over = np.zeros(count, dtype=bool)
    for j in range(min(steps, n)):
        u = op.matmat(v)
        scale = columns.exponent(u) if j == 0 else scale
        u = u / scale if scale != 1 else u
        if j > 0:
            overlap = column_dots(left[-1], u)
            u = u - columns.times(left[-1], overlap)
        u = columns.against(u, left, passes)
        alpha = columns.norms(u)
        size = np.maximum(size, alpha + beta)
        if j > 0:
            _require_adjoint(np.abs(overlap - beta), size, rows + n, columns.unit)
        # A vanishing alpha is a null vector of A: the column ends with a zero singular value.
        null = alpha <= 10 * columns.unit * size
        alpha[null] = 0
        u = columns.normalized(u, alpha)
        left = [*left, u] if keep else [u]
        w = op.rmatmat(u)
        w = w / scale if scale != 1 else w
        w = w - columns.times(v, alpha)
        right = [*right, v] if keep else [v]
        w = columns.against(w, right, passes)
        beta = columns.norms(w)
        beta[null | (beta <= 10 * columns.unit * size)] = 0
        over |= beta == 0
        yield alpha * scale, beta * scale
        if over.all():
            return
        v = columns.normalized(w, beta)


def _require_adjoint(difference: Host, size: Host, n: int, unit: float) -> None:
    if np.any(difference > _rounding(n, unit) * size):
        msg = (
            "the adjoint product (rmatvec, rmatmat) is not that of the adjoint: <u, A v> and "
            f"<A^H u, v> differ by {np.max(difference):.3g} for unit vectors."
        )
        raise ValueError(msg)
