"""Read a matrix from a file, without pickle, and without trusting what its header claims.

A header is compared with the size of the file before anything is allocated: every stored number
takes some bytes, so a few bytes cannot describe a large matrix.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["MatrixFileError", "read_matrix", "require_sound_archive"]

LARGEST_UNPACKED = 4 * 2**30
"""Bytes to which a compressed file may expand."""

NUMBER = rb"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|nan|inf(?:inity)?)"

SUFFIXES = (".mtx", ".npz", ".npy")


class MatrixFileError(ValueError):
    """A file that holds no matrix that we can read; the message is one line."""


def read_matrix(path: str | Path) -> Any:
    """Return the matrix in a ``.mtx`` (Matrix Market), ``.npz`` (SciPy sparse) or ``.npy`` file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    ndarray or SciPy sparse array

    Raises
    ------
    MatrixFileError
        If there is no such file, or it does not hold a matrix of numbers.

    Examples
    --------
    >>> read_matrix("nothing.mtx")
    Traceback (most recent call last):
        ...
    specdens.files.MatrixFileError: nothing.mtx: no such file
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such file"
        raise MatrixFileError(msg)
    readers = {".mtx": _read_mtx, ".npz": _read_npz, ".npy": _read_npy}
    if path.suffix not in readers:
        msg = f"{path}: unknown kind of file; expected one of {', '.join(SUFFIXES)}"
        raise MatrixFileError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matrix = readers[path.suffix](path)
        kind = matrix.dtype.kind
    except MatrixFileError as error:
        msg = f"{path}: {error}"
        raise MatrixFileError(msg) from None
    except Exception as error:  # what readers raise on altered files has no common class
        first = (str(error).splitlines() or [type(error).__name__])[0]
        msg = f"{path}: not a readable {path.suffix} matrix ({first})"
        raise MatrixFileError(msg) from None
    if matrix.ndim != 2 or kind not in "biufc":
        msg = f"{path}: holds shape {matrix.shape} of {matrix.dtype}; expected a matrix of numbers"
        raise MatrixFileError(msg)
    return matrix


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise MatrixFileError(message)


def _read_mtx(path: Path) -> Any:
    from scipy.io import mminfo, mmread

    with path.open("rb") as file:
        _require(file.read(14) == b"%%MatrixMarket", "no %%MatrixMarket header")
    text = path.read_bytes().rstrip() + b"\n"  # SciPy reads past the end of an unfinished line
    rows, columns, entries, form, field, symmetry = mminfo(io.BytesIO(text))
    size = len(text)
    # The shortest entries: "1\n" in an array, "1 1\n" in a pattern; symmetry stores half.
    shortest = 4 if form == "coordinate" else (2 if symmetry == "general" else 1)
    claim = f"the header claims {rows} x {columns} with {entries} entries"
    _require(entries * shortest <= size + shortest, f"{claim}, which {size} bytes cannot hold")
    _require(max(rows, columns) <= max(size, 2**20), f"{claim}: nearly all rows would be empty")
    _require_lines(text, form, field)
    matrix: Any = mmread(io.BytesIO(text), spmatrix=False)
    if isinstance(matrix, np.ndarray):
        return matrix
    matrix = matrix.tocsr()
    matrix.check_format(full_check=True)
    return matrix


def _require_lines(text: bytes, form: str, field: str) -> None:
    """Name the first line after the sizes that does not hold what the header says."""
    words = [rb"\d+"] * (2 if form == "coordinate" else 0)
    words += [NUMBER] * {"pattern": 0, "complex": 2}.get(field, 1)
    entry = rb"[ \t]+".join(words)
    sizes = re.search(rb"^[ \t]*\d.*$", text, re.MULTILINE)
    _require(sizes is not None, "no line with the sizes")
    assert sizes is not None
    wrong = re.compile(
        rb"^(?![ \t]*(?:" + entry + rb"[ \t]*)?\r?$).*$", re.MULTILINE | re.IGNORECASE
    )
    found = wrong.search(text, sizes.end())
    if found:
        line = text.count(b"\n", 0, found.start()) + 1
        shown = found.group()[:40].decode("ascii", "replace")
        msg = f"line {line} is {shown!r}; expected {len(words)} numbers ({form}, {field})"
        raise MatrixFileError(msg)


def _read_npy(path: Path) -> Any:
    with path.open("rb") as file:
        _checked_header(file, path.stat().st_size)
    return np.load(path, allow_pickle=False)


def _checked_header(file: IO[bytes], size: int) -> None:
    """Refuse a .npy header that claims more than the bytes behind it, or Python objects."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    _require(read is not None, f"unknown .npy version {version}")
    assert read is not None
    shape, _, dtype = read(file)
    _require(not dtype.hasobject, "holds Python objects, which only pickle could read")
    count = 1
    for side in shape:
        count *= int(side)  # Python integers: no overflow
    claimed = count * dtype.itemsize
    _require(
        all(side >= 0 for side in shape) and claimed <= size - file.tell(),
        f"the header claims {claimed} bytes, the file has {size}",
    )


def require_sound_archive(path: Path) -> int:
    """Return the bytes that a .npz archive unpacks to; refuse one whose headers claim more."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        _require(total <= LARGEST_UNPACKED, f"unpacks to {total} bytes")
        for member in members:
            with archive.open(member) as file:
                _checked_header(file, member.file_size)
    return total


def _read_npz(path: Path) -> Any:
    from scipy.sparse import load_npz

    total = require_sound_archive(path)
    with np.load(path, allow_pickle=False) as arrays:
        _require("format" in arrays, "holds no sparse matrix of scipy.sparse.save_npz")
        _require("shape" in arrays, "holds no shape")
        rows, columns = (int(side) for side in arrays["shape"])
    _require(0 <= max(rows, columns) <= max(total, 2**20), f"claims a shape of {rows} x {columns}")
    matrix = load_npz(path)
    if hasattr(matrix, "check_format"):
        matrix.check_format(full_check=True)
    return matrix
