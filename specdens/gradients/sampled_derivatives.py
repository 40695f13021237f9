"""Derivatives ``f'(A) z`` at the probes of a value, by Lanczos, and what they are worth."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from specdens.arrays.libraries import column_dots
from specdens.arrays.probes import Probes, gaussian
from specdens.estimation.sampling import block_ranges
from specdens.gradients.exact_derivatives import require_derivative
from specdens.gradients.histories import Tensor, entries_of, with_history
from specdens.gradients.links import linked, of_product, recomputed, with_shift
from specdens.operators.gram import Gram
from specdens.problem.prepare import Problem
from specdens.recurrences.lanczos import tridiagonalize
from specdens.recurrences.quadrature import gauss
from specdens.results import AccuracyWarning
from specdens.scalar_functions import ScalarFunction
from specdens.vectors.krylov_function import function_times

__all__ = ["Control", "SampledDerivative", "linked_by_entries", "linked_by_products"]

DOUBTFUL = 0.1
"""Relative error of ``f'(A) z`` by truncation above which `backward` warns."""


@dataclass(frozen=True)
class Control:
    """The least-squares line through f' on the spectrum: the derivative of a polynomial p.

    tr p(A) is known, and so is its gradient: chance enters only through ``f' - p'``.

    Attributes
    ----------
    constant, slope : float
    size : float
        The root mean square of f' over the spectrum.
    """

    constant: float
    slope: float
    size: float


@dataclass(frozen=True)
class SampledDerivative:
    """How ``f'(A) z`` comes from the probes z."""

    problem: Problem
    f: ScalarFunction
    probes: Probes
    steps: int

    def blocks(self) -> list[range]:
        """Return blocks of probes as narrow as those of the value."""
        return block_ranges(self.problem.shifted, self.probes)

    def control(self) -> Control:
        """Fit a line to f' at the Gauss nodes of a probe that is independent of the others."""
        op = self.problem.shifted
        key = 0 if self.probes.key is None else self.probes.key
        start = gaussian(op.shape[1], range(1), key, xp=op.xp, dtype=op.dtype, where=op.device)
        rule = gauss(tridiagonalize(op, start, self.steps)[0])
        slopes, roots = self.f.prime().on_host(rule.nodes), np.sqrt(rule.weights)
        require_derivative(slopes, self.f)
        scale = float(np.abs(rule.nodes).max()) or 1.0
        lines = np.stack([roots, roots * rule.nodes / scale], axis=1)
        (constant, slope), *_ = np.linalg.lstsq(lines, roots * slopes)
        size = math.sqrt(rule.integrate(slopes**2))
        return Control(float(constant), float(slope) / scale, size)

    def times(self, columns: range, control: Control | None) -> tuple[Tensor, Tensor]:
        """Return probes z and ``g = w (f'(A)^H - p'(A)) z``, so that ``sum <g, A z>`` is the mean.

        The weight ``w = n / (R |z|^2)`` is that of the value.
        """
        op, z = self.problem.shifted, self.probes.block(columns)
        hermitian, slope = self.problem.hermitian, _less(self.f.prime(), control)
        # Else A^-H z = A (A^H A)^-1 z, in the Krylov space of Golub and Kahan.
        g, errors = function_times(op if hermitian else Gram(op), slope, z, self.steps)
        mass, squares = np.real(column_dots(z, z)), np.real(column_dots(g, g))
        require_derivative(squares, self.f)
        self._warn_of_truncation(
            errors, np.sqrt(squares if control is None else mass * control.size**2)
        )
        g = g if hermitian else op.matmat(g)
        weights = self.probes.n / (self.probes.count * mass)
        return z, g * op.xp.asarray(weights, dtype=g.dtype, device=op.device)[None, :]

    def _warn_of_truncation(self, errors: Any, sizes: Any) -> None:
        error, size = float(np.linalg.norm(errors)), float(np.linalg.norm(sizes))
        if error <= DOUBTFUL * size:
            return
        share = f"{error / size:.0%}" if math.isfinite(error) and size > 0 else "any amount"
        msg = (
            f"the gradient of tr {self.f.name}(A) may be off by {share}: "
            f"{self.steps} Lanczos steps do not resolve its derivative. "
            f"Raise moments (now {2 * self.steps}), add a shift, or use method='exact'."
        )
        warnings.warn(msg, AccuracyWarning, stacklevel=2)


def _less(slope: ScalarFunction, control: Control | None) -> ScalarFunction:
    """Return ``f' - p'``."""
    if control is None:
        return slope

    def difference(xp: Any, x: Any) -> Any:
        return slope.apply(xp, x) - control.constant - control.slope * x

    return replace(slope, apply=difference)


def linked_by_entries(value: Tensor, sampled: SampledDerivative, shift: Any) -> Tensor:
    """Link the value to the entries of a matrix: the mean of ``g z^H``, and what p' gives.

    Of a Hermitian matrix the Hermitian part is taken, which is nearer to the truth.
    """
    problem = sampled.problem
    entries = entries_of(problem.op)
    tensors, chosen = with_shift(entries.live, shift)

    def derivatives() -> list[Tensor]:
        control = sampled.control() if problem.hermitian else None
        total: Tensor = 0
        trace: Tensor = 0
        for columns in sampled.blocks():
            z, g = sampled.times(columns, control)
            found = entries.outer(g, z)
            if problem.hermitian:
                found = (found + entries.outer(z, g)) / 2
            total, trace = total + found, trace + (g * z.conj()).sum()
        if control is not None:
            constant = control.constant + control.slope * problem.real_shift
            total = total + entries.polynomial(constant, control.slope)
            trace = trace + problem.n * constant + control.slope * entries.op.diagonal().sum()
        return chosen(total, trace)

    return linked(value, derivatives, tensors, tensors)


def linked_by_products(value: Tensor, sampled: SampledDerivative, shift: Any) -> Tensor:
    """Link the value to the products ``A z``; autograd itself finds what they depend on."""
    op = sampled.problem.op
    live = with_history(op)

    def product(columns: range) -> Tensor:
        z = sampled.probes.block(columns)
        return live.matmat(z) + shift * z

    def derivative(columns: range) -> Tensor:
        return sampled.times(columns, None)[1]

    for columns in sampled.blocks():
        y = recomputed(partial(product, columns))
        value = of_product(value, partial(derivative, columns), y, op)
    return value
