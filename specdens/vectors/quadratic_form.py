"""``b^H f(A) b`` by Gauss quadrature, or Chebyshev moments: nothing is left to chance."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, adjoint, column_dots, eps, is_complex, to_host
from specdens.estimation.estimate import ESCAPED, INDEFINITE, SINGULAR, advice, finite_pair
from specdens.estimation.moment_truncation import integrate_moments
from specdens.estimation.sampling import bounds_for
from specdens.estimation.truncation import Truncated, integrate_factors
from specdens.exact.factorizations import UNIT
from specdens.operators.algebra import Counting
from specdens.problem.prepare import (
    Problem,
    checked_count,
    prepare,
    require_hermitian,
    require_method,
)
from specdens.recurrences.chebyshev_moments import EscapeError, chebyshev_moments
from specdens.recurrences.lanczos import Tridiagonal, tridiagonalize
from specdens.recurrences.quadrature import gauss, noise_of
from specdens.results import UNBOUNDED, Estimate, SpectralBounds, warn_of_doubt
from specdens.scalar_functions import ScalarFunction, require_domain, scalar_function
from specdens.vectors.apply_function import (
    columns_like,
    eigensystem,
    in_blocks,
    is_small,
    require_series,
)
from specdens.vectors.krylov_function import change_by_rounding

__all__ = ["as_values", "described", "judged", "quadratic_form", "warn_of_worst"]

Host: TypeAlias = np.ndarray[Any, Any]

_log = logging.getLogger(__name__)


def quadratic_form(
    A: Any,
    f: Any,
    b: Any,
    *,
    moments: int = 20,
    method: str = "auto",
    shift: float = 0.0,
    hermitian: bool | None = None,
    bounds: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return :math:`b^H f(A + \mathrm{shift}\, I)\, b` of a Hermitian matrix; nothing is random.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes. Real symmetric or complex Hermitian.
    f : {"log", "exp", "inv", "sqrt", "xlogx", "square"} or callable
        A callable takes and gives NumPy arrays, elementwise; it may be complex.
    b : array, shape (n,) or (n, R)
        Of A's library and device; may be complex where A is real.
    moments : int
        Information per column: costs half as many products.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` takes all eigenvectors of explicit matrices up to n = 1024, else Gauss rules.
    shift : float
        Added to the diagonal.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    bounds : tuple of float, optional
        An interval that contains the spectrum of A, before the shift.
    return_info : bool
        Whether to return ``(value, Estimate)``; for b of shape (n, R), ``(values, tuple of R)``.

    Returns
    -------
    scalar or array of shape (R,), or a pair with the errors
        Of A's library, device and precision; real unless f is complex. 0 for a zero vector.

    Raises
    ------
    ValueError
        If A is not square, not Hermitian or not finite; if b does not fit; if log or sqrt meets a
        negative eigenvalue; or if an option is not as described.

    Warns
    -----
    AccuracyWarning
        If a truncation error may exceed the square root of the precision, or something else is
        doubtful.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each column; ``"chebyshev"`` without `bounds` 20 more.
    Where the derivatives of f have known signs (log, inv, exp, sqrt, xlogx) and the end of the
    spectrum that matters is known, Gauss and Gauss-Radau rules bracket the truth: the value
    lies between them, and its distance to the farther one is a rigorous bound.

    References
    ----------
    Golub and Meurant, Matrices, Moments and Quadrature with Applications (2010), chapters 6 and 7.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> from specdens.testing import laplacian
    >>> b = np.ones(10_000)
    >>> value, info = specdens.quadratic_form(
    ...     laplacian(100, 100), "inv", b, shift=1, moments=60, return_info=True
    ... )
    >>> print(f"{value:.4f}, off by at most {info.bias_bound:.0e}")
    9755.1533, off by at most 4e-10
    """
    require_method(method)
    moments = checked_count(moments, "moments")
    function = scalar_function(f)
    problem = prepare(A, shift=shift, hermitian=hermitian, bounds=bounds)
    require_hermitian(problem, "b^H f(A) b")
    block, single = columns_like(problem.op, b, "b")
    infos = _estimates(problem, function, block, moments, method)
    warn_of_worst(infos, moments)
    value = as_values(problem, infos, single)
    return (value, infos[0] if single else infos) if return_info else value


def warn_of_worst(infos: tuple[Estimate, ...], moments: int) -> None:
    """Warn once, of the column that is worst."""
    doubtful = [info for info in infos if not info.converged]
    if doubtful:
        worst = max(doubtful, key=lambda info: info.bias_bound)
        warn_of_doubt(worst, advice(moments), stacklevel=3)


def as_values(problem: Problem, infos: tuple[Estimate, ...], single: bool) -> Array:
    """Return the values of all columns in A's namespace, device and precision."""
    if single:
        return problem.result(infos[0].value)
    xp, dtype = problem.op.xp, problem.op.result_dtype
    values = [info.value for info in infos]
    if any(isinstance(value, complex) for value in values):
        dtype = xp.complex64 if dtype == xp.float32 else xp.complex128
    return xp.asarray(values, dtype=dtype, device=problem.op.device)


def _estimates(
    problem: Problem, f: ScalarFunction, block: Array, moments: int, method: str
) -> tuple[Estimate, ...]:
    """Return the estimate of each column; zero columns cost nothing."""
    squares = np.real(column_dots(block, block))
    infos = [Estimate(value=0.0)] * len(squares)
    there = np.flatnonzero(squares > 0)
    if problem.n == 0 or len(there) == 0:
        return tuple(infos)
    if method == "exact" or (method == "auto" and is_small(problem)):
        found = _exact(problem, f, block)
        return tuple(found[r] if squares[r] > 0 else infos[r] for r in range(len(infos)))
    xp = problem.op.xp
    index = xp.asarray(there, device=problem.op.device)
    columns = xp.take(block, index, axis=1)
    found = _sampled(problem, f, columns, squares[there], moments, method)
    for r, info in zip(there, found, strict=True):
        infos[r] = info
    return tuple(infos)


def _exact(problem: Problem, f: ScalarFunction, block: Array) -> list[Estimate]:
    xp = problem.op.xp
    spectrum, basis, matvecs = eigensystem(problem)
    x = to_host(spectrum)
    noise = noise_of(problem.n, UNIT, float(x[0]), float(x[-1]))
    require_domain(f, float(x[0]), noise)
    x = np.maximum(x, 0.0) if f.domain != "real" else x
    y = f.on_host(x)
    dtype = xp.complex128 if is_complex(basis) or is_complex(block) else xp.float64
    weights = to_host(xp.abs(xp.astype(adjoint(basis), dtype) @ xp.astype(block, dtype))) ** 2
    flags = (SINGULAR,) if f.pole and 0 < np.abs(x).min() <= noise else ()
    change = change_by_rounding(f, x, UNIT)
    found = []
    for w in weights.T:
        # A component that is rounding noise does not count, even beside an infinity.
        seen = (w > (100 * UNIT) ** 2 * w.sum()) | np.isfinite(y)
        total = np.sum(w[seen] * y[seen])
        off = float(np.sum(w[seen] * (100 * UNIT * np.abs(y[seen]) + change[seen])))
        found.append(
            Estimate(
                value=total.item(),
                bias_bound=off if math.isfinite(off) else 0.0,
                converged=not flags,
                flags=flags,
                matvecs=matvecs,
            )
        )
    return found


def _sampled(
    problem: Problem, f: ScalarFunction, block: Array, squares: Host, moments: int, method: str
) -> list[Estimate]:
    """Return the estimate of each column from its moments; no column is zero."""
    op = Counting(problem.shifted)
    if method == "chebyshev":
        interval = bounds_for(op, problem.known, stated=problem.stated, key=0)
        require_series(f, interval)
        if f.domain == "nonnegative":
            # A safeguarded interval may reach below 0.
            f = _from_zero(f)
        try:
            tables = [chebyshev_moments(op, part, moments, *interval) for part in in_blocks(block)]
        except EscapeError as error:
            _log.info("%s Running Lanczos instead.", error)
        else:
            table = np.concatenate(tables, axis=1)
            parts = [integrate_moments(column[:, None], f, interval) for column in table.T]
            return described(problem, op, "chebyshev", parts, squares, interval, ())
    steps = math.ceil(moments / 2)
    factors = [t for part in in_blocks(block) for t in tridiagonalize(op, part, steps)]
    known, flags = judged(problem, f, factors)
    parts = [integrate_factors([t], f, known, unit=eps(block)) for t in factors]
    return described(problem, op, "lanczos", parts, squares, known, flags)


def _from_zero(f: ScalarFunction) -> ScalarFunction:
    """Return f continued by f(0) below 0."""
    return replace(f, apply=lambda xp, x: f.apply(xp, xp.where(x > 0, x, xp.zeros_like(x))))


def judged(
    problem: Problem, f: ScalarFunction, factors: list[Tridiagonal]
) -> tuple[SpectralBounds, tuple[str, ...]]:
    """Return bounds that the Ritz values do not contradict, and what speaks against the result."""
    rules = [gauss(t) for t in factors]
    low = min(float(rule.nodes[0]) for rule in rules)
    high = max(float(rule.nodes[-1]) for rule in rules)
    noise = noise_of(problem.n, problem.op.unit, low, high)
    known = problem.known
    flags: tuple[str, ...] = ()
    if low < known.low - noise or high > known.high + noise:
        known, flags = UNBOUNDED, (ESCAPED,)
    require_domain(f, low, noise)
    if f.pole and abs(low) <= noise and known.low <= 0:
        return known, (*flags, SINGULAR)
    if f.pole and low < 0 < high:
        return known, (*flags, INDEFINITE)
    return known, flags


def described(
    problem: Problem,
    op: Counting,
    method: str,
    parts: list[Truncated],
    squares: Host,
    bounds: SpectralBounds,
    flags: tuple[str, ...],
) -> list[Estimate]:
    """Return an estimate for each column, from its value for mass 1."""
    relative = math.sqrt(op.unit)
    found = []
    for part, mass in zip(parts, squares, strict=True):
        value = (mass * part.values[0]).item()
        bias = mass * part.bias if math.isfinite(abs(value)) else 0.0
        negligible = mass * part.rounding + relative * abs(value)
        found.append(
            Estimate(
                value=value,
                bias_bound=float(bias),
                bias_rigorous=part.rigorous and not flags,
                converged=not flags and bool(bias <= negligible),
                flags=flags,
                matvecs=-(-(problem.matvecs + op.count) // len(parts)),
                method=method,
                bounds=finite_pair(bounds),
            )
        )
    return found
