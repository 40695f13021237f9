"""How accurate are traces of functions at a given number of matrix-vector products?

Compared with each other at equal numbers of products: `specdens` with all its defaults and nothing
but a budget; plain stochastic Lanczos quadrature with its best fixed split in hindsight
(`baseline`), also with ten times the products; imate, scikit-primate and matfree
(`benchmarks.peers`); on the spectra of `spectra`. Whether intervals hold is tested on the matrices
of `intervals`; densities of states by `densities`.

    python -m benchmarks.accuracy.equal_products --quick    minutes, order 10,000, fewer seeds
    python -m benchmarks.accuracy.equal_products            all, within the hour on two cores
    python -m benchmarks.accuracy.report                    docs/accuracy.md and its figure

Finished cells are kept in a folder (``--cache``), so that a run that was stopped continues. They
count as finished only with the same source files of specdens and of the matrices.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

import specdens
from benchmarks.accuracy import densities, intervals, tables
from benchmarks.accuracy.baseline import Pool, pools
from benchmarks.accuracy.spectra import COMPUTED, COUNT_UP_TO, LATTICES, SPECTRA, Case, case
from benchmarks.measuring.cells import Cell, Cells, Result
from benchmarks.measuring.record import record
from benchmarks.peers import logdets
from specdens import Estimate

PARTS = ("pools", "traces", "peers", "coverage", "densities")

BUDGETS = (120, 600)

LARGE = 100_000
"""Order from which on only log-determinants are asked for."""

PEER_SPECTRA = ("uniform [0.1, 1]", "1/i", "0.999^i", "half null, 8 spikes")
PEER_ORDER = 2000
"""imate takes matrices only: these spectra as dense ones, the lattices as sparse ones."""
PEER_DEGREE = 20
"""The default of imate and of scikit-primate; matfree has none."""


ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
"""For the workers, of which there is one a core."""


@dataclass(frozen=True)
class Plan:
    """What is run: orders, seeds, pools."""

    orders: tuple[int, ...]
    computed_order: int
    seeds: int
    chunk: int
    pool: dict[int, tuple[int, int]]
    instances: int
    coverage_seeds: int
    density_seeds: int
    peer_seeds: int
    peer_spectra: tuple[str, ...]

    def cases(self) -> list[tuple[str, int]]:
        """Return all cases, by name and order."""
        rotated = list(product(SPECTRA, self.orders))
        lattices = [(name, n) for name, n in LATTICES if n in self.orders]
        return [*rotated, *lattices, *product(COMPUTED, [self.computed_order])]

    def peer_cases(self) -> list[tuple[str, int]]:
        """Return the cases that the peers get too."""
        lattices = [(name, n) for name, n in LATTICES if n == min(self.orders)]
        return [*product([*self.peer_spectra, *COMPUTED], [PEER_ORDER]), *lattices]

    def all_cases(self) -> list[tuple[str, int]]:
        """Return both."""
        return list(dict.fromkeys(self.cases() + self.peer_cases()))

    def pool_of(self, n: int) -> tuple[int, int]:
        """Return the probes and steps of the pool for a matrix of order n."""
        return self.pool[max(order for order in self.pool if order <= n)]


QUICK = Plan(
    orders=(10_000,), computed_order=2000, seeds=8, chunk=8, pool={0: (60, 300), 10_000: (60, 100)},
    instances=1, coverage_seeds=4, density_seeds=1, peer_seeds=2, peer_spectra=PEER_SPECTRA[:1],
)  # fmt: skip
FULL = Plan(
    orders=(10_000, 100_000), computed_order=4000, seeds=24, chunk=8,
    pool={0: (200, 400), 10_000: (200, 150), 100_000: (100, 75)},
    instances=4, coverage_seeds=10, density_seeds=8, peer_seeds=12, peer_spectra=PEER_SPECTRA,
)  # fmt: skip


def ours(A: Any, f: str, products: int, seed: int, *, up_to: float = 0.0) -> Estimate:
    """Return tr f(A) by specdens, with a budget and nothing else said."""
    options: dict[str, Any] = {"method": "lanczos", "rng": seed, "return_info": True}
    budget = {"max_matvecs": products}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specdens.AccuracyWarning)
        if f == "log":
            return specdens.logdet(A, **budget, **options)[1]
        if f == "count":
            options |= {"moments": 60, "probes": products // 30}
            return specdens.eigencount(A, -np.inf, up_to, **options)[1]
        return specdens.trace_function(A, f, **budget, **options)[1]


HERE = Path(__file__).parent


@lru_cache
def digest(*files: Path) -> str:
    """Return a digest of source files: what they compute is finished only as long as they stay."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def code(*modules: str) -> str:
    """Return a digest of specdens, the matrices, and more modules of the benchmark."""
    ours = sorted(Path(specdens.__file__).parent.rglob("*.py"))
    return digest(*ours, *(HERE / f"{name}.py" for name in ("spectra", *modules)))


# Cells: what is run, and how.


def pool_cells(plan: Plan) -> list[Cell]:
    """Return a cell for the pool of each case, the large ones first."""
    everyone = sorted(plan.all_cases(), key=lambda x: -x[1])
    return [
        {"kind": "pool", "case": name, "n": n, "pool": list(plan.pool_of(n))}
        for name, n in everyone
    ]


def our_cells(plan: Plan, cache: Path) -> list[Cell]:
    """Return the cells of specdens; each round of seeds passes through all cases."""
    found = []
    for first in range(0, plan.seeds, plan.chunk):
        for number, (name, n) in enumerate(plan.all_cases()):
            # No two cases have a seed in common: luck with one would look like luck with all.
            seeds = [1000 * number + first, 1000 * number + min(first + plan.chunk, plan.seeds)]
            many = (name, n) in plan.cases() and n < LARGE
            functions = case(name, n, cache=cache).functions() if many else ("log",)
            asked = [(f, True) for f in functions]
            asked += [("log", False)] if many and name in SPECTRA else []
            found += [
                {"kind": "ours", "case": name, "n": n, "f": f, "facts": facts,
                 "products": products, "seeds": seeds, "code": code()}
                for (f, facts), products in product(asked, BUDGETS)
            ]  # fmt: skip
    return found


def coverage_cells(plan: Plan) -> list[Cell]:
    """Return a cell for each matrix; seeds differ among matrices."""
    found = []
    for number, (family, products) in product(
        range(plan.instances), product(intervals.families(), BUDGETS)
    ):
        first = 1000 * (len(found) + 1)
        found.append({
            "kind": "coverage", "family": family, "instance": number, "products": products,
            "seeds": [first, first + plan.coverage_seeds], "code": code("intervals", "truncation"),
        })  # fmt: skip
    return found


DENSITY_PROBES = (1, 2, 4, 10)


def density_cells(plan: Plan) -> list[Cell]:
    """Return the cells of densities: every split of the budget, so that the best can be told."""
    n = min(plan.orders)
    return [
        {"kind": "density", "case": name, "n": n, "products": products, "probes": probes,
         "method": method, "seeds": [0, plan.density_seeds], "code": code("densities")}
        for (name, order), products, probes, method in product(
            plan.cases(), BUDGETS, DENSITY_PROBES, densities.METHODS
        )
        if order == n
    ]  # fmt: skip


def peer_cells(plan: Plan, best: Callable[[str, int, int], int]) -> list[Cell]:
    """Return the cells of the peers: with their default degree, and with the best in hindsight."""
    return [
        {"kind": "peer", "package": package, "case": name, "n": n, "products": products,
         "degree": degree, "seeds": [0, plan.peer_seeds],
         "code": digest(HERE / "spectra.py", HERE.parent / "peers" / "logdets.py")}
        for (name, n), products, package in product(plan.peer_cases(), BUDGETS, logdets.PEERS)
        for degree in sorted({PEER_DEGREE, best(name, n, products)})
    ]  # fmt: skip


def work(cell: Cell, *, cache: Path, peers_at: Path) -> Result:
    """Run a cell, in a process of its own."""
    kind = cell["kind"]
    if kind == "pool":
        pools(cell["case"], cell["n"], *cell["pool"], cache)
        return {}
    seeds = range(*cell["seeds"])
    if kind == "peer":
        path = _explicit(case(cell["case"], cell["n"], cache=cache), cache)
        degree = cell["degree"]
        request = {"package": cell["package"], "matrix": str(path), "degree": degree}
        request |= {"probes": cell["products"] // degree, "seeds": list(seeds)}
        return logdets.answers(peers_at, request)
    if kind == "coverage":
        A, truth = intervals.instance(cell["family"], cell["instance"])
        return {"truth": truth} | _estimates(partial(ours, A, "log", cell["products"]), seeds)
    this = case(cell["case"], cell["n"], cache=cache, facts=cell.get("facts", True))
    if kind == "density":
        distance = densities.METHODS[cell["method"]]
        return {"w1": [distance(this, cell["products"], cell["probes"], s) for s in seeds]}
    up_to = COUNT_UP_TO.get(this.name, 0.0)
    return _estimates(partial(ours, this.A, cell["f"], cell["products"], up_to=up_to), seeds)


def _estimates(one: Callable[[int], Estimate], seeds: range) -> Result:
    """Return what estimates say of themselves, seed by seed; an exception is a result too."""
    rows = []
    for seed in seeds:
        try:
            info = one(seed)
        except ValueError as error:
            rows.append({"error": str(error)})
            continue
        low, high = info.interval(0.95)
        rows.append({
            "value": float(info), "low": low, "high": high, "converged": info.converged,
            "matvecs": info.matvecs,
        })  # fmt: skip
    return {"rows": rows}


def _explicit(this: Case, cache: Path) -> Path:
    """Return the file with a case as a matrix."""
    stem = "".join(x if x.isalnum() else "_" for x in f"matrix_{this.name}_{this.n}_{this.digest}")
    path = cache / (stem + (".npz" if sparse.issparse(this.A) else ".npy"))
    if path.exists():
        return path
    partly = path.with_name(f"{os.getpid()}_{path.name}")
    if sparse.issparse(this.A):
        sparse.save_npz(partly, this.A)
    else:
        np.save(partly, this.A if isinstance(this.A, np.ndarray) else this.A.columns())
    return partly.rename(path)


def main() -> None:
    """Run what is missing; if that is all, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="order 10,000, fewer seeds")
    parser.add_argument("--cache", type=Path, default=Path("out/accuracy"))
    parser.add_argument("--peers", type=Path, default=Path("out/peers"), help="their environment")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="run no other parts")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--orders", nargs="*", type=int, help="of the rotated spectra")
    parser.add_argument("--peer-seeds", type=int)
    options = parser.parse_args()
    plan, cache = (QUICK if options.quick else FULL), options.cache
    if options.orders:
        plan = replace(plan, orders=tuple(options.orders))
    if options.peer_seeds:
        plan = replace(plan, peer_seeds=options.peer_seeds)
    cache.mkdir(parents=True, exist_ok=True)
    os.environ |= ONE_THREAD
    done = Cells(cache / "cells.jsonl")

    def pool_of(name: str, n: int) -> dict[str, Pool]:
        return pools(name, n, *plan.pool_of(n), cache)

    def best_steps(name: str, n: int, products: int) -> int:
        return int(pool_of(name, n)["log"].best(products, resamples=1)["steps"])

    one = partial(work, cache=cache, peers_at=options.peers)
    makers: dict[str, Callable[[], list[Cell]]] = {
        "pools": lambda: pool_cells(plan),
        "traces": lambda: our_cells(plan, cache),
        "peers": lambda: peer_cells(plan, best_steps),
        "coverage": lambda: coverage_cells(plan),
        "densities": lambda: density_cells(plan),
    }
    cells: dict[str, list[Cell]] = {}
    for part in PARTS:
        if part in (options.only or PARTS):
            cells[part] = makers[part]()
            done.run(cells[part], one, workers=options.workers)
    if options.only:
        return
    known: dict[str, Any] = {"pool_of": pool_of, "case_of": partial(case, cache=cache)}
    result = {
        "plan": asdict(plan) | {"cases": plan.cases()},
        "traces": tables.traces(cells["traces"], done, **known),
        "peers": tables.peers(cells["peers"], done, **known),
        "coverage": tables.coverage(cells["coverage"], done),
        "densities": tables.densities(cells["densities"], done),
    }
    print(record("accuracy_quick" if options.quick else "accuracy", result))


if __name__ == "__main__":
    main()
