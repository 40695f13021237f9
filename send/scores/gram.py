"""``log det(s E^T J E + alpha I)`` of embeddings E, of one large matrix or of many small ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from specdens import Gram
from specdens.arrays.libraries import (
    Array,
    cholesky_diagonals,
    device,
    host_view,
    is_complex,
    namespace,
    require_finite,
    to_host,
    working_dtype,
)
from specdens.kernels.compiled import kernel

__all__ = ["centered", "gram_logdets", "gram_operator"]

Host: TypeAlias = np.ndarray[Any, Any]

LARGEST_VALUE = 1e150
"""Of embeddings: the square of a larger one may be beyond float64."""

SAFE = 1000 * float(np.finfo(np.float64).eps)
"""Share of the trace: with an alpha above it no pivot of Cholesky drowns in rounding."""

LEAST_ENTRIES = 2**20
"""With fewer, loading compiled code takes longer than what it saves."""

FEW = 32
"""Columns up to which a Gram matrix is summed in registers."""

SINGLE_FROM = 512
"""Columns from which a factor in single precision is tried, for embeddings in it."""

SINGLE_ERROR = 1e-5
"""Of a score: what is accepted of single precision."""

SIGNS = 8
"""Vectors to find the error of a factor with."""

LARGEST_TRACE = 1e30
"""Up to which products are far from the largest number of single precision."""

AT_ONCE = 2**22
"""Entries that are converted to double precision at a time."""


def gram_logdets(e: Array, *, alpha: float, center: str, factor: float) -> Array:
    """Return ``log det(factor E^T J E + alpha I_K)`` of each matrix of a stack.

    Parameters
    ----------
    e : array, shape (B, d, K)
    alpha, factor : float
        Positive.
    center : str
        One of `send.scores.eigenscore.CENTERS`.

    Returns
    -------
    array of float64, shape (B,)

    Raises
    ------
    ValueError
        If a number is not finite, or too large.
    """
    options: dict[str, Any] = {"alpha": alpha, "center": center, "factor": factor}
    xp = namespace(e)
    host = host_view(e) if math.prod(e.shape) >= LEAST_ENTRIES else None
    found = None if host is None else _on_host(host, **options)
    if found is None:
        return _in_portions(e, **options)
    (doubtful,) = np.nonzero(np.isnan(found))
    if len(doubtful):
        rest = e if len(doubtful) == len(found) else e[xp.asarray(doubtful), :, :]
        found[doubtful] = to_host(_in_portions(rest, **options))
    return xp.asarray(found, device=device(e))


def _on_host(e: Host, *, alpha: float, center: str, factor: float) -> Host | None:
    """Return what Cholesky gives, NaN where it is no good; None if there is no fast way."""
    if e.dtype not in (np.float32, np.float64):
        return None
    limit = alpha / (SAFE * factor)
    if min(e.shape[1:]) > FEW:
        return np.array([_by_blas(matrix, center, factor, alpha, limit) for matrix in e])
    compiled = kernel("cpu.gram_logdet", "gram_logdets")
    if e.shape[2] > FEW or center == "samples" or compiled is None:
        return None
    found: Host = compiled(e, center == "features", factor, alpha, limit)
    return found


def _by_blas(e: Host, center: str, factor: float, alpha: float, limit: float) -> float:
    """Return the log-determinant of one large matrix; NaN if in doubt."""
    d, k = e.shape
    turned = k > d
    x = e.T if turned else e
    over_rows = center == ("samples" if turned else "features")
    over_columns = center != "none" and not over_rows
    with np.errstate(over="ignore", invalid="ignore"):
        portions = partial(_portions, x, over_rows=over_rows, over_columns=over_columns)
        logdet = math.nan
        if e.dtype == np.float32 and x.shape[1] >= SINGLE_FROM:
            logdet = _in_single(portions, x.shape[1], factor, alpha)
        if math.isnan(logdet):
            root = _cholesky(portions, x.shape[1], np.float64, factor, alpha, limit)
            logdet = math.nan if root is None else _logdet_of_root(root)
    return logdet + float(k - x.shape[1]) * math.log(alpha)


def _portions(x: Host, *, over_rows: bool, over_columns: bool) -> Iterator[Host]:
    """Give matrices P of few rows away, whose sum of ``P^T P`` is ``X^T X`` of the centred X.

    Means over rows are those of portions, so that X is read once; what these differ by is the last
    one, as the variance of groups: without cancellation.

    Yields
    ------
    ndarray of float64, shape (..., columns of X)

    References
    ----------
    Chan, Golub and LeVeque, COMPSTAT 1982, eq. 2.1.
    """
    rows, size = x.shape
    step = max(1, AT_ONCE // size)
    counts, means = [], []
    for start in range(0, rows, step):
        part = x[start : start + step].astype(np.float64, order="C")
        if over_rows:
            counts.append(len(part))
            means.append(part.mean(axis=0))
            part -= means[-1]
        elif over_columns:
            part -= part.mean(axis=1, keepdims=True)
        yield part
    if len(means) > 1:
        between = np.array(means) - np.average(means, axis=0, weights=counts)
        yield between * np.sqrt(counts)[:, None]


def _cholesky(
    portions: Callable[[], Iterator[Host]],
    size: int,
    dtype: type,
    factor: float,
    alpha: float,
    limit: float,
) -> Host | None:
    """Return L of ``factor G + alpha I = L L^T``, or None where the trace is beyond the limit."""
    from scipy.linalg.blas import dsyrk, ssyrk
    from scipy.linalg.lapack import dpotrf, spotrf

    gram: Host = np.zeros((size, size), dtype, order="F")
    syrk, potrf = (ssyrk, spotrf) if dtype is np.float32 else (dsyrk, dpotrf)
    for part in portions():
        p: Host = part.astype(dtype, copy=False)
        gram = syrk(1.0, p.T, beta=1.0, c=gram, lower=1, overwrite_c=1)
    diagonal = np.einsum("ii->i", gram)
    if not float(diagonal.sum(dtype=np.float64)) <= min(limit, LARGEST_VALUE):
        return None
    gram *= dtype(factor)
    diagonal += dtype(alpha)
    root, failed = potrf(gram, lower=1, overwrite_a=1, clean=0)
    return None if failed else root


def _logdet_of_root(root: Host) -> float:
    return 2 * float(np.log(np.diagonal(root), dtype=np.float64).sum())


def _in_single(
    portions: Callable[[], Iterator[Host]], size: int, factor: float, alpha: float
) -> float:
    """Return the log-determinant by a factor in single precision; NaN where it is not good enough.

    The factor solves ``A V = Z`` for random signs Z, and A V is computed in double precision: with
    ``A = L L^T + D`` the root mean square of ``Z - A V``, about ``||D A^{-1}||_F / sqrt(K)``, is at
    least ``|tr D A^{-1}| / K``, what the score is wrong by.
    """
    from scipy.linalg.lapack import spotrs

    root = _cholesky(portions, size, np.float32, factor, alpha, LARGEST_TRACE)
    if root is None:
        return math.nan
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (size, SIGNS)).astype(np.float32)
    solved = spotrs(root, signs, lower=1)[0].astype(np.float64)
    product = alpha * solved
    for part in portions():
        product += factor * (part.T @ (part @ solved))
    off = math.sqrt(float(np.mean((signs - product) ** 2)))
    return _logdet_of_root(root) if off <= SINGLE_ERROR else math.nan


def _in_portions(e: Array, **options: Any) -> Array:
    """Do it in any library, for as many matrices at a time as their copies take little memory."""
    count, step = e.shape[0], max(1, 4 * AT_ONCE // math.prod(e.shape[1:]))
    ranges = [(i, min(i + step, count)) for i in range(0, max(1, count), step)]
    found = [_by_library(e[i:j, :, :], **options) for i, j in ranges]
    return found[0] if len(found) == 1 else namespace(e).concat(found)


def _by_library(e: Array, *, alpha: float, center: str, factor: float) -> Array:
    e = centered(e, center=center)
    xp, (d, k) = namespace(e), e.shape[1:]
    transposed = xp.conj(xp.matrix_transpose(e))
    gram = factor * (transposed @ e if k <= d else e @ transposed)
    return _logdets(gram, alpha) + (k - gram.shape[-1]) * math.log(alpha)


def _logdets(gram: Array, alpha: float) -> Array:
    """Return ``log det(G + alpha I)``: by Cholesky where alpha is far above rounding."""
    xp = namespace(gram)
    diagonal = xp.linalg.diagonal(gram)
    traces = to_host(xp.sum(xp.real(diagonal) if is_complex(gram) else diagonal, axis=-1))
    safe = traces * SAFE <= alpha
    pivots = None
    if safe.any():
        identity = xp.eye(gram.shape[-1], dtype=gram.dtype, device=device(gram))
        pivots, definite = cholesky_diagonals(gram + alpha * identity)
        safe &= definite
        logdets = 2 * xp.sum(xp.log(pivots), axis=-1)
        if safe.all():
            return logdets
    # Rounding leaves a null eigenvalue anywhere in +-u lambda_max: it is not negative in truth.
    eigenvalues = xp.linalg.eigvalsh(gram)
    eigenvalues = xp.where(eigenvalues > 0, eigenvalues, xp.zeros_like(eigenvalues))
    found = xp.sum(xp.log(eigenvalues + alpha), axis=-1)
    if pivots is None:
        return found
    return xp.where(xp.asarray(safe, device=device(gram)), logdets, found)


def gram_operator(e: Array, *, alpha: float) -> Gram:
    """Return ``E^T J E + alpha I``, or ``J E E^T J + alpha I`` if it is smaller, never formed.

    A large matrix of NumPy, or of Torch on the CPU, is used as it is, in its precision; else a
    centred copy in double precision.
    """
    xp, (d, k) = namespace(e), e.shape
    host = host_view(e) if d * k >= LEAST_ENTRIES and k <= d else None
    if host is not None and host.dtype in (np.float32, np.float64):
        gram = Gram(np.ascontiguousarray(host), shift=alpha, center="features")
        if gram.is_compiled and gram.power_traces() and gram.power_traces()[0] < LARGEST_TRACE:
            return gram
    e = centered(e, center="features")
    return Gram(e if k <= d else xp.matrix_transpose(e), shift=alpha)


def centered(e: Array, *, center: str) -> Array:
    """Return a stack of matrices in double precision, centred.

    Raises
    ------
    ValueError
        If a number is not finite, or too large.
    """
    xp = namespace(e)
    complex_ = xp.isdtype(working_dtype(xp, e.dtype), "complex floating")
    e = xp.astype(e, xp.complex128 if complex_ else xp.float64)
    require_finite(e, "embeddings")
    largest = float(xp.max(xp.abs(e))) if 0 not in e.shape else 0.0
    if largest > LARGEST_VALUE:
        msg = (
            f"an embedding has a value of {largest:.3g}; expected at most {LARGEST_VALUE:.0e}, or "
            "products overflow. Divide the embeddings, and alpha by the square."
        )
        raise ValueError(msg)
    if center == "none":
        return e
    return e - xp.mean(e, axis=-2 if center == "features" else -1, keepdims=True)
