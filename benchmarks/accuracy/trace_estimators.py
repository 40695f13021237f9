"""Are the errors that traces and diagonals of operators report true, and what do products buy?

Dense matrices of order 100 with random eigenvectors, real and complex: relative root mean square
errors, the ratio of reported to true error, and how many nominal 95 % intervals hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import specdens
from benchmarks.measuring.record import record
from specdens.results import two_sided_quantile
from specdens.testing import with_spectrum

N = 100
SEEDS = 30
BUDGETS = (8, 20, 40, 80)
TRACES = ("auto", "hutchinson", "hutch++", "xtrace", "xnystrace")
DIAGONALS = ("auto", "hutchinson", "diag++", "xdiag")


def spectra() -> dict[str, np.ndarray]:
    """Return eigenvalues by name."""
    i = np.arange(1, N + 1)
    samples = np.random.default_rng(0).standard_normal((N, 2 * N))
    return {
        "uniform [1, 3]": np.linspace(1, 3, N),
        "1/i": 1 / i,
        "1/i^2": 1.0 / i**2,
        "0.9^i": 0.9**i,
        "0.7^i": 0.7**i,
        "step at 20": np.where(i <= 20, 1, 1e-3),
        "step at 50": np.where(i <= 50, 1, 1e-2),
        "Marchenko-Pastur 0.5": np.linalg.svd(samples, compute_uv=False) ** 2 / (2 * N),
    }


def judged(errors: Any, reported: Any, samples: list[int], size: float) -> dict[str, float]:
    """Return what is written of one cell; rounding is no error."""
    quantiles = np.array([two_sided_quantile(0.95, count) for count in samples])
    quantiles = quantiles.reshape(-1, *([1] * (np.ndim(errors) - 1)))
    rms = np.sqrt(np.mean(np.square(errors)))
    found = {
        "rms": rms / size,
        "reported": np.sqrt(np.mean(np.square(reported))) / rms,
        "covered": np.mean(errors <= quantiles * reported + 1e-13 * size),
    }
    return {key: float(f"{value:.4g}") for key, value in found.items()}


def of_trace(a: np.ndarray, method: str, budget: int) -> dict[str, float]:
    """Return the cell of one matrix, method and budget."""
    op = applied(a)
    options = {"method": method, "max_matvecs": budget, "return_info": True}
    runs = [specdens.trace(op, rng=seed, **options)[1] for seed in range(SEEDS)]
    truth = np.trace(a).real
    errors = np.array([abs(run.value - truth) for run in runs])
    reported = np.array([run.stderr + run.bias_bound for run in runs])
    return judged(errors, reported, [run.samples for run in runs], truth)


def of_diagonal(a: np.ndarray, method: str, budget: int) -> dict[str, float]:
    """Return the cell of one matrix, method and budget."""
    op = applied(a)
    options = {"method": method, "max_matvecs": budget, "return_info": True}
    runs = [specdens.diagonal(op, rng=seed, **options)[1] for seed in range(SEEDS // 2)]
    truth = np.diag(a).real
    errors = np.array([np.abs(run.value - truth) for run in runs])
    reported = np.array([run.stderr for run in runs])
    size = float(np.sqrt(np.mean(truth**2)))
    return judged(errors, reported, [run.samples for run in runs], size)


def applied(a: np.ndarray) -> Any:
    """Return a matrix that is only applied."""
    return specdens.aslinearoperator(
        lambda v: a @ v, n=N, dtype=a.dtype, matmat=lambda x: a @ x, hermitian=True
    )


def main() -> None:
    """Run all cells and record them, with the ranges over all spectra."""
    cells = []
    for name, eigenvalues in spectra().items():
        for dtype in (float, complex):
            a = with_spectrum(eigenvalues, rng=1, dtype=dtype)
            for budget in BUDGETS:
                about = {"spectrum": name, "dtype": dtype.__name__, "products": budget}
                for what, methods, run in (
                    ("trace", TRACES, of_trace),
                    ("diagonal", DIAGONALS, of_diagonal),
                ):
                    cells += [
                        {**about, "of": what, "method": method, **run(a, method, budget)}
                        for method in methods
                    ]
    summary = {}
    for what, methods in (("trace", TRACES), ("diagonal", DIAGONALS)):
        for method in methods:
            mine = [c for c in cells if (c["of"], c["method"]) == (what, method)]
            ratios = [cell["reported"] for cell in mine]
            covered = [cell["covered"] for cell in mine]
            summary[f"{what} {method}"] = {
                "reported": [min(ratios), max(ratios)],
                "covered": float(np.mean(covered)),
                "worst": min(covered),
            }
            print(what, method, summary[f"{what} {method}"])
    record("trace_estimators", {"n": N, "seeds": SEEDS, "summary": summary, "cells": cells})


if __name__ == "__main__":
    main()
