"""EES: EigenScore by moments, with error bars; and the published listing taken literally."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

import specdens
from send.scores.eigenscore import checked
from send.scores.gram import centered, gram_operator
from specdens.arrays.libraries import Array, device, namespace, to_host
from specdens.arrays.probes import gaussian, key_of
from specdens.recurrences.chebyshev_moments import chebyshev_moments
from specdens.recurrences.lanczos import tridiagonalize
from specdens.recurrences.quadrature import gauss

__all__ = ["check_effort", "ees", "paper_coefficients"]

LARGEST = 60
"""Lanczos steps for the largest singular value."""

UNIT = float(np.finfo(np.float64).eps)

STARTS, GAUSSIANS = 2, 4
"""Streams of random numbers."""


def ees(
    embeddings: Array,
    *,
    moments: int = 20,
    probes: int = 20,
    alpha: float = 1e-3,
    mode: str = "convergent",
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Estimate the EigenScore by quadrature: neither a Gram nor the centring matrix is formed.

    With `moments` and `probes` it converges to `eigenscore` (features centred, no scale), and its
    error bars say how far it is. For K of a few hundred answers the exact `eigenscore` is cheaper,
    and for a decaying spectrum it is the one to use: there 20 moments leave a wide interval.

    Parameters
    ----------
    embeddings : array, shape (..., d, K)
        As for `eigenscore`.
    moments : int
        Information per probe: half as many products with the Gram matrix. In mode "paper": M, the
        degree of the series.
    probes : int
        Random signs; ``min(d, K)`` or more: the unit vectors, without chance. In mode "paper":
        Gaussian vectors, always random.
    alpha : float
        Regularisation, positive; not used by mode "paper".
    mode : {"convergent", "paper"}
        "paper" is the published listing taken literally (see Notes).
    rng : None, int or numpy.random.Generator
        Of the probes.
    return_info : bool
        Whether to return ``(value, Estimate)``; for a batch a list of estimates, in C order.

    Returns
    -------
    array, shape (...), or (array, Estimate)
        float64, in the namespace and on the device of the embeddings.

    Raises
    ------
    ValueError
        As `eigenscore`; or if `mode` is unknown, or `moments` or `probes` is not positive.
    TypeError
        If `moments` or `probes` is not an integer.

    Warns
    -----
    specdens.AccuracyWarning
        In mode "convergent", if the truncation error may exceed the standard error.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with E and as many with its transpose for each probe.

    Products are in float64; but those with a float32 matrix of 2^20 numbers or more, ``K <= d``, on
    the CPU are in float32, their inner products in float64, and what that may cost is part of
    the truncation error. Such a matrix, of float64 too, is read once for both products and all
    probes, by compiled code, and is not copied if K is contiguous; without numba a copy in float64
    is. Pass float64 for products in it.

    The published listing standardises each feature over the K answers, divides by the largest
    singular value, and sums ``c_m tr T_m(H) / K`` for m = 0..M with
    ``c_m = (2 - delta_m0)/pi int_0^{pi/2} log(cos t) cos(m t) dt``: the expansion on [-1, 1] of a
    function that is log on (0, 1] and 0 below. It does not converge to EigenScore: alpha and the
    scale are gone, and centring over answers leaves a null vector where the limit is -infinity. Nor
    is the truncated series monotone: at M = 20 it falls from 0 to 0.089 and rises from there, so
    that less consistent answers can score lower. Zero variance gives 0.

    References
    ----------
    Sensitivity Dropout, arXiv:2410.15460 (ACL 2025), algorithm 1 (algorithm 2 in its first
    version).

    Examples
    --------
    >>> import numpy as np
    >>> from send import eigenscore
    >>> E = np.random.default_rng(0).standard_normal((256, 40))
    >>> value, info = ees(E, moments=40, probes=20, rng=0, return_info=True)
    >>> low, high = info.interval(0.99)
    >>> bool(low < eigenscore(E) < high)
    True
    """
    if mode not in {"convergent", "paper"}:
        msg = f"mode is {mode!r}; expected 'convergent' or 'paper'."
        raise ValueError(msg)
    check_effort(moments, probes)
    e = checked(embeddings, alpha=alpha, center="features")
    xp, (*batch, d, k) = namespace(e), e.shape
    key = key_of(rng)
    matrices = xp.reshape(e, (-1 if math.prod(batch) else 0, d, k))
    effort = {"moments": moments, "probes": probes, "key": key}
    found: list[specdens.Estimate]
    each = range(matrices.shape[0])
    if mode == "paper":  # which has no alpha
        m = centered(matrices, center="none")
        found = [_as_published(m[b, :, :], **effort) for b in each]
    else:
        grams = [gram_operator(matrices[b, :, :], alpha=alpha) for b in each]  # all are checked
        found = [_by_quadrature(gram, d, k, alpha=alpha, **effort) for gram in grams]
    values = xp.asarray([float(i) for i in found], dtype=xp.float64, device=device(e))
    values = xp.reshape(values, tuple(batch))
    if not return_info:
        return values
    return values, (found if batch else found[0])


def check_effort(moments: Any, probes: Any) -> None:
    """Raise a ValueError or a TypeError unless EES can be computed with so much effort."""
    for name, count in {"moments": moments, "probes": probes}.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            msg = f"{name} is {count!r}; expected an integer."
            raise TypeError(msg)
        if count < 1:
            msg = f"{name} is {count}; expected at least 1."
            raise ValueError(msg)


def _by_quadrature(
    gram: specdens.Gram, d: int, k: int, *, moments: int, probes: int, alpha: float, key: int
) -> specdens.Estimate:
    """Return the score of one d x K matrix; K > d leaves K - d eigenvalues alpha."""
    _, info = specdens.logdet(
        gram, moments=moments, probes=probes, method="lanczos", rng=key, return_info=True
    )
    scaled: specdens.Estimate = replace(
        info,
        value=(float(info) + max(0, k - d) * math.log(alpha)) / k,
        stderr=info.stderr / k,
        bias_bound=info.bias_bound / k,
    )
    return scaled


def paper_coefficients(count: int) -> np.ndarray[Any, Any]:
    """Return ``c_0 .. c_(count-1)`` of the published listing, in closed form."""
    c = np.empty(count)
    for m in range(count):
        j = m // 2
        if m == 0:
            c[m] = -math.log(2) / 2
        elif m % 2 == 0:
            c[m] = (-1) ** (j + 1) / m
        else:
            harmonic = 2 * sum(1 / (2 * i - 1) for i in range(1, j + 1))
            c[m] = -2 / math.pi * (-1) ** j / m * (-math.log(2) + harmonic + 1 / m)
    return c


def _as_published(e: Array, *, moments: int, probes: int, key: int) -> specdens.Estimate:
    """Return algorithm 1 of the paper, line by line, for one matrix."""
    xp, k = namespace(e), e.shape[1]
    rounding = 16 * UNIT * xp.max(xp.abs(e), axis=1, keepdims=True)
    e = e - xp.mean(e, axis=1, keepdims=True)
    spread = xp.sqrt(xp.mean(xp.abs(e) ** 2, axis=1, keepdims=True))
    varies = spread > rounding  # K equal numbers differ from their mean by a rounding
    e = xp.where(varies, e / xp.where(varies, spread, xp.ones_like(spread)), xp.zeros_like(e))
    if not bool(xp.any(varies)):
        return specdens.Estimate(value=0.0)
    home = {"xp": xp, "dtype": e.dtype, "where": device(e)}
    gram = specdens.Gram(e)
    (factor,) = tridiagonalize(gram, gaussian(k, range(1), key, **home, stream=STARTS), LARGEST)
    largest = float(gauss(factor).nodes[-1])
    z = gaussian(k, range(probes), key, **home, stream=GAUSSIANS)
    mass = xp.sum(xp.abs(z) ** 2, axis=0)
    table = chebyshev_moments(gram, z, moments + 1, -largest, largest)
    scores = paper_coefficients(moments + 1) @ table * to_host(mass) / k
    return specdens.Estimate(
        value=float(scores.mean()),
        stderr=float(scores.std(ddof=1) / math.sqrt(probes)) if probes > 1 else math.inf,
        bias_bound=math.inf,
        bias_rigorous=False,
        converged=False,
        flags=("the published listing does not converge to EigenScore",),
        matvecs=len(factor.diagonal) + probes * math.ceil((moments + 1) / 2),
        samples=probes,
        method="chebyshev",
        seed=key,
    )
