r"""Gauss quadrature from a tridiagonal: ``<z, f(A) z> / <z, z> = sum_j w_j f(x_j)``, m nodes.

Exact for polynomials of degree 2m - 1. A Gauss-Radau rule has one node more, prescribed at an end
of an interval that contains the spectrum; where the derivatives of f have known signs, the two
rules bracket the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens.recurrences.lanczos import Bidiagonal, Tridiagonal

__all__ = ["Rule", "averaged", "gauss", "noise_of", "radau", "residuals", "ritz_pairs"]

Host: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rule:
    """Nodes, ascending, and weights, which sum to 1.

    For a `Bidiagonal` the nodes are singular values: those of the measure of ``|A|``.
    """

    nodes: Host
    weights: Host

    def integrate(self, values: Host) -> Any:
        """Return ``sum_j w_j values_j``; a node without weight adds nothing, even an infinity."""
        terms = np.zeros(len(values), dtype=np.result_type(values, float))
        seen = self.weights > np.finfo(float).tiny
        terms[seen] = self.weights[seen] * values[seen]
        return terms.sum()


def gauss(factor: Tridiagonal | Bidiagonal) -> Rule:
    """Return the Gauss rule of one vector's factor."""
    if isinstance(factor, Bidiagonal):
        return _singular(factor)
    nodes, first, _ = factor.ritz
    return Rule(nodes, first**2)


def ritz_pairs(factor: Tridiagonal) -> tuple[Host, Host]:
    """Return Ritz values, ascending, and the last components of their vectors.

    ``|beta_m s_mi|`` is the norm of the residual of pair i.
    """
    values, _, last = factor.ritz
    return values, last


def residuals(factor: Tridiagonal | Bidiagonal) -> Host:
    """Return the norms of the residuals of Ritz pairs, or of singular triplets, as `gauss` orders.

    So far from each node there is an eigenvalue (a singular value).
    """
    if isinstance(factor, Tridiagonal):
        return np.asarray(factor.residual * np.abs(ritz_pairs(factor)[1]))
    from scipy.linalg import svd

    b = np.diag(factor.diagonal) + np.diag(factor.super_diagonal, 1)
    return np.asarray(factor.residual * np.abs(svd(b)[0][-1])[::-1])


def _singular(factor: Bidiagonal) -> Rule:
    from scipy.linalg import svd

    b = np.diag(factor.diagonal) + np.diag(factor.super_diagonal, 1)
    _, values, right = svd(b)
    return Rule(values[::-1], (np.abs(right[:, 0]) ** 2)[::-1])


def radau(factor: Tridiagonal, node: float) -> Rule | None:
    """Return the Gauss-Radau rule with a node prescribed outside the Ritz values.

    Parameters
    ----------
    factor : Tridiagonal
    node : float
        At most the smallest eigenvalue, or at least the largest.

    Returns
    -------
    Rule or None
        None if the node lies among the Ritz values, where no such rule is a bound.

    References
    ----------
    Golub, SIAM Rev. 15, 318 (1973); Golub and Meurant (2010), section 6.2.
    """
    from scipy.linalg import solve_banded

    rule = gauss(factor)
    if factor.residual == 0:
        return rule  # the Krylov space is invariant: Gauss is exact
    if rule.nodes[0] <= node <= rule.nodes[-1]:
        return None
    scale = float(np.abs(rule.nodes).max())  # squares of tiny or huge entries would not fit
    diagonal, residual, fixed = factor.diagonal / scale, factor.residual / scale, node / scale
    m = len(diagonal)
    bands = np.zeros((3, m))
    bands[0, 1:] = bands[2, :-1] = factor.off_diagonal / scale
    bands[1] = diagonal - fixed
    right = np.zeros(m)
    right[-1] = residual**2
    last = fixed + solve_banded((1, 1), bands, right)[-1]
    if not np.isfinite(last):
        return None
    extended = gauss(Tridiagonal(np.append(diagonal, last), np.append(bands[0, 1:], residual), 0.0))
    nodes = extended.nodes * scale
    nodes[0 if node < rule.nodes[0] else -1] = node  # known better than it can be computed
    return Rule(nodes, extended.weights)


def averaged(factor: Tridiagonal) -> Rule | None:
    """Return the generalised averaged Gauss rule: the tridiagonal continued by its mirror image.

    It takes the next coefficient, ``beta_m``, which is known without a further product, and guesses
    that the later ones resemble the earlier ones: for a measure without gaps the error is often
    a hundredth of that of Gauss. Its outer nodes may lie outside the spectrum.

    Parameters
    ----------
    factor : Tridiagonal

    Returns
    -------
    Rule or None
        None if there is nothing to continue: one step, or an invariant Krylov space.

    References
    ----------
    Spalević, Math. Comput. 76, 1483 (2007), eq. 2.8; with m - 1 for his n.
    """
    diagonal, off_diagonal = factor.diagonal, factor.off_diagonal
    if factor.residual == 0 or len(diagonal) < 2:
        return None
    return gauss(
        Tridiagonal(
            np.concatenate([diagonal, diagonal[-2::-1]]),
            np.concatenate([off_diagonal, [factor.residual], off_diagonal[-2::-1]]),
            0.0,
        )
    )


def noise_of(n: int, unit: float, low: float, high: float) -> float:
    """Return how far rounding may move the eigenvalues of a matrix, or put Ritz values beyond.

    Parameters
    ----------
    n : int
        Order.
    unit : float
        Unit roundoff of the products.
    low, high : float
        The extreme ones.
    """
    return (10 + math.sqrt(n)) * unit * max(abs(low), abs(high))
