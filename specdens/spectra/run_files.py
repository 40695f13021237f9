"""A run as arrays in a .npz file without pickle, read with distrust."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from specdens.files import require_sound_archive
from specdens.recurrences.lanczos import Bidiagonal, Tridiagonal
from specdens.results import SpectralBounds
from specdens.spectra.spectral_run import SpectralRun

__all__ = ["read_run", "write_run"]

Host: TypeAlias = np.ndarray[Any, Any]

VERSION = 1

NUMBERS = ("n", "shift", "moments", "unit", "matvecs", "stated", "exhaustive", "singular")
"""Fields that are one number."""

NAMES = (
    "version", *NUMBERS, "bounds", "proved", "how", "traces", "atoms", "keys", "ranges",
    "lengths", "diagonals", "off_diagonals", "residuals", "eigenvalues", "all_eigenvalues",
)  # fmt: skip


def write_run(path: str | Path, run: SpectralRun) -> None:
    """Write all fields, bit by bit, to exactly this path."""
    factors, known = run.factors, run.known
    above = [f.super_diagonal if isinstance(f, Bidiagonal) else f.off_diagonal for f in factors]
    values = run.eigenvalues
    # NumPy makes arrays of them; strings and numbers need no pickle.
    fields: Any = {name: getattr(run, name) for name in NUMBERS}
    fields |= {
        "version": VERSION,
        "bounds": [known.low, known.high],
        "proved": [known.low_rigorous, known.high_rigorous],
        "how": known.how,
        "traces": np.array(run.traces, dtype=float),
        "atoms": np.array(run.atoms, dtype=float).reshape(-1, 2),
        "keys": np.array([key for key, _ in run.sources], dtype=np.uint64),
        "ranges": np.array(
            [(numbers.start, numbers.stop) for _, numbers in run.sources], dtype=np.int64
        ).reshape(-1, 2),
        "lengths": np.array([len(factor.diagonal) for factor in factors], dtype=np.int64),
        "diagonals": _joined([factor.diagonal for factor in factors]),
        "off_diagonals": _joined(above),
        "residuals": np.array([factor.residual for factor in factors], dtype=float),
        "eigenvalues": np.zeros(0) if values is None else values,
        "all_eigenvalues": values is not None,
    }
    with Path(path).open("wb") as file:
        np.savez(file, **fields)


def _joined(arrays: list[Host]) -> Host:
    return np.concatenate([np.zeros(0), *arrays])


def read_run(path: str | Path) -> SpectralRun:
    """Return a run from a file.

    Raises
    ------
    ValueError
        If there is no such file, or it does not hold a spectrum of this version; one line that
        begins with the path.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such file"
        raise ValueError(msg)
    try:
        require_sound_archive(path)
        with np.load(path, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in archive.files}
        return SpectralRun(**_fields(stored))
    except Exception as error:  # what readers raise on altered files has no common class
        first = (str(error).splitlines() or [type(error).__name__])[0]
        msg = f"{path}: not a readable spectrum ({first})"
        raise ValueError(msg) from None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _fields(stored: dict[str, Host]) -> dict[str, Any]:
    """Check what was stored, and return it as the fields of a `SpectralRun`."""
    _require("version" in stored, "it has no version")
    version = stored["version"].item()
    _require(version == VERSION, f"it has version {version}; expected {VERSION}")
    missing = [name for name in NAMES if name not in stored]
    _require(not missing, f"it lacks {', '.join(missing)}")
    fields: dict[str, Any] = {name: stored[name].item() for name in NUMBERS}
    for name in ("n", "moments", "matvecs"):
        _require(isinstance(fields[name], int) and fields[name] >= 0, f"{name} is no count")
    _require(fields["moments"] >= 1, "moments is 0")
    for name in ("stated", "exhaustive", "singular"):
        _require(isinstance(fields[name], bool), f"{name} is neither true nor false")
    for name in ("shift", "unit"):
        _require(isinstance(fields[name], float) and math.isfinite(fields[name]), f"{name} is bad")
    _require(0 < fields["unit"] < 1, "unit is no roundoff")
    low, high = (float(end) for end in stored["bounds"])
    _require(low <= high, "its bounds are no interval")
    low_proved, high_proved = (bool(end) for end in stored["proved"])
    fields["known"] = SpectralBounds(low, high, low_proved, high_proved, str(stored["how"].item()))
    fields["traces"] = tuple(_finite(stored, "traces").tolist())
    fields["atoms"] = tuple(
        (value, int(times)) for value, times in _finite(stored, "atoms").tolist()
    )
    fields["sources"] = _sources(stored)
    fields["factors"] = _factors(stored, singular=fields["singular"])
    values = _finite(stored, "eigenvalues")
    complete = bool(stored["all_eigenvalues"].item())
    _require(bool(np.all(np.diff(values) >= 0)), "its eigenvalues are not ascending")
    fields["eigenvalues"] = values if complete else None
    _require_consistent(fields)
    return fields


def _require_consistent(fields: dict[str, Any]) -> None:
    times = sum(times for _, times in fields["atoms"])
    values, factors = fields["eigenvalues"], fields["factors"]
    _require(all(t >= 0 for _, t in fields["atoms"]) and times <= fields["n"], "its atoms are bad")
    if values is not None:
        _require(len(values) == fields["n"] and not factors, "it lacks eigenvalues")
        return
    _require(bool(factors), "it holds neither eigenvalues nor probes")
    named = sum(len(numbers) for _, numbers in fields["sources"])
    _require(not fields["sources"] or named == len(factors), "it lacks probes")
    longest = max(len(factor.diagonal) for factor in factors)
    _require(longest <= min(-(-fields["moments"] // 2), fields["n"] - times), "a probe is too long")


def _finite(stored: dict[str, Host], name: str) -> Host:
    values = stored[name]
    _require(values.dtype == np.float64 and bool(np.all(np.isfinite(values))), f"{name} are bad")
    return values


def _sources(stored: dict[str, Host]) -> tuple[tuple[int, range], ...]:
    keys, ranges = stored["keys"], stored["ranges"]
    _require(keys.dtype == np.uint64 and ranges.dtype == np.int64, "its keys are bad")
    _require(ranges.shape == (len(keys), 2), "its keys and ranges differ in number")
    pairs = zip(keys.tolist(), ranges.tolist(), strict=True)
    found = tuple((key, range(start, stop)) for key, (start, stop) in pairs)
    _require(all(0 <= numbers.start < numbers.stop for _, numbers in found), "a range is empty")
    return found


def _factors(
    stored: dict[str, Host], *, singular: bool
) -> tuple[Tridiagonal, ...] | tuple[Bidiagonal, ...]:
    lengths, residuals = stored["lengths"], _finite(stored, "residuals")
    _require(lengths.dtype == np.int64 and bool(np.all(lengths >= 1)), "its lengths are bad")
    diagonals, off_diagonals = _finite(stored, "diagonals"), _finite(stored, "off_diagonals")
    _require(
        len(residuals) == len(lengths)
        and len(diagonals) == lengths.sum()
        and len(off_diagonals) == lengths.sum() - len(lengths),
        "its coefficients are not as many as their lengths say",
    )
    ends = np.cumsum(lengths)[:-1]
    rows = np.split(diagonals, ends) if len(lengths) else []
    above = np.split(off_diagonals, ends - np.arange(1, len(lengths))) if len(lengths) else []
    kind: Any = Bidiagonal if singular else Tridiagonal
    return tuple(kind(d, e, float(r)) for d, e, r in zip(rows, above, residuals, strict=True))
