"""``tr f(A)`` for Hermitian A: exactly, or by quadrature of each probe's spectral measure."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdens._arrays import eps, namespace, to_host
from specdens._autograd import with_gradient, with_gradients
from specdens._batch import Answers, Stack, over_stack, prepared, stack_of
from specdens._probes import Probes, key_of
from specdens.adapters import ExplicitOperator
from specdens.estimation import (
    ESCAPED,
    INDEFINITE,
    SINGULAR,
    UNRESOLVED,
    advice,
    finite_pair,
    summed,
)
from specdens.exact import UNIT, Factored, dense_of, slogdet, slogdets, spectrum_is_small
from specdens.moments import EscapeError
from specdens.operators import Counting
from specdens.preparation import (
    Problem,
    checked_count,
    plain_number,
    prepare,
    require_hermitian,
    require_method,
)
from specdens.quadrature import gauss
from specdens.results import UNBOUNDED, Estimate, SpectralBounds, warn_of_doubt
from specdens.sampling import bounds_for, moments_by_chebyshev, probes_for, tridiagonals
from specdens.scalar_functions import LOG, LOG_ABS, ScalarFunction, scalar_function
from specdens.truncation import Truncated, integrate_factors, integrate_moments

__all__ = ["sampled_trace", "trace_function"]

_log = logging.getLogger(__name__)


def trace_function(
    A: Any,
    f: Any,
    *,
    moments: int = 20,
    probes: Any = None,
    method: str = "auto",
    shift: float = 0.0,
    hermitian: bool | None = None,
    bounds: Any = None,
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
    moments : int
        Information per probe: costs half as many products with each probe.
    probes : int or array of shape (n, R), optional
        Default 20 random signs (phases for complex A). n or more: the unit vectors, without chance.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` is exact for dense n <= 8192 (32768 on a GPU), sparse n <= 2048, and when
        ``probes >= n`` and ``moments >= 2 n``; else Lanczos quadrature.
    shift : float or 0-d tensor
        Added to the diagonal.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    bounds : tuple of float, optional
        An interval that contains the spectrum of A, before the shift.
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
        (`logdet` takes any sign); or if an option is not as described.

    Warns
    -----
    AccuracyWarning
        If the truncation error may exceed the standard error, or something else is doubtful.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each probe; ``"chebyshev"`` without `bounds` 20 more.
    Where the derivatives of f have known signs (log, inv, exp, sqrt, xlogx) and the end of the
    spectrum that matters is known, Gauss and Gauss-Radau rules bracket the truth, their mean is
    returned, and half their distance is a rigorous bias bound.

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
    require_method(method)
    moments = checked_count(moments, "moments")
    function = scalar_function(f)
    stack, key = stack_of(A), rng

    def one(matrix: Any) -> tuple[tuple[Any], Estimate]:
        problem = prepare(matrix, shift=shift, hermitian=hermitian, bounds=bounds)
        require_hermitian(problem, "tr f(A)")
        estimate = _estimate(problem, function, moments, probes, method, key)
        value = with_gradient(
            problem.result(estimate.value), problem, function, estimate,
            shift=shift, moments=moments, probes=probes,
        )  # fmt: skip
        return (value,), estimate

    if stack is None:
        (value,), info = one(A)
        warn_of_doubt(info, advice(moments))
        return (value, info) if return_info else value
    key = key_of(rng)

    def together(some: Any) -> Answers | None:
        plain = bounds is None and probes is None and method in {"auto", "exact"}
        return _together(some, function, shift, hermitian) if plain else None

    (values,), infos = over_stack(stack, one, together, advice(moments), stacklevel=2)
    return (values, infos) if return_info else values


def _together(some: Any, f: ScalarFunction, shift: Any, hermitian: bool | None) -> Answers | None:
    """Return tr f(A) of small matrices, shape (B, n, n), by what is exact."""
    stack = prepared(some, shift=plain_number(shift), hermitian=hermitian)
    if stack is None or not np.all(stack.hermitian):
        return None
    try:
        estimates = _of_stack(stack, f)
    except ValueError:  # to be raised again with the name of the matrix
        return None
    values = [estimate.value for estimate in estimates]
    results = stack.results(values, complex_=any(isinstance(v, complex) for v in values))
    return (with_gradients(results, some, f, shift=shift),), estimates


def _of_stack(stack: Stack, f: ScalarFunction) -> list[Estimate]:
    a = stack.matrices
    factors = slogdets(a, hermitian=stack.hermitian) if f.name == "log" else []
    if factors and all(found.definite for found in factors):
        return [_of_factors(found) for found in factors]
    spectra = to_host(namespace(a).linalg.eigvalsh(a))
    if not factors:
        return [_of_spectrum(np, spectrum, f, False) for spectrum in spectra]
    return [
        _of_factors(found) if found.definite else _of_spectrum(np, spectrum, f, found.doubtful)
        for found, spectrum in zip(factors, spectra, strict=True)
    ]


def _of_factors(found: Factored) -> Estimate:
    """Return the log-determinant of a positive definite matrix."""
    return Estimate(value=found.logabsdet, bias_bound=found.rounding)


def _estimate(
    problem: Problem, f: ScalarFunction, moments: int, probes: Any, method: str, rng: Any
) -> Estimate:
    if problem.n == 0:
        return Estimate(value=0.0)
    vectors = probes_for(problem.shifted, probes, rng)
    full = vectors.exhaustive and moments >= 2 * problem.n
    if method == "exact" or (method == "auto" and (full or spectrum_is_small(problem.op))):
        return _exact(problem, f)
    return sampled_trace(problem, f, moments, vectors, method)


def _exact(problem: Problem, f: ScalarFunction) -> Estimate:
    """Return tr f(A) from all eigenvalues; log of a positive definite matrix by Cholesky."""
    explicit = isinstance(problem.op, ExplicitOperator)
    matvecs = problem.matvecs + (0 if explicit else problem.n)
    a = dense_of(problem.op, problem.real_shift)
    found = slogdet(a, hermitian=True) if f.name == "log" else None
    if found is not None and found.definite:
        return replace(_of_factors(found), matvecs=matvecs)
    xp = problem.op.xp
    doubtful = found is not None and found.doubtful
    return replace(_of_spectrum(xp, xp.linalg.eigvalsh(a), f, doubtful), matvecs=matvecs)


def _of_spectrum(xp: Any, spectrum: Any, f: ScalarFunction, doubtful: bool) -> Estimate:
    """Return the sum of f over all eigenvalues, ascending; `doubtful` is what Cholesky said."""
    low, high = float(spectrum[0]), float(spectrum[-1])
    noise = (10 + math.sqrt(spectrum.shape[0])) * UNIT * max(abs(low), abs(high))
    _require_domain(f, low, noise)
    if f.domain != "real":
        spectrum = xp.where(spectrum > 0, spectrum, xp.zeros_like(spectrum))
    if f.own:
        total = f.on_host(to_host(spectrum)).sum()
        value = complex(total) if np.iscomplexobj(total) else float(total)
    else:
        with np.errstate(divide="ignore"):
            value = float(xp.sum(f.apply(xp, spectrum)))
    smallest = float(xp.min(xp.abs(spectrum)))
    flags = (SINGULAR,) if f.pole and 0 < smallest <= noise else ()
    if f.name == "log":
        flags, value = ((SINGULAR,) if smallest > 0 or doubtful else ()), -math.inf
    return Estimate(value=value, flags=flags, converged=not flags)


def _require_domain(f: ScalarFunction, low: float, noise: float) -> None:
    if f.domain != "real" and low < -noise:
        msg = (
            f"A has a negative eigenvalue ({low:.6g} or less), where {f.name} is not defined. "
            "logdet(A) gives log|det A| of any square matrix; shift= moves the spectrum."
        )
        raise ValueError(msg)


def sampled_trace(
    problem: Problem, f: ScalarFunction, moments: int, probes: Probes, method: str
) -> Estimate:
    """Return tr f(A) by a mean over probes; for ``log|x|``, of any Hermitian matrix."""
    op = Counting(problem.shifted)
    if method == "chebyshev":
        found = chebyshev_trace(problem, op, f, moments, probes)
    else:
        found = lanczos_trace(problem, op, f, moments, probes)
    return summed(
        found.truncated,
        probes,
        method="chebyshev" if method == "chebyshev" else "lanczos",
        matvecs=problem.matvecs + op.count,
        bounds=found.bounds,
        flags=found.flags,
    )


@dataclass(frozen=True)
class Integrated:
    """Per-probe values with the interval that was used and what speaks against them."""

    truncated: Truncated
    bounds: SpectralBounds
    flags: tuple[str, ...]


def lanczos_trace(
    problem: Problem, op: Counting, f: ScalarFunction, moments: int, probes: Probes
) -> Integrated:
    """Integrate f over the Gauss rules of all probes."""
    factors = tridiagonals(op, probes, moments)
    unit = eps(op.xp.empty(0, dtype=op.dtype))
    ends = [rule.nodes[[0, -1]] for rule in map(gauss, factors)]
    low, high = float(min(e[0] for e in ends)), float(max(e[1] for e in ends))
    noise = (10 + math.sqrt(problem.n)) * unit * max(abs(low), abs(high))
    known = problem.known
    flags: tuple[str, ...] = ()
    if low < known.low - noise or high > known.high + noise:
        known, flags = UNBOUNDED, (ESCAPED,)
    if f is LOG_ABS and (low >= -noise or known.low > 0):
        f = LOG
    elif f is LOG_ABS and (high <= noise or known.high < 0):
        factors, known, f = [t.negated() for t in factors], known.negated(), LOG
        low, high = -high, -low
    _require_domain(f, low, noise)
    if f.pole and low < 0 < high and f is not LOG:
        flags = (*flags, INDEFINITE)
    if f is LOG and low <= 4 * unit * high and known.low <= 0:
        # The smallest Ritz value is never below the smallest eigenvalue.
        values = np.full(probes.count, -math.inf)
        return Integrated(Truncated(values, 0.0, True, 0.0), known, (*flags, SINGULAR))
    found = integrate_factors(list(factors), f, known, unit=unit)
    seen = SpectralBounds(max(low, known.low), min(high, known.high), False, False, "Ritz values")
    return Integrated(found, known if finite_pair(known) else seen, flags)


def chebyshev_trace(
    problem: Problem, op: Counting, f: ScalarFunction, moments: int, probes: Probes
) -> Integrated:
    """Integrate the Chebyshev series of f against the moments of all probes.

    If a moment shows an eigenvalue outside the interval, the same probes go through Lanczos.
    """
    interval = bounds_for(op, problem.known, stated=problem.stated, key=probes.key)
    interval, flags = _interval_for(f, interval)
    try:
        found = moments_by_chebyshev(op, probes, moments, interval)
    except EscapeError as error:
        _log.info("%s Running Lanczos with the same probes.", error)
        return lanczos_trace(problem, op, f, moments, probes)
    return Integrated(integrate_moments(found.table, _clipped(f), interval), interval, flags)


def _interval_for(
    f: ScalarFunction, interval: SpectralBounds
) -> tuple[SpectralBounds, tuple[str, ...]]:
    """Return an interval on which f can be expanded, and what is doubtful about it.

    A safeguarded interval may reach over 0 although all Ritz values lie on one side: then half the
    Ritz value next to 0 is taken, and an eigenvalue beyond it shows as an escape.
    """
    low, high = interval
    if interval.inner is not None:
        _require_domain(f, interval.inner[0], 1e-6 * max(abs(low), abs(high)))
    if not f.pole or low > 0 or high < 0:
        return interval, ()
    if interval.inner is not None and interval.inner[0] > 0:
        guess = interval.inner[0] / 2
        return replace(interval, low=guess, low_rigorous=False), (UNRESOLVED,)
    if interval.inner is not None and interval.inner[1] < 0 and f is not LOG:
        guess = interval.inner[1] / 2
        return replace(interval, high=guess, high_rigorous=False), (UNRESOLVED,)
    if low == 0 and f.name != "inv":
        return interval, ()
    if f.name == "inv":
        msg = (
            f"1/x has its pole inside the interval {interval}, where no Chebyshev series "
            "converges. Use method='lanczos'."
        )
        raise ValueError(msg)
    return interval, (INDEFINITE,)


def _clipped(f: ScalarFunction) -> ScalarFunction:
    """Return f continued by f(0) below 0, where a safeguarded interval reaches too far."""
    if f.domain != "nonnegative":
        return f
    return replace(f, apply=lambda xp, x: f.apply(xp, xp.where(x > 0, x, xp.zeros_like(x))))
