"""Run probes through a recurrence, block by block, and keep what is small."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array
from specdens.arrays.probes import Probes, make_probes
from specdens.estimation.control_variates import (
    controlled_table,
    known_chebyshev,
    moments_contradict,
)
from specdens.kernels.compiled import padded_width
from specdens.operators.linear_operator import LinearOperator
from specdens.operators.power_traces import PowerTraces
from specdens.problem.bounds import estimated_bounds
from specdens.recurrences.chebyshev_moments import chebyshev_moments
from specdens.recurrences.chebyshev_series import to_unit
from specdens.recurrences.lanczos import Bidiagonal, Tridiagonal, bidiagonalize, tridiagonalize
from specdens.recurrences.quadrature import Rule, gauss
from specdens.results import PLUG_IN_BELOW, SpectralBounds

__all__ = [
    "Moments",
    "bidiagonals",
    "bounds_for",
    "block_ranges",
    "by_blocks",
    "known_traces",
    "moments_by_chebyshev",
    "moments_by_lanczos",
    "moments_of_rules",
    "probes_for",
    "standard_error",
    "tridiagonals",
    "widened",
    "with_known_moments",
]

Host: TypeAlias = np.ndarray[Any, Any]

MEMORY = 2**31
"""Bytes for the blocks of a recurrence, unless an operator has its own `max_memory`."""

BLOCK_BYTES = 2**27
"""Size of one block of vectors where there are many of them."""

WIDEST = 32

FAST_BLOCKS, PLAIN_BLOCKS = 2, 4
"""Blocks that a recurrence holds at once, in place and by products that make new ones."""

READING = 5
"""What it costs to read a matrix once, in columns of a block that a step updates."""


@dataclass(frozen=True)
class Moments:
    """The Chebyshev moments of all probes.

    Attributes
    ----------
    table : ndarray, shape (N, R)
        Each probe's, divided by its ``mu_0``.
    bounds : SpectralBounds
        The interval that was mapped to [-1, 1].
    """

    table: Host
    bounds: SpectralBounds


def probes_for(op: LinearOperator, probes: Any, rng: Any, distribution: str = "signs") -> Probes:
    """Return the probes that ``probes=`` and ``rng=`` ask for, as columns that op can take."""
    home = {"xp": op.xp, "dtype": op.dtype, "where": op.device}
    return make_probes(probes, op.shape[1], rng, distribution=distribution, **home)


def block_ranges(op: LinearOperator, probes: Probes, first: int = 0) -> list[range]:
    """Cut the numbers of probes, from the first on, into those of the blocks to be multiplied."""
    count = probes.count - first
    # Never the n x n identity itself.
    most = -(-probes.n // 2) if probes.exhaustive else count
    parts = [count] if most >= count else [most, count - most]
    widths = [width for part in parts for width in _block_widths(op, part)]
    ends = first + np.cumsum([0, *widths])
    return [range(int(a), int(b)) for a, b in itertools.pairwise(ends)]


def _block_widths(op: LinearOperator, count: int) -> list[int]:
    """Return the widths of the blocks in which so many vectors are multiplied."""
    fast = op.recurrence(op.widths[0]) is not None
    widest = _widest(op, FAST_BLOCKS if fast else PLAIN_BLOCKS)
    if not fast or widest < op.widths[0]:
        return [min(widest, count - i) for i in range(0, count, widest)]
    return list(_cheapest(count, tuple(width for width in op.widths if width <= widest)))


def _widest(op: LinearOperator, blocks: int) -> int:
    """Return how many vectors may share a product where so many blocks of them are held."""
    each = blocks * op.itemsize * max(1, op.shape[1])
    room = MEMORY if op.max_memory is None else op.max_memory
    if op.max_memory is not None and each > room:
        msg = f"max_memory is {room} bytes; a recurrence with one vector takes {each}. Allow more."
        raise ValueError(msg)
    return max(1, min(WIDEST, room // each))


@lru_cache(maxsize=1000)
def _cheapest(count: int, widths: tuple[int, ...]) -> tuple[int, ...]:
    """Cut a number of columns into widths of compiled code: none is read or updated for nothing."""
    if count > 2 * widths[-1]:
        return (widths[-1], *_cheapest(count - widths[-1], widths))
    if count <= 0:
        return ()
    choices = [(min(width, count), *_cheapest(count - width, widths)) for width in widths]
    return min(choices, key=lambda cut: sum(READING + (padded_width(k, widths) or k) for k in cut))


def by_blocks(
    op: LinearOperator, probes: Probes, run: Callable[[Array], list[Any]], *, first: int = 0
) -> list[Any]:
    """Run blocks of probes, from the first on; what comes back does not depend on the width."""
    return [found for part in block_ranges(op, probes, first) for found in run(probes.block(part))]


def tridiagonals(op: LinearOperator, probes: Probes, moments: int) -> list[Tridiagonal]:
    """Run Lanczos for `moments` moments a probe: half as many products."""
    steps = math.ceil(moments / 2)
    own = probes.given is None
    return by_blocks(op, probes, lambda x: tridiagonalize(op, x, steps, overwrite=own))


def bidiagonals(op: LinearOperator, probes: Probes, moments: int) -> list[Bidiagonal]:
    """Run Golub-Kahan for `moments` moments of ``A^H A`` a probe: as many products in all."""
    steps = math.ceil(moments / 2)
    return by_blocks(op, probes, lambda block: bidiagonalize(op, block, steps))


def moments_by_chebyshev(
    op: LinearOperator, probes: Probes, count: int, bounds: SpectralBounds
) -> Moments:
    """Return N moments of each probe by the Chebyshev recurrence, for ``floor(N/2)`` products.

    Raises
    ------
    EscapeError
        If a moment shows an eigenvalue outside the interval.
    """
    own = probes.given is None

    def run(block: Array) -> list[Host]:
        low, high = bounds
        return list(chebyshev_moments(op, block, count, low, high, overwrite=own).T)

    return Moments(np.array(by_blocks(op, probes, run)).T, bounds)


def known_traces(op: LinearOperator, probes: Probes) -> PowerTraces:
    """Return ``tr A, tr A^2, ...`` where they may correct what these probes give."""
    if probes.key is None or probes.exhaustive:
        return PowerTraces.about_zero((), op.shape[1])
    return op.centered_traces()


def with_known_moments(
    table: Host, bounds: SpectralBounds, traces: PowerTraces
) -> tuple[Host, int, bool]:
    """Return the moments of all probes, corrected by those that traces tell exactly.

    And how many these are, and whether the probes contradict what was stated of them: then nothing
    is corrected.
    """
    if traces.degree == 0 or table.shape[1] < 2 or bounds.low == bounds.high:
        return table, 0, False
    exact = known_chebyshev(traces, bounds.low, bounds.high, len(table))
    if moments_contradict(table, exact, traces.values[0]):
        return table, 0, traces.stated
    return controlled_table(table, exact), len(exact) - 1, False


def moments_by_lanczos(
    op: LinearOperator, probes: Probes, count: int, *, margin: float, stated: SpectralBounds | None
) -> Moments:
    """Return N moments of each probe from its Gauss rule: ``mu_k = sum_j w_j T_k(x_j)``.

    The interval is chosen afterwards: what was stated, if all nodes lie inside, else the nodes'
    own, widened by a share of its width.

    References
    ----------
    Chen, J. Chem. Phys. 159, 114101 (2023).
    """
    rules = [gauss(factor) for factor in tridiagonals(op, probes, count)]
    return moments_of_rules(rules, count, margin=margin, stated=stated)


def moments_of_rules(
    rules: list[Rule], count: int, *, margin: float, stated: SpectralBounds | None
) -> Moments:
    """Return N moments of each rule, on an interval chosen as `moments_by_lanczos` says."""
    low = min(float(rule.nodes[0]) for rule in rules)
    high = max(float(rule.nodes[-1]) for rule in rules)
    rounding = 1e-6 * (high - low)
    if stated is not None and stated.low <= low + rounding and high - rounding <= stated.high:
        bounds = stated
    else:
        bounds = SpectralBounds(low, high, False, False, "extreme Ritz values", inner=(low, high))
    bounds = widened(bounds, margin)
    t = [np.clip(to_unit(rule.nodes, *bounds), -1, 1) for rule in rules]
    orders = np.arange(count)[:, None]
    columns = [np.cos(orders * np.arccos(x)) @ r.weights for x, r in zip(t, rules, strict=True)]
    return Moments(np.array(columns).T, bounds)


def bounds_for(
    op: LinearOperator, known: SpectralBounds, *, stated: bool, key: int | None
) -> SpectralBounds:
    """Return the interval for a Chebyshev recurrence: what the caller stated, else an estimate."""
    if stated:
        return known
    return estimated_bounds(op, known=known, rng=0 if key is None else key)


def widened(bounds: SpectralBounds, margin: float) -> SpectralBounds:
    """Return an interval wider by a share of its width; a point gets a width."""
    low, high = bounds
    largest = max(abs(low), abs(high), 1e-300)
    slack = margin * (high - low if high - low > 1e-12 * largest else largest)
    return replace(bounds, low=low - slack, high=high + slack)


def standard_error(values: Host, probes: Probes, spread: float) -> float:
    r"""Return the standard error of the mean of per-probe values, for mass 1.

    From their scatter; with fewer than 4 probes at least the plug-in ``2 Var_mu(f) / (n + 2)`` of
    one real probe, which is exact on the sphere and larger than that of signs. Orthogonal probes
    are a sample without replacement: their values over a whole basis sum to a constant, so that
    the variance carries the factor 1 - R/n exactly.
    """
    if probes.exhaustive:
        return 0.0
    count = len(values)
    scatter = float(np.std(values, ddof=1)) if count > 1 else 0.0
    if count < PLUG_IN_BELOW:
        scatter = max(scatter, math.sqrt(2 * spread / (probes.n + 2)))
    left = 1 - count / probes.n if probes.distribution == "orthogonal" else 1.0
    return scatter * math.sqrt(left / count)
