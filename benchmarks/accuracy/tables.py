"""From finished cells to tables: rms errors with intervals, ratios to the baseline, coverage."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from benchmarks.accuracy.baseline import Pool
from benchmarks.accuracy.spectra import Case
from benchmarks.measuring.cells import Cell, Cells

Host: TypeAlias = np.ndarray[Any, Any]
Row: TypeAlias = dict[str, Any]
Pools: TypeAlias = Callable[[str, int], dict[str, Pool]]

TENFOLD = 10


def _grouped(cells: Iterable[Cell], done: Cells, *, but: tuple[str, ...]) -> dict[Any, list[Any]]:
    """Return the results of cells that differ only in the keys `but`, by their other keys."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for cell in cells:
        groups[tuple((k, v) for k, v in cell.items() if k not in but)].append(done[cell])
    return groups


def _rms(errors: Host) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def _against(errors: Host, plain: dict[str, Any]) -> Row:
    """Return the ratio of rms errors to that of a baseline, and its 95 % interval.

    By the chi-square law of normal errors about 0, and the bootstrap of the baseline; resampling
    few errors would give an interval that is too short.
    """
    count, again = len(errors), np.array(plain["bootstrap"])
    squares = np.random.default_rng(0).chisquare(count, size=(100, len(again))) / count
    low, high = np.quantile(_rms(errors) / np.sqrt(squares) / again, [0.025, 0.975])
    return {"ratio": _rms(errors) / plain["rms"], "low": float(low), "high": float(high)}


def _told(plain: dict[str, Any]) -> Row:
    return {key: plain[key] for key in ("rms", "stderr", "steps", "probes", "more_steps")}


def traces(
    cells: list[Cell], done: Cells, pool_of: Pools, case_of: Callable[..., Case]
) -> list[Row]:
    """Return a row for each matrix, function and budget."""
    table = []
    for key, results in _grouped(cells, done, but=("kind", "seeds", "code")).items():
        about = dict(key)
        this = case_of(about["case"], about["n"])
        truth, pool = this.truth(about["f"]), pool_of(this.name, this.n)[about["f"]]
        rows = [row for result in results for row in result["rows"]]
        kept = [row for row in rows if math.isfinite(row.get("value", math.nan))]
        errors = np.array([row["value"] - truth for row in kept])
        found: Row = about | {"truth": truth, "seeds": len(rows), "failed": len(rows) - len(kept)}
        plain = {name: pool.best(name * about["products"]) for name in (1, TENFOLD)}
        found |= {"plain": _told(plain[1]), "plain_tenfold": _told(plain[TENFOLD])}
        if kept:
            scale = np.sqrt(len(kept) / stats.chi2.ppf([0.975, 0.025], len(kept)))
            found |= {
                "rms": _rms(errors),
                "rms_interval": (_rms(errors) * scale).tolist(),
                "mean_error": float(errors.mean()),
                "to_plain": _against(errors, plain[1]),
                "to_plain_tenfold": _against(errors, plain[TENFOLD]),
                "mean_products": float(np.mean([row["matvecs"] for row in kept])),
                "converged": float(np.mean([row["converged"] for row in kept])),
                "covered": float(np.mean([row["low"] <= truth <= row["high"] for row in kept])),
            }
        table.append(found)
    return table


def peers(
    cells: list[Cell], done: Cells, pool_of: Pools, case_of: Callable[..., Case]
) -> list[Row]:
    """Return a row for each package, matrix, budget and degree; one that fails has its error."""
    table = []
    for cell in cells:
        about = {k: v for k, v in cell.items() if k not in {"kind", "seeds", "code"}}
        result = done[cell]
        if "error" in result:
            table.append(about | {"error": result["error"]})
            continue
        this = case_of(cell["case"], cell["n"])
        errors = np.array(result["values"]) - this.truth("log")
        plain = pool_of(this.name, this.n)["log"].best(cell["products"])
        table.append(about | {
            "version": result["version"], "seeds": len(errors), "seconds": result["seconds"],
            "rms": _rms(errors), "to_plain": _against(errors, plain),
        })  # fmt: skip
    return table


def coverage(cells: list[Cell], done: Cells) -> Row:
    """Return how many intervals hold: of all, and of those that call themselves converged."""
    table = []
    for key, results in _grouped(cells, done, but=("kind", "seeds", "code", "instance")).items():
        pairs = [_judged(row, result["truth"]) for result in results for row in result["rows"]]
        table.append(dict(key) | _shares(pairs) | {"half_width": _median_width(results)})
    everyone = [_judged(row, done[cell]["truth"]) for cell in cells for row in done[cell]["rows"]]
    return {"summary": _shares(everyone), "table": table}


def _judged(row: Row, truth: float) -> tuple[bool, bool]:
    """Return whether the interval holds, and whether it calls itself converged."""
    if "error" in row:
        return False, False
    return row["low"] <= truth <= row["high"], row["converged"]


def _median_width(results: list[Any]) -> float:
    """Return the median half width relative to the truth."""
    return float(
        np.median([
            (row["high"] - row["low"]) / 2 / abs(result["truth"]) if "low" in row else math.inf
            for result in results
            for row in result["rows"]
        ])
    )


def _shares(pairs: list[tuple[bool, bool]]) -> Row:
    covered = [inside for inside, _ in pairs]
    trusted = [inside for inside, converged in pairs if converged]
    return {
        "pairs": len(pairs),
        "covered": _share(covered),
        "converged": len(trusted),
        "covered_where_converged": _share(trusted),
    }


def _share(hits: list[bool]) -> Row | None:
    """Return a share with its exact 95 % binomial interval."""
    if not hits:
        return None
    found = stats.binomtest(sum(hits), len(hits))
    interval = found.proportion_ci(0.95)
    return {"share": found.statistic, "low": interval.low, "high": interval.high}


def densities(cells: list[Cell], done: Cells) -> list[Row]:
    """Return a row for each matrix, budget and method: the best split in hindsight, and all."""
    groups: dict[Any, dict[int, list[float]]] = defaultdict(dict)
    for cell in cells:
        groups[cell["case"], cell["n"], cell["products"], cell["method"]][cell["probes"]] = done[
            cell
        ]["w1"]
    table = []
    for (name, n, products, method), splits in groups.items():
        means = {probes: float(np.mean(w1)) for probes, w1 in splits.items()}
        best = min(means, key=lambda probes: means[probes])
        table.append({
            "case": name, "n": n, "products": products, "method": method, "probes": best,
            "w1": means[best],
            "stderr": float(np.std(splits[best]) / math.sqrt(max(1, len(splits[best]) - 1))),
            "by_probes": {str(probes): mean for probes, mean in means.items()},
        })  # fmt: skip
    return table
