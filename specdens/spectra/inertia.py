"""How many eigenvalues are positive, negative and zero, by factorisations: Sylvester's law.

``F = L D L^H`` has as many positive and negative eigenvalues as D. Rounding makes it a neighbour of
A; on the straight way from F to A no eigenvalue passes through 0 if the spectral radius of
``F^{-1} (A - F)`` is less than 1, which is estimated.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import is_numpy_array

from specdens.arrays.libraries import (
    Array,
    adjoint,
    default_namespace,
    is_complex,
    namespace,
    to_host,
)
from specdens.arrays.probes import gaussian
from specdens.exact.factorizations import UNIT, balanced, dense_of, slogdet, spectrum_is_small
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import Problem, prepare, require_hermitian
from specdens.recurrences.quadrature import noise_of
from specdens.structured.operators import DiagonalPlusLowRank, Kronecker
from specdens.structured.spectrum_union import eigenvalues, eigenvalues_are_cheap, union

__all__ = ["Inertia", "combined", "inertia", "sparse_inertia", "sparse_on_host"]

COLUMNS_FORMED = 2048
"""Order up to which an operator is formed by its n columns."""

PIVOT_MOVED = 1e-6
"""What is added to the diagonal of the balanced matrix where 0 would be a pivot."""

CERTAIN = 0.01
"""Far below 1, from where on rounding may move an eigenvalue through 0: it is only estimated. Of
307 factorisations beside an eigenvalue 283 stayed below, all of them right; one of the others was
wrong (benchmarks/accuracy/inertia.py)."""

POWER_STEPS = 8


class Inertia(NamedTuple):
    """The numbers of positive, negative and zero eigenvalues of a Hermitian matrix.

    Attributes
    ----------
    positive, negative, zero : int
        In this order as a tuple; their sum is the order of the matrix.
    """

    positive: int
    negative: int
    zero: int


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
    found = union(problem)
    if found is not None:
        known = [(complex(x).real, times) for x, times in found.known]
        return _added([_inertia(part) for part in found.parts] + [_of_number(*k) for k in known])
    if isinstance(op, DiagonalPlusLowRank):
        return _of_low_rank(problem, op)
    if isinstance(op, Kronecker) and op.hermitian and not problem.shift:
        return _of_product([_inertia(prepare(factor, hermitian=True)) for factor in op.factors])
    if eigenvalues_are_cheap(op) and not spectrum_is_small(op):
        return _signs(eigenvalues(op)[0], problem.real_shift)
    matrix = sparse_on_host(op)
    if matrix is not None:
        certain = sparse_inertia(combined(matrix, None, problem.real_shift))
        if certain is not None:
            return certain
    if not (eigenvalues_are_cheap(op) or problem.n <= COLUMNS_FORMED):
        raise ValueError(_uncertain(op))
    if isinstance(op, ExplicitOperator):
        return dense_inertia(dense_of(op, problem.real_shift))
    spectrum, _ = eigenvalues(op)
    return _signs(spectrum, problem.real_shift)


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
    whole = dense_inertia(np.block([[corner, border], [border.conj().T, schur]]))
    positive, negative, _ = _signs(d, 0.0, noise=0.0)
    return Inertia(
        whole.positive + positive - int(np.sum(signs < 0)),
        whole.negative + negative - int(np.sum(signs > 0)),
        whole.zero + left,
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


def _signs(spectrum: Array, shift: float, *, noise: float | None = None) -> Inertia:
    """Count the signs of all eigenvalues; those within the rounding of the largest are zero."""
    xp, n = namespace(spectrum), spectrum.shape[0]
    if noise is None:
        noise = noise_of(n, UNIT, 0.0, float(xp.max(xp.abs(spectrum))))
    moved = spectrum + shift
    positive, negative = (
        int(xp.sum(xp.astype(side, xp.int64))) for side in (moved > noise, moved < -noise)
    )
    return Inertia(positive, negative, n - positive - negative)


def dense_inertia(a: Array) -> Inertia:
    """Return the inertia of a dense Hermitian matrix in double precision."""
    n = a.shape[0]
    if n == 0:
        return Inertia(0, 0, 0)
    if slogdet(a, hermitian=True).definite:
        return Inertia(n, 0, 0)
    certain = _by_pivots(a) if is_numpy_array(a) else None
    return _signs(namespace(a).linalg.eigvalsh(a), 0.0) if certain is None else certain


def _by_pivots(a: np.ndarray[Any, Any]) -> Inertia | None:
    """Return the inertia by ``L D L^H`` with pivots of order 1 and 2; None if one is doubtful."""
    from scipy.linalg import get_lapack_funcs

    scaling = _equilibrating(a)
    if scaling is None:
        return None
    name = "hetrf" if np.iscomplexobj(a) else "sytrf"
    functions: Any = get_lapack_funcs((name, f"{name}_lwork"), (a,))
    factor, size_of_work = functions
    work = int(np.real(size_of_work(len(a), lower=1)[0]))
    # SciPy's own ldl then spends ten times as long on the triangular factor.
    found, swaps, _ = factor(scaling[:, None] * a * scaling, lower=1, lwork=work)
    diagonal, below = np.real(np.diagonal(found)).copy(), np.abs(np.diagonal(found, -1))
    first = np.flatnonzero(swaps < 0)[::2]  # both rows of a pivot of order 2 are marked so
    second = first + 1
    middle = (diagonal[first] + diagonal[second]) / 2
    radius = np.hypot((diagonal[first] - diagonal[second]) / 2, below[first])
    diagonal[first], diagonal[second] = middle + radius, middle - radius
    size = np.abs(diagonal)
    # As for determinants: 100 stands for what pivots do not see of the condition.
    if not np.all(size > 0) or 100 * math.sqrt(len(a)) * UNIT * np.sum(1 / size) > CERTAIN:
        return None
    return _signs(diagonal, 0.0, noise=0.0)


def _equilibrating(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Return powers of two that bring the largest entry of each row of ``S A S`` near 1."""
    size, scaling = np.abs(a), np.ones(len(a))
    for _ in range(10):
        largest = np.max(scaling[:, None] * size * scaling, axis=1)
        if not np.all(largest > 0):
            return None
        powers = np.round(np.log2(largest) / 2)
        if not np.any(powers):
            break
        scaling = scaling * 2.0**-powers
    return scaling


def sparse_on_host(op: LinearOperator) -> Any:
    """Return a sparse matrix as a SciPy CSC array, or None if op is none or lies on a GPU."""
    return op.csc_on_host() if isinstance(op, ExplicitOperator) else None


def combined(a: Any, b: Any, shift: float) -> Any:
    """Return ``A + shift B`` for SciPy CSC arrays; B may be None, for the identity."""
    from scipy.sparse import eye_array

    if not shift:
        return a
    return (a + shift * (eye_array(a.shape[0]) if b is None else b)).tocsc()


def sparse_inertia(a: Any) -> Inertia | None:
    """Return the inertia of a Hermitian SciPy CSC array, or None if it is not certain."""
    scaled = balanced(a)
    if scaled is None:
        return None
    a, _ = scaled
    # A pivot that is 0 would be replaced by one off the diagonal, at the price of much fill.
    moves = (0.0, PIVOT_MOVED) if np.all(a.diagonal() != 0) else (PIVOT_MOVED,)
    for moved in moves:
        pivots = _certain_pivots(a, moved)
        if pivots is not None:
            return _signs(pivots, 0.0, noise=0.0)
    return None


def _certain_pivots(a: Any, moved: float) -> np.ndarray[Any, Any] | None:
    """Return D of ``P (A + moved I) P^T = L D L^H`` if it has the inertia of A for certain."""
    found = _factored(a, moved)
    if found is None:
        return None
    lu, pivots = found
    return pivots if _crossing(a, lu, pivots) <= CERTAIN else None


def _factored(a: Any, moved: float) -> tuple[Any, np.ndarray[Any, Any]] | None:
    """Return SuperLU's factors and D, or None if a pivot is 0 or off the diagonal."""
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    n = a.shape[0]
    target = (a + diags_array(np.full(n, moved))).tocsc() if moved else a
    try:
        lu = splu(
            target,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:  # exactly singular
        return None
    pivots = np.real(lu.U.diagonal())
    if not np.array_equal(lu.perm_r, lu.perm_c) or not np.all(np.abs(pivots) > 0):
        return None
    return lu, pivots


def _crossing(a: Any, lu: Any, pivots: np.ndarray[Any, Any]) -> float:
    """Return an estimate of the spectral radius of ``F^{-1} (A - F)`` for ``F = L D L^H``.

    On the way from F to A an eigenvalue can only pass through 0 if it is 1 or more.
    """
    n, order, lower = len(pivots), np.argsort(lu.perm_r), lu.L
    adjoint = lower.conj().T.tocsr()
    home: dict[str, Any] = {"xp": default_namespace(), "dtype": a.dtype}
    x = gaussian(n, range(1), 0, **home)[:, 0]
    growth = []
    for _ in range(POWER_STEPS):
        error = a @ x - (lower @ (pivots * (adjoint @ x[order])))[lu.perm_r]
        size = np.linalg.norm(x)
        x = lu.solve(error)
        growth.append(float(np.linalg.norm(x) / size))
        if growth[-1] == 0 or not math.isfinite(growth[-1]):
            return growth[-1]
    # The first steps still see the size of the error itself, odd and even ones differ.
    return math.sqrt(growth[-1] * growth[-2])
