"""``y^H A^-1 y`` and ``log det A`` from one run: the two terms of a Gaussian log-likelihood."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, column_dots, eps, is_complex, to_host
from specdens.arrays.probes import Probes
from specdens.determinants.exact_logdet import is_cheap
from specdens.estimation.estimate import CONTRADICTED, summed
from specdens.estimation.sampling import by_blocks, known_traces, probes_for
from specdens.estimation.truncation import integrate_factors
from specdens.exact.factorizations import NOISE, UNIT, dense_of, slogdet
from specdens.operators.algebra import Counting
from specdens.operators.explicit import ExplicitOperator
from specdens.problem.prepare import (
    Problem,
    checked_count,
    prepare,
    require_hermitian,
    require_method,
)
from specdens.recurrences.lanczos import Tridiagonal, tridiagonalize
from specdens.results import Estimate
from specdens.scalar_functions import LOG, NAMED
from specdens.vectors.apply_function import columns_like
from specdens.vectors.quadratic_form import as_values, described, judged, warn_of_worst

__all__ = ["inv_quad_logdet"]

Host: TypeAlias = np.ndarray[Any, Any]


def inv_quad_logdet(
    A: Any,
    y: Any,
    *,
    moments: int = 20,
    probes: Any = None,
    method: str = "auto",
    shift: float = 0.0,
    hermitian: bool | None = None,
    bounds: Any = None,
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return :math:`y^H M^{-1} y` and :math:`\log\det M` of :math:`M = A + \mathrm{shift}\, I`.

    The two terms of a Gaussian log-likelihood
    :math:`-\tfrac12 (y^H M^{-1} y + \log\det M + n \log 2\pi)`, from one run: y is one more column
    beside the probes.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Hermitian positive definite (after the shift); anything that `aslinearoperator` takes.
    y : array, shape (n,) or (n, R)
        Of A's library and device; may be complex where A is real.
    moments : int
        Information per column and probe: costs half as many products.
    probes : int or array of shape (n, P), optional
        For the determinant. Default 20 random signs (phases for complex A). n or more: the unit
        vectors, without chance.
    method : {"auto", "exact", "lanczos"}
        ``"auto"`` factors A where `logdet` would.
    shift : float
        Added to the diagonal: the variance of the noise.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    bounds : tuple of float, optional
        An interval that contains the spectrum of A, before the shift.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself; ``rng=info.seed`` repeats a result.
    return_info : bool
        Whether to return ``((inv_quad, logdet), (Estimate, Estimate))``; for y of shape (n, R) the
        first of the two is a tuple of R.

    Returns
    -------
    (inv_quad, logdet), or that with their errors
        A scalar, or an array of shape (R,), and a scalar; of A's library and device, real.

    Raises
    ------
    ValueError
        If A is not square, not Hermitian, not finite, or has a negative eigenvalue; if y does not
        fit; or if an option is not as described.

    Warns
    -----
    AccuracyWarning
        If a truncation error may matter, or something else is doubtful.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each column and each probe. The first value has no
    statistical error; where a lower bound of the spectrum is known (a `Gram` with a shift, or
    `bounds`) its bias bound is rigorous: it is enclosed by Gauss and Gauss-Radau rules.

    References
    ----------
    Gardner et al., GPyTorch: blackbox matrix-matrix Gaussian process inference, NeurIPS 2018.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = np.array([[2.0, 1.0], [1.0, 3.0]])
    >>> quad, value = specdens.inv_quad_logdet(A, np.array([1.0, 1.0]))
    >>> print(f"{quad:.4f} {value:.4f}")
    0.6000 1.6094
    """
    require_method(method)
    if method == "chebyshev":
        msg = "method='chebyshev' is not offered here; use 'lanczos' or 'exact'."
        raise ValueError(msg)
    moments = checked_count(moments, "moments")
    problem = prepare(A, shift=shift, hermitian=hermitian, bounds=bounds)
    require_hermitian(problem, "a Gaussian likelihood")
    block, single = columns_like(problem.op, y, "y")
    if problem.n == 0:
        infos, determinant = (Estimate(value=0.0),) * block.shape[1], Estimate(value=0.0)
    elif method == "exact" or (method == "auto" and is_cheap(problem)):
        infos, determinant = _factored(problem, block)
    else:
        infos, determinant = _from_one_run(problem, block, moments, probes, rng)
    warn_of_worst((*infos, determinant), moments)
    pair = (as_values(problem, infos, single), problem.result(determinant.value))
    return (pair, (infos[0] if single else infos, determinant)) if return_info else pair


def _factored(problem: Problem, block: Array) -> tuple[tuple[Estimate, ...], Estimate]:
    """Return both values by a factorisation."""
    xp, op = problem.op.xp, problem.op
    if isinstance(op, ExplicitOperator) and op.csc_on_host() is not None:
        return _factored_sparse(problem, block)
    a = dense_of(op, problem.real_shift)
    found = slogdet(a, hermitian=True)
    if not found.definite:
        raise ValueError(_NOT_DEFINITE)
    dtype = xp.complex128 if is_complex(a) or is_complex(block) else xp.float64
    b = xp.astype(block, dtype)
    values = np.real(column_dots(b, xp.linalg.solve(xp.astype(a, dtype), b)))
    infos = tuple(Estimate(value=float(v), bias_rigorous=False) for v in values)
    return infos, Estimate(value=found.logabsdet, bias_bound=found.rounding, bias_rigorous=False)


_NOT_DEFINITE = (
    "A is not positive definite; expected a covariance matrix. shift= adds to the diagonal; "
    "quadratic_form and logdet take an indefinite matrix."
)


def _factored_sparse(problem: Problem, block: Array) -> tuple[tuple[Estimate, ...], Estimate]:
    """Return both values by SuperLU without row exchanges: then D > 0 proves A definite.

    Of a definite matrix that is as stable as Cholesky's factorisation.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    n = problem.n
    matrix = problem.op.csc_on_host()  # type: ignore[attr-defined]  # sparse: see the caller
    matrix = (matrix + diags_array(np.full(n, problem.real_shift))).tocsc()
    diagonal = np.real(matrix.diagonal())
    try:
        factors = splu(
            matrix,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:  # exactly singular
        raise ValueError(_NOT_DEFINITE) from None
    pivots = np.real(factors.U.diagonal())
    straight = np.array_equal(factors.perm_r, factors.perm_c)
    relative = pivots / diagonal[np.argsort(factors.perm_c)] if np.all(diagonal > 0) else -pivots
    if not (straight and np.all(pivots > 0) and np.all(relative > NOISE)):
        raise ValueError(_NOT_DEFINITE)
    b = to_host(block)
    if np.iscomplexobj(matrix.data) or not np.iscomplexobj(b):
        x = factors.solve(b.astype(matrix.dtype))
    else:
        x = factors.solve(b.real) + 1j * factors.solve(b.imag)
    values = np.real(np.sum(b.conj() * x, axis=0))
    determinant = Estimate(
        value=float(np.sum(np.log(pivots))),
        bias_bound=100 * math.sqrt(n) * UNIT * float(np.sum(1 / relative)),
        bias_rigorous=False,
    )
    return tuple(Estimate(value=float(v), bias_rigorous=False) for v in values), determinant


def _from_one_run(
    problem: Problem, block: Array, moments: int, probes: Any, rng: Any
) -> tuple[tuple[Estimate, ...], Estimate]:
    """Run Lanczos on the columns and the probes together."""
    op = Counting(problem.shifted)
    vectors = probes_for(op, probes, rng)
    columns, squares = _real_columns(problem, block)
    factors, quadratic = _joined(op, columns, vectors, math.ceil(moments / 2))
    known, flags = judged(problem, LOG, [*factors, *quadratic])
    unit = eps(columns)
    inverse = NAMED["inv"]
    parts = [integrate_factors([t], inverse, known, unit=unit) for t in quadratic]
    infos = described(problem, op, "lanczos", parts, squares, known, flags)
    steps = [len(t.diagonal) for t in quadratic]
    infos = [replace(info, matvecs=k) for info, k in zip(infos, steps, strict=True)]
    if columns.shape[1] > block.shape[1]:
        half = block.shape[1]
        infos = [_sum(a, b) for a, b in zip(infos[:half], infos[half:], strict=True)]
    spent = problem.matvecs + op.count - sum(info.matvecs for info in infos)
    traces = known_traces(op, vectors)
    truncated = integrate_factors(list(factors), LOG, known, unit=unit, traces=traces)
    if truncated.contradicted:
        flags = (*flags, CONTRADICTED)
    determinant = summed(
        truncated, vectors, method="lanczos", matvecs=spent, bounds=known, flags=flags
    )
    return tuple(infos), determinant


def _real_columns(problem: Problem, block: Array) -> tuple[Array, Host]:
    """Return columns of A's own dtype: complex ones of a real A in two parts."""
    xp, op = problem.op.xp, problem.op
    if is_complex(block) and not xp.isdtype(op.dtype, "complex floating"):
        block = xp.concat([xp.real(block), xp.imag(block)], axis=1)
    return block, np.real(column_dots(block, block))


def _sum(a: Estimate, b: Estimate) -> Estimate:
    """Return the sum of the forms of real and imaginary part."""
    return replace(
        a,
        value=a.value + b.value,
        bias_bound=a.bias_bound + b.bias_bound,
        bias_rigorous=a.bias_rigorous and b.bias_rigorous,
        converged=a.converged and b.converged,
        matvecs=a.matvecs + b.matvecs,
    )


def _joined(
    op: Counting, columns: Array, probes: Probes, steps: int
) -> tuple[list[Tridiagonal], list[Tridiagonal]]:
    """Return the tridiagonals of the probes and of the columns, which ride with the first block."""
    quadratic: list[Tridiagonal] = []

    def run(block: Array) -> list[Tridiagonal]:
        if quadratic:
            return tridiagonalize(op, block, steps)
        found = tridiagonalize(op, op.xp.concat([columns, block], axis=1), steps)
        quadratic.extend(found[: columns.shape[1]])
        return found[columns.shape[1] :]

    return by_blocks(op, probes, run), quadratic
