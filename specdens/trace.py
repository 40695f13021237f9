"""The trace of a matrix, or of an operator that is only applied (Hutchinson's estimator)."""

from __future__ import annotations

from typing import Any

import numpy as np

from specdens._arrays import Array, column_dots, is_complex, namespace, to_host
from specdens._batch import Answers, over_stack, prepared, stack_of
from specdens._probes import Probes, key_of
from specdens.adapters import ExplicitOperator
from specdens.linear_operator import LinearOperator
from specdens.preparation import as_result, require_method, square_operator
from specdens.results import Estimate
from specdens.sampling import by_blocks, probes_for, standard_error

__all__ = ["trace"]


def trace(
    A: Any,
    *,
    probes: Any = None,
    method: str = "auto",
    rng: Any = None,
    return_info: bool = False,
) -> Any:
    r"""Return the trace of a square matrix, or estimate that of an operator.

    Parameters
    ----------
    A : array, sparse matrix or operator, shape (n, n), or array (..., n, n)
        Anything that `aslinearoperator` takes, symmetric or not; or a stack of dense matrices.
    probes : int or array of shape (n, R), optional
        Default 20 random signs (phases for complex A). n or more: the unit vectors: exact.
    method : {"auto", "exact", "lanczos", "chebyshev"}
        ``"auto"`` sums the diagonal where there is one. Both recurrences begin with
        :math:`z^H A z`, Hutchinson's estimator: here they are the same.
    rng : None, int or numpy.random.Generator
        An int is the key of the probes itself; ``rng=info.seed`` repeats a result.
    return_info : bool
        Whether to return ``(value, Estimate)``.

    Returns
    -------
    scalar, or (scalar, Estimate)
        0-d, of A's library and device; complex if A is. For a stack, arrays of shape (...): of the
        traces, and of the estimates as objects.

    Raises
    ------
    ValueError
        If A is not square or not finite, or a product is not.

    Notes
    -----
    Costs one product with each probe, none for an explicit matrix, n for ``"exact"`` of an
    operator. The variance of one probe of signs is ``2 (||B||_F^2 - sum_i b_ii^2)`` with
    ``B = (A + A^T)/2``.

    References
    ----------
    Hutchinson, Commun. Stat. Simul. Comput. 18, 1059 (1989).

    Examples
    --------
    >>> import numpy as np
    >>> import specdens
    >>> print(specdens.trace(np.array([[1.0, 5.0], [7.0, 2.0]])))
    3.0
    >>> op = specdens.aslinearoperator(lambda v: np.cumsum(v), n=1000)
    >>> value, info = specdens.trace(op, probes=100, rng=0, return_info=True)
    >>> bool(abs(value - 1000) < 5 * info.stderr)
    True
    """
    require_method(method)
    stack, key = stack_of(A), rng

    def one(matrix: Any) -> tuple[tuple[Any], Estimate]:
        op = square_operator(matrix)
        estimate = _estimate(op, probes, method, key)
        value = complex(estimate.value) if _complex(op) else estimate.value
        return (as_result(op, value),), estimate

    if stack is None:
        (value,), info = one(A)
        return (value, info) if return_info else value
    key = key_of(rng)

    def together(some: Any) -> Answers | None:
        return _together(some) if method in {"auto", "exact"} else None

    (values,), infos = over_stack(stack, one, together, "", stacklevel=2)
    return (values, infos) if return_info else values


def _together(some: Any) -> Answers | None:
    """Return the traces of small matrices, shape (B, n, n)."""
    stack = prepared(some)
    if stack is None:
        return None
    xp, a = namespace(stack.matrices), stack.matrices
    sums = to_host(xp.sum(xp.linalg.diagonal(a), axis=1)).tolist()
    return (stack.results(sums, complex_=is_complex(a)),), [Estimate(value=v) for v in sums]


def _estimate(op: LinearOperator, probes: Any, method: str, rng: Any) -> Estimate:
    n = op.shape[0]
    if n == 0:
        return Estimate(value=0.0)
    if isinstance(op, ExplicitOperator) and method in {"auto", "exact"}:
        wide = op.xp.complex128 if _complex(op) else op.xp.float64
        total = to_host(op.xp.sum(op.xp.astype(op.diagonal(), wide)))
        return Estimate(value=total.item())
    vectors = probes_for(op, n if method == "exact" else probes, rng)
    values, squares = _rayleigh_quotients(op, vectors)
    mean = values.mean()
    spread = max(0.0, float(squares.mean() - abs(mean) ** 2))
    return Estimate(
        value=(n * mean).item(),
        stderr=n * standard_error(values, vectors, spread),
        matvecs=vectors.count,
        samples=vectors.count,
        method="exact" if vectors.exhaustive else "hutchinson",
        seed=None if vectors.exhaustive else vectors.key,
    )


def _complex(op: LinearOperator) -> bool:
    return bool(op.xp.isdtype(op.dtype, "complex floating"))


def _rayleigh_quotients(
    op: LinearOperator, vectors: Probes
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return ``<z, A z> / <z, z>`` and ``<A z, A z> / <z, z>`` of each probe."""

    def run(block: Array) -> list[tuple[Any, Any]]:
        product = op.matmat(block)
        mass = np.real(column_dots(block, block))
        first = column_dots(block, product) / mass
        second = np.real(column_dots(product, product)) / mass
        if not np.all(np.isfinite(first)):
            msg = "a product with A contains NaN or infinity; expected finite numbers."
            raise ValueError(msg)
        return list(zip(first, second, strict=True))

    first, second = zip(*by_blocks(op, vectors, run), strict=True)
    return np.array(first), np.array(second)
