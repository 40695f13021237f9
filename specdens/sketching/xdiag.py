r"""Diagonals from products: Hutchinson's estimator, Diag++ and XDiag.

One random vector z with entries of modulus 1 has ``E conj(z) * (A z) = diag A``; a basis of the
range of A takes the large part of A exactly, ``diag A = diag Q Q^H A + diag (I - Q Q^H) A``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, adjoint, is_complex, matmul, namespace
from specdens.arrays.probes import Probes, key_of, require_distribution
from specdens.estimation.sampling import by_blocks, probes_for
from specdens.operators.linear_operator import LinearOperator
from specdens.sketching.budget import require_plain, vectors_for
from specdens.sketching.sketch import Sketch, draw, gram, left_out, product

__all__ = ["DiagonalEstimate", "certain", "estimated_diagonal", "in_double", "real", "squares"]

XDIAG_OR_PROBES = "xdiag or hutchinson"

LEAST = {"hutchinson": 2, "diag++": 3, "xdiag": 2, XDIAG_OR_PROBES: 4}
"""Random vectors without which a method has no error estimate."""

XDIAG_FROM = 64
"""Order below which so few signs may be linearly dependent: there the diagonal is exact."""

XDIAG_INFLATION = 1.4
"""The scatter is 0.73 to 0.97 of the error for signs; for the phases of a complex A it is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagonalEstimate:
    """A diagonal, how far each entry may be off, and what it cost.

    Attributes
    ----------
    value : array, shape (n,)
    stderr : array, shape (n,)
        Standard errors, real, on the same device.
    bias_bound : float
        Estimated root mean square of the truncation error of the entries (`diagonal_function`).
    converged : bool
        Whether that is at most the root mean square of the standard errors.
    flags : tuple of str
        What speaks against the result, in words.
    matvecs : int
        Products of the matrix, or its adjoint, with one vector.
    samples : int
        Random vectors.
    method : str
        ``"exact"``, ``"hutchinson"``, ``"diag++"`` or ``"xdiag"``.
    seed : int or None
        Pass it as ``rng=`` to get the same result again; None where no random number was drawn.
    """

    value: Array
    stderr: Array
    bias_bound: float = 0.0
    converged: bool = True
    flags: tuple[str, ...] = ()
    matvecs: int = 0
    samples: int = 0
    method: str = "exact"
    seed: int | None = None


def certain(value: Array) -> DiagonalEstimate:
    """Return a diagonal in which nothing was left to chance."""
    xp = namespace(value)
    return DiagonalEstimate(value=value, stderr=xp.zeros_like(real(value)))


def in_double(x: Array) -> Array:
    """Return x in double precision, real or complex as it is."""
    xp = namespace(x)
    return xp.astype(x, xp.complex128 if is_complex(x) else xp.float64, copy=False)


def real(x: Array) -> Array:
    """Return the real part."""
    return namespace(x).real(x) if is_complex(x) else x


def squares(x: Array) -> Array:
    """Return the squared moduli."""
    return namespace(x).abs(x) ** 2


def estimated_diagonal(
    op: LinearOperator, method: str, probes: Any, limit: int | None, distribution: str, rng: Any
) -> DiagonalEstimate:
    """Return the diagonal of an operator from its products, exact where those are enough."""
    n = op.shape[0]
    require_distribution(distribution)
    if method == "auto":
        chosen = limit is not None and op.hermitian and distribution == "signs"
        method = XDIAG_OR_PROBES if chosen else "hutchinson"
    if method in {"diag++", "xdiag"}:
        require_plain(method, probes, distribution)
    if n == 0 or method == "exact":
        return _by_unit_vectors(op)
    if method == "hutchinson" and not (probes is None or isinstance(probes, (int, np.integer))):
        return _hutchinson(op, probes_for(op, probes, rng, distribution))
    key = key_of(rng)
    count = vectors_for(method, n, probes, limit, LEAST)
    if count is None or (method in {"xdiag", XDIAG_OR_PROBES} and n < XDIAG_FROM):
        return _by_unit_vectors(op)
    if method == XDIAG_OR_PROBES:
        return _xdiag_or_probes(op, count, key)
    if method == "xdiag":
        return _xdiag(op, count, key)
    if method == "hutchinson":
        return _hutchinson(op, probes_for(op, count, key, distribution))
    with _needs_adjoint():
        sketch = Sketch(op, key, kind="sphere", of_adjoint=True)
        sketch.grow(count // 2)
    found = _hutchinson(op, probes_for(op, count - count // 2, key), sketch)
    return replace(found, method="diag++")


@contextmanager
def _needs_adjoint() -> Iterator[None]:
    """Say what is missing where an operator has no adjoint product."""
    try:
        yield
    except NotImplementedError:
        msg = (
            "the operator has no adjoint product, which 'diag++' and 'xdiag' need; pass rmatvec= "
            "or hermitian=True to aslinearoperator, or use method='hutchinson'."
        )
        raise ValueError(msg) from None


def _by_unit_vectors(op: LinearOperator) -> DiagonalEstimate:
    """Return the diagonal exactly, by n products."""
    n = op.shape[0]
    complex_ = op.xp.isdtype(op.dtype, "complex floating")
    total = op.xp.zeros(n, dtype=op.xp.complex128 if complex_ else op.xp.float64, device=op.device)
    if n == 0:
        return certain(total)

    def add(block: Array) -> list[Any]:
        nonlocal total
        found = product(op, op.matmat, block)
        total = total + op.xp.sum(in_double(block) * found, axis=1)
        return []

    by_blocks(op, probes_for(op, n, 0), add)
    return certain(total)


class _Sums:
    """Running sums over probes z of ``v = conj(z) * y`` and of ``w = |z|^2``, entry by entry.

    The ratio of the first block is subtracted from all: sums of squares then do not cancel, and
    what is the same for every probe has no scatter at all.
    """

    def __init__(self) -> None:
        self.reference: Array | None = None

    def add(self, z: Array, y: Array) -> None:
        xp = namespace(z)
        w = squares(z)
        v = (xp.conj(z) if is_complex(z) else z) * y
        if self.reference is None:
            self.reference = xp.sum(v, axis=1) / xp.astype(xp.sum(w, axis=1), v.dtype)
            self.v, self.w = xp.zeros_like(self.reference), xp.zeros_like(real(self.reference))
            self.vv, self.vw, self.ww = self.w, self.v, self.w
        wide = xp.astype(w, v.dtype)
        v = v - self.reference[:, None] * wide
        self.v, self.w = self.v + xp.sum(v, axis=1), self.w + xp.sum(w, axis=1)
        self.vv = self.vv + xp.sum(squares(v), axis=1)
        self.vw, self.ww = self.vw + xp.sum(v * wide, axis=1), self.ww + xp.sum(w * w, axis=1)

    def ratio(self) -> tuple[Array, Array]:
        """Return ``sum v / sum w`` and the sum of ``|v - ratio w|^2`` over ``(sum w)^2``."""
        assert self.reference is not None
        xp = namespace(self.v)
        change = self.v / xp.astype(self.w, self.v.dtype)
        cross = (xp.conj(change) if is_complex(change) else change) * self.vw
        scatter = self.vv - 2 * real(cross) + squares(change) * self.ww
        scatter = xp.where(scatter > 0, scatter, xp.zeros_like(scatter))
        return self.reference + change, scatter / self.w**2

    def estimate(self, count: int, key: int | None) -> DiagonalEstimate:
        """Return the ratio with its standard error, from the scatter over so many probes."""
        value, scatter = self.ratio()
        return DiagonalEstimate(
            value=value,
            stderr=namespace(value).sqrt(scatter * (count / (count - 1))),
            samples=count,
            method="hutchinson",
            seed=key,
        )


def _hutchinson(
    op: LinearOperator, vectors: Probes, sketch: Sketch | None = None
) -> DiagonalEstimate:
    """Return ``sum conj(z) * (A z) / sum |z|^2``, of what a sketch leaves of A if there is one."""
    if vectors.count < 2:
        msg = "one probe says nothing of its own error; expected at least probes=2."
        raise ValueError(msg)
    sums = _Sums()

    def add(block: Array) -> list[Any]:
        y = product(op, op.matmat, block)
        z = op.xp.astype(block, y.dtype, copy=False)
        if sketch is not None:
            y = y - matmul(sketch.basis, matmul(adjoint(sketch.images), z))
        sums.add(z, y)
        return []

    by_blocks(op, vectors, add)
    found = sums.estimate(vectors.count, vectors.key)
    if vectors.distribution == "orthogonal":  # a sample without replacement
        found = replace(found, stderr=found.stderr * math.sqrt(1 - vectors.count / vectors.n))
    if sketch is None:
        return found
    return replace(found, value=found.value + _row_dots(sketch.images, sketch.basis))


def _row_dots(a: Array, b: Array) -> Array:
    """Return ``sum_k conj(a_ik) b_ik``: the diagonal of ``b a^H``."""
    xp = namespace(a)
    return xp.sum((xp.conj(a) if is_complex(a) else a) * b, axis=1)


def _xdiag(op: LinearOperator, count: int, key: int) -> DiagonalEstimate:
    """Return XDiag: each test vector sees what a basis of the others leaves of A."""
    with _needs_adjoint():
        sketch = Sketch(op, key, kind="signs", of_adjoint=True)
        sketch.grow(count)
    return _of_sketch(sketch)


def _xdiag_or_probes(op: LinearOperator, budget: int, key: int) -> DiagonalEstimate:
    """Return XDiag, or Hutchinson's estimator if half of the products show that it is better.

    m test vectors are Hutchinson's first m probes; m more products give either XDiag, with a
    variance near ``rho / m`` summed over the entries, or m more probes, with ``rho_0 / (2 m)``:
    the squared norms of what the basis leaves of A, and of A beside its diagonal.
    """
    xp = op.xp
    sketch = Sketch(op, key, kind="signs", of_adjoint=True)
    sketch.look(budget // 2)
    if not sketch.complete:
        r, m, sums = sketch.triangle, sketch.size, _Sums()
        there = xp.asarray(r, dtype=sketch.basis.dtype, device=op.device)
        sums.add(sketch.tests, matmul(sketch.basis, there))
        left = np.mean(np.abs(np.sum(left_out(r).conj() * r, axis=0)) ** 2)
        beside = float(xp.sum(sums.ratio()[1])) * m**2 / (m - 1)
        if 2 * left > beside:
            more = draw(op, range(m, budget), key, kind="signs")
            sums.add(more, product(op, op.matmat, more))
            return sums.estimate(budget, key)
    sketch.take()
    return _of_sketch(sketch)


def _of_sketch(sketch: Sketch) -> DiagonalEstimate:
    op, count, key = sketch.op, sketch.size, sketch.key
    xp = op.xp
    q, z, tests = sketch.basis, sketch.images, sketch.tests
    inside = _row_dots(z, q)
    if sketch.complete:
        return replace(certain(inside), samples=count, method="xdiag", seed=key)
    s, t = left_out(sketch.triangle), gram(z, tests)
    outside = sketch.triangle - t + s * np.sum(s.conj() * t, axis=0)

    def there(x: Any) -> Array:
        return xp.asarray(x, dtype=q.dtype, device=op.device)

    removed = matmul(q, there(s)) * _conj(matmul(z, there(s)))
    values = _conj(tests) * matmul(q, there(outside)) - removed
    mean = xp.mean(values, axis=1)
    variance = xp.sum(squares(values - mean[:, None]), axis=1) / (count - 1)
    return DiagonalEstimate(
        value=inside + mean,
        stderr=(1.0 if is_complex(q) else XDIAG_INFLATION) * xp.sqrt(variance / count),
        samples=count,
        method="xdiag",
        seed=key,
    )


def _conj(x: Array) -> Array:
    return namespace(x).conj(x) if is_complex(x) else x
