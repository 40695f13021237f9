"""``tr f(A)`` for Hermitian A: exactly, or by quadrature of each probe's spectral measure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, is_array, namespace, to_host
from specdens.estimation.estimate import ILL_CONDITIONED, OVERFLOW, SINGULAR, advice
from specdens.estimation.goal import goal_of
from specdens.estimation.question import Question
from specdens.exact.factorizations import (
    UNIT,
    Factored,
    dense_of,
    slogdet,
    slogdets,
    spectrum_is_small,
)
from specdens.gradients.histories import is_followed, is_on
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.operators.explicit import ExplicitOperator
from specdens.problem.prepare import (
    Problem,
    plain_number,
    require_hermitian,
)
from specdens.problem.stacks import Answers, Stack, over_stack, prepared, stack_of
from specdens.recurrences.quadrature import noise_of
from specdens.results import Estimate, warn_of_doubt
from specdens.scalar_functions import LOG, ScalarFunction, require_domain, scalar_function
from specdens.structured.exact_rules import trace_function_by_parts
from specdens.structured.spectrum_union import eigenvalues, eigenvalues_are_cheap
from specdens.traces.estimated_trace import estimated_trace

__all__ = ["trace_function", "trace_of_eigenvalues"]


def trace_function(
    A: Any,
    f: Any,
    *,
    B: Any = None,
    moments: int | None = None,
    probes: Any = None,
    method: str = "auto",
    shift: Any = 0.0,
    hermitian: bool | None = None,
    bounds: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_matvecs: int | None = None,
    guarantee: tuple[float, float] | None = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return :math:`\operatorname{tr} f(A + \mathrm{shift}\, I)` of a Hermitian matrix.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n), or array (..., n, n)
        Anything that `aslinearoperator` takes. Real symmetric or complex Hermitian. Or a stack of
        such dense matrices.
    f : {"log", "exp", "inv", "sqrt", "xlogx", "square"}, callable, or pair of callables
        A callable takes and gives NumPy arrays, elementwise; it may be complex, for example
        ``lambda x: 1 / (x - z)``. A pair is f and its derivative, which gradients need.
    B : array or sparse matrix, shape (n, n), optional
        Hermitian and positive definite: then the eigenvalues are those of ``A x = lambda B x``.
        It is factored. The same one for all matrices of a stack.
    moments : int, optional
        Information per probe: costs half as many products with each probe. Default 20, or what a
        pilot chooses where an accuracy or a budget is asked for.
    probes : int or array of shape (n, R), optional
        Default 20 random signs (phases for complex A), or as many as the accuracy or the budget
        asks for. n or more: the unit vectors, without chance.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` is exact for dense n <= 8192 (32768 on a GPU), sparse n <= 2048, and when
        ``probes >= n`` and ``moments >= 2 n``; else Lanczos quadrature.
    shift : float or 0-d tensor
        Added to the diagonal.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    bounds : tuple of float, optional
        An interval that contains the spectrum of A, before the shift.
    rtol, atol : float, optional
        The half width of the 95 % interval that is wanted, relative to the value or absolute: the
        larger of the two counts.
    max_matvecs : int, optional
        A budget of products, at least 12. A pilot divides it among steps, probes and a Krylov
        basis that takes the dominant part out of the hands of chance.
    guarantee : tuple of float, optional
        ``(eps, delta)``: an absolute error above eps has probability at most delta, by proof. Needs
        rigorous bounds of the spectrum and a real A, and costs many times more.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself; ``rng=info.seed`` repeats a result.
    return_info : bool
        Whether to return ``(value, Estimate)``.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device, in the real dtype of A's precision (complex for complex f).
        For a stack, arrays of shape (...): of the values, and of the estimates as objects. All its
        matrices get the same probes.

    Raises
    ------
    ValueError
        If A is not square, not Hermitian or not finite; if log or sqrt meets a negative eigenvalue
        (`logdet` takes any sign); if B is not positive definite; or if an option is not as
        described.

    Warns
    -----
    AccuracyWarning
        If the truncation error may exceed the standard error, or something else is doubtful.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each probe; ``"chebyshev"`` without `bounds` 20 more.
    Where the derivatives of f have known signs (log, inv, exp, sqrt, xlogx) and the end of the
    spectrum that matters is known, Gauss and Gauss-Radau rules bracket the truth: the value lies
    between them, and its distance to the farther one is a rigorous bias bound.

    Results for Torch carry a gradient, as those of `logdet` do.

    References
    ----------
    Golub and Meurant, Matrices, Moments and Quadrature with Applications (2010), chapters 6 and 11;
    Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38, 1075 (2017).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = np.diag([1.0, 2.0, 4.0])
    >>> print(f"{specdens.trace_function(A, 'inv'):.4f}")
    1.7500
    >>> print(f"{specdens.trace_function(A, lambda x: x**3):.1f}")
    73.0
    """
    goal = goal_of(moments, probes, rtol, atol, max_matvecs, guarantee)
    question = Question(A, goal, B, probes, method, shift, hermitian, bounds, rng)
    function = scalar_function(f)
    stack, told = stack_of(A), advice(goal.moments)
    if stack is None:
        value, info = _answer(question, function)
        warn_of_doubt(info, told)
        return (value, info) if return_info else value
    question = question.with_key()

    def one(matrix: Any) -> tuple[tuple[Any], Estimate]:
        value, info = _answer(question.of(matrix), function)
        return (value,), info

    def together(matrices: Any) -> Answers | None:
        return _together(question.of(matrices), function) if question.is_plain else None

    (values,), infos = over_stack(stack, one, together, told, stacklevel=2)
    return (values, infos) if return_info else values


def _answer(question: Question, f: ScalarFunction) -> tuple[Any, Estimate]:
    """Return tr f(A) of one matrix as a result, and its estimate."""
    problem = question.problem()
    require_hermitian(problem, "tr f(A)")
    estimate = _estimate(problem, f, question)
    value = problem.result(estimate.value)
    if question.B is not None:
        if is_on(problem.op.xp):
            from specdens.gradients.autograd import refusing_gradient

            pencil = aslinearoperator(question.A), aslinearoperator(question.B)
            value = refusing_gradient(value, pencil, question.shift)
    elif is_followed(problem.op, question.shift):
        from specdens.gradients.autograd import with_gradient

        value = with_gradient(
            value, problem, f, estimate,
            shift=question.shift, goal=question.goal, probes=question.probes,
        )  # fmt: skip
    return value, estimate


def _together(question: Question, f: ScalarFunction) -> Answers | None:
    """Return tr f(A) of small matrices, shape (B, n, n), by what is exact."""
    matrices, shift = question.A, question.shift
    stack = prepared(matrices, shift=plain_number(shift), hermitian=question.hermitian)
    if stack is None or not np.all(stack.hermitian):
        return None
    try:
        estimates = _of_stack(stack, f)
    except ValueError:  # to be raised again with the name of the matrix
        return None
    values = [estimate.value for estimate in estimates]
    results = stack.results(values, complex_=any(isinstance(v, complex) for v in values))
    if is_on(namespace(results)):
        from specdens.gradients.autograd import with_gradients

        results = with_gradients(results, matrices, f, shift=shift)
    return (results,), estimates


def _of_stack(stack: Stack, f: ScalarFunction) -> list[Estimate]:
    a = stack.matrices
    cholesky = slogdets(a, hermitian=stack.hermitian) if f is LOG else []
    if cholesky and all(factored.definite for factored in cholesky):
        return [_rounded(factored.logabsdet, factored.rounding) for factored in cholesky]
    spectra = to_host(namespace(a).linalg.eigvalsh(a))
    factors: list[Factored | None] = [*cholesky] if cholesky else [None] * len(spectra)
    unit = float(namespace(a).finfo(stack.dtype).eps)
    return [
        _of_factored(f, factored, np, spectrum, unit)
        for factored, spectrum in zip(factors, spectra, strict=True)
    ]


def _estimate(problem: Problem, f: ScalarFunction, question: Question) -> Estimate:
    if problem.n == 0:
        return Estimate(value=0.0)
    if not is_array(question.probes):
        by_rules = trace_function_by_parts(
            problem,
            f,
            lambda part, g, key: _estimate(part, g, question.by(key)),
            exact=question.may_be_exact,
            rng=question.rng,
        )
        if by_rules is not None:
            return by_rules
    vectors = question.vectors(problem.shifted)
    if question.method == "exact" or (
        question.method == "auto"
        and (question.pays_for_all(problem, vectors) or eigenvalues_are_cheap(problem.op))
    ):
        return _exact(problem, f)
    return estimated_trace(problem, f, question.goal, vectors, question.method)


def _exact(problem: Problem, f: ScalarFunction) -> Estimate:
    """Return tr f(A) from all eigenvalues; log of a positive definite matrix by Cholesky."""
    op = problem.op
    explicit = isinstance(op, ExplicitOperator)
    if eigenvalues_are_cheap(op) and not spectrum_is_small(op):
        spectrum, matvecs = eigenvalues(op)
        estimate = trace_of_eigenvalues(op.xp, spectrum + problem.real_shift, f, op.stored_unit)
    else:
        matvecs = 0 if explicit else problem.n
        estimate = _of_dense(f, dense_of(op, problem.real_shift), op.stored_unit)
    return replace(estimate, matvecs=problem.matvecs + matvecs)


def _of_dense(f: ScalarFunction, a: Array, unit: float) -> Estimate:
    found = slogdet(a, hermitian=True) if f is LOG else None
    xp = namespace(a)
    spectrum = None if found is not None and found.definite else xp.linalg.eigvalsh(a)
    return _of_factored(f, found, xp, spectrum, unit)


def _of_factored(
    f: ScalarFunction, found: Factored | None, xp: Any, spectrum: Any, unit: float
) -> Estimate:
    """Return log det by Cholesky, for log of a definite matrix, else tr f by all eigenvalues."""
    if found is not None and found.definite:
        return _rounded(found.logabsdet, found.rounding)
    estimate = trace_of_eigenvalues(xp, spectrum, f, unit)
    if found is None or (estimate.value == -math.inf and not found.doubtful):
        return estimate
    return _rounded(-math.inf, 0.0, SINGULAR)


def trace_of_eigenvalues(xp: Any, spectrum: Array, f: ScalarFunction, unit: float) -> Estimate:
    """Return the sum of f over all eigenvalues, in ascending order; log of noise is that of 0.

    Eigenvalues below the domain of f are 0, if the rounding of the entries (`unit`) explains them.
    """
    low, high = float(spectrum[0]), float(spectrum[-1])
    noise = noise_of(spectrum.shape[0], UNIT, low, high)
    require_domain(f, low, noise_of(spectrum.shape[0], unit, low, high))
    smallest = float(xp.min(xp.abs(spectrum)))
    flags = (SINGULAR,) if f.pole and 0 < smallest <= noise else ()
    cut = 0.0
    if f.domain != "real" and low < 0:
        cut, spectrum = -low, xp.where(spectrum > 0, spectrum, xp.zeros_like(spectrum))
    if f is LOG and (smallest <= noise or cut):
        return _rounded(-math.inf, 0.0, *((SINGULAR,) if cut else flags))
    if f.own:
        total = f.on_host(to_host(spectrum)).sum()
        return _rounded(complex(total) if np.iscomplexobj(total) else float(total), 0.0)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        values, moved = f.apply(xp, spectrum), f.apply(xp, spectrum + noise / 10)
        value, rounding = float(xp.sum(values)), float(xp.sum(xp.abs(moved - values)))
        if cut > noise:
            rounding += spectrum.shape[0] * float(np.abs(f.on_host(np.array([cut]))[0]))
    if not math.isfinite(value) and smallest > 0:
        flags = (*flags, OVERFLOW)
    return _rounded(value, rounding if math.isfinite(rounding) else 0.0, *flags)


def _rounded(value: complex, rounding: float, *flags: str) -> Estimate:
    """Return an exact value with what rounding may have done to it."""
    if not flags and rounding > 1e-3 * max(1.0, abs(value)):
        flags = (ILL_CONDITIONED,)
    return Estimate(
        value=value,
        bias_bound=rounding,
        bias_rigorous=rounding == 0,
        flags=flags,
        converged=not flags,
    )
