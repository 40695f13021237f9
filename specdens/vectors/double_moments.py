r"""Two-operator moments ``mu_jk = tr[B T_j(A) C T_k(A)]``, and the response functions in them.

``tr[B delta(x - A) C delta(y - A)]`` is a double Chebyshev series with these moments; correlation
functions and conductivities are integrals of it. In units of e^2 / hbar, not divided by the volume.
"""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

import numpy as np

from specdens.arrays.libraries import Array, column_dots, is_complex, namespace, to_host
from specdens.arrays.probes import Probes
from specdens.estimation.estimate import ESCAPED
from specdens.estimation.sampling import BLOCK_BYTES, bounds_for, probes_for, widened
from specdens.operators.algebra import Counting
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.operators.linear_operator import LinearOperator
from specdens.problem.prepare import checked_count, prepare, require_states
from specdens.recurrences.chebyshev_moments import EscapeError, chebyshev_vectors, require_inside
from specdens.recurrences.chebyshev_series import damping
from specdens.results import UNBOUNDED, AccuracyWarning, SpectralBounds
from specdens.vectors.response_functions import MARGIN, DoubleMoments

__all__ = ["double_moments"]

Host: TypeAlias = np.ndarray[Any, Any]

PROBES_AT_ONCE = 8
RIGHT_AT_ONCE = 16
"""Vectors of the right side that meet those of the left in one product of matrices."""


def double_moments(
    A: Any,
    B: Any = None,
    C: Any = None,
    *,
    moments: int = 128,
    probes: Any = None,
    kernel: str = "jackson",
    bounds: Any = None,
    hermitian: bool | None = None,
    rng: Any = None,
) -> DoubleMoments:
    r"""Return :math:`\mu_{jk} = \operatorname{tr}[B\, T_j(\tilde A)\, C\, T_k(\tilde A)]`.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Hermitian, n at least 1; the tilde maps its spectrum into [-1, 1].
    B, C : array, sparse matrix or operator, shape (n, n), optional
        Any two operators of A's library and device, for a conductivity the velocities
        ``1j * (A x - x A)``; may be complex where A is real. B needs an adjoint product. Default
        the identity.
    moments : int
        N: of each index.
    probes : int or array of shape (n, R), optional
        Default 20 random signs (phases for complex A). n or more: the unit vectors: the trace
        itself.
    kernel : {"jackson", "lorentz", "fejer", "lanczos", "none"}
        Damps both indices where functions are evaluated, not the moments that are kept.
    bounds : tuple of float, optional
        An interval that contains the spectrum; found by 20 Lanczos steps if not given.
    hermitian : bool, optional
        A claim about an operator A.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself.

    Returns
    -------
    DoubleMoments

    Raises
    ------
    ValueError
        If A is empty, not square, not Hermitian or not finite; if B or C does not fit, or B has no
        adjoint product; or if an option is not as described.

    Warns
    -----
    AccuracyWarning
        If the spectrum is not inside the bounds that were given.

    Notes
    -----
    Costs ``N (1 + ceil(N / W))`` products with A and ``N ceil(N / W)`` with C for each probe, where
    W left vectors fit into 256 MiB: memory is bounded, and for ``N <= W`` nothing is paid for it.

    References
    ----------
    Weiße et al., Rev. Mod. Phys. 78, 275 (2006), section IV.B; García, Covaci and Rappoport, Phys.
    Rev. Lett. 114, 116602 (2015).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> ring = np.roll(np.eye(60), 1, axis=0)
    >>> A, velocity = ring + ring.T, 1j * (ring - ring.T)
    >>> mu = specdens.double_moments(A, velocity, velocity, moments=64, probes=60)
    >>> print(f"{mu.sum_rule().real:.1f}")  # tr[B C]
    120.0
    """
    damping(kernel, 1)  # says what is wrong with an unknown one
    moments = checked_count(moments, "moments", least=2)
    problem = prepare(A, hermitian=hermitian, bounds=bounds)
    require_states(problem)
    op = Counting(problem.op)
    b, c = _partner(op, B, "B"), _partner(op, C, "C")
    vectors = probes_for(op, probes, rng)
    interval = widened(
        bounds_for(op, problem.known, stated=problem.stated, key=vectors.key), MARGIN
    )
    try:
        tables = _tables(op, b, c, vectors, moments, interval)
    except EscapeError as error:
        if not problem.stated:
            raise
        msg = f"{ESCAPED}: {error} They were estimated instead; correct them, or leave them out."
        warnings.warn(msg, AccuracyWarning, stacklevel=2)
        interval = widened(bounds_for(op, UNBOUNDED, stated=False, key=vectors.key), MARGIN)
        tables = _tables(op, b, c, vectors, moments, interval)
    return DoubleMoments(
        moments=tables.sum(axis=0) if vectors.exhaustive else tables.mean(axis=0),
        bounds=(interval.low, interval.high),
        order=problem.n,
        kernel=kernel,
        samples=vectors.count,
        matvecs=problem.matvecs + sum(x.count for x in (op, b, c) if x is not None),
        seed=None if vectors.exhaustive else vectors.key,
        tables=None if vectors.exhaustive else tables,
    )


def _partner(op: LinearOperator, given: Any, name: str) -> Counting | None:
    """Return B or C as an operator that fits A, or None for the identity."""
    if given is None:
        return None
    partner = aslinearoperator(given)
    if (partner.shape, partner.xp, partner.device) != (op.shape, op.xp, op.device):
        msg = (
            f"{name} has shape {partner.shape}, of {partner.xp.__name__} on {partner.device}; "
            f"expected those of A: {op.shape}, {op.xp.__name__}, {op.device}."
        )
        raise ValueError(msg)
    return Counting(partner)


def _tables(
    op: LinearOperator,
    b: Counting | None,
    c: Counting | None,
    vectors: Probes,
    count: int,
    interval: SpectralBounds,
) -> Host:
    """Return the moments of each probe, shape (R, N, N); of all n unit vectors their sum."""
    parts = []
    for columns in vectors.blocks(PROBES_AT_ONCE):
        start = _in_common_dtype(vectors.block(columns), op, b, c)
        table = _of_block(op, b, c, start, count, interval)
        parts.append(table.sum(axis=0, keepdims=True) if vectors.exhaustive else table)
    if vectors.exhaustive:
        return np.asarray(np.sum(parts, axis=0))
    return np.concatenate(parts)


def _in_common_dtype(block: Array, *operators: LinearOperator | None) -> Array:
    """Return a block that is complex if any operator is."""
    xp = namespace(block)
    dtypes = [op.dtype for op in operators if op is not None]
    if is_complex(block) or not any(xp.isdtype(d, "complex floating") for d in dtypes):
        return block
    return xp.astype(block, xp.complex64 if block.dtype == xp.float32 else xp.complex128)


def _of_block(
    op: LinearOperator,
    b: Counting | None,
    c: Counting | None,
    start: Array,
    count: int,
    interval: SpectralBounds,
) -> Host:
    """Return ``<T_j B^H z | C T_k z>`` of each column z, shape (R, N, N), some j at a time."""
    n, probes = start.shape
    width = max(1, min(count, 2 * BLOCK_BYTES // (16 * n * probes)))
    lefts = chebyshev_vectors(op, _adjoint_times(b, start), *interval)
    rows = []
    for first in range(0, count, width):
        left = _stacked([next(lefts) for _ in range(min(width, count - first))])
        bras = namespace(left).permute_dims(left, (2, 0, 1))  # (R, W, n)
        rows.append(_against_all(op, c, start, bras, count, interval))
    return np.concatenate(rows, axis=1)


def _adjoint_times(b: Counting | None, start: Array) -> Array:
    if b is None:
        return start
    try:
        return b.rmatmat(start)
    except NotImplementedError:
        msg = (
            "B has no adjoint product; pass rmatvec= to aslinearoperator, or hermitian=True if it "
            "is Hermitian."
        )
        raise ValueError(msg) from None


def _against_all(
    op: LinearOperator,
    c: Counting | None,
    start: Array,
    bras: Array,
    count: int,
    interval: SpectralBounds,
) -> Host:
    """Return the products of some left vectors, shape (R, W, n), with all right ones."""
    xp = namespace(start)
    bras = xp.conj(bras) if is_complex(bras) else bras
    rights, squares = chebyshev_vectors(op, start, *interval), np.real(column_dots(start, start))
    found = []
    for first in range(0, count, RIGHT_AT_ONCE):
        kets = [next(rights) for _ in range(min(RIGHT_AT_ONCE, count - first))]
        require_inside(kets[-1], squares, *interval)
        right = _stacked([v if c is None else c.matmat(v) for v in kets])
        found.append(to_host(bras @ xp.permute_dims(right, (2, 1, 0))))
    return np.concatenate(found, axis=2)


def _stacked(vectors: list[Array]) -> Array:
    """Return blocks one above the other, shape (W, n, R), in double precision for sums."""
    xp = namespace(vectors[0])
    block = xp.stack(vectors)
    return xp.astype(block, xp.complex128 if is_complex(block) else xp.float64, copy=False)
