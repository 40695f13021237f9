"""Sparse log-determinants at equal products, and at equal true error, beside Lanczos quadrature.

The matrix is a 3-D lattice's Laplacian + 0.1: its eigenvalues, and with them the log-determinant
and the variance of a plain estimate with random signs, are known in closed form.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.sparse import csr_array, eye_array

import specdens
from benchmarks.measuring.timing import Row, Unavailable, compared, interleaved, row, seconds
from benchmarks.speed.settings import Settings
from specdens.testing import laplacian

SHIFT = 0.1
DEGREE, PROBES = 50, 32
ERROR = 1e-5
"""The relative rms error that both shall reach at n = 10^6; that of a probe goes as n^(-1/2)."""

SEEDS = 8
LADDER = tuple((m, r) for m in (20, 30, 40, 60, 100) for r in (4, 8, 16, 32, 64, 128))
"""Moments and probes of ours, to be tried in the order of their products."""

DEGREES = (15, 20, 25, 30, 40, 50)
PILOT = 4
"""Probes that show the truncation error, nearly the same for each."""


def rows(settings: Settings) -> list[Row]:
    """Compare with imate."""
    side = settings.side
    a = csr_array(laplacian(side, side, side) + SHIFT * eye_array(side**3))
    server = settings.peer("peers")
    path = settings.saved("shifted_lattice", a)
    found = []
    for dtype in (np.float64, np.float32):
        b = a.astype(dtype)
        request = {"package": "imate", "matrix": settings.saved(f"shifted_{b.dtype}", b), "seed": 0,
                   "degree": DEGREE, "probes": PROBES}  # fmt: skip
        ours = {
            f"log-det by {method}, 3-D lattice + {SHIFT}, n = {settings.n:,}, "
            f"{PROBES} probes x {DEGREE} products, {b.dtype}": seconds(
                lambda b=b, method=method: specdens.logdet(
                    b, method=method, moments=2 * DEGREE, probes=PROBES, rng=0
                )
            )
            for method in ("chebyshev", "lanczos")
        }
        spent = interleaved({"imate": server.job(request), **ours}, settings.few)
        target = 4 if dtype == np.float64 else 5
        found += [row(work, "imate", spent[work], spent["imate"], target) for work in ours]
    if not settings.quick:
        found.append(_at_equal_error(a, path, server, settings))
    server.close()
    return found


def _at_equal_error(a: Any, path: str, server: Any, settings: Settings) -> Row:
    truth, variance = exact(settings.side)
    error = ERROR * math.sqrt(10**6 / settings.n)
    goal = error * abs(truth)
    work = f"log-det with relative rms error {error:.1g}, 3-D lattice + {SHIFT}, n = {settings.n:,}"
    (moments, probes), rms = _cheapest(a, truth, goal)
    ours = seconds(lambda: specdens.logdet(
        a, method="chebyshev", moments=moments, probes=probes, rng=0
    ))  # fmt: skip
    request = {"package": "imate", "matrix": path, "seed": 0, "probes": PROBES}
    note = (
        f"ours: {moments} moments x {probes} probes, rms {rms / abs(truth):.1e} over {SEEDS} seeds"
    )
    try:
        degree = _degree(server, request, goal)
    except Unavailable as reason:
        timed = interleaved({"ours": ours}, settings.few)
        return row(work, "imate", timed["ours"], str(reason), 50, note=note)
    needed = math.ceil(variance / goal**2)
    job = server.job(request | {"degree": degree}, times=needed / PROBES)
    note += (
        f"; imate: {needed} probes x {degree} products by the exact variance of random signs, "
        f"timed with {PROBES} probes, scaled"
    )
    return compared(work, ours, {"imate": job}, {"imate": 50}, settings.few, note=note)[0]


def exact(side: int) -> tuple[float, float]:
    """Return the log-determinant, and the variance of ``v^T log(A) v`` for random signs v.

    That is ``2 (|log A|_F^2 - sum_i (log A)_ii^2)``; eigenvectors are products of sines.
    """
    k = np.arange(1, side + 1)
    line = 4 * np.sin(np.pi * k / (2 * (side + 1))) ** 2
    log = np.log(line[:, None, None] + line[:, None] + line + SHIFT)
    weights = 2 / (side + 1) * np.sin(np.pi * np.outer(k, k) / (side + 1)) ** 2
    diagonal = log
    for _ in range(3):  # along each axis; the axes turn
        diagonal = np.tensordot(diagonal, weights, axes=(0, 0))
    return float(log.sum()), float(2 * (np.sum(log**2) - np.sum(diagonal**2)))


def _cheapest(a: Any, truth: float, goal: float) -> tuple[tuple[int, int], float]:
    """Return the moments and probes with fewest products whose rms error over seeds is enough."""
    for moments, probes in sorted(LADDER, key=lambda split: (split[0] * split[1], split[0])):
        errors = []
        for seed in range(SEEDS):
            found = specdens.logdet(a, method="chebyshev", moments=moments, probes=probes, rng=seed)
            errors.append(float(found) - truth)
            if math.sqrt(sum(e**2 for e in errors) / SEEDS) > goal:
                break  # whatever the other seeds give
        else:
            return (moments, probes), math.sqrt(sum(e**2 for e in errors) / SEEDS)
    msg = f"none of {LADDER} has an rms error of {goal:.3g}"
    raise RuntimeError(msg)


def _degree(server: Any, request: dict[str, Any], goal: float) -> int:
    """Return imate's least degree whose truncation error, same probes, is below half the goal.

    One thread gives the same probes for the same seed.
    """
    request = request | {"threads": 1, "probes": PILOT}
    best = server.ask(request | {"degree": 2 * DEGREES[-1]})["value"]
    for degree in DEGREES:
        if abs(server.ask(request | {"degree": degree})["value"] - best) < goal / 2:
            return degree
    return DEGREES[-1]
