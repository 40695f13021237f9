"""Norms, ranks and the condition number of a matrix of any shape, from its singular values."""

from __future__ import annotations

from typing import Any

from specdens.estimation.estimate import answered
from specdens.estimation.goal import moments_alone
from specdens.estimation.question import Question
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import (
    finite_operator,
)
from specdens.spectra.make_run import EXACT_OR_LANCZOS, record, record_singular
from specdens.spectra.spectrum import MOMENTS, Spectrum

__all__ = [
    "condition_number",
    "effective_rank",
    "nuclear_norm",
    "numerical_rank",
    "schatten_norm",
]


def schatten_norm(
    A: Any,
    p: float,
    *,
    moments: int = MOMENTS,
    probes: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the Schatten norm :math:`(\sum_i \sigma_i^p)^{1/p}` of a matrix of any shape.

    It is not divided by n, and takes moduli: p = 1 is the nuclear norm, p = 2 that of Frobenius.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (m, n)
        Anything that `aslinearoperator` takes; unless it is Hermitian, with an adjoint product.
    p : float
        Positive and finite; below 1 it is a quasi-norm.
    moments, probes, method, hermitian, rng
        As for `spectrum`; where A is not Hermitian, probes have length ``min(m, n)``.
    return_info : bool
        Whether to return ``(value, Estimate)``.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device.

    Raises
    ------
    ValueError
        If A is not finite, an adjoint product is missing, or an option is not as described.

    Warns
    -----
    AccuracyWarning
        If the truncation error may exceed the standard error. ``|x|^p`` has a kink at 0, so that
        a spectrum on both sides of it takes more moments.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each probe; where A is not Hermitian, and as many with
    its adjoint.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(f"{specdens.schatten_norm(np.diag([3.0, -4.0]), 2):.4f}")
    5.0000
    """
    op, found = _run(A, moments, probes, method, hermitian, rng)
    return answered(op, found.schatten_norm(p), moments, return_info)


def nuclear_norm(
    A: Any,
    *,
    moments: int = MOMENTS,
    probes: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    """Return the sum of the singular values of a matrix of any shape.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (m, n)
        As for `schatten_norm`, of which this is the one with p = 1.
    moments, probes, method, hermitian, rng, return_info
        As for `schatten_norm`.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device.

    Raises
    ------
    ValueError
        As `schatten_norm`.

    Warns
    -----
    AccuracyWarning
        As `schatten_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(f"{specdens.nuclear_norm(np.array([[3.0, 0.0, 0.0], [0.0, 0.0, -4.0]])):.4f}")
    7.0000
    """
    op, found = _run(A, moments, probes, method, hermitian, rng)
    return answered(op, found.nuclear_norm(), moments, return_info)


def numerical_rank(
    A: Any,
    *,
    tol: float | None = None,
    moments: int = MOMENTS,
    probes: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    """Return the number of singular values above a tolerance, as `numpy.linalg.matrix_rank`.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (m, n)
        As for `schatten_norm`.
    tol : float, optional
        Default ``max(m, n)`` times the unit roundoff of the products times the largest singular
        value.
    moments, probes, method, hermitian, rng, return_info
        As for `schatten_norm`.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device; not rounded where it is an estimate.

    Raises
    ------
    ValueError
        As `schatten_norm`; or if `tol` is negative.

    Warns
    -----
    AccuracyWarning
        As `schatten_norm`. Where many singular values are near `tol`, the step there is not
        resolved.

    References
    ----------
    Ubaru and Saad, Fast methods for estimating the numerical rank of large matrices, ICML 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(f"{specdens.numerical_rank(np.ones((4, 3))):.0f}")
    1
    """
    op, found = _run(A, moments, probes, method, hermitian, rng)
    if tol is None and 0 not in op.shape:
        tol = max(op.shape) * found.run.unit * max(map(abs, found.run.ends))
    return answered(op, found.numerical_rank(tol), moments, return_info)


def effective_rank(
    A: Any,
    *,
    moments: int = MOMENTS,
    probes: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the effective rank: exp of the entropy of :math:`p_i = \sigma_i / \sum_j \sigma_j`.

    Between 1 and the rank. Of the other number by this name, the participation number
    ``(tr A)^2 / tr A^2`` of a positive semidefinite matrix, `renyi_entropy` of order 2 is the log.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (m, n)
        As for `schatten_norm`; not 0.
    moments, probes, method, hermitian, rng, return_info
        As for `schatten_norm`.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device.

    Raises
    ------
    ValueError
        As `schatten_norm`; or if A is empty or 0.

    Warns
    -----
    AccuracyWarning
        As `schatten_norm`.

    References
    ----------
    Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(f"{specdens.effective_rank(np.diag([1.0, 1.0, -1.0, 0.0])):.4f}")
    3.0000
    """
    op, found = _run(A, moments, probes, method, hermitian, rng)
    return answered(op, found.effective_rank(), moments, return_info)


def condition_number(
    A: Any,
    *,
    moments: int = MOMENTS,
    probes: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    """Return the largest singular value over the smallest, as `numpy.linalg.cond`.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (m, n)
        As for `schatten_norm`.
    moments, probes, method, hermitian, rng, return_info
        As for `schatten_norm`.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device; infinite if A is singular. By recurrences it is too small
        by what they have not seen, and its bias bound is what residuals leave open, not a proof.

    Raises
    ------
    ValueError
        As `schatten_norm`; or if A is empty.

    Warns
    -----
    AccuracyWarning
        If residuals leave more than a tenth of it open, or a Hermitian A has eigenvalues of both
        signs, of which recurrences resolve the small ones last.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(f"{specdens.condition_number(np.diag([2.0, -8.0])):.4f}")
    4.0000
    """
    op, found = _run(A, moments, probes, method, hermitian, rng)
    return answered(op, found.condition_number(), moments, return_info)


def _run(
    A: Any, moments: int, probes: Any, method: str, hermitian: bool | None, rng: Any
) -> tuple[LinearOperator, Spectrum]:
    """Return A as an operator, and a run on its eigenvalues or, if not Hermitian, singular ones."""
    goal, among = moments_alone(moments), EXACT_OR_LANCZOS
    question = Question(
        A, goal, probes=probes, method=method, hermitian=hermitian, rng=rng, among=among
    )
    op = finite_operator(A)
    if op.shape[0] == op.shape[1]:
        problem = question.of(op).problem()
        if problem.hermitian:
            return op, Spectrum(record(problem, question))
    return op, Spectrum(record_singular(op, question))
