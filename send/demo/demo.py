"""The demonstration: a spectrum against exact values, then SenD against plain fine-tuning.

Nothing is downloaded. What is printed was measured on the spot, whichever side it favours; one run
of a small model shows how things work, and proves nothing about SenD.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import specdens
from specdens.plotting import plot_convergence, plot_density
from specdens.testing import laplacian, laplacian_eigenvalues

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from send.demo.experiment import Examiner, Schedule
    from send.training.config import SendConfig
    from send.training.result import SendResult
    from send.world import World

__all__ = ["language", "run", "spectra", "text"]

ARMS = {"plain": 0.0, "SenD": 0.2}
"""The share of embedding indices that each arm drops."""


def run(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Run both parts of the demonstration; write pictures, numbers and models.

    Parameters
    ----------
    folder : Path
        Gets ``spectra.png``, ``training.png``, ``sensitivity.png``, ``demo.json``,
        ``answers.jsonl``, and the models ``pretrained``, ``plain`` and ``SenD``.
    seed : int
        Of everything.

    Returns
    -------
    dict
        What ``demo.json`` holds.
    """
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "seed": seed,
        "spectra": spectra(folder, seed=seed),
        "language": language(folder, seed=seed),
    }
    report["seconds"] = time.perf_counter() - started
    (folder / "demo.json").write_text(json.dumps(report, indent=1))
    print(f"\n{report['seconds']:.0f} s in all. Pictures, numbers and models are in {folder}/")
    return report


# The spectrum of a lattice -----------------------------------------------------------------------


def spectra(folder: Path, *, side: int = 100, seed: int = 0) -> dict[str, Any]:
    """Estimate log-determinant and density of states of a 3-D lattice, beside the exact ones.

    Parameters
    ----------
    folder : Path
        Gets ``spectra.png``.
    side : int
        The lattice has ``side ** 3`` sites.
    seed : int
        Of the probes.

    Returns
    -------
    dict
    """
    print(f"1. The Laplacian of a {side} x {side} x {side} lattice, zero at its boundary")
    matrix, exact = laplacian(side, side, side), laplacian_eigenvalues(side, side, side)
    truth = float(np.log(exact).sum())
    runs = {}
    for key, moments in enumerate((100, 50, 25)):  # other probes each: independent intervals
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", specdens.AccuracyWarning)  # few moments: it is drawn
            _, runs[moments] = specdens.logdet(
                matrix,
                moments=moments,
                probes=8,
                method="lanczos",
                rng=seed + key,
                return_info=True,
            )
        if moments == 100:
            seconds = time.perf_counter() - started
    info = runs[100]
    low, high = info.interval(0.95)
    print(f"   log det, exact      {truth:14.1f}   (closed form)")
    print(f"   log det, estimated  {float(info):14.1f}   {info.matvecs} products, {seconds:.1f} s")
    print(f"   95 % interval       [{low:.1f}, {high:.1f}] {_holds(low, truth, high)}")
    print(f"   standard error {info.stderr:.1f}, truncation about {info.bias_bound:.1f}")
    rho = specdens.density(matrix, moments=256, probes=4, rng=seed)
    x = np.linspace(0, 12, 25)[1:-1]
    counted = np.searchsorted(exact, x) / len(exact)
    worst = float(np.abs(rho.cumulative(x) - counted).max())
    print(f"   share of eigenvalues below 23 energies: off by {worst:.5f} at most")
    _save(
        folder / "spectra.png",
        [
            lambda ax: _draw_spectrum(ax, rho, exact),
            lambda ax: _draw_logdet(ax, runs, truth),
        ],
    )
    return {
        "sites": len(exact),
        "exact": truth,
        "estimate": float(info),
        "stderr": info.stderr,
        "bias_bound": info.bias_bound,
        "interval_95": [low, high],
        "matvecs": info.matvecs,
        "seconds": seconds,
        "largest_error_of_cumulative": worst,
    }


def _holds(low: float, truth: float, high: float) -> str:
    return "holds the exact value" if low <= truth <= high else "MISSES the exact value"


def _draw_spectrum(ax: Axes, rho: specdens.SpectralDensity, exact: np.ndarray[Any, Any]) -> None:
    ax.hist(exact, bins=240, density=True, color="0.8", label="exact eigenvalues")
    plot_density(rho, ax=ax, label="256 moments, 4 probes")
    ax.set_title(f"Laplacian of {len(exact):,} sites")
    ax.legend(loc="lower center")  # over the grey: no other place is free


def _draw_logdet(ax: Axes, runs: dict[int, specdens.Estimate], truth: float) -> None:
    steps = sorted(runs)
    plot_convergence(
        steps,
        [runs[m] for m in steps],
        truth=truth,
        ax=ax,
        fmt="o",  # no line between independent runs
        capsize=4,
        label="95 % interval",
    )
    ax.set_xticks(steps)
    ax.lines[-1].set_label("exact")
    ax.set_title("log-determinant, each with probes of its own")
    ax.set_ylabel("log det")
    ax.legend()


# A model that makes things up --------------------------------------------------------------------


@contextmanager
def _small_scale() -> Iterator[None]:
    """Compute with one thread and without the bars of data sets, for a while."""
    import datasets
    import torch

    threads, bars = torch.get_num_threads(), datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # a model this small loses more by waiting for a second thread
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if not bars:
            datasets.enable_progress_bars()


@_small_scale()
def language(
    folder: Path, *, seed: int = 0, world: World | None = None, schedule: Schedule | None = None
) -> dict[str, Any]:
    """Pre-train a small model on a closed world; fine-tune it on new people with and without SenD.

    Parameters
    ----------
    folder : Path
        Gets the pictures ``training.png`` and ``sensitivity.png``, every answer in
        ``answers.jsonl``, and the models.
    seed : int
        Of the world, the weights, the batches and the sampled answers.
    world : World, optional
        Default 200 known people, 80 new, 60 unknown.
    schedule : Schedule, optional
        How long to train, and how much to ask.

    Returns
    -------
    dict
        For each arm, what was found at every epoch.
    """
    from send.demo.experiment import Schedule, pretrain
    from send.world import World, small_model

    world = World(seed, people=200) if world is None else world
    schedule = Schedule() if schedule is None else schedule
    tokenizer = world.tokenizer()
    print(
        f"\n2. A closed world: {world.people} known people, {world.new_people} new ones, "
        f"{world.unknown_people} of whom nothing is known\n"
        "   Pre-training on the known people:"
    )
    loss = pretrain(
        small_model(tokenizer, seed=seed),
        world.pretraining_rows(),
        tokenizer,
        epochs=schedule.pretraining_epochs,
        learning_rate=schedule.pretraining_rate,
        seed=seed,
        folder=folder / "pretrained",
    )
    found = {arm: _fine_tuned(arm, world, schedule, seed, folder) for arm in ARMS}
    _print_table({arm: examiner for arm, (examiner, _) in found.items()})
    _draw_training(folder, found)
    with (folder / "answers.jsonl").open("w") as file:
        for arm, (examiner, _) in found.items():
            file.writelines(json.dumps({"arm": arm, **row}) + "\n" for row in examiner.answers)
    return {
        "world": asdict(world),
        "schedule": asdict(schedule),
        "pretraining_loss": loss,
        "arms": {
            arm: {"examined": examiner.rows, "history": result.history}
            for arm, (examiner, result) in found.items()
        },
    }


def _fine_tuned(
    arm: str, world: World, schedule: Schedule, seed: int, folder: Path
) -> tuple[Examiner, SendResult]:
    from send.demo.experiment import Examiner, fine_tune

    print(f"   Fine-tuning on the new people, {arm}:")
    examiner = Examiner(world, schedule, seed=seed)
    result = fine_tune(
        world,
        folder / "pretrained",
        examiner,
        schedule,
        drop_fraction=ARMS[arm],
        seed=seed,
        folder=folder / arm,
    )
    return examiner, result


def _print_table(arms: dict[str, Examiner]) -> None:
    """Print hallucination rates and EigenScore of both arms at every epoch."""
    print(
        "\n   Hallucination rate (wrong answers, counted by the record) and mean EigenScore: the\n"
        "   higher, the more the sampled answers differ. Both arms coincide until the first mask.\n"
        "\n"
        "   epoch  arm      known    new  unknown   EigenScore"
    )
    for rows in zip(*(examiner.rows for examiner in arms.values()), strict=True):
        for arm, row in zip(arms, rows, strict=True):
            known, new, unknown = (row["rates"][g]["rate"] for g in ("known", "new", "unknown"))
            print(
                f"   {row['epoch']:5}  {arm:6} {known:7.3f} {new:6.3f} {unknown:8.3f}   "
                f"{row['eigenscore']['all']:7.2f} ± {row['eigenscore_stderr']:.2f}"
            )
    last = {arm: examiner.rows[-1]["rates"]["unknown"] for arm, examiner in arms.items()}
    plain, send = last["plain"], last["SenD"]
    print(
        f"\n   On unknown people, at the end: plain {_rate(plain)}, SenD {_rate(send)}.\n"
        "   One run: the intervals know the questions' chance, not that of another training."
    )


def _rate(found: dict[str, Any]) -> str:
    return f"{found['rate']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _draw_training(folder: Path, found: dict[str, tuple[Examiner, SendResult]]) -> None:
    """Draw EigenScore and hallucination rates over training, and the sensitivity of each index."""
    from send.plotting import plot_rates, plot_sensitivity

    rows = {arm: examiner.rows for arm, (examiner, _) in found.items()}
    history = found["SenD"][1].history
    begin = next((row["checkpoint"] for row in history if row["masked"]), None)

    def draw(
        ax: Axes, label: str, values: Callable[[Any], float], band: Callable[[Any], Any]
    ) -> None:
        plot_rates(
            {arm: [values(row) for row in each] for arm, each in rows.items()},
            bands={arm: [band(row) for row in each] for arm, each in rows.items()},
            label=label,
            unit="epoch",
            ax=ax,
        )
        if begin is not None:
            ax.axvline(begin, color="0.4", linestyle=":", linewidth=1, label="SenD's mask begins")
        ax.legend()

    def scores(ax: Axes) -> None:
        draw(
            ax,
            "mean EigenScore",
            lambda row: row["eigenscore"]["all"],
            lambda row: row["eigenscore_stderr"],
        )
        ax.set_title("band: one standard error over prompts")

    def rates(group: str) -> Callable[[Axes], None]:
        def panel(ax: Axes) -> None:
            draw(
                ax,
                "hallucination rate",
                lambda row: row["rates"][group]["rate"],
                lambda row: (row["rates"][group]["low"], row["rates"][group]["high"]),
            )
            ax.set_title(f"{group} people")
            ax.set_ylim(-0.03, 1.03)  # room for the markers at 0 and 1

        return panel

    _save(
        folder / "training.png",
        [scores, *(rates(group) for group in ("known", "new", "unknown"))],
        columns=2,
        title="One run. Bands of rates: 95 % intervals over questions, not over trainings",
    )
    if any(row["sensitivity"] is not None for row in history):
        _save(folder / "sensitivity.png", [lambda ax: plot_sensitivity(history, ax=ax)])


def _save(
    path: Path, draw: Sequence[Callable[[Axes], Any]], *, columns: int = 2, title: str | None = None
) -> None:
    """Draw some panels into one picture, row by row."""
    from matplotlib.figure import Figure

    columns = min(columns, len(draw))
    rows = -(-len(draw) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.8 * rows), layout="constrained")
    for ax, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, draw, strict=True):
        panel(ax)
    if title is not None:
        figure.suptitle(title)
    figure.savefig(path, dpi=140)


# Real text ---------------------------------------------------------------------------------------


@_small_scale()
def text(
    data: str | Path, folder: Path, *, limit: int = 400, seed: int = 0, epochs: int = 8
) -> dict[str, Any]:
    """Pre-train a small model on three quarters of some texts, and fine-tune it on the others.

    Parameters
    ----------
    data : str or Path
        What `send.load_texts` reads: for example a file of articles.
    folder : Path
        Gets ``history.png``, ``sensitivity.png``, ``text.json``, and the models.
    limit : int
        How many texts to take.
    seed : int
        Of everything.
    epochs : int
        Of the fine-tuning.

    Returns
    -------
    dict
        What ``text.json`` holds.

    Raises
    ------
    FileNotFoundError, ValueError
        If the texts cannot be read, see `send.load_texts`, or are less than 3.
    """
    from send.data.load_texts import load_texts
    from send.demo.experiment import pretrain
    from send.training.trainer import train
    from send.world import small_model
    from send.world.tokens import subword_tokenizer

    rows = load_texts(data, limit=limit)
    if len(rows) < 3:
        msg = (
            f"there are {len(rows)} texts in {data}; expected at least 3: one to pre-train on, one "
            "to fine-tune on and one to track. A few hundred are better."
        )
        raise ValueError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = subword_tokenizer(_strings(rows))
    cut = min(round(0.75 * len(rows)), len(rows) - 2)
    print(
        f"{len(rows)} texts from {data}; a vocabulary of {len(tokenizer)}\nPre-training on {cut}:"
    )
    loss = pretrain(
        small_model(tokenizer, positions=256, seed=seed),
        rows.select(range(cut)),
        tokenizer,
        epochs=4,
        learning_rate=2e-3,
        batch_size=16,
        max_length=256,
        seed=seed,
        folder=folder / "pretrained",
    )
    print(f"mean loss {loss:.3f}\nFine-tuning on {len(rows) - cut} with SenD:")
    result = train(
        folder / "pretrained",
        rows.select(range(cut, len(rows))),
        config=_text_config(folder, epochs, seed),
        processing_class=tokenizer,
    )
    result.save(folder / "SenD")
    _show_history(result.history, folder)
    report = {"data": str(data), "texts": len(rows), "history": result.history}
    (folder / "text.json").write_text(json.dumps(report, indent=1))
    print(f"\nPictures, numbers and models are in {folder}/")
    return report


def _text_config(folder: Path, epochs: int, seed: int) -> SendConfig:
    from send.demo.experiment import quiet
    from send.training.config import SendConfig

    return SendConfig(
        output_dir=str(folder / "SenD"),
        num_train_epochs=epochs,
        learning_rate=3e-4,
        per_device_train_batch_size=8,
        max_length=256,
        score_prompts=8,
        max_new_tokens=24,
        **quiet(seed),
    )


def _show_history(history: Sequence[dict[str, Any]], folder: Path) -> None:
    """Print and draw what was measured at each checkpoint."""
    from send.plotting import plot_history, plot_sensitivity

    print("\ncheckpoint  tracking loss   EigenScore   masked")
    for row in history:
        known = row["eigenscore_stderr"] is not None  # a single prompt gives none
        error = f"± {row['eigenscore_stderr']:.2f}" if known else "      "
        score = f"{row['eigenscore']:7.2f} {error}"
        print(f"{row['checkpoint']:10} {row['tracking_loss']:14.3f} {score} {len(row['masked']):8}")
    _save(folder / "history.png", [lambda ax: plot_history(history, ax=ax)])
    if any(row["sensitivity"] is not None for row in history):
        _save(folder / "sensitivity.png", [lambda ax: plot_sensitivity(history, ax=ax)])


def _strings(rows: Any) -> list[str]:
    """Return the words of rows of any shape, for a tokenizer to be trained on."""
    return [
        json.dumps(row, ensure_ascii=False) if "text" not in row else row["text"] for row in rows
    ]
