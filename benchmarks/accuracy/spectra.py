"""Matrices whose traces of functions are known: spectra that are rotated, lattices, dense ones.

A rotated spectrum is the operator ``D C^T diag(lambda) C D`` with a cosine transform C, random
signs D and lambda in random order: its eigenvectors are spread over all coordinates, so that the
variance of one random-sign probe is that of random eigenvectors, ``2 n Var(f(lambda))``, to 1 %.
Only its products, its trace and its Frobenius norm are known to whoever works with it.

The kernel matrix and the random sparse one have no spectrum in closed form: it is computed once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy import fft, sparse
from scipy.spatial.distance import cdist

from specdens import aslinearoperator
from specdens.scalar_functions import scalar_function
from specdens.testing import laplacian, laplacian_eigenvalues, marchenko_pastur_density

Host: TypeAlias = np.ndarray[Any, Any]

SHIFT = 1e-3

FUNCTIONS = ("log", "exp", "inv", "sqrt", "xlogx")

EXP_UP_TO = 50.0
"""With larger eigenvalues tr exp(A) is one of them, and e^1000 no number."""


@dataclass(frozen=True)
class Case:
    """A matrix, and what only a benchmark knows of it.

    Attributes
    ----------
    name : str
    A : operator or matrix
        What an estimator gets.
    eigenvalues : ndarray, shape (n,)
    coordinates : callable
        From a block (n, R) to its components along the eigenvectors, in the order of
        `eigenvalues`.
    """

    name: str
    A: Any
    eigenvalues: Host
    coordinates: Callable[[Host], Host]

    @property
    def n(self) -> int:
        """The order."""
        return len(self.eigenvalues)

    @property
    def digest(self) -> str:
        """What to call files about this matrix: eigenvalues, in their order."""
        return hashlib.sha256(self.eigenvalues.round(12).tobytes()).hexdigest()[:12]

    def functions(self) -> tuple[str, ...]:
        """Return the functions whose traces are worth asking for."""
        suits = {"exp": self.eigenvalues.max() <= EXP_UP_TO, "count": self.name in COUNT_UP_TO}
        return tuple(name for name in (*FUNCTIONS, "count") if suits.get(name, True))

    def values(self, f: str, x: Host) -> Host:
        """Return f(x); the function "count" is 1 up to `COUNT_UP_TO`, and 0 beyond."""
        if f == "count":
            return np.asarray(x <= COUNT_UP_TO[self.name], dtype=float)
        return scalar_function(f).on_host(x)

    def truth(self, f: str) -> float:
        """Return tr f(A)."""
        return float(self.values(f, self.eigenvalues).sum())


def marchenko_pastur(n: int, ratio: float) -> Host:
    """Return the n quantiles of the Marchenko-Pastur law in the middle of n equal parts."""
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    # Nodes denser at the edges, where the density has square roots.
    x = low + (high - low) * np.sin(np.linspace(0, np.pi / 2, 200_001)) ** 2
    middle = marchenko_pastur_density((x[1:] + x[:-1]) / 2, ratio)
    cumulative = np.concatenate([[0.0], np.cumsum(middle * np.diff(x))])
    return np.interp((np.arange(n) + 0.5) / n, cumulative / cumulative[-1], x)


def _step(n: int) -> Host:
    return np.r_[np.linspace(0.9, 1, n // 2), np.linspace(0.01, 0.02, n - n // 2)]


def _rank_deficient(n: int) -> Host:
    half = n // 2
    return np.r_[np.zeros(half), marchenko_pastur(n - half - 8, 0.5), np.geomspace(10, 1000, 8)]


SPECTRA: dict[str, Callable[[int], Host]] = {
    "uniform [0.1, 1]": lambda n: np.linspace(0.1, 1, n),
    "1/i": lambda n: 1 / np.arange(1.0, n + 1),
    "1/i²": lambda n: 1 / np.arange(1.0, n + 1) ** 2,
    "0.7^i": lambda n: 0.7 ** np.arange(1.0, n + 1),
    "0.999^i": lambda n: 0.999 ** np.arange(1.0, n + 1),
    "two steps": _step,
    "Marchenko-Pastur": lambda n: marchenko_pastur(n, 0.5),
    "half null, 8 spikes": _rank_deficient,
}

LATTICES = {
    ("2-D Laplacian", 10_000): (100, 100),
    ("3-D Laplacian", 10_000): (20, 20, 25),
    ("2-D Laplacian", 100_000): (250, 400),
    ("3-D Laplacian", 100_000): (40, 50, 50),
}

COMPUTED = ("random sparse", "Matérn kernel")
"""Matrices whose spectrum takes a factorisation: of order 4,000 at most."""

COUNT_UP_TO = {
    "uniform [0.1, 1]": 0.5,
    "0.999^i": 0.1,
    "two steps": 0.1,
    "Marchenko-Pastur": 1.0,
    "half null, 8 spikes": 0.05,
    "2-D Laplacian": 2.0,
    "3-D Laplacian": 4.0,
}


@lru_cache(maxsize=2)
def case(name: str, n: int, *, cache: Path | None = None, facts: bool = True) -> Case:
    """Return a case; `cache` is where eigenvectors of computed ones are kept.

    With ``facts=False`` the trace and the Frobenius norm of an operator are not told.
    """
    if name in SPECTRA:
        own = zlib.crc32(f"{name}, {n}".encode())  # its own luck, so that cases are independent
        return rotated(name, SPECTRA[name](n) + SHIFT, rng=own, facts=facts)
    if (name, n) in LATTICES:
        return _lattice(name, LATTICES[name, n])
    return _computed(name, n, cache)


@dataclass(frozen=True)
class Rotated:
    """The operator of the module's first paragraph: what is told of it, and what is not."""

    shape: tuple[int, int]
    trace: float | None
    frobenius_squared: float | None
    _eigenvalues: Host
    _signs: Host
    dtype: Any = np.float64
    hermitian: bool = True

    def coordinates(self, x: Host) -> Host:
        """Return the components along the eigenvectors, one vector in a row."""
        # Transforms along rows read memory in order, and are three times faster.
        rows = np.multiply(x.T, self._signs, order="C")
        return np.asarray(fft.dct(rows, norm="ortho", overwrite_x=True, workers=1))

    def matmat(self, x: Host) -> Host:
        """Return the product with a block."""
        rows = self.coordinates(x)
        rows *= self._eigenvalues
        rows = fft.idct(rows, norm="ortho", overwrite_x=True, workers=1)
        rows *= self._signs
        return np.ascontiguousarray(rows.T)


def rotated(name: str, eigenvalues: Host, *, rng: int = 0, facts: bool = True) -> Case:
    """Return a case with these eigenvalues; `rng` orders them and gives the signs."""
    generator = np.random.default_rng(rng)
    n = len(eigenvalues)
    values = generator.permutation(eigenvalues)
    told = (float(values.sum()), float(values @ values)) if facts else (None, None)
    op = Rotated((n, n), *told, values, generator.choice([-1.0, 1.0], size=n))
    return Case(
        name, aslinearoperator(op), values, lambda x: np.ascontiguousarray(op.coordinates(x).T)
    )


def _lattice(name: str, shape: tuple[int, ...]) -> Case:
    n = int(np.prod(shape))
    axes = tuple(range(len(shape)))
    values = np.zeros(())
    for side in shape:
        values = np.add.outer(values, laplacian_eigenvalues(side))

    def coordinates(x: Host) -> Host:
        block = x.reshape(*shape, -1)
        return np.asarray(fft.dstn(block, type=1, axes=axes, norm="ortho")).reshape(x.shape)

    a = sparse.csr_array(laplacian(*shape) + SHIFT * sparse.eye_array(n))
    return Case(name, a, values.ravel() + SHIFT, coordinates)


def random_sparse(n: int, *, rng: int = 0) -> Any:
    """Return ``B^T B / 4 + 1e-3``, B with four normal entries a row: about 17 entries a row."""
    b = sparse.random_array(
        (n, n), density=4 / n, rng=np.random.default_rng(rng),
        data_sampler=lambda size: np.random.default_rng(rng + 1).standard_normal(size),
    )  # fmt: skip
    return sparse.csr_array(b.T @ b / 4 + SHIFT * sparse.eye_array(n))


def matern_kernel(n: int, *, length: float = 0.1, rng: int = 0) -> Host:
    """Return the Matérn-3/2 kernel of random points in the unit square, and noise 1e-3."""
    points = np.random.default_rng(rng).random((n, 2))
    r = 3**0.5 * cdist(points, points) / length
    return (1 + r) * np.exp(-r) + SHIFT * np.eye(n)


def _computed(name: str, n: int, cache: Path | None) -> Case:
    a = {"random sparse": random_sparse, "Matérn kernel": matern_kernel}[name](n)
    dense = a.toarray() if sparse.issparse(a) else a
    if cache is None:
        values, vectors = np.linalg.eigh(dense)
    else:
        values, vectors = _kept_eigenpairs(dense, cache / f"eigen_{COMPUTED.index(name)}_{n}")
    return Case(name, a, values, lambda x: vectors.T @ x)


def _kept_eigenpairs(a: Host, folder: Path) -> tuple[Host, Host]:
    """Return eigenpairs from files, which are made when they are first asked for."""
    if not folder.exists():
        values, vectors = np.linalg.eigh(a)
        partial = folder.with_name(f"{folder.name}_{os.getpid()}")
        partial.mkdir()
        np.save(partial / "values.npy", values)
        np.save(partial / "vectors.npy", vectors)
        with contextlib.suppress(OSError):  # another process was faster
            partial.rename(folder)
    return np.load(folder / "values.npy"), np.load(folder / "vectors.npy", mmap_mode="r")
