"""The values opposite to those of Gauss rules: with a node at an end of the spectrum."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from specdens.recurrences.lanczos import Bidiagonal, Tridiagonal
from specdens.recurrences.quadrature import Rule, radau
from specdens.results import SpectralBounds
from specdens.scalar_functions import ScalarFunction

__all__ = ["bracketing_end", "radau_values"]

Host: TypeAlias = np.ndarray[Any, Any]
Factor: TypeAlias = Tridiagonal | Bidiagonal


def bracketing_end(f: ScalarFunction, known: SpectralBounds) -> float | None:
    """Return the rigorous end of the spectrum from which f's Gauss-Radau rule is a bound."""
    if f.bracket == "low" and known.low_rigorous:
        return known.low if known.low > 0 or (known.low == 0 and not f.pole) else None
    if f.bracket == "high" and known.high_rigorous:
        return known.high
    return None


def radau_values(factors: list[Factor], f: ScalarFunction, end: float) -> Host | None:
    """Return the Gauss-Radau value of each probe, or None if a Ritz value lies beyond the end."""
    found = []
    for factor in factors:
        if isinstance(factor, Bidiagonal):
            rule = _singular_radau(factor, end)
        else:
            rule = radau(factor, end)
        if rule is None:
            return None
        found.append(rule.integrate(f.on_host(rule.nodes)))
    return np.array(found)


def _singular_radau(factor: Bidiagonal, end: float) -> Rule | None:
    """Return the Gauss-Radau rule of ``A^H A``, from ``B^T B``, with square roots as nodes."""
    scale = float(np.abs(factor.diagonal).max())  # squares of tiny or huge entries would not fit
    d, e = factor.diagonal / scale, factor.super_diagonal / scale
    squares = d**2
    squares[1:] += e**2
    product = Tridiagonal(squares, d[:-1] * e, float(d[-1] * factor.residual / scale))
    rule = radau(product, (end / scale) ** 2)
    if rule is None:
        return None
    return Rule(scale * np.sqrt(np.maximum(rule.nodes, 0)), rule.weights)
