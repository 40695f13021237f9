"""`PowerTraces`: ``tr (A - c I)^k`` for the first k, each with a bound of its rounding.

Moved far, as from 0 to the middle of a spectrum that is narrow and lies at 1e5, traces lose all
their digits: the binomial terms cancel. So they are kept about a center near the spectrum where
that can be had, and what a move does to their rounding travels with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = ["UNKNOWN", "PowerTraces", "is_far"]

Host: TypeAlias = np.ndarray[Any, Any]

UNIT = float(np.finfo(float).eps)

SUMMED = 8.0
"""Units of rounding of a sum of entries, relative to the sum of their moduli."""

FAR = 300.0
"""Standard deviations between 0 and the mean from where on the traces are taken anew about it."""


@dataclass(frozen=True)
class PowerTraces:
    """``tr (A - center I)^k`` from k = 0 on.

    Attributes
    ----------
    values : tuple of float
        ``values[0]`` is the order of A, or the dimension of the space that is meant.
    errors : tuple of float
        Bounds of what rounding did to each.
    center : float
    stated : bool
        Whether they are the word of whoever made the operator, and not computed from its entries.
    """

    values: tuple[float, ...]
    errors: tuple[float, ...]
    center: float = 0.0
    stated: bool = False

    @classmethod
    def about_zero(
        cls, traces: tuple[float, ...], mass: float, *, stated: bool = False
    ) -> PowerTraces:
        """Return those of ``tr A, tr A^2, ...`` that were summed in double precision."""
        values = (float(mass), *traces)
        return cls(values, tuple(SUMMED * UNIT * x for x in _moduli(values)), stated=stated)

    @property
    def degree(self) -> int:
        """The highest power that is known."""
        return len(self.values) - 1

    def up_to(self, degree: int) -> PowerTraces:
        """Return the first ones."""
        kept = slice(degree + 1)
        return PowerTraces(self.values[kept], self.errors[kept], self.center, self.stated)

    def shifted(self, shift: float) -> PowerTraces:
        """Return those of ``A + shift I``, about a center that moves along."""
        return PowerTraces(self.values, self.errors, self.center + shift, self.stated)

    def scaled(self, factor: float) -> PowerTraces:
        """Return those of ``factor A``."""
        powers = [factor**k for k in range(len(self.values))]
        return PowerTraces(
            tuple(p * x for p, x in zip(powers, self.values, strict=True)),
            tuple(abs(p) * x for p, x in zip(powers, self.errors, strict=True)),
            self.center * factor,
            self.stated,
        )

    def about(self, center: float) -> PowerTraces:
        """Return them about another center, by the binomial theorem, with what cancels there."""
        move = self.center - center
        sizes = [e + UNIT * abs(v) for v, e in zip(self.values, self.errors, strict=True)]
        values, errors = [], []
        for k in range(len(self.values)):
            terms = [math.comb(k, j) * move ** (k - j) for j in range(k + 1)]
            values.append(sum(t * v for t, v in zip(terms, self.values, strict=False)))
            # The center itself is a rounded number, and so is the difference of two of them.
            moved = 2 * k * UNIT * abs(move)
            lost = sum(abs(t) * s for t, s in zip(terms, sizes, strict=False))
            errors.append(lost + moved * self.values[0] * abs(move) ** max(0, k - 1))
        return PowerTraces(tuple(values), tuple(errors), center, self.stated)

    def reliable(self, scale: float, share: float) -> PowerTraces:
        """Return the first ones whose rounding is below a share of ``n scale^k``.

        Parameters
        ----------
        scale : float
            A distance of eigenvalues from the center, such as half the width of the spectrum.
        share : float
        """
        most = [share * self.values[0] * scale**k for k in range(len(self.values))]
        lost = [k for k in range(1, len(most)) if not self.errors[k] <= most[k]]
        return self.up_to(min(lost) - 1) if lost else self

    def less(self, captured: tuple[float, ...], dimension: float) -> PowerTraces:
        """Return those on the complement of a space that has these traces, about 0."""
        whole = self.about(0.0).up_to(len(captured))
        taken = (dimension, *captured)
        return PowerTraces(
            tuple(v - t for v, t in zip(whole.values, taken, strict=False)),
            tuple(e + SUMMED * UNIT * abs(t) for e, t in zip(whole.errors, taken, strict=False)),
            stated=self.stated,
        )


UNKNOWN = PowerTraces((1.0,), (0.0,))
"""Nothing but the mass of one unit vector."""


def is_far(mass: float, first: float, second: float) -> bool:
    """Whether the mean is so far from 0 that traces about 0 say little of the spread."""
    mean = first / mass
    spread = second / mass - mean**2
    return mean != 0 and spread < (mean / FAR) ** 2


def _moduli(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return bounds of ``tr |A|^k``; for odd k by Cauchy and Schwarz, as far as that is known."""
    bounds = [abs(v) for v in values]
    for k in range(1, len(values), 2):
        if k + 1 < len(values):
            bounds[k] = max(bounds[k], math.sqrt(abs(values[k - 1] * values[k + 1])))
        elif k >= 2:
            bounds[k] = max(bounds[k], abs(values[k - 1]) ** (k / (k - 1)))
    return tuple(bounds)
