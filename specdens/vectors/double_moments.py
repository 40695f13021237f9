r"""Two-operator moments ``mu_jk = tr[B T_j(A) C T_k(A)]``, and the response functions in them.

``tr[B delta(x - A) C delta(y - A)]`` is a double Chebyshev series with these moments; correlation
functions and conductivities are integrals of it. In units of e^2 / hbar, not divided by the volume.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
from specdens.recurrences.chebyshev_series import damping, density_weights, to_unit
from specdens.results import UNBOUNDED, AccuracyWarning, SpectralBounds

__all__ = ["DoubleMoments", "double_moments"]

Host: TypeAlias = np.ndarray[Any, Any]

MARGIN = 0.01
"""Share of its width by which the interval is widened: kernels need room."""

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


@dataclass(frozen=True, kw_only=True)
class DoubleMoments:
    r"""Moments ``tr[B T_j C T_k]``, and the response functions that follow from them.

    Attributes
    ----------
    moments : ndarray, shape (N, N)
        On the host; undamped.
    bounds : tuple of float
        The interval that was mapped to [-1, 1].
    order : int
        n, the order of the matrices.
    kernel : str
    samples, matvecs : int
        Probes; products of A, B and C with one vector.
    seed : int or None
        Pass it as ``rng=`` to get the same result again.
    tables : ndarray, shape (R, N, N), or None
        Those of each probe; None if there was nothing random.
    """

    moments: Host
    bounds: tuple[float, float]
    order: int
    kernel: str = "jackson"
    samples: int = 0
    matvecs: int = 0
    seed: int | None = None
    tables: Host | None = field(default=None, repr=False)

    def sum_rule(self) -> complex:
        """Return ``tr[B C]``: the integral of the correlation over both energies."""
        return complex(self.moments[0, 0])

    def correlation(self, x: Any, y: Any = None) -> Host:
        r"""Return :math:`\operatorname{tr}[B\, \delta(x - A)\, C\, \delta(y - A)]`, broadened.

        Parameters
        ----------
        x, y : array_like
            Energies, of shapes that go together; y is x if not given.

        Returns
        -------
        ndarray
            Complex if the moments are. 0 outside of the bounds.
        """
        x = np.asarray(x, dtype=float)
        y = x if y is None else np.asarray(y, dtype=float)
        x, y = np.broadcast_arrays(x, y)
        found = np.sum((self._deltas(x.ravel()) @ self.moments) * self._deltas(y.ravel()), axis=1)
        return np.asarray(found.reshape(x.shape))

    def conductivity(self, chemical: Any, *, temperature: float = 0.0) -> Host:
        r"""Return the static conductivity of Kubo and Greenwood, :math:`\pi \int (-f')\, j(x, x)`.

        Parameters
        ----------
        chemical : array_like
            Chemical potentials.
        temperature : float
            In units of energy.

        Returns
        -------
        ndarray
            The real part: the part that is symmetric in B and C. Divide by the volume.
        """
        chemical = np.asarray(chemical, dtype=float)
        _require_temperature(temperature)
        if temperature == 0:
            return np.asarray(np.pi * np.real(self.correlation(chemical)))
        values = []
        for mu in chemical.ravel():
            # With v = tanh((x - mu) / 2T) the weight -f'(x) dx is dv / 2, however cold it is.
            ends = np.tanh((np.array(self.bounds) - mu) / (2 * temperature))
            v, weights = _panels(list(ends), 4 * len(self.moments))
            x = mu + 2 * temperature * np.arctanh(v)
            values.append(np.pi / 2 * weights @ np.real(self.correlation(x)))
        return np.asarray(values, dtype=float).reshape(chemical.shape)

    def optical(self, omega: Any, chemical: float, *, temperature: float = 0.0) -> Host:
        r"""Return the regular part of the optical conductivity at frequencies above 0.

        :math:`\frac{\pi}{\omega} \int [f(x) - f(x + \omega)]\, j(x, x + \omega)\, dx`

        Parameters
        ----------
        omega : array_like
            Frequencies, positive, in units of energy.
        chemical : float
            The chemical potential.
        temperature : float
            In units of energy.

        Returns
        -------
        ndarray
            The real part. Divide by the volume.

        Raises
        ------
        ValueError
            If a frequency is not positive or the temperature negative.
        """
        omega = np.asarray(omega, dtype=float)
        _require_temperature(temperature)
        if not np.all(omega > 0):
            msg = "omega must be positive; conductivity() gives the limit 0."
            raise ValueError(msg)
        low, high = self.bounds
        values = []
        for w in omega.ravel():
            x, weights = _panels([low, chemical - w, chemical, high - w], 2 * len(self.moments))
            gain = _fermi(x, chemical, temperature) - _fermi(x + w, chemical, temperature)
            values.append(np.pi / w * weights @ (gain * np.real(self.correlation(x, x + w))))
        return np.asarray(values).reshape(omega.shape)

    def hall(self, chemical: Any, *, temperature: float = 0.0) -> Host:
        r"""Return the static conductivity of Kubo and Bastin, which has the Hall part too.

        :math:`i \int f(x) \operatorname{tr}[B\, \delta(x - A)\, C\, \partial_x G^+ -
        B\, \partial_x G^-\, C\, \delta(x - A)]\, dx`

        Parameters
        ----------
        chemical : array_like
            Chemical potentials.
        temperature : float
            In units of energy.

        Returns
        -------
        ndarray
            Real. Divide by the volume; a Chern insulator then has its Chern number over 2 pi.

        References
        ----------
        Bastin et al., J. Phys. Chem. Solids 32, 1811 (1971); García et al. (2015), eqs. 3-5.
        """
        chemical = np.asarray(chemical, dtype=float)
        _require_temperature(temperature)
        low, high = self._inner()
        values = []
        for mu in chemical.ravel():
            x, weights = _panels([low, mu, high], 4 * len(self.moments))
            filled = weights * _fermi(x, mu, temperature)
            seen = filled != 0
            values.append(filled[seen] @ self._bastin(x[seen]))
        return np.asarray(values, dtype=float).reshape(chemical.shape)

    def stderr(self, quantity: Callable[[DoubleMoments], Any]) -> Host:
        """Return the standard error over probes of whatever follows from the moments.

        Parameters
        ----------
        quantity : callable
            For example ``lambda mu: mu.conductivity(0.5)``.

        Returns
        -------
        ndarray
            0 where nothing was left to chance.

        Raises
        ------
        ValueError
            If there was one random probe only.
        """
        if self.tables is None:
            return np.zeros(np.shape(quantity(self)))
        if len(self.tables) < 2:
            msg = "one probe has no scatter; use two at least."
            raise ValueError(msg)
        found = np.array([quantity(replace(self, moments=table)) for table in self.tables])
        return np.asarray(np.std(found, axis=0, ddof=1) / math.sqrt(len(found)))

    def _weights(self) -> Host:
        """Return the damping factors, doubled from the second on."""
        g = damping(self.kernel, len(self.moments))
        return np.where(np.arange(len(g)) == 0, 1, 2) * g

    def _deltas(self, x: Host) -> Host:
        """Return the coefficients of delta(x - A), shape (X, N); 0 outside of the interval."""
        low, high = self.bounds
        factors = damping(self.kernel, len(self.moments)) * (2 / (high - low))
        return density_weights(len(factors), to_unit(x, low, high)) * factors

    def _bastin(self, x: Host) -> Host:
        """Return the integrand of `hall` without f."""
        low, high = self.bounds
        half = (high - low) / 2
        theta = np.arccos(to_unit(x, low, high))[:, None]
        k, sine, t = np.arange(len(self.moments)), np.sin(theta), np.cos(theta)
        table = self.moments * np.outer(self._weights(), self._weights())
        delta = np.cos(k * theta)
        slope = np.exp(-1j * k * theta) * (t + 1j * k * sine)
        total = np.sum((delta @ table) * slope + (slope.conj() @ table) * delta, axis=1)
        return np.asarray(np.real(total) / (np.pi * half**3 * sine[:, 0] ** 4))

    def _inner(self) -> tuple[float, float]:
        """Return the interval before it was widened: the edges of a series are no physics."""
        low, high = self.bounds
        slack = MARGIN * (high - low) / (1 + 2 * MARGIN)
        return low + slack, high - slack


def _require_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature >= 0):
        msg = f"temperature is {temperature}; expected a finite number, at least 0."
        raise ValueError(msg)


def _fermi(x: Any, chemical: Any, temperature: float) -> Host:
    """Return the occupation of states at energies x."""
    from scipy.special import expit

    if temperature == 0:
        return np.asarray(np.heaviside(chemical - np.asarray(x), 0.5))
    return np.asarray(expit((chemical - x) / temperature))


def _panels(edges: list[float], points: int) -> tuple[Host, Host]:
    """Return Gauss-Legendre nodes and weights on consecutive intervals; edges out of order fold."""
    low, high = edges[0], edges[-1]
    cuts = np.unique(np.clip(edges, low, max(low, high)))
    x, w = np.polynomial.legendre.leggauss(points)
    half = np.diff(cuts)[:, None] / 2
    nodes = (cuts[:-1] + cuts[1:])[:, None] / 2 + half * x
    return nodes.ravel(), (half * w).ravel()
