"""Densities of states: of the whole matrix, or weighted at sites."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, adjoint, is_array, namespace, to_host
from specdens.arrays.probes import Probes, make_probes
from specdens.estimation.goal import moments_alone
from specdens.estimation.question import Question
from specdens.estimation.sampling import (
    Moments,
    bounds_for,
    known_traces,
    moments_by_chebyshev,
    moments_by_lanczos,
    widened,
    with_known_moments,
)
from specdens.exact.factorizations import dense_of
from specdens.operators.algebra import Counting, finite_real
from specdens.operators.explicit import ExplicitOperator
from specdens.problem.prepare import (
    Problem,
    require_states,
)
from specdens.recurrences.chebyshev_moments import EscapeError
from specdens.recurrences.chebyshev_series import damping, width
from specdens.results import AccuracyWarning, SpectralBounds
from specdens.spectra.spectral_density import SpectralDensity
from specdens.structured.spectrum_union import eigenvalues, eigenvalues_are_cheap, union

__all__ = ["density", "local_density"]

MARGIN = 0.01
"""Share of its width by which the interval of a density is widened: kernels need room."""

MOMENTS = 256

_log = logging.getLogger(__name__)


def density(
    A: Any,
    *,
    B: Any = None,
    moments: int = MOMENTS,
    resolution: float | None = None,
    probes: Any = None,
    kernel: str = "jackson",
    bounds: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
    rng: Any = None,
) -> SpectralDensity:
    r"""Return the density of states :math:`\frac1n \sum_i \delta(x - \lambda_i)`, broadened.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes; Hermitian, n at least 1.
    B : array or sparse matrix, shape (n, n), optional
        Hermitian and positive definite: then the eigenvalues are those of ``A x = lambda B x``.
        It is factored.
    moments : int
        N: costs half as many products with each probe, and gives a resolution of about
        ``pi / N`` times half the width of the spectrum.
    resolution : float, optional
        The wanted width of the kernel in the middle of the band, in units of energy. Then `moments`
        follows from it.
    probes : int or array of shape (n, R), optional
        Default 20 random signs (phases for complex A). n or more: the unit vectors, without chance.
    kernel : {"jackson", "lorentz", "fejer", "lanczos", "none"}
        Jackson's is positive, with the best resolution of the positive ones; Lorentz's suits
        Green's functions; "none" rings, but is best for smooth spectra.
    bounds : tuple of float, optional
        An interval that contains the spectrum; found by 20 Lanczos steps if not given.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` takes all eigenvalues of dense matrices up to n = 8192 (32768 on a GPU) and
        sparse ones up to 2048, and else Chebyshev moments (the kernel polynomial method).
        ``"lanczos"`` needs no bounds.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself.

    Returns
    -------
    SpectralDensity
        Call it on energies; ``.cumulative(x)``, ``.count(low, high)``, ``.integrate(f)``,
        ``.quantile(q)``, ``.band(x)``.

    Raises
    ------
    ValueError
        If A is empty, not square, not Hermitian or not finite, B is not positive definite, or an
        option is not as described.

    Warns
    -----
    AccuracyWarning
        If the spectrum is not inside the bounds that were given.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each probe. The standard error of a density is about
    ``sqrt(2 / (n R))`` relative to what one resolved bin holds: for large n one probe is enough.

    References
    ----------
    Weiße, Wellein, Alvermann and Fehske, Rev. Mod. Phys. 78, 275 (2006).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> from specdens.testing import laplacian
    >>> rho = specdens.density(laplacian(60, 60), rng=0)
    >>> print(f"{rho.count(0, 4):.0f} of {rho.size} eigenvalues up to 4")
    1806 of 3600 eigenvalues up to 4
    >>> mean, error = rho.integrate(np.exp), rho.integral_stderr(np.exp)
    >>> print(f"mean of exp {mean:.1f} ± {error:.1f}")
    mean of exp 277.6 ± 0.1
    """
    goal = moments_alone(moments)
    question = Question(A, goal, B, probes, method, 0.0, hermitian, bounds, rng)
    problem = _problem(question, kernel)
    op = Counting(problem.op)
    vectors = question.vectors(problem.op)
    full = question.is_exhaustive(problem, vectors)
    exact = method == "exact" or (method == "auto" and (full or eigenvalues_are_cheap(problem.op)))
    rest, atom = (problem, None) if exact or is_array(probes) else _without_atom(problem)
    if atom is not None:
        op = Counting(rest.op)
        vectors = question.by(vectors.key).vectors(rest.op)
        rest = _reaching(rest, op, atom[0], vectors.key)
    interval, moments = _resolved(rest, op, resolution, moments, kernel, vectors)
    if exact:
        found, method = _moments_of_eigenvalues(problem, op, moments), "exact"
    else:
        found, method = _moments(rest, op, vectors, moments, method, interval)
    if atom is not None:
        found = _with_atom(op, vectors, found, *atom)
    chance = method != "exact" and not vectors.exhaustive
    corrected = found.table
    if chance and atom is None:
        known = known_traces(problem.op, vectors)
        corrected, _, _ = with_known_moments(found.table, found.bounds, known)
    return SpectralDensity(
        moments=found.table.mean(axis=1),
        bounds=(found.bounds.low, found.bounds.high),
        size=problem.n,
        kernel=kernel,
        table=found.table if chance else None,
        corrected=corrected if corrected is not found.table else None,
        order=problem.n,
        method=method,
        matvecs=problem.matvecs + op.count,
        samples=vectors.count if method != "exact" else 0,
        seed=vectors.key if chance else None,
        escaped=_warn_of_escape(problem, found.bounds),
    )


def local_density(
    A: Any,
    vectors_or_indices: Any,
    *,
    moments: int = MOMENTS,
    resolution: float | None = None,
    kernel: str = "jackson",
    bounds: Any = None,
    method: str = "auto",
    hermitian: bool | None = None,
) -> SpectralDensity:
    r"""Return the local density :math:`\sum_i |\langle v, u_i\rangle|^2 \delta(x-\lambda_i)`.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        As for `density`.
    vectors_or_indices : int, sequence of int, or array of shape (n,) or (n, R)
        Integers name sites (unit vectors), from 0, negative ones from the end; a floating-point
        array is a vector, or one in each column, which is normalised.
    moments, resolution, kernel, bounds, hermitian
        As for `density`.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` is ``"chebyshev"``: the moments of a given vector have no statistical error.
        ``"exact"`` takes them from all eigenvectors.

    Returns
    -------
    SpectralDensity
        Of mass 1. For several sites its results have a leading axis of length R.

    Raises
    ------
    ValueError
        As `density`; or if an index is out of range, or a vector is zero or of another length.

    Warns
    -----
    AccuracyWarning
        If the spectrum is not inside the bounds that were given.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each vector, and 20 for the bounds if not given.

    References
    ----------
    Weiße, Wellein, Alvermann and Fehske, Rev. Mod. Phys. 78, 275 (2006).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> from specdens.testing import laplacian
    >>> rho = specdens.local_density(laplacian(101), [0, 50])
    >>> edge, middle = rho.count(0.0, 1.0)
    >>> bool(edge < middle)
    True
    """
    goal = moments_alone(moments)
    question = Question(A, goal, method=method, hermitian=hermitian, bounds=bounds)
    problem = _problem(question, kernel)
    op = Counting(problem.op)
    vectors, single = _vectors(problem, vectors_or_indices)
    interval, moments = _resolved(problem, op, resolution, moments, kernel, vectors)
    if method == "exact":
        found = _moments_of_eigenvectors(problem, op, vectors, moments)
    else:
        found, method = _moments(problem, op, vectors, moments, method, interval)
    return SpectralDensity(
        moments=found.table[:, 0] if single else found.table,
        bounds=(found.bounds.low, found.bounds.high),
        size=1,
        kernel=kernel,
        table=None,
        order=problem.n,
        method=method,
        matvecs=problem.matvecs + op.count,
        samples=vectors.count,
        escaped=_warn_of_escape(problem, found.bounds),
    )


def _problem(question: Question, kernel: str) -> Problem:
    damping(kernel, 1)  # says what is wrong with an unknown one
    problem = question.problem()
    require_states(problem)
    return problem


def _resolved(
    problem: Problem,
    op: Counting,
    resolution: float | None,
    moments: int,
    kernel: str,
    vectors: Probes,
) -> tuple[SpectralBounds | None, int]:
    """Return the number of moments that a resolution needs, and the interval if that took one."""
    if resolution is None:
        return None, moments
    resolution = finite_real(resolution, "resolution")
    if resolution <= 0:
        msg = f"resolution is {resolution}; expected a positive width in units of energy."
        raise ValueError(msg)
    interval = bounds_for(op, problem.known, stated=problem.stated, key=vectors.key)
    wide = widened(interval, MARGIN)
    unit = 1000 * float(width(kernel, 1000, np.zeros(1))[0])
    return interval, max(2, math.ceil(unit * (wide.high - wide.low) / 2 / resolution))


def _moments(
    problem: Problem,
    op: Counting,
    vectors: Probes,
    moments: int,
    method: str,
    interval: SpectralBounds | None,
) -> tuple[Moments, str]:
    """Return moments by either recurrence, and which it was in the end."""
    if method != "lanczos":
        if interval is None:
            interval = bounds_for(op, problem.known, stated=problem.stated, key=vectors.key)
        try:
            interval = widened(interval, MARGIN)
            return moments_by_chebyshev(op, vectors, moments, interval), "chebyshev"
        except EscapeError as error:
            _log.info("%s Running Lanczos with the same probes.", error)
    stated = problem.known if problem.stated else None
    return moments_by_lanczos(op, vectors, moments, margin=MARGIN, stated=stated), "lanczos"


def _without_atom(problem: Problem) -> tuple[Problem, tuple[float, float] | None]:
    """Return what is left without an eigenvalue known to be multiple, and its value and share."""
    found = union(problem)
    if found is None or len(found.known) != 1 or found.parts[0].n == 0:
        return problem, None
    ((value, times),) = found.known
    return found.parts[0], (complex(value).real, times / problem.n)


def _reaching(rest: Problem, op: Counting, value: float, key: int | None) -> Problem:
    """Return a problem whose stated interval contains an eigenvalue of the whole, too."""
    interval = bounds_for(op, rest.known, stated=rest.stated, key=key)
    return replace(rest, known=_including(interval, value), stated=True)


def _with_atom(
    op: Counting, vectors: Probes, found: Moments, value: float, share: float
) -> Moments:
    """Return moments together with those of an eigenvalue that is known, and its share."""
    count = len(found.table)
    if not found.bounds.low <= value <= found.bounds.high:  # the interval had to be replaced
        wide = _including(found.bounds, value)
        found = moments_by_lanczos(op, vectors, count, margin=MARGIN, stated=wide)
    angle = np.arccos(np.clip(_to_unit(np.array(value), found.bounds), -1, 1))
    table = share * np.cos(np.arange(count) * angle)[:, None] + (1 - share) * found.table
    return Moments(table, found.bounds)


def _including(bounds: SpectralBounds, value: float) -> SpectralBounds:
    return replace(bounds, low=min(bounds.low, value), high=max(bounds.high, value))


def _moments_of_eigenvalues(problem: Problem, op: Counting, moments: int) -> Moments:
    """Return the moments of the density from all eigenvalues, on their device."""
    spectrum, matvecs = eigenvalues(problem.op)
    op.count += matvecs
    bounds = _around(problem, spectrum)
    t = _to_unit(spectrum, bounds)
    return Moments(_moment_rows(t, moments, problem.op.xp.mean)[:, None], bounds)


def _moments_of_eigenvectors(
    problem: Problem, op: Counting, vectors: Probes, moments: int
) -> Moments:
    """Return the moments of given vectors from all eigenvectors."""
    xp = problem.op.xp
    a = _dense(problem, op)
    spectrum, basis = xp.linalg.eigh(a)
    bounds = _around(problem, spectrum)
    start = xp.astype(vectors.block(range(vectors.count)), a.dtype)
    overlaps = xp.abs(adjoint(basis) @ start) ** 2
    weights = overlaps / xp.sum(overlaps, axis=0, keepdims=True)
    t = _to_unit(spectrum, bounds)
    rows = _moment_rows(t, moments, lambda w: xp.sum(w[:, None] * weights, axis=0))
    return Moments(rows, bounds)


def _dense(problem: Problem, op: Counting) -> Array:
    if not isinstance(problem.op, ExplicitOperator):
        op.count += problem.n
    return dense_of(problem.op)


def _around(problem: Problem, spectrum: Array) -> SpectralBounds:
    """Return the stated bounds if they hold all eigenvalues, else the extreme ones, widened."""
    low, high = float(spectrum[0]), float(spectrum[-1])
    slack = 1e-6 * (high - low)
    known = problem.known
    if not (problem.stated and known.low <= low + slack and high - slack <= known.high):
        known = SpectralBounds(low, high, True, True, "eigenvalues")
    return widened(known, MARGIN)


def _to_unit(x: Array, bounds: SpectralBounds) -> Array:
    return (2 * x - (bounds.low + bounds.high)) / (bounds.high - bounds.low)


def _moment_rows(t: Array, count: int, mean: Callable[[Array], Array]) -> Any:
    """Return the mean of ``T_k(t)``, k = 0 .. count - 1, on the host."""
    rows = []
    previous, current = t * 0 + 1, t
    for _ in range(count):
        rows.append(mean(previous))
        previous, current = current, 2 * t * current - previous
    return to_host(namespace(t).stack(rows))


def _warn_of_escape(problem: Problem, used: SpectralBounds) -> bool:
    """Warn if bounds that were given had to be replaced."""
    if not problem.stated or used.how == problem.known.how:
        return False
    given, taken = problem.known, used
    msg = (
        f"the spectrum is not inside the given bounds [{given.low:.6g}, {given.high:.6g}]; "
        f"[{taken.low:.6g}, {taken.high:.6g}] was used. Correct them, or leave them out."
    )
    warnings.warn(msg, AccuracyWarning, stacklevel=3)
    return True


def _vectors(problem: Problem, given: Any) -> tuple[Probes, bool]:
    """Return sites or vectors as probes, and whether there is just one, without an axis."""
    op, n = problem.op, problem.n
    home: dict[str, Any] = {"xp": op.xp, "dtype": op.dtype, "where": op.device}
    if is_array(given) and not op.xp.isdtype(given.dtype, "integral"):
        block = given[:, None] if given.ndim == 1 else given
        return make_probes(block, n, None, **home), given.ndim == 1
    sites = np.asarray(to_host(given) if is_array(given) else given)
    if sites.dtype.kind not in "biuf":
        msg = f"sites are {given!r}; expected integers, or an array of vectors (n, R)."
        raise TypeError(msg)
    if sites.ndim > 1 or sites.size == 0 or not np.all(sites == np.round(sites)):
        msg = "expected one site, a sequence of sites (integers), or an array of vectors (n, R)."
        raise ValueError(msg)
    index = np.atleast_1d(sites).astype(np.int64)
    if np.any((index < -n) | (index >= n)):
        msg = f"site {index[(index < -n) | (index >= n)][0]} is out of range for order {n}."
        raise ValueError(msg)
    columns = op.xp.asarray(index % n, device=op.device)
    rows = op.xp.arange(n, dtype=columns.dtype, device=op.device)
    block = op.xp.astype(rows[:, None] == columns[None, :], op.dtype)
    return make_probes(block, n, None, **home), sites.ndim == 0
