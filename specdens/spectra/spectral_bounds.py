"""`spectral_bounds`: an interval that contains all eigenvalues."""

from __future__ import annotations

from typing import Any

from specdens.problem.bounds import estimated_bounds
from specdens.problem.prepare import prepare, require_states
from specdens.results import SpectralBounds

__all__ = ["spectral_bounds"]


def spectral_bounds(
    A: Any,
    *,
    hermitian: bool | None = None,
    rng: Any = None,
) -> SpectralBounds:
    r"""Return an interval that contains the spectrum of a Hermitian matrix.

    The extreme Ritz values of 20 Lanczos steps with a safeguard: 4 residual norms and 1 % of the
    width. That has no proof, but a Chebyshev recurrence that meets an eigenvalue outside notices
    it. An end known by proof (Gershgorin's circles of an explicit matrix, the construction of a
    `Gram`) is taken instead where that makes the interval hardly wider.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes; Hermitian, n at least 1.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    rng : None, int or numpy.random.Generator
        For the start vector.

    Returns
    -------
    SpectralBounds
        Unpacks as ``low, high`` and can be passed on as ``bounds=``; ``.how`` says where it comes
        from, ``.low_rigorous`` and ``.high_rigorous`` whether by proof.

    Raises
    ------
    ValueError
        If A is empty, not square, not Hermitian or not finite.

    Notes
    -----
    Costs 20 products, or n if that is less.

    References
    ----------
    Zhou and Li, J. Comput. Phys. 230, 4385 (2011).

    Examples
    --------
    >>> import specdens
    >>> from specdens.testing import laplacian
    >>> low, high = specdens.spectral_bounds(laplacian(50, 50), rng=0)
    >>> bool(low <= 0.0076 and 7.992 <= high)
    True
    """
    problem = prepare(A, hermitian=hermitian)
    require_states(problem, "an interval of eigenvalues")
    return estimated_bounds(problem.op, known=problem.known, rng=rng)
