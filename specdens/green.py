r"""Green's functions ``<l| (z - A)^-1 |r>`` of Hermitian A, at many z from one run.

Lanczos from r: with ``T = S diag(theta) S^T`` and the overlaps of l with the basis, the value is a
sum over poles. Chebyshev: ``1/(z - t) = (1 + 2 sum_k u^k T_k(t)) / sqrt(z^2 - 1)`` with
``u = z - sqrt(z^2 - 1)``, a series whose coefficients, and whose tail, are known in closed form.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specdens._arrays import Array, column_dots, eps, is_array, is_complex, namespace, to_host
from specdens.application import VectorEstimate, columns_like, eigensystem, in_blocks, is_small
from specdens.chebyshev import KERNELS, damping
from specdens.estimation import ESCAPED, finite_pair
from specdens.exact import UNIT
from specdens.lanczos import Tridiagonal, assembled, lanczos_steps
from specdens.linear_operator import LinearOperator
from specdens.moments import EscapeError
from specdens.operators import Counting
from specdens.preparation import (
    Problem,
    checked_count,
    prepare,
    require_hermitian,
    require_method,
)
from specdens.results import UNBOUNDED, AccuracyWarning, SpectralBounds
from specdens.sampling import bounds_for, widened

__all__ = ["greens_function"]

Host: TypeAlias = np.ndarray[Any, Any]

MARGIN = 0.01
"""Share of its width by which the interval of a Chebyshev series is widened."""

STEPS, KERNEL_STEPS = 1000, 256

_log = logging.getLogger(__name__)


def greens_function(
    A: Any,
    left: Any,
    right: Any,
    z: Any,
    *,
    steps: int | None = None,
    rtol: float | None = None,
    kernel: str = "none",
    method: str = "auto",
    hermitian: bool | None = None,
    bounds: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return :math:`\langle l | (z - A)^{-1} | r \rangle` of a Hermitian matrix.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes. Real symmetric or complex Hermitian.
    left, right : int, or array of shape (n,), (n, L) or (n, R)
        An integer is a site: a unit vector. Arrays are vectors, of A's library and device; they are
        not normalised. ``right=None`` is the same as `left`, and cheaper.
    z : complex, or array of any shape
        Off the spectrum: ``energies + 1j * eta`` for a retarded function of width eta. With a
        `kernel`: real energies.
    steps : int, optional
        At most so many products with each right vector, default 1000; with a kernel the number of
        moments, default 256.
    rtol : float, optional
        Stop when the error is below this share of ``|l| |r| / dist(z, spectrum)``, the most that
        the value can be. Default the square root of the unit roundoff.
    kernel : {"none", "lorentz", "jackson", "fejer", "lanczos"}
        Other than "none": the limit from above the real axis, broadened by a kernel of `steps`
        moments (Chebyshev only). "lorentz" keeps it causal: a Lorentzian of half width
        ``4 / steps`` times half the width of the spectrum.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` takes all eigenvectors of explicit matrices up to n = 1024, else Lanczos.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    bounds : tuple of float, optional
        An interval that contains the spectrum.
    return_info : bool
        Whether to return ``(value, VectorEstimate)``, with the error of each value.

    Returns
    -------
    scalar or array, or that with its VectorEstimate
        Complex, of A's library, device and precision; of the shape of z, followed by L and R where
        `left` and `right` are blocks.

    Raises
    ------
    ValueError
        If A is not square, not Hermitian or not finite; if a vector does not fit or a site does not
        exist; if z is an eigenvalue, or not real with a kernel; or if an option is not as
        described.

    Warns
    -----
    AccuracyWarning
        If `steps` do not suffice: with eta far below the level spacing nothing but all steps do.

    Notes
    -----
    Costs one product with each right vector a step: about ``ln(1/rtol) h / eta`` of them, h half
    the width of the spectrum, half as many if left and right are the same. The bound of the error
    is rigorous off the real axis: ``|l| |rho| / |Im z|`` by the residual
    :math:`\rho = |r| \beta_m [(z - T_m)^{-1}]_{m1}`, and ``rho^2`` in its place for equal vectors.

    References
    ----------
    Haydock, Heine and Kelly, J. Phys. C 5, 2845 (1972); Weiße et al., Rev. Mod. Phys. 78, 275
    (2006), section IV.A.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> A = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> print(np.round(specdens.greens_function(A, 0, 1, [2.0, 1j]), 4))
    [ 0.3333+0.j -0.5   +0.j]
    """
    require_method(method)
    problem = prepare(A, hermitian=hermitian, bounds=bounds)
    require_hermitian(problem, "a Green's function")
    points = _points(z)
    task = _task(problem, left, right)
    relative = _tolerance(problem.op, rtol)
    if kernel not in KERNELS:
        msg = f"kernel is {kernel!r}; expected one of {KERNELS}."
        raise ValueError(msg)
    if kernel != "none":
        degree = checked_count(KERNEL_STEPS if steps is None else steps, "steps")
        found, info = _broadened(problem, task, points, degree, kernel, method)
    else:
        limit = checked_count(STEPS if steps is None else steps, "steps")
        found, info = _resolvent(problem, task, points, limit, relative, method)
    _warn(info)
    value = _shaped(problem, found, points.shape, task.axes)
    return (value, info) if return_info else value


@dataclass(frozen=True)
class _Task:
    """The vectors, the scale ``|l| |r|`` of the values, and which pairs are equal.

    Attributes
    ----------
    left, right : array, shape (n, L), (n, R)
    scale : ndarray, shape (L, R)
    equal : ndarray of bool, shape (L, R)
    same : bool
        Whether the two blocks are one.
    axes : tuple of int
        Of a result.
    """

    left: Array
    right: Array
    scale: Host
    equal: Host
    same: bool
    axes: tuple[int, ...]


def _points(z: Any) -> Host:
    """Return z on the host, complex."""
    points: Host = np.asarray(to_host(z) if is_array(z) else z)
    if points.dtype.kind not in "biufc" or not np.all(np.isfinite(points)):
        msg = f"z is {z!r}; expected finite numbers, such as energies + 1j * eta."
        raise ValueError(msg)
    return points.astype(np.complex128)


def _task(problem: Problem, left: Any, right: Any) -> _Task:
    a, one = _vectors(problem.op, left, "left")
    b, other = (a, one) if right is None else _vectors(problem.op, right, "right")
    xp = problem.op.xp
    if is_complex(a) != is_complex(b):
        dtype = a.dtype if is_complex(a) else b.dtype
        a, b = xp.astype(a, dtype), xp.astype(b, dtype)
    norms = [np.sqrt(np.real(column_dots(x, x))) for x in (a, b)]
    equal = [
        np.array([bool(xp.all(a[:, i] == b[:, j])) for j in range(b.shape[1])], dtype=bool)
        for i in range(a.shape[1])
    ]
    table = np.array(equal, dtype=bool).reshape(a.shape[1], b.shape[1])
    same = right is None or (table.shape[0] == table.shape[1] and bool(np.all(np.diag(table))))
    axes = (() if one else (a.shape[1],)) + (() if other else (b.shape[1],))
    return _Task(a, b, np.outer(*norms), table, same, axes)


def _vectors(op: LinearOperator, given: Any, name: str) -> tuple[Array, bool]:
    """Return a site or vectors as a block, and whether it is just one."""
    if isinstance(given, (int, np.integer)) and not isinstance(given, (bool, np.bool_)):
        n = op.shape[0]
        if not -n <= given < n:
            msg = f"{name} is site {given}, which is out of range for order {n}."
            raise ValueError(msg)
        rows = op.xp.arange(n, device=op.device)
        return op.xp.astype(rows == int(given) % n, op.dtype)[:, None], True
    return columns_like(op, given, name)


def _tolerance(op: LinearOperator, rtol: float | None) -> float:
    if rtol is None:
        return math.sqrt(float(op.xp.finfo(op.dtype).eps))
    if not (math.isfinite(rtol) and rtol > 0):
        msg = f"rtol is {rtol}; expected a positive number, such as 1e-8."
        raise ValueError(msg)
    return float(rtol)


def _shaped(problem: Problem, found: Host, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Return values, shape (Z, L, R), as a result."""
    op, xp = problem.op, problem.op.xp
    dtype = xp.complex64 if op.result_dtype == xp.float32 else xp.complex128
    if not (*shape, *axes):
        return problem.result(complex(found.item()))
    return xp.asarray(found.reshape((*shape, *axes)), dtype=dtype, device=op.device)


def _warn(info: VectorEstimate) -> None:
    if info.converged:
        return
    reasons = list(info.flags) or [
        f"a value may be off by {np.max(info.error):.3g} after {info.steps} steps"
    ]
    msg = (
        f"the Green's function is not to be trusted: {'; '.join(reasons)}. Move z further from the "
        "real axis, raise steps, or use method='exact'."
    )
    warnings.warn(msg, AccuracyWarning, stacklevel=3)


def _distance(z: Host, low: float, high: float) -> Host:
    """Return the distance of points from an interval."""
    beyond = np.maximum(np.maximum(low - z.real, z.real - high), 0.0)
    return np.asarray(np.hypot(beyond, z.imag))


def _resolvent(
    problem: Problem, task: _Task, points: Host, steps: int, rtol: float, method: str
) -> tuple[Host, VectorEstimate]:
    """Return the resolvent itself, shape (Z, L, R)."""
    z = points.ravel()
    if 0 in (problem.n, z.size, task.scale.size):
        zeros = np.zeros((z.size, *task.scale.shape), dtype=complex)
        return zeros, VectorEstimate(error=zeros.real)
    if method == "exact" or (method == "auto" and is_small(problem)):
        return _exact(problem, task, z)
    op = Counting(problem.op)
    known = problem.known
    flags: tuple[str, ...] = ()
    if method == "chebyshev":
        interval = widened(bounds_for(op, known, stated=problem.stated, key=0), MARGIN)
        try:
            found = _by_series(op, task, z, steps, rtol, interval)
            return _judged(problem, op, task, z, rtol, "chebyshev", found, interval, flags)
        except EscapeError as error:
            _log.info("%s Running Lanczos instead.", error)
            known, flags = UNBOUNDED, (ESCAPED,) if problem.stated else ()
    found = _by_poles(op, task, z, steps, rtol, known)
    if found.escaped:
        flags = (ESCAPED,)
    return _judged(problem, op, task, z, rtol, "lanczos", found, known, flags)


@dataclass(frozen=True)
class _Found:
    """Values and errors, shape (Z, L, R)."""

    values: Host
    errors: Host
    distance: Host
    rigorous: bool
    steps: int
    escaped: bool = False


def _judged(
    problem: Problem,
    op: Counting,
    task: _Task,
    z: Host,
    rtol: float,
    method: str,
    found: _Found,
    bounds: SpectralBounds,
    flags: tuple[str, ...],
) -> tuple[Host, VectorEstimate]:
    allowed = rtol * _most(task, found.distance)
    info = VectorEstimate(
        error=found.errors,
        rigorous=found.rigorous and not flags,
        converged=not flags and bool(np.all(found.errors <= allowed)),
        flags=flags,
        steps=found.steps,
        matvecs=problem.matvecs + op.count,
        method=method,
        bounds=finite_pair(bounds),
    )
    return found.values, info


def _most(task: _Task, distance: Host) -> Host:
    """Return ``|l| |r| / dist(z)``: the most that a value can be."""
    with np.errstate(divide="ignore", invalid="ignore"):
        most = task.scale[None, :, :] / distance[:, None, None]
    return np.where(np.isfinite(most), most, 0.0)


def _exact(problem: Problem, task: _Task, z: Host) -> tuple[Host, VectorEstimate]:
    spectrum, basis, matvecs = eigensystem(problem)
    x = to_host(spectrum)
    bras, kets = _overlaps(task.left, basis), np.conj(_overlaps(task.right, basis))
    weights = bras[:, None, :] * kets[None, :, :]
    gap = np.abs(z[:, None] - x[None, :]).min(axis=1)
    if not np.all(gap > 0):
        msg = f"z = {z[gap == 0][0]} is an eigenvalue of A; move it off the real axis."
        raise ValueError(msg)
    error = 100 * UNIT * max(abs(x[0]), abs(x[-1])) / gap[:, None, None] ** 2 * task.scale
    return _sum_of_poles(z, x, weights), VectorEstimate(error=error, matvecs=matvecs)


def _overlaps(vectors: Array, block: Array) -> Host:
    """Return ``vectors^H block`` in double precision: a small matrix, on the host."""
    xp = namespace(vectors, block)
    dtype = xp.complex128 if is_complex(vectors) or is_complex(block) else xp.float64
    a, b = xp.astype(vectors, dtype), xp.astype(block, dtype)
    return to_host(xp.matrix_transpose(xp.conj(a) if is_complex(a) else a) @ b)


def _sum_of_poles(z: Host, poles: Host, weights: Host) -> Host:
    """Return ``sum_k w_lrk / (z - x_k)``, shape (Z, L, R), some points at a time."""
    flat = weights.reshape(-1, weights.shape[-1]).T
    chunks = np.array_split(z, 1 + len(z) // 256)
    sums = [(1 / (chunk[:, None] - poles[None, :])) @ flat for chunk in chunks]
    return np.concatenate(sums).reshape(len(z), *weights.shape[:-1])


def _by_poles(
    op: LinearOperator, task: _Task, z: Host, steps: int, rtol: float, known: SpectralBounds
) -> _Found:
    """Run Lanczos from all right vectors, until the bound of the error is small enough."""
    parts, start = [], 0
    for block in in_blocks(task.right):
        columns = slice(start, start + block.shape[1])
        part = _Task(
            task.left, block, task.scale[:, columns], task.equal[:, columns], False, task.axes
        )
        parts.append(_run(op, part, z, steps, rtol, known))
        start = columns.stop
    return _Found(
        np.concatenate([part.values for part in parts], axis=2),
        np.concatenate([part.errors for part in parts], axis=2),
        np.min([part.distance for part in parts], axis=0),
        all(part.rigorous for part in parts),
        max(part.steps for part in parts),
        any(part.escaped for part in parts),
    )


def _run(
    op: LinearOperator, task: _Task, z: Host, steps: int, rtol: float, known: SpectralBounds
) -> _Found:
    alphas: list[Host] = []
    betas: list[Host] = []
    overlaps: list[Host] = []
    unit, check = eps(task.right), 16
    for step in lanczos_steps(op, task.right, steps):
        alphas.append(step.alpha)
        betas.append(step.beta)
        overlaps.append(_overlaps(task.left, step.q))
        if len(alphas) == check:
            check += max(8, check // 4)
            found = _from_factors(task, assembled(alphas, betas), overlaps, z, known, unit)
            if np.all(found.errors <= rtol * _most(task, found.distance)):
                return found
    return _from_factors(task, assembled(alphas, betas), overlaps, z, known, unit)


def _from_factors(
    task: _Task,
    factors: list[Tridiagonal],
    overlaps: list[Host],
    z: Host,
    known: SpectralBounds,
    unit: float,
) -> _Found:
    """Return values and errors after the steps so far."""
    table = np.stack(overlaps)  # (m, L, R)
    norms = np.sqrt(np.real(column_dots(task.right, task.right)))
    # For equal vectors that is the first unit vector: the basis need not stay orthogonal then.
    first = (np.arange(len(table)) == 0)[:, None, None] * norms
    table = np.where(task.equal, first, table)
    pairs = [_eigen(factor) for factor in factors]
    low = min(float(values[0]) for values, _ in pairs)
    high = max(float(values[-1]) for values, _ in pairs)
    noise = 1000 * unit * max(abs(low), abs(high))
    escaped = low < known.low - noise or high > known.high + noise
    known = UNBOUNDED if escaped else known
    # Without an end that is known the distance is that from the real axis.
    distance = _distance(z, known.low, known.high)
    rigorous = bool(np.all(distance > 0))
    if not rigorous:
        nearest = [np.abs(z[:, None] - values[None, :]).min(axis=1) for values, _ in pairs]
        distance = np.where(distance > 0, distance, np.min(nearest, axis=0) / 2)
    rounding = 10 * unit * max(abs(low), abs(high)) / distance
    values: list[Host] = []
    errors: list[Host] = []
    for r, (factor, (theta, s)) in enumerate(zip(factors, pairs, strict=True)):
        m = len(theta)
        weights = norms[r] * (table[:m, :, r].T @ s) * s[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            values.append(_sum_of_poles(z, theta, weights))
            corner = _sum_of_poles(z, theta, s[-1] * s[0])
        residual = factor.residual * np.abs(corner)[:, None]
        # For equal vectors the error is a product of two residuals (Galerkin).
        off = np.where(task.equal[:, r], np.minimum(residual, residual**2), residual)
        errors.append((off + rounding[:, None]) / distance[:, None] * task.scale[:, r])
    found: Host = np.stack(values, axis=2)
    error: Host = np.where(np.isfinite(found), np.stack(errors, axis=2), np.inf)
    return _Found(found, error, distance, rigorous, len(table), escaped)


def _eigen(factor: Tridiagonal) -> tuple[Host, Host]:
    from scipy.linalg import eigh_tridiagonal

    if len(factor.diagonal) == 1:
        return factor.diagonal, np.ones((1, 1))
    values, vectors = eigh_tridiagonal(factor.diagonal, factor.off_diagonal)
    return values, vectors


def _unit_circle(z: Host, low: float, high: float) -> tuple[Host, Host, float]:
    """Return u, the root, and half the width: ``1/(z - x) = (1 + 2 sum u^k T_k) / (root half)``."""
    half = (high - low) / 2
    # This branch has |u| < 1, and is that of +i0 on the real axis (which -0.0 would miss).
    t = (z.real - (low + high) / 2 + 1j * np.where(z.imag == 0, 0.0, z.imag)) / half
    root = np.sqrt(t - 1) * np.sqrt(t + 1)
    return t - root, root, half


def _by_series(
    op: LinearOperator,
    task: _Task,
    z: Host,
    steps: int,
    rtol: float,
    interval: SpectralBounds,
) -> _Found:
    """Return the resolvent by its Chebyshev series, of as many terms as the tail demands."""
    low, high = interval
    distance = _distance(z, low, high)
    u, root, half = _unit_circle(z, low, high)
    size = np.abs(u)
    if not np.all(size < 1):
        msg = (
            f"z = {z[size >= 1][0].real} lies on the real axis inside {interval}, where the "
            "Chebyshev series does not converge. Add 1j * eta, or choose a kernel."
        )
        raise ValueError(msg)
    front = 2 / (np.abs(root) * half * (1 - size))
    most = steps * (2 if task.same else 1) + 1
    with np.errstate(divide="ignore"):
        wanted = np.log(rtol / distance / front) / np.log(size)
    count = int(np.clip(np.ceil(np.max(wanted)), 2, most))
    table, used = _two_vector_moments(op, task, count, interval)
    powers = u[:, None] ** np.arange(count) * np.where(np.arange(count) == 0, 1, 2)
    values = np.einsum("zk,klr->zlr", powers / (root * half)[:, None], table)
    tail = front * size**count + 100 * eps(task.right) / distance
    errors = tail[:, None, None] * task.scale[None, :, :]
    return _Found(values, errors, distance, interval.rigorous, used)


def _broadened(
    problem: Problem, task: _Task, points: Host, steps: int, kernel: str, method: str
) -> tuple[Host, VectorEstimate]:
    """Return the limit from above the real axis, broadened by a kernel, shape (Z, L, R)."""
    if method in {"exact", "lanczos"}:
        msg = f"kernel={kernel!r} is for the Chebyshev series; use method='chebyshev' or 'auto'."
        raise ValueError(msg)
    z = points.ravel()
    if np.any(z.imag != 0):
        msg = "with a kernel z must be real: the kernel broadens. Use kernel='none' for complex z."
        raise ValueError(msg)
    if 0 in (problem.n, task.scale.size):
        zeros = np.zeros((z.size, *task.scale.shape), dtype=complex)
        return zeros, VectorEstimate(error=zeros.real)
    op = Counting(problem.op)
    count = steps
    interval = widened(bounds_for(op, problem.known, stated=problem.stated, key=0), MARGIN)
    flags: tuple[str, ...] = ()
    try:
        table, used = _two_vector_moments(op, task, count, interval)
    except EscapeError:
        flags = (ESCAPED,)
        interval = widened(bounds_for(op, UNBOUNDED, stated=False, key=1), MARGIN)
        table, used = _two_vector_moments(op, task, count, interval)
    u, root, half = _unit_circle(z, *interval)
    if not np.all(np.abs(root) > 0):
        msg = f"z is an end of the interval {interval}, where a kernel gives no value."
        raise ValueError(msg)
    terms = damping(kernel, count) * np.where(np.arange(count) == 0, 1, 2)
    powers = u[:, None] ** np.arange(count) * terms
    values = np.einsum("zk,klr->zlr", powers / (root * half)[:, None], table)
    return values, VectorEstimate(
        error=np.zeros(values.shape),
        converged=not flags,
        flags=flags,
        steps=used,
        matvecs=problem.matvecs + op.count,
        method="chebyshev",
        bounds=finite_pair(interval),
    )


def _two_vector_moments(
    op: LinearOperator, task: _Task, count: int, interval: SpectralBounds
) -> tuple[Host, int]:
    """Return ``<l| T_k |r>``, shape (count, L, R), and the products with each right vector.

    For one block on both sides, ``2 T_j T_k = T_(j+k) + T_(j-k)`` gives two moments a product.

    Raises
    ------
    EscapeError
        If a moment exceeds ``|l| |r|``.
    """
    low, high = interval
    tolerance = 1 + (1000 + 10 * math.sqrt(op.shape[0])) * eps(task.right)
    table: list[Host] = []
    previous: Array = None
    for k, v in enumerate(_chebyshev_vectors(op, task.right, (low + high) / 2, (high - low) / 2)):
        if k == 0 or not task.same:
            table.append(_overlaps(task.left, v))
        else:
            odd = _overlaps(previous, v)
            table.append(odd if k == 1 else 2 * odd - table[1])
            table.append(2 * _overlaps(v, v) - table[0])
        if not np.all(np.abs(table[-1]) <= tolerance * task.scale):
            msg = f"moment {len(table)} exceeds |l| |r|: the spectrum is not inside {interval}."
            raise EscapeError(msg)
        if len(table) >= count:
            break
        previous = v
    return np.stack(table[:count]), k


def _chebyshev_vectors(
    op: LinearOperator, start: Array, center: float, half: float
) -> Iterator[Array]:
    """Give the vectors ``T_k(B) v`` away, B being A mapped to [-1, 1].

    Yields
    ------
    array, shape (n, R)
    """
    previous, current = start, (op.matmat(start) - center * start) / half
    yield previous
    yield current
    while True:
        previous, current = current, 2 * (op.matmat(current) - center * current) / half - previous
        yield current
