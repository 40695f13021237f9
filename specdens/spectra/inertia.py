"""How many eigenvalues are positive, negative and zero: by a factorisation, or from the parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, adjoint, is_complex, to_host
from specdens.exact.factorizations import UNIT, dense_of, sparse_on_host, spectrum_is_small
from specdens.exact.ldl_inertia import Inertia, combined, count_signs, dense_inertia, sparse_inertia
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import Problem, prepare, require_hermitian
from specdens.recurrences.quadrature import noise_of
from specdens.structured.diagonal_plus_low_rank import DiagonalPlusLowRank
from specdens.structured.kronecker import Kronecker
from specdens.structured.spectrum_union import eigenvalues, eigenvalues_are_cheap, union

__all__ = ["inertia"]

COLUMNS_FORMED = 2048
"""Order up to which an operator is formed by its n columns."""


def inertia(A: Any, *, shift: float = 0.0, hermitian: bool | None = None) -> Inertia:
    r"""Return how many eigenvalues of ``A + shift I`` are positive, negative and zero.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes; Hermitian.
    shift : float
        Added to the diagonal: ``inertia(A, shift=-x).negative`` counts the eigenvalues below x.
    hermitian : bool, optional
        A claim about an operator; checked on the way.

    Returns
    -------
    Inertia
        ``(positive, negative, zero)``. An eigenvalue of a dense matrix counts as zero if it is
        smaller than what rounding does, about ``1e-15 sqrt(n)`` times the largest one.

    Raises
    ------
    ValueError
        If A is not square, not Hermitian or not finite; if it is a large sparse matrix whose
        factorisation certifies nothing, because an eigenvalue is 0 or too close to it; if it is
        an operator of order above 2048, which cannot be factored.

    Notes
    -----
    A dense matrix costs a factorisation ``L D L^H``, and all eigenvalues where that leaves doubt;
    a sparse one a factorisation without pivoting, whose error is measured. Structured ones follow
    from their parts. Nothing is left to chance.

    References
    ----------
    Parlett, The Symmetric Eigenvalue Problem (1998), section 3.3; Bunch and Kaufman, Math. Comput.
    31, 163 (1977).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> specdens.inertia(np.diag([3.0, -1.0, 0.0, 2.0]))
    Inertia(positive=2, negative=1, zero=1)
    >>> from specdens.testing import laplacian
    >>> specdens.inertia(laplacian(100, 100), shift=-1.0).negative
    837
    """
    problem = prepare(A, shift=shift, hermitian=hermitian)
    require_hermitian(problem, "inertia")
    return _inertia(problem)


def _inertia(problem: Problem) -> Inertia:
    op = problem.op
    if problem.n == 0:
        return Inertia(0, 0, 0)
    parts = union(problem)
    if parts is not None:
        known = [(complex(x).real, times) for x, times in parts.known]
        return _added([_inertia(part) for part in parts.parts] + [_of_number(*k) for k in known])
    if isinstance(op, DiagonalPlusLowRank):
        return _of_low_rank(problem, op)
    if isinstance(op, Kronecker) and op.hermitian and not problem.shift:
        return _of_product([_inertia(prepare(factor, hermitian=True)) for factor in op.factors])
    if eigenvalues_are_cheap(op) and not spectrum_is_small(op):
        return count_signs(eigenvalues(op)[0], problem.real_shift, unit=op.stored_unit)
    matrix = sparse_on_host(op)
    if matrix is not None:
        certain = _of_sparse(problem, matrix)
        if certain is not None:
            return certain
    if not (eigenvalues_are_cheap(op) or problem.n <= COLUMNS_FORMED):
        raise ValueError(_uncertain(op))
    if isinstance(op, ExplicitOperator):
        return dense_inertia(dense_of(op, problem.real_shift), op.stored_unit)
    spectrum, _ = eigenvalues(op)
    return count_signs(spectrum, problem.real_shift, unit=op.stored_unit)


def _of_sparse(problem: Problem, matrix: Any) -> Inertia | None:
    """Return the inertia by factorisations; in single precision, 0 is as wide as its rounding."""
    unit, shift = problem.op.stored_unit, problem.real_shift
    if unit <= UNIT:
        return sparse_inertia(combined(matrix, None, shift))
    largest = max(abs(problem.known.low), abs(problem.known.high))
    noise = noise_of(problem.n, unit, 0.0, largest)
    below, above = (sparse_inertia(combined(matrix, None, shift + x)) for x in (noise, -noise))
    if below is None or above is None:
        return None
    return Inertia(above.positive, below.negative, problem.n - above.positive - below.negative)


def _uncertain(op: LinearOperator) -> str:
    n = op.shape[0]
    if not isinstance(op, ExplicitOperator):
        return (
            f"A is an operator of order {n}; inertia needs a matrix to factor (or an order of at "
            f"most {COLUMNS_FORMED}). eigencount(A, -inf, 0) estimates the number."
        )
    return (
        f"A is of order {n}, and its factorisation certifies no inertia: an eigenvalue is 0, or as "
        "close to it as rounding. Pass shift= to move it, or use eigencount for an estimate."
    )


def _added(parts: list[Inertia]) -> Inertia:
    return Inertia(*(sum(column) for column in zip(*parts, strict=True)))


def _of_number(value: float, times: int) -> Inertia:
    """Return the inertia of a multiple of the identity."""
    return Inertia(times * (value > 0), times * (value < 0), times * (value == 0))


def _of_product(factors: list[Inertia]) -> Inertia:
    """Return the inertia of a Kronecker product: products of signs."""
    positive, negative, total = 1, 0, 1
    for p, q, zero in factors:
        positive, negative = positive * p + negative * q, positive * q + negative * p
        total *= p + q + zero
    return Inertia(positive, negative, total - positive - negative)


def _of_low_rank(problem: Problem, op: DiagonalPlusLowRank) -> Inertia:
    """Return the inertia of ``D + U S U^H`` with signs S, by eliminating D from a bordered matrix.

    ``In(D + U S U^H) + In(-S) = In [[D, U], [U^H, -S]] = In(D) + In(-S - U^H D^{-1} U)``, where
    zeros of D stay in the Schur complement.
    """
    xp = op.xp
    d, update, signs = _signed_update(op)
    d = d + problem.real_shift
    zero = d == 0
    upper = xp.where(zero[:, None], xp.zeros_like(update), update)
    pivots = xp.where(zero, xp.ones_like(d), d)
    schur = -np.diag(signs) - to_host(adjoint(upper) @ (upper / pivots[:, None]))
    (index,) = xp.nonzero(zero)
    border = xp.take(update, index, axis=0)
    left = max(0, border.shape[0] - border.shape[1])
    border = to_host(xp.linalg.qr(border).R if left else border)  # turned: the rest is 0
    corner = np.zeros((len(border), len(border)))
    bordered = dense_inertia(np.block([[corner, border], [border.conj().T, schur]]))
    positive, negative, _ = count_signs(d, 0.0, noise=0.0)
    return Inertia(
        bordered.positive + positive - int(np.sum(signs < 0)),
        bordered.negative + negative - int(np.sum(signs > 0)),
        bordered.zero + left,
    )


def _signed_update(op: DiagonalPlusLowRank) -> tuple[Array, Array, np.ndarray[Any, Any]]:
    """Return d, and U S U^H for the update, with signs S on the host; in double precision."""
    xp = op.xp
    values, vectors = np.linalg.eigh(to_host(op.inner))
    kept = np.abs(values) > 10 * UNIT * np.abs(values).max(initial=0.0)
    turn = vectors[:, kept] * np.sqrt(np.abs(values[kept]))
    complex_ = is_complex(op.left)
    left = xp.astype(op.left, xp.complex128 if complex_ else xp.float64)
    update = left @ xp.asarray(turn, dtype=left.dtype, device=op.device)
    d = xp.astype(xp.real(op.d) if is_complex(op.d) else op.d, xp.float64)
    return d, update, np.sign(values[kept])
