"""EigenScore of K sampled answers: ``(1/K) log det(E^T J E + alpha I)``, exact."""

from __future__ import annotations

import math
from typing import Any

from send.scores.gram import gram_logdets
from specdens.arrays.libraries import Array, as_dense, namespace

__all__ = ["CENTERS", "check_alpha", "checked", "eigenscore"]

CENTERS = ("features", "samples", "none")
SCALES = ("none", "d", "d-1")


def eigenscore(
    embeddings: Array, *, alpha: float = 1e-3, center: str = "features", scale: str = "none"
) -> Array:
    r"""Return the EigenScore of sampled answers, from their sentence embeddings.

    :math:`\frac1K \log\det(s\,E^T J E + \alpha I_K)`: the larger, the more the K answers differ.
    Exact, by a factorisation of the smaller of the two Gram matrices (see Notes for precision).

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
    Costs about ``d K min(d, K)`` multiplications. The Gram matrix is summed in float64 from centred
    embeddings, whatever their precision, and factored by Cholesky; where alpha is below 2e-13 of
    its trace, by eigenvalues, since rounding then decides about the smallest ones. One exception:
    of a float32 matrix with ``min(d, K) >= 512`` a factor in float32 is tried, and used if
    residuals in float64, of eight random vectors, show that the score is known to 1e-5.

    Large matrices on the CPU are read in portions, without a copy of them all. Batches of small
    ones (K <= 32, float32 or float64, a million numbers or more) are read once, by compiled code,
    which is fastest if either K or d is contiguous in memory; results do not depend on threads.

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
    e = checked(embeddings, alpha=alpha, center=center)
    xp, (*batch, d, k) = namespace(e), e.shape
    stack = xp.reshape(e, (-1 if math.prod(batch) else 0, d, k))
    logdets = gram_logdets(stack, alpha=alpha, center=center, factor=factor(scale, d))
    return xp.reshape(logdets, tuple(batch)) / k


def checked(embeddings: Array, *, alpha: float, center: str) -> Array:
    """Return the embeddings as an array, its shape and the options checked; not yet its values."""
    e = as_dense(embeddings, name="embeddings")
    if e.ndim < 2 or 0 in e.shape[-2:]:
        msg = (
            f"embeddings have shape {tuple(e.shape)}; expected (..., d, K): "
            "one embedding of dimension d in each of K columns, d and K at least 1."
        )
        raise ValueError(msg)
    check_alpha(alpha)
    if center not in CENTERS:
        msg = f"center is {center!r}; expected one of {CENTERS}."
        raise ValueError(msg)
    return e


def check_alpha(alpha: float) -> None:
    """Raise a ValueError unless alpha is a regularisation."""
    if not (math.isfinite(alpha) and alpha > 0):
        msg = f"alpha is {alpha}; expected a positive number, such as 1e-3."
        raise ValueError(msg)


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
