"""How far do 20 Lanczos steps miss the ends of a spectrum, and what does the safeguard cost?

Miss and safeguard as shares of the width, the worst over seeds, on the spectra of `truncation`
and three more with eigenvalues apart from the rest.
"""

from __future__ import annotations

import numpy as np

import specdens
from benchmarks.accuracy.truncation import spectra
from benchmarks.measuring.record import record
from specdens.testing import rotated

N = 4000
SEEDS = 12


def main() -> None:
    """Measure all spectra and print the table."""
    rng = np.random.default_rng(0)
    goe = rng.standard_normal((N // 2, N // 2))
    cases = spectra(N) | {
        "semicircle": np.linalg.eigvalsh((goe + goe.T) / np.sqrt(N)).repeat(2),
        "one at 1.05 widths": np.r_[np.linspace(0, 1, N - 1), 1.05],
        "one at 1.01 widths": np.r_[np.linspace(0, 1, N - 1), 1.01],
    }
    table = []
    for name, eigenvalues in cases.items():
        low, high = eigenvalues.min(), eigenvalues.max()
        op = rotated(eigenvalues)
        found = [specdens.spectral_bounds(op, rng=seed) for seed in range(SEEDS)]
        missed = max(max(b.inner[0] - low, high - b.inner[1]) for b in found) / (high - low)
        escaped = max(max(b.low - low, high - b.high) for b in found) / (high - low)
        wider = max((b.high - b.low) / (high - low) - 1 for b in found)
        row = {"spectrum": name, "ritz_miss": missed, "bound_miss": escaped, "wider_by": wider}
        table.append({key: v if isinstance(v, str) else float(v) for key, v in row.items()})
        print(
            f"{name:28s} Ritz values miss {missed:.4f} of the width; the bounds "
            f"{'HOLD' if escaped <= 0 else f'MISS {escaped:.4f}'}, wider by {wider:.3f}"
        )
    summary = {
        "spectra": len(table),
        "seeds": SEEDS,
        "all_hold": all(row["bound_miss"] <= 1e-9 for row in table),
        "widest": max(row["wider_by"] for row in table),
    }
    print(summary)
    record("bounds", {"n": N, "summary": summary, "table": table})


if __name__ == "__main__":
    main()
