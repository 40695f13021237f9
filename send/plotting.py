"""Plots of a training with SenD. Each takes `Axes`, or makes new ones, and returns them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isclose
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "panels",
    "plot_examinations",
    "plot_history",
    "plot_rates",
    "plot_run",
    "plot_sensitivity",
]

PANELS: dict[str, dict[str, str]] = {
    "loss (nats per token)": {
        "training": "train_loss",
        "tracking set": "tracking_loss",
        "references": "eval_loss",
    },
    "EigenScore": {
        "EigenScore, tracking set": "eigenscore",
        "EigenScore": "eval_eigenscore",
        "EES": "eval_ees",
    },
    "entropy (nats)": {"entropy of the next token": "eval_entropy"},
    "ROUGE-L": {"ROUGE-L F1": "eval_rouge_l"},
    "tokens": {"length of an answer": "eval_length"},
}
"""The panels of `plot_run`: the label of the y axis; by the name of each line, its column."""


def plot_history(history: Sequence[Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """Plot the mean EigenScore and the tracking loss over the checkpoints of a training.

    Parameters
    ----------
    history : sequence of dict
        `SendCallback.history`.
    ax : matplotlib Axes, optional
        New ones unless given.

    Returns
    -------
    matplotlib Axes
        The EigenScore at the left, with a band of one standard error over prompts, and the loss at
        the right, on an axis of its own. Where a mask is on, the background is grey.

    Raises
    ------
    ValueError
        If there is no checkpoint.
    """
    _require(history, "checkpoint")
    ax = _axes(ax)
    scored = [row for row in history if row["eigenscore"] is not None]
    if scored:
        plot_rates(
            {"EigenScore": [row["eigenscore"] for row in scored]},
            x=[row["checkpoint"] for row in scored],
            bands={"EigenScore": [row["eigenscore_stderr"] or 0.0 for row in scored]},
            label="mean EigenScore",
            ax=ax,
        )
    _shade(history, ax)
    checkpoints = [row["checkpoint"] for row in history]
    loss = ax.twinx()
    losses = [row["tracking_loss"] for row in history]
    (line,) = loss.plot(checkpoints, losses, color="C1", linestyle="--", label="tracking loss")
    loss.set_ylabel("tracking loss (nats per token)")
    lines = [*ax.get_lines(), line]
    ax.legend(lines, [str(each.get_label()) for each in lines])
    return ax


def plot_run(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot a whole training: one panel below the other for each kind of number that it has.

    Parameters
    ----------
    history : sequence of dict
        `SendResult.history`.

    Returns
    -------
    matplotlib Figure
        Over the checkpoints: losses; EigenScore, and EES where it differs; entropy; ROUGE-L; the
        length of the answers.
        Bands are the intervals over prompts; of the tracking set, one standard error. Where a mask
        is on, the background is grey. Points stand where there is a number.

    Raises
    ------
    ValueError
        If there is no checkpoint.
    """
    _require(history, "checkpoint")
    panels = _panels(history)
    figure: Figure
    figure, axes = _pyplot().subplots(
        len(panels),
        sharex=True,
        squeeze=False,
        figsize=(7, 2.2 * len(panels)),
        layout="constrained",
    )
    for (label, known), ax in zip(panels.items(), axes[:, 0], strict=True):
        for name, rows in known.items():
            column = PANELS[label][name]
            ends = [_interval(row, column) for row in rows]
            plot_rates(
                {name: [row[column] for row in rows]},
                x=[row["checkpoint"] for row in rows],
                bands={} if None in ends else {name: [pair for pair in ends if pair]},
                label=label,
                ax=ax,
            )
        _shade(history, ax)
        ax.label_outer()
    return figure


def _panels(
    history: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Return, by panel and line, the rows that have the number; only panels with any."""
    scores = [(row["eval_ees"], row["eval_eigenscore"]) for row in _having(history, "eval_ees")]
    # Up to K = 10 answers EES is exact, and its line would hide the other.
    hidden = {"eval_ees"} if all(isclose(*pair, rel_tol=1e-6) for pair in scores) else set()
    found = {
        label: {
            name: rows
            for name, column in columns.items()
            if column not in hidden and (rows := _having(history, column))
        }
        for label, columns in PANELS.items()
    }
    return {label: lines for label, lines in found.items() if lines}


def _having(history: Sequence[Mapping[str, Any]], column: str) -> list[Mapping[str, Any]]:
    return [row for row in history if row.get(column) is not None]


def _interval(row: Mapping[str, Any], column: str) -> tuple[float, float] | None:
    """Return the ends of a number's band, if it has one."""
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    if low is not None and high is not None:
        return low, high
    error = row.get(f"{column}_stderr")
    return None if error is None else (row[column] - error, row[column] + error)


def _shade(history: Sequence[Mapping[str, Any]], ax: Axes) -> None:
    """Make the background grey where a mask is on, and the checkpoints the x axis."""
    for row in history:
        if row["masked"]:
            start = row["checkpoint"]
            ax.axvspan(start, start + 1, color="0.92", linewidth=0, zorder=0)
    checkpoints = [row["checkpoint"] for row in history]
    ax.set_xlim(min(checkpoints), max(*checkpoints, 1))
    _count_checkpoints(ax)


def plot_sensitivity(history: Sequence[Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """Plot the sensitivity of each embedding index at the last choice of a mask that was applied.

    Parameters
    ----------
    history : sequence of dict
        `SendCallback.history`.
    ax : matplotlib Axes, optional
        New ones unless given.

    Returns
    -------
    matplotlib Axes
        On a logarithmic scale; the indices that were dropped stand out. A choice at the very last
        checkpoint dropped nothing any more: it is shown only if there is no other, as "chosen".

    Raises
    ------
    ValueError
        If no checkpoint has chosen a mask yet.
    """
    chosen = [row for row in history if row["sensitivity"] is not None]
    _require(chosen, "choice of a mask: it needs a full window of checkpoints")
    ax = _axes(ax)
    applied = [row for row in chosen if row["checkpoint"] < history[-1]["checkpoint"]]
    row = (applied or chosen)[-1]
    masked = set(row["masked"])
    word = "dropped" if applied else "chosen"
    for label, color, wanted in (("kept", "0.6", False), (word, "C3", True)):
        indices = [i for i in range(len(row["sensitivity"])) if (i in masked) is wanted]
        if indices:
            heights = [row["sensitivity"][i] for i in indices]
            ax.plot(indices, heights, ".", color=color, label=f"{label} ({len(indices)})")
    if max(row["sensitivity"]) > 0:
        ax.set_yscale("log", nonpositive="mask")
    ax.set_xlabel("embedding index")
    ax.set_ylabel("sensitivity $V_i$")
    ax.set_title(f"chosen at checkpoint {row['checkpoint']}")
    ax.legend()
    return ax


def plot_rates(
    series: Mapping[str, Sequence[float]],
    *,
    x: Sequence[float] | None = None,
    bands: Mapping[str, Sequence[float | tuple[float, float]]] | None = None,
    label: str = "rate",
    unit: str = "checkpoint",
    ax: Axes | None = None,
) -> Axes:
    """Plot some quantities over the checkpoints, one line each.

    Parameters
    ----------
    series : mapping of str to sequence of float
        Values at each checkpoint, by the name that the legend shows.
    x : sequence of float, optional
        The checkpoints, 0, 1, ... unless given.
    bands : mapping of str to sequence of float, optional
        By name, the half widths of a band around a line, such as standard errors; or its ends, a
        pair (low, high) for each value.
    label, unit : str
        Of the y axis, and of the x axis.
    ax : matplotlib Axes, optional
        New ones unless given.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If there is no series, or a band has no line of its name.
    """
    _require(series, "series")
    bands = bands or {}
    if not bands.keys() <= series.keys():
        msg = f"the bands {sorted(bands.keys() - series.keys())} have no series of that name."
        raise ValueError(msg)
    ax = _axes(ax)
    for name, values in series.items():
        places = range(len(values)) if x is None else x
        (line,) = ax.plot(places, values, marker=".", label=name)
        if name in bands:
            ends = [_ends(*pair) for pair in zip(values, bands[name], strict=True)]
            ax.fill_between(
                places,
                [low for low, _ in ends],
                [high for _, high in ends],
                color=line.get_color(),
                alpha=0.2,
                linewidth=0,
            )
    _count_checkpoints(ax, unit)
    ax.set_ylabel(label)
    ax.legend()
    return ax


def plot_examinations(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], *, mask_begins: int | None = None
) -> Figure:
    """Plot EigenScore and hallucination rates of several trainings over their epochs.

    Parameters
    ----------
    arms : mapping of str to sequence of dict
        By the name that the legends show, `send.demo.experiment.Examiner.rows`.
    mask_begins : int, optional
        The epoch from which SenD drops indices: a dotted line.

    Returns
    -------
    matplotlib Figure
        A panel for the mean EigenScore, with one standard error over prompts, and one for the rate
        of each group of people, with its interval over questions.
    """

    def draw(
        ax: Axes, label: str, value: Callable[[Any], float], band: Callable[[Any], Any]
    ) -> None:
        plot_rates(
            {arm: [value(row) for row in rows] for arm, rows in arms.items()},
            bands={arm: [band(row) for row in rows] for arm, rows in arms.items()},
            label=label,
            unit="epoch",
            ax=ax,
        )
        if mask_begins is not None:
            style: dict[str, Any] = {"color": "0.4", "linestyle": ":", "linewidth": 1}
            ax.axvline(mask_begins, label="SenD's mask begins", **style)
        ax.legend()

    def scores(ax: Axes) -> None:
        draw(
            ax,
            "mean EigenScore",
            lambda row: row["eigenscore"]["all"],
            lambda row: row["eigenscore_stderr"],
        )
        ax.set_title("band: one standard error over prompts")

    def rates(ax: Axes, group: str) -> None:
        def interval(row: Any) -> tuple[float, float]:
            return row["rates"][group]["low"], row["rates"][group]["high"]

        draw(ax, "hallucination rate", lambda row: row["rates"][group]["rate"], interval)
        ax.set_title(f"{group} people")
        ax.set_ylim(-0.03, 1.03)  # room for the markers at 0 and 1

    return panels(
        [scores, *(partial(rates, group=group) for group in ("known", "new", "unknown"))],
        title="One run. Bands of rates: 95 % intervals over questions, not over trainings",
    )


def panels(draw: Sequence[Callable[[Axes], Any]], *, title: str | None = None) -> Figure:
    """Return a picture of some panels, two in a row, each drawn by a function of its axes.

    Parameters
    ----------
    draw : sequence of callable
        One for each panel.
    title : str, optional
        Above all.

    Returns
    -------
    matplotlib Figure
        Which pyplot does not know: it goes when it is not used any more.
    """
    from matplotlib.figure import Figure

    columns = min(2, len(draw))
    rows = -(-len(draw) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.8 * rows), dpi=140, layout="constrained")
    for ax, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, draw, strict=True):
        panel(ax)
    if title is not None:
        figure.suptitle(title)
    return figure


def _ends(value: float, band: float | tuple[float, float]) -> tuple[float, float]:
    return band if isinstance(band, tuple) else (value - band, value + band)


def _require(things: Sequence[Any] | Mapping[str, Any], what: str) -> None:
    if not things:
        msg = f"there is nothing to plot yet: no {what}."
        raise ValueError(msg)


def _count_checkpoints(ax: Axes, unit: str = "checkpoint") -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel(unit)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _axes(ax: Axes | None) -> Axes:
    return _pyplot().subplots()[1] if ax is None else ax


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        msg = "plots need matplotlib: pip install 'specdens[plot]'"
        raise ImportError(msg) from None
    return plt
