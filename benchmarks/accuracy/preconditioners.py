"""Ritz pairs or Nyström's approximation: which preconditioner leaves less of log det to chance?

Both spend the same products with A: k on a block Krylov basis grown from two vectors, whose Ritz
pairs make P, or k on the sketch ``A Omega``, whose Nyström approximation does. What is left is the
variance of one probe's ``z^H log(M) z``, ``M = P^(-1/2) A P^(-1/2)``, after the control variates
tr M and tr M^2: it is computed from all eigenvalues of M. Nyström's method is given its best rank
and tau in hindsight.

    python -m benchmarks.accuracy.preconditioners      a minute
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.accuracy.spectra import SHIFT, SPECTRA, matern_kernel
from benchmarks.measuring.record import record
from specdens import aslinearoperator
from specdens.estimation.control_variates import residual_spread
from specdens.recurrences.deflation import Preconditioned
from specdens.recurrences.krylov_basis import KrylovBasis
from specdens.recurrences.quadrature import Rule
from specdens.testing import with_spectrum

N = 600
PRODUCTS = (20, 60, 160)
SEEDS = 2
MARGINS = np.geomspace(1e-1, 1e1, 5)
"""Times the geometric mean of the other eigenvalues: candidates of Nyström's tau."""

Host = np.ndarray[Any, Any]


def left_to_chance(m: Host) -> float:
    """Return the standard deviation of one random-sign probe after two control variates."""
    nodes = np.linalg.eigvalsh((m + m.T) / 2)
    rule = Rule(nodes, np.full(N, 1 / N))
    return float(np.sqrt(2 * N * residual_spread([rule], [np.log(nodes)], 2)))


def by_ritz_pairs(a: Host, start: Host, products: int) -> float:
    """Return what Ritz pairs of a Krylov basis leave."""
    basis = KrylovBasis(aslinearoperator(a), start[:, :2])
    basis.grow(products // 2)
    return left_to_chance(Preconditioned(aslinearoperator(a), basis).matmat(np.eye(N)))


def by_nystroem(a: Host, start: Host, products: int) -> float:
    """Return what Nyström's approximation leaves, at the best rank and tau."""
    q, _ = np.linalg.qr(start[:, :products])
    y = a @ q
    nu = 1e-14 * np.linalg.norm(a)
    c = np.linalg.cholesky(q.T @ y + nu * np.eye(products))
    u, s, _ = np.linalg.svd(np.linalg.solve(c, (y + nu * q).T).T, full_matrices=False)
    values = np.maximum(s**2 - nu, 0)
    best = np.inf
    for rank in sorted({products, products // 2}):
        rest = np.exp((np.linalg.slogdet(a)[1] - np.log(values[:rank]).sum()) / (N - rank))
        for tau in rest * MARGINS:
            root = np.eye(N) / np.sqrt(tau)
            part = u[:, :rank]
            root += (part * (values[:rank] ** -0.5 - tau**-0.5)) @ part.T
            best = min(best, left_to_chance(root @ a @ root))
    return best


def main() -> None:
    """Measure and record."""
    matrices = {name: with_spectrum(make(N) + SHIFT, rng=0) for name, make in SPECTRA.items()}
    matrices["Matérn kernel"] = matern_kernel(N)
    table = []
    for name, a in matrices.items():
        bare = left_to_chance(a)
        for products in PRODUCTS:
            found = []
            for seed in range(SEEDS):
                start = np.random.default_rng(seed).choice([-1.0, 1.0], size=(N, products))
                found.append((by_ritz_pairs(a, start, products), by_nystroem(a, start, products)))
            ritz, nystroem = np.mean(found, axis=0)
            table.append({
                "matrix": name, "products": products, "without": bare,
                "ritz": float(ritz), "nystroem": float(nystroem), "ratio": float(ritz / nystroem),
            })  # fmt: skip
            print(table[-1], flush=True)
    print(record("preconditioners", {"n": N, "seeds": SEEDS, "table": table}))


if __name__ == "__main__":
    main()
