"""Plots: an Axes in, the same out; a new one otherwise; bands where there is chance."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from specdens import density, local_density, logdet
from specdens.plotting import plot_convergence, plot_cumulative, plot_density
from specdens.testing import laplacian

L = laplacian(12, 12)
RHO = density(L, method="chebyshev", rng=0, moments=60)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("plot", [plot_density, plot_cumulative])
def test_axes_in_axes_out(plot):
    ax = plt.subplots()[1]
    assert plot(RHO, ax=ax, label="here", color="k") is ax
    assert ax.lines[0].get_label() == "here"
    assert len(ax.collections) == 1
    assert ax.get_xlabel() == "eigenvalue"
    assert plot(RHO) is not ax


@pytest.mark.parametrize("plot", [plot_density, plot_cumulative])
def test_no_band_without_chance_and_a_line_for_every_site(plot):
    assert len(plot(density(L, method="exact")).collections) == 0
    assert len(plot(local_density(L, [0, 5, 70])).lines) == 3


def test_the_curve_is_the_density():
    line = plot_density(RHO).lines[0]
    assert np.allclose(line.get_ydata(), RHO(line.get_xdata()))
    line = plot_cumulative(RHO).lines[0]
    assert np.allclose(line.get_ydata(), 144 * RHO.cumulative(line.get_xdata()))


def test_convergence_shows_intervals_and_the_truth():
    options = {"method": "lanczos", "bounds": (0.1, 8.0), "rng": 0, "return_info": True}
    infos = [logdet(L, moments=m, **options)[1] for m in (40, 80)]
    ax = plot_convergence([40, 80], infos, truth=float(logdet(L)))
    assert ax.lines[-1].get_ydata()[0] == pytest.approx(float(logdet(L)))
    bars = ax.collections[0].get_segments()
    low, high = infos[0].interval()
    assert bars[0][:, 1].tolist() == pytest.approx([low, high])
    with pytest.raises(ValueError, match="pairs"):
        plot_convergence([1], infos)


def test_settings_are_left_alone():
    before = dict(plt.rcParams)
    plot_density(RHO)
    assert dict(plt.rcParams) == before
