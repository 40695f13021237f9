"""Matrices and densities of states known in closed form, to test against."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from specdens.operators.aslinearoperator import aslinearoperator
from specdens.operators.linear_operator import LinearOperator

__all__ = [
    "chain_density",
    "circulant",
    "circulant_eigenvalues",
    "complete_bipartite",
    "complete_graph",
    "correlation",
    "correlation_logdet",
    "graphene",
    "graphene_density",
    "hadamard",
    "hypercube",
    "hypercube_eigenvalues",
    "kesten_mckay_density",
    "laplacian",
    "laplacian_eigenvalues",
    "marchenko_pastur_density",
    "minima",
    "rotated",
    "semicircle_density",
    "square_lattice_density",
    "with_spectrum",
]

Host: TypeAlias = np.ndarray[Any, Any]

BOUNDARIES = ("dirichlet", "neumann", "periodic")


def with_spectrum(eigenvalues: Any, *, rng: Any = 0, dtype: Any = float) -> Host:
    """Return a dense Hermitian matrix with given eigenvalues and random eigenvectors.

    Parameters
    ----------
    eigenvalues : array_like, shape (n,)
    rng : None, int or numpy.random.Generator
    dtype : dtype
        float or complex; the matrix is real symmetric or complex Hermitian.

    Returns
    -------
    ndarray, shape (n, n)

    Examples
    --------
    >>> print(np.linalg.eigvalsh(with_spectrum([1.0, 2.0, 5.0])).round(10))
    [1. 2. 5.]
    """
    values = np.asarray(eigenvalues, dtype=float)
    generator = np.random.default_rng(rng)
    a = generator.standard_normal((len(values), len(values)))
    if np.issubdtype(dtype, np.complexfloating):
        a = a + 1j * generator.standard_normal(a.shape)
    q, _ = np.linalg.qr(a)
    matrix = (q * values) @ q.conj().T
    return np.asarray((matrix + matrix.conj().T) / 2, dtype=dtype)


def rotated(eigenvalues: Any, *, rng: Any = 0) -> LinearOperator:
    """Return an operator ``D C^T diag(eigenvalues) C D``: C a cosine transform, D random signs.

    Its products cost O(n log n), and its eigenvectors are spread over all coordinates, so that
    signs as probes have no unfair advantage.

    Parameters
    ----------
    eigenvalues : array_like, shape (n,)
    rng : None, int or numpy.random.Generator

    Returns
    -------
    LinearOperator, shape (n, n)

    Examples
    --------
    >>> op = rotated([1.0, 2.0, 5.0])
    >>> print(np.linalg.eigvalsh(op.columns()).round(10))
    [1. 2. 5.]
    """
    from scipy.fft import dct, idct

    values = np.asarray(eigenvalues, dtype=float)[:, None]
    generator = np.random.default_rng(rng)
    flips = generator.choice([-1.0, 1.0], size=values.shape)
    values = generator.permutation(values)

    def product(x: Host) -> Host:
        return np.asarray(
            flips * idct(values * dct(flips * x, axis=0, norm="ortho"), axis=0, norm="ortho")
        )

    return aslinearoperator(
        lambda v: product(v[:, None])[:, 0], n=len(values), matmat=product, hermitian=True
    )


def laplacian(*shape: int, boundary: str = "dirichlet") -> Any:
    """Return the Laplacian ``-Delta`` of a lattice of any dimension, unit spacing, as a matrix.

    `specdens.Stencil` is a lattice without one.

    Parameters
    ----------
    *shape : int
        Sites along each axis.
    boundary : {"dirichlet", "neumann", "periodic"}
        Zero outside (positive definite); the graph Laplacian; or closed upon itself.

    Returns
    -------
    scipy.sparse.csr_array, shape (n, n)
        With ``n`` the product of `shape`.

    Examples
    --------
    >>> print(laplacian(3).toarray())
    [[ 2. -1.  0.]
     [-1.  2. -1.]
     [ 0. -1.  2.]]
    """
    from scipy.sparse import csr_array, eye_array, kron

    total = csr_array((1, 1))
    for axis, n in enumerate(shape):
        line = _line(n, boundary)
        before = math.prod(shape[:axis])
        total = kron(total, eye_array(n)) + kron(eye_array(before), line)
    return csr_array(total)


def _line(n: int, boundary: str) -> Any:
    from scipy.sparse import diags_array, lil_array

    if boundary not in BOUNDARIES or n < 1:
        msg = f"got {n} sites, boundary {boundary!r}; expected at least 1 and one of {BOUNDARIES}."
        raise ValueError(msg)
    off = -np.ones(n - 1)
    diagonals: Any = [off, np.full(n, 2.0), off]
    line = lil_array(diags_array(diagonals, offsets=[-1, 0, 1], shape=(n, n)))
    if boundary == "neumann":
        line[0, 0] -= 1
        line[n - 1, n - 1] -= 1
    elif boundary == "periodic":
        line[0, n - 1] -= 1
        line[n - 1, 0] -= 1
    return line


def laplacian_eigenvalues(*shape: int, boundary: str = "dirichlet") -> Host:
    """Return all eigenvalues of `laplacian`, ascending.

    Along one axis ``2 - 2 cos(theta_k)``, with ``theta_k = pi k/(n+1)`` for k = 1..n (Dirichlet),
    ``pi k/n`` for k = 0..n-1 (Neumann) or ``2 pi k/n`` (periodic); axes add.

    Parameters
    ----------
    *shape : int
    boundary : {"dirichlet", "neumann", "periodic"}

    Returns
    -------
    ndarray, shape (n,)

    Examples
    --------
    >>> print(laplacian_eigenvalues(2))
    [1. 3.]
    """
    total = np.zeros(1)
    for n in shape:
        theta = {
            "dirichlet": np.pi * np.arange(1, n + 1) / (n + 1),
            "neumann": np.pi * np.arange(n) / n,
            "periodic": 2 * np.pi * np.arange(n) / n,
        }[boundary]
        total = np.add.outer(total, 4 * np.sin(theta / 2) ** 2).ravel()
    return np.sort(total)


def hypercube(d: int) -> Any:
    """Return the adjacency matrix of the d-dimensional hypercube, sparse, of order ``2^d``."""
    from scipy.sparse import coo_array, csr_array

    n = 2**d
    sites = np.arange(n)
    flips = (sites[:, None] ^ (1 << np.arange(d))[None, :]).ravel()
    return csr_array(coo_array((np.ones(n * d), (np.repeat(sites, d), flips)), shape=(n, n)))


def hypercube_eigenvalues(d: int) -> Host:
    """Return the eigenvalues of `hypercube`: ``d - 2k``, binomial(d, k) times, ascending."""
    k = np.arange(d, -1, -1)
    return np.repeat(d - 2.0 * k, [math.comb(d, int(j)) for j in k])


def complete_graph(n: int) -> Host:
    """Return the adjacency matrix of the complete graph: n - 1, and -1 (n - 1 times)."""
    return np.ones((n, n)) - np.eye(n)


def complete_bipartite(p: int, q: int) -> Host:
    """Return the adjacency matrix of ``K_pq``: ``+-sqrt(p q)``, and 0 (p + q - 2 times)."""
    a = np.zeros((p + q, p + q))
    a[:p, p:] = a[p:, :p] = 1
    return a


def circulant(column: Any) -> Host:
    """Return the circulant matrix with a given first column."""
    from scipy.linalg import circulant as scipy_circulant

    return np.asarray(scipy_circulant(column))


def circulant_eigenvalues(column: Any) -> Host:
    """Return the eigenvalues of `circulant`: the discrete Fourier transform of its column."""
    return np.asarray(np.fft.fft(column))


def hadamard(k: int) -> Host:
    """Return Sylvester's Hadamard matrix, n = 2^k: ``+-sqrt(n)``, ``|det| = n^(n/2)``."""
    h = np.ones((1, 1))
    for _ in range(k):
        h = np.kron(h, np.array([[1.0, 1.0], [1.0, -1.0]]))
    return h


def correlation(n: int, rho: float) -> Host:
    """Return the AR(1) correlation matrix ``rho^|i-j|``: ``det = (1 - rho^2)^(n-1)``."""
    i = np.arange(n)
    return np.asarray(rho ** np.abs(i[:, None] - i[None, :]))


def correlation_logdet(n: int, rho: float) -> float:
    """Return the log-determinant of `correlation`."""
    return (n - 1) * math.log1p(-(rho**2))


def minima(n: int) -> Host:
    """Return the matrix ``min(i, j)``, i, j = 1..n, of determinant 1."""
    i = np.arange(1.0, n + 1)
    return np.asarray(np.minimum(i[:, None], i[None, :]))


def graphene(rows: int, columns: int) -> Any:
    """Return the hopping matrix of a periodic honeycomb lattice, order 2 rows columns."""
    from scipy.sparse import bmat, coo_array, csr_array

    cells = rows * columns
    cell = np.arange(cells).reshape(rows, columns)
    neighbours = [cell, np.roll(cell, 1, axis=0), np.roll(cell, 1, axis=1)]
    there = np.concatenate([x.ravel() for x in neighbours])
    here = np.tile(cell.ravel(), 3)
    hop = coo_array((np.ones(len(here)), (here, there)), shape=(cells, cells))
    return csr_array(bmat([[None, hop], [hop.T, None]]))


def _inside(x: Any, low: float, high: float) -> tuple[Host, Host]:
    x = np.asarray(x, dtype=float)
    return x, (x > low) & (x < high)


def semicircle_density(x: Any) -> Host:
    """Return Wigner's ``sqrt(4 - x^2)/(2 pi)``: symmetric matrices of variance 1/n."""
    x, inside = _inside(x, -2, 2)
    return np.where(inside, np.sqrt(np.maximum(4 - x**2, 0)) / (2 * np.pi), 0.0)


def marchenko_pastur_density(x: Any, ratio: float) -> Host:
    """Return the limit for ``X^T X / n``, X (n, p) of variance 1, p/n = ratio <= 1."""
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    x, inside = _inside(x, low, high)
    safe = np.where(inside, x, 1.0)
    root = np.sqrt(np.maximum((high - safe) * (safe - low), 0))
    return np.where(inside, root / (2 * np.pi * ratio * safe), 0.0)


def kesten_mckay_density(x: Any, d: int) -> Host:
    """Return the limit for adjacency matrices of random d-regular graphs."""
    edge = 2 * math.sqrt(d - 1)
    x, inside = _inside(x, -edge, edge)
    root = np.sqrt(np.maximum(edge**2 - x**2, 0))
    return np.where(inside, d * root / (2 * np.pi * (d**2 - np.minimum(x**2, edge**2))), 0.0)


def chain_density(x: Any) -> Host:
    """Return that of the infinite chain with unit hopping, ``1/(pi sqrt(4 - x^2))``."""
    x, inside = _inside(x, -2, 2)
    return np.where(inside, 1 / (np.pi * np.sqrt(np.where(inside, 4 - x**2, 1.0))), 0.0)


def square_lattice_density(x: Any) -> Host:
    """Return that of the square lattice with unit hopping, ``K(1 - (x/4)^2)/(2 pi^2)``."""
    from scipy.special import ellipk

    x, inside = _inside(x, -4, 4)
    inside &= x != 0
    m = np.where(inside, 1 - (x / 4) ** 2, 0.5)
    return np.where(inside, ellipk(m) / (2 * np.pi**2), np.where(x == 0, np.inf, 0.0))


def graphene_density(x: Any) -> Host:
    """Return that of the honeycomb lattice with unit hopping, per site.

    References
    ----------
    Castro Neto et al., Rev. Mod. Phys. 81, 109 (2009), eq. 14.
    """
    from scipy.special import ellipkm1

    x, inside = _inside(x, -3, 3)
    e = np.where(inside, np.abs(x), 1.5)
    z_0 = np.where(e <= 1, (1 + e) ** 2 - (e**2 - 1) ** 2 / 4, 4 * e)
    # K of parameter z_1/z_0, by its complement, which does not cancel at the singularity |x| = 1.
    complement = np.abs(1 - e) ** 3 * (3 + e) / (4 * z_0)
    return np.where(inside, e / np.pi**2 * ellipkm1(complement) / np.sqrt(z_0), 0.0)
