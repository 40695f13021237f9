"""The trace of a matrix, or of an operator that is only applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdens.arrays.libraries import (
    Array,
    column_dots,
    is_array,
    is_complex,
    magnitude,
    namespace,
    power_of_two,
    to_host,
)
from specdens.arrays.probes import DEFAULT_COUNT, Probes, key_of, require_distribution
from specdens.estimation.estimate import MISSED
from specdens.estimation.sampling import by_blocks, probes_for, standard_error
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import (
    METHODS,
    as_result,
    checked_count,
    require_method,
    square_operator,
)
from specdens.problem.stacks import Answers, over_stack, prepared, stack_of
from specdens.results import Estimate, warn_of_doubt
from specdens.sketching.budget import require_plain, vectors_for
from specdens.sketching.hutch_plus_plus import adaptive_hutch_plus_plus, hutch_plus_plus
from specdens.sketching.stopping import Tolerance, doublings, until_agreed
from specdens.sketching.xtrace import xnystrace, xtrace, xtrace_or_probes
from specdens.structured.exact_rules import trace_by_parts

__all__ = ["TRACE_METHODS", "trace"]

TRACE_METHODS = (*METHODS, "hutchinson", "hutch++", "xtrace", "xnystrace")

XTRACE_OR_PROBES = "xtrace or hutchinson"

LEAST = {"hutchinson": 1, "hutch++": 3, "xtrace": 2, "xnystrace": 2, XTRACE_OR_PROBES: 4}
"""Random vectors without which a method has no value, or no error estimate."""

ADVICE = "Raise max_matvecs, or loosen rtol or atol."

DEFAULT_LIMIT = 1000
"""Products that a tolerance may cost unless the caller allows more."""


def trace(
    A: Any,
    *,
    probes: Any = None,
    method: str = "auto",
    max_matvecs: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    distribution: str = "signs",
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the trace of a square matrix, or estimate that of an operator.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n), or array (..., n, n)
        Anything that `aslinearoperator` takes, symmetric or not; or a stack of dense matrices.
    probes : int or array of shape (n, R), optional
        Random vectors, 20 by default; an array is for Hutchinson's estimator only. XTrace spends 2
        products on each, XNysTrace and Hutchinson 1; Hutch++ sketches with one half of them, at 2
        products each. Where that makes n products or more, n give the exact trace.
    method : {"auto", "exact", "hutchinson", "hutch++", "xtrace", "xnystrace"}
        ``"auto"`` sums the diagonal where there is one, and takes a trace that is known. Of an
        operator it is ``"hutchinson"``. With a budget or a tolerance it is ``"xnystrace"`` where A
        is positive semidefinite by construction (`Gram`); else, with a tolerance, ``"hutch++"``,
        and with a budget ``"xtrace"`` unless half of the products show a spectrum so flat that
        ``"hutchinson"`` is better. ``"lanczos"`` and ``"chebyshev"`` mean ``"hutchinson"``: both
        begin with :math:`z^H A z`.
    max_matvecs : int, optional
        A budget of products, instead of `probes`. n or more: the exact trace.
    rtol, atol : float, optional
        Instead of `probes`: go on until the 95 % interval is within ``max(atol, rtol |value|)`` and
        two successive doublings agree (``"hutch++"`` plans ahead instead), at a cost of at most
        `max_matvecs`, by default 1000. One that is not given is 0.
    distribution : {"signs", "sphere", "orthogonal"}
        Of Hutchinson's probes: random signs (phases for complex A), exact where A is diagonal;
        uniform on the sphere; or a random block with orthogonal columns, the best of the three for
        many probes (the variance carries a factor 1 - R/n), kept as a whole. These two are exact
        for multiples of the identity. The other methods use the sphere.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself; ``rng=info.seed`` repeats a result.
    return_info : bool
        Whether to return ``(value, Estimate)``.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device; complex if A is. For a stack, arrays of shape (...): of the
        traces, and of the estimates as objects.

    Raises
    ------
    ValueError
        If A is not square or not finite, or a product is not; if XNysTrace finds A not positive
        semidefinite; if a budget is too small for the method, or an option not as described.

    Warns
    -----
    AccuracyWarning
        If a tolerance is not met.

    Notes
    -----
    Costs no product for an explicit matrix, n for ``"exact"`` of an operator. The variance of one
    probe of signs is ``2 (||B||_F^2 - sum_i b_ii^2)`` with ``B = (A + A^T)/2``. The other three
    methods keep three n x m arrays and gain by decay: with eigenvalues 1/i^2 and 40 products XTrace
    is 70 times as accurate as Hutchinson, XNysTrace 100 times, Hutch++ 40 times; without decay
    XTrace and Hutch++ are worse than Hutchinson, by up to 1.7.

    References
    ----------
    Hutchinson, Commun. Stat. Simul. Comput. 18, 1059 (1989); Meyer, Musco, Musco and Woodruff, SOSA
    2021 (Hutch++); Persson, Cortinovis and Kressner, SIAM J. Matrix Anal. Appl. 43, 1162 (2022),
    (its adaptive version); Epperly, Tropp and Webber, SIAM J. Matrix Anal. Appl. 45, 1 (2024)
    (XTrace, XNysTrace).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(specdens.trace(np.array([[1.0, 5.0], [7.0, 2.0]])))
    3.0
    >>> op = specdens.aslinearoperator(lambda v: np.cumsum(v), n=1000)
    >>> value, info = specdens.trace(op, probes=100, rng=0, return_info=True)
    >>> bool(abs(value - 1000) < 5 * info.stderr)
    True
    >>> decaying = specdens.aslinearoperator(lambda v: v / np.arange(1, 1001) ** 2, n=1000)
    >>> bool(abs(specdens.trace(decaying, rtol=0.01, rng=0) - 1.6439) < 0.03)
    True
    """
    require_method(method, TRACE_METHODS)
    request = _request(probes, max_matvecs, rtol, atol)
    stack, key = stack_of(A), rng

    def one(matrix: Any) -> tuple[tuple[Any], Estimate]:
        op = square_operator(matrix)
        estimate = _solved(op, request, method, distribution, key)
        complex_ = op.xp.isdtype(op.dtype, "complex floating")
        return (as_result(op, complex(estimate.value) if complex_ else estimate.value),), estimate

    if stack is None:
        (value,), info = one(A)
        warn_of_doubt(info, ADVICE)
        return (value, info) if return_info else value
    key = key_of(rng)

    def together(some: Any) -> Answers | None:
        plain = method in {"auto", "exact"} and distribution == "signs"
        return _together(some) if plain else None

    (values,), infos = over_stack(stack, one, together, ADVICE, stacklevel=2)
    return (values, infos) if return_info else values


def _together(some: Any) -> Answers | None:
    """Return the traces of small matrices, shape (B, n, n)."""
    stack = prepared(some)
    if stack is None:
        return None
    xp, a = namespace(stack.matrices), stack.matrices
    sums = to_host(xp.sum(xp.linalg.diagonal(a), axis=1)).tolist()
    return (stack.results(sums, complex_=is_complex(a)),), [Estimate(value=v) for v in sums]


@dataclass(frozen=True)
class _Request:
    """How much work the caller asks for: of the three, probes or the others."""

    probes: Any
    limit: int | None
    tolerance: Tolerance | None


def _request(
    probes: Any, max_matvecs: int | None, rtol: float | None, atol: float | None
) -> _Request:
    tolerance = None
    if rtol is not None or atol is not None:
        tolerance = Tolerance(rtol or 0.0, atol or 0.0)
    limit = None if max_matvecs is None else checked_count(max_matvecs, "max_matvecs")
    if probes is not None and (limit is not None or tolerance is not None):
        msg = "probes is given together with max_matvecs, rtol or atol; expected one or the other."
        raise ValueError(msg)
    return _Request(probes, limit, tolerance)


def _solved(
    op: LinearOperator, request: _Request, method: str, distribution: str, rng: Any
) -> Estimate:
    """Return the trace from those of the parts of a structured matrix, or of the whole."""
    free = request.limit is None and request.tolerance is None and not is_array(request.probes)
    if method in {"auto", "exact"} and free:

        def solve(part: LinearOperator, key: int) -> Estimate:
            return _solved(part, request, method, distribution, key)

        found = trace_by_parts(op, solve, rng)
        if found is not None:
            return found
        known = op.power_traces() if op.hermitian and request.probes is None else ()
        if known:
            return Estimate(value=known[0])
    return _estimate(op, request, _resolved(op, method, request, distribution), distribution, rng)


def _resolved(op: LinearOperator, method: str, request: _Request, distribution: str) -> str:
    """Return the method that "auto" and the synonyms stand for."""
    if method in {"lanczos", "chebyshev"}:
        return "hutchinson"
    if method != "auto":
        return method
    if isinstance(op, ExplicitOperator):
        return "exact"
    if distribution != "signs" or (request.limit is None and request.tolerance is None):
        return "hutchinson"
    if op.hermitian and op.lower >= 0:
        return "xnystrace"
    return XTRACE_OR_PROBES if request.tolerance is None else "hutch++"


def _estimate(
    op: LinearOperator, request: _Request, method: str, distribution: str, rng: Any
) -> Estimate:
    n = op.shape[0]
    require_distribution(distribution)
    if method not in {"hutchinson", "exact"}:
        require_plain(method, request.probes, distribution)
    if n == 0:
        return Estimate(value=0.0)
    if method == "exact":
        return _exact(op)
    if method == "hutchinson" and request.limit is None and request.tolerance is None:
        return next(_hutchinson(op, [request.probes], distribution, rng))
    key = key_of(rng)
    if request.tolerance is not None:
        return _within(op, request, request.tolerance, method, distribution, key)
    count = vectors_for(method, n, request.probes, request.limit, LEAST)
    if count is None:
        return _exact(op)
    return next(_stages(op, method, [count], distribution, key))


def _stages(
    op: LinearOperator, method: str, counts: Sequence[int], distribution: str, key: int
) -> Iterator[Estimate]:
    """Return estimates of growing effort; what was spent on one is used by the next."""
    if method == "hutchinson":
        return _hutchinson(op, counts, distribution, key)
    if method == XTRACE_OR_PROBES:
        return iter([xtrace_or_probes(op, counts[0], key)])
    if method == "hutch++":
        halves = [(count // 2, count - count // 2) for count in counts]
        return (hutch_plus_plus(op, sketched, rest, key) for sketched, rest in halves)
    return (xtrace if method == "xtrace" else xnystrace)(op, counts, key)


def _within(
    op: LinearOperator,
    request: _Request,
    tolerance: Tolerance,
    method: str,
    distribution: str,
    key: int,
) -> Estimate:
    """Return an estimate that meets a tolerance; the exact trace where that is affordable."""
    n = op.shape[0]
    limit = DEFAULT_LIMIT if request.limit is None else request.limit
    most = min(limit, n - 1)
    if n <= DEFAULT_COUNT and limit >= n:
        return _exact(op)
    count = vectors_for(method, n, None, most, LEAST)
    assert count is not None  # most < n
    if method == "hutch++":
        found = adaptive_hutch_plus_plus(op, tolerance, most, key)
        if not tolerance.met(found):
            found = replace(found, converged=False, flags=(MISSED,))
    else:
        counts = doublings(max(LEAST[method], 10), count)
        found = until_agreed(_stages(op, method, counts, distribution, key), tolerance)
    if found.converged or found.matvecs + n > limit:
        return found
    exact = _exact(op)
    return replace(exact, matvecs=exact.matvecs + found.matvecs)


def _exact(op: LinearOperator) -> Estimate:
    if isinstance(op, ExplicitOperator):
        complex_ = op.xp.isdtype(op.dtype, "complex floating")
        wide = op.xp.complex128 if complex_ else op.xp.float64
        total = to_host(op.xp.sum(op.xp.astype(op.diagonal(), wide)))
        return Estimate(value=total.item())
    return next(_hutchinson(op, [op.shape[0]], "signs", 0))


def _hutchinson(
    op: LinearOperator, counts: Sequence[Any], distribution: str, rng: Any
) -> Iterator[Estimate]:
    """Run Hutchinson's estimator for growing numbers of probes.

    Yields
    ------
    Estimate
        One for each number; what it spent is used by the next.
    """
    n = op.shape[0]
    pairs: list[tuple[Any, Any]] = []
    for count in counts:
        vectors = probes_for(op, count, rng, distribution)
        pairs += _rayleigh_quotients(op, vectors, len(pairs))
        values, norms = (np.array(column) for column in zip(*pairs, strict=True))
        unit = power_of_two(float(norms.max()))
        values, norms = values / unit, norms / unit  # their squares neither overflow nor vanish
        mean = values.mean()
        spread = max(0.0, float(np.mean(norms**2) - abs(mean) ** 2))
        yield Estimate(
            value=(n * mean * unit).item(),
            stderr=n * standard_error(values, vectors, spread) * unit,
            matvecs=vectors.count,
            samples=vectors.count,
            method="exact" if vectors.exhaustive else "hutchinson",
            seed=None if vectors.exhaustive else vectors.key,
        )


def _rayleigh_quotients(
    op: LinearOperator, vectors: Probes, first: int
) -> list[tuple[complex, float]]:
    """Return ``<z, A z> / <z, z>`` and ``|A z| / |z|`` of each probe from the first on."""

    def run(block: Array) -> list[tuple[Any, Any]]:
        product = op.matmat(block)
        unit = magnitude(product)
        product = product / unit
        mass = np.real(column_dots(block, block))
        quotients = unit * (column_dots(block, product) / mass)
        norms = unit * np.sqrt(np.real(column_dots(product, product)) / mass)
        return list(zip(quotients, norms, strict=True))

    return by_blocks(op, vectors, run, first=first)
