"""``log|det(A + shift I)|`` of any square matrix, its sign, and the pseudo-determinant."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from specdens._arrays import eps, is_array, magnitude, power_of_two
from specdens._probes import Probes, gaussian
from specdens.adapters import (
    DenseOperator,
    ExplicitOperator,
    SparseOperator,
    TorchSparseOperator,
)
from specdens.estimation import ESCAPED, ILL_CONDITIONED, SINGULAR, advice, summed
from specdens.exact import (
    Factored,
    dense_is_small,
    dense_of,
    lu_fits,
    sparse_slogdet,
)
from specdens.exact import (
    slogdet as dense_slogdet,
)
from specdens.functions import sampled_trace
from specdens.lanczos import NotHermitianError
from specdens.linear_operator import LinearOperator
from specdens.operators import Adjoint, Counting, Gram, Scaled, finite_real
from specdens.pencils import checked_pair, combination, definite_factor
from specdens.preparation import (
    Problem,
    as_result,
    checked_count,
    finite_operator,
    prepare,
    require_method,
)
from specdens.quadrature import gauss
from specdens.results import UNBOUNDED, Estimate, warn_of_doubt
from specdens.rules import determinant_by_parts
from specdens.sampling import bidiagonals, probes_for
from specdens.scalar_functions import LOG, LOG_ABS, ScalarFunction
from specdens.truncation import integrate_factors
from specdens.union import singular_values

__all__ = ["logdet", "logpdet", "slogdet"]

COLUMNS_FORMED = 512
"""Order up to which a nonsymmetric operator without an adjoint is formed by its n columns."""


def logdet(
    A: Any,
    *,
    B: Any = None,
    moments: int = 20,
    probes: Any = None,
    method: str = "auto",
    shift: complex = 0.0,
    hermitian: bool | None = None,
    bounds: Any = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return :math:`\log|\det(A + \mathrm{shift}\, I)|` of any square matrix.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes: symmetric or not, definite or not, real or complex.
    B : array or sparse matrix, shape (n, n), optional
        Hermitian and positive definite: then the determinant is that of ``B^{-1} A + shift I``, the
        product of the eigenvalues of ``A x = lambda B x``. It is factored.
    moments : int
        Information per probe: costs half as many products with each probe. A nonsymmetric A costs
        as many again, with its adjoint.
    probes : int or array of shape (n, R), optional
        Default 20 random signs (phases for complex A). n or more: the unit vectors, without chance.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` is exact for dense n <= 8192 (32768 on a GPU), for sparse matrices whose LU
        factors are predicted to stay below 2 GB, and when ``probes >= n`` and ``moments >= 2 n``;
        otherwise it is stochastic Lanczos quadrature. ``"chebyshev"`` is the kernel polynomial
        method.
    shift : number
        Added to the diagonal.
    hermitian : bool, optional
        A claim about an operator; it is checked on the way, without an extra product.
    bounds : tuple of float, optional
        An interval that contains the spectrum of A, before the shift (of a nonsymmetric A: its
        singular values). A positive lower end makes the bias bound rigorous. With B, of
        ``A + shift B``.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself; ``rng=info.seed`` repeats a result.
    return_info : bool
        Whether to return ``(value, Estimate)``.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device, in the real dtype of A's precision (float64 for integers
        and half precision). 0 for an empty matrix, -inf for a singular one.

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

    References
    ----------
    Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38, 1075 (2017); Cortinovis and Kressner,
    Found. Comput. Math. 22, 875 (2022), for indefinite log.

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
    (_, value), estimate = _signed(
        A, B, moments, probes, method, shift, hermitian, bounds, rng, stacklevel=3
    )
    return (value, estimate) if return_info else value


def slogdet(
    A: Any,
    *,
    B: Any = None,
    moments: int = 20,
    probes: Any = None,
    method: str = "auto",
    shift: complex = 0.0,
    hermitian: bool | None = None,
    bounds: Any = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the sign (or phase) and :math:`\log|\det|` of ``A + shift I``, any square matrix.

    As `numpy.linalg.slogdet`, which it equals for small matrices.

    Parameters
    ----------
    A, B, moments, probes, method, shift, hermitian, bounds, rng
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
    pair, estimate = _signed(
        A, B, moments, probes, method, shift, hermitian, bounds, rng, stacklevel=3
    )
    return (pair, estimate) if return_info else pair


def _signed(
    A: Any,
    B: Any,
    moments: int,
    probes: Any,
    method: str,
    shift: complex,
    hermitian: bool | None,
    bounds: Any,
    rng: Any,
    *,
    stacklevel: int,
) -> tuple[tuple[Any, Any], Estimate]:
    """Return ((sign, log|det|) as results, estimate), and warn of doubt."""
    require_method(method)
    moments = checked_count(moments, "moments")
    factor = None
    if B is not None:
        a, b = checked_pair(A, B)
        factor, A, shift = definite_factor(b), combination(a, b, shift), 0.0
    problem = prepare(A, shift=shift, hermitian=hermitian, bounds=bounds)
    sign, estimate = _estimated(problem, moments, probes, method, rng)
    if factor is not None:
        estimate = replace(
            estimate,
            value=float(estimate) - factor.logabsdet,
            bias_bound=estimate.bias_bound + factor.rounding,
        )
    warn_of_doubt(estimate, advice(moments), stacklevel=stacklevel)
    if problem.shifted.xp.isdtype(problem.shifted.dtype, "complex floating"):
        sign = complex(sign)
    return (problem.result(sign), problem.result(estimate.value)), estimate


def _estimated(
    problem: Problem, moments: int, probes: Any, method: str, rng: Any
) -> tuple[complex, Estimate]:
    if problem.n == 0:
        return 1.0, Estimate(value=0.0)
    if not is_array(probes):
        found = determinant_by_parts(
            problem,
            lambda part, key: _estimated(part, moments, probes, method, key),
            exact=method in {"auto", "exact"},
            rng=rng,
        )
        if found is not None:
            return found
    vectors = probes_for(problem.shifted, probes, rng)
    full = vectors.exhaustive and moments >= 2 * problem.n
    if method == "exact" or (method == "auto" and (full or problem.n == 1)):
        return _exact(problem)
    if method == "auto" and is_cheap(problem):
        return _exact(problem)
    if problem.hermitian:
        return _sampled_hermitian(problem, moments, vectors, method)
    return _nonsymmetric(problem, moments, vectors, method)


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


def is_cheap(problem: Problem) -> bool:
    """Whether a factorisation is within the limits of ``method="auto"``."""
    if isinstance(problem.op, DenseOperator):
        return dense_is_small(problem.op)
    if isinstance(problem.op, (SparseOperator, TorchSparseOperator)):
        matrix = problem.op.csc_on_host()
        return matrix is not None and lu_fits(matrix, hermitian=problem.hermitian)
    return False


def _exact(problem: Problem) -> tuple[complex, Estimate]:
    """Return the determinant by a factorisation; an operator's n columns are formed first."""
    found, matvecs = _factored(problem)
    flags: tuple[str, ...] = ()
    if found.doubtful:
        flags = (SINGULAR,)
    elif found.rounding > 1e-3:
        flags = (ILL_CONDITIONED,)
    sign = math.nan if found.rounding > 0.1 and not found.doubtful else found.sign
    estimate = Estimate(
        value=found.logabsdet,
        bias_bound=0.0 if found.doubtful else found.rounding,
        bias_rigorous=False,
        converged=not flags,
        flags=flags,
        matvecs=problem.matvecs + matvecs,
    )
    return sign, estimate


def _factored(problem: Problem) -> tuple[Factored, int]:
    """Return the factored matrix and the products that forming it took."""
    op = problem.op
    if isinstance(op, (SparseOperator, TorchSparseOperator)):
        matrix = op.csc_on_host()
        if matrix is not None:
            if problem.shift:
                from scipy.sparse import diags_array

                matrix = (matrix + diags_array(np.full(problem.n, problem.shift))).tocsc()
            return sparse_slogdet(matrix, hermitian=problem.hermitian), 0
    shift = problem.shift if complex(problem.shift).imag else problem.real_shift
    found = dense_slogdet(dense_of(op, shift), hermitian=problem.hermitian)
    return found, 0 if isinstance(op, ExplicitOperator) else problem.n


def _sampled_hermitian(
    problem: Problem, moments: int, vectors: Probes, method: str
) -> tuple[complex, Estimate]:
    try:
        estimate = sampled_trace(problem, LOG_ABS, moments, vectors, method)
    except NotHermitianError:
        if isinstance(problem.op, ExplicitOperator):
            # Within rounding of its largest entries it is Hermitian, of its smallest it is not.
            general = replace(problem, hermitian=False, known=UNBOUNDED, stated=False)
            return _nonsymmetric(general, moments, vectors, method)
        # Nobody claimed that it is: an operator without an adjoint product counts as Hermitian
        # until its products contradict.
        if not problem.assumed or problem.n > COLUMNS_FORMED:
            raise
        return _exact(replace(problem, hermitian=False))
    return _sign_by_bounds(problem, estimate), estimate


def _nonsymmetric(
    problem: Problem, moments: int, vectors: Probes, method: str
) -> tuple[complex, Estimate]:
    """Return log|det A| as the trace of ``log|A|``, by the spectral measures of ``A^H A``."""
    try:
        if method == "chebyshev":
            estimate = _by_normal_equations(problem, moments, vectors)
        else:
            estimate = _by_golub_kahan(problem, moments, vectors)
    except NotImplementedError as error:
        if problem.n > COLUMNS_FORMED:
            raise ValueError(str(error)) from None
        return _exact(problem)
    return (0.0 if estimate.value == -math.inf else math.nan), estimate


def _by_golub_kahan(problem: Problem, moments: int, vectors: Probes) -> Estimate:
    op = Counting(problem.shifted)
    factors = bidiagonals(op, vectors, moments)
    rules = [gauss(factor) for factor in factors]
    unit = eps(op.xp.empty(0, dtype=op.dtype))
    smallest = min(float(rule.nodes[0]) for rule in rules)
    largest = max(float(rule.nodes[-1]) for rule in rules)
    flags: tuple[str, ...] = ()
    known = problem.known
    if problem.stated and not known.low * (1 - 1e-6) <= smallest <= largest <= known.high * (
        1 + 1e-6
    ):
        known, flags = UNBOUNDED, (ESCAPED,)
    truncated = integrate_factors(list(factors), LOG, known, unit=unit)
    if smallest <= 4 * unit * largest:
        # No Ritz value is below the smallest singular value.
        truncated = replace(truncated, values=np.full(vectors.count, -math.inf))
        flags = (*flags, SINGULAR)
    return summed(
        truncated,
        vectors,
        method="lanczos",
        matvecs=problem.matvecs + op.count,
        bounds=known,
        flags=flags,
    )


def _by_normal_equations(problem: Problem, moments: int, vectors: Probes) -> Estimate:
    """Run Chebyshev moments of ``A^H A``: half the trace of its log, two products a product.

    Of A divided by a power of two near its size: squares would overflow, or vanish.
    """
    unit, spent = _unit_of(problem)
    gram = Gram(Scaled(problem.shifted, 1 / unit) if unit != 1 else problem.shifted)
    known = replace(UNBOUNDED, low=0.0, low_rigorous=True, how="construction")
    if problem.stated:
        low, high = (max(end, 0.0) / unit for end in problem.known)
        known = replace(problem.known, low=low**2, high=high**2)
    squared = replace(problem, op=gram, shift=0.0, hermitian=True, known=known, matvecs=0)
    found = sampled_trace(squared, LOG, moments, vectors, "chebyshev")
    bounds = found.bounds
    if bounds is not None:
        bounds = unit * math.sqrt(max(0.0, bounds[0])), unit * math.sqrt(max(0.0, bounds[1]))
    return replace(
        found,
        value=found.value / 2 + problem.n * math.log(unit),
        stderr=found.stderr / 2,
        bias_bound=found.bias_bound / 2,
        matvecs=problem.matvecs + spent + 2 * found.matvecs,
        bounds=bounds,
    )


def _unit_of(problem: Problem) -> tuple[float, int]:
    """Return a power of two near the size of A's products, 1 if near 1, and the products it took.

    A product with one vector tells what entries, or bounds that were stated, do not.
    """
    op, spent = problem.op, 0
    if problem.stated:
        unit = power_of_two(problem.known.high)
    elif isinstance(op, ExplicitOperator):
        unit = power_of_two(max(op.largest, abs(problem.shift)))
    else:
        probe = gaussian(problem.n, range(1), 0, xp=op.xp, dtype=op.dtype, where=op.device)
        unit, spent = magnitude(problem.shifted.matmat(probe)), 1
    return (1.0 if 2.0**-20 <= unit <= 2.0**20 else max(unit, 2.0**-1000)), spent


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
    require_method(method)
    if method == "chebyshev":
        msg = "method='chebyshev' cannot resolve the step at tol; use 'lanczos' or 'exact'."
        raise ValueError(msg)
    if tol is not None and (tol := finite_real(tol, "tol")) < 0:
        msg = f"tol is {tol}; expected a finite number, at least 0."
        raise ValueError(msg)
    moments = checked_count(moments, "moments")
    op = finite_operator(A)
    estimate = _pseudo(op, tol, moments, probes, method, rng)
    warn_of_doubt(estimate, advice(moments), stacklevel=2)
    value = as_result(op, estimate.value)
    return (value, estimate) if return_info else value


def _pseudo(
    op: LinearOperator, tol: float | None, moments: int, probes: Any, method: str, rng: Any
) -> Estimate:
    if 0 in op.shape:
        return Estimate(value=0.0, rank=0)
    narrow = op if op.shape[0] >= op.shape[1] else Adjoint(op)
    vectors = probes_for(narrow, probes, rng)
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
    unit = eps(op.xp.empty(0, dtype=op.dtype))
    f = ScalarFunction("log above tol", lambda _, x: np.log(np.where(x > cut, x, 1.0)))
    truncated = integrate_factors(list(factors), f, UNBOUNDED, unit=unit)
    found = summed(truncated, vectors, method="lanczos", matvecs=counted.count, bounds=None)
    ranks = [rule.integrate((rule.nodes > cut).astype(float)) for rule in rules]
    return replace(found, rank=float(vectors.n * np.mean(ranks)))
