"""Spectra against exact values: an interval is said to hold or to miss."""

from send.demo.spectra import _holds, spectra


def test_spectra_are_near_the_exact_ones(tmp_path, capsys):
    found = spectra(tmp_path, side=20)
    low, high = found["interval_95"]
    assert abs(found["estimate"] - found["exact"]) < 6 * found["stderr"] + found["bias_bound"]
    assert low < found["exact"] < high
    assert found["largest_error_of_cumulative"] < 0.02
    assert (tmp_path / "spectra.png").stat().st_size > 1000
    assert "exact" in capsys.readouterr().out


def test_an_interval_holds_or_misses():
    assert _holds(1.0, 2.0, 3.0).startswith("holds")
    for truth in (0.5, 3.5):
        assert _holds(1.0, truth, 3.0).startswith("MISSES")
