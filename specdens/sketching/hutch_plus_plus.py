r"""Hutch++: a basis Q of the range takes ``tr Q^H A Q`` exactly, probes estimate what it leaves.

The adaptive version chooses the size of Q and the number of probes for a tolerance.
"""

from __future__ import annotations

import math

import numpy as np

from specdens.arrays.libraries import Array, adjoint, column_dots, matmul
from specdens.operators.algebra import Counting
from specdens.operators.linear_operator import LinearOperator
from specdens.results import Estimate
from specdens.sketching.sketch import Sketch, draw, gram, no_columns, product
from specdens.sketching.stopping import Tolerance

__all__ = ["adaptive_hutch_plus_plus", "hutch_plus_plus"]

STREAM = 34
"""Of the probes, which must not know the test vectors of the sketch."""

STEP = 8
"""Columns that the adaptive version adds at a time, and its first probes."""

SMALLEST = 1e-150
"""In place of a tolerance of 0; its square is not 0."""

PATIENCE = 2
"""Steps without gain after which the sketch is large enough."""


def hutch_plus_plus(op: LinearOperator, sketched: int, probes: int, key: int) -> Estimate:
    """Return Hutch++ of any square operator: 2 products a test vector of the sketch, 1 a probe.

    References
    ----------
    Meyer, Musco, Musco and Woodruff, SOSA 2021, algorithm 1.
    """
    counted = Counting(op)
    sketch, rest = Sketch(counted, key, kind="sphere"), _Rest(counted, key)
    sketch.grow(sketched)
    rest.grow(probes)
    return rest.estimate(sketch, counted.count)


def adaptive_hutch_plus_plus(
    op: LinearOperator, tolerance: Tolerance, limit: int, key: int
) -> Estimate:
    """Return Hutch++ with as large a sketch as saves probes, within a limit of products.

    k columns cost 2 k products and leave a variance of ``2 rho / R`` to R probes, where
    ``rho = ||(I - Q Q^H) A (I - Q Q^H)||_F^2`` is estimated by the probes at hand: their parts
    outside a larger Q, and A's products with these, take no new product.

    References
    ----------
    Persson, Cortinovis and Kressner, SIAM J. Matrix Anal. Appl. 43, 1162 (2022), section 3.
    """
    counted = Counting(op)
    sketch, rest = Sketch(counted, key, kind="sphere"), _Rest(counted, key)
    rest.grow(min(STEP, limit))
    best, worse = math.inf, 0
    while worse < PATIENCE and counted.count + 3 * STEP <= limit and not sketch.complete:
        allowed = tolerance.of(rest.estimate(sketch, counted.count).value)
        needed = _probes_needed(rest, sketch, allowed)
        if needed <= rest.size + 2 * STEP:  # what the next columns cost
            break
        affordable = limit - 2 * sketch.size
        # Beyond the limit what counts is how far the error will stay above the tolerance.
        cost = limit * needed / affordable if needed > affordable else 2 * sketch.size + needed
        best, worse = min(best, cost), 0 if cost < best else worse + 1
        sketch.grow(STEP)
    while True:
        found = rest.estimate(sketch, counted.count)
        left = limit - counted.count
        if tolerance.met(found) or left < 1:
            return found
        ratio = tolerance.half_width(found) / max(tolerance.of(found.value), SMALLEST)
        wanted = min(rest.size * ratio * ratio, limit)
        rest.grow(min(left, max(STEP, math.ceil(wanted) - rest.size)))


def _probes_needed(rest: _Rest, sketch: Sketch, error: float) -> float:
    """Return how many probes bring two standard errors down to an error."""
    return 8 * rest.squared_norm(sketch) / max(error, SMALLEST) ** 2


class _Rest:
    """Probes of what a sketch leaves of A; they do not know it, so that it may still grow."""

    def __init__(self, op: LinearOperator, key: int) -> None:
        self.op, self.key = op, key
        self.probes = self.images = no_columns(op)

    @property
    def size(self) -> int:
        """The number of probes."""
        return int(self.probes.shape[1])

    def grow(self, count: int) -> None:
        """Add probes, one product each."""
        columns = range(self.size, self.size + count)
        more = draw(self.op, columns, self.key, kind="sphere", stream=STREAM)
        images = product(self.op, self.op.matmat, more)
        self.probes = self.op.xp.concat([self.probes, more], axis=1)
        self.images = self.op.xp.concat([self.images, images], axis=1)

    def _outside(self, sketch: Sketch) -> tuple[Array, Array]:
        """Return y, the parts of the probes outside the basis, and ``(I - Q Q^H) A y``."""
        inner = matmul(adjoint(sketch.basis), self.probes)
        y, images = (
            self.probes - matmul(sketch.basis, inner),
            self.images - matmul(sketch.images, inner),
        )
        return y, images - matmul(sketch.basis, matmul(adjoint(sketch.basis), images))

    def squared_norm(self, sketch: Sketch) -> float:
        """Return an estimate of ``||(I - Q Q^H) A (I - Q Q^H)||_F^2``."""
        _, images = self._outside(sketch)
        return float(np.mean(np.real(column_dots(images, images))))

    def estimate(self, sketch: Sketch, matvecs: int) -> Estimate:
        """Return the trace within the basis plus the mean over probes of what is outside.

        The parts outside are normalised: uniform on the sphere of the complement, they are exact
        for multiples of the identity. The scatter of few values can be small by luck: the error is
        at least that of the squared norm.
        """
        y, images = self._outside(sketch)
        mass = self.op.shape[0] - sketch.basis.shape[1]
        norms = np.real(column_dots(y, y))
        values = mass * column_dots(y, images) / norms
        centered = images - (values.mean() / mass).item() * y
        spread = mass * float(np.mean(np.real(column_dots(centered, centered)) / norms))
        plug_in = math.sqrt(spread * (1 if np.iscomplexobj(values) else 2))
        scatter = max(float(np.std(values, ddof=1)), plug_in)
        return Estimate(
            value=(gram(sketch.basis, sketch.images).trace() + values.mean()).item(),
            stderr=scatter / math.sqrt(len(values)),
            matvecs=matvecs,
            samples=len(values),
            method="hutch++",
            seed=self.key,
        )
