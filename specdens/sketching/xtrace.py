r"""XTrace and XNysTrace: each test vector estimates what a basis of all the others leaves of A.

The m estimates share all but one of their vectors, so that their scatter alone understates the
error of their mean: it was 0.25 to 1.03 times the error for 10 to 60 products on eight spectra of
order 100 from flat to 0.7^i. The jackknife, which leaves out a vector from all of them, overstates
it: 1.2 to 6.7 times, most where the scatter is shortest. The geometric mean of the two is reported:
0.8 to 2.3 times, and nominal 95 % intervals hold in 97 % (benchmarks/accuracy/trace_estimators.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, column_dots, to_host
from specdens.operators.algebra import Counting
from specdens.operators.linear_operator import LinearOperator
from specdens.results import Estimate
from specdens.sketching.sketch import Sketch, draw, gram, left_out, no_columns, product

__all__ = ["xnystrace", "xtrace", "xtrace_or_probes"]

Host: TypeAlias = np.ndarray[Any, Any]

REPLICATES = 32
"""Replicates of the jackknife: their scatter is known to 12 %, at 32 times O(m^3) operations."""

ASYMMETRY = 1e4
"""How many roundings of a product the two triangles of ``W^H A W`` may differ by."""


class _Small(Protocol):
    """All that the estimates need of A, on the host."""

    def values(self) -> Host: ...

    def without(self, i: int) -> _Small: ...


def xtrace(op: LinearOperator, counts: Sequence[int], key: int) -> Iterator[Estimate]:
    """Yield XTrace of any square operator for growing numbers m of test vectors.

    Costs 2 m products in all; 3 n m numbers are kept. Exact if the rank of A is below m, and for
    multiples of the identity.

    Yields
    ------
    Estimate
        One for each m; what it spent is used by the next.

    References
    ----------
    Epperly, Tropp and Webber, SIAM J. Matrix Anal. Appl. 45, 1 (2024), algorithm 3.1.
    """
    sketch = Sketch(op, key, kind="sphere")
    for count in counts:
        sketch.grow(count - sketch.size)
        yield _of_sketch(sketch)
        if sketch.complete:
            return


def _of_sketch(sketch: Sketch) -> Estimate:
    if not sketch.complete:
        return _estimate(_of_any(sketch), "xtrace", sketch.op.count, sketch.key)
    return Estimate(
        value=gram(sketch.basis, sketch.images).trace().item(),
        bias_bound=sketch.rounding(),
        matvecs=sketch.op.count,
        samples=sketch.size,
        method="xtrace",
        seed=sketch.key,
    )


def xtrace_or_probes(op: LinearOperator, budget: int, key: int) -> Estimate:
    """Return XTrace, or Hutchinson's estimator if half of the products show that it is better.

    m test vectors and their images are Hutchinson's first m probes; m more products give either
    XTrace, with a variance near ``2 rho / m``, or m more probes, with ``rho_0 / m``: rho and rho_0
    are the squared norms, without a multiple of the identity, of what the basis leaves of A and of
    A itself.
    """
    sketch = Sketch(op, key, kind="sphere")
    sketch.look(budget // 2)
    if sketch.complete or not _is_flat(sketch):
        sketch.take()
        return _of_sketch(sketch)
    xp, columns = op.xp, range(sketch.size, budget)
    more = draw(op, columns, key, kind="sphere")
    tests = xp.concat([sketch.tests, more], axis=1)
    triangle = xp.asarray(sketch.triangle, dtype=tests.dtype, device=op.device)
    seen = sketch.basis @ triangle
    images = xp.concat([seen, product(sketch.op, sketch.op.matmat, more)], axis=1)
    values = column_dots(tests, images)
    return Estimate(
        value=values.mean().item(),
        stderr=float(np.std(values, ddof=1)) / math.sqrt(budget),
        matvecs=sketch.op.count,
        samples=budget,
        method="hutchinson",
        seed=key,
    )


def _is_flat(sketch: Sketch) -> bool:
    """Whether a basis of the other test vectors leaves more than half of the variance."""
    n, r, s = sketch.op.shape[0], sketch.triangle, left_out(sketch.triangle)
    w = gram(sketch.basis, sketch.tests)
    images, tests = _dots(s, r), _dots(s, w)  # their parts outside, along Q s_i
    masses = n - np.sum(np.abs(w) ** 2, axis=0) + np.abs(tests) ** 2
    rest = np.mean(np.abs(images) ** 2) - abs(np.mean(tests.conj() * images)) ** 2 / np.mean(masses)
    whole = np.mean(np.sum(np.abs(r) ** 2, axis=0)) - abs(np.mean(_dots(w, r))) ** 2 / n
    return bool(2 * rest > whole)


def xnystrace(op: LinearOperator, counts: Sequence[int], key: int) -> Iterator[Estimate]:
    """Yield XNysTrace of a positive semidefinite operator for growing numbers m of test vectors.

    Costs m products in all; 3 n m numbers are kept. Exact if the rank of A is below m, and for
    multiples of the identity.

    Yields
    ------
    Estimate
        One for each m; what it spent is used by the next.

    Raises
    ------
    ValueError
        If the test vectors show that A is not positive semidefinite.

    References
    ----------
    Epperly, Tropp and Webber, SIAM J. Matrix Anal. Appl. 45, 1 (2024), algorithm 3.2.
    """
    xp, counted = op.xp, Counting(op)
    tests = images = no_columns(op)
    for count in counts:
        more = draw(op, range(tests.shape[1], count), key, kind="sphere")
        images = xp.concat([images, product(counted, counted.matmat, more)], axis=1)
        tests = xp.concat([tests, more], axis=1)
        yield _estimate(_of_definite(op, tests, images), "xnystrace", counted.count, key)


def _estimate(small: _Small, method: str, matvecs: int, key: int) -> Estimate:
    values = small.values()
    m = len(values)
    scatter = float(np.std(values, ddof=1)) / math.sqrt(m)
    replicates = [small.without(i).values().mean() for i in range(min(m, REPLICATES))]
    # Efron and Stein, Ann. Stat. 9, 586 (1981): the sum of their squared deviations.
    jackknife = math.sqrt(m) * float(np.std(replicates, ddof=1))
    return Estimate(
        value=values.mean().item(),
        stderr=math.sqrt(scatter * jackknife),
        matvecs=matvecs,
        samples=m,
        method=method,
        seed=key,
    )


@dataclass(frozen=True)
class _OfAny:
    """The Gram matrices of XTrace, ``A W = Q R``.

    Attributes
    ----------
    n : int
        Order of A.
    r, h, w, t : ndarray, shape (m, m)
        ``R``, ``Q^H A Q``, ``Q^H W`` and ``(A Q)^H W``.
    masses : ndarray, shape (m,)
        Squared norms of the test vectors.
    """

    n: int
    r: Host
    h: Host
    w: Host
    t: Host
    masses: Host

    def values(self) -> Host:
        s, m = left_out(self.r), len(self.r)
        x = self.w - s * _dots(s, self.w)  # Q x_i: test vector i within the basis of the others
        outside = _dots(self.w, self.r) - _dots(self.t, x) - _dots(x, self.r) + _dots(x, self.h @ x)
        shares = (self.n - m + 1) / (self.masses - np.real(_dots(x, x)))
        return np.asarray(np.trace(self.h) - _dots(s, self.h @ s) + shares * outside)

    def without(self, i: int) -> _OfAny:
        rest = np.arange(len(self.r)) != i
        q, r = np.linalg.qr(self.r[:, rest])
        turn = q.conj().T
        w, t = turn @ self.w[:, rest], turn @ self.t[:, rest]
        return _OfAny(self.n, r, turn @ self.h @ q, w, t, self.masses[rest])


def _of_any(sketch: Sketch) -> _OfAny:
    q, z, tests = sketch.basis, sketch.images, sketch.tests
    masses = np.real(column_dots(tests, tests))
    return _OfAny(q.shape[0], sketch.triangle, gram(q, z), gram(q, tests), gram(z, tests), masses)


def _dots(a: Host, b: Host) -> Host:
    return np.asarray(np.sum(a.conj() * b, axis=0))


@dataclass(frozen=True)
class _OfDefinite:
    """The Gram matrices of XNysTrace for ``B = A + shift I``, ``B W = Q R``.

    Attributes
    ----------
    n : int
        Order of A.
    r : ndarray, shape (k, m)
        ``R``; of no shape in particular.
    h, masses : ndarray, shape (m, m)
        ``W^H B W``, positive definite, and ``W^H W``.
    shift : float
    """

    n: int
    r: Host
    h: Host
    masses: Host
    shift: float

    def values(self) -> Host:
        from scipy.linalg import solve_triangular

        m = len(self.h)
        root = np.linalg.cholesky(self.h).conj().T  # H = C^H C
        inverse = solve_triangular(root, np.eye(m))
        b = self.r @ inverse
        diagonal = np.sum(np.abs(inverse) ** 2, axis=1)  # of H^-1
        removed = np.sum(np.abs(b @ inverse.conj().T) ** 2, axis=0) / diagonal
        shares = (self.n - m + 1) * np.real(np.diag(np.linalg.inv(self.masses)))
        taken = np.sum(np.abs(b) ** 2) - removed
        return np.asarray(taken + shares / diagonal - self.shift * self.n)

    def without(self, i: int) -> _OfDefinite:
        rest = np.arange(len(self.h)) != i
        both = np.ix_(rest, rest)
        return _OfDefinite(self.n, self.r[:, rest], self.h[both], self.masses[both], self.shift)


def _of_definite(op: LinearOperator, tests: Array, images: Array) -> _OfDefinite:
    """Shift A until its Gram matrix is positive definite in spite of rounding."""
    n = tests.shape[0]
    h, masses = gram(tests, images), gram(tests, tests)
    size = math.sqrt(float(np.sum(np.real(column_dots(images, images)))))
    noise = op.unit * size
    asymmetry = float(np.linalg.norm(h - h.conj().T))
    if asymmetry > ASYMMETRY * math.sqrt(n) * noise:
        raise ValueError(_not_definite(f"<x, A y> and <A x, y> differ by {asymmetry:.3g}"))
    h = (h + h.conj().T) / 2
    for power in range(7):
        # A matrix of zeros is shifted, too.
        shift = 10.0**power * max(noise, 1e-300) / math.sqrt(n)
        shifted = h + shift * masses
        if _is_definite(shifted):
            r = to_host(op.xp.linalg.qr(images + shift * tests)[1])
            return _OfDefinite(n, r, shifted, masses, shift)
    raise ValueError(_not_definite(f"W^H A W has the eigenvalue {np.linalg.eigvalsh(h)[0]:.3g}"))


def _is_definite(h: Host) -> bool:
    try:
        np.linalg.cholesky(h)
    except np.linalg.LinAlgError:
        return False
    return True


def _not_definite(reason: str) -> str:
    return (
        f"A is not positive semidefinite: for the test vectors W, {reason}. "
        "method='xtrace' takes any square matrix."
    )
