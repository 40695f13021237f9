r"""Green's functions ``<l| (z - A)^-1 |r>`` of Hermitian A, at many z from one run.

By Lanczos a sum over poles; by Chebyshev
``1/(z - t) = (1 + 2 sum_k u^k T_k(t)) / sqrt(z^2 - 1)`` with ``u = z - sqrt(z^2 - 1)``, a series
whose coefficients, and whose tail, are known in closed form.
"""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, column_dots, eps, is_array, is_complex, to_host
from specdens.estimation.estimate import ESCAPED, finite_pair
from specdens.estimation.sampling import bounds_for, widened
from specdens.exact.factorizations import UNIT
from specdens.operators.algebra import Counting
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import (
    Problem,
    checked_count,
    prepare,
    require_hermitian,
    require_method,
)
from specdens.recurrences.chebyshev_moments import EscapeError
from specdens.recurrences.chebyshev_series import KERNELS, damping
from specdens.results import UNBOUNDED, AccuracyWarning, SpectralBounds
from specdens.vectors.apply_function import VectorEstimate, columns_like, eigensystem, is_small
from specdens.vectors.bilinear_forms import (
    Found,
    Pairs,
    distance_from,
    largest,
    overlaps,
    pair_moments,
    resolvent_by_poles,
    sum_of_poles,
)

__all__ = ["greens_function"]

Host: TypeAlias = np.ndarray[Any, Any]

MARGIN = 0.01
"""Share of its width by which the interval of a Chebyshev series is widened."""

STEPS, KERNEL_STEPS = 2000, 256
RTOL = 1e-6

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
        At most so many products with each right vector, default 2000; with a kernel the number of
        moments, default 256.
    rtol : float, optional
        Stop when the error is below this share of ``|l| |r| / dist(z, spectrum)``, the most that
        the value can be. Default 1e-6, in single precision 3e-4.
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


def _points(z: Any) -> Host:
    """Return z on the host, complex."""
    points: Host = np.asarray(to_host(z) if is_array(z) else z)
    if points.dtype.kind not in "biufc" or not np.all(np.isfinite(points)):
        msg = f"z is {z!r}; expected finite numbers, such as energies + 1j * eta."
        raise ValueError(msg)
    return points.astype(np.complex128)


def _task(problem: Problem, left: Any, right: Any) -> Pairs:
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
    return Pairs(a, b, np.outer(*norms), table, same, axes)


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
        return max(RTOL, math.sqrt(float(op.xp.finfo(op.dtype).eps)))
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


def _resolvent(
    problem: Problem, task: Pairs, points: Host, steps: int, rtol: float, method: str
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
            info = _information(found, allowed=rtol * largest(task, found.distance))
            matvecs = problem.matvecs + op.count
            return found.values, replace(
                info, matvecs=matvecs, method="chebyshev", bounds=finite_pair(interval)
            )
        except EscapeError as error:
            _log.info("%s Running Lanczos instead.", error)
            known, flags = UNBOUNDED, (ESCAPED,) if problem.stated else ()
    found = resolvent_by_poles(op, task, z, steps, rtol, known)
    if found.escaped:
        flags = (ESCAPED,)
    info = _information(found, allowed=rtol * largest(task, found.distance), flags=flags)
    return found.values, replace(
        info, matvecs=problem.matvecs + op.count, method="lanczos", bounds=finite_pair(known)
    )


def _information(found: Found, allowed: Host, flags: tuple[str, ...] = ()) -> VectorEstimate:
    """Return what is known of the errors of a resolvent, and whether they are allowed."""
    return VectorEstimate(
        error=found.errors,
        rigorous=found.rigorous and not flags,
        converged=not flags and bool(np.all(found.errors <= allowed)),
        flags=flags,
        steps=found.steps,
    )


def _exact(problem: Problem, task: Pairs, z: Host) -> tuple[Host, VectorEstimate]:
    spectrum, basis, matvecs = eigensystem(problem)
    x = to_host(spectrum)
    bras, kets = overlaps(task.left, basis), np.conj(overlaps(task.right, basis))
    weights = bras[:, None, :] * kets[None, :, :]
    gap = np.abs(z[:, None] - x[None, :]).min(axis=1)
    if not np.all(gap > 0):
        msg = f"z = {z[gap == 0][0]} is an eigenvalue of A; move it off the real axis."
        raise ValueError(msg)
    error = 100 * UNIT * max(abs(x[0]), abs(x[-1])) / gap[:, None, None] ** 2 * task.scale
    return sum_of_poles(z, x, weights), VectorEstimate(error=error, matvecs=matvecs)


def _unit_circle(z: Host, low: float, high: float) -> tuple[Host, Host, float]:
    """Return u, the root, and half the width: ``1/(z - x) = (1 + 2 sum u^k T_k) / (root half)``."""
    half = (high - low) / 2
    # This branch has |u| < 1, and is that of +i0 on the real axis (which -0.0 would miss).
    t = (z.real - (low + high) / 2 + 1j * np.where(z.imag == 0, 0.0, z.imag)) / half
    root = np.sqrt(t - 1) * np.sqrt(t + 1)
    return t - root, root, half


def _by_series(
    op: LinearOperator,
    task: Pairs,
    z: Host,
    steps: int,
    rtol: float,
    interval: SpectralBounds,
) -> Found:
    """Return the resolvent by its Chebyshev series, of as many terms as the tail demands."""
    low, high = interval
    distance = distance_from(z, low, high)
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
    table, used = pair_moments(op, task, count, interval)
    powers = u[:, None] ** np.arange(count) * np.where(np.arange(count) == 0, 1, 2)
    values = np.einsum("zk,klr->zlr", powers / (root * half)[:, None], table)
    tail = front * size**count + 100 * eps(task.right) / distance
    errors = tail[:, None, None] * task.scale[None, :, :]
    return Found(values, errors, distance, interval.rigorous, used)


def _broadened(
    problem: Problem, task: Pairs, points: Host, steps: int, kernel: str, method: str
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
        table, used = pair_moments(op, task, count, interval)
    except EscapeError:
        flags = (ESCAPED,)
        interval = widened(bounds_for(op, UNBOUNDED, stated=False, key=1), MARGIN)
        table, used = pair_moments(op, task, count, interval)
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
