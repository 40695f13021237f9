"""Is the predicted size of LU factors right? Lattices, bands, random and power-law graphs."""

from __future__ import annotations

import time

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from benchmarks.measuring.record import record
from specdens.exact.factorizations import predicted_lu_bytes
from specdens.testing import laplacian


def random_graph(n: int, degree: float) -> sp.csc_array:
    a = sp.random_array((n, n), density=degree / n, rng=np.random.default_rng(0))
    return sp.csc_array(a + a.T + 10 * sp.eye_array(n))


def power_law(n: int) -> sp.csc_array:
    rng = np.random.default_rng(0)
    i = np.arange(1, n)
    a = sp.coo_array((n, n))
    for _ in range(2):
        targets = (i * rng.random(n - 1) ** 2).astype(int)
        a = a + sp.coo_array((np.ones(n - 1), (i, targets)), shape=(n, n))
    return sp.csc_array(a + a.T + 100 * sp.eye_array(n))


CASES = {
    "2-D 100^2": lambda: laplacian(100, 100),
    "2-D 300^2": lambda: laplacian(300, 300),
    "2-D 600^2": lambda: laplacian(600, 600),
    "2-D 20 x 5000": lambda: laplacian(20, 5000),
    "3-D 20^3": lambda: laplacian(20, 20, 20),
    "3-D 30^3": lambda: laplacian(30, 30, 30),
    "3-D 40^3": lambda: laplacian(40, 40, 40),
    "3-D 10 x 10 x 500": lambda: laplacian(10, 10, 500),
    "chain": lambda: laplacian(200_000),
    "random, 2 a row": lambda: random_graph(8000, 2),
    "random, 4 a row": lambda: random_graph(4000, 4),
    "random, 20 a row": lambda: random_graph(3000, 20),
    "power law": lambda: power_law(10_000),
}

ORDERINGS = {
    "symmetric": {
        "permc_spec": "MMD_AT_PLUS_A",
        "diag_pivot_thresh": 0.1,
        "options": {"SymmetricMode": True},
    },
    "general": {"permc_spec": "COLAMD"},
}


def main() -> None:
    """Factor all matrices both ways and print the table."""
    table = []
    for name, make in CASES.items():
        a = make().tocsc()
        for ordering, options in ORDERINGS.items():
            if name == "power law" and ordering == "general":
                continue  # minutes of COLAMD
            started = time.perf_counter()
            predicted = predicted_lu_bytes(a, hermitian=ordering == "symmetric")
            predicting = time.perf_counter() - started
            started = time.perf_counter()
            lu = splu(a, **options)
            factoring = time.perf_counter() - started
            actual = 12 * (lu.L.nnz + lu.U.nnz)
            table.append({
                "matrix": name,
                "n": a.shape[0],
                "ordering": ordering,
                "predicted_over_actual": predicted / actual,
                "actual_bytes": actual,
                "seconds_to_predict": predicting,
                "seconds_to_factor": factoring,
            })
            print(
                f"{name:18s} {ordering:10s} {actual / 2**20:8.1f} MB, predicted "
                f"{predicted / actual:5.2f} times that, in {predicting / factoring:.3f} of the time"
            )
    ratios = [row["predicted_over_actual"] for row in table]
    summary = {"smallest_ratio": min(ratios), "largest_ratio": max(ratios)}
    print(summary)
    record("lu_fill", {"summary": summary, "table": table})


if __name__ == "__main__":
    main()
