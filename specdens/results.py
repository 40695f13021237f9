"""What a result says of itself: value, standard error, truncation bound, cost, and doubt."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = [
    "PLUG_IN_BELOW",
    "UNBOUNDED",
    "AccuracyWarning",
    "Estimate",
    "SpectralBounds",
    "doubt",
    "two_sided_quantile",
    "warn_of_doubt",
]

PLUG_IN_BELOW = 4
"""With fewer probes their scatter says nothing: the variance is taken from the spectral measure."""


class AccuracyWarning(UserWarning):
    """A result whose error cannot be trusted, or exceeds what its standard error says."""


@dataclass(frozen=True, slots=True)
class SpectralBounds:
    """An interval that contains the spectrum of a Hermitian matrix; unpacks as ``low, high``.

    Attributes
    ----------
    low, high : float
    low_rigorous, high_rigorous : bool
        Whether the end is a bound by proof (Gershgorin, construction, or the caller's word), and
        not a Lanczos estimate with a safeguard.
    how : str
        Where it comes from.
    matvecs : int
        Products spent on it.
    inner : tuple of float, or None
        The extreme Ritz values, where Lanczos was run: the spectrum reaches at least so far.
    """

    low: float
    high: float
    low_rigorous: bool
    high_rigorous: bool
    how: str
    matvecs: int = 0
    inner: tuple[float, float] | None = None

    @property
    def rigorous(self) -> bool:
        """Whether both ends are."""
        return self.low_rigorous and self.high_rigorous

    def negated(self) -> SpectralBounds:
        """Return the bounds of the negative matrix."""
        return replace(
            self,
            low=-self.high,
            high=-self.low,
            low_rigorous=self.high_rigorous,
            high_rigorous=self.low_rigorous,
            inner=None if self.inner is None else (-self.inner[1], -self.inner[0]),
        )

    def __iter__(self) -> Iterator[float]:
        return iter((self.low, self.high))

    def __str__(self) -> str:
        return f"[{self.low:.6g}, {self.high:.6g}] ({self.how})"


UNBOUNDED = SpectralBounds(-math.inf, math.inf, False, False, "nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value, how far it may be off, and what it cost.

    Two errors are kept apart: the statistical one, which more probes reduce, and that of truncating
    to finitely many moments, which only more moments reduce.

    Attributes
    ----------
    value : float or complex
    stderr : float
        Standard error over probes; 0 where nothing was left to chance.
    bias_bound : float
        Bound of the truncation error.
    bias_rigorous : bool
        Whether that is a true bound (in exact arithmetic); otherwise an inflated heuristic.
    converged : bool
        Whether the bias is at most the standard error (half of it where few long runs corrected
        many short ones and the bound is a heuristic), or with it within the tolerance that was
        asked for, and nothing speaks against the result.
    flags : tuple of str
        What speaks against it, in words.
    matvecs : int
        Products of the matrix, or its adjoint, with one vector.
    samples : int
        Probes.
    method : str
        ``"exact"``, ``"lanczos"``, ``"chebyshev"``, ``"hutchinson"``, ``"hutch++"``, ``"xtrace"``
        or ``"xnystrace"``.
    bounds : tuple of float, or None
        The interval taken to contain the spectrum, where one was needed or known.
    seed : int or None
        Pass it as ``rng=`` to get the same result again; None where no random number was drawn.
    rank : float or None
        For `logpdet`: the number of singular values above the tolerance.
    deflated : int
        The dimension of the space that was computed and not sampled.
    steps : int
        Of the longest run, where a pilot chose it.
    """

    value: float | complex
    stderr: float = 0.0
    bias_bound: float = 0.0
    bias_rigorous: bool = True
    converged: bool = True
    flags: tuple[str, ...] = ()
    matvecs: int = 0
    samples: int = 0
    method: str = "exact"
    bounds: tuple[float, float] | None = None
    seed: int | None = None
    rank: float | None = None
    deflated: int = 0
    steps: int = 0

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return a confidence interval: Student's t over probes, widened by the bias bound.

        Parameters
        ----------
        level : float
            In (0, 1).

        Returns
        -------
        tuple of float

        Raises
        ------
        ValueError
            If `level` is not in (0, 1).
        TypeError
            If the value is complex: an interval has no meaning there.
        """
        quantile = two_sided_quantile(level, self.samples)
        if isinstance(self.value, complex):
            msg = "the value is complex; use stderr and bias_bound, which bound its modulus."
            raise TypeError(msg)
        if not math.isfinite(self.value):
            return (self.value, self.value)
        half = self.bias_bound + (quantile * self.stderr if self.stderr > 0 else 0.0)
        return (self.value - half, self.value + half)

    def __float__(self) -> float:
        if isinstance(self.value, complex):
            msg = "the value is complex; use complex(estimate)."
            raise TypeError(msg)
        return float(self.value)

    def __complex__(self) -> complex:
        return complex(self.value)

    def __str__(self) -> str:
        cost = f"{self.method}, {self.matvecs} products"
        if self.method == "exact":
            return f"{self.value:.10g} ({cost})"
        bound = "<=" if self.bias_rigorous else "about"
        doubt = "" if self.converged else ", not converged"
        return (
            f"{self.value:.8g} ± {self.stderr:.2g} (bias {bound} {self.bias_bound:.2g}; "
            f"{cost}, {self.samples} probes{doubt})"
        )


def two_sided_quantile(level: float, samples: int, *, least: int = PLUG_IN_BELOW) -> float:
    """Return the two-sided t quantile; with fewer probes than `least` an error is a plug-in."""
    if not 0 < level < 1:
        msg = f"level is {level}; expected a number in (0, 1), such as 0.95."
        raise ValueError(msg)
    from scipy.special import ndtri, stdtrit

    tail = (1 + level) / 2
    return float(ndtri(tail) if samples < least else stdtrit(samples - 1, tail))


def warn_of_doubt(estimate: Estimate, advice: str, *, stacklevel: int = 3) -> None:
    """Warn if an estimate has not converged: what speaks against it, and what to do."""
    if not estimate.converged:
        warnings.warn(doubt(estimate, advice), AccuracyWarning, stacklevel=stacklevel + 1)


def doubt(estimate: Estimate, advice: str) -> str:
    """Return in words what speaks against an estimate that has not converged, and what to do."""
    reasons = list(estimate.flags)
    if estimate.method == "exact":
        advice = "It was computed exactly up to rounding: add a shift, or use a higher precision."
    elif not reasons or estimate.bias_bound > estimate.stderr:
        kind = "at most" if estimate.bias_rigorous else "roughly up to"
        reasons.append(
            f"truncation to finitely many moments may cost {kind} {estimate.bias_bound:.3g}, "
            f"too much beside the standard error {estimate.stderr:.3g}"
        )
    return f"{estimate.value:.6g} is not to be trusted: {'; '.join(reasons)}. {advice}"
