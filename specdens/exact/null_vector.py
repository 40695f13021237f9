"""The null vector of a graph Laplacian: ones on a connected component."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specdens.arrays.libraries import to_host
from specdens.exact.singular import maps_ones_to_zero
from specdens.operators.explicit import ExplicitOperator
from specdens.problem.prepare import Problem

__all__ = ["null_vector_of_ones"]


def null_vector_of_ones(problem: Problem, scale: float | None = None) -> tuple[bool | None, int]:
    """Look for a constant vector in the kernel of ``A + shift I``.

    Parameters
    ----------
    problem : Problem
    scale : float, optional
        Of the eigenvalues; where bounds do not tell it, one has to wait for an estimate.

    Returns
    -------
    certain : bool or None
        Whether there is one: True if entries prove it, False if products leave no more than
        rounding of it, None if there is none, or bounds exclude it.
    matvecs : int
        Products with an operator that was spent.
    """
    known, op = problem.known, problem.shifted
    scale = max(abs(known.low), abs(known.high)) if scale is None else scale
    if known.low > 0 or known.high < 0 or not math.isfinite(scale):
        return None, 0
    explicit = isinstance(problem.op, ExplicitOperator)
    xp = op.xp
    image = op.matmat(xp.ones((problem.n, 1), dtype=op.dtype, device=op.device))
    vanishing = xp.abs(image) <= 10 * op.unit * scale
    spent = 0 if explicit else 1
    if explicit and bool(xp.any(vanishing)) and maps_ones_to_zero(_on_host(problem)):
        return True, spent
    return (False if bool(xp.all(vanishing)) else None), spent


def _on_host(problem: Problem) -> Any:
    """Return ``A + shift I`` of explicit entries as a host array, sparse where A is."""
    from scipy.sparse import diags_array

    op = problem.op
    assert isinstance(op, ExplicitOperator)
    matrix = op.csc_on_host()
    if matrix is None:
        dense = to_host(op.dense())
        return dense + problem.shift * np.eye(problem.n) if problem.shift else dense
    return matrix + diags_array(np.full(problem.n, problem.shift)) if problem.shift else matrix
