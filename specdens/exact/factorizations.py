"""Exact answers: Cholesky, LU and eigenvalues of dense matrices, LU of sparse ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdens.arrays.libraries import (
    Array,
    cholesky_diagonal,
    cholesky_diagonals,
    device,
    is_complex,
    lu_diagonal,
    namespace,
    on_cpu,
    require_finite,
    to_host,
)
from specdens.exact.scaling import balanced, equilibrated, evened, sparse_evened
from specdens.exact.singular import is_exactly_singular
from specdens.operators.dense import DenseOperator
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.linear_operator import LinearOperator

__all__ = [
    "LARGEST_ON_CPU",
    "NOISE",
    "UNIT",
    "Factored",
    "balanced",
    "dense_is_small",
    "dense_of",
    "lu_fits",
    "parity",
    "predicted_lu_bytes",
    "slogdet",
    "slogdets",
    "sparse_on_host",
    "sparse_slogdet",
    "spectrum_is_small",
]

LARGEST_ON_CPU, LARGEST_ON_GPU = 8192, 32768
"""Order up to which a dense matrix is factored."""

LARGEST_SPARSE_EIGEN = 2048
"""Order up to which a sparse matrix is made dense for its eigenvalues."""

LU_BYTES = 2 * 2**30
"""Predicted size of LU factors up to which a sparse matrix is factored."""

_log = logging.getLogger(__name__)


def dense_is_small(op: LinearOperator) -> bool:
    """Whether op is a dense matrix small enough to factor."""
    if not isinstance(op, DenseOperator):
        return False
    return max(op.shape) <= (LARGEST_ON_CPU if on_cpu(op.array) else LARGEST_ON_GPU)


def spectrum_is_small(op: LinearOperator) -> bool:
    """Whether all eigenvalues or singular values of op are cheap."""
    return dense_is_small(op) or (
        isinstance(op, ExplicitOperator) and max(op.shape) <= LARGEST_SPARSE_EIGEN
    )


def dense_of(op: LinearOperator, shift: complex = 0.0) -> Array:
    """Return ``A + shift I`` as a dense array in double precision, on its device.

    An operator that is only applied costs n products. They are finite, or a ValueError says so.
    """
    xp = op.xp
    if isinstance(op, ExplicitOperator):
        a = op.dense()
    else:
        a = op.columns()
        require_finite(a, "a product with A")
        a = xp.astype(a, xp.complex128 if is_complex(a) else xp.float64)
    if shift == 0:
        return a
    if isinstance(shift, complex) and not is_complex(a):
        a = xp.astype(a, xp.complex128)
    return a + shift * xp.eye(a.shape[0], dtype=a.dtype, device=op.device)


def sparse_on_host(op: LinearOperator) -> Any:
    """Return a sparse matrix as a SciPy CSC array, or None if op is none or lies on a GPU."""
    return op.csc_on_host() if isinstance(op, ExplicitOperator) else None


@dataclass(frozen=True)
class Factored:
    """A determinant from the pivots of a factorisation.

    Attributes
    ----------
    sign : float or complex
        0 if singular.
    logabsdet : float
        -inf if singular.
    rounding : float
        A first-order estimate of the error that rounding causes in log|det|.
    doubtful : bool
        Whether it is singular to working precision only: a pivot is rounding noise, not zero.
    definite : bool
        Whether Cholesky proved the matrix positive definite.
    """

    sign: complex
    logabsdet: float
    rounding: float = 0.0
    doubtful: bool = False
    definite: bool = False


UNIT = float(np.finfo(np.float64).eps)
NOISE = 10 * UNIT
"""Relative size below which a pivot of an equilibrated matrix is rounding noise."""

TRUSTED = 1e-8
"""Error of log|det| up to which the first scaling is as good as any."""

VAGUE = 1e-3
"""Error of log|det| above which the matrix may well be singular."""

SINGULAR = Factored(0.0, -math.inf)
"""That of a matrix whose determinant is 0 without any doubt."""

CANCELLED = Factored(0.0, -math.inf)
"""That of a matrix in which a pivot has become 0."""


def slogdet(a: Array, *, hermitian: bool) -> Factored:
    """Return sign (or phase) and log|det| of a dense matrix in double precision.

    By Cholesky if it is positive definite, else by LU after scaling rows and columns by powers of
    two, so that a pivot much smaller than 1 can only come from cancellation.
    """
    xp, n = namespace(a), a.shape[0]
    if hermitian:
        diagonal = cholesky_diagonal(a)
        if diagonal is not None:
            relative = diagonal**2 / xp.linalg.diagonal(xp.real(a) if is_complex(a) else a)
            logabsdet = 2 * float(xp.sum(xp.log(diagonal)))
            judged = _judged(1.0, logabsdet, xp.min(relative), xp.sum(1 / relative), n)
            definite = replace(judged, definite=not judged.doubtful)
            return _settled(definite, lambda: to_host(a))
    require_finite(a, "A")
    if _is_triangular(xp, a):
        return _of_triangular(xp, xp.linalg.diagonal(a))
    if not all(bool(xp.all(xp.any(a != 0, axis=axis))) for axis in (0, 1)):
        return SINGULAR
    factored = _better(_by_lu(equilibrated(a)), lambda: _by_lu(evened(a)))
    return _settled(factored, lambda: to_host(a))


def _settled(factored: Factored, host: Callable[[], Any]) -> Factored:
    """Tell a matrix that is singular from one that rounding makes look so, where that is known."""
    if factored is SINGULAR or (factored.logabsdet > -math.inf and factored.rounding <= VAGUE):
        return factored
    if is_exactly_singular(host()):
        return SINGULAR
    if factored.logabsdet == -math.inf:
        return replace(factored, rounding=math.inf, doubtful=True)
    return factored


def _better(first: Factored, again: Callable[[], Factored]) -> Factored:
    """Return a determinant; where it is in doubt, the better of it and of one scaled anew."""
    if first is SINGULAR or (first.logabsdet > -math.inf and first.rounding <= TRUSTED):
        return first
    second = again()
    if second.logabsdet == -math.inf:
        return first
    singular = first.logabsdet == -math.inf
    return second if second.rounding < (TRUSTED if singular else first.rounding) else first


def _by_lu(scaled: tuple[Array, float] | None) -> Factored:
    """Return the determinant of a matrix that was scaled, if its entries survived it."""
    if scaled is None:
        return CANCELLED
    a, powers = scaled
    xp = namespace(a)
    pivots, parity = lu_diagonal(a)
    size = xp.abs(pivots)
    if bool(xp.any(size == 0)):
        return CANCELLED
    sign = xp.prod(pivots / size)
    sign = parity * (complex(sign) if is_complex(pivots) else float(sign))
    logabsdet = float(xp.sum(xp.log(size))) + powers * math.log(2)
    return _judged(sign, logabsdet, xp.min(size), xp.sum(1 / size), a.shape[0])


def _is_triangular(xp: Any, a: Array) -> bool:
    return any(not bool(xp.any(half != 0)) for half in (xp.tril(a, k=-1), xp.triu(a, k=1)))


def _of_triangular(xp: Any, diagonal: Array) -> Factored:
    """Return the product of the diagonal, whose small entries are no rounding noise."""
    size = xp.abs(diagonal)
    if not bool(xp.all(size > 0)):
        return SINGULAR
    sign = xp.prod(diagonal / size)
    sign = complex(sign) if is_complex(diagonal) else float(sign)
    return Factored(sign, float(xp.sum(xp.log(size))))


def slogdets(stack: Array, *, hermitian: np.ndarray[Any, Any]) -> list[Factored]:
    """Return what `slogdet` returns for each matrix, by one Cholesky factorisation of them all.

    Parameters
    ----------
    stack : array, shape (B, n, n)
        In double precision; B and n at least 1.
    hermitian : ndarray of bool, shape (B,)
    """
    xp, n = namespace(stack), stack.shape[-1]
    known: list[Factored | None] = [None] * len(hermitian)
    chosen = np.flatnonzero(hermitian)
    if len(chosen):
        index = xp.asarray(chosen, dtype=xp.int64, device=device(stack))
        symmetric = stack if len(chosen) == len(known) else xp.take(stack, index, axis=0)
        diagonals, definite = cholesky_diagonals(symmetric)
        own = xp.linalg.diagonal(xp.real(symmetric) if is_complex(symmetric) else symmetric)
        relative = xp.where(own > 0, diagonals**2 / xp.where(own > 0, own, 1.0), 1.0)
        logs, least, inverse = (
            to_host(x)
            for x in (
                2 * xp.sum(xp.log(diagonals), axis=1),
                xp.min(relative, axis=1),
                xp.sum(1 / relative, axis=1),
            )
        )
        for k in np.flatnonzero(definite):
            judged = _judged(1.0, float(logs[k]), least[k], inverse[k], n)
            if judged.rounding <= VAGUE:
                known[chosen[k]] = replace(judged, definite=True)
    return [
        slogdet(stack[i, :, :], hermitian=bool(hermitian[i])) if factored is None else factored
        for i, factored in enumerate(known)
    ]


def _judged(sign: complex, logabsdet: float, smallest: Any, inverse_sum: Any, n: int) -> Factored:
    """Return a determinant with what its relative pivots say of rounding."""
    if float(smallest) <= NOISE:
        return Factored(0.0, -math.inf, math.inf, doubtful=True)
    # 100: a margin for what the pivots do not see of the condition.
    return Factored(sign, logabsdet, 100 * math.sqrt(n) * UNIT * float(inverse_sum))


def sparse_slogdet(a: Any, *, hermitian: bool) -> Factored:
    """Return sign (or phase) and log|det| of a SciPy CSC array in double precision, by SuperLU."""
    if not np.all(a.data):
        a = a.copy()
        a.eliminate_zeros()
    if not (np.all(np.diff(a.indptr)) and np.all(np.bincount(a.indices, minlength=a.shape[0]))):
        return SINGULAR

    def again() -> Factored:
        return _by_superlu(sparse_evened(a, hermitian=hermitian), hermitian=hermitian)

    try:
        factored = _by_superlu(balanced(a), hermitian=hermitian)
        factored = _better(factored, again)
    except RuntimeError:  # entries so far apart that SuperLU fails
        factored = again()
    return _settled(factored, lambda: a)


def _by_superlu(scaled: tuple[Any, float] | None, *, hermitian: bool) -> Factored:
    from scipy.sparse.linalg import splu

    if scaled is None:
        return CANCELLED
    a, powers = scaled
    # Symmetric minimum degree never had more fill on symmetric patterns, often much less: see
    # benchmarks/results/lu_fill.json.
    options: dict[str, Any] = {"permc_spec": "COLAMD"}
    if hermitian:
        options = {
            "permc_spec": "MMD_AT_PLUS_A",
            "diag_pivot_thresh": 0.1,
            "options": {"SymmetricMode": True},
        }
    try:
        lu = splu(a, **options)
    except RuntimeError as error:
        if "singular" not in str(error):
            raise
        return CANCELLED
    pivots = lu.U.diagonal()
    size = np.abs(pivots)
    if not np.all(size > 0):
        return CANCELLED
    phase = np.prod(pivots / size) * parity(lu.perm_r) * parity(lu.perm_c)
    sign = complex(phase) if np.iscomplexobj(pivots) else float(np.sign(phase))
    logabsdet = float(np.sum(np.log(size)) + powers * math.log(2))
    return _judged(sign, logabsdet, size.min(), np.sum(1 / size), a.shape[0])


def parity(permutation: np.ndarray[Any, Any]) -> int:
    """Return the sign of a permutation: (-1)^(n - number of cycles)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(permutation)
    graph = coo_array((np.ones(n, np.int8), (np.arange(n), permutation)), shape=(n, n))
    cycles, _ = connected_components(graph, directed=False)
    return -1 if (n - cycles) % 2 else 1


def predicted_lu_bytes(a: Any, *, hermitian: bool) -> float:
    r"""Return the predicted size of the LU factors of a SciPy CSC array.

    The smaller of twice the envelope after reverse Cuthill-McKee, which bounds the fill in that
    ordering, and ``c s^2 log2(n/s)``, the fill of nested dissection with separators of s rows,
    where s is the root mean square front of that envelope. The constants were measured on lattices,
    random and power-law graphs (benchmarks/accuracy/lu_fill.py).
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    n = a.shape[0]
    pattern = csr_array((np.ones(a.nnz, np.int8), a.indices, a.indptr), shape=a.shape)
    pattern = csr_array(pattern + pattern.T)
    order = reverse_cuthill_mckee(pattern, symmetric_mode=True)
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    coo = pattern.tocoo()
    first = np.arange(n)
    np.minimum.at(first, place[coo.row], place[coo.col])
    front = (np.arange(n) - first).astype(float)
    envelope = 2 * front.sum() + n
    separator = max(1.0, math.sqrt(np.mean(front**2)))
    constant = 16 if hermitian else 30
    dissection = constant * separator**2 * math.log2(max(2.0, n / separator)) + 8.0 * a.nnz
    item = 20 if np.iscomplexobj(a.data) else 12  # a value and an index
    return float(item * min(envelope, dissection))


def lu_fits(a: Any, *, hermitian: bool) -> bool:
    """Whether the LU factors of a SciPy CSC array are predicted to stay below `LU_BYTES`."""
    predicted = predicted_lu_bytes(a, hermitian=hermitian)
    _log.debug("LU factors of an order %d matrix: %.3g bytes predicted", a.shape[0], predicted)
    return predicted <= LU_BYTES
