"""EigenScore of K sampled answers: ``(1/K) log det(E^T J E + alpha I)``, exact and by moments."""

from __future__ import annotations

import math
from typing import Any

from specdens._arrays import Array, as_dense, namespace, require_finite, working_dtype

__all__ = ["eigenscore"]

CENTERS = ("features", "samples", "none")
SCALES = ("none", "d", "d-1")


def eigenscore(
    embeddings: Array, *, alpha: float = 1e-3, center: str = "features", scale: str = "none"
) -> Array:
    r"""Return the EigenScore of sampled answers, from their sentence embeddings.

    :math:`\frac1K \log\det(s\,E^T J E + \alpha I_K)`: the larger, the more the K answers differ.
    Exact, in float64, by the eigenvalues of the smaller of the two Gram matrices.

    Parameters
    ----------
    embeddings : array, shape (..., d, K)
        One embedding of dimension d in each of the K columns. NumPy, Torch or CuPy.
    alpha : float
        Regularisation, positive. K equal answers score about ``(1 - 1/K) log(alpha)``.
    center : {"features", "samples", "none"}
        What is subtracted: from each embedding the mean over its d features (``J = I - 11^T/d``,
        the definition), from each feature the mean over the K answers (the published listing of
        EES, which leaves a null vector, so that one eigenvalue is always alpha), or nothing.
    scale : {"none", "d", "d-1"}
        s: 1, 1/d or 1/(d - 1). INSIDE's formula has 1; its code divides by d - 1.

    Returns
    -------
    array, shape (...)
        float64, in the namespace and on the device of the embeddings.

    Raises
    ------
    ValueError
        If a shape, an option or a value is not as described, or an embedding is not finite.

    Notes
    -----
    On short answers the score is almost the number of distinct answers: each repeated answer
    contributes ``log(alpha)/K``.

    References
    ----------
    Chen et al., INSIDE, ICLR 2024 (arXiv:2402.03744), eqs. 5-6.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> same = np.repeat(rng.standard_normal((64, 1)), 10, axis=1)
    >>> different = rng.standard_normal((64, 10))
    >>> bool(eigenscore(same) < eigenscore(different))
    True
    """
    e = centered(embeddings, alpha=alpha, center=center)
    xp = namespace(e)
    d, k = e.shape[-2:]
    e = e * math.sqrt(factor(scale, d))
    transposed = xp.conj(xp.matrix_transpose(e))
    gram = transposed @ e if k <= d else e @ transposed
    # Rounding leaves a null eigenvalue anywhere in +-u lambda_max: it is not negative in truth.
    eigenvalues = xp.linalg.eigvalsh(gram)
    eigenvalues = xp.where(eigenvalues > 0, eigenvalues, xp.zeros_like(eigenvalues))
    logdet = xp.sum(xp.log(eigenvalues + alpha), axis=-1)
    return (logdet + (k - min(d, k)) * math.log(alpha)) / k


def centered(embeddings: Array, *, alpha: float, center: str) -> Array:
    """Check the embeddings and return them in float64, centred."""
    e = as_dense(embeddings, name="embeddings")
    xp = namespace(e)
    if e.ndim < 2 or 0 in e.shape[-2:]:
        msg = (
            f"embeddings have shape {tuple(e.shape)}; expected (..., d, K): "
            "one embedding of dimension d in each of K columns, d and K at least 1."
        )
        raise ValueError(msg)
    if not (math.isfinite(alpha) and alpha > 0):
        msg = f"alpha is {alpha}; expected a positive number, such as 1e-3."
        raise ValueError(msg)
    if center not in CENTERS:
        msg = f"center is {center!r}; expected one of {CENTERS}."
        raise ValueError(msg)
    complex_ = xp.isdtype(working_dtype(xp, e.dtype), "complex floating")
    e = xp.astype(e, xp.complex128 if complex_ else xp.float64)
    require_finite(e, "embeddings")
    if center == "none":
        return e
    return e - xp.mean(e, axis=-2 if center == "features" else -1, keepdims=True)


def factor(scale: str, d: int) -> float:
    """Return the factor s of the Gram matrix."""
    factors: dict[str, Any] = {"none": 1, "d": d, "d-1": d - 1}
    if scale not in factors:
        msg = f"scale is {scale!r}; expected one of {SCALES}."
        raise ValueError(msg)
    if factors[scale] == 0:
        msg = "scale 'd-1' needs embeddings of dimension 2 at least."
        raise ValueError(msg)
    return 1 / float(factors[scale])
