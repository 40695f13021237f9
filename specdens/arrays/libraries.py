"""The one place that knows array libraries: namespace, device, precision, and the way to the host.

Big arrays (n x R blocks) stay where they are and meet only ``@``, arithmetic and reductions; small
ones (moments, tridiagonals) become NumPy float64 through `to_host`, and through nothing else.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import array_api_compat
import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_array_api_obj,
    is_cupy_array,
    is_numpy_array,
    is_torch_array,
    to_device,
)

__all__ = [
    "adjoint",
    "Array",
    "as_dense",
    "cholesky_diagonal",
    "cholesky_diagonals",
    "column_dots",
    "dots_in_place",
    "device",
    "eps",
    "host_view",
    "is_array",
    "is_complex",
    "is_cupy_array",
    "lu_diagonal",
    "magnitude",
    "matmul",
    "namespace",
    "on_cpu",
    "power_of_two",
    "require_finite",
    "result_dtype",
    "scalar",
    "to_host",
    "working_dtype",
    "zero_block",
]

Array: TypeAlias = Any
"""An array of any library that follows the Python array API standard."""

namespace = array_namespace

CACHE_LINE = 64


def is_array(x: object) -> bool:
    """Whether x is a dense array of a library that we can compute with."""
    if not is_array_api_obj(x):
        return False
    if not is_torch_array(x):
        return True
    import torch  # loaded already: x is a tensor

    return bool(x.layout == torch.strided)  # type: ignore[attr-defined]  # an Array is any library's


def as_dense(a: Array, *, name: str = "A") -> Array:
    """Return a as a plain array without gradient history; lists become NumPy arrays."""
    if isinstance(a, np.ma.MaskedArray):
        msg = f"{name} is a masked array: its masked entries have no value. Pass {name}.filled()."
        raise TypeError(msg)
    if is_array(a):
        if is_numpy_array(a):
            return np.asarray(a)
        return a.detach() if is_torch_array(a) else a
    return np.asarray(a)


def zero_block(xp: Any, shape: tuple[int, int], dtype: Any, where: Any) -> Array:
    """Return an array of zeros; NumPy's begins at a cache line, so that few rows straddle two."""
    if not xp.__name__.endswith("numpy"):
        return xp.zeros(shape, dtype=dtype, device=where)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + CACHE_LINE, np.uint8)
    first = -raw.ctypes.data % CACHE_LINE
    return raw[first : first + size].view(dtype).reshape(shape)


def is_complex(x: Array) -> bool:
    """Whether the elements of x are complex."""
    return bool(namespace(x).isdtype(x.dtype, "complex floating"))


def adjoint(x: Array) -> Array:
    """Return the conjugate transpose of a matrix."""
    transposed = namespace(x).matrix_transpose(x)
    return namespace(x).conj(transposed) if is_complex(x) else transposed


def eps(x: Array) -> float:
    """Return the unit roundoff of the precision of x."""
    return float(namespace(x).finfo(x.dtype).eps)


def on_cpu(x: Array) -> bool:
    """Whether x lies in the memory of the host."""
    if is_numpy_array(x):
        return True
    if is_cupy_array(x):
        return False
    where = device(x)
    return getattr(where, "type", None) == "cpu" or "CPU_DEVICE" in str(where) or where == "cpu"


def _bits(xp: Any, dtype: Any) -> int:
    """Return the bits of one real number of a floating dtype."""
    return int(xp.finfo(dtype).bits)


def host_view(x: Array) -> np.ndarray[Any, Any] | None:
    """Return an array of NumPy, or of Torch in the memory of the host, as NumPy without a copy."""
    if is_numpy_array(x):
        return np.asarray(x)
    if not is_torch_array(x) or not on_cpu(x) or "bfloat16" in str(x.dtype):
        return None
    host: np.ndarray[Any, Any] = x.detach().resolve_conj().resolve_neg().numpy()
    return host


def working_dtype(xp: Any, dtype: Any, wanted: Any = None) -> Any:
    """Return the dtype in which products with elements of a dtype are computed.

    Single and double precision stay; integers, booleans and extended precision become double;
    half precision becomes single, whose sums are then taken in double. Or the precision is that of
    the dtype `wanted`, of the namespace or by a name that NumPy knows.
    """
    found = _own_precision(xp, dtype)
    if wanted is None:
        return found
    name = str(wanted).rpartition(".")[2] if is_dtype_of_torch(wanted) else np.dtype(wanted).name
    precisions = {"float32": 32, "complex64": 32, "float64": 64, "complex128": 64}
    if name not in precisions:
        msg = (
            f"compute_dtype is {wanted!r}; expected single or double precision, such as 'float32'."
        )
        raise ValueError(msg)
    if xp.isdtype(found, "complex floating"):
        return xp.complex64 if precisions[name] == 32 else xp.complex128
    if name.startswith("complex"):
        msg = f"compute_dtype is {wanted!r} but A is real; pass a real one."
        raise ValueError(msg)
    return xp.float32 if precisions[name] == 32 else xp.float64


def _own_precision(xp: Any, dtype: Any) -> Any:
    if "complex32" in str(dtype):  # torch.chalf, which has no finfo
        return xp.complex64
    if xp.isdtype(dtype, "complex floating"):
        return xp.complex64 if _bits(xp, dtype) == 32 else xp.complex128
    if xp.isdtype(dtype, "real floating"):
        return xp.float32 if _bits(xp, dtype) <= 32 else xp.float64
    if xp.isdtype(dtype, ("integral", "bool")):
        return xp.float64
    msg = f"cannot compute with elements of type {dtype}; expected numbers."
    raise TypeError(msg)


def result_dtype(xp: Any, dtype: Any) -> Any:
    """Return the real dtype of a result for elements of this dtype: single only for single."""
    # Compared by ==: a NumPy dtype equals its scalar type but has another hash.
    return xp.float32 if dtype == xp.float32 or dtype == xp.complex64 else xp.float64


def to_host(x: Array) -> np.ndarray[Any, Any]:
    """Return a SMALL array as NumPy float64 or complex128: the only way to the host."""
    if is_torch_array(x):
        x = x.detach().resolve_conj().cpu().numpy()
    elif not on_cpu(x):
        cpu = namespace(x).Device("CPU_DEVICE") if hasattr(namespace(x), "Device") else "cpu"
        x = to_device(x, cpu)
    host = np.asarray(x)
    return host.astype(np.complex128 if np.iscomplexobj(host) else np.float64, copy=False)


def scalar(value: complex, xp: Any, dtype: Any, where: Any) -> Array:
    """Return a number as a 0-d value of a namespace, dtype and device."""
    out = xp.asarray(value, dtype=dtype, device=where)
    return out[()] if is_numpy_array(out) else out


def matmul(a: Array, b: Array) -> Array:
    """Return ``a b`` in the precision of its elements, whatever Torch is told of float32."""
    if not is_torch_array(a):
        return a @ b
    with _full_precision():
        return a @ b


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep Torch from rounding float32 factors to TF32 or bfloat16, as users may let it.

    Moments with errors of 5e-4 would exceed mu_0. The setting is that of the process: other threads
    see it, too, while a product is started.
    """
    import torch  # loaded already: the factors are tensors

    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before Torch 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    backends: Any = torch.backends
    places = (backends.cuda.matmul, backends.mkldnn.matmul)
    reduced = [(p, p.fp32_precision) for p in places if p.fp32_precision not in {"ieee", "none"}]
    for place, _ in reduced:
        place.fp32_precision = "ieee"
    try:
        yield
    finally:
        for place, precision in reduced:
            place.fp32_precision = "none"  # what is not set by itself follows Torch's general one
            if place.fp32_precision != precision:
                place.fp32_precision = precision


def column_dots(a: Array, b: Array) -> np.ndarray[Any, Any]:
    """Return the inner products ``a_r^H b_r`` of matching columns, summed in double precision.

    Parameters
    ----------
    a, b : array, shape (n, R)
        Blocks of one namespace and device.

    Returns
    -------
    ndarray, shape (R,)
        On the host; complex128 if a is complex, else float64.
    """
    return to_host(_column_products(a, b))


def dots_in_place(a: Array, b: Array) -> Array:
    """Return the real parts of the inner products of matching columns where these are, float64."""
    found = _column_products(a, b)
    return namespace(found).real(found) if is_complex(found) else found


def _column_products(a: Array, b: Array) -> Array:
    xp = namespace(a, b)
    wide = xp.complex128 if is_complex(a) else xp.float64
    # Single precision is widened before the product: its squares overflow beyond 1e19.
    a, b = xp.astype(a, wide, copy=False), xp.astype(b, wide, copy=False)
    return _column_sums(xp, (xp.conj(a) if is_complex(a) else a) * b)


def _column_sums(xp: Any, x: Array) -> Array:
    """Sum over rows in two levels: the error of one running sum grows with n, here with sqrt n."""
    n, columns = x.shape
    side = math.isqrt(n)
    if side < 32:
        return xp.sum(x, axis=0)
    whole = side * (n // side)
    blocks = xp.reshape(x[:whole, :], (n // side, side, columns))
    return xp.sum(xp.sum(blocks, axis=1), axis=0) + xp.sum(x[whole:, :], axis=0)


def magnitude(*blocks: Array, what: str = "a product with A") -> float:
    """Return the power of two next below the largest modulus in blocks, 1 if there is none but 0.

    Divided by it, which is exact, their squares neither overflow nor vanish.
    """
    largest = 0.0
    for block in blocks:
        require_finite(block, what)
        if math.prod(block.shape):
            xp = namespace(block)
            largest = max(largest, float(xp.max(xp.abs(block))))
    return power_of_two(largest)


def power_of_two(size: float) -> float:
    """Return the power of two next below a positive number; 1 for 0 and infinity."""
    if size == 0 or not math.isfinite(size):
        return 1.0
    return math.ldexp(1.0, math.frexp(size)[1] - 1)


def require_finite(x: Array, what: str) -> None:
    """Raise a ValueError that names `what` if x contains NaN or infinity."""
    xp = namespace(x)
    if math.prod(x.shape) and not bool(xp.all(xp.isfinite(x))):
        msg = f"{what} contains NaN or infinity; expected finite numbers. Remove or impute them."
        raise ValueError(msg)


def cholesky_diagonal(a: Array) -> Array | None:
    """Return the diagonal of the Cholesky factor of a, or None if a is not positive definite."""
    xp = namespace(a)
    if is_numpy_array(a):
        diagonal = _host_cholesky_diagonal(a)
        return diagonal if np.all(np.isfinite(diagonal) & (diagonal > 0)) else None
    try:
        diagonal = xp.linalg.diagonal(xp.linalg.cholesky(a))
    except (np.linalg.LinAlgError, RuntimeError):  # torch raises a subclass of RuntimeError
        return None
    diagonal = xp.real(diagonal) if is_complex(diagonal) else diagonal
    # CuPy reports failure by NaN.
    return diagonal if bool(xp.all(xp.isfinite(diagonal) & (diagonal > 0))) else None


def _host_cholesky_diagonal(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the real diagonal of the factor by LAPACK, 0 from where there is none.

    NumPy's own function turns the matrix over twice, which takes as long as the factorisation.
    """
    from scipy.linalg import get_lapack_funcs

    (factor,) = get_lapack_funcs(("potrf",), (a,))  # type: ignore[misc]  # stubs: the other way
    # LAPACK counts by columns. The transpose is the conjugate, whose factor has the same diagonal.
    factors, failed = factor(a if a.flags.f_contiguous else a.T, lower=True, clean=False)
    diagonal = np.real(np.diagonal(factors)).copy()
    diagonal[failed - 1 if failed else len(a) :] = 0
    return diagonal


def cholesky_diagonals(stack: Array) -> tuple[Array, np.ndarray[Any, Any]]:
    """Return the diagonals of the Cholesky factors of a stack, and which matrices have one.

    Parameters
    ----------
    stack : array, shape (B, n, n)

    Returns
    -------
    array, shape (B, n)
        Ones where there is no factor.
    ndarray of bool, shape (B,)
    """
    xp = namespace(stack)
    if is_torch_array(stack):
        import torch  # loaded already: the stack is a tensor

        factors, failed = torch.linalg.cholesky_ex(stack)
        diagonals, definite = factors.diagonal(dim1=-2, dim2=-1), failed == 0
    else:
        try:
            diagonals = xp.linalg.diagonal(xp.linalg.cholesky(stack))
        except np.linalg.LinAlgError:
            return _by_halves(stack)
        definite = xp.ones(stack.shape[0], dtype=xp.bool, device=device(stack))
    diagonals = xp.real(diagonals) if is_complex(diagonals) else diagonals
    definite = definite & xp.all(xp.isfinite(diagonals) & (diagonals > 0), axis=1)
    diagonals = xp.where(definite[:, None], diagonals, xp.ones_like(diagonals))
    return diagonals, to_host(definite) > 0


def _by_halves(stack: Array) -> tuple[Array, np.ndarray[Any, Any]]:
    """Find out which matrix of a stack it was that made the library give up."""
    xp, count = namespace(stack), stack.shape[0]
    if count == 1:
        real = xp.real(stack) if is_complex(stack) else stack
        return xp.ones_like(real[:, :, 0]), np.zeros(1, bool)
    parts = [
        cholesky_diagonals(half) for half in (stack[: count // 2, ...], stack[count // 2 :, ...])
    ]
    diagonals, definite = zip(*parts, strict=True)
    return xp.concat(diagonals, axis=0), np.concatenate(definite)


def lu_diagonal(a: Array) -> tuple[Array, int]:
    """Return the diagonal of U in ``P A = L U``, and the sign of the permutation P.

    The array API standard has no LU; where the library has none either, the diagonal of R in
    ``A = Q R`` serves, with the determinant of Q folded into its last entry.
    """
    xp = namespace(a)
    if is_torch_array(a):
        import torch  # loaded already: a is a tensor

        factors, swaps, _ = torch.linalg.lu_factor_ex(a)
        rows = torch.arange(1, len(swaps) + 1, device=a.device)
        return factors.diagonal(), -1 if int((swaps != rows).sum()) % 2 else 1
    if is_numpy_array(a) or is_cupy_array(a):
        import importlib

        home = "scipy.linalg" if is_numpy_array(a) else "cupyx.scipy.linalg"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "exactly singular": the zero on the diagonal says so
            factors, swaps = importlib.import_module(home).lu_factor(a, check_finite=False)
        odd = int((swaps != xp.arange(len(swaps))).sum()) % 2
        return factors.diagonal(), -1 if odd else 1
    q, r = xp.linalg.qr(a)
    diagonal = xp.linalg.diagonal(r)
    turn = xp.ones_like(diagonal)
    turn[-1] = xp.linalg.det(q)
    return diagonal * turn, 1


def is_dtype_of_torch(dtype: object) -> bool:
    """Whether a dtype belongs to torch, without importing torch."""
    return type(dtype).__module__ == "torch"


def default_namespace() -> Any:
    """Return the array API namespace of NumPy."""
    return array_api_compat.array_namespace(np.empty(0))
