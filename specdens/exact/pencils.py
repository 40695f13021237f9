"""Generalised eigenvalues ``A x = lambda B x`` with B positive definite: those of one matrix.

With ``B = F F^H`` they are the eigenvalues of ``F^{-1} A F^{-H}``, and their product is
``det A / det B``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, adjoint, to_host
from specdens.exact.factorizations import (
    NOISE,
    dense_of,
    slogdet,
    sparse_on_host,
    spectrum_is_small,
)
from specdens.operators.algebra import Scaled, Sum
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.operators.dense import DenseOperator
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.hermitian import is_known_hermitian
from specdens.operators.linear_operator import LinearOperator
from specdens.operators.sparse import SparseOperator
from specdens.problem.bounds import known_bounds
from specdens.problem.prepare import square_operator

__all__ = ["Factor", "Whitened", "checked_pair", "combination", "definite_factor", "whitened"]

HOW = (
    "B must be Hermitian and positive definite: a dense array, or a sparse matrix on the host, "
    "because it is factored"
)


@dataclass(frozen=True)
class Factor:
    """``B = F F^H``.

    Attributes
    ----------
    solve, solve_adjoint : callable
        ``F^{-1} x`` and ``F^{-H} x`` for a block x of B's namespace and device.
    logabsdet : float
    rounding : float
        An estimate of the error of that.
    """

    solve: Callable[[Array], Array]
    solve_adjoint: Callable[[Array], Array]
    logabsdet: float
    rounding: float


class Whitened(LinearOperator):
    """``F^{-1} A F^{-H}``, applied but never formed."""

    def __init__(self, base: LinearOperator, factor: Factor, b: LinearOperator) -> None:
        self.base, self.b, self.factor = base, b, factor
        xp = base.xp
        super().__init__(
            base.shape,
            dtype=xp.result_type(base.dtype, b.dtype),
            xp=xp,
            device=base.device,
            result_dtype=xp.result_type(base.result_dtype, b.result_dtype),
        )
        self.hermitian = True if is_known_hermitian(base) else base.hermitian
        if self.hermitian and known_bounds(base).low >= 0:
            self.lower = 0.0

    def _matmat(self, x: Array) -> Array:
        return self._between(self.base.matmat, x)

    def _rmatmat(self, x: Array) -> Array:
        return self._between(self.base.rmatmat, x)

    def _between(self, product: Callable[[Array], Array], x: Array) -> Array:
        y = self.factor.solve(product(self.factor.solve_adjoint(x)))
        return self.xp.astype(y, self.dtype, copy=False)


def checked_pair(A: Any, B: Any) -> tuple[LinearOperator, ExplicitOperator]:
    """Return a pencil as operators; raise a ValueError if they make none."""
    a, b = square_operator(A), square_operator(B)
    if a.shape != b.shape or a.xp is not b.xp or str(a.device) != str(b.device):
        msg = (
            f"A is {a.shape} of {a.xp.__name__} on {a.device}, B is {b.shape} of "
            f"{b.xp.__name__} on {b.device}; expected one shape, library and device."
        )
        raise ValueError(msg)
    if not isinstance(b, ExplicitOperator) or not is_known_hermitian(b):
        msg = f"B is no such matrix. {HOW}."
        raise ValueError(msg)
    return a, b


def whitened(A: Any, B: Any) -> LinearOperator:
    """Return the matrix ``F^{-1} A F^{-H}``, whose eigenvalues are those of the pencil (A, B).

    A dense array if A and B are small or dense, else an operator.
    """
    a, b = checked_pair(A, B)
    small = all(spectrum_is_small(op) for op in (a, b))
    dense = small or (isinstance(a, DenseOperator) and isinstance(b, DenseOperator))
    factor = _dense_factor(b) if dense else definite_factor(b)
    op = Whitened(a, factor, b)
    if not dense:
        return op
    half = factor.solve(dense_of(a))
    found = factor.solve(adjoint(half))  # F^-1 A^H F^-H
    found = (found + adjoint(found)) / 2 if op.hermitian else adjoint(found)
    explicit = aslinearoperator(found)
    explicit.result_dtype = op.result_dtype
    return explicit


def combination(a: LinearOperator, b: LinearOperator, shift: complex) -> LinearOperator:
    """Return ``A + shift B``, as a matrix where both are of one kind."""
    if not shift:
        return a
    kinds = DenseOperator, SparseOperator
    if any(isinstance(a, kind) and isinstance(b, kind) for kind in kinds):
        return aslinearoperator(a.array + shift * b.array)  # type: ignore[attr-defined]  # of one of these kinds
    matrices = sparse_on_host(a), sparse_on_host(b)
    if a.xp.__name__.endswith("numpy") and all(matrix is not None for matrix in matrices):
        found = aslinearoperator(matrices[0] + shift * matrices[1])
        found.result_dtype = np.result_type(a.result_dtype, b.result_dtype)
        return found
    return Sum(a, Scaled(b, shift))


def definite_factor(b: ExplicitOperator) -> Factor:
    """Factor B; raise a ValueError if it is not positive definite to working precision."""
    if not isinstance(b, DenseOperator):
        matrix = b.csc_on_host()
        if matrix is None:
            msg = f"B is a sparse matrix on {b.device}, or too large. {HOW}."
            raise ValueError(msg)
        return _sparse_factor(b, matrix)
    return _dense_factor(b)


def _require_definite(definite: bool) -> None:
    if not definite:
        msg = f"B is singular or has a negative eigenvalue. {HOW}."
        raise ValueError(msg)


def _dense_factor(b: ExplicitOperator) -> Factor:
    """Return the Cholesky factor, inverted once: the standard has no triangular solves."""
    xp, n = b.xp, b.shape[0]
    a = b.dense()
    if n == 0:
        return Factor(lambda x: x, lambda x: x, 0.0, 0.0)
    found = slogdet(a, hermitian=True)
    _require_definite(found.definite)
    inverse = xp.linalg.solve(xp.linalg.cholesky(a), xp.eye(n, dtype=a.dtype, device=b.device))

    def times(matrix: Array) -> Callable[[Array], Array]:
        def product(x: Array) -> Array:
            wide = xp.result_type(x.dtype, matrix.dtype)
            return xp.astype(matrix, wide, copy=False) @ xp.astype(x, wide, copy=False)

        return product

    return Factor(times(inverse), times(adjoint(inverse)), found.logabsdet, found.rounding)


def _sparse_factor(b: ExplicitOperator, matrix: Any) -> Factor:
    """Return ``F = P^T L D^{1/2}`` by SuperLU without pivoting, which positive pivots allow."""
    from scipy.sparse.linalg import splu

    symmetric: dict[str, Any] = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    positive = bool(np.all(np.real(matrix.diagonal()) > 0))
    _require_definite(positive)
    try:
        lu = splu(matrix, permc_spec="MMD_AT_PLUS_A", **symmetric)
    except RuntimeError:  # exactly singular
        _require_definite(False)
    pivots = np.real(lu.U.diagonal())
    back, order = lu.perm_r, np.argsort(lu.perm_r)
    relative = pivots / np.real(matrix.diagonal())[order]
    _require_definite(bool(np.array_equal(back, lu.perm_c) and np.all(relative > NOISE)))
    # L as its own factor: SuperLU's solves are three times as fast as SciPy's triangular ones.
    lower = splu(lu.L.tocsc(), permc_spec="NATURAL", **symmetric)
    adjoint_solve: Any = lower.solve  # its second argument is missing in the stubs
    roots = np.sqrt(pivots)[:, None]
    complex_ = np.iscomplexobj(matrix.data)

    def on_host(apply: Callable[[Any], Any]) -> Callable[[Array], Array]:
        def product(x: Array) -> Array:
            host = to_host(x)
            host = host.astype(np.complex128) if complex_ else host
            parts = (host,) if complex_ or not np.iscomplexobj(host) else (host.real, host.imag)
            found = [apply(np.ascontiguousarray(part)) for part in parts]
            y = found[0] if len(found) == 1 else found[0] + 1j * found[1]
            return b.xp.asarray(y, device=b.device)

        return product

    return Factor(
        on_host(lambda x: lower.solve(x[order]) / roots),
        on_host(lambda x: adjoint_solve(x / roots, "H")[back]),
        float(np.sum(np.log(pivots))),
        100 * math.sqrt(len(pivots)) * float(np.finfo(float).eps) * float(np.sum(1 / relative)),
    )
