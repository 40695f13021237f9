"""Determinants by factorisation: when that is cheap, and what the pivots say of the result."""

from __future__ import annotations

import math

import numpy as np

from specdens.estimation.estimate import ILL_CONDITIONED, SINGULAR
from specdens.exact.factorizations import (
    Factored,
    dense_is_small,
    dense_of,
    lu_fits,
    sparse_slogdet,
    spectrum_is_small,
)
from specdens.exact.factorizations import slogdet as dense_slogdet
from specdens.operators.dense import DenseOperator
from specdens.operators.explicit import ExplicitOperator
from specdens.problem.prepare import Problem
from specdens.results import Estimate

__all__ = ["exact_logdet", "is_cheap", "judged"]


def is_cheap(problem: Problem) -> bool:
    """Whether a factorisation is within the limits of ``method="auto"``."""
    if isinstance(problem.op, DenseOperator):
        return dense_is_small(problem.op)
    if isinstance(problem.op, ExplicitOperator):
        matrix = problem.op.csc_on_host()
        if matrix is None:
            return spectrum_is_small(problem.op)
        return lu_fits(matrix, hermitian=problem.hermitian)
    return False


def exact_logdet(problem: Problem) -> tuple[complex, Estimate]:
    """Return the determinant by a factorisation; an operator's n columns are formed first."""
    factored, matvecs = _factored(problem)
    return judged(factored, problem.matvecs + matvecs)


def judged(factored: Factored, matvecs: int) -> tuple[complex, Estimate]:
    """Return the sign and the estimate, with what the pivots say against them."""
    flags: tuple[str, ...] = ()
    if factored.doubtful:
        flags = (SINGULAR,)
    elif factored.rounding > 1e-3:
        flags = (ILL_CONDITIONED,)
    sign = math.nan if factored.rounding > 0.1 and not factored.doubtful else factored.sign
    estimate = Estimate(
        value=factored.logabsdet,
        bias_bound=0.0 if factored.doubtful else factored.rounding,
        bias_rigorous=False,
        converged=not flags,
        flags=flags,
        matvecs=matvecs,
    )
    return sign, estimate


def _factored(problem: Problem) -> tuple[Factored, int]:
    """Return the factored matrix and the products that forming it took."""
    op = problem.op
    if isinstance(op, ExplicitOperator):
        matrix = op.csc_on_host()
        if matrix is not None:
            if problem.shift:
                from scipy.sparse import diags_array

                matrix = (matrix + diags_array(np.full(problem.n, problem.shift))).tocsc()
            return sparse_slogdet(matrix, hermitian=problem.hermitian), 0
    shift = problem.shift if complex(problem.shift).imag else problem.real_shift
    factored = dense_slogdet(dense_of(op, shift), hermitian=problem.hermitian)
    return factored, 0 if isinstance(op, ExplicitOperator) else problem.n
