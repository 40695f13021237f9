"""Whole densities of states of a lattice: 256 moments, 10 vectors, all that a call does."""

from __future__ import annotations

import numpy as np

import specdens
from benchmarks.measuring.timing import Job, Row, compared, interleaved, row, seconds
from benchmarks.speed.kpm_baselines import scipy_moments, torch_moments
from benchmarks.speed.settings import Settings
from specdens.testing import laplacian

MOMENTS, PROBES = 256, 10
BOUNDS = (0.0, 12.0)
KWANT_PROBES = 2
"""Its time is proportional to the vectors: that of two is scaled to all."""


def rows(settings: Settings) -> list[Row]:
    """Compare with NumPy and SciPy, Torch and kwant."""
    found = []
    a = laplacian(settings.side, settings.side, settings.side)
    for dtype, targets in (
        (np.float64, {"numpy + scipy.sparse": 7, "torch CSR": 5}),
        (np.float32, {"numpy + scipy.sparse": 9, "torch CSR": 5}),
    ):
        b = a.astype(dtype)
        others = {
            "numpy + scipy.sparse": seconds(lambda b=b: scipy_moments(b, MOMENTS, PROBES, BOUNDS)),
            "torch CSR": seconds(lambda b=b: torch_moments(b, MOMENTS, PROBES, BOUNDS)),
        }
        work = f"{_work(settings)}, {np.dtype(dtype).name}"
        found += compared(
            work, _ours(b, BOUNDS), others, targets, settings.repeats, checked=_deviation(b)
        )
    return found if settings.quick else found + _kwant(a, settings)


def _work(settings: Settings) -> str:
    return f"density, 3-D lattice, n = {settings.n:,}, {MOMENTS} moments, {PROBES} vectors"


def _ours(a: object, bounds: tuple[float, float] | None) -> Job:
    return seconds(
        lambda: specdens.density(a, moments=MOMENTS, probes=PROBES, bounds=bounds, rng=0)
    )


def _deviation(a: object) -> str:
    """Say how far our moments and the baseline's are apart: both have their own random signs."""
    found = specdens.density(a, moments=MOMENTS, probes=PROBES, bounds=BOUNDS, rng=0)
    low, high = found.bounds
    plain = scipy_moments(a, MOMENTS, PROBES, (low, high))
    return f"moments differ from the baseline's by {np.max(np.abs(found.moments - plain)):.1e}"


def _kwant(a: object, settings: Settings) -> list[Row]:
    """Compare with kwant in its usual mode, a complex matrix, with its bounds given and sought."""
    server = settings.peer("kwant")
    request = {
        "package": "kwant", "moments": MOMENTS, "probes": KWANT_PROBES, "seed": 0,
        "matrix": settings.saved("lattice_complex", a.astype(complex)),
    }  # fmt: skip
    share = PROBES / KWANT_PROBES
    jobs = {
        "ours": _ours(a, BOUNDS),
        "ours, bounds sought": _ours(a, None),
        "given": server.job(request | {"bounds": BOUNDS}, times=share),
        "sought": server.job(request),
    }
    found = interleaved(jobs, settings.few)
    server.close()
    given, sought = found["given"], found["sought"]
    if not isinstance(given, str) and not isinstance(sought, str):
        # One run with its search for bounds, and the vectors that it left out.
        sought = [s + (1 - 1 / share) * g for s, g in zip(sought, given, strict=True)]
    work, note = f"{_work(settings)}, float64", f"{KWANT_PROBES} vectors, scaled; complex matrix"
    return [
        row(work, "kwant, bounds given", found["ours"], given, 20, note=note),
        row(
            f"{work}, bounds sought", "kwant, bounds sought", found["ours, bounds sought"], sought,
            30, note=note,
        ),
    ]  # fmt: skip
