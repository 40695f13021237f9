"""An interval that contains the spectrum: known by proof, or by Lanczos with a safeguard."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specdens._probes import gaussian, key_of
from specdens.adapters import ExplicitOperator
from specdens.lanczos import tridiagonalize
from specdens.linear_operator import LinearOperator
from specdens.quadrature import gauss
from specdens.results import SpectralBounds

__all__ = ["estimated_bounds", "gershgorin", "known_bounds", "stated_bounds"]

STEPS = 20
"""Lanczos steps: the extreme Ritz values are then within a few per cent of the width."""


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
    if isinstance(op, ExplicitOperator) and op.shape[0]:
        low, high = gershgorin(op)
        how = "Gershgorin"
    return SpectralBounds(
        low, high, low_rigorous=math.isfinite(low), high_rigorous=math.isfinite(high), how=how
    )


def estimated_bounds(op: LinearOperator, *, known: SpectralBounds, rng: Any = 0) -> SpectralBounds:
    r"""Return Lanczos bounds ``[theta_1 - beta_k, theta_k + beta_k]``, within what is known.

    The extreme Ritz values lie inside the spectrum; adding the next off-diagonal coefficient is the
    usual safeguard. It has no proof, so the ends that come from it are not called rigorous.

    References
    ----------
    Zhou and Li, J. Comput. Phys. 230, 4385 (2011): bounds for Chebyshev filters.
    """
    n = op.shape[0]
    start = gaussian(n, range(1), key_of(rng), xp=op.xp, dtype=op.dtype, where=op.device)
    (factor,) = tridiagonalize(op, start, STEPS)
    ritz = gauss(factor).nodes
    steps = len(factor.diagonal)
    # A spread at the level of rounding: the matrix is a multiple of the identity.
    slack = factor.residual + 100 * float(op.xp.finfo(op.dtype).eps) * float(np.abs(ritz).max())
    low, high = float(ritz[0]) - slack, float(ritz[-1]) + slack
    return SpectralBounds(
        max(low, known.low),
        min(high, known.high),
        low_rigorous=known.low_rigorous and known.low >= low,
        high_rigorous=known.high_rigorous and known.high <= high,
        how="Lanczos with a safeguard",
        matvecs=steps,
        inner=(float(ritz[0]), float(ritz[-1])),
    )
