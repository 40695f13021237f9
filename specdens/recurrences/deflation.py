r"""Two ways to take what a Krylov basis has found out of the hands of chance.

Log of a positive definite A: with the Ritz pairs (d_i, u_i), ``P = U d U^H + tau (I - U U^H)``, and
``log det A = log det P + tr log M``, ``M = P^(-1/2) A P^(-1/2)``, for any P. The Lanczos relation
gives tr M and tr M^2 exactly, so that they still serve as control variates.

Any f: ``tr f(A) = tr Q^H f(A) Q + E[y^H f(A) y]`` with probes ``y = (I - Q Q^H) z``; the traces of
A and A^2 on the complement are known exactly, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, adjoint, matmul
from specdens.operators.linear_operator import LinearOperator, Step
from specdens.operators.power_traces import PowerTraces
from specdens.recurrences.krylov_basis import KrylovBasis, RitzPairs
from specdens.scalar_functions import ScalarFunction

__all__ = [
    "Captured",
    "Complement",
    "Preconditioned",
    "captured_part",
    "converged_pairs",
    "typical_value",
]

Host: TypeAlias = np.ndarray[Any, Any]

TOLERANCE = 0.1
"""Relative residual below which a Ritz pair enters P; 0.5 makes flat spectra worse."""

ISOLATED = 4.0
"""Times 1/n: quadrature weight up to which a Ritz value stands for one eigenvalue."""


def converged_pairs(pairs: RitzPairs) -> Host:
    """Return which Ritz pairs describe eigenvectors well enough to precondition with."""
    return np.asarray((pairs.values > 0) & (pairs.residuals < TOLERANCE * pairs.values))


def remaining_weights(pairs: RitzPairs, taken: Host, n: int) -> Host:
    """Return the quadrature weights of what stays after one eigenvector a taken pair is removed.

    A Ritz value of large weight stands for a cluster, of which the basis holds one vector.
    """
    cluster = np.maximum(pairs.weights - 1 / n, 0) * (pairs.weights > ISOLATED / n)
    rest = np.where(taken, cluster, pairs.weights)
    total = rest.sum()
    return rest * ((1 - np.count_nonzero(taken) / n) / total) if total > 0 else rest


def typical_value(pairs: RitzPairs, taken: Host, n: int) -> float:
    """Return tau: the geometric mean of the eigenvalues that are not deflated."""
    rest = remaining_weights(pairs, taken, n)
    positive = (pairs.values > 0) & (rest > 0)
    if not np.any(positive):
        return float(pairs.values[pairs.values > 0].min())
    logs = np.log(pairs.values[positive])
    return math.exp(float(rest[positive] @ logs / rest[positive].sum()))


class Preconditioned(LinearOperator):
    """``M = P^(-1/2) A P^(-1/2)``; costs one product with A and ``8 n k`` operations a vector.

    Parameters
    ----------
    op : LinearOperator, shape (n, n)
        Hermitian.
    basis : KrylovBasis
        Of op.

    References
    ----------
    Wenger et al., Preconditioning for scalable Gaussian process hyperparameter optimization, ICML
    2022, for log det A = log det P + tr log M.
    """

    def __init__(self, op: LinearOperator, basis: KrylovBasis) -> None:
        super().__init__(
            op.shape, dtype=op.dtype, xp=op.xp, device=op.device, result_dtype=op.result_dtype
        )
        pairs = basis.ritz()
        taken = converged_pairs(pairs)
        self.hermitian, self.base = True, op
        self.hermitian_by_construction = True  # the products of the basis were compared
        self._d, self._residuals = pairs.values[taken], pairs.residuals[taken]
        self._tau = typical_value(pairs, taken, op.shape[0])
        turn = op.xp.asarray(pairs.vectors[:, taken], dtype=op.dtype, device=op.device)
        self._u = matmul(basis.vectors(), turn)
        scale = self._d**-0.5 - self._tau**-0.5
        self._scale = op.xp.asarray(scale, dtype=op.dtype, device=op.device)[:, None]

    @property
    def logdet(self) -> float:
        """``log det P``."""
        return float(np.log(self._d).sum()) + (self.shape[0] - self.rank) * math.log(self._tau)

    @property
    def rank(self) -> int:
        """The number of Ritz pairs in P."""
        return len(self._d)

    @property
    def largest(self) -> float:
        """The largest eigenvalue of P: if ``A >= a I``, then ``M >= a / largest``."""
        return max(self._tau, *self._d) if self.rank else self._tau

    @property
    def unit(self) -> float:
        """The unit roundoff of products, which the largest eigenvalues of A have a say in."""
        spread = self.largest / min(self._tau, *self._d) if self.rank else 1.0
        return self.base.unit * math.sqrt(spread)

    def power_traces(self) -> tuple[float, ...]:
        """Return tr M and tr M^2, as far as they are known."""
        return self.centered_traces().values[1:]

    def centered_traces(self) -> PowerTraces:
        """Return tr M and tr M^2 from tr A and tr A^2, with what cancels between them."""
        known = self.base.centered_traces().about(0.0).up_to(2)
        d, extra = self._d, 1 / self._d - 1 / self._tau
        pairs = d**2 + self._residuals**2
        parts: list[tuple[float, ...]] = [(0.0,), (float(extra @ d),)]
        parts.append((2 / self._tau * float(extra @ pairs), float(np.sum((extra * d) ** 2))))
        values, errors = [], []
        for k, (value, error) in enumerate(zip(known.values, known.errors, strict=True)):
            terms = [value / self._tau**k, *parts[k]]
            values.append(math.fsum(terms))
            # Ritz values themselves are off by rounding.
            errors.append(error / self._tau**k + 30 * self.base.unit * sum(map(abs, terms[1:])))
        return PowerTraces(tuple(values), tuple(errors), stated=known.stated)

    def _root(self, x: Array) -> Array:
        """Return ``P^(-1/2) x``."""
        return x * self._tau**-0.5 + matmul(self._u, self._scale * matmul(adjoint(self._u), x))

    def _matmat(self, x: Array) -> Array:
        return self._root(self.base.matmat(self._root(x)))


class Complement(LinearOperator):
    """A, applied to what is orthogonal to a Krylov space: its rounding is that of all of A.

    Parameters
    ----------
    op : LinearOperator, shape (n, n)
        Hermitian.
    basis : KrylovBasis
        Of op.
    columns : int
        The number of leading basis vectors that are left out.
    """

    def __init__(self, op: LinearOperator, basis: KrylovBasis, columns: int) -> None:
        super().__init__(
            op.shape, dtype=op.dtype, xp=op.xp, device=op.device, result_dtype=op.result_dtype
        )
        self.base, self.max_memory, self.widths = op, op.max_memory, op.widths
        self.hermitian = self.hermitian_by_construction = True  # the basis has compared products
        block = basis.tridiagonal_block()
        size, rest = (float(np.abs(part).max()) for part in (block, block[columns:, columns:]))
        self._magnified = max(1.0, size / max(rest, op.unit * size)) if size else 1.0

    @property
    def unit(self) -> float:
        """The roundoff of products, beside the eigenvalues that are left."""
        return self.base.unit * self._magnified

    def centered_traces(self) -> PowerTraces:
        """Return those of all of A."""
        return self.base.centered_traces()

    def recurrence(self, columns: int) -> Step | None:
        """Return that of A."""
        return self.base.recurrence(columns)

    def _matmat(self, x: Array) -> Array:
        return self.base.matmat(x)


@dataclass(frozen=True)
class Captured:
    """What a space that is deflated holds of ``tr f(A)``.

    Attributes
    ----------
    value : float or complex
        ``tr Q^H f(A) Q``.
    bias : float
        How far its quadrature may be off.
    traces : PowerTraces
        ``tr I, tr A, tr A^2`` on the complement, as far as those of A are known.
    """

    value: complex
    bias: float
    traces: PowerTraces

    @property
    def mass(self) -> float:
        """The dimension of the complement."""
        return self.traces.values[0]


def captured_part(
    op: LinearOperator, basis: KrylovBasis, columns: int, f: ScalarFunction
) -> Captured:
    """Return tr Q^H f(A) Q for the first basis vectors, from all steps that were taken.

    Parameters
    ----------
    op : LinearOperator, shape (n, n)
    basis : KrylovBasis
        Some steps longer than the part that is deflated: they make the quadrature exact for
        polynomials of twice as many degrees, plus one.
    columns : int
        The number of leading basis vectors that are deflated.
    f : ScalarFunction

    References
    ----------
    Chen and Hallman, Krylov-aware stochastic trace estimation, SIAM J. Matrix Anal. Appl. 44, 1218
    (2023).
    """
    t = basis.tridiagonal_block()

    def within(size: int) -> Any:
        values, vectors = np.linalg.eigh(t[:size, :size])
        weights = np.sum(np.abs(vectors[:columns]) ** 2, axis=0)
        return weights @ f.on_host(f.clipped(values))

    value = within(len(t))
    before = within(max(columns, len(t) - basis.width))
    first = float(np.trace(t[:columns, :columns]).real)
    second = float(np.linalg.norm(t[:, :columns]) ** 2)
    traces = op.centered_traces().less((first, second), columns)
    exhausted = basis.exhausted
    bias = 0.0 if exhausted else 2 * abs(complex(value - before))
    return Captured(value, bias, traces)
