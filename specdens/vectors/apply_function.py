"""``f(A + shift I) B``: by all eigenvectors, from a Krylov basis, or by a Chebyshev series."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import (
    Array,
    adjoint,
    as_dense,
    column_dots,
    device,
    eps,
    is_array,
    is_complex,
    namespace,
    require_finite,
    to_host,
    working_dtype,
)
from specdens.estimation.estimate import ESCAPED, SINGULAR, finite_pair
from specdens.estimation.sampling import BLOCK_BYTES, WIDEST, bounds_for
from specdens.exact.factorizations import UNIT, dense_of
from specdens.operators.algebra import Counting
from specdens.operators.explicit import ExplicitOperator
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import (
    Problem,
    checked_count,
    prepare,
    require_hermitian,
    require_method,
)
from specdens.recurrences.chebyshev_moments import EscapeError, chebyshev_vectors, require_inside
from specdens.recurrences.chebyshev_series import expand
from specdens.recurrences.quadrature import noise_of
from specdens.results import UNBOUNDED, AccuracyWarning, SpectralBounds
from specdens.scalar_functions import ScalarFunction, require_domain, scalar_function
from specdens.vectors.krylov_function import (
    Applied,
    change_by_rounding,
    combined,
    infinite,
    lanczos_times,
    values_of,
)

__all__ = [
    "EXACT_ORDER",
    "VectorEstimate",
    "apply_function",
    "columns_like",
    "eigensystem",
    "in_blocks",
    "in_result_precision",
    "is_small",
    "require_series",
]

Host: TypeAlias = np.ndarray[Any, Any]

EXACT_ORDER = 1024
"""Order up to which all eigenvectors of an explicit matrix are cheap."""

STEPS = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorEstimate:
    """How far the columns of ``f(A) B`` may be off, and what they cost.

    Attributes
    ----------
    error : ndarray, shape (R,)
        Of each column, in the 2-norm, with rounding; of `greens_function`, of each value.
    rigorous : bool
        Whether that is a true bound (in exact arithmetic); otherwise an inflated extrapolation.
    converged : bool
        Whether every error is within the tolerance and nothing speaks against the result.
    flags : tuple of str
        What speaks against it, in words.
    steps : int
        Lanczos steps, or the degree of the Chebyshev series.
    matvecs : int
        Products of the matrix with one vector.
    method : str
        ``"exact"``, ``"lanczos"`` or ``"chebyshev"``.
    bounds : tuple of float, or None
        The interval taken to contain the spectrum, where one was needed or known.
    """

    error: Host
    rigorous: bool = True
    converged: bool = True
    flags: tuple[str, ...] = ()
    steps: int = 0
    matvecs: int = 0
    method: str = "exact"
    bounds: tuple[float, float] | None = None


def apply_function(
    A: Any,
    f: Any,
    B: Any,
    *,
    steps: int = STEPS,
    rtol: float | None = None,
    method: str = "auto",
    shift: float = 0.0,
    hermitian: bool | None = None,
    bounds: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return :math:`f(A + \mathrm{shift}\, I)\, B` for a Hermitian matrix, without forming f(A).

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes. Real symmetric or complex Hermitian.
    f : {"log", "exp", "inv", "sqrt", "xlogx", "square"} or callable
        A callable takes and gives NumPy arrays, elementwise; it may be complex.
    B : array, shape (n,) or (n, R)
        Of A's library and device; may be complex where A is real.
    steps : int
        At most so many products with each column (per pass).
    rtol : float, optional
        Stop when the estimated error of each column, rounding apart, is below this share of its
        norm. Default the square root of the unit roundoff.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` takes all eigenvectors of explicit matrices up to n = 1024, else Lanczos.
    shift : float
        Added to the diagonal.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    bounds : tuple of float, optional
        An interval that contains the spectrum of A, before the shift. A positive lower end makes
        the errors of log, inv, sqrt and xlogx rigorous, an upper end that of exp.
    return_info : bool
        Whether to return ``(value, VectorEstimate)``.

    Returns
    -------
    array, or (array, VectorEstimate)
        Of the shape of B, of A's library, device and precision; complex if A, B or f is.

    Raises
    ------
    ValueError
        If A is not square, not Hermitian or not finite; if B does not fit; if f is not defined, or
        infinite, where it is needed; or if an option is not as described.

    Warns
    -----
    AccuracyWarning
        If `steps` do not suffice for `rtol`, or something else is doubtful.

    Notes
    -----
    Costs one product with each column a step. A Lanczos basis of more than 1 GiB (a block of up to
    32 columns at a time) is not kept: a second pass makes it again, for as many products more.
    ``"chebyshev"`` without `bounds` costs 20 more, and never keeps a basis.

    The error of log, inv, sqrt and xlogx is bounded through the residuals of shifted systems: with
    :math:`\log x = \int_0^\infty \frac{1}{1+t} - \frac{1}{x+t}\, dt` it is at most
    :math:`\int_0^\infty |r_m(t)| / (\lambda_{\min} + t)\, dt`, where
    :math:`|r_m(t)| = |b| \prod_j \beta_j / (\theta_j + t)`. Where that is not possible, it is
    extrapolated from the last changes, and doubled.

    References
    ----------
    Druskin and Knizhnerman, USSR Comput. Math. Math. Phys. 29(6), 112 (1989); Saad, SIAM J. Numer.
    Anal. 29, 209 (1992); Chen, Greenbaum, Musco and Musco, SIAM J. Matrix Anal. Appl. 43, 787
    (2022).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(specdens.apply_function(np.diag([1.0, 4.0]), "sqrt", np.array([1.0, 1.0])))
    [1. 2.]
    >>> from specdens.testing import laplacian
    >>> b = np.ones(10_000)
    >>> x, info = specdens.apply_function(laplacian(100, 100), "inv", b, shift=1, return_info=True)
    >>> residual = laplacian(100, 100) @ x + x - b
    >>> bool(np.linalg.norm(residual) < 1e-6 * np.linalg.norm(b)), info.rigorous
    (True, True)
    """
    require_method(method)
    steps = checked_count(steps, "steps")
    function = scalar_function(f)
    problem = prepare(A, shift=shift, hermitian=hermitian, bounds=bounds)
    require_hermitian(problem, "f(A) B")
    block, single = columns_like(problem.op, B, "B")
    tolerance = _tolerance(problem.op, rtol)
    found, info = _applied(problem, function, block, steps, tolerance, method)
    _warn(info, tolerance, steps)
    found = in_result_precision(problem.op, found)
    value = found[:, 0] if single else found
    return (value, info) if return_info else value


def _applied(
    problem: Problem, f: ScalarFunction, block: Array, steps: int, rtol: float, method: str
) -> tuple[Array, VectorEstimate]:
    op = problem.op
    if 0 in block.shape:
        return block, VectorEstimate(error=np.zeros(block.shape[1]))
    if method == "exact" or (method == "auto" and is_small(problem)):
        return _exact(problem, f, block)
    counted = Counting(problem.shifted)
    used = "chebyshev" if method == "chebyshev" else "lanczos"
    known = problem.known
    if used == "chebyshev":
        known = bounds_for(counted, known, stated=problem.stated, key=0)
        require_series(f, known)
    parts = []
    for columns in in_blocks(block):
        try:
            if used == "chebyshev":
                parts.append(_chebyshev_times(counted, f, columns, steps, rtol, known))
                continue
        except EscapeError as escape:
            _log.info("%s Running Lanczos instead.", escape)
            used, known = "lanczos", UNBOUNDED
        parts.append(lanczos_times(counted, f, columns, steps, rtol=rtol, known=known))
    flags = tuple(sorted({flag for part in parts for flag in part.flags}))
    if used == "lanczos" and method == "chebyshev":
        flags = (*flags, *((ESCAPED,) if problem.stated else ()))
    error = np.concatenate([part.error for part in parts])
    norm = np.concatenate([part.norm for part in parts])
    rounding = np.concatenate([part.rounding for part in parts])
    return op.xp.concat([part.block for part in parts], axis=1), VectorEstimate(
        error=error,
        rigorous=all(part.rigorous for part in parts) and ESCAPED not in flags,
        converged=not flags and bool(np.all(error - rounding <= rtol * norm)),
        flags=flags,
        steps=max(part.steps for part in parts),
        matvecs=problem.matvecs + counted.count,
        method=used,
        bounds=finite_pair(known),
    )


def is_small(problem: Problem) -> bool:
    """Whether all eigenvectors are cheap."""
    return isinstance(problem.op, ExplicitOperator) and problem.n <= EXACT_ORDER


def in_blocks(block: Array) -> list[Array]:
    """Return the columns of a block in blocks that share products and fit into memory."""
    rows, count = block.shape
    width = max(1, min(WIDEST, BLOCK_BYTES // (rows * (16 if is_complex(block) else 8))))
    return [block[:, i : min(i + width, count)] for i in range(0, count, width)]


def eigensystem(problem: Problem) -> tuple[Array, Array, int]:
    """Return eigenvalues, ascending, and eigenvectors of ``A + shift I`` in double precision.

    Also the products that it took: n for an operator that is only applied.
    """
    matvecs = 0 if isinstance(problem.op, ExplicitOperator) else problem.n
    a = dense_of(problem.op, problem.real_shift)
    spectrum, basis = problem.op.xp.linalg.eigh(a)
    return spectrum, basis, problem.matvecs + matvecs


def _exact(problem: Problem, f: ScalarFunction, block: Array) -> tuple[Array, VectorEstimate]:
    xp = problem.op.xp
    spectrum, basis, matvecs = eigensystem(problem)
    x = to_host(spectrum)
    low, high = float(x[0]), float(x[-1])
    noise = noise_of(problem.n, UNIT, low, high)
    require_domain(f, low, noise)
    x = np.maximum(x, 0.0) if f.domain != "real" else x
    y = values_of(f, x)
    dtype = xp.complex128 if is_complex(basis) or is_complex(block) else xp.float64
    inside = xp.astype(adjoint(basis), dtype) @ xp.astype(block, dtype)
    weight = np.sqrt(to_host(xp.max(xp.abs(inside), axis=1) ** 2))
    poles = ~np.isfinite(y)
    # A component that is rounding noise does not count, even beside an infinity.
    if np.any(weight[poles] > 100 * UNIT * weight.max()):
        raise ValueError(infinite(f, low, high))
    y = np.where(poles, 0.0, y)
    if np.iscomplexobj(y):
        dtype = xp.complex128
    values = xp.asarray(y, dtype=dtype, device=problem.op.device)
    scaled = xp.astype(inside, dtype) * values[:, None]
    found = xp.astype(basis, dtype) @ scaled
    off = 100 * UNIT * np.abs(y).max() + change_by_rounding(f, x, UNIT).max()
    norms = np.sqrt(np.real(column_dots(block, block)))
    smallest = float(np.min(np.abs(x)))
    flags = (SINGULAR,) if f.pole and 0 < smallest <= noise else ()
    return found, VectorEstimate(
        error=off * norms,
        converged=not flags,
        flags=flags,
        matvecs=matvecs,
    )


def require_series(f: ScalarFunction, interval: SpectralBounds) -> None:
    """Raise a ValueError if f has no Chebyshev series on the interval."""
    low, high = interval
    largest = max(abs(low), abs(high))
    require_domain(f, interval.inner[0] if interval.inner else low, 1e-6 * largest)
    if f.pole and low <= 0 <= high:
        msg = (
            f"{f.name} is infinite at 0, inside the interval {interval}, where no Chebyshev series "
            "converges. Use method='lanczos', or give bounds=(low, high) that exclude 0."
        )
        raise ValueError(msg)


def _chebyshev_times(
    op: LinearOperator,
    f: ScalarFunction,
    block: Array,
    steps: int,
    rtol: float,
    interval: SpectralBounds,
) -> Applied:
    """Return f(op) times a block by its Chebyshev series on an interval.

    Raises
    ------
    EscapeError
        If a vector grows, which can only mean an eigenvalue outside.
    """
    low, high = interval
    floor = 0.0 if f.domain == "nonnegative" else -math.inf
    series = expand(lambda x: values_of(f, np.maximum(x, floor)), low, high, steps + 1)
    c = series.coefficients
    if not np.all(np.isfinite(c)):
        raise ValueError(infinite(f, low, high))
    tails = np.append(np.cumsum(np.abs(c[::-1]))[::-1][1:], 0.0) + series.tail
    squares = np.real(column_dots(block, block))
    norms, size = np.sqrt(squares), np.sqrt(squares)
    total = block * 0
    for k, vectors in enumerate(chebyshev_vectors(op, block, low, high)):
        total = total + combined([vectors], np.full((1, block.shape[1]), c[k]), block)
        if k % 8 == 7 or tails[k] == 0 or k == steps:
            require_inside(vectors, squares, low, high)
            size = np.sqrt(np.real(column_dots(total, total)))
            if k == steps or np.all(tails[k] * norms <= rtol * size):
                break
    rounding = 100 * eps(block) * float(np.abs(c).max()) * norms
    rigorous = series.resolved and interval.rigorous
    return Applied(total, tails[k] * norms + rounding, rounding, size, rigorous, k)


def columns_like(op: LinearOperator, x: Any, name: str) -> tuple[Array, bool]:
    """Return vectors given by the caller as a block that op can take, and whether it is just one.

    Raises
    ------
    ValueError
        If the shape, library or device does not fit, or an entry is not finite.
    TypeError
        If they are no numbers.
    """
    x = as_dense(x, name=name)
    n, xp = op.shape[1], op.xp
    if not is_array(x) or x.ndim not in {1, 2} or x.shape[0] != n:
        shape = tuple(getattr(x, "shape", ()))
        msg = f"{name} has shape {shape}; expected ({n},) or ({n}, R) for A of shape {op.shape}."
        raise ValueError(msg)
    if namespace(x) != xp or device(x) != op.device:
        msg = (
            f"{name} is of {namespace(x).__name__} on {device(x)}; expected the library and device "
            f"of A: {xp.__name__} on {op.device}."
        )
        raise ValueError(msg)
    require_finite(x, name)
    single = x.ndim == 1
    block = x[:, None] if single else x
    dtype = working_dtype(xp, block.dtype)
    if xp.isdtype(dtype, "complex floating") or xp.isdtype(op.dtype, "complex floating"):
        dtype = xp.complex64 if op.dtype in (xp.float32, xp.complex64) else xp.complex128
    else:
        dtype = op.dtype
    return xp.astype(block, dtype), single


def in_result_precision(op: LinearOperator, block: Array) -> Array:
    """Return a block in the precision of results: single only where A was given in single."""
    xp = op.xp
    if not is_complex(block):
        return xp.astype(block, op.result_dtype, copy=False)
    dtype = xp.complex64 if op.result_dtype == xp.float32 else xp.complex128
    return xp.astype(block, dtype, copy=False)


def _tolerance(op: LinearOperator, rtol: float | None) -> float:
    if rtol is None:
        return math.sqrt(float(op.xp.finfo(op.dtype).eps))
    if not (math.isfinite(rtol) and rtol > 0):
        msg = f"rtol is {rtol}; expected a positive number, such as 1e-8."
        raise ValueError(msg)
    return float(rtol)


def _warn(info: VectorEstimate, rtol: float, steps: int) -> None:
    """Warn if a result has not converged: what speaks against it, and what to do."""
    if info.converged:
        return
    reasons = list(info.flags)
    if not info.flags:
        kind = "at most" if info.rigorous else "roughly up to"
        reasons.append(
            f"a column may be off by {kind} {np.max(info.error):.3g}, which is more than rtol = "
            f"{rtol:.3g} of its norm allows"
        )
    msg = (
        f"f(A) B is not to be trusted: {'; '.join(reasons)}. Raise steps (now {steps}) or rtol, "
        "give bounds=(low, high) if they are known, or use method='exact'."
    )
    warnings.warn(msg, AccuracyWarning, stacklevel=3)
