r"""The diagonal of a matrix that is only applied, or of a function of a Hermitian matrix.

One random vector z with entries of modulus 1 has ``E conj(z) * (A z) = diag A``; a basis of the
range of A^H takes the large part of A exactly.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdens._arrays import Array, column_dots, is_complex, namespace, to_host
from specdens._probes import Probes, key_of, require_distribution
from specdens.adapters import ExplicitOperator
from specdens.effort import require_plain, vectors_for
from specdens.exact import UNIT, dense_of, spectrum_is_small
from specdens.linear_operator import LinearOperator
from specdens.matrix_function import function_times
from specdens.operators import Counting
from specdens.preparation import (
    Problem,
    checked_count,
    prepare,
    require_hermitian,
    require_method,
    square_operator,
)
from specdens.results import AccuracyWarning
from specdens.sampling import by_blocks, probes_for
from specdens.scalar_functions import ScalarFunction, require_domain, scalar_function
from specdens.sketch import Sketch, adjoint, draw, gram, left_out, product

__all__ = ["DiagonalEstimate", "diagonal", "diagonal_function"]

METHODS = ("auto", "exact", "hutchinson", "diag++", "xdiag")

XDIAG_OR_PROBES = "xdiag or hutchinson"

LEAST = {"hutchinson": 2, "diag++": 3, "xdiag": 2, XDIAG_OR_PROBES: 4}
"""Random vectors without which a method has no error estimate."""

XDIAG_FROM = 64
"""Order below which so few signs may be linearly dependent: there the diagonal is exact."""

XDIAG_INFLATION = 1.4
"""The scatter is 0.73 to 0.97 of the error for signs; for the phases of a complex A it is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagonalEstimate:
    """A diagonal, how far each entry may be off, and what it cost.

    Attributes
    ----------
    value : array, shape (n,)
    stderr : array, shape (n,)
        Standard errors, real, on the same device.
    bias_bound : float
        Estimated root mean square of the truncation error of the entries (`diagonal_function`).
    converged : bool
        Whether that is at most the root mean square of the standard errors.
    flags : tuple of str
        What speaks against the result, in words.
    matvecs : int
        Products of the matrix, or its adjoint, with one vector.
    samples : int
        Random vectors.
    method : str
        ``"exact"``, ``"hutchinson"``, ``"diag++"`` or ``"xdiag"``.
    seed : int or None
        Pass it as ``rng=`` to get the same result again; None where no random number was drawn.
    """

    value: Array
    stderr: Array
    bias_bound: float = 0.0
    converged: bool = True
    flags: tuple[str, ...] = ()
    matvecs: int = 0
    samples: int = 0
    method: str = "exact"
    seed: int | None = None


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
        found = _certain(_in_double(op.diagonal()))
    else:
        found = _estimated(counted, method, probes, limit, distribution, rng)
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
        found = _estimated(applied, estimated, probes, None, distribution, rng)
        bias = applied.worst / math.sqrt(problem.n)
        found = replace(found, matvecs=problem.matvecs + counted.count, bias_bound=bias)
        found = _judged(found, moments)
    found = _in_precision(problem.op, found)
    return (found.value, found) if return_info else found.value


def _certain(value: Array) -> DiagonalEstimate:
    xp = namespace(value)
    return DiagonalEstimate(value=value, stderr=xp.zeros_like(_real(value)))


def _in_double(x: Array) -> Array:
    xp = namespace(x)
    return xp.astype(x, xp.complex128 if is_complex(x) else xp.float64, copy=False)


def _real(x: Array) -> Array:
    return namespace(x).real(x) if is_complex(x) else x


def _squares(x: Array) -> Array:
    return namespace(x).abs(x) ** 2


def _in_precision(op: LinearOperator, found: DiagonalEstimate) -> DiagonalEstimate:
    """Bring value and errors to the precision of A."""
    xp, dtype = op.xp, op.result_dtype
    complex_dtype = xp.complex64 if dtype == xp.float32 else xp.complex128
    value = xp.astype(found.value, complex_dtype if is_complex(found.value) else dtype)
    return replace(found, value=value, stderr=xp.astype(found.stderr, dtype))


def _estimated(
    op: LinearOperator, method: str, probes: Any, limit: int | None, distribution: str, rng: Any
) -> DiagonalEstimate:
    """Return the diagonal of an operator from its products, exact where those are enough."""
    n = op.shape[0]
    require_distribution(distribution)
    if method == "auto":
        method = XDIAG_OR_PROBES if limit is not None and op.hermitian else "hutchinson"
    if method in {"diag++", "xdiag"}:
        require_plain(method, probes, distribution)
    if n == 0 or method == "exact":
        return _by_unit_vectors(op)
    if method == "hutchinson" and not (probes is None or isinstance(probes, (int, np.integer))):
        return _hutchinson(op, probes_for(op, probes, rng, distribution))
    key = key_of(rng)
    count = vectors_for(method, n, probes, limit, LEAST)
    if count is None or (method in {"xdiag", XDIAG_OR_PROBES} and n < XDIAG_FROM):
        return _by_unit_vectors(op)
    if method == XDIAG_OR_PROBES:
        return _xdiag_or_probes(op, count, key)
    if method == "xdiag":
        return _xdiag(op, count, key)
    if method == "hutchinson":
        return _hutchinson(op, probes_for(op, count, key, distribution))
    with _needs_adjoint():
        sketch = Sketch(op, key, kind="sphere", of_adjoint=True)
        sketch.grow(count // 2)
    found = _hutchinson(op, probes_for(op, count - count // 2, key), sketch)
    return replace(found, method="diag++")


@contextmanager
def _needs_adjoint() -> Iterator[None]:
    """Say what is missing where an operator has no adjoint product."""
    try:
        yield
    except NotImplementedError:
        msg = (
            "the operator has no adjoint product, which 'diag++' and 'xdiag' need; pass rmatvec= "
            "or hermitian=True to aslinearoperator, or use method='hutchinson'."
        )
        raise ValueError(msg) from None


def _by_unit_vectors(op: LinearOperator) -> DiagonalEstimate:
    """Return the diagonal exactly, by n products."""
    n = op.shape[0]
    complex_ = op.xp.isdtype(op.dtype, "complex floating")
    total = op.xp.zeros(n, dtype=op.xp.complex128 if complex_ else op.xp.float64, device=op.device)
    if n == 0:
        return _certain(total)

    def add(block: Array) -> list[Any]:
        nonlocal total
        found = product(op, op.matmat, block)
        total = total + op.xp.sum(_in_double(block) * found, axis=1)
        return []

    by_blocks(op, probes_for(op, n, 0), add)
    return _certain(total)


class _Sums:
    """Running sums over probes z of ``v = conj(z) * y`` and of ``w = |z|^2``, entry by entry.

    The ratio of the first block is subtracted from all: sums of squares then do not cancel, and
    what is the same for every probe has no scatter at all.
    """

    def __init__(self) -> None:
        self.reference: Array | None = None

    def add(self, z: Array, y: Array) -> None:
        xp = namespace(z)
        w = _squares(z)
        v = (xp.conj(z) if is_complex(z) else z) * y
        if self.reference is None:
            self.reference = xp.sum(v, axis=1) / xp.astype(xp.sum(w, axis=1), v.dtype)
            self.v, self.w = xp.zeros_like(self.reference), xp.zeros_like(_real(self.reference))
            self.vv, self.vw, self.ww = self.w, self.v, self.w
        wide = xp.astype(w, v.dtype)
        v = v - self.reference[:, None] * wide
        self.v, self.w = self.v + xp.sum(v, axis=1), self.w + xp.sum(w, axis=1)
        self.vv = self.vv + xp.sum(_squares(v), axis=1)
        self.vw, self.ww = self.vw + xp.sum(v * wide, axis=1), self.ww + xp.sum(w * w, axis=1)

    def ratio(self) -> tuple[Array, Array]:
        """Return ``sum v / sum w`` and the sum of ``|v - ratio w|^2`` over ``(sum w)^2``."""
        assert self.reference is not None
        xp = namespace(self.v)
        change = self.v / xp.astype(self.w, self.v.dtype)
        cross = (xp.conj(change) if is_complex(change) else change) * self.vw
        scatter = self.vv - 2 * _real(cross) + _squares(change) * self.ww
        scatter = xp.where(scatter > 0, scatter, xp.zeros_like(scatter))
        return self.reference + change, scatter / self.w**2

    def estimate(self, count: int, key: int | None) -> DiagonalEstimate:
        """Return the ratio with its standard error, from the scatter over so many probes."""
        value, scatter = self.ratio()
        return DiagonalEstimate(
            value=value,
            stderr=namespace(value).sqrt(scatter * (count / (count - 1))),
            samples=count,
            method="hutchinson",
            seed=key,
        )


def _hutchinson(
    op: LinearOperator, vectors: Probes, sketch: Sketch | None = None
) -> DiagonalEstimate:
    """Return ``sum conj(z) * (A z) / sum |z|^2``, of what a sketch leaves of A if there is one."""
    if vectors.count < 2:
        msg = "one probe says nothing of its own error; expected at least probes=2."
        raise ValueError(msg)
    sums = _Sums()

    def add(block: Array) -> list[Any]:
        y = product(op, op.matmat, block)
        z = op.xp.astype(block, y.dtype, copy=False)
        if sketch is not None:
            y = y - sketch.basis @ (adjoint(sketch.images) @ z)
        sums.add(z, y)
        return []

    by_blocks(op, vectors, add)
    found = sums.estimate(vectors.count, vectors.key)
    if vectors.distribution == "orthogonal":  # a sample without replacement
        found = replace(found, stderr=found.stderr * math.sqrt(1 - vectors.count / vectors.n))
    if sketch is None:
        return found
    return replace(found, value=found.value + _row_dots(sketch.images, sketch.basis))


def _row_dots(a: Array, b: Array) -> Array:
    """Return ``sum_k conj(a_ik) b_ik``: the diagonal of ``b a^H``."""
    xp = namespace(a)
    return xp.sum((xp.conj(a) if is_complex(a) else a) * b, axis=1)


def _xdiag(op: LinearOperator, count: int, key: int) -> DiagonalEstimate:
    """Return XDiag: each test vector sees what a basis of the others leaves of A."""
    with _needs_adjoint():
        sketch = Sketch(op, key, kind="signs", of_adjoint=True)
        sketch.grow(count)
    return _of_sketch(sketch)


def _xdiag_or_probes(op: LinearOperator, budget: int, key: int) -> DiagonalEstimate:
    """Return XDiag, or Hutchinson's estimator if half of the products show that it is better.

    m test vectors are Hutchinson's first m probes; m more products give either XDiag, with a
    variance near ``rho / m`` summed over the entries, or m more probes, with ``rho_0 / (2 m)``:
    the squared norms of what the basis leaves of A, and of A beside its diagonal.
    """
    xp = op.xp
    sketch = Sketch(op, key, kind="signs", of_adjoint=True)
    sketch.look(budget // 2)
    if not sketch.complete:
        r, m, sums = sketch.triangle, sketch.size, _Sums()
        there = xp.asarray(r, dtype=sketch.basis.dtype, device=op.device)
        sums.add(sketch.tests, sketch.basis @ there)
        left = np.mean(np.abs(np.sum(left_out(r).conj() * r, axis=0)) ** 2)
        beside = float(xp.sum(sums.ratio()[1])) * m**2 / (m - 1)
        if 2 * left > beside:
            more = draw(op, range(m, budget), key, kind="signs")
            sums.add(more, product(op, op.matmat, more))
            return sums.estimate(budget, key)
    sketch.take()
    return _of_sketch(sketch)


def _of_sketch(sketch: Sketch) -> DiagonalEstimate:
    op, count, key = sketch.op, sketch.size, sketch.key
    xp = op.xp
    q, z, tests = sketch.basis, sketch.images, sketch.tests
    inside = _row_dots(z, q)
    if sketch.complete:
        return replace(_certain(inside), samples=count, method="xdiag", seed=key)
    s, t = left_out(sketch.triangle), gram(z, tests)
    outside = sketch.triangle - t + s * np.sum(s.conj() * t, axis=0)

    def there(x: Any) -> Array:
        return xp.asarray(x, dtype=q.dtype, device=op.device)

    removed = (q @ there(s)) * _conj(z @ there(s))
    values = _conj(tests) * (q @ there(outside)) - removed
    mean = xp.mean(values, axis=1)
    variance = xp.sum(_squares(values - mean[:, None]), axis=1) / (count - 1)
    return DiagonalEstimate(
        value=inside + mean,
        stderr=(1.0 if is_complex(q) else XDIAG_INFLATION) * xp.sqrt(variance / count),
        samples=count,
        method="xdiag",
        seed=key,
    )


def _conj(x: Array) -> Array:
    return namespace(x).conj(x) if is_complex(x) else x


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
        return _certain(_real(xp.linalg.diagonal(a)))
    spectrum, vectors = xp.linalg.eigh(a)
    low, high = float(spectrum[0]), float(spectrum[-1])
    require_domain(f, low, (10 + math.sqrt(n)) * UNIT * max(abs(low), abs(high)))
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
    weights = xp.astype(_squares(vectors), values.dtype)
    return replace(_certain(weights @ values), matvecs=matvecs)


def _judged(found: DiagonalEstimate, moments: int) -> DiagonalEstimate:
    """Compare the truncation error with the standard error, and warn where it may be larger."""
    xp = namespace(found.stderr)
    stderr = math.sqrt(float(xp.mean(found.stderr**2)))
    size = math.sqrt(float(xp.mean(_squares(found.value))))
    if found.bias_bound <= max(stderr, 1e-8 * size):
        return found
    msg = (
        f"the truncation error of the diagonal of f(A), roughly up to {found.bias_bound:.3g} (root "
        f"mean square), may exceed its standard error {stderr:.3g}. Raise moments (now {moments}), "
        "or use method='exact'."
    )
    warnings.warn(msg, AccuracyWarning, stacklevel=3)
    return replace(found, converged=False)
