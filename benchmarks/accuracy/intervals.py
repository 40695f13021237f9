"""Matrices to test nominal 95 % intervals of log-determinants on, the hostile ones included.

The twenty spectra of `truncation`, rotated; and explicit sparse and dense matrices, new ones for
each number: a kernel, a random sparse matrix, mass matrices whose eigenvalues spread over many
orders of magnitude, most of them tiny (as those of the test matrix mhd4800b do), and the flow
through a random permeable medium of log-normal conductivity (as in StocF-1465).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from scipy import ndimage, sparse

from benchmarks.accuracy import truncation
from benchmarks.accuracy.spectra import matern_kernel, random_sparse, rotated

Host: TypeAlias = np.ndarray[Any, Any]

N = 2000


def mass_matrix(n: int, decades: float, *, graded: bool, rng: int) -> tuple[Any, float]:
    """Return a sparse SPD matrix and its log-determinant, known from its factors.

    With L unit lower triangular, banded and random, and D log-uniform over so many decades:
    graded ``S (L L^T) S`` with ``S^2 = D`` ascending, whose small eigenvalues are accurate in spite
    of rounding; or mixed ``L D L^T``, in which rounding blurs those below 1e-16 of the largest.
    """
    generator = np.random.default_rng(rng)
    d = 10.0 ** (-decades * generator.random(n))
    bands = [generator.uniform(-0.5, 0.5, n - k) for k in (1, 2, 3)]
    lower = sparse.diags_array([np.ones(n), *bands], offsets=[0, -1, -2, -3])
    if graded:
        s = sparse.diags_array(np.sqrt(np.sort(d)))
        a = s @ (lower @ lower.T) @ s
    else:
        a = lower @ sparse.diags_array(d) @ lower.T
    return sparse.csr_array(a), float(np.log(d).sum())


def porous_flow(rows: int, columns: int, spread: float, *, rng: int) -> Any:
    """Return the finite-volume matrix of ``-div(k grad u)``, k = exp(spread g), g smooth, normal.

    Pressure is given on the left and right sides; nothing flows through the others.
    """
    generator = np.random.default_rng(rng)
    g = ndimage.gaussian_filter(generator.standard_normal((rows, columns)), 2)
    k = np.exp(spread * g / g.std())
    number = np.arange(rows * columns).reshape(rows, columns)
    diagonal = np.zeros((rows, columns))
    diagonal[:, 0] += 2 * k[:, 0]
    diagonal[:, -1] += 2 * k[:, -1]
    here = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
    there = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
    k = k.ravel()
    flow = 2 / (1 / k[here] + 1 / k[there])
    diagonal = diagonal.ravel()
    np.add.at(diagonal, here, flow)
    np.add.at(diagonal, there, flow)
    off = sparse.coo_array((-flow, (here, there)), shape=(len(k), len(k)))
    return sparse.csr_array(off + off.T + sparse.diags_array(diagonal))


def _by_cholesky(a: Any) -> tuple[Any, float]:
    dense = a.toarray() if sparse.issparse(a) else a
    return a, 2 * float(np.log(np.diag(np.linalg.cholesky(dense))).sum())


EXPLICIT: dict[str, Callable[[int], tuple[Any, float]]] = {
    "random sparse": lambda i: _by_cholesky(random_sparse(N, rng=2 * i)),
    "Matérn kernel": lambda i: _by_cholesky(matern_kernel(N // 2, rng=i)),
    "graded mass, 16 decades": lambda i: mass_matrix(N, 16, graded=True, rng=i),
    "mixed mass, 13 decades": lambda i: mass_matrix(N, 13, graded=False, rng=i),
    "mixed mass, 6 decades": lambda i: mass_matrix(N, 6, graded=False, rng=i),
    "porous flow, spread 1.5": lambda i: _by_cholesky(porous_flow(40, 50, 1.5, rng=i)),
    "porous flow, spread 4": lambda i: _by_cholesky(porous_flow(40, 50, 4.0, rng=i)),
}


@lru_cache
def _spectra() -> dict[str, Host]:
    return truncation.spectra(N)


def families() -> tuple[str, ...]:
    """Return the names of all families of matrices."""
    return (*_spectra(), *EXPLICIT)


def instance(family: str, number: int) -> tuple[Any, float]:
    """Return a matrix of a family and its log-determinant."""
    if family in EXPLICIT:
        return EXPLICIT[family](number)
    this = rotated(family, _spectra()[family], rng=number)
    return this.A, this.truth("log")
