"""The pseudo-determinant: the sum of log of the singular values above a tolerance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from specdens.estimation.estimate import answered, summed
from specdens.estimation.goal import moments_alone
from specdens.estimation.question import Question
from specdens.estimation.sampling import bidiagonals
from specdens.estimation.truncation import integrate_factors
from specdens.exact.factorizations import dense_of
from specdens.operators.algebra import Adjoint, Counting, finite_real
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import finite_operator
from specdens.recurrences.quadrature import gauss
from specdens.results import UNBOUNDED, Estimate
from specdens.scalar_functions import ScalarFunction
from specdens.structured.spectrum_union import singular_values

__all__ = ["logpdet"]


def logpdet(
    A: Any,
    *,
    tol: float | None = None,
    moments: int = 20,
    probes: Any = None,
    method: str = "auto",
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the sum of the logarithms of the singular values above a tolerance, any shape.

    For a positive semidefinite A: the log of the product of its nonzero eigenvalues.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (m, n)
        Anything that `aslinearoperator` takes.
    tol : float, optional
        Default ``max(m, n)`` times the unit roundoff of A's precision times the largest singular
        value, as `numpy.linalg.matrix_rank`.
    moments, probes, rng
        As for `logdet`; the probes have length ``min(m, n)``.
    method : {"auto", "exact", "lanczos"}
        ``"auto"`` computes all singular values where the matrix is dense and small (both sides at
        most 8192; 32768 on a GPU), or sparse with both at most 2048. The step at `tol` has no
        useful Chebyshev series. A `Kronecker` product or `BlockDiagonal` of such matrices, too.
    return_info : bool
        Whether to return ``(value, Estimate)``; the number of singular values above `tol` is
        ``info.rank``, estimated like the value unless it is exact.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device, real.

    Raises
    ------
    ValueError
        If A is not finite, `tol` negative, or an option not as described.

    Warns
    -----
    AccuracyWarning
        If the truncation error may exceed the standard error.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with A and as many with its adjoint for each probe.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> value, info = specdens.logpdet(np.diag([2.0, 3.0, 0.0]), return_info=True)
    >>> print(f"{value:.6f} {info.rank:.0f}")
    1.791759 2
    """
    question = Question(A, moments_alone(moments), probes=probes, method=method, rng=rng)
    if method == "chebyshev":
        msg = "method='chebyshev' cannot resolve the step at tol; use 'lanczos' or 'exact'."
        raise ValueError(msg)
    if tol is not None and (tol := finite_real(tol, "tol")) < 0:
        msg = f"tol is {tol}; expected a finite number, at least 0."
        raise ValueError(msg)
    op = finite_operator(A)
    estimate = _pseudo(op, tol, question)
    return answered(op, estimate, moments, return_info)


def _pseudo(op: LinearOperator, tol: float | None, question: Question) -> Estimate:
    method, moments = question.method, question.moments
    if 0 in op.shape:
        return Estimate(value=0.0, rank=0)
    narrow = op if op.shape[0] >= op.shape[1] else Adjoint(op)
    vectors = question.vectors(narrow)
    full = vectors.exhaustive and moments >= 2 * narrow.shape[1]
    relative = max(op.shape) * float(op.xp.finfo(op.result_dtype).eps)
    values = singular_values(op) if method in {"auto", "exact"} else None
    if method == "exact" or values is not None or (method == "auto" and full):
        xp = op.xp
        formed = values is None and not isinstance(op, ExplicitOperator)
        values = xp.linalg.svdvals(dense_of(op)) if values is None else values
        above = values > (relative * float(xp.max(values)) if tol is None else tol)
        logs = xp.log(xp.where(above, values, xp.ones_like(values)))
        rank = int(xp.sum(xp.astype(above, xp.int64)))
        matvecs = op.shape[1] if formed else 0
        return Estimate(value=float(xp.sum(logs)), rank=rank, matvecs=matvecs)
    counted = Counting(narrow)
    try:
        factors = bidiagonals(counted, vectors, moments)
    except NotImplementedError as error:
        raise ValueError(str(error)) from None
    rules = [gauss(factor) for factor in factors]
    cut = relative * max(rule.nodes[-1] for rule in rules) if tol is None else tol
    unit = op.unit
    f = ScalarFunction("log above tol", lambda _, x: np.log(np.where(x > cut, x, 1.0)))
    truncated = integrate_factors(list(factors), f, UNBOUNDED, unit=unit)
    found = summed(truncated, vectors, method="lanczos", matvecs=counted.count, bounds=None)
    ranks = [rule.integrate((rule.nodes > cut).astype(float)) for rule in rules]
    return replace(found, rank=float(vectors.n * np.mean(ranks)))
