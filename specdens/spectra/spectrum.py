"""One run, many answers: the recurrence coefficients of all probes, or all eigenvalues.

Any number of functions, shifts, counts and densities of one matrix then cost no further product,
and share their chance: differences between them are far more certain than each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specdens.arrays.libraries import is_array, to_host
from specdens.estimation.goal import moments_alone
from specdens.estimation.question import Question
from specdens.exact.pencils import whitened
from specdens.operators.algebra import finite_real
from specdens.problem.prepare import prepare, require_hermitian
from specdens.results import Estimate, SpectralBounds
from specdens.scalar_functions import scalar_function
from specdens.spectra.distribution import count_of, density_of
from specdens.spectra.functionals import entropy as entropy_of
from specdens.spectra.functionals import exponential_of, root_of_sum, transformed
from specdens.spectra.functionals import renyi_entropy as renyi_entropy_of
from specdens.spectra.make_run import EXACT_OR_LANCZOS, extended, record
from specdens.spectra.ritz_bounds import bounds_of, condition_of, rank_of
from specdens.spectra.run_files import read_run, write_run
from specdens.spectra.spectral_density import SpectralDensity
from specdens.spectra.spectral_run import SpectralRun

__all__ = ["Spectrum", "spectrum"]

MOMENTS = 64


def spectrum(
    A: Any,
    *,
    B: Any = None,
    moments: int = MOMENTS,
    probes: Any = None,
    method: str = "auto",
    shift: float = 0.0,
    hermitian: bool | None = None,
    bounds: Any = None,
    rng: Any = None,
) -> Spectrum:
    """Return what one run tells of the spectrum of a Hermitian ``A + shift I``, to ask much of it.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n)
        Anything that `aslinearoperator` takes.
    B : array or sparse matrix, shape (n, n), optional
        Hermitian and positive definite: then the eigenvalues are those of ``A x = lambda B x``.
    moments : int
        Information per probe: costs half as many products with each.
    probes : int, range or array of shape (n, R), optional
        Default 20 random signs (phases for complex A). n or more: the unit vectors, without chance.
        A range names the random probes of a key, so that runs elsewhere can take others.
    method : {"auto", "exact", "lanczos"}
        ``"auto"`` takes all eigenvalues where they are cheap, as `trace_function` does.
    shift : float
        Added to the diagonal.
    hermitian : bool, optional
        A claim about an operator; checked on the way.
    bounds : tuple of float, optional
        An interval that contains the spectrum of A, before the shift.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself.

    Returns
    -------
    Spectrum

    Raises
    ------
    ValueError
        If A is not square, not Hermitian or not finite, or an option is not as described.

    Notes
    -----
    Costs ``ceil(moments / 2)`` products with each probe.

    References
    ----------
    Chen, Trogdon and Ubaru, arXiv:2105.06595 (2021): one spectral measure for all functions.

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> from specdens.testing import laplacian
    >>> found = specdens.spectrum(laplacian(60, 60), rng=0)
    >>> print(" ".join(f"{float(answer):.0f}" for answer in found.logdet([0.0, 0.1, 1.0])))
    4228 4411 5436
    >>> print(f"{float(found.count(0, 4)):.0f} of {found.n} eigenvalues up to 4")
    1807 of 3600 eigenvalues up to 4
    """
    goal = moments_alone(moments)
    question = Question(
        A, goal, B, probes, method, shift, hermitian, bounds, rng, among=EXACT_OR_LANCZOS
    )
    problem = question.problem()
    require_hermitian(problem, "a spectrum")
    return Spectrum(record(problem, question))


@dataclass(frozen=True)
class Spectrum:
    """What one run found of the eigenvalues of a Hermitian ``A + shift I``, to be asked.

    Made by `spectrum`. Every method but `extend` answers without a product, mostly by an
    `Estimate`, whose ``converged`` and ``flags`` say what is in doubt. Numbers are on the host.

    Attributes
    ----------
    run : SpectralRun
        What was found: recurrence coefficients or eigenvalues, probes, bounds, known traces.
    """

    run: SpectralRun

    @property
    def n(self) -> int:
        """The order of the matrix."""
        return self.run.n

    @property
    def matvecs(self) -> int:
        """Products spent."""
        return self.run.matvecs

    @property
    def seed(self) -> int | None:
        """What ``rng=`` gives the same run again, if one key gave all probes from the first on."""
        return self.run.seed

    def trace_function(self, f: Any) -> Estimate:
        """Return ``tr f(A + shift I)``.

        Parameters
        ----------
        f : {"log", "exp", "inv", "sqrt", "xlogx", "square"} or callable
            As for `specdens.trace_function`, whose value this is at the same key.

        Returns
        -------
        Estimate
        """
        return self.run.trace(scalar_function(f))

    def logdet(self, shift: Any = 0.0) -> Any:
        """Return ``log|det(A + (run.shift + shift) I)|``, for one more shift or many.

        Parameters
        ----------
        shift : float or array_like, shape (k,)

        Returns
        -------
        Estimate, or list of Estimate
            The same probes for every shift.
        """
        return _each(shift, "shift", lambda t: self.run.shifted(t).logdet())

    def heat_trace(self, t: Any) -> Any:
        """Return ``tr exp(-t A)``, for one t or many.

        Parameters
        ----------
        t : float or array_like, shape (k,)

        Returns
        -------
        Estimate, or list of Estimate
        """
        return _each(t, "t", lambda x: self.run.trace(exponential_of(-x)))

    def estrada_index(self) -> Estimate:
        """Return ``tr exp(A)``."""
        return self.run.trace(scalar_function("exp"))

    def entropy(self) -> Estimate:
        """Return the von Neumann entropy of ``A / tr A``, in nats; A positive semidefinite."""
        self.run.require_values("an entropy")
        return entropy_of(self.run.trace, nonnegative=True)

    def renyi_entropy(self, order: float) -> Estimate:
        """Return the Rényi entropy of ``A / tr A``, in nats; A positive semidefinite.

        Parameters
        ----------
        order : float
            Positive; 1 is the von Neumann entropy.
        """
        order = _positive(order, "order")
        self.run.require_values("an entropy")
        return renyi_entropy_of(self.run.trace, order, self._largest, nonnegative=True)

    def effective_rank(self) -> Estimate:
        """Return exp of the entropy of the shares of singular values (Roy and Vetterli, 2007)."""
        run = self.run
        run.require_values("an effective rank")
        found = entropy_of(run.trace, nonnegative=run.nonnegative, bracketed=not run.singular)
        value = math.exp(float(found))
        return transformed(found, value, value)

    def schatten_norm(self, p: float) -> Estimate:
        """Return ``(sum_i |lambda_i|^p)^(1/p)``, not divided by n.

        Parameters
        ----------
        p : float
            Positive and finite; below 1 it is a quasi-norm.
        """
        p, run = _positive(p, "p"), self.run
        return root_of_sum(run.trace, p, self._largest, nonnegative=run.nonnegative)

    def nuclear_norm(self) -> Estimate:
        """Return the sum of the moduli of all eigenvalues."""
        return self.schatten_norm(1.0)

    def numerical_rank(self, tol: float | None = None) -> Estimate:
        """Return the number of eigenvalues of modulus above a tolerance.

        The bias is the weight of Ritz values whose residuals reach over the tolerance: no proof.

        Parameters
        ----------
        tol : float, optional
            Default n times the unit roundoff times the largest modulus.
        """
        if self.run.n == 0:
            return Estimate(value=0.0)
        if tol is None:
            tol = self.n * self.run.unit * self._largest
        elif (tol := finite_real(tol, "tol")) < 0:
            msg = f"tol is {tol}; expected a finite number, at least 0."
            raise ValueError(msg)
        return rank_of(self.run, tol)

    def condition_number(self) -> Estimate:
        """Return the largest modulus of an eigenvalue over the smallest.

        Ritz values lie inside the spectrum, so that what recurrences give is too small. The bias is
        what the residuals of the extreme Ritz vectors, or a positive bound known by proof, leave
        open: no proof that no eigenvalue was missed.
        """
        return condition_of(self.run)

    def bounds(self) -> SpectralBounds:
        """Return an interval that contains the spectrum: ends by proof, or extreme Ritz values.

        Those move out by 4 of their residual norms and 1 % of the width, as in `spectral_bounds`.
        """
        return bounds_of(self.run)

    def count(self, low: float, high: float) -> Estimate:
        """Return the number of eigenvalues in [low, high], as `eigencount` by quadrature.

        Parameters
        ----------
        low, high : float
            Ends may be infinite.
        """
        return count_of(self.run, low, high)

    def cumulative(self, x: Any) -> Any:
        """Return the fraction of eigenvalues up to x, for one x or many.

        Parameters
        ----------
        x : float or array_like, shape (k,)

        Returns
        -------
        Estimate, or list of Estimate
        """
        self.run.require_values("a distribution")

        def fraction(edge: float) -> Estimate:
            found = self.count(-math.inf, edge)
            return transformed(found, float(found) / self.n, 1 / self.n)

        return _each(x, "x", fraction)

    def density(self, *, kernel: str = "jackson", moments: int | None = None) -> SpectralDensity:
        """Return the density of states, as `specdens.density` by ``method="lanczos"``.

        Parameters
        ----------
        kernel : {"jackson", "lorentz", "fejer", "lanczos", "none"}
        moments : int, optional
            Default, and with recurrences at most, those of the run.
        """
        return density_of(self.run, kernel, moments)

    def shifted(self, t: float) -> Spectrum:
        """Return the spectrum of the matrix with t more on the diagonal.

        Parameters
        ----------
        t : float
        """
        return Spectrum(self.run.shifted(finite_real(t, "shift")))

    def merge(self, other: Spectrum) -> Spectrum:
        """Return what one run with the random probes of both would have found.

        Parameters
        ----------
        other : Spectrum
            Of the same matrix with the same options; other probes.

        Raises
        ------
        ValueError
            If they have a probe in common, or differ in what both tell of the matrix.
        """
        return Spectrum(self.run.merged(other.run))

    def extend(
        self, A: Any, *, B: Any = None, probes: int | None = None, moments: int | None = None
    ) -> Spectrum:
        """Return what a longer run finds, by as few products as possible.

        Parameters
        ----------
        A, B
            The matrix again: only its coefficients were kept.
        probes : int, optional
            How many in all. The new ones continue the columns of the key.
        moments : int, optional
            Per probe, in all. The vectors of the recurrences were not kept: they run again from
            the first step, with the old probes too.

        Raises
        ------
        ValueError
            If that is no more than there is, there is nothing left to find, or A is not the matrix.
        """
        problem = prepare(A if B is None else whitened(A, B), shift=self.run.shift, hermitian=True)
        return Spectrum(extended(self.run, problem, probes, moments))

    def save(self, path: str | Path) -> None:
        """Write it to a .npz file, bit by bit, for `load`.

        Parameters
        ----------
        path : str or Path
            Exactly so; a file that is there is replaced.
        """
        write_run(path, self.run)

    @classmethod
    def load(cls, path: str | Path) -> Spectrum:
        """Read what `save` wrote, without pickle.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        ValueError
            If there is no such file, or it does not hold a spectrum; one line, with the path.
        """
        return cls(read_run(path))

    def __repr__(self) -> str:
        kind = "singular values" if self.run.singular else "eigenvalues"
        found = f"{len(self.run.factors)} probes of {self.run.moments} moments"
        found = found if self.run.eigenvalues is None else "all known"
        return f"<Spectrum of {self.run.n} {kind}: {found}, {self.run.matvecs} products>"

    @property
    def _largest(self) -> float:
        """The largest modulus that was seen; 0 for an empty matrix."""
        return max(map(abs, self.run.ends)) if self.n else 0.0


def _each(x: Any, name: str, answer: Callable[[float], Estimate]) -> Any:
    """Return the answer to one number, or a list of those to many."""
    numbers = to_host(x) if is_array(x) else np.asarray(x)
    if numbers.ndim > 1 or numbers.dtype.kind not in "iuf":
        msg = f"{name} is {x!r}; expected a real number, or a one-dimensional array of them."
        raise ValueError(msg)
    if numbers.ndim == 0:
        return answer(float(numbers))
    return [answer(float(number)) for number in numbers]


def _positive(x: Any, name: str) -> float:
    number = finite_real(x, name)
    if number <= 0:
        msg = f"{name} is {number}; expected a finite number above 0."
        raise ValueError(msg)
    return number
