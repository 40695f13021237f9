"""What one run found: recurrence coefficients of all probes, or all eigenvalues; known facts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.probes import Probes
from specdens.estimation.control_variates import ROUNDING
from specdens.estimation.estimate import SINGULAR, Computed, summed
from specdens.estimation.probe_mean import integrated
from specdens.operators.algebra import finite_real
from specdens.operators.power_traces import PowerTraces
from specdens.recurrences.lanczos import Bidiagonal, Tridiagonal
from specdens.recurrences.quadrature import Rule, gauss, noise_of, residuals
from specdens.results import Estimate, SpectralBounds
from specdens.scalar_functions import LOG, LOG_ABS, ScalarFunction, require_domain
from specdens.traces.trace_function import trace_of_eigenvalues

__all__ = ["SpectralRun"]

Host: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralRun:
    """The eigenvalues of a Hermitian ``A + shift I`` as far as one run has seen them.

    Attributes
    ----------
    n : int
        Order of the matrix.
    shift : float
        What was added to the diagonal.
    moments : int
        Information per probe: twice the steps of its recurrence.
    unit : float
        Unit roundoff of the products.
    known : SpectralBounds
        What is known of the spectrum (with the shift) by proof; ends may be infinite.
    stated : bool
        Whether the caller gave these bounds.
    traces : tuple of float
        ``tr A, tr A^2, ...`` (with the shift) as far as they are known exactly.
    factors : tuple of Tridiagonal, or of Bidiagonal
        Of each probe; empty where all eigenvalues are known.
    eigenvalues : ndarray, shape (n,), or None
        All of them, ascending, where they were cheap.
    sources : tuple of (int, range)
        Keys and numbers of the random probes.
    exhaustive : bool
        Whether the probes are the unit vectors, so that nothing is left to chance.
    atoms : tuple of (float, int)
        Eigenvalues known beforehand and how often they occur: the probes do not see them.
    matvecs : int
        Products spent.
    singular : bool
        Whether it is the spectrum of ``|A|``: the singular values of A.
    """

    n: int
    shift: float
    moments: int
    unit: float
    known: SpectralBounds
    stated: bool
    traces: tuple[float, ...] = ()
    factors: tuple[Tridiagonal, ...] | tuple[Bidiagonal, ...] = ()
    eigenvalues: Host | None = None
    sources: tuple[tuple[int, range], ...] = ()
    exhaustive: bool = False
    atoms: tuple[tuple[float, int], ...] = ()
    matvecs: int = 0
    singular: bool = False

    def shifted(self, t: float) -> SpectralRun:
        """Return the run on the matrix with t more on the diagonal, for no product.

        Parameters
        ----------
        t : float
        """
        t = finite_real(t, "shift")
        if t == 0:
            return self
        if self.singular:
            msg = f"shift is {t}, but these are singular values, which a shift does not move alike."
            raise ValueError(msg)
        moved = self._power_traces.shifted(t).about(0.0)
        if moved.degree > 1:  # without those of which the move left rounding
            spread = math.sqrt(max(moved.values[2], 0.0) / max(moved.values[0], 1.0))
            moved = moved.reliable(spread, ROUNDING)
        return replace(
            self,
            shift=self.shift + t,
            known=replace(self.known, low=self.known.low + t, high=self.known.high + t),
            traces=moved.values[1:],
            # Those of singular values, the other kind, are not shifted: see above.
            factors=tuple(replace(factor, diagonal=factor.diagonal + t) for factor in self.factors),  # type: ignore[arg-type]
            eigenvalues=None if self.eigenvalues is None else self.eigenvalues + t,
            atoms=tuple((value + t, times) for value, times in self.atoms),
        )

    def merged(self, other: SpectralRun) -> SpectralRun:
        """Return what one run with the probes of both would have found.

        Parameters
        ----------
        other : SpectralRun
            Of the same matrix, shift and moments. That the matrix is the same is checked as far as
            order, precision, traces and bounds tell.

        Raises
        ------
        ValueError
            If they differ in one of these, have a probe in common, or are not from random probes.
        """
        if not (self.sources and other.sources):
            msg = "only runs with random probes can be merged; these tell all, or who knows what."
            raise ValueError(msg)
        for name in ("n", "shift", "moments", "unit", "singular", "known", "traces", "atoms"):
            if getattr(self, name) != getattr(other, name):
                msg = (
                    f"the runs differ in {name}: {getattr(self, name)} and {getattr(other, name)}; "
                    "expected two runs on one matrix with the same options."
                )
                raise ValueError(msg)
        for key, numbers in self.sources:
            for other_key, others in other.sources:
                if key == other_key and numbers.start < others.stop and others.start < numbers.stop:
                    msg = (
                        f"both runs have probes of key {key} from {numbers} and {others}; expected "
                        "different ones: pass another rng=, or probes=range(start, stop)."
                    )
                    raise ValueError(msg)
        return replace(
            self,
            factors=(*self.factors, *other.factors),
            sources=_joined(self.sources, other.sources),
            matvecs=self.matvecs + other.matvecs,
        )

    @property
    def method(self) -> str:
        """``"exact"`` or ``"lanczos"``."""
        return "lanczos" if self.eigenvalues is None else "exact"

    @property
    def seed(self) -> int | None:
        """What ``rng=`` gives the same run again, if one key gave all probes from the first on."""
        if len(self.sources) != 1 or self.sources[0][1].start != 0:
            return None
        return self.sources[0][0]

    @property
    def sampled(self) -> int:
        """The dimension of the space that the probes sample."""
        return self.n - sum(times for _, times in self.atoms)

    @property
    def probes(self) -> Probes:
        """What of the probes matters to an error; they themselves are not made again."""
        n, random = self.sampled, bool(self.sources)
        given = None if random or self.exhaustive else np.empty((n, 0))
        return Probes(
            n=n, count=len(self.factors), key=self.seed, xp=np, dtype=np.float64, where="cpu",
            given=given, exhaustive=self.exhaustive,
        )  # fmt: skip

    @cached_property
    def rules(self) -> list[Rule]:
        """The Gauss rule of each probe, or one rule of all eigenvalues."""
        if self.eigenvalues is not None:
            return [Rule(self.eigenvalues, np.full(self.n, 1 / self.n))] if self.n else []
        return [gauss(factor) for factor in self.factors]

    def with_atoms(self, rule: Rule) -> Rule:
        """Return the measure of the whole: what the probe saw, and the eigenvalues known before."""
        share = self.sampled / self.n
        nodes = np.concatenate([rule.nodes, [value for value, _ in self.atoms]])
        known = [times / self.n for _, times in self.atoms]
        weights = np.concatenate([share * rule.weights, known])
        order = np.argsort(nodes, kind="stable")
        return Rule(nodes[order], weights[order])

    @cached_property
    def residuals(self) -> list[Host]:
        """The norms of the residuals of all Ritz pairs, as the nodes of `rules`."""
        if self.eigenvalues is not None:
            return [np.zeros(self.n)]
        return [residuals(factor) for factor in self.factors]

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The extreme eigenvalues, or Ritz values, or those known before."""
        ends = [end for rule in self.rules for end in (rule.nodes[0], rule.nodes[-1])]
        ends += [value for value, times in self.atoms if times]
        return float(min(ends)), float(max(ends))

    @property
    def nonnegative(self) -> bool:
        """Whether no negative eigenvalue was seen that rounding cannot explain."""
        return self.n == 0 or self.ends[0] >= -noise_of(self.n, self.unit, *self.ends)

    @property
    def complete(self) -> bool:
        """Whether nothing is left open but rounding: all eigenvalues, or all of every measure."""
        return all(factor.residual == 0 for factor in self.factors)

    def ritz(self, what: str) -> tuple[Host, Host]:
        """Return all Ritz values, in no order, and the norms of their residuals."""
        self.require_values(what)
        pairs = [(r.nodes, x) for r, x in zip(self.rules, self.residuals, strict=True)]
        if self.atoms:
            pairs.append((np.array([value for value, _ in self.atoms]), np.zeros(len(self.atoms))))
        return np.concatenate([x for x, _ in pairs]), np.concatenate([r for _, r in pairs])

    @property
    def _power_traces(self) -> PowerTraces:
        """The known traces, and how many eigenvalues the probes sample."""
        return PowerTraces.about_zero(self.traces, self.sampled)

    def require_values(self, what: str) -> None:
        """Raise a ValueError where there is no eigenvalue."""
        if self.n == 0:
            msg = f"A is empty (0 x 0); {what} needs one eigenvalue at least."
            raise ValueError(msg)

    def logdet(self) -> Estimate:
        """Return the trace of ``log|x|``: -inf if an eigenvalue cannot be told from 0."""
        if self.n == 0 or self.eigenvalues is None:
            return self.trace(LOG_ABS)
        smallest = float(np.abs(self.eigenvalues).min())
        if smallest <= noise_of(self.n, self.unit, *self.ends):
            flags = (SINGULAR,) if smallest > 0 else ()
            return Estimate(value=-math.inf, flags=flags, converged=not flags, matvecs=self.matvecs)
        return self.trace(LOG if self.nonnegative else LOG_ABS)

    def trace(self, f: ScalarFunction) -> Estimate:
        """Return the trace of a function, by what there is."""
        if self.n == 0:
            return Estimate(value=0.0)
        if self.eigenvalues is not None:
            return replace(
                trace_of_eigenvalues(np, self.eigenvalues, f, self.unit), matvecs=self.matvecs
            )
        found = integrated(self.factors, f, self.known, unit=self.unit, traces=self._power_traces)
        return summed(
            found.truncated,
            self.probes,
            method="lanczos",
            matvecs=self.matvecs,
            bounds=found.bounds,
            flags=found.flags,
            computed=Computed(sum(times * self._at(f, value) for value, times in self.atoms)),
        )

    def _at(self, f: ScalarFunction, x: float) -> Any:
        require_domain(f, x, noise_of(self.n, self.unit, *self.ends))
        x = x if f.domain == "real" else max(x, 0.0)
        return f.on_host(np.array([x]))[0].item()


def _joined(
    first: tuple[tuple[int, range], ...], second: tuple[tuple[int, range], ...]
) -> tuple[tuple[int, range], ...]:
    """Return the sources of both; consecutive numbers of one key become one range."""
    (key, numbers), (next_key, others) = first[-1], second[0]
    if key == next_key and numbers.stop == others.start:
        return (*first[:-1], (key, range(numbers.start, others.stop)), *second[1:])
    return (*first, *second)
