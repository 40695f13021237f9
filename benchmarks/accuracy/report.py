"""Write docs/accuracy.md and its figure from the results of `equal_products`.

python -m benchmarks.accuracy.report            from benchmarks/results/accuracy.json
python -m benchmarks.accuracy.report --quick    from accuracy_quick.json, into out/
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib.pyplot as plt

from benchmarks.measuring.record import DOCS, RESULTS

Row: TypeAlias = dict[str, Any]


FUNCTIONS = {
    "log": "log", "exp": "exp", "inv": "1/x", "sqrt": "√x", "xlogx": "x log x",
    "count": "number of eigenvalues",
}  # fmt: skip


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(x: float | None) -> str:
    """Return three digits."""
    return "–" if x is None else f"{x:.3g}"


def ratio(found: Row | None) -> str:
    """Return a ratio with its interval."""
    if found is None:
        return "–"
    return f"{found['ratio']:.2g} [{found['low']:.2g}, {found['high']:.2g}]"


def to_plain(row: Row) -> str:
    """Return a row's ratio to plain quadrature; † marks a baseline that wanted more steps."""
    dagger = " †" if row.get("plain", {}).get("more_steps") else ""
    return ratio(row.get("to_plain")) + dagger


def share(found: Row | None) -> str:
    """Return a share with its interval, in percent."""
    if found is None:
        return "none"
    return f"{100 * found['share']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def percent(found: Row | None) -> str:
    """Return a share of few, without an interval."""
    return "–" if found is None else f"{100 * found['share']:.0f} %"


def log_determinants(rows: list[Row]) -> str:
    """Return the table of log-determinants."""
    head = ["spectrum", "n", "products", "rms", "of log det", "÷ plain", "÷ plain, 10 × products",
            "plain: m × R", "covered"]  # fmt: skip
    return table(head, [
        [
            row["case"], f"{row['n']:,}", f"{row['products']} ({row.get('mean_products', 0):.0f})",
            number(row.get("rms")), number(row.get("rms") and row["rms"] / abs(row["truth"])),
            ratio(row.get("to_plain")), ratio(row.get("to_plain_tenfold")),
            f"{row['plain']['steps']} × {row['plain']['probes']}",
            "–" if "covered" not in row else f"{100 * row['covered']:.0f} %",
        ]
        for row in rows if row["f"] == "log"
    ])  # fmt: skip


def other_functions(rows: list[Row], products: int) -> str:
    """Return the ratios to plain quadrature for all functions, one spectrum in a row."""
    cases = {(row["case"], row["n"]) for row in rows if row["f"] != "log"}
    kept = [r for r in rows if r["products"] == products and (r["case"], r["n"]) in cases]
    found = {(row["case"], row["f"]): row for row in kept}
    return table(["spectrum", *FUNCTIONS.values()], [
        [name, *(to_plain(found.get((name, f), {})) for f in FUNCTIONS)]
        for name in dict.fromkeys(row["case"] for row in kept)
    ])  # fmt: skip


def without_facts(rows: list[Row]) -> str:
    """Return the ratios to plain quadrature where no trace of the operator is known."""
    return table(["spectrum", "products", "÷ plain", "÷ plain, 10 × products"], [
        [row["case"], str(row["products"]), ratio(row.get("to_plain")),
         ratio(row.get("to_plain_tenfold"))]
        for row in rows if not row["facts"]
    ])  # fmt: skip


FLAT = ("uniform [0.1, 1]", "two steps", "Marchenko-Pastur", "2-D Laplacian", "3-D Laplacian")
"""Spectra without a decay that a basis could capture."""


def targets(result: Row) -> str:
    """Return what was aimed at, in how many cells it was reached, and the cells that miss it."""
    logs = [row for row in main_rows(result) if row["f"] == "log" and "to_plain" in row]
    bare = [row for row in result["traces"] if not row["facts"] and "to_plain" in row]

    def of(rows: list[Row], aim: str, value: Any, limit: float) -> list[str]:
        missed = [row for row in rows if value(row) > limit]
        names = [
            f"{r['case']}, n = {r['n']:,}, P = {r['products']}: {value(r):.2g}" for r in missed
        ]
        return [aim, f"{len(rows) - len(missed)} of {len(rows)}", "; ".join(names) or "none"]

    def plain(row: Row) -> float:
        return float(row["to_plain"]["ratio"])

    def at(*names: str) -> list[Row]:
        return [row for row in logs if row["case"] in names]

    head = ["log det: the aim", "reached", "missed"]
    return table(head, [
        of(logs, "rms at most 1.25 times that of plain with ten times the products",
           lambda row: row["to_plain_tenfold"]["ratio"], 1.25),
        of([row for row in bare if row["case"] in FLAT],
           "flat, nothing known of the operator: at most 1.15 times plain", plain, 1.15),
        of(at(*FLAT), "flat: at most a quarter of plain", plain, 0.25),
        of(at("1/i²"), "1/i²: at most a hundredth of plain", plain, 0.01),
        of(at("0.7^i"), "0.7^i: relative error of 1e-8",
           lambda row: row["rms"] / abs(row["truth"]), 1e-8),
    ])  # fmt: skip


def of_peers(rows: list[Row], ours: list[Row]) -> str:
    """Return the ratios of all packages on the matrices that all of them take."""
    packages = list(dict.fromkeys(row["package"] for row in rows))
    mine = {(r["case"], r["n"], r["products"]): r for r in ours if r["f"] == "log" and r["facts"]}
    groups: dict[Any, Row] = {}
    for row in rows:
        key = row["case"], row["n"], row["products"], row["degree"]
        groups.setdefault(key, {})[row["package"]] = row
    head = ["spectrum", "n", "products", "degree", *packages, "specdens"]
    return table(head, [
        [
            key[0], f"{key[1]:,}", str(key[2]), str(key[3]),
            *(f"failed: {group[p]['error']}" if "error" in group[p] else ratio(group[p]["to_plain"])
              for p in packages if p in group),
            ratio(mine[key[:3]].get("to_plain")),
        ]
        for key, group in groups.items()
    ])  # fmt: skip


def of_intervals(found: Row) -> str:
    """Return the coverage of all matrices together, and of each family, where samples are small."""
    whole = found["summary"]
    head = ["matrices", "products", "pairs", "covered", "converged", "covered where converged",
            "median half width"]  # fmt: skip
    first = ["all", "", f"{whole['pairs']:,}", share(whole["covered"]),
             f"{whole['converged']:,}", share(whole["covered_where_converged"]), ""]  # fmt: skip
    return table(head, [first, *(
        [row["family"], str(row["products"]), str(row["pairs"]), percent(row["covered"]),
         str(row["converged"]), percent(row["covered_where_converged"]), number(row["half_width"])]
        for row in found["table"]
    )])  # fmt: skip


def of_densities(rows: list[Row]) -> str:
    """Return the distances of densities, in thousandths of the width of the spectrum."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    found = {(row["case"], row["products"], row["method"]): row for row in rows}
    keys = dict.fromkeys((row["case"], row["products"]) for row in rows)
    head = ["spectrum", "products", *(f"{m}, 10³ W₁ (probes)" for m in methods)]
    return table(head, [
        [key[0], str(key[1]), *(
            f"{1000 * found[*key, m]['w1']:.2f} ± {1000 * found[*key, m]['stderr']:.2f} "
            f"({found[*key, m]['probes']})"
            for m in methods
        )]
        for key in keys
    ])  # fmt: skip


def main_rows(result: Row) -> list[Row]:
    """Return the traces of specdens with all facts, without the matrices made for the peers."""
    cases = {tuple(this) for this in result["plan"]["cases"]}
    return [r for r in result["traces"] if r["facts"] and (r["case"], r["n"]) in cases]


def figure(result: Row, path: Path) -> None:
    """Draw rms errors of log-determinants against plain quadrature's, one panel a budget."""
    rows = [row for row in main_rows(result) if row["f"] == "log" and "to_plain" in row]
    budgets = sorted({row["products"] for row in rows})
    names = list(dict.fromkeys((row["case"], row["n"]) for row in rows))
    plt.style.use("default")
    fig, panels = plt.subplots(
        1, len(budgets), sharey=True, figsize=(11, 1.6 + 0.28 * len(names)), layout="constrained"
    )
    for axes, products in zip(panels, budgets, strict=True):
        here = {(row["case"], row["n"]): row for row in rows if row["products"] == products}
        _panel(axes, here, names)
        _peers_on(axes, [r for r in result["peers"] if r["products"] == products], names)
        axes.set_title(f"{products} products")
    panels[0].set_yticks(range(len(names)), [f"{name}, n = {n:,}" for name, n in names])
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    fig.suptitle("Error of log det, relative to plain Lanczos quadrature with its best fixed split")
    fig.savefig(path, dpi=150)
    plt.close(fig)


def _panel(axes: Any, here: dict[Any, Row], names: list[Any]) -> None:
    """Draw our ratios with intervals, and what ten times the products give plain quadrature."""
    found = [(y, here[name]) for y, name in enumerate(names) if name in here]
    height = [y for y, _ in found]
    mine = [row["to_plain"] for _, row in found]
    errors = [[r["ratio"] - r["low"] for r in mine], [r["high"] - r["ratio"] for r in mine]]
    tenfold = [row["plain_tenfold"]["rms"] / row["plain"]["rms"] for _, row in found]
    axes.axvline(1, color="0.4", lw=1, label="plain quadrature")
    axes.plot(tenfold, height, "|", color="0.2", ms=11, mew=2, label="plain, 10 × products")
    axes.errorbar(
        [r["ratio"] for r in mine], height, xerr=errors, fmt="o", color="C0", label="specdens"
    )
    axes.set_xscale("log")
    axes.set_xlabel("rms error, in units of plain quadrature's")
    axes.grid(axis="x", which="major", alpha=0.3)


def _peers_on(axes: Any, rows: list[Row], names: list[Any]) -> None:
    """Draw the peers on the lattices and computed matrices, at their default degree."""
    markers = dict(zip(dict.fromkeys(row["package"] for row in rows), "x+1", strict=False))
    for package, marker in markers.items():
        found = [
            (row["to_plain"]["ratio"], names.index((row["case"], row["n"])))
            for row in rows
            if row["package"] == package and row["degree"] == 20
            and "to_plain" in row and (row["case"], row["n"]) in names
        ]  # fmt: skip
        if found:
            x, y = zip(*found, strict=True)
            axes.plot(x, y, marker, color="C3", label=package)


def document(result: Row, picture: str) -> str:
    """Return the page."""
    plan, about = result["plan"], result["about"]
    budgets = sorted({row["products"] for row in result["traces"]})
    longest = " or ".join(str(steps) for _, steps in plan["pool"].values())
    versions = {row["package"]: row["version"] for row in result["peers"] if "version" in row}
    with_versions = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n\n".join([
        "# Accuracy at equal numbers of products",
        f"Made by `benchmarks/accuracy/equal_products.py` at commit {about['commit']}, "
        f"{plan['seeds']} seeds; `benchmarks/accuracy/report.py` writes this page. "
        "Products are those of the matrix with one vector; in brackets what was really spent.",
        f"![Errors of log-determinants]({picture})",
        "*Plain* is stochastic Lanczos quadrature with random signs and the best fixed split of "
        "the products into R probes of m steps, chosen in hindsight for each matrix, function and "
        "budget, which no user can know. A ratio below 1 is in our favour; in brackets 95 % "
        "intervals: chi-square over seeds, bootstrap over the probes of the baseline. †: its best "
        f"m is the largest that was run ({longest} steps), and a larger one may be better.",
        "Spectra are those of operators with eigenvectors spread over all coordinates, of which "
        "the products, the trace and the Frobenius norm are known, with 10⁻³ added. Lattices, the "
        "random sparse matrix and the kernel are given as matrices. *Covered*: nominal 95 % "
        "intervals that hold.",
        "## Log-determinants",
        targets(result),
        log_determinants(main_rows(result)),
        "## Where no trace of the operator is known",
        without_facts(result["traces"]),
        *(
            f"## Other functions, {products} products: rms error ÷ plain\n\n"
            + other_functions(main_rows(result), products)
            for products in budgets
        ),
        "## Other packages: rms error of log det ÷ plain",
        f"{with_versions}. Twice each: at degree 20, the default of imate and of scikit-primate, "
        "and at the best degree in hindsight.",
        of_peers(result["peers"], result["traces"]),
        "## Do 95 % intervals hold?",
        "Truncation included; over matrices, seeds and budgets, the hostile ones of "
        "`benchmarks/accuracy/intervals.py` among them. The half width is relative to the truth.",
        of_intervals(result["coverage"]),
        "## Densities of states",
        "Wasserstein-1 distance to the spectrum, in thousandths of its width; each method with the "
        "number of probes (in brackets) that is best on average over seeds.",
        of_densities(result["densities"]),
    ]) + "\n"  # fmt: skip


def main() -> None:
    """Write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    folder, name = (Path("out"), "accuracy_quick") if quick else (DOCS, "accuracy")
    folder.mkdir(exist_ok=True)
    result = json.loads((RESULTS / f"{name}.json").read_text())
    figure(result, folder / f"{name}.png")
    (folder / f"{name}.md").write_text(document(result, f"{name}.png"))
    print(folder / f"{name}.md")


if __name__ == "__main__":
    main()
