"""Plots show what the history holds, on the axes that they are given."""

import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from send.plotting import (
    plot_examinations,
    plot_history,
    plot_rates,
    plot_run,
    plot_sensitivity,
)


def row(checkpoint, **values):
    defaults = {
        "tracking_loss": 3.0 - 0.5 * checkpoint,
        "eigenscore": -4.0 + checkpoint,
        "eigenscore_stderr": 0.25,
        "masked": [],
        "sensitivity": None,
    }
    return {"checkpoint": checkpoint, **defaults, **values}


@pytest.fixture
def history():
    return [
        row(0),
        row(1),
        row(2, masked=[1, 3], sensitivity=[0.1, 2.0, 0.0, 3.0, 0.2]),
        row(3, masked=[1, 3]),
    ]


@pytest.fixture
def ax():
    return Figure().subplots()


def lines(ax):
    return {str(line.get_label()): line for line in ax.get_lines()}


def test_history_has_score_loss_and_band(history, ax):
    assert plot_history(history, ax=ax) is ax
    score = lines(ax)["EigenScore"]
    assert score.get_xdata().tolist() == [0, 1, 2, 3]
    assert score.get_ydata().tolist() == [-4, -3, -2, -1]
    (band,) = ax.collections
    vertices = band.get_paths()[0].vertices
    assert (vertices[:, 1].min(), vertices[:, 1].max()) == (-4.25, -0.75)
    (loss_ax,) = (other for other in ax.figure.axes if other is not ax)
    assert lines(loss_ax)["tracking loss"].get_ydata().tolist() == [3.0, 2.5, 2.0, 1.5]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["EigenScore", "tracking loss"]


def test_history_is_grey_where_the_mask_is_on(history, ax):
    plot_history(history, ax=ax)
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
    assert spans == [(2, 3), (3, 4)]


def test_history_without_scores_or_errors(ax):
    plot_history([row(0, eigenscore_stderr=None), row(1, eigenscore=None)], ax=ax)
    assert lines(ax)["EigenScore"].get_xdata().tolist() == [0]
    other = Figure().subplots()
    plot_history([row(0, eigenscore=None)], ax=other)
    assert not other.get_lines()


def test_sensitivity_marks_the_dropped_indices(history, ax):
    assert plot_sensitivity(history, ax=ax) is ax
    drawn = lines(ax)
    assert drawn["dropped (2)"].get_xdata().tolist() == [1, 3]
    assert drawn["dropped (2)"].get_ydata().tolist() == [2.0, 3.0]
    assert drawn["kept (3)"].get_xdata().tolist() == [0, 2, 4]
    assert ax.get_yscale() == "log"


def test_sensitivity_is_that_of_the_last_choice_that_was_applied(history, ax):
    history.append(row(4, masked=[0], sensitivity=[9.0, 1.0, 1.0, 1.0, 1.0]))
    plot_sensitivity(history, ax=ax)
    assert lines(ax)["dropped (2)"].get_ydata().tolist() == [2.0, 3.0]
    assert ax.get_title() == "chosen at checkpoint 2"
    history.append(row(5, masked=[0]))
    ax.clear()
    plot_sensitivity(history, ax=ax)
    assert lines(ax)["dropped (1)"].get_ydata().tolist() == [9.0]
    assert ax.get_title() == "chosen at checkpoint 4"


def test_a_choice_at_the_end_dropped_nothing(history, ax):
    plot_sensitivity(history[:3], ax=ax)
    assert set(lines(ax)) == {"kept (3)", "chosen (2)"}


def test_sensitivity_where_nothing_moved_or_was_dropped(ax):
    plot_sensitivity([row(2, sensitivity=[0.0, 0.0])], ax=ax)
    assert list(lines(ax)) == ["kept (2)"]
    assert ax.get_yscale() == "linear"


def test_rates_are_lines_with_their_bands(ax):
    series = {"plain": [0.1, 0.2], "SenD": [0.3, 0.1]}
    assert plot_rates(series, bands={"SenD": [0.05, 0.05]}, label="share", ax=ax) is ax
    drawn = lines(ax)
    assert {name: line.get_ydata().tolist() for name, line in drawn.items()} == series
    assert drawn["plain"].get_xdata().tolist() == [0, 1]
    (band,) = ax.collections
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(0.35)
    assert ax.get_ylabel() == "share"


def test_bands_may_be_given_by_their_ends(ax):
    plot_rates({"a": [0.1, 0.2]}, bands={"a": [(0.0, 0.4), (0.1, 0.6)]}, unit="epoch", ax=ax)
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.0, 0.6)
    assert ax.get_xlabel() == "epoch"


def test_rates_at_given_checkpoints(ax):
    plot_rates({"plain": [0.1, 0.2]}, x=[0, 4], ax=ax)
    assert lines(ax)["plain"].get_xdata().tolist() == [0, 4]


@pytest.mark.parametrize("draw", [plot_history, plot_sensitivity])
def test_axes_are_made_if_none_are_given(history, draw):
    before, settings = plt.get_fignums(), dict(plt.rcParams)
    ax = draw(history)
    try:
        assert ax.figure.number not in before
        assert dict(plt.rcParams) == settings
    finally:
        plt.close(ax.figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_history([]), "no checkpoint"),
        (lambda: plot_sensitivity([row(0)]), "no choice of a mask"),
        (lambda: plot_rates({}), "no series"),
        (lambda: plot_rates({"a": [1.0]}, bands={"b": [1.0]}), r"\['b'\] have no series"),
    ],
)
def test_nothing_to_plot_says_so(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def evaluated(checkpoint, **values):
    found = {"train_loss": None if checkpoint == 0 else 2.0, **values}
    for name, value in {"eigenscore": -3.0, "ees": -3.0, "entropy": 1.5, "rouge_l": 0.5}.items():
        ends = {"": value, "_low": value - 0.25, "_high": value + 0.25}
        found |= {f"eval_{name}{end}": x + checkpoint for end, x in ends.items()}
    return row(checkpoint, **found)


@pytest.fixture
def run():
    rows = [evaluated(0), evaluated(1), evaluated(2, masked=[1]), row(3)]
    figure = plot_run(rows)
    yield {ax.get_ylabel(): ax for ax in figure.axes}
    plt.close(figure)


def test_a_run_has_a_panel_for_each_kind_of_number_that_there_is(run):
    assert list(run) == ["loss (nats per token)", "EigenScore", "entropy (nats)", "ROUGE-L"]
    assert set(lines(run["loss (nats per token)"])) == {"training", "tracking set"}
    assert set(lines(run["EigenScore"])) == {"EigenScore, tracking set", "EigenScore"}
    line = lines(run["ROUGE-L"])["ROUGE-L F1"]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0, 1, 2], [0.5, 1.5, 2.5])
    assert lines(run["loss (nats per token)"])["training"].get_xdata().tolist() == [1, 2]


def test_panels_share_the_checkpoints_and_show_intervals_and_masks(run):
    for label, ax in run.items():
        assert ax.get_xlim() == (0, 3)
        assert [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches] == [(2, 3)]
        assert ax.get_xlabel() == ("checkpoint" if label == "ROUGE-L" else "")
    (band,) = run["entropy (nats)"].collections
    vertices = band.get_paths()[0].vertices
    assert (vertices[:, 1].min(), vertices[:, 1].max()) == (1.25, 3.75)
    assert len(run["EigenScore"].collections) == 2  # of the tracking set: standard errors
    assert not run["loss (nats per token)"].collections


def test_ees_has_a_line_of_its_own_where_it_differs():
    figure = plot_run([evaluated(0) | {"eval_ees": -2.0}, evaluated(1)])
    assert "EES" in lines(figure.axes[1])
    plt.close(figure)


def test_a_run_without_scores_has_losses_alone():
    figure = plot_run([row(0, eigenscore=None), row(1, eigenscore=None)])
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss (nats per token)"]
    plt.close(figure)
    with pytest.raises(ValueError, match="no checkpoint"):
        plot_run([])


def test_each_panel_shows_its_own_group(examinations):
    scores, *rates = plot_examinations(examinations, mask_begins=1).axes
    lines = {line.get_label(): line.get_ydata() for line in scores.get_lines()}
    assert list(lines) == [*examinations, "SenD's mask begins"]
    for arm, rows in examinations.items():
        assert list(lines[arm]) == [row["eigenscore"]["all"] for row in rows]
    assert [ax.get_title() for ax in rates] == ["known people", "new people", "unknown people"]
    for ax, group in zip(rates, ("known", "new", "unknown"), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
        bands = dict(zip(examinations, ax.collections, strict=True))
        for arm, rows in examinations.items():
            assert list(lines[arm]) == [row["rates"][group]["rate"] for row in rows]
            heights = bands[arm].get_paths()[0].vertices[:, 1]
            assert heights.min() == min(row["rates"][group]["low"] for row in rows)
            assert heights.max() == max(row["rates"][group]["high"] for row in rows)
        assert ax.get_xlabel() == "epoch"
