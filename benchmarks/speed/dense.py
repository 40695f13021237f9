"""Log-determinants of a dense positive definite matrix: 20 probes x 20 products, and exact."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky

import specdens
from benchmarks.measuring.timing import Row, compared, interleaved, row, seconds
from benchmarks.speed.settings import Settings
from specdens.testing import with_spectrum

DEGREE, PROBES = 20, 20
TARGETS: dict[str, float | None] = {"imate": 8, "scikit-primate": 30, "matfree": None}


def rows(settings: Settings) -> list[Row]:
    """Compare with quadrature of other packages, and with SciPy's Cholesky factorisation."""
    a = with_spectrum(np.geomspace(1e-3, 10, settings.order))
    request = {"matrix": settings.saved("dense", a), "degree": DEGREE, "probes": PROBES, "seed": 0}
    names = [name for name in TARGETS if not (settings.quick and name == "scikit-primate")]
    server = settings.peer("peers")
    others = {name: server.job(request | {"package": name}) for name in names}
    ours = {
        f"log-det by {method}, dense, n = {settings.order:,}, {PROBES} probes x {DEGREE} products, "
        "float64": seconds(lambda method=method: specdens.logdet(
            a, method=method, moments=2 * DEGREE, probes=PROBES, rng=0
        ))
        for method in ("lanczos", "chebyshev")
    }  # fmt: skip
    spent = interleaved(ours | others, settings.few)
    server.close()
    found = [
        row(work, name, spent[work], spent[name], TARGETS[name]) for work in ours for name in names
    ]
    work = f"log-det, dense, n = {settings.order:,}, exact, float64"
    return found + compared(
        work, seconds(lambda: specdens.logdet(a)),
        {"SciPy's Cholesky": seconds(lambda: by_cholesky(a))}, {"SciPy's Cholesky": 1.2},
        settings.repeats, at_most=True,
    )  # fmt: skip


def by_cholesky(a: np.ndarray) -> float:
    """Return the log-determinant as one writes it with SciPy."""
    return float(2 * np.log(np.diagonal(cholesky(a, check_finite=False))).sum())
