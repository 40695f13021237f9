"""Probe vectors by counter: entry (i, r) depends on the key, i and r alone (Philox4x32-10).

The same key gives the same signs on every array library, device, block size and thread count; the
same vectors on the sphere up to the last digits. An orthogonal block is made as a whole.
Only int64 arithmetic is used, because Torch has no unsigned 64-bit products: a product that wraps
keeps its low 64 bits, and masking after an arithmetic shift recovers the high word.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdens.arrays.libraries import (
    Array,
    as_dense,
    column_dots,
    device,
    host_view,
    is_array,
    is_complex,
    namespace,
    require_finite,
    zero_block,
)
from specdens.kernels.compiled import kernel

__all__ = [
    "DISTRIBUTIONS",
    "Probes",
    "gaussian",
    "key_of",
    "key_of_part",
    "make_probes",
    "philox",
    "require_distribution",
    "signs",
    "sphere",
]

DISTRIBUTIONS = ("signs", "sphere", "orthogonal")

DEFAULT_COUNT = 20
WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

SIGNS, PHASES, STARTS = 0, 1, 2
"""Streams: signs, the second bit of the phases, and start vectors for spectral bounds."""

SPHERE = 16
"""Stream of the vectors on the sphere; their imaginary parts are on the next one."""

ROWS_OF_A_BLOCK = 128
"""Rows whose signs come from one counter."""

NUMBERS_AT_ONCE = 2**18

LEAST_SIGNS = 2**22
"""With fewer, loading compiled code takes longer than what it saves."""

PARTS = 2**20
"""A stream of its own: the keys of the parts of a structured matrix."""


def key_of(rng: Any) -> int:
    """Return the 64-bit key that `rng` stands for.

    Parameters
    ----------
    rng : None, int, or anything that `numpy.random.default_rng` takes
        None draws fresh entropy; an int is the key itself; a Generator gives one 64-bit key.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If an int does not lie in [0, 2**64).
    TypeError
        If `rng` is of another kind.
    """
    if rng is None:
        return secrets.randbits(64)
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, (bool, np.bool_)):
        if not 0 <= rng < 2**64:
            msg = f"rng is {rng}; as an int it is the key itself and must lie in [0, 2**64)."
            raise ValueError(msg)
        return int(rng)
    kinds = np.random.SeedSequence | np.random.BitGenerator | np.random.Generator
    if not isinstance(rng, kinds):
        msg = (
            f"rng is of type {type(rng).__name__}; expected None, an int, or a NumPy Generator, "
            "BitGenerator or SeedSequence."
        )
        raise TypeError(msg)
    return int(np.random.default_rng(rng).integers(2**64, dtype=np.uint64))


def key_of_part(key: int, index: int) -> int:
    """Return the key of the probes for one part of a matrix: independent ones for each part."""
    counter = tuple(np.full(1, word, dtype=np.int64) for word in (index, 0, 0, PARTS))
    low, high, _, _ = philox(np, counter, key)  # type: ignore[arg-type]  # a tuple of four
    return int(low[0]) | int(high[0]) << 32


def philox(xp: Any, counter: tuple[Array, Array, Array, Array], key: int) -> tuple[Array, ...]:
    """Return the four 32-bit words of Philox4x32-10 for each counter, as int64 arrays.

    References
    ----------
    Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & WORD, key >> 32
    for _ in range(10):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (xp.bitwise_right_shift(p1, 32 + 0 * p1) & WORD) ^ c1 ^ k0,
            p1 & WORD,
            (xp.bitwise_right_shift(p0, 32 + 0 * p0) & WORD) ^ c3 ^ k1,
            p0 & WORD,
        )
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1, c2, c3


def _words(xp: Any, where: Any, blocks: range, columns: range, key: int, stream: int) -> Array:
    """Return the words of counters (block, column, stream), shape (blocks, 4, columns)."""
    block = xp.arange(blocks.start, blocks.stop, dtype=xp.int64, device=where)[:, None]
    column = xp.arange(columns.start, columns.stop, dtype=xp.int64, device=where)[None, :]
    zero = 0 * (block + column)
    high = xp.bitwise_right_shift(block + zero, 32 + zero)
    counter = ((block & WORD) + zero, high, (column & WORD) + zero, stream + zero)
    return xp.stack(philox(xp, counter, key), axis=1)


def _bits(xp: Any, where: Any, rows: range, columns: range, key: int, stream: int) -> Array:
    """Return one bit per entry, uint8: bit i & 31 of word (i >> 5) & 3; rows begin at a block."""
    blocks = range(rows.start // 128, -(-rows.stop // 128))
    words = _words(xp, where, blocks, columns, key, stream)
    shifts = xp.arange(0, 32, 8, dtype=xp.int64, device=where)[None, None, :, None]
    octets = xp.bitwise_right_shift(words[:, :, None, :], shifts) & 255
    octets = xp.astype(octets, xp.uint8)[:, :, :, None, :]
    places = xp.arange(8, dtype=xp.uint8, device=where)[None, None, None, :, None]
    bits = xp.bitwise_right_shift(octets, places) & xp.ones_like(places)
    return xp.reshape(bits, (-1, len(columns)))[: len(rows), :]


def signs(
    n: int, columns: range, key: int, *, xp: Any, dtype: Any, where: Any = None, stream: int = SIGNS
) -> Array:
    """Return random signs +-1 (in a complex dtype: the phases 1, i, -1, -i).

    Parameters
    ----------
    n : int
        Rows.
    columns : range
        The probes' numbers, consecutive.
    key : int
        64 bits.
    xp, dtype, where
        Namespace, floating dtype and device of the result.
    stream : int
        The fourth word of the counter; phases use the next one too.

    Returns
    -------
    array, shape (n, len(columns))
    """
    out = zero_block(xp, (n, len(columns)), dtype, where)
    if n * len(columns) >= LEAST_SIGNS and _filled_by_kernel(out, columns.start, key, stream):
        return out

    def rows_of(rows: range) -> Array:
        real = 1 - 2 * xp.astype(_bits(xp, where, rows, columns, key, stream), dtype)
        if not xp.isdtype(dtype, "complex floating"):
            return real
        turned = xp.astype(_bits(xp, where, rows, columns, key, stream + 1), dtype)
        return real * (1 + (1j - 1) * turned)

    return _by_slabs(rows_of, out)


def _filled_by_kernel(out: Array, first: int, key: int, stream: int) -> bool:
    """Fill a real block on the host by compiled code, to the same bits; say if that was done."""
    host, fill = host_view(out), kernel("cpu.random_signs", "fill_signs")
    if host is None or fill is None or is_complex(out):
        return False
    fill(host, first, key, stream)
    return True


def _by_slabs(rows_of: Callable[[range], Array], out: Array) -> Array:
    """Fill an array by some rows at a time, so that temporaries stay small."""
    n, columns = out.shape
    step = ROWS_OF_A_BLOCK * max(1, NUMBERS_AT_ONCE // (ROWS_OF_A_BLOCK * max(1, columns)))
    for first in range(0, n, step):
        rows = range(first, min(first + step, n))
        out[rows.start : rows.stop, :] = rows_of(rows)
    return out


def gaussian(
    n: int,
    columns: range,
    key: int,
    *,
    xp: Any,
    dtype: Any,
    where: Any = None,
    stream: int = STARTS,
) -> Array:
    """Return standard normal numbers by Box and Muller, shape (n, len(columns)).

    Equal on all backends up to the last digits of log and cos.
    """

    def rows_of(rows: range) -> Array:
        blocks = range(rows.start // 2, -(-rows.stop // 2))
        words = _words(xp, where, blocks, columns, key, stream)
        uniform = (xp.astype(words, xp.float64) + 0.5) * 2.0**-32
        radius = xp.sqrt(-2 * xp.log(uniform[:, 0::2, :]))
        normal = radius * xp.cos(2 * math.pi * uniform[:, 1::2, :])
        return xp.astype(xp.reshape(normal, (-1, len(columns)))[: len(rows), :], dtype)

    return _by_slabs(rows_of, zero_block(xp, (n, len(columns)), dtype, where))


def sphere(
    n: int,
    columns: range,
    key: int,
    *,
    xp: Any,
    dtype: Any,
    where: Any = None,
    stream: int = SPHERE,
) -> Array:
    """Return vectors uniform on the sphere of radius sqrt(n), real or complex by the dtype.

    Column r depends on the key, the stream and r alone, up to the last digits of its norm.
    """
    complex_ = xp.isdtype(dtype, "complex floating")
    wide = xp.complex128 if complex_ else xp.float64
    place = {"xp": xp, "dtype": wide, "where": where}
    normal = gaussian(n, columns, key, stream=stream, **place)
    if complex_:
        normal = normal + 1j * gaussian(n, columns, key, stream=stream + 1, **place)
    lengths = np.sqrt(np.real(column_dots(normal, normal)) / n)
    return xp.astype(normal / xp.asarray(lengths, dtype=wide, device=where)[None, :], dtype)


def _orthogonal(n: int, count: int, key: int, *, xp: Any, dtype: Any, where: Any) -> Array:
    """Return a Haar-distributed block with orthogonal columns of norm sqrt(n), shape (n, count)."""
    wide = xp.complex128 if xp.isdtype(dtype, "complex floating") else xp.float64
    q, r = xp.linalg.qr(sphere(n, range(count), key, xp=xp, dtype=wide, where=where))
    turns = xp.linalg.diagonal(r)  # without them the signs would be those of the algorithm
    return xp.astype(math.sqrt(n) * q * (turns / xp.astype(xp.abs(turns), wide))[None, :], dtype)


@dataclass(frozen=True, kw_only=True)
class Probes:
    """R probe vectors of length n, made block by block where they are needed.

    Attributes
    ----------
    n, count : int
        Length and number.
    key : int or None
        The key of random probes; None for given ones and for the identity.
    exhaustive : bool
        Whether they are the n unit vectors, so that a mean over them is a trace, without chance.
    distribution : {"signs", "sphere", "orthogonal"}
        Of random ones. An orthogonal block is held in `given`.
    """

    n: int
    count: int
    key: int | None
    xp: Any
    dtype: Any
    where: Any
    given: Array | None = None
    exhaustive: bool = False
    distribution: str = "signs"

    def block(self, columns: range) -> Array:
        """Return the probes of these numbers, shape (n, len(columns))."""
        if self.given is not None:
            return self.given[:, columns.start : columns.stop]
        if self.exhaustive:
            row = self.xp.arange(self.n, device=self.where)[:, None]
            column = self.xp.arange(columns.start, columns.stop, device=self.where)[None, :]
            return self.xp.astype(row == column, self.dtype)
        assert self.key is not None
        draw = sphere if self.distribution == "sphere" else signs
        return draw(self.n, columns, self.key, xp=self.xp, dtype=self.dtype, where=self.where)

    def blocks(self, width: int, first: int = 0) -> list[range]:
        """Return consecutive ranges of at most `width` probes, from the first on."""
        return [range(i, min(i + width, self.count)) for i in range(first, self.count, width)]


def require_distribution(distribution: str) -> None:
    """Raise a ValueError if there is no such distribution of probes."""
    if distribution not in DISTRIBUTIONS:
        msg = f"distribution is {distribution!r}; expected one of {DISTRIBUTIONS}."
        raise ValueError(msg)


def make_probes(
    probes: Any,
    n: int,
    rng: Any,
    *,
    xp: Any,
    dtype: Any,
    where: Any,
    distribution: str = "signs",
) -> Probes:
    """Return the probes that an argument `probes=` asks for.

    None means 20 random ones; an integer of n or more means the n unit vectors, which cost no more
    and leave nothing to chance; an array of shape (n, R) is taken as it is.
    """
    require_distribution(distribution)
    home = {"xp": xp, "dtype": dtype, "where": where}
    if isinstance(probes, (bool, np.bool_)):
        msg = f"probes is {probes}; expected an int or an array (n, R)."
        raise TypeError(msg)
    if probes is None or isinstance(probes, (int, np.integer)):
        count = DEFAULT_COUNT if probes is None else int(probes)
        if count < 1:
            msg = f"probes is {count}; expected at least 1, or an array of shape (n, R)."
            raise ValueError(msg)
        key = key_of(rng)
        made = Probes(n=n, count=min(count, n), key=key, distribution=distribution, **home)
        if count >= n:
            return replace(made, exhaustive=True)
        if distribution == "orthogonal":
            return replace(made, given=_orthogonal(n, count, key, **home))
        return made
    if distribution != "signs":
        msg = f"distribution={distribution!r} describes random probes, but probes is an array."
        raise ValueError(msg)
    given = _checked(probes, n, **home)
    return Probes(n=n, count=given.shape[1], key=None, given=given, **home)


def _checked(probes: Any, n: int, *, xp: Any, dtype: Any, where: Any) -> Array:
    """Return given probes in the working dtype, or say what is wrong with them."""
    if not is_array(probes):
        msg = f"probes is of type {type(probes).__name__}; expected an int or an array (n, R)."
        raise TypeError(msg)
    given = as_dense(probes, name="probes")
    if given.ndim != 2 or given.shape[0] != n or given.shape[1] < 1:
        msg = f"probes have shape {tuple(given.shape)}; expected ({n}, R), one probe in a column."
        raise ValueError(msg)
    if namespace(given) != xp or device(given) != where:
        msg = (
            f"probes are of {namespace(given).__name__} on {device(given)}; expected the library "
            f"and device of A: {xp.__name__} on {where}."
        )
        raise ValueError(msg)
    require_finite(given, "probes")
    if xp.isdtype(given.dtype, "complex floating") and not xp.isdtype(dtype, "complex floating"):
        msg = "probes are complex but A is real; pass real probes, or a complex A."
        raise ValueError(msg)
    given = xp.astype(given, dtype)
    if not np.all(np.real(column_dots(given, given)) > 0):
        msg = "a probe is zero: a zero vector sees nothing of A. Remove it."
        raise ValueError(msg)
    return given
