"""``tr f(A)`` for Hermitian A: exactly, or by quadrature of each probe's spectral measure."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdens._arrays import eps, to_host
from specdens._autograd import with_gradient
from specdens._probes import Probes
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
from specdens.exact import UNIT, dense_of, slogdet, spectrum_is_small
from specdens.moments import EscapeError
from specdens.operators import Counting
from specdens.preparation import (
    Problem,
    checked_count,
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
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes. Real symmetric or complex Hermitian.
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
    problem = prepare(A, shift=shift, hermitian=hermitian, bounds=bounds)
    require_hermitian(problem, "tr f(A)")
    estimate = _estimate(problem, function, moments, probes, method, rng)
    warn_of_doubt(estimate, advice(moments))
    value = problem.result(estimate.value)
    value = with_gradient(
        value, problem, function, estimate, shift=shift, moments=moments, probes=probes
    )
    return (value, estimate) if return_info else value


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
    if f.name == "log":
        found = slogdet(a, hermitian=True)
        if found.definite:
            return Estimate(value=found.logabsdet, bias_bound=found.rounding, matvecs=matvecs)
    xp = problem.op.xp
    spectrum = xp.linalg.eigvalsh(a)
    low, high = float(spectrum[0]), float(spectrum[-1])
    noise = (10 + math.sqrt(problem.n)) * UNIT * max(abs(low), abs(high))
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
    if f.name == "log" and not found.definite:
        flags, value = ((SINGULAR,) if smallest > 0 or found.doubtful else ()), -math.inf
    return Estimate(value=value, matvecs=matvecs, flags=flags, converged=not flags)


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
