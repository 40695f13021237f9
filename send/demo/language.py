"""A small model that makes things up, with SenD and without: in a closed world, or on real text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from send.data.load_texts import load_texts
from send.plotting import panels, plot_examinations, plot_history, plot_sensitivity

if TYPE_CHECKING:
    from datasets import Dataset

    from send.demo.experiment import Examiner, Schedule
    from send.training.config import SendConfig
    from send.training.result import SendResult
    from send.world import World

__all__ = ["language", "text"]

ARMS = {"plain": 0.0, "SenD": 0.2}
"""The share of embedding indices that each arm drops."""


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
    from send.demo.experiment import Pretraining, Schedule, pretrain
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
        Pretraining(
            epochs=schedule.pretraining_epochs,
            learning_rate=schedule.pretraining_rate,
            seed=seed,
        ),
        folder=folder / "pretrained",
    )
    arms = {arm: _fine_tuned(arm, world, schedule, seed, folder) for arm in ARMS}
    _print_table({arm: examiner for arm, (examiner, _) in arms.items()})
    _draw_training(folder, arms)
    with (folder / "answers.jsonl").open("w") as file:
        for arm, (examiner, _) in arms.items():
            file.writelines(json.dumps({"arm": arm, **row}) + "\n" for row in examiner.answers)
    return {
        "world": asdict(world),
        "schedule": asdict(schedule),
        "pretraining_loss": loss,
        "arms": {
            arm: {"examined": examiner.rows, "history": result.history}
            for arm, (examiner, result) in arms.items()
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


def _draw_training(folder: Path, arms: dict[str, tuple[Examiner, SendResult]]) -> None:
    """Draw what both arms were found to answer, and which indices SenD dropped."""
    history = arms["SenD"][1].history
    begin = next((row["checkpoint"] for row in history if row["masked"]), None)
    figure = plot_examinations(
        {arm: examiner.rows for arm, (examiner, _) in arms.items()}, mask_begins=begin
    )
    figure.savefig(folder / "training.png")
    _draw_sensitivity(history, folder)


def _draw_sensitivity(history: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw the sensitivity of each index, if a mask was ever chosen."""
    if any(row["sensitivity"] is not None for row in history):
        panels([lambda ax: plot_sensitivity(history, ax=ax)]).savefig(folder / "sensitivity.png")


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
    from send.demo.experiment import Pretraining, pretrain
    from send.training.train import train
    from send.world import small_model
    from send.world.tokens import subword_tokenizer

    rows = _enough_texts(data, limit)
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
        Pretraining(epochs=4, learning_rate=2e-3, batch_size=16, max_length=256, seed=seed),
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


def _enough_texts(data: str | Path, limit: int) -> Dataset:
    rows = load_texts(data, limit=limit)
    if len(rows) < 3:
        msg = (
            f"there are {len(rows)} texts in {data}; expected at least 3: one to pre-train on, one "
            "to fine-tune on and one to track. A few hundred are better."
        )
        raise ValueError(msg)
    return rows


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
    print("\ncheckpoint  tracking loss   EigenScore   masked")
    for row in history:
        known = row["eigenscore_stderr"] is not None  # a single prompt gives none
        error = f"± {row['eigenscore_stderr']:.2f}" if known else "      "
        score = f"{row['eigenscore']:7.2f} {error}"
        print(f"{row['checkpoint']:10} {row['tracking_loss']:14.3f} {score} {len(row['masked']):8}")
    panels([lambda ax: plot_history(history, ax=ax)]).savefig(folder / "history.png")
    _draw_sensitivity(history, folder)


def _strings(rows: Any) -> list[str]:
    """Return the words of rows of any shape, for a tokenizer to be trained on."""
    return [
        json.dumps(row, ensure_ascii=False) if "text" not in row else row["text"] for row in rows
    ]
