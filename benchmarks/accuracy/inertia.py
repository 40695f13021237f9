"""When is the inertia by a sparse factorisation without pivoting right? Shifts near eigenvalues."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from benchmarks.measuring.record import record
from specdens.exact.ldl_inertia import CERTAIN, _crossing, _factored
from specdens.testing import laplacian


def disordered(*shape: int) -> sp.csc_array:
    a = laplacian(*shape)
    noise = np.random.default_rng(0).standard_normal(a.shape[0])
    return sp.csc_array(a + sp.diags_array(noise))


def random_graph(n: int, degree: float) -> sp.csc_array:
    rng = np.random.default_rng(0)
    a = sp.random_array((n, n), density=degree / n, rng=rng)
    return sp.csc_array(a + a.T + sp.diags_array(rng.standard_normal(n)))


def saddle(n: int, m: int) -> sp.csc_array:
    b = sp.random_array((n, m), density=0.02, rng=np.random.default_rng(0)) + sp.eye_array(n, m)
    return sp.csc_array(sp.block_array([[sp.eye_array(n), b], [b.T, None]]))


CASES = {
    "2-D 45^2": lambda: laplacian(45, 45),
    "2-D 45^2, disordered": lambda: disordered(45, 45),
    "3-D 12^3": lambda: laplacian(12, 12, 12),
    "3-D 12^3, disordered": lambda: disordered(12, 12, 12),
    "random graph, 3 a row": lambda: random_graph(1500, 3),
    "saddle point": lambda: saddle(900, 500),
}

DISTANCES = [10.0**-k for k in range(2, 15)]


def main() -> None:
    """Count eigenvalues below shifts at known distances from an eigenvalue."""
    table = []
    for name, make in CASES.items():
        a = make().tocsc()
        n = a.shape[0]
        spectrum = np.linalg.eigvalsh(a.toarray())
        norm = np.abs(spectrum).max()
        for quantile in (0.03, 0.3, 0.5, 0.8):
            for distance in DISTANCES:
                shift = spectrum[int(quantile * n)] + distance * norm
                moved = (a - shift * sp.eye_array(n)).tocsc()
                found = _factored(moved, 0.0)
                if found is None:
                    continue
                lu, pivots = found
                table.append({
                    "matrix": name,
                    "quantile": quantile,
                    "gap": float(np.abs(spectrum - shift).min() / norm),
                    "crossing": _crossing(moved, lu, pivots),
                    "right": bool(np.sum(pivots < 0) == np.sum(spectrum < shift)),
                })
    certain = [row for row in table if row["crossing"] <= CERTAIN]
    wrong = [row["crossing"] for row in table if not row["right"]]
    summary = {
        "factorisations": len(table),
        "certified": len(certain),
        "certified_but_wrong": sum(not row["right"] for row in certain),
        "wrong": len(wrong),
        "smallest_crossing_of_a_wrong_one": min(wrong, default=None),
        "right_but_not_certified": sum(r["right"] for r in table) - len(certain),
        "smallest_gap_certified": min(row["gap"] for row in certain),
    }
    print(summary)
    record("inertia", {"summary": summary, "table": table})


if __name__ == "__main__":
    main()
