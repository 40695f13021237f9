"""Derivatives ``f'(A) z`` at the probes of a value, by Lanczos, and what they are worth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from specdens.arrays.libraries import adjoint, column_dots, matmul
from specdens.arrays.probes import Probes, gaussian
from specdens.estimation.sampling import block_ranges
from specdens.gradients.exact_derivatives import require_derivative
from specdens.gradients.histories import Tensor, entries_of, with_history
from specdens.gradients.links import linked, of_product, recomputed, with_shift
from specdens.operators.gram import Gram
from specdens.problem.prepare import Problem
from specdens.recurrences.krylov_basis import KrylovBasis
from specdens.recurrences.lanczos import tridiagonalize
from specdens.recurrences.quadrature import gauss
from specdens.results import AccuracyWarning
from specdens.scalar_functions import ScalarFunction
from specdens.vectors.krylov_function import function_times

__all__ = ["Control", "SampledDerivative", "linked_by_entries", "linked_by_products"]

DOUBTFUL = 0.1
"""Relative error of ``f'(A) z`` by truncation above which `backward` warns."""

LEAST_BASIS = 40
"""Products that the search for outliers may spend in any case."""

LEAST_OUTLIERS = 8
"""Outliers that may be taken beside few probes."""

OUTLYING = 2.0
"""Times the median size of eigenvalues from which on one is an outlier."""

RESIDUAL = 0.1
"""Relative residual of a Ritz pair up to which its vector is near an eigenvector."""

ISOLATED = 4.0
"""Times 1/n: quadrature weight up to which a Ritz value stands for one eigenvalue."""

MOST_DOUBLED = 16
"""Times the steps of the value, where the derivative needs more."""


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
    """How ``f'(A) z`` comes from the probes z.

    Attributes
    ----------
    problem, f, probes
        Of the value.
    steps : int
        Of Lanczos, for each probe.
    share : float or None
        Relative error of truncation above which steps are doubled: f' has a stronger pole than f.
        None where the caller has fixed them.
    """

    problem: Problem
    f: ScalarFunction
    probes: Probes
    steps: int
    share: float | None = None

    def blocks(self) -> list[range]:
        """Return blocks of probes as narrow as those of the value."""
        return block_ranges(self.problem.shifted, self.probes)

    def outliers(self) -> Tensor | None:
        """Return orthonormal vectors near the eigenvectors of the few largest eigenvalues, if any.

        As ``I = U U^H + Q``, ``tr f'(A) dA = tr U^H dA f'(A) U + E[z^H Q dA f'(A) Q z]`` for any of
        them: the first part is free of chance, and of smooth kernels dA is all but 0 in the second.
        """
        op = self.problem.shifted
        if not self.problem.hermitian or op.shape[1] < 4:
            return None
        basis = KrylovBasis(op, self._independent())
        basis.grow(min(max(2 * self.steps, LEAST_BASIS), op.shape[1] // 2))
        pairs = basis.ritz()
        size = np.abs(pairs.values)
        order = np.argsort(size)
        half = int(np.searchsorted(np.cumsum(pairs.weights[order]), 0.5))
        typical = float(size[order][min(half, len(order) - 1)])
        found = (pairs.residuals < RESIDUAL * size) & (size > OUTLYING * typical)
        found &= pairs.weights <= ISOLATED / op.shape[1]
        taken = order[found[order]][::-1][: max(LEAST_OUTLIERS, self.probes.count)]
        if not len(taken):
            return None
        turn = op.xp.asarray(pairs.vectors[:, taken], dtype=op.dtype, device=op.device)
        return matmul(basis.vectors(), turn)

    def _independent(self) -> Tensor:
        """Return a vector that does not depend on the probes."""
        op = self.problem.shifted
        key = 0 if self.probes.key is None else self.probes.key
        return gaussian(op.shape[1], range(1), key, xp=op.xp, dtype=op.dtype, where=op.device)

    def control(self, outliers: Tensor | None) -> Control | None:
        """Fit a line to f' at the Gauss nodes of a vector that is independent of the probes.

        Its residual counts in directions dA like I and like A itself, where few large eigenvalues
        weigh most. A line that is worse than none in one of them is left out.
        """
        op = self.problem.shifted
        start = _outside(self._independent(), outliers)
        rule = gauss(tridiagonalize(op, start, self.steps)[0])
        slopes = self.f.prime().on_host(rule.nodes)
        require_derivative(slopes, self.f)
        scale = float(np.abs(rule.nodes).max()) or 1.0
        x = rule.nodes / scale
        sizes = [rule.integrate(slopes**2 * x**k) for k in (0, 2)]
        if not all(size > 0 for size in sizes):
            return None
        roots = np.sqrt(rule.weights * (1 / sizes[0] + x**2 / sizes[1]))
        (constant, slope), *_ = np.linalg.lstsq(
            np.stack([roots, roots * x], axis=1), roots * slopes
        )
        left = (slopes - constant - slope * x) ** 2
        if any(rule.integrate(left * x**k) > size for k, size in zip((0, 2), sizes, strict=True)):
            return None
        return Control(float(constant), float(slope) / scale, math.sqrt(sizes[0]))

    def times(
        self, columns: range, control: Control | None = None, outliers: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return probes z and ``g = w (f'(A)^H - p'(A)) z``, so that ``sum <g, A z>`` is the mean.

        The weight ``w = n / (R |z|^2)`` is that of the value. Outliers are taken from the probes.
        """
        op, z = self.problem.shifted, self.probes.block(columns)
        mass = np.real(column_dots(z, z))
        z = _outside(z, outliers)
        weights = self.probes.n / (self.probes.count * mass)
        g = self.product(z, mass, control)
        return z, g * op.xp.asarray(weights, dtype=g.dtype, device=op.device)[None, :]

    def pairs(
        self, control: Control | None, outliers: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the probes by blocks, the outliers last.

        Yields
        ------
        tensor, tensor, shape (n, R)
            z and g.
        """
        for columns in self.blocks():
            yield self.times(columns, control, outliers)
        if outliers is not None:
            yield outliers, self.product(outliers, np.ones(outliers.shape[1]), control)

    def product(self, z: Tensor, mass: Any, control: Control | None) -> Tensor:
        """Return ``(f'(A)^H - p'(A)) z``; `mass` is ``|z|^2`` by columns, before it was reduced."""
        g = self._resolved(z, mass, control)
        return g if self.problem.hermitian else self.problem.shifted.matmat(g)

    def _resolved(self, z: Tensor, mass: Any, control: Control | None) -> Tensor:
        """Return ``(f'(A) - p'(A)) z``, by as many steps as it takes; warn where they do not do."""
        op = self.problem.shifted
        # Else A^-H z = A (A^H A)^-1 z, in the Krylov space of Golub and Kahan.
        op = op if self.problem.hermitian else Gram(op)
        slope, steps = _less(self.f.prime(), control), self.steps
        while True:
            g, errors = function_times(op, slope, z, steps)
            squares = np.real(column_dots(g, g))
            require_derivative(squares, self.f)
            sizes = squares if control is None else mass * control.size**2
            error, size = float(np.linalg.norm(errors)), math.sqrt(float(np.sum(sizes)))
            most = min(MOST_DOUBLED * self.steps, op.shape[1])
            if self.share is None or error <= self.share * size or steps >= most:
                break
            steps = min(2 * steps, most)
        if not error <= DOUBTFUL * size:
            self._warn(error / size if math.isfinite(error) and size > 0 else math.inf, steps)
        return g

    def _warn(self, share: float, steps: int) -> None:
        amount = f"{share:.0%}" if math.isfinite(share) else "any amount"
        advice = (
            f"Raise moments (now {2 * steps})" if self.share is None else "Ask for a smaller rtol"
        )
        msg = (
            f"the gradient of tr {self.f.name}(A) may be off by {amount}: {steps} Lanczos steps do "
            f"not resolve its derivative; beside that it has the noise of {self.probes.count} "
            f"probes. {advice}, add a shift, or use method='exact'."
        )
        warnings.warn(msg, AccuracyWarning, stacklevel=2)


def _outside(z: Tensor, outliers: Tensor | None) -> Tensor:
    """Return what is orthogonal to the outliers."""
    return z if outliers is None else z - matmul(outliers, matmul(adjoint(outliers), z))


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
        outliers = sampled.outliers()
        control = sampled.control(outliers) if problem.hermitian else None
        total: Tensor = 0
        trace: Tensor = 0
        for z, g in sampled.pairs(control, outliers):
            outer = entries.outer(g, z)
            if problem.hermitian:
                outer = (outer + entries.outer(z, g)) / 2
            total, trace = total + outer, trace + (g * z.conj()).sum()
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
        return sampled.times(columns)[1]

    for columns in sampled.blocks():
        y = recomputed(partial(product, columns))
        value = of_product(value, partial(derivative, columns), y, op)
    return value
