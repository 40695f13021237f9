r"""Plain stochastic Lanczos quadrature, with its best fixed split of a budget chosen in hindsight.

A pool of single random-sign probes, each run once for many steps, holds all splits: what m steps
had found is a truncation of the run, and a mean over R of them has
``rms(m, R)^2 = bias(m)^2 + var(m) / R``, minimised over m with ``R = P // m``. The bias is the mean
over the pool of what truncation changes for each probe, whose exact value is known from its
components along the eigenvectors; so it is not drowned in the noise of the pool. No estimator can
know the best m beforehand: the baseline is better than what a user of plain SLQ gets.

The recurrence runs on these components, in the basis of eigenvectors: in exact arithmetic the
tridiagonal is the same, and a product costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.accuracy.spectra import Case, case
from specdens.arrays.libraries import default_namespace
from specdens.arrays.probes import signs
from specdens.operators.aslinearoperator import aslinearoperator
from specdens.recurrences.lanczos import Tridiagonal, tridiagonalize
from specdens.recurrences.quadrature import gauss

Host: TypeAlias = np.ndarray[Any, Any]

STEPS = (
    2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 75, 100, 125, 150, 200, 250, 300, 400,
)  # fmt: skip

KEY = 2**63
"""Key of the pool's probes, unlike any seed of a run that is compared with it."""


@dataclass(frozen=True)
class Pool:
    """Single-probe estimates of tr f(A).

    Attributes
    ----------
    steps : ndarray, shape (S,)
    values : ndarray, shape (S, probes)
        After so many steps.
    exact : ndarray, shape (probes,)
        What infinitely many steps would give.
    """

    steps: Host
    values: Host
    exact: Host

    def best(self, products: int, *, resamples: int = 400) -> dict[str, Any]:
        """Return the least rms error that so many products allow, its standard error, the split.

        Parameters
        ----------
        products : int
        resamples : int
            Of the bootstrap over probes, in which m is chosen anew.

        Returns
        -------
        dict
            ``rms``, ``steps``, ``probes``, ``stderr``; ``more_steps``: whether the runs of the pool
            are too short to know the best; and ``bootstrap``: all resampled rms.
        """
        everyone = np.arange(len(self.exact))
        rms, best = self._least(products, everyone)
        generator = np.random.default_rng(0)
        again = [
            self._least(products, generator.choice(everyone, len(everyone)))[0]
            for _ in range(resamples)
        ]
        steps = int(self.steps[best])
        return {
            "rms": rms,
            "steps": steps,
            "probes": products // steps,
            "stderr": float(np.std(again)),
            "more_steps": bool(steps == self.steps[-1] < products),
            "bootstrap": again,
        }

    def _least(self, products: int, probes: Host) -> tuple[float, int]:
        affordable = self.steps <= products
        values, exact = self.values[affordable][:, probes], self.exact[probes]
        bias = (values - exact).mean(axis=1)
        variance = values.var(axis=1, ddof=1) / (products // self.steps[affordable])
        squares = bias**2 + variance
        best = int(np.argmin(squares))
        return float(np.sqrt(squares[best])), best


def pools(name: str, n: int, probes: int, most: int, cache: Path) -> dict[str, Pool]:
    """Return a pool for each function of a case, from the cache if it is there.

    Parameters
    ----------
    name, n
        Of the case.
    probes : int
    most : int
        Steps of each run.
    cache : Path
        Folder; a file there is used if the eigenvalues and their order are the same.
    """
    this = case(name, n, cache=cache)
    path = cache / f"pool_{this.digest}_{n}_{probes}_{most}.npz"
    if not path.exists():
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **_measured(this, probes, most))
        partial.rename(path)
    kept = np.load(path)
    return {f: Pool(kept["steps"], kept[f], kept[f"exact {f}"]) for f in this.functions()}


def _measured(this: Case, probes: int, most: int) -> dict[str, Host]:
    """Run the pool, probe by probe: narrow blocks cost more a vector, wide ones leave the cache."""
    spectrum = this.eigenvalues[:, None]
    op = aslinearoperator(
        lambda v: this.eigenvalues * v, n=this.n, matmat=lambda x: spectrum * x, hermitian=True
    )
    steps = np.array([m for m in STEPS if m <= most])
    functions = this.functions()
    values = {f: np.empty((len(steps), probes)) for f in functions}
    exact = {f: np.empty(probes) for f in functions}
    xp = default_namespace()
    on_spectrum = {f: this.values(f, this.eigenvalues) for f in functions}
    for r in range(probes):
        probe = signs(this.n, range(r, r + 1), KEY, xp=xp, dtype=xp.float64)
        start = this.coordinates(probe)
        (factor,) = tridiagonalize(op, start, most)
        found = _all_steps(this, factor, steps)
        for f in functions:
            exact[f][r] = on_spectrum[f] @ start[:, 0] ** 2
            values[f][:, r] = found[f]
    return {"steps": steps} | values | {f"exact {f}": x for f, x in exact.items()}


def _all_steps(this: Case, factor: Tridiagonal, steps: Host) -> dict[str, Host]:
    """Return n times each function's Gauss rule after each number of steps."""
    rules = [gauss(factor.leading(int(m))) for m in steps]
    # Rounding may put a Ritz value below an eigenvalue at the end, where f may not be defined.
    low = this.eigenvalues.min()
    return {
        f: np.array([
            this.n * rule.integrate(this.values(f, np.maximum(rule.nodes, low))) for rule in rules
        ])
        for f in this.functions()
    }
