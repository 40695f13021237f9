r"""Nonlinear functions of traces: entropies and norms, with the error of their linearisation.

For ``g(tr f_1(A), tr f_2(A))`` the first-order error is that of the one trace
``tr sum_k (dg/dT_k) f_k(A)``: a standard error and a truncation bound like those of any trace, in
which the parts cancel that the traces have in common (the delta method).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from specdens.estimation.estimate import OVERFLOW
from specdens.results import Estimate
from specdens.scalar_functions import ScalarFunction

__all__ = ["entropy", "exponential_of", "power", "renyi_entropy", "root_of_sum", "transformed"]

LARGEST = math.log(np.finfo(float).max)

Trace: TypeAlias = Callable[[ScalarFunction], Estimate]
"""The trace of a function of one and the same matrix, from one and the same probes."""


def power(p: float, scale: float = 1.0, *, nonnegative: bool) -> ScalarFunction:
    """Return ``|x / scale|^p``; of a spectrum without negative numbers, ``(x / scale)^p``.

    For p <= 2 the derivatives of the latter from the second on have alternating signs.
    """
    # |x|^p is a polynomial for even p, and x^p for every whole one.
    polynomial = p == int(p) and (nonnegative or p % 2 == 0)

    def apply(xp: Any, x: Any) -> Any:
        size = x / scale if nonnegative else xp.abs(x / scale)
        return size if p == 1 else size**p

    return ScalarFunction(
        f"power {p:g}",
        apply,
        "nonnegative" if nonnegative else "real",
        "low" if nonnegative and p <= 2 else None,
        degree=int(p) if polynomial else None,
    )


def exponential_of(rate: float) -> ScalarFunction:
    """Return ``exp(rate * x)``."""
    bracket = "high" if rate > 0 else "low"
    return ScalarFunction(f"exp({rate:g} x)", lambda xp, x: xp.exp(rate * x), "real", bracket)


def transformed(estimate: Estimate, value: float, slope: float) -> Estimate:
    """Return a value that depends on an estimate, with that slope, and its errors to first order.

    Where the value is no number, or the slope infinite, the errors are what they were.
    """
    if not (math.isfinite(value) and math.isfinite(slope)):
        return replace(estimate, value=value)
    return replace(
        estimate,
        value=value,
        stderr=abs(slope) * estimate.stderr,
        bias_bound=abs(slope) * estimate.bias_bound,
    )


def entropy(trace: Trace, *, nonnegative: bool, bracketed: bool = True) -> Estimate:
    """Return ``-sum_i p_i log p_i`` with ``p_i = |x_i| / sum_j |x_j|``.

    Rules of singular values, which integrate over squares, do not bracket it: `bracketed` is False.
    """
    total = _total(trace, nonnegative=nonnegative)

    def shares(x: Any) -> Any:
        return (np.maximum(x, 0) if nonnegative else np.abs(x)) / total

    def negative_plogp(_: Any, x: Any) -> Any:
        p = shares(x)
        return -p * np.log(np.where(p > 0, p, 1.0))

    f = ScalarFunction(
        "the entropy",
        negative_plogp,
        "nonnegative" if nonnegative else "real",
        "low" if nonnegative and bracketed else None,
    )
    found = trace(f)
    value = float(found)
    # What is linear in x leaves the higher derivatives alone, so that f's brackets still hold.
    linear = replace(f, apply=lambda xp, x: negative_plogp(xp, x) + (1 - value) * shares(x))

    return replace(trace(linear), value=value)


def renyi_entropy(trace: Trace, order: float, scale: float, *, nonnegative: bool) -> Estimate:
    """Return ``log(sum_i p_i^order) / (1 - order)`` with ``p_i = |x_i| / sum_j |x_j|``.

    Of ``x / scale``, with a scale near the largest, so that no power vanishes.
    """
    if order == 1:
        return entropy(trace, nonnegative=nonnegative)
    total = _total(trace, nonnegative=nonnegative)
    f = power(order, scale, nonnegative=nonnegative)
    share = power(1.0, total, nonnegative=nonnegative)
    found = float(trace(f))
    linear = replace(
        f, apply=lambda xp, x: (f.apply(xp, x) / found - order * share.apply(xp, x)) / (1 - order)
    )
    value = (math.log(found) + order * math.log(scale / total)) / (1 - order)
    return replace(trace(linear), value=value)


def _total(trace: Trace, *, nonnegative: bool) -> float:
    """Return the trace, or the nuclear norm, that shares are shares of."""
    total = float(trace(power(1.0, nonnegative=nonnegative)))
    if not 0 < total < math.inf:
        msg = (
            f"the eigenvalues (or singular values) of A sum up to {total:.6g}; an entropy needs a "
            "positive sum, of which they are shares."
        )
        raise ValueError(msg)
    return total


def root_of_sum(trace: Trace, p: float, scale: float, *, nonnegative: bool) -> Estimate:
    """Return ``(sum_i |x_i|^p)^(1/p)``; `scale` is near the largest, so that powers fit."""
    if scale == 0:
        return Estimate(value=0.0)
    found = trace(power(p, scale, nonnegative=nonnegative))
    total = float(found)
    if not math.log(total) / p + math.log(scale) < LARGEST:
        flags = (*found.flags, OVERFLOW)
        return replace(found, value=math.inf, flags=flags, converged=False)
    norm = scale * math.exp(math.log(total) / p)
    return transformed(found, norm, norm / (p * total))
