"""Plots of a training with SenD. Each takes `Axes`, or makes new ones, and returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_history", "plot_rates", "plot_sensitivity"]


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
    for row in history:
        if row["masked"]:
            start = row["checkpoint"]
            ax.axvspan(start, start + 1, color="0.92", linewidth=0, zorder=0)
    checkpoints = [row["checkpoint"] for row in history]
    ax.set_xlim(min(checkpoints), max(*checkpoints, 1))
    _count_checkpoints(ax)
    loss = ax.twinx()
    losses = [row["tracking_loss"] for row in history]
    (line,) = loss.plot(checkpoints, losses, color="C1", linestyle="--", label="tracking loss")
    loss.set_ylabel("tracking loss (nats per token)")
    lines = [*ax.get_lines(), line]
    ax.legend(lines, [str(each.get_label()) for each in lines])
    return ax


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
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        msg = "plots need matplotlib: pip install 'specdens[plot]'"
        raise ImportError(msg) from None
    return plt.subplots()[1]
