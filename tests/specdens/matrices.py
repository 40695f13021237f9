"""Matrices and blocks that tests of several folders are made of."""

import numpy as np

from specdens import aslinearoperator
from specdens.testing import rotated


def known(eigenvalues):
    op = rotated(eigenvalues)
    return aslinearoperator(
        op.matmat, matmat=op.matmat, n=len(eigenvalues), hermitian=True,
        trace=eigenvalues.sum(), frobenius_squared=(eigenvalues**2).sum(),
    )  # fmt: skip


def block(rng, shape, dtype):
    real = rng.standard_normal(shape)
    imaginary = 1j * rng.standard_normal(shape) if dtype.startswith("complex") else 0
    return (real + imaginary).astype(dtype)


def random_rows(rng, n, dtype, index, *, longest=20):
    """Rows of very different lengths, empty ones among them; unsorted, with duplicates."""
    lengths = np.where(rng.random(n) < 0.3, 0, rng.integers(0, 6, size=n))
    if n:
        lengths[rng.integers(n)] = longest
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(index)
    indices = rng.integers(0, max(n, 1), size=indptr[-1]).astype(index)
    return indptr, indices, block(rng, (indptr[-1],), dtype)
