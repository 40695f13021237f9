"""The inertia of a matrix by a factorisation: Sylvester's law.

``F = L D L^H`` has as many positive and negative eigenvalues as D. Rounding makes it a neighbour of
A; on the straight way from F to A no eigenvalue passes through 0 if the spectral radius of
``F^{-1} (A - F)`` is less than 1, which is estimated.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import is_numpy_array

from specdens.arrays.libraries import Array, default_namespace, namespace
from specdens.arrays.probes import gaussian
from specdens.exact.factorizations import UNIT, balanced, slogdet
from specdens.recurrences.quadrature import noise_of

__all__ = ["Inertia", "combined", "count_signs", "dense_inertia", "sparse_inertia"]

PIVOTS_MOVED = (1e-6, 3e-8)
"""What is added to the diagonal of the balanced matrix where 0 would be a pivot."""

GAPS = (1e-7, 1e-8)
"""Half widths of an interval around 0 that holds no eigenvalue if both its ends count as many."""

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


def count_signs(
    spectrum: Array, shift: float, *, noise: float | None = None, unit: float = UNIT
) -> Inertia:
    """Count the signs of all eigenvalues; those within the rounding of the largest are zero."""
    xp, n = namespace(spectrum), spectrum.shape[0]
    if noise is None:
        noise = noise_of(n, unit, 0.0, float(xp.max(xp.abs(spectrum))))
    moved = spectrum + shift
    positive, negative = (
        int(xp.sum(xp.astype(side, xp.int64))) for side in (moved > noise, moved < -noise)
    )
    return Inertia(positive, negative, n - positive - negative)


def dense_inertia(a: Array, unit: float = UNIT) -> Inertia:
    """Return the inertia of a dense Hermitian matrix whose entries were given with `unit`."""
    n = a.shape[0]
    if n == 0:
        return Inertia(0, 0, 0)
    if unit > UNIT:  # only the eigenvalues tell what the rounding of its entries may have moved
        return count_signs(namespace(a).linalg.eigvalsh(a), 0.0, unit=unit)
    if slogdet(a, hermitian=True).definite:
        return Inertia(n, 0, 0)
    certain = _by_pivots(a) if is_numpy_array(a) else None
    return count_signs(namespace(a).linalg.eigvalsh(a), 0.0) if certain is None else certain


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
    factored, swaps, _ = factor(scaling[:, None] * a * scaling, lower=1, lwork=work)
    diagonal, below = np.real(np.diagonal(factored)).copy(), np.abs(np.diagonal(factored, -1))
    first = np.flatnonzero(swaps < 0)[::2]  # both rows of a pivot of order 2 are marked so
    second = first + 1
    middle = (diagonal[first] + diagonal[second]) / 2
    radius = np.hypot((diagonal[first] - diagonal[second]) / 2, below[first])
    diagonal[first], diagonal[second] = middle + radius, middle - radius
    size = np.abs(diagonal)
    # As for determinants: 100 stands for what pivots do not see of the condition.
    if not np.all(size > 0) or 100 * math.sqrt(len(a)) * UNIT * np.sum(1 / size) > CERTAIN:
        return None
    return count_signs(diagonal, 0.0, noise=0.0)


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
    moves = (0.0, *PIVOTS_MOVED) if np.all(a.diagonal() != 0) else PIVOTS_MOVED
    for moved in moves:
        pivots = _certain_pivots(a, moved)
        if pivots is not None:
            return count_signs(pivots, 0.0, noise=0.0)
    for gap in GAPS:
        below, above = (_certain_pivots(combined(a, None, x), 0.0) for x in (gap, -gap))
        if below is None or above is None:
            continue
        if np.sum(below < 0) == np.sum(above < 0):
            return count_signs(below, 0.0, noise=0.0)
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
