"""An interval that contains the spectrum: known by proof, or by Lanczos with a safeguard."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specdens.arrays.probes import gaussian, key_of
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.linear_operator import LinearOperator
from specdens.recurrences.lanczos import tridiagonalize
from specdens.recurrences.quadrature import ritz_pairs
from specdens.results import SpectralBounds

__all__ = ["NARROWEST", "estimated_bounds", "gershgorin", "known_bounds", "stated_bounds"]

STEPS = 20
"""Lanczos steps: the extreme Ritz values are then within 2 % of the width."""

NEAR = 0.1

RESIDUALS, SHARE = 4.0, 0.01
"""The safeguard: residual norms, and share of the width."""


NARROWEST = 1e4
"""Least half-width of an estimated interval, in units of rounding of its ends."""


def gershgorin(op: ExplicitOperator) -> tuple[float, float]:
    """Return Gershgorin's interval of a Hermitian matrix (its sums are rounded, as all of ours)."""
    diagonal = _real_diagonal(op)
    sums = op.absolute_row_sums()
    centre = op.xp.astype(diagonal, op.xp.float64)
    radius = sums - op.xp.abs(centre)
    return float(op.xp.min(centre - radius)), float(op.xp.max(centre + radius))


def _real_diagonal(op: ExplicitOperator) -> Any:
    """Return the real part of the diagonal, which stays on the device."""
    diagonal = op.diagonal()
    return op.xp.real(diagonal) if op.xp.isdtype(diagonal.dtype, "complex floating") else diagonal


def stated_bounds(bounds: Any) -> SpectralBounds:
    """Return what the caller gave as ``bounds=``, checked."""
    if isinstance(bounds, SpectralBounds):
        return bounds
    try:
        low, high = (float(x) for x in bounds)
    except (TypeError, ValueError):
        msg = f"bounds is {bounds!r}; expected two numbers (low, high) that enclose the spectrum."
        raise ValueError(msg) from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        msg = f"bounds are ({low}, {high}); expected finite numbers, low <= high."
        raise ValueError(msg)
    return SpectralBounds(low, high, low_rigorous=True, high_rigorous=True, how="given")


def known_bounds(op: LinearOperator) -> SpectralBounds:
    """Return what is known of a Hermitian operator without a product; ends may be infinite."""
    low, high, how = op.lower, op.upper, "construction"
    if isinstance(op, ExplicitOperator) and op.shape[0] and not math.isfinite(high - low):
        low, high = gershgorin(op)
        how = "Gershgorin"
    return SpectralBounds(
        low, high, low_rigorous=math.isfinite(low), high_rigorous=math.isfinite(high), how=how
    )


def estimated_bounds(op: LinearOperator, *, known: SpectralBounds, rng: Any = 0) -> SpectralBounds:
    r"""Return the extreme Ritz values with a safeguard, within what is known.

    They lie inside the spectrum, so each end moves out by 4 of its residual norms and 1 % of the
    width, but no more than ``beta_k``: more than twice what was ever missing on twenty-three
    spectra (benchmarks/accuracy/bounds.py). That has no proof: such ends are not called rigorous.

    References
    ----------
    Zhou and Li, J. Comput. Phys. 230, 4385 (2011), who add ``beta_k``.
    """
    n = op.shape[0]
    start = gaussian(n, range(1), key_of(rng), xp=op.xp, dtype=op.dtype, where=op.device)
    (factor,) = tridiagonalize(op, start, STEPS)
    ritz, last = ritz_pairs(factor)
    steps = len(factor.diagonal)
    rounding = 100 * float(op.xp.finfo(op.dtype).eps) * float(np.abs(ritz).max())
    slack = RESIDUALS * factor.residual * np.abs(last) + SHARE * (ritz[-1] - ritz[0])
    slack = np.minimum(slack, factor.residual) + rounding
    low, high = float(ritz[0] - slack[0]), float(ritz[-1] + slack[-1])
    # A proved end is preferred where it makes the interval hardly wider.
    near = NEAR * (high - low)
    proved_low = known.low_rigorous and known.low >= low - near
    proved_high = known.high_rigorous and known.high <= high + near
    low, high = known.low if proved_low else low, known.high if proved_high else high
    unit = float(op.xp.finfo(op.dtype).eps)
    missing = NARROWEST * unit * max(abs(low), abs(high)) - (high - low) / 2
    if missing > 0:  # a multiple of the identity, up to rounding
        low, high = low - missing, high + missing
    return SpectralBounds(
        low,
        high,
        low_rigorous=proved_low,
        high_rigorous=proved_high,
        how="Lanczos with a safeguard",
        matvecs=steps,
        inner=(float(ritz[0]), float(ritz[-1])),
    )
