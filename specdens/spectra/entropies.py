"""Entropies and partition functions of a Hermitian matrix, each by one call."""

from __future__ import annotations

from typing import Any

from specdens.estimation.estimate import advice, answered
from specdens.estimation.goal import moments_alone
from specdens.estimation.question import Question
from specdens.problem.prepare import (
    Problem,
    require_hermitian,
)
from specdens.results import Estimate, warn_of_doubt
from specdens.spectra.make_run import EXACT_OR_LANCZOS, record
from specdens.spectra.spectrum import MOMENTS, Spectrum

__all__ = ["entropy", "estrada_index", "heat_trace", "renyi_entropy"]


def entropy(
    A: Any,
    *,
    moments: int = MOMENTS,
    probes: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the von Neumann entropy :math:`-\operatorname{tr} \rho \log \rho`, in nats.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Hermitian and positive semidefinite, not 0. Its trace is divided out: ``rho = A / tr A``.
    moments, probes, method, hermitian, rng
        As for `spectrum`.
    return_info : bool
        Whether to return ``(value, Estimate)``.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device; between 0 and log n.

    Raises
    ------
    ValueError
        If A has a negative eigenvalue, or trace 0, or is not as described.

    Warns
    -----
    AccuracyWarning
        If the truncation error may exceed the standard error.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each probe. The errors are those of the linearisation
    in ``tr A log A`` and ``tr A``.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(f"{specdens.entropy(np.eye(8)):.6f} {np.log(8):.6f}")
    2.079442 2.079442
    """
    problem, found = _run(_question(A, moments, probes, method, hermitian, rng), "an entropy")
    return answered(problem.op, found.entropy(), moments, return_info)


def renyi_entropy(
    A: Any,
    order: float,
    *,
    moments: int = MOMENTS,
    probes: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the Rényi entropy :math:`\log(\operatorname{tr} \rho^\alpha) / (1 - \alpha)`.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Hermitian and positive semidefinite, not 0: ``rho = A / tr A``.
    order : float
        Positive. 1 is the von Neumann entropy; exp of that of order 2 is the participation number
        ``(tr A)^2 / tr A^2``, which explicit matrices tell without a probe.
    moments, probes, method, hermitian, rng
        As for `spectrum`.
    return_info : bool
        Whether to return ``(value, Estimate)``.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device, in nats; falls as the order grows.

    Raises
    ------
    ValueError
        If A has a negative eigenvalue, or trace 0, or `order` is not positive.

    Warns
    -----
    AccuracyWarning
        If the truncation error may exceed the standard error.

    References
    ----------
    Rényi, Proc. 4th Berkeley Symposium 1, 547 (1961).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(f"{np.exp(specdens.renyi_entropy(np.diag([1.0, 1.0, 2.0]), 2)):.4f}")
    2.6667
    """
    problem, found = _run(_question(A, moments, probes, method, hermitian, rng), "an entropy")
    return answered(problem.op, found.renyi_entropy(order), moments, return_info)


def estrada_index(
    A: Any,
    *,
    moments: int = MOMENTS,
    probes: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the Estrada index :math:`\operatorname{tr} e^A`, of a graph's adjacency matrix, say.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Hermitian.
    moments, probes, method, hermitian, rng
        As for `spectrum`.
    return_info : bool
        Whether to return ``(value, Estimate)``.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device.

    Raises
    ------
    ValueError
        If A is not Hermitian, or not as described.

    Warns
    -----
    AccuracyWarning
        If the truncation error may exceed the standard error, or the sum overflows.

    References
    ----------
    Estrada and Rodríguez-Velázquez, Phys. Rev. E 71, 056103 (2005).

    Examples
    --------
    >>> import specdens
    >>> from specdens.testing import hypercube
    >>> print(f"{specdens.estrada_index(hypercube(3)):.4f}")  # (2 cosh 1)^3
    29.3938
    """
    problem, found = _run(_question(A, moments, probes, method, hermitian, rng), "an Estrada index")
    return answered(problem.op, found.estrada_index(), moments, return_info)


def heat_trace(
    A: Any,
    t: Any,
    *,
    moments: int = MOMENTS,
    probes: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return :math:`\operatorname{tr} e^{-tA}`: heat on a graph, or a partition function.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Hermitian.
    t : float or array_like, shape (k,)
        Times, or inverse temperatures. All of them from the same probes.
    moments, probes, method, hermitian, rng
        As for `spectrum`.
    return_info : bool
        Whether to return ``(values, Estimate)``; a list of estimates for many t.

    Returns
    -------
    array, shape () or (k,), or (array, Estimate or list of Estimate)
        Of A's library and device.

    Raises
    ------
    ValueError
        If A is not Hermitian, or t is not real or has more than one dimension.

    Warns
    -----
    AccuracyWarning
        If the truncation error may exceed the standard error: once, for the most doubtful t.

    Examples
    --------
    >>> import specdens
    >>> from specdens.testing import laplacian
    >>> values = specdens.heat_trace(laplacian(20, boundary="neumann"), [0.0, 1.0, 1e4])
    >>> print(" ".join(f"{value:.4f}" for value in values))
    20.0000 6.6610 1.0000
    """
    problem, found = _run(_question(A, moments, probes, method, hermitian, rng), "a heat trace")
    infos = found.heat_trace(t)
    if isinstance(infos, Estimate):
        return answered(problem.op, infos, moments, return_info)
    if infos:
        worst = max(infos, key=lambda e: (not e.converged, e.bias_bound))
        warn_of_doubt(worst, advice(moments), stacklevel=2)
    op = problem.op
    numbers = [float(info) for info in infos]
    values = op.xp.asarray(numbers, dtype=op.result_dtype, device=op.device)
    return (values, infos) if return_info else values


def _question(
    A: Any, moments: int, probes: Any, method: str, hermitian: bool | None, rng: Any
) -> Question:
    goal, among = moments_alone(moments), EXACT_OR_LANCZOS
    return Question(
        A, goal, probes=probes, method=method, hermitian=hermitian, rng=rng, among=among
    )


def _run(question: Question, what: str) -> tuple[Problem, Spectrum]:
    """Return what A is, and the run that answers."""
    problem = question.problem()
    require_hermitian(problem, what)
    return problem, Spectrum(record(problem, question))
