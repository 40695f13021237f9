r"""``f(A) B`` for Hermitian A from a Krylov basis: ``f(A) b = |b| Q f(T) e_1``.

Q is the basis and T the tridiagonal of m Lanczos steps; exact for polynomials of degree m - 1. The
basis is kept while it is small; beyond `BASIS_BYTES` it is thrown away and made a second time, so
that memory stays at a few blocks for twice the products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, column_dots, device, eps, is_complex, namespace
from specdens.estimation.estimate import ESCAPED, ILL_CONDITIONED, SINGULAR
from specdens.operators.linear_operator import LinearOperator
from specdens.recurrences.lanczos import EXACT_UP_TO, Tridiagonal, assembled, lanczos_steps
from specdens.recurrences.quadrature import noise_of
from specdens.results import UNBOUNDED, SpectralBounds
from specdens.scalar_functions import ScalarFunction, require_domain

__all__ = [
    "Applied",
    "change_by_rounding",
    "combined",
    "function_times",
    "infinite",
    "lanczos_times",
    "values_of",
]

Host: TypeAlias = np.ndarray[Any, Any]

BASIS_BYTES = 2**30
"""Size up to which the basis of one block is kept."""

INFLATION, UNSEEN = 6.0, 3.0
"""Of extrapolations; once more where no residual shows stairs in the convergence."""

ROUGH = 0.1
"""Share of a result above which an estimate of rounding, itself inflated, is a cause for doubt."""


def function_times(
    op: LinearOperator, f: ScalarFunction, block: Array, steps: int
) -> tuple[Array, Host]:
    """Return ``f(op) block`` after so many Lanczos steps, and the estimated error of each column.

    Parameters
    ----------
    op : LinearOperator, shape (n, n)
        Hermitian.
    f : ScalarFunction
    block : array, shape (n, R)
        Zero columns stay zero.
    steps : int
        At least 1; costs as many products with each column, twice as many where the basis is too
        large to keep.

    Returns
    -------
    array, shape (n, R)
        On the device of op; complex if the block or f is.
    ndarray, shape (R,)
        Error norms, on the host.
    """
    found = lanczos_times(op, f, block, steps)
    return found.block, found.error


@dataclass(frozen=True)
class Applied:
    """``f(A)`` times a block, with the error of each column and what speaks against it.

    The part of the error that is rounding is also there on its own: no step reduces it.
    """

    block: Array
    error: Host
    rounding: Host
    norm: Host
    rigorous: bool
    steps: int
    flags: tuple[str, ...] = ()


def lanczos_times(
    op: LinearOperator,
    f: ScalarFunction,
    block: Array,
    steps: int,
    *,
    rtol: float = 0.0,
    known: SpectralBounds = UNBOUNDED,
) -> Applied:
    """Return f(op) times a block by at most so many Lanczos steps, fewer if `rtol` is reached.

    Raises
    ------
    NotHermitianError
        As `tridiagonalize`.
    ValueError
        If f is not defined or not finite on the Ritz values.
    """
    norms = np.sqrt(np.real(column_dots(block, block)))
    problem = _Small(f, known, op.shape[0], eps(block), norms)
    alphas: list[Host] = []
    betas: list[Host] = []
    kept: list[Array] | None = []
    check = 8
    for step in lanczos_steps(op, block, steps):
        alphas.append(step.alpha)
        betas.append(step.beta)
        if kept is not None:
            kept.append(step.q)
            if len(kept) * block.shape[0] * block.shape[1] * _item(block) > BASIS_BYTES:
                kept = None
        if rtol > 0 and len(alphas) == check:
            check += max(4, check // 4)
            if problem.solved(assembled(alphas, betas)).within(rtol):
                break
    solved = problem.solved(assembled(alphas, betas))
    problem.require_values(solved)
    if kept is not None:
        found = combined(kept, solved.coefficients, block)
        drift = np.zeros(len(norms))
    else:
        found, drift = _second_pass(op, block, problem, solved)
    return Applied(
        found,
        solved.truncation + solved.rounding + drift,
        solved.rounding,
        solved.norm,
        solved.rigorous,
        len(alphas),
        problem.flags(solved),
    )


def _item(block: Array) -> int:
    return 16 if is_complex(block) else 8


def combined(basis: Iterable[Array], coefficients: Host, like: Array) -> Array:
    """Return the sum of basis blocks, each column with its own coefficients, shape (m, R)."""
    xp = namespace(like)
    dtype = like.dtype
    if np.iscomplexobj(coefficients) and not is_complex(like):
        dtype = xp.complex64 if dtype == xp.float32 else xp.complex128
    weights = xp.asarray(coefficients, dtype=dtype, device=device(like))
    total = xp.zeros(like.shape, dtype=dtype, device=device(like))
    for j, q in enumerate(basis):
        total = total + xp.astype(q, dtype, copy=False) * weights[j, :][None, :]
    return total


def _second_pass(
    op: LinearOperator, block: Array, problem: _Small, solved: _Solved
) -> tuple[Array, Host]:
    """Run the recurrence again, and add up its vectors; a device may round differently then."""
    alphas: list[Host] = []
    betas: list[Host] = []

    def vectors() -> Iterable[Array]:
        for step in lanczos_steps(op, block, len(solved.coefficients)):
            alphas.append(step.alpha)
            betas.append(step.beta)
            yield step.q

    found = combined(vectors(), solved.coefficients, block)
    again = problem.solved(assembled(alphas, betas)).coefficients
    size = max(len(again), len(solved.coefficients))
    drift = _padded(again, size) - _padded(solved.coefficients, size)
    return found, np.linalg.norm(drift, axis=0)


def _padded(c: Host, size: int) -> Host:
    return np.concatenate([c, np.zeros((size - len(c), *c.shape[1:]))])


@dataclass(frozen=True)
class _Solved:
    """Coefficients in the basis, shape (m, R), with errors, norms, and all Ritz values."""

    coefficients: Host
    truncation: Host
    rounding: Host
    norm: Host
    rigorous: bool
    low: float
    high: float

    def within(self, rtol: float) -> bool:
        return bool(np.all(self.truncation <= rtol * self.norm))


@dataclass(frozen=True)
class _Small:
    """The part of the work that is done with m x m matrices on the host."""

    f: ScalarFunction
    known: SpectralBounds
    n: int
    unit: float
    norms: Host

    def solved(self, factors: list[Tridiagonal]) -> _Solved:
        """Return ``|b| f(T) e_1`` of each column."""
        size = max(len(factor.diagonal) for factor in factors)
        pairs = [_Ritz.of(factor) for factor in factors]
        seen = [pair for pair, norm in zip(pairs, self.norms, strict=True) if norm > 0]
        low = float(min((pair.values[0] for pair in seen), default=math.inf))
        high = float(max((pair.values[-1] for pair in seen), default=-math.inf))
        known = UNBOUNDED if self.escaped(low, high) else self.known
        table = np.zeros((size, len(pairs)), dtype=complex)
        truncation, rounding = np.zeros((2, len(pairs)))
        rigorous = True
        for r, (factor, pair, norm) in enumerate(zip(factors, pairs, self.norms, strict=True)):
            if norm == 0:
                continue
            c = pair.coefficients(self.f, self._floor(known))
            table[: len(c), r] = norm * c
            # For a block of norm 1.
            noise = pair.rounding(self.f, self.unit, self._floor(known))
            noise += 10 * self.unit * float(np.linalg.norm(c))
            left, proved = self._truncation(factor, pair, c, known, noise)
            truncation[r], rounding[r] = norm * left, norm * noise
            rigorous = rigorous and proved
        table = table if self.f.own and np.any(table.imag) else table.real
        norms = np.linalg.norm(table, axis=0)
        return _Solved(table, truncation, rounding, norms, rigorous, low, high)

    def escaped(self, low: float, high: float) -> bool:
        """Whether a Ritz value lies outside the interval that was taken for granted."""
        noise = self.noise(low, high)
        return low < self.known.low - noise or high > self.known.high + noise

    def _floor(self, known: SpectralBounds) -> float:
        """Return the smallest argument that f may meet: rounding puts Ritz values below it."""
        low = known.low if known.low_rigorous else -math.inf
        return max(low, 0.0) if self.f.domain == "nonnegative" else low

    def noise(self, low: float, high: float) -> float:
        """Return how far rounding may move eigenvalues."""
        return noise_of(self.n, self.unit, low, high)

    def require_values(self, solved: _Solved) -> None:
        """Raise a ValueError where f is not defined or not finite."""
        require_domain(self.f, solved.low, self.noise(solved.low, solved.high))
        if not np.all(np.isfinite(solved.coefficients)):
            raise ValueError(infinite(self.f, solved.low, solved.high))

    def flags(self, solved: _Solved) -> tuple[str, ...]:
        """Return what speaks against the result."""
        low, high = solved.low, solved.high
        flags: tuple[str, ...] = (ESCAPED,) if self.escaped(low, high) else ()
        if self.f.pole and abs(low) <= self.noise(low, high) and high > low:
            flags = (*flags, SINGULAR)
        elif np.any(solved.rounding > ROUGH * solved.norm):
            flags = (*flags, ILL_CONDITIONED)
        return flags

    def _truncation(
        self, factor: Tridiagonal, pair: _Ritz, c: Host, known: SpectralBounds, noise: float
    ) -> tuple[float, bool]:
        """Return the norm of what later steps would change, and whether it is a bound."""
        m = len(c)
        if not np.all(np.isfinite(c)):
            return math.inf, False
        polynomial = self.f.degree is not None and self.f.degree < m
        ended = factor.residual <= 100 * self.unit * float(np.abs(pair.values).max())
        if polynomial or ended or (m >= self.n and self.n <= EXACT_UP_TO):
            return 0.0, True
        bound = _residual_bound(self.f, factor, pair, known)
        if math.isfinite(bound):
            return bound, True
        noise = max(noise, 100 * self.unit * float(np.linalg.norm(c)))
        guess = _extrapolated(self.f, factor, c, self._floor(known), noise)
        # The smallest Ritz value in place of the smallest eigenvalue: no bound, but it sees what
        # an extrapolation overlooks where convergence comes in stairs.
        seen = replace(UNBOUNDED, low=float(pair.values[0]), low_rigorous=True)
        bound = _residual_bound(self.f, factor, pair, seen)
        return max(guess, bound) if math.isfinite(bound) else UNSEEN * guess, False


def infinite(f: ScalarFunction, low: float, high: float) -> str:
    """Return what to say where f is infinite on the spectrum."""
    return (
        f"{f.name} is not finite on the spectrum of A, which reaches from {low:.6g} to {high:.6g} "
        "at least; f(A) B does not exist there in this precision. shift= moves the spectrum."
    )


@dataclass(frozen=True)
class _Ritz:
    """Ritz values, ascending, and the first components of their vectors, with the vectors."""

    values: Host
    vectors: Host

    @classmethod
    def of(cls, factor: Tridiagonal) -> _Ritz:
        from scipy.linalg import eigh_tridiagonal

        if len(factor.diagonal) == 1:
            return cls(factor.diagonal.copy(), np.ones((1, 1)))
        return cls(*eigh_tridiagonal(factor.diagonal, factor.off_diagonal))

    def coefficients(self, f: ScalarFunction, low: float) -> Host:
        """Return ``f(T) e_1``; not finite where f is infinite on a value that has weight."""
        first = self.vectors[0]
        y = values_of(f, np.maximum(self.values, low))
        seen = first**2 > np.finfo(float).tiny
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(self.vectors[:, seen] @ (y[seen] * first[seen]))

    def rounding(self, f: ScalarFunction, unit: float, low: float) -> float:
        """Return how far products rounded to 100 units of the norm of A move the result."""
        change = change_by_rounding(f, np.maximum(self.values, low), unit)
        return float(np.linalg.norm(change * self.vectors[0]))


def change_by_rounding(f: ScalarFunction, x: Host, unit: float) -> Host:
    """Return what f changes where eigenvalues move by 100 units of the largest; 0 at poles."""
    with np.errstate(invalid="ignore"):
        change = np.abs(values_of(f, x + 100 * unit * np.abs(x).max()) - values_of(f, x))
    return np.where(np.isfinite(change), change, 0.0)


def values_of(f: ScalarFunction, x: Host) -> Host:
    """Return f(x), infinities and all: whether they matter is known later."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        y = np.asarray(f.apply(np, x))
    return y if y.shape == x.shape else f.on_host(x)  # which says what is wrong with it


def _extrapolated(
    f: ScalarFunction, factor: Tridiagonal, c: Host, low: float, noise: float
) -> float:
    """Return an inflated guess of what is left, from what the last half of m steps changed.

    If the error falls like a power of m it is ``D_2 q / (1 - q)`` with ``q = D_2 / D_1``, the
    changes from 0.7 m to m and from 0.49 m to 0.7 m; if it falls geometrically, less.
    """
    m = len(c)
    later, earlier = math.ceil(0.7 * m), math.ceil(0.49 * m)
    if not earlier < later < m - 1:
        return math.inf
    at = {k: _Ritz.of(factor.leading(k)).coefficients(f, low) for k in (earlier, later, m - 1)}
    last = float(np.linalg.norm(c - _padded(at[m - 1], m)))
    second = max(float(np.linalg.norm(c - _padded(at[later], m))), last)
    first = float(np.linalg.norm(at[later] - _padded(at[earlier], later)))
    if second <= noise:
        return second
    if not second < first:
        return math.inf
    ratio = second / first
    return max(INFLATION * second * ratio / (1 - ratio), last)


def _residual_bound(
    f: ScalarFunction, factor: Tridiagonal, pair: _Ritz, known: SpectralBounds
) -> float:
    """Return the bound through residuals, or infinity where there is none."""
    if f.name == "exp":
        return _exponential_bound(factor, pair, known) if known.high_rigorous else math.inf
    if f.name not in STIELTJES or not known.low_rigorous or known.low < 0 or pair.values[0] <= 0:
        return math.inf
    if len(factor.diagonal) < 3:
        return math.inf
    logs = float(np.sum(np.log(factor.off_diagonal))) + math.log(factor.residual)
    if f.name == "inv":
        with np.errstate(divide="ignore"):
            return float(np.exp(logs - np.sum(np.log(pair.values))) / np.float64(known.low))
    # The substitution t = exp(s): the trapezoidal rule converges exponentially.
    lowest = known.low if known.low > 0 else float(pair.values[0])
    s = np.arange(math.log(lowest) - 40, math.log(pair.values[-1]) + 40, 0.15)
    t = np.exp(s)
    residual = np.exp(logs - np.sum(np.log(pair.values[:, None] + t), axis=0))
    return float(0.15 * np.sum(STIELTJES[f.name](t) * t * residual / (known.low + t)))


STIELTJES = {
    "inv": lambda t: t,  # the one point t = 0
    "log": lambda t: np.ones_like(t),
    "sqrt": lambda t: np.sqrt(t) / np.pi,
    "xlogx": lambda t: t,
}
"""The weight with which ``1 / (x + t)`` enters f, up to a polynomial of degree 1 and the sign."""


def _exponential_bound(factor: Tridiagonal, pair: _Ritz, known: SpectralBounds) -> float:
    r"""Return :math:`\beta_m \int_0^1 e^{(1-s) b} |e_m^T e^{sT} e_1| ds`, b the upper end.

    References
    ----------
    Saad, SIAM J. Numer. Anal. 29, 209 (1992), section 5.
    """
    x, w = np.polynomial.legendre.leggauss(32)
    s = (x + 1) / 2
    ends = pair.vectors[-1] * pair.vectors[0]
    with np.errstate(over="ignore"):
        terms = np.exp((1 - s) * known.high + s * pair.values[:, None])
        return float(factor.residual * (w / 2) @ np.abs(ends @ terms))
