"""``log det(s E^T J E + alpha I)`` of embeddings E, of one large matrix or of many small ones."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from specdens._arrays import (
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
from specdens._kernels import kernel
from specdens.operators import Gram

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
        One of `send.scores.CENTERS`.

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
    compiled = kernel("gram", "gram_logdets")
    if e.shape[2] > FEW or center == "samples" or compiled is None:
        return None
    found: Host = compiled(e, center == "features", factor, alpha, limit)
    return found


def _by_blas(e: Host, center: str, factor: float, alpha: float, limit: float) -> float:
    """Return the log-determinant of one large matrix, which is read once; NaN if in doubt."""
    from scipy.linalg.lapack import dpotrf

    d, k = e.shape
    with np.errstate(over="ignore", invalid="ignore"):
        gram = _gram(e, center) if k <= d else _gram(e.T, center, turned=True)
    trace = float(np.trace(gram))
    if not trace <= min(limit, LARGEST_VALUE):
        return math.nan
    gram *= factor
    diagonal = np.einsum("ii->i", gram)
    diagonal += alpha
    _, failed = dpotrf(gram, lower=1, overwrite_a=1, clean=0)
    logdet = 2 * float(np.log(diagonal).sum()) + (k - len(gram)) * math.log(alpha)
    return math.nan if failed else logdet


def _gram(x: Host, center: str, *, turned: bool = False) -> Host:
    """Return the lower triangle of ``X^T J X``, in double precision and Fortran order.

    Means over rows are those of portions, so that X is read once; what these differ by is added
    last, as the variance of groups: without cancellation.

    References
    ----------
    Chan, Golub and LeVeque, COMPSTAT 1982, eq. 2.1.
    """
    from scipy.linalg.blas import dsyrk

    rows, size = x.shape
    over_rows = center == ("samples" if turned else "features")
    gram = np.zeros((size, size), order="F")
    counts, means = [], []
    for start in range(0, rows, max(1, AT_ONCE // size)):
        part = x[start : start + max(1, AT_ONCE // size)].astype(np.float64, order="C")
        counts.append(len(part))
        if over_rows:
            means.append(part.mean(axis=0))
            part -= means[-1]
        elif center != "none":
            part -= part.mean(axis=1, keepdims=True)
        gram = dsyrk(1.0, part.T, beta=1.0, c=gram, lower=1, overwrite_c=1)
    if len(means) > 1:
        between = np.array(means) - np.average(means, axis=0, weights=counts)
        between *= np.sqrt(counts)[:, None]
        gram = dsyrk(1.0, between.T, beta=1.0, c=gram, lower=1, overwrite_c=1)
    return gram


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
