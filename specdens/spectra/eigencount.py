"""How many eigenvalues lie in an interval, and in which interval all of them lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import is_array
from specdens.arrays.probes import Probes
from specdens.estimation.estimate import ESCAPED, answered, summed
from specdens.estimation.goal import moments_alone
from specdens.estimation.question import Question
from specdens.estimation.sampling import (
    bounds_for,
    moments_by_chebyshev,
    tridiagonals,
    widened,
)
from specdens.estimation.truncation import Truncated
from specdens.exact.factorizations import LARGEST_ON_CPU, UNIT, lu_fits, sparse_on_host
from specdens.exact.ldl_inertia import combined, sparse_inertia
from specdens.exact.pencils import Whitened
from specdens.operators.algebra import Counting
from specdens.problem.bounds import NARROWEST
from specdens.problem.prepare import (
    Problem,
    require_hermitian,
)
from specdens.recurrences.chebyshev_moments import EscapeError
from specdens.recurrences.chebyshev_series import cumulative_weights, damping, to_unit, width
from specdens.recurrences.lanczos import Bidiagonal, Tridiagonal
from specdens.recurrences.quadrature import Rule as GaussRule
from specdens.recurrences.quadrature import gauss, residuals
from specdens.results import Estimate, SpectralBounds
from specdens.structured.exact_rules import Rule, by_parts
from specdens.structured.spectrum_union import Union, eigenvalues, eigenvalues_are_cheap, union

__all__ = ["count_by_rules", "eigencount"]

Host: TypeAlias = np.ndarray[Any, Any]

EDGES = (1e-10, 1e-7)
"""Shares of the norm of a sparse matrix within which an eigenvalue counts as lying on an end."""


def eigencount(
    A: Any,
    low: float,
    high: float,
    *,
    B: Any = None,
    moments: int = 256,
    probes: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    bounds: Any = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the number of eigenvalues of a Hermitian matrix in [low, high].

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes.
    low, high : float
        The closed interval; an end may be infinite. Eigenvalues on an end count, also if rounding
        puts them just outside (of a large sparse matrix, within 1e-10 of its
        norm, or 1e-7 where eigenvalues lie on the end itself).
    B : array or sparse matrix, shape (n, n), optional
        Hermitian and positive definite: then the eigenvalues are those of ``A x = lambda B x``.
        It is factored.
    moments : int
        Information per probe; the edges are resolved to about ``1/moments`` of the spectrum.
    probes : int or array of shape (n, R), optional
        Default 20 random signs. n or more: the unit vectors, without chance.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` takes all eigenvalues of dense matrices up to n = 8192 (32768 on a GPU) and
        sparse ones up to 2048; the inertia of larger sparse ones whose factors are predicted to
        stay below 2 GB; and else Lanczos quadrature, whose error at the edges is bounded.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    bounds : tuple of float, optional
        An interval that contains the spectrum (for ``"chebyshev"``).
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself; ``rng=info.seed`` repeats a result.
    return_info : bool
        Whether to return ``(value, Estimate)``.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device: a count, which is not rounded where it is an estimate.

    Raises
    ------
    ValueError
        If A is not square, not Hermitian or not finite; if B is not positive definite; if not
        ``low <= high``; if ``"exact"`` is asked of a large sparse matrix that has an eigenvalue
        too close to an edge for its factorisation to certify the number.

    Warns
    -----
    AccuracyWarning
        If what the finite resolution of the edges may cost exceeds the standard error.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each probe. By Lanczos the bias bound is that of
    Chebyshev, Markov and Stieltjes: the distribution function of a probe's measure lies between the
    partial sums of its Gauss weights (rigorous in exact arithmetic). By Chebyshev moments it is the
    weight within two kernel widths of an edge, which is a heuristic. By inertia: two sparse
    factorisations, whose error is measured (see `inertia`).

    References
    ----------
    Szegő, Orthogonal Polynomials (1939), section 3.41; Di Napoli, Polizzi and Saad, Numer. Linear
    Algebra Appl. 23, 674 (2016).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(specdens.eigencount(np.diag([1.0, 2.0, 3.0]), 1.0, 2.5))
    2.0
    """
    question = Question(A, moments_alone(moments), B, probes, method, 0.0, hermitian, bounds, rng)
    low, high = float(low), float(high)
    if not low <= high:
        msg = f"the interval is [{low}, {high}]; expected low <= high."
        raise ValueError(msg)
    problem = question.problem()
    require_hermitian(problem, "a count of eigenvalues")
    estimate = _count(problem, low, high, question)
    return answered(problem.op, estimate, question.moments, return_info)


def _count(problem: Problem, low: float, high: float, question: Question) -> Estimate:
    if problem.n == 0:
        return Estimate(value=0.0)
    parts = None if is_array(question.probes) else union(problem)
    if parts is not None:
        return _count_of_union(parts, low, high, question)
    method, moments = question.method, question.moments
    if question.may_be_exact and not eigenvalues_are_cheap(problem.op):
        certain = _by_inertia(problem, low, high, method)
        if certain is not None:
            return certain
    vectors = question.vectors(problem.shifted)
    full = question.is_exhaustive(problem, vectors)
    if method == "exact" or (method == "auto" and (full or eigenvalues_are_cheap(problem.op))):
        return _exact_count(problem, low, high)
    op = Counting(problem.shifted)
    flags: tuple[str, ...] = ()
    interval = None
    if method == "chebyshev":
        interval = bounds_for(op, problem.known, stated=problem.stated, key=vectors.key)
        try:
            truncated = _by_kernel(op, vectors, moments, interval, low, high)
        except EscapeError:
            method, flags = "lanczos", (ESCAPED,) if problem.stated else ()
    if method != "chebyshev":
        factors = tridiagonals(op, vectors, moments)
        # Beyond a bound that is proved there is nothing to resolve.
        ends = (
            -np.inf if problem.known.low_rigorous and low <= problem.known.low else low,
            np.inf if problem.known.high_rigorous and high >= problem.known.high else high,
        )
        truncated = count_by_rules(factors, *ends, op.unit)
    return summed(
        truncated,
        vectors,
        method="chebyshev" if method == "chebyshev" else "lanczos",
        matvecs=problem.matvecs + op.count,
        bounds=interval,
        flags=flags,
    )


def _count_of_union(parts: Union, low: float, high: float, question: Question) -> Estimate:
    """Count the eigenvalues of each part, and those that are known."""
    slack = 10 * UNIT * max((abs(x) for x, _ in parts.known), default=0.0)
    inside = (low - slack, high + slack)
    known = sum(times for x, times in parts.known if inside[0] <= complex(x).real <= inside[1])
    rule = Rule(tuple((1, part) for part in parts.parts), float(known))

    def solve(part: Problem, key: int) -> tuple[float, Estimate]:
        return 1.0, _count(part, low, high, question.by(key))

    return by_parts(rule, solve, question.rng)[1]


def _by_inertia(problem: Problem, low: float, high: float, method: str) -> Estimate | None:
    """Count by the inertia of ``A - x B`` at both ends; None where that is too dear or uncertain.

    The ends move out by a share of the norm: a factorisation cannot tell an eigenvalue that lies on
    an end from its neighbours.
    """
    op, n = problem.op, problem.n
    a, b = (op.base, op.b) if isinstance(op, Whitened) else (op, None)
    matrix, other = sparse_on_host(a), None if b is None else sparse_on_host(b)
    if matrix is None or (b is not None and other is None):
        return None
    if method == "auto" and not lu_fits(combined(matrix, other, 1.0), hermitian=True):
        return None
    sizes = [abs(x) for x in (problem.known if b is None else (low, high)) if np.isfinite(x)]
    norm = max(sizes, default=0.0)

    def below(edge: float, side: int) -> int | None:
        """Count the eigenvalues below an end, moved out as little as a factorisation needs."""
        if np.isinf(edge):
            return n if edge > 0 else 0
        for reach in EDGES:
            shift = problem.real_shift - edge - side * reach * norm
            signs = sparse_inertia(combined(matrix, other, shift))
            if signs is not None:
                return signs.negative
        return None

    counts = []
    for edge, side in ((low, -1), (high, 1)):
        count = below(edge, side)
        if count is None:
            _require_small(n, edge, method)
            return None
        counts.append(count)
    return Estimate(value=float(counts[1] - counts[0]), matvecs=problem.matvecs)


def _require_small(n: int, x: float, method: str) -> None:
    """Raise a ValueError if nothing else is left that is exact."""
    if method == "exact" and n > LARGEST_ON_CPU:
        msg = (
            f"an eigenvalue is so close to {x:.10g} that the factorisation certifies no count, and "
            f"order {n} is too large for all eigenvalues. Move the end, or use method='lanczos'."
        )
        raise ValueError(msg)


def _exact_count(problem: Problem, low: float, high: float) -> Estimate:
    xp = problem.op.xp
    spectrum, matvecs = eigenvalues(problem.op)
    spectrum = spectrum + problem.real_shift
    slack = (10 + problem.n**0.5) * UNIT * float(xp.max(xp.abs(spectrum)))
    inside = (spectrum >= low - slack) & (spectrum <= high + slack)
    return Estimate(
        value=float(xp.sum(xp.astype(inside, xp.float64))), matvecs=problem.matvecs + matvecs
    )


def count_by_rules(
    factors: Sequence[Tridiagonal | Bidiagonal], low: float, high: float, unit: float
) -> Truncated:
    """Count by each probe's distribution function, with each node's weight spread around it.

    Over its residual: a node that stands for eigenvalues found is a step, one of a continuum is
    spread as far as its neighbours.
    """
    values, biases = [], []
    for factor in factors:
        rule = gauss(factor)
        slack = (10 + len(rule.nodes)) * unit * float(np.abs(rule.nodes).max())
        (above, wide_above), (below, wide_below) = (
            _distribution(rule, residuals(factor), edge, exact=factor.residual == 0)
            for edge in np.nextafter([high + slack, low - slack], [np.inf, -np.inf])
        )
        values.append(above - below)
        biases.append(wide_above + wide_below)
    found = np.array(values)
    mean = float(found.mean())
    spread = max(0.0, mean * (1 - mean))
    return Truncated(found, float(np.mean(biases)), rigorous=True, spread=spread)


def _distribution(rule: GaussRule, reach: Host, edge: float, *, exact: bool) -> tuple[float, float]:
    """Return the distribution function at an edge, and a bound of its error.

    At node k it lies between the sums of the weights before and up to it; half-way is taken, and
    the halves are spread linearly over `reach`, at most to the next node. Between nodes k and k + 1
    it lies between the sums up to k - 1 and k + 1.
    """
    nodes, weights = rule.nodes, rule.weights
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    k = int(np.searchsorted(nodes, edge, side="right"))  # nodes up to the edge
    if exact or not np.isfinite(edge):
        return float(sums[k]), 0.0
    lowest, highest = float(sums[max(k - 1, 0)]), float(sums[min(k + 1, len(nodes))])
    if edge < nodes[0] or edge >= nodes[-1]:
        # Beyond the extreme Ritz values there is little, but not provably nothing.
        value = 0.0 if k == 0 else 1.0
    else:
        gap = nodes[k] - nodes[k - 1]
        left, right = np.clip(reach[k - 1 : k + 1], 1e-3 * gap, gap)
        missing = weights[k - 1] / 2 * max(0.0, 1 - (edge - nodes[k - 1]) / left)
        more = weights[k] / 2 * max(0.0, 1 - (nodes[k] - edge) / right)
        value = float(sums[k] - missing + more)
    return value, max(value - lowest, highest - value)


def _by_kernel(
    op: Counting, vectors: Probes, moments: int, interval: SpectralBounds, low: float, high: float
) -> Truncated:
    """Count by Jackson-damped moments; what is within two kernel widths of an edge is in doubt."""
    # Where all eigenvalues are equal up to rounding, an end among them leaves out none.
    unit = op.unit
    slack = 4 * NARROWEST * unit * max(abs(interval.low), abs(interval.high))
    low, high = low - slack, high + slack
    if interval.low == interval.high:  # the spectrum is a point
        inside = np.full(vectors.count, float(low <= interval.low <= high))
        return Truncated(inside, 0.0, rigorous=False, spread=0.0)
    interval = widened(interval, 0.01)
    table = moments_by_chebyshev(op, vectors, moments, interval).table
    factors = damping("jackson", moments)

    def distribution(x: float) -> np.ndarray[Any, Any]:
        t = np.clip(to_unit(np.array([x]), *interval), -1, 1)
        return np.asarray(((cumulative_weights(moments, t) * factors) @ table)[0])

    values = distribution(high) - distribution(low)
    bias = 0.0
    for edge in (low, high):
        if interval.low < edge < interval.high:
            t = to_unit(np.array([edge]), *interval)
            reach = 2 * float(width("jackson", moments, t)[0]) * (interval.high - interval.low) / 2
            bias += float(np.mean(distribution(edge + reach) - distribution(edge - reach)))
    mean = float(values.mean())
    return Truncated(values, bias, rigorous=False, spread=max(0.0, mean * (1 - mean)))
