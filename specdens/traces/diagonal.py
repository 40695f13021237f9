"""The diagonal of a matrix or operator, and that of a function of a Hermitian matrix."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from specdens.arrays.libraries import Array, column_dots, is_complex, namespace, to_host
from specdens.exact.factorizations import dense_of, spectrum_is_small
from specdens.operators.algebra import Counting
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import (
    Problem,
    checked_count,
    prepare,
    require_hermitian,
    require_method,
    square_operator,
)
from specdens.recurrences.quadrature import noise_of
from specdens.results import AccuracyWarning
from specdens.scalar_functions import ScalarFunction, require_domain, scalar_function
from specdens.sketching.xdiag import (
    DiagonalEstimate,
    certain,
    estimated_diagonal,
    in_double,
    real,
    squares,
)
from specdens.vectors.krylov_function import function_times

__all__ = ["diagonal", "diagonal_function"]

METHODS = ("auto", "exact", "hutchinson", "diag++", "xdiag")

TRUNCATED = "the truncation error may exceed the standard error"


def diagonal(
    A: Any,
    *,
    probes: Any = None,
    method: str = "auto",
    max_matvecs: int | None = None,
    distribution: str = "signs",
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the diagonal of a square matrix, or estimate that of an operator.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes, symmetric or not.
    probes : int or array of shape (n, R), optional
        Random vectors, 20 by default; an array is for Hutchinson's estimator only. XDiag spends 2
        products on each, Hutchinson 1; Diag++ makes a basis from one half of them, at 2 products
        each. Where that makes n products or more, n give the exact diagonal.
    method : {"auto", "exact", "hutchinson", "diag++", "xdiag"}
        ``"auto"`` reads the diagonal where there is one. Of an operator it is ``"hutchinson"``;
        with a budget, if it is Hermitian, ``"xdiag"`` unless half of the products show a spectrum
        so flat that ``"hutchinson"`` is better. ``"diag++"`` and ``"xdiag"`` need the adjoint
        product. Below n = 64 ``"xdiag"`` is exact, for n products.
    max_matvecs : int, optional
        A budget of products, instead of `probes`. n or more: the exact diagonal.
    distribution : {"signs", "sphere", "orthogonal"}
        Of Hutchinson's probes, as for `trace`. Signs are the best of few probes.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself; ``rng=info.seed`` repeats a result.
    return_info : bool
        Whether to return ``(value, DiagonalEstimate)``.

    Returns
    -------
    array of shape (n,), or (array, DiagonalEstimate)
        Of A's library and device, in A's precision (float64 for integers and half precision);
        complex if A is.

    Raises
    ------
    ValueError
        If A is not square or not finite, or a product is not; if there is no adjoint product where
        one is needed; if a budget is too small for the method, or an option not as described.

    Notes
    -----
    Costs no product for an explicit matrix, n for ``"exact"`` of an operator. The variance of entry
    i with one probe of signs is :math:`\sum_{j \ne i} |a_{ij}|^2`. Diag++ and XDiag keep three
    n x m arrays and gain where the singular values of A decay.

    References
    ----------
    Bekas, Kokiopoulou and Saad, Appl. Numer. Math. 57, 1214 (2007); Baston and Nakatsukasa,
    arXiv:2201.10684 (Diag++); Epperly, Tropp and Webber, SIAM J. Matrix Anal. Appl. 45, 1 (2024),
    section 2.5 (XDiag).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> weights = np.arange(1.0, 1001.0) ** -2
    >>> op = specdens.aslinearoperator(lambda v: weights * v, n=1000, hermitian=True)
    >>> bool(np.allclose(specdens.diagonal(op, probes=4, rng=0), weights))
    True
    """
    require_method(method, METHODS)
    if probes is not None and max_matvecs is not None:
        msg = "both probes and max_matvecs are given; expected one or the other."
        raise ValueError(msg)
    limit = None if max_matvecs is None else checked_count(max_matvecs, "max_matvecs")
    op = square_operator(A)
    counted = Counting(op)
    if isinstance(op, ExplicitOperator) and method in {"auto", "exact"}:
        found = certain(in_double(op.diagonal()))
    else:
        found = estimated_diagonal(counted, method, probes, limit, distribution, rng)
    found = _in_precision(op, replace(found, matvecs=counted.count))
    return (found.value, found) if return_info else found.value


def diagonal_function(
    A: Any,
    f: Any,
    *,
    moments: int = 20,
    probes: Any = None,
    method: str = "auto",
    shift: float = 0.0,
    hermitian: bool | None = None,
    distribution: str = "signs",
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the diagonal of :math:`f(A + \mathrm{shift}\, I)` of a Hermitian matrix.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes. Real symmetric or complex Hermitian.
    f : {"log", "exp", "inv", "sqrt", "xlogx", "square"} or callable
        As for `trace_function`.
    moments : int
        Lanczos applies f(A) to a vector by half as many products.
    probes : int or array of shape (n, R), optional
        As for `diagonal`; n or more: the unit vectors, without chance.
    method : {"auto", "exact", "hutchinson", "diag++", "xdiag"}
        ``"auto"`` is exact, by all eigenvectors, for dense n <= 8192 (32768 on a GPU) and sparse
        n <= 2048; else Hutchinson. ``"xdiag"`` gains where f(A) decays, such as ``"exp"``.
    shift : float
        Added to the diagonal.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    distribution : {"signs", "sphere", "orthogonal"}
        Of Hutchinson's probes, as for `trace`.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself; ``rng=info.seed`` repeats a result.
    return_info : bool
        Whether to return ``(value, DiagonalEstimate)``.

    Returns
    -------
    array of shape (n,), or (array, DiagonalEstimate)
        Of A's library and device, in the real dtype of A's precision (complex for complex f).

    Raises
    ------
    ValueError
        If A is not square, not Hermitian or not finite; if f is not defined on its spectrum; or if
        an option is not as described.

    Warns
    -----
    AccuracyWarning
        If the truncation error may exceed the standard error.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products for each application of f(A): one a probe, two a test
    vector of XDiag (see `diagonal`); n unit vectors leave the truncation error alone.

    References
    ----------
    Bekas, Kokiopoulou and Saad, Appl. Numer. Math. 57, 1214 (2007).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> print(specdens.diagonal_function(A, "inv").round(6))
    [0.666667 0.666667]
    """
    require_method(method, METHODS)
    steps = math.ceil(checked_count(moments, "moments") / 2)
    function = scalar_function(f)
    problem = prepare(A, shift=shift, hermitian=hermitian)
    require_hermitian(problem, "diag f(A)")
    if problem.n == 0 or method == "exact" or (method == "auto" and spectrum_is_small(problem.op)):
        found = _by_eigenvectors(problem, function)
    else:
        counted = Counting(problem.shifted)
        applied = _Function(counted, function, steps)
        estimated = "hutchinson" if method == "auto" else method
        found = estimated_diagonal(applied, estimated, probes, None, distribution, rng)
        bias = applied.worst / math.sqrt(problem.n)
        found = replace(found, matvecs=problem.matvecs + counted.count, bias_bound=bias)
        found = _judged(found, moments, problem.op.unit)
    found = _in_precision(problem.op, found)
    return (found.value, found) if return_info else found.value


def _in_precision(op: LinearOperator, found: DiagonalEstimate) -> DiagonalEstimate:
    """Bring value and errors to the precision of A."""
    xp, dtype = op.xp, op.result_dtype
    complex_dtype = xp.complex64 if dtype == xp.float32 else xp.complex128
    value = xp.astype(found.value, complex_dtype if is_complex(found.value) else dtype)
    return replace(found, value=value, stderr=xp.astype(found.stderr, dtype))


class _Function(LinearOperator):
    """``f(A)``, applied by Lanczos steps.

    `worst` is the largest estimated error norm of ``f(A) z`` so far, each z brought to norm
    sqrt(n).
    """

    def __init__(self, base: LinearOperator, f: ScalarFunction, steps: int) -> None:
        self.base, self.f, self.steps, self.worst = base, f, steps, 0.0
        with np.errstate(all="ignore"):
            complex_f = np.iscomplexobj(np.asarray(f.apply(np, np.ones(1))))
        dtype, xp = base.dtype, base.xp
        if complex_f and not xp.isdtype(dtype, "complex floating"):
            dtype = xp.complex64 if dtype == xp.float32 else xp.complex128
        super().__init__(
            base.shape, dtype=dtype, xp=xp, device=base.device, result_dtype=base.result_dtype
        )
        self.hermitian = not complex_f

    def _matmat(self, x: Array) -> Array:
        y, errors = function_times(self.base, self.f, x, self.steps)
        sizes = np.sqrt(np.real(column_dots(x, x)) / x.shape[0])
        self.worst = max(self.worst, float(np.max(errors / sizes)))
        return y


def _by_eigenvectors(problem: Problem, f: ScalarFunction) -> DiagonalEstimate:
    """Return ``sum_k |v_ik|^2 f(x_k)`` over all eigenpairs."""
    xp, n = problem.op.xp, problem.n
    explicit = isinstance(problem.op, ExplicitOperator)
    matvecs = problem.matvecs + (0 if explicit else n)
    a = dense_of(problem.op, problem.real_shift)
    if n == 0:
        return certain(real(xp.linalg.diagonal(a)))
    spectrum, vectors = xp.linalg.eigh(a)
    low, high = float(spectrum[0]), float(spectrum[-1])
    require_domain(f, low, noise_of(n, problem.op.stored_unit, low, high))
    if f.domain != "real":
        spectrum = xp.where(spectrum > 0, spectrum, xp.zeros_like(spectrum))
    if f.own:
        values = xp.asarray(f.on_host(to_host(spectrum)), device=problem.op.device)
    else:
        with np.errstate(divide="ignore"):
            values = f.apply(xp, spectrum)
    if not bool(xp.all(xp.isfinite(values))):
        msg = (
            f"{f.name} is not finite on the spectrum of A, from {low:.6g} to {high:.6g}: "
            "the diagonal of f(A) does not exist. shift= moves the spectrum."
        )
        raise ValueError(msg)
    weights = xp.astype(squares(vectors), values.dtype)
    return replace(certain(weights @ values), matvecs=matvecs)


def _judged(found: DiagonalEstimate, moments: int, unit: float) -> DiagonalEstimate:
    """Compare the truncation error with the standard error, and warn where it may be larger."""
    xp = namespace(found.stderr)
    stderr = math.sqrt(float(xp.mean(found.stderr**2)))
    size = math.sqrt(float(xp.mean(squares(found.value))))
    if found.bias_bound <= max(stderr, 1e-8 * size, 100 * unit * size):
        return found
    msg = (
        f"the truncation error of the diagonal of f(A), roughly up to {found.bias_bound:.3g} (root "
        f"mean square), may exceed its standard error {stderr:.3g}. Raise moments (now {moments}), "
        "or use method='exact'."
    )
    warnings.warn(msg, AccuracyWarning, stacklevel=3)
    return replace(found, converged=False, flags=(TRUNCATED,))
