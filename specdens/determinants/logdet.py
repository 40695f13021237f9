"""``log|det(A + shift I)|`` of any square matrix, and its sign."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from specdens.arrays.libraries import is_array, is_complex, namespace
from specdens.arrays.probes import Probes
from specdens.determinants.exact_logdet import exact_logdet, is_cheap, judged
from specdens.determinants.nonsymmetric import log_of_singular_values
from specdens.estimation.estimate import advice
from specdens.estimation.goal import goal_of
from specdens.estimation.question import Question
from specdens.exact.factorizations import slogdets
from specdens.exact.pencils import checked_pair, combination, definite_factor
from specdens.gradients.histories import is_followed, is_on
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.operators.explicit import ExplicitOperator
from specdens.problem.prepare import Problem, plain_number
from specdens.problem.stacks import Answers, over_stack, prepared, stack_of
from specdens.recurrences.lanczos import NotHermitianError
from specdens.results import UNBOUNDED, Estimate, warn_of_doubt
from specdens.scalar_functions import LOG_ABS
from specdens.structured.exact_rules import determinant_by_parts
from specdens.traces.estimated_trace import estimated_trace

__all__ = ["logdet", "slogdet"]

COLUMNS_FORMED = 512
"""Order up to which a nonsymmetric operator without an adjoint is formed by its n columns."""


def logdet(
    A: Any,
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
    r"""Return :math:`\log|\det(A + \mathrm{shift}\, I)|` of any square matrix.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n), or array (..., n, n)
        Anything that `aslinearoperator` takes: symmetric or not, definite or not, real or complex.
        Or a stack of dense matrices.
    B : array or sparse matrix, shape (n, n), optional
        Hermitian and positive definite: then the determinant is that of ``B^{-1} A + shift I``, the
        product of the eigenvalues of ``A x = lambda B x``. It is factored. The same one for
        all matrices of a stack.
    moments : int, optional
        Information per probe: costs half as many products with each probe. A nonsymmetric A costs
        as many again, with its adjoint. Default 20, or what a pilot chooses where an accuracy or a
        budget is asked for.
    probes : int or array of shape (n, R), optional
        Default 20 random signs (phases for complex A), or as many as the accuracy or the budget
        asks for. n or more: the unit vectors, without chance.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` is exact for dense n <= 8192 (32768 on a GPU), for sparse matrices whose LU
        factors are predicted to stay below 2 GB, and when ``probes >= n`` and ``moments >= 2 n``;
        otherwise it is stochastic Lanczos quadrature. ``"chebyshev"`` is the kernel polynomial
        method.
    shift : number or 0-d tensor
        Added to the diagonal.
    hermitian : bool, optional
        A claim about an operator; it is checked on the way, without an extra product.
    bounds : tuple of float, optional
        An interval that contains the spectrum of A, before the shift (of a nonsymmetric A: its
        singular values). A positive lower end makes the bias bound rigorous. With B, of
        ``A + shift B``.
    rtol, atol : float, optional
        The half width of the 95 % interval that is wanted, relative to the value or absolute: the
        larger of the two counts.
    max_matvecs : int, optional
        A budget of products, at least 12; of a nonsymmetric A those with its adjoint count. A pilot
        divides it among steps, probes and, for Hermitian A, a Krylov basis that takes the dominant
        part out of the hands of chance.
    guarantee : tuple of float, optional
        ``(eps, delta)``: an absolute error above eps has probability at most delta, by proof. For
        real symmetric positive definite A with rigorous bounds; costs many times more.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself; ``rng=info.seed`` repeats a result.
    return_info : bool
        Whether to return ``(value, Estimate)``.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device, in the real dtype of A's precision (float64 for integers
        and half precision). 0 for an empty matrix, -inf for a singular one. For a stack, arrays of
        shape (...): of the values, and of the estimates as objects. All its matrices get the same
        probes, and what is doubtful is told once.

    Raises
    ------
    ValueError
        If A is not square or not finite, or a product is not; if a nonsymmetric operator of order
        above 512 has no adjoint product; if B is not positive definite; if an option is not as
        described.

    Warns
    -----
    AccuracyWarning
        If the truncation error may exceed the standard error, A is nearly singular or indefinite
        (by quadrature: log|x| is then singular inside the spectrum), or given bounds are wrong.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each probe; ``"chebyshev"`` without `bounds` 20 more.

    For Torch the result has a gradient with respect to every tensor that A or `shift` depends on,
    also those that an operator's products use, but not with `B`. An exact value has the exact
    gradient, for a sparse matrix on its pattern and by n solves; of a structured operator of order
    above 2048, an estimate by 20 probes. An estimate has the estimate
    :math:`\sum_r \langle A^{-H} z_r, dA\, z_r \rangle / R` with the same probes, by as many Lanczos
    steps as the value; for a Hermitian matrix only what differs from the gradient of the trace of
    a quadratic polynomial, which is exact, is left to chance. Where a part of the value was
    computed and not sampled (``info.deflated``), its gradient is still estimated, by 20 probes or
    more of the same key: unbiased, but noisier than the value. `backward` runs the recurrence
    again: nothing of size n is kept for it. There are no second derivatives.

    References
    ----------
    Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38, 1075 (2017); Cortinovis and Kressner,
    Found. Comput. Math. 22, 875 (2022), for indefinite log; Gardner et al., NeurIPS 2018, for
    gradients.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> print(f"{specdens.logdet(A):.6f}")
    1.609438
    >>> from specdens.testing import laplacian
    >>> L = laplacian(20, 20, 20)
    >>> value, info = specdens.logdet(L, method="lanczos", moments=60, rng=0, return_info=True)
    >>> low, high = info.interval(0.95)
    >>> bool(low < specdens.logdet(L) < high)
    True
    """
    goal = goal_of(moments, probes, rtol, atol, max_matvecs, guarantee)
    question = Question(A, goal, B, probes, method, shift, hermitian, bounds, rng)
    (_, value), estimate = _signed(question, stacklevel=3)
    return (value, estimate) if return_info else value


def slogdet(
    A: Any,
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
    r"""Return the sign (or phase) and :math:`\log|\det|` of ``A + shift I``, any square matrix.

    As `numpy.linalg.slogdet`, which it equals for small matrices.

    Parameters
    ----------
    A, B, moments, probes, method, shift, hermitian, bounds, rtol, atol, max_matvecs, guarantee, rng
        As for `logdet`.
    return_info : bool
        Whether to return ``((sign, logabsdet), Estimate)``; the estimate is that of logabsdet.

    Returns
    -------
    (sign, logabsdet), or ((sign, logabsdet), Estimate)
        The sign is -1, 0 or 1, for complex A of modulus 1 or 0. It comes from a factorisation, or
        from bounds of one sign; where it could only be guessed it is ``nan``.

    Raises
    ------
    ValueError
        As `logdet`.

    Warns
    -----
    AccuracyWarning
        As `logdet`.

    Notes
    -----
    Costs as many products as `logdet`, whose references hold here too.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> sign, value = specdens.slogdet(np.array([[0.0, 2.0], [3.0, 0.0]]))
    >>> print(f"{sign:.0f} {value:.6f}")
    -1 1.791759
    """
    goal = goal_of(moments, probes, rtol, atol, max_matvecs, guarantee)
    question = Question(A, goal, B, probes, method, shift, hermitian, bounds, rng)
    pair, estimate = _signed(question, stacklevel=3)
    return (pair, estimate) if return_info else pair


def _signed(question: Question, *, stacklevel: int) -> tuple[tuple[Any, Any], Any]:
    """Return ((sign, log|det|) as results, estimate), and warn of doubt; arrays for a stack."""
    moments = question.moments
    stack = stack_of(question.A)
    if stack is None:
        pair, estimate = _answer(question)
        warn_of_doubt(estimate, advice(moments), stacklevel=stacklevel)
        return pair, estimate
    question = question.with_key()

    def one(matrix: Any) -> tuple[tuple[Any, Any], Estimate]:
        return _answer(question.of(matrix))

    def together(matrices: Any) -> Answers | None:
        return _together(question.of(matrices)) if question.is_plain else None

    return over_stack(stack, one, together, advice(moments), stacklevel=stacklevel)


def _answer(question: Question) -> tuple[tuple[Any, Any], Estimate]:
    """Return ((sign, log|det|) as results, estimate) of one matrix."""
    if question.B is not None:
        return _of_pencil(question)
    problem = question.problem()
    sign, estimate = _estimated(problem, question)
    value = problem.result(estimate.value)
    if is_followed(problem.op, question.shift):
        from specdens.gradients.autograd import with_gradient

        value = with_gradient(
            value, problem, LOG_ABS, estimate,
            shift=question.shift, goal=question.goal, probes=question.probes,
        )  # fmt: skip
    return (_sign_as_result(problem, sign), value), estimate


def _of_pencil(question: Question) -> tuple[tuple[Any, Any], Estimate]:
    """Return what `_answer` does, of ``B^-1 A + shift I``: ``det(A + shift B) / det B``."""
    pencil = aslinearoperator(question.A), aslinearoperator(question.B)
    a, b = checked_pair(*pencil)
    factor = definite_factor(b)
    numerator = combination(a, b, plain_number(question.shift))
    # The shift is in the numerator: what is left is a question of that matrix alone.
    rest = replace(question, A=numerator, B=None, shift=0.0)
    problem = rest.problem()
    sign, estimate = _estimated(problem, rest)
    estimate = replace(
        estimate,
        value=float(estimate) - factor.logabsdet,
        bias_bound=estimate.bias_bound + factor.rounding,
    )
    value = problem.result(estimate.value)
    if is_on(problem.op.xp):
        from specdens.gradients.autograd import refusing_gradient

        value = refusing_gradient(value, pencil, question.shift)
    return (_sign_as_result(problem, sign), value), estimate


def _sign_as_result(problem: Problem, sign: complex) -> Any:
    complex_ = problem.shifted.xp.isdtype(problem.shifted.dtype, "complex floating")
    return problem.result(complex(sign) if complex_ else sign)


def _together(question: Question) -> Answers | None:
    """Return signs and values of small matrices, shape (B, n, n), from their factorisations."""
    matrices, shift = question.A, question.shift
    stack = prepared(matrices, shift=plain_number(shift), hermitian=question.hermitian)
    if stack is None:
        return None
    answers = [judged(f, 0) for f in slogdets(stack.matrices, hermitian=stack.hermitian)]
    signs, estimates = [sign for sign, _ in answers], [estimate for _, estimate in answers]
    values = stack.results([estimate.value for estimate in estimates])
    if is_on(namespace(values)):
        from specdens.gradients.autograd import with_gradients

        values = with_gradients(values, matrices, LOG_ABS, shift=shift)
    return (stack.results(signs, complex_=is_complex(stack.matrices)), values), estimates


def _estimated(problem: Problem, question: Question) -> tuple[complex, Estimate]:
    if problem.n == 0:
        return 1.0, Estimate(value=0.0)
    if not is_array(question.probes):
        by_rules = determinant_by_parts(
            problem,
            lambda part, key: _estimated(part, question.by(key)),
            exact=question.may_be_exact,
            rng=question.rng,
        )
        if by_rules is not None:
            return by_rules
    vectors = question.vectors(problem.shifted)
    if question.method == "exact":
        return exact_logdet(problem)
    if question.method == "auto" and (
        problem.n == 1 or question.pays_for_all(problem, vectors) or is_cheap(problem)
    ):
        return exact_logdet(problem)
    if problem.hermitian:
        return _sampled_hermitian(problem, question, vectors)
    return _nonsymmetric(problem, question, vectors)


def _sign_by_bounds(problem: Problem, estimate: Estimate) -> float:
    """Return the sign that rigorous bounds of one sign prove; else nan, or 0 if singular."""
    if estimate.value == -math.inf:
        return 0.0
    if not estimate.converged and estimate.flags:
        return math.nan
    if problem.known.low_rigorous and problem.known.low > 0:
        return 1.0
    if problem.known.high_rigorous and problem.known.high < 0:
        return -1.0 if problem.n % 2 else 1.0
    return math.nan


def _sampled_hermitian(
    problem: Problem, question: Question, vectors: Probes
) -> tuple[complex, Estimate]:
    try:
        estimate = estimated_trace(problem, LOG_ABS, question.goal, vectors, question.method)
    except NotHermitianError:
        if isinstance(problem.op, ExplicitOperator):
            # Within rounding of its largest entries it is Hermitian, of its smallest it is not.
            general = replace(problem, hermitian=False, known=UNBOUNDED, stated=False)
            return _nonsymmetric(general, question, vectors)
        # Nobody claimed that it is: an operator without an adjoint product counts as Hermitian
        # until its products contradict.
        if not problem.assumed or problem.n > COLUMNS_FORMED:
            raise
        return exact_logdet(replace(problem, hermitian=False))
    return _sign_by_bounds(problem, estimate), estimate


def _nonsymmetric(
    problem: Problem, question: Question, vectors: Probes
) -> tuple[complex, Estimate]:
    """Return log|det A| as the trace of ``log|A|``."""
    try:
        estimate = log_of_singular_values(problem, question.goal, vectors, question.method)
    except NotImplementedError as error:
        if problem.n > COLUMNS_FORMED:
            raise ValueError(str(error)) from None
        return exact_logdet(problem)
    return (0.0 if estimate.value == -math.inf else math.nan), estimate
