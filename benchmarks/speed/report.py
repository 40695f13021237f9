"""Write docs/speed.md and its figure from the results of `speed`, and from nothing else."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.accuracy.report import Row, number, table
from benchmarks.measuring.record import DOCS, RESULTS

TITLES = {
    "kpm": ("Densities of states", "Whole calls: checks of the matrix, probes, moments."),
    "steps": (
        "One step, beside the speed of memory",
        "`y = a A x + b x + c y` with both dot products. The floor is a triad on all cores that "
        "moves the same bytes, A once, x once and y twice, in the same run; the ratio is how many "
        "times longer a step takes.",
    ),
    "irregular": (
        "Irregular matrices",
        "Columns far apart cost more than their bytes: each entry of a row reads another cache "
        "line. Reverse Cuthill-McKee brings neighbours together where there is a good order.",
    ),
    "logdet": (
        "Sparse log-determinants",
        "At equal products, and at an equal true error: the exact value and the variance of random "
        "signs are known in closed form. Ours is the cheapest tried setting whose rms error over "
        "seeds is small enough; the other package's probes follow from that variance, and its "
        "steps from a truncation error of less than half the goal. Chebyshev moments need bounds: "
        "their 20 products with one vector are in our seconds.",
    ),
    "dense": ("Dense log-determinants", "matfree is compiled, and warm."),
    "start": (
        "Start",
        "Seconds in new processes; ratios are to the plain path, without compiled code.",
    ),
    "growth": ("Growth", "Exponents of time, and of peak memory beside A, in new processes."),
    "scores": ("Scores of answers", "Seconds of batches are those of a chunk, scaled."),
    "hessian": (
        "Hessians",
        "Ours with the making of the operator and its checks, theirs without; no product can be "
        "cheaper than a gradient.",
    ),
    "gpu": ("On a GPU", ""),
    "lattice": (
        "Lattices without a stored matrix",
        "A step without a product moves x once and y twice: the least that any step moves.",
    ),
}

COLORS = {"float64": 0, "float32": 1, "complex128": 2}

HEAD = ("work", "against", "ours [s]", "theirs [s]", "ratio", "target")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "speed.json")
    parser.add_argument("--page", type=Path, default=DOCS / "speed.md")
    options = parser.parse_args()
    options.page.parent.mkdir(exist_ok=True, parents=True)
    parts = json.loads(options.results.read_text())
    options.page.write_text(page(parts))
    if "steps" in parts:
        picture(parts["steps"]["rows"], options.page.with_suffix(".png"))
    print(f"wrote {options.page}")


def page(parts: dict[str, Any]) -> str:
    """Return the page."""
    sections = [section(name, parts[name]) for name in TITLES if name in parts]
    rows = [row for part in parts.values() for row in part["rows"]]
    seen = ["![Bytes a second of single steps](speed.png)"] if "steps" in parts else []
    return "\n\n".join(["# Speed", how(parts), targets(rows), *seen, *sections]) + "\n"


def picture(rows: list[Row], path: Path) -> None:
    """Draw the bandwidth of single steps by columns, and that of the floor."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        mine = [row for row in rows if row["dtype"] == dtype]
        columns = [row["columns"] for row in mine]
        for key, style, name in (("ours_seconds", "o-", dtype), ("theirs_seconds", ":", None)):
            speeds = [row["bytes"] / row[key]["median"] / 1e9 for row in mine]
            axes.plot(columns, speeds, style, color=f"C{COLORS[dtype]}", label=name)
    axes.set_xscale("log", base=2, subs=[])
    axes.set_xticks(columns, [str(c) for c in columns])
    axes.set(xlabel="columns of the block", ylabel="GB/s", ylim=(0, None))
    axes.set_title("One fused step; dotted: a triad moving the same bytes")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def how(parts: dict[str, Any]) -> str:
    """Return how it was measured, and on what."""
    machines = sorted({
        f"{part['about']['processor']}, {part['about']['cores']} cores" for part in parts.values()
    })
    commits = sorted({part["about"]["commit"] for part in parts.values()})
    return (
        f"Made by `python -m benchmarks.speed` on {'; '.join(machines)} at commit "
        f"{', '.join(commits)}; `benchmarks/speed/report.py` writes this page. "
        "Whole calls, as a user makes them. What is compared runs by turns in one run, after a "
        "warm-up, without Python's garbage collector; "
        "seconds are medians, in brackets the least and the largest. All packages use all cores, "
        "but SciPy's sparse products have one thread. Ratios above 1 are in our favour, except "
        "where the target is an upper limit (≤): there they are times a limit, or exponents."
    )


def targets(rows: list[Row]) -> str:
    """Return which aims were missed."""
    aimed = [row for row in rows if row.get("target") is not None and row.get("ratio") is not None]
    missed = [row for row in aimed if not is_met(row)]
    failed = [row for row in rows if "error" in row]
    lines = [f"{len(aimed) - len(missed)} of {len(aimed)} aims were reached."]
    lines += [
        f"- Missed: {row['work']}, against {row['against']}: {row['ratio']:.2g}, {aim(row)}."
        for row in missed
    ]
    lines += [
        f"- Not run: {row['work']}, against {row['against']}: {row['error']}" for row in failed
    ]
    return "\n".join([lines[0], "", *lines[1:]]).strip()


def is_met(row: Row) -> bool:
    """Whether a ratio reaches its target."""
    return bool(
        row["ratio"] <= row["target"] if row.get("at_most") else row["ratio"] >= row["target"]
    )


def aim(row: Row) -> str:
    """Return a target."""
    if row.get("target") is None:
        return "–"
    return f"{'≤' if row.get('at_most') else '≥'} {row['target']:g}"


def spent(found: dict[str, float] | None) -> str:
    """Return seconds with their spread."""
    if found is None:
        return "–"
    return f"{number(found['median'])} [{number(found['min'])}, {number(found['max'])}]"


def section(name: str, part: Row) -> str:
    """Return the table of a part, with the notes of its rows."""
    title, about = TITLES[name]
    rows = part["rows"]
    lines = [
        (row["work"], row["against"], spent(row.get("ours_seconds")),
         spent(row.get("theirs_seconds", row.get("theirs"))),
         row.get("error", number(row.get("ratio"))), aim(row))
        for row in rows
    ]  # fmt: skip
    notes = sorted({row[key] for row in rows for key in ("note", "checked") if row.get(key)})
    found = [f"## {title}", about, table(HEAD, lines), "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(text for text in found if text)


if __name__ == "__main__":
    main()
