"""Hutch++, XTrace, XNysTrace: literal twins, exact cases, errors, budgets and tolerances."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdens import AccuracyWarning, Gram, aslinearoperator, trace
from specdens.arrays.libraries import to_host
from specdens.results import two_sided_quantile
from specdens.sketching.sketch import Sketch, draw
from specdens.sketching.xtrace import xnystrace, xtrace
from specdens.testing import rotated, with_spectrum
from tests.specdens import naive
from tests.specdens.samples import require_mean

METHODS = ["hutch++", "xtrace", "xnystrace"]
INDEX = np.arange(1, 101)
SPECTRA = {
    "flat": np.linspace(1, 3, 100),
    "1/i": 1 / INDEX,
    "1/i^2": INDEX**-2.0,
    "0.9^i": 0.9**INDEX,
    "0.7^i": 0.7**INDEX,
    "step": np.where(INDEX <= 20, 1, 1e-3),
    "plateau": np.where(INDEX <= 50, 1, 1e-2),
}


def host(x):
    return to_host(x).item()


def square(n, dtype, rng=0):
    generator = np.random.default_rng(rng)
    a = generator.standard_normal((n, n))
    return a + 1j * generator.standard_normal((n, n)) if dtype == "complex128" else a


def estimated(a, method, **options):
    """Return (value, info); products only, whatever is known of the entries."""
    return trace(a, method=method, return_info=True, **options)


class TestTwins:
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "nonsymmetric"])
    def test_xtrace(self, dtype, symmetric):
        a = square(30, dtype)
        a = a + a.conj().T if symmetric else a
        _, info = estimated(a, "xtrace", probes=7, rng=3)
        tests = draw(aslinearoperator(a), range(7), 3, kind="sphere")
        assert info.value == pytest.approx(naive.xtrace(a, tests).mean(), rel=1e-12)
        error = naive.leave_one_out_error(lambda w: naive.xtrace(a, w), tests)
        assert info.stderr == pytest.approx(error, rel=1e-10)
        assert (info.matvecs, info.samples, info.method) == (14, 7, "xtrace")

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_xnystrace(self, dtype):
        a = with_spectrum(np.linspace(0.5, 3, 30), dtype=np.dtype(dtype))
        _, info = estimated(a, "xnystrace", probes=7, rng=3)
        tests = draw(aslinearoperator(a), range(7), 3, kind="sphere")
        assert info.value == pytest.approx(naive.xnystrace(a, tests).mean(), rel=1e-12)
        error = naive.leave_one_out_error(lambda w: naive.xnystrace(a, w), tests)
        assert info.stderr == pytest.approx(error, rel=1e-10)
        assert (info.matvecs, info.samples, info.method) == (7, 7, "xnystrace")

    def test_hutch_plus_plus(self):
        a = square(30, "float64")
        op = aslinearoperator(a)
        _, info = estimated(a, "hutch++", probes=11, rng=3)
        q, _ = np.linalg.qr(a @ draw(op, range(5), 3, kind="sphere"))
        g = draw(op, range(6), 3, kind="sphere", stream=34)
        y = g - q @ (q.T @ g)
        image = a @ y - q @ (q.T @ a @ y)
        quotients = 25 * np.sum(y * image, axis=0) / np.sum(y * y, axis=0)
        norm = 25 * np.mean(np.sum(image**2, axis=0) / np.sum(y * y, axis=0))
        plug_in = np.sqrt(2 * (norm - quotients.mean() ** 2 / 25))
        assert info.value == pytest.approx(np.trace(q.T @ a @ q) + quotients.mean(), rel=1e-12)
        scatter = max(quotients.std(ddof=1), plug_in)
        assert info.stderr == pytest.approx(scatter / math.sqrt(6), rel=1e-12)
        assert (info.matvecs, info.samples) == (16, 6)


class TestExactCases:
    @settings(max_examples=25, deadline=None)
    @given(
        n=st.integers(20, 60),
        rank=st.integers(0, 5),
        key=st.integers(0, 2**64 - 1),
        method=st.sampled_from(["xtrace", "xnystrace", "hutch++"]),
        power=st.integers(-30, 30),
    )
    def test_rank_below_the_number_of_vectors(self, n, rank, key, method, power):
        root = 10.0**power * np.random.default_rng(rank).standard_normal((n, rank))
        a = root @ root.T
        value, info = estimated(a, method, probes=14, rng=key)
        size = np.linalg.norm(a)
        assert abs(value - np.trace(a)) <= 1e-9 * size
        assert math.isfinite(info.stderr)
        assert info.stderr <= 1e-9 * size

    @pytest.mark.parametrize("rank", [0, 1, 4])
    @pytest.mark.parametrize("dtype", ["float64", "complex128", "float32", "complex64"])
    def test_xtrace_of_low_rank_says_so(self, backend, dtype, rank):
        a = square(50, "complex128" if "complex" in dtype else "float64")
        a = (a[:, :rank] @ a[:rank, :]).astype(dtype)
        value, info = estimated(backend(a), "xtrace", probes=8, rng=0)
        unit = float(np.finfo(dtype).eps)
        assert info.stderr == 0
        assert info.matvecs == 8 + rank
        assert abs(host(value) - np.trace(a)) <= max(info.bias_bound, 1e3 * unit * abs(np.trace(a)))
        assert info.bias_bound <= 1e3 * unit * np.linalg.norm(a)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
    def test_multiples_of_the_identity(self, backend, method, dtype):
        value, info = estimated(backend(3 * np.eye(50, dtype=dtype)), method, probes=6, rng=0)
        unit = float(np.finfo(dtype).eps)
        assert host(value) == pytest.approx(150, rel=100 * unit)
        assert info.stderr <= 150 * 100 * unit

    @pytest.mark.parametrize("method", METHODS)
    def test_zero(self, method):
        value, info = estimated(np.zeros((50, 50)), method, probes=6, rng=0)
        assert abs(value) < 1e-280
        assert info.stderr < 1e-280

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("ratio", [0.99, 0.5, 0.1])
    def test_spectra_that_reach_below_rounding(self, method, ratio):
        eigenvalues = ratio ** np.arange(200)
        value, info = estimated(rotated(eigenvalues), method, probes=80, rng=1)
        assert math.isfinite(info.stderr)
        error = abs(value - eigenvalues.sum())
        assert error <= 5 * info.stderr + info.bias_bound + 1e-12 * eigenvalues.sum()

    @pytest.mark.parametrize("method", [*METHODS, "hutchinson"])
    @pytest.mark.parametrize("n", [0, 1, 5])
    def test_small(self, method, n):
        a = square(n, "float64")
        for options in ({}, {"max_matvecs": 5}, {"rtol": 0.1}, {"probes": 5}):
            value, info = estimated(a, method, **options)
            assert value == pytest.approx(np.trace(a))
            assert info.method == "exact"


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), method=st.sampled_from(METHODS))
def test_scales_with_the_matrix(scale, method):
    a = with_spectrum(SPECTRA["1/i"])
    _, one = estimated(a, method, probes=9, rng=5)
    _, other = estimated(scale * a, method, probes=9, rng=5)
    assert other.value == pytest.approx(scale * one.value, rel=1e-9)
    assert other.stderr == pytest.approx(scale * one.stderr, rel=1e-6)


@pytest.mark.parametrize("estimator", [xtrace, xnystrace])
@pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
def test_growing_is_beginning_anew(estimator, dtype):
    op = aslinearoperator(with_spectrum(SPECTRA["0.9^i"], dtype=dtype))
    *_, grown = estimator(op, [3, 10, 20], 7)
    fresh = next(estimator(op, [20], 7))
    assert grown.value == pytest.approx(fresh.value, rel=1e-10)
    assert grown.stderr == pytest.approx(fresh.stderr, rel=1e-6)
    assert grown.matvecs == fresh.matvecs


@pytest.mark.parametrize("of_adjoint", [False, True], ids=["A", "adjoint"])
def test_a_sketch_is_what_it_says(backend, of_adjoint):
    a = square(40, "complex128")
    sketch = Sketch(aslinearoperator(backend(a)), 0, kind="sphere", of_adjoint=of_adjoint)
    sketch.grow(3)
    sketch.grow(4)
    q, images, tests = (to_host(x) for x in (sketch.basis, sketch.images, sketch.tests))
    assert np.allclose(q.conj().T @ q, np.eye(7), atol=1e-13)
    assert np.allclose(q @ sketch.triangle, a @ tests)
    assert np.allclose(images, (a.conj().T if of_adjoint else a) @ q)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
def test_unbiased(method, dtype):
    a = with_spectrum(SPECTRA["1/i"][:30], rng=2, dtype=dtype)
    found = [estimated(a, method, probes=6, rng=seed)[1].value.real for seed in range(200)]
    require_mean(found, np.trace(a).real)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [float, complex], ids=["real", "complex"])
def test_reported_errors_are_true(method, dtype):
    """Over all spectra together; each is measured in leave_one_out."""
    inside, ratios = [], []
    for eigenvalues in SPECTRA.values():
        op = aslinearoperator(with_spectrum(eigenvalues, rng=1, dtype=dtype))
        truth = eigenvalues.sum()
        for budget in (16, 48):
            runs = [estimated(op, method, max_matvecs=budget, rng=s)[1] for s in range(8)]
            errors = np.array([abs(info.value - truth) for info in runs])
            reported = np.array([info.stderr for info in runs])
            quantile = two_sided_quantile(0.95, runs[0].samples)
            inside += list(errors <= quantile * reported + 1e-12 * truth)
            ratios.append(np.sqrt(np.mean(reported**2) / np.mean(errors**2)))
    assert np.mean(inside) > 0.88
    assert 0.8 < np.median(ratios) < 2


@pytest.mark.parametrize(
    ("name", "method", "gain"),
    [
        ("1/i^2", "hutch++", 12),
        ("1/i^2", "xtrace", 20),
        ("1/i^2", "xnystrace", 30),
        ("0.7^i", "xtrace", 100),
        ("0.7^i", "xnystrace", 1e4),
    ],
)
def test_decay_is_used(name, method, gain):
    """At 40 products, by less than half of what was measured."""
    eigenvalues = SPECTRA[name]
    op = rotated(eigenvalues)

    def rms(how):
        found = [host(trace(op, method=how, max_matvecs=40, rng=seed)) for seed in range(20)]
        return np.sqrt(np.mean((np.array(found) - eigenvalues.sum()) ** 2))

    assert gain * rms(method) < rms("hutchinson")


class TestBudget:
    @settings(max_examples=40, deadline=None)
    @given(budget=st.integers(4, 80), method=st.sampled_from(["auto", "hutchinson", *METHODS]))
    def test_is_kept(self, budget, method):
        op = rotated(SPECTRA["1/i"])
        _, info = estimated(op, method, max_matvecs=budget, rng=0)
        assert budget - 2 < info.matvecs <= budget

    @pytest.mark.parametrize(("method", "least"), [("hutch++", 4), ("xtrace", 4), ("xnystrace", 2)])
    def test_too_small(self, method, least):
        op = rotated(SPECTRA["1/i"])
        with pytest.raises(ValueError, match=f"max_matvecs={least}"):
            trace(op, method=method, max_matvecs=least - 1)
        with pytest.raises(ValueError, match="at least probes="):
            trace(op, method=method, probes=1)
        assert estimated(op, method, max_matvecs=least, rng=0)[1].matvecs == least

    @pytest.mark.parametrize("method", ["auto", "hutchinson", *METHODS])
    def test_that_pays_for_all_is_exact(self, method):
        op = rotated(SPECTRA["1/i"])
        value, info = estimated(op, method, max_matvecs=100)
        assert (info.method, info.matvecs) == ("exact", 100)
        assert value == pytest.approx(SPECTRA["1/i"].sum())


class TestTolerance:
    @pytest.mark.parametrize("method", ["auto", *METHODS])
    @pytest.mark.parametrize("rtol", [1e-2, 1e-3])
    def test_is_met(self, method, rtol):
        eigenvalues = np.arange(1, 1001.0) ** -2
        op = rotated(eigenvalues)
        for seed in range(5):
            value, info = estimated(op, method, rtol=rtol, rng=seed)
            assert abs(value / eigenvalues.sum() - 1) < 2 * rtol
            assert info.converged
            assert info.matvecs < 400
            assert two_sided_quantile(0.95, info.samples) * info.stderr <= rtol * value

    def test_of_hutchinson(self):
        op = rotated(np.linspace(1, 3, 2000))
        value, info = estimated(op, "hutchinson", atol=30.0, rng=0)
        assert abs(value - 4000) < 30
        assert 20 <= info.matvecs < 200

    @pytest.mark.parametrize("method", ["hutchinson", *METHODS])
    def test_that_is_missed_is_said(self, method):
        op = rotated(np.linspace(1, 3, 1000))
        with pytest.warns(AccuracyWarning, match="tolerance was not met"):
            _, info = estimated(op, method, rtol=1e-6, max_matvecs=50, rng=0)
        assert not info.converged
        assert 40 <= info.matvecs <= 50

    @pytest.mark.parametrize("method", ["hutchinson", *METHODS])
    def test_that_is_missed_by_chance_is_met_exactly_where_affordable(self, method):
        eigenvalues = np.linspace(1, 3, 100)
        value, info = estimated(rotated(eigenvalues), method, atol=1e-9, rng=0)
        assert value == pytest.approx(200, abs=1e-9)
        assert info.method == "exact"
        assert 100 < info.matvecs <= 200

    @pytest.mark.parametrize("method", ["hutchinson", *METHODS])
    def test_of_zero_is_never_met_by_chance(self, method):
        options = {"rtol": 0.0, "max_matvecs": 60, "rng": 0}
        with pytest.warns(AccuracyWarning, match="tolerance was not met"):
            assert estimated(rotated(SPECTRA["1/i"]), method, **options)[1].matvecs <= 60
        value, info = estimated(np.zeros((100, 100)), "hutch++", **options)
        assert (value, info.converged) == (0, True)

    def test_low_rank_ends_it(self):
        eigenvalues = np.where(np.arange(500) < 15, 1.0, 0.0)
        value, info = estimated(rotated(eigenvalues), "xtrace", rtol=1e-10, rng=0)
        assert value == pytest.approx(15)
        assert info.matvecs == 35

    def test_flat_spectra_get_probes_and_not_a_basis(self):
        op = rotated(np.linspace(1, 3, 3000))
        with pytest.warns(AccuracyWarning):
            _, info = estimated(op, "hutch++", rtol=1e-5, max_matvecs=300, rng=0)
        assert info.samples > 200


class TestChoice:
    def test_of_auto(self):
        x = square(100, "float64")[:, :80]
        gram, op = Gram(x), rotated(SPECTRA["1/i"])
        assert estimated(op, "auto")[1].method == "hutchinson"
        assert estimated(op, "auto", max_matvecs=30, rng=0)[1].method == "xtrace"
        assert estimated(op, "auto", rtol=0.1, rng=0)[1].method == "hutch++"
        options = {"max_matvecs": 30, "distribution": "orthogonal"}
        assert estimated(op, "auto", **options)[1].method == "hutchinson"
        flat, info = estimated(rotated(SPECTRA["flat"]), "auto", max_matvecs=30, rng=0)
        assert (info.method, info.matvecs, info.samples) == ("hutchinson", 30, 30)
        assert abs(flat - 200) < 5 * info.stderr
        assert estimated(gram, "auto", max_matvecs=20)[1].method == "xnystrace"
        spike = 10 + np.where(INDEX == 1, 1000, 0)
        assert estimated(rotated(spike), "auto", max_matvecs=30, rng=0)[1].method == "xtrace"
        assert estimated(x[:80], "auto", max_matvecs=20)[1].matvecs == 0

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"probes": 5, "max_matvecs": 5}, "one or the other"),
            ({"probes": 5, "rtol": 0.1}, "one or the other"),
            ({"max_matvecs": 0}, "max_matvecs is 0"),
            ({"rtol": -1.0}, "rtol is -1.0"),
            ({"atol": math.nan}, "atol is nan"),
            ({"method": "xtrace", "probes": np.ones((100, 3))}, "draws its own vectors"),
            ({"method": "xtrace", "distribution": "sphere"}, "method='hutchinson'"),
            ({"distribution": "cauchy"}, "expected one of"),
        ],
    )
    def test_refuses(self, options, text):
        with pytest.raises(ValueError, match=text):
            trace(rotated(SPECTRA["1/i"]), **options)

    @pytest.mark.parametrize("method", METHODS)
    def test_refuses_products_that_are_not_finite(self, method):
        with pytest.raises(ValueError, match="NaN"):
            trace(aslinearoperator(lambda v: v * np.inf, n=100), method=method)

    @pytest.mark.parametrize(
        "a",
        [with_spectrum(np.linspace(-2, 3, 60)), np.triu(np.ones((60, 60)))],
        ids=["indefinite", "nonsymmetric"],
    )
    def test_xnystrace_refuses_what_is_not_semidefinite(self, a):
        with pytest.raises(ValueError, match=r"not positive semidefinite.*method='xtrace'"):
            trace(a, method="xnystrace", probes=30)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32", "complex64"])
def test_every_backend(backend, method, dtype):
    a = with_spectrum(SPECTRA["1/i"][:60], dtype=np.dtype(dtype)).astype(dtype)
    value, info = estimated(backend(a), method, probes=8, rng=2)
    _, reference = estimated(a, method, probes=8, rng=2)
    close = 1e-4 if dtype in {"float32", "complex64"} else 1e-11
    assert host(value) == pytest.approx(reference.value, rel=close)
    assert info.stderr == pytest.approx(reference.stderr, rel=100 * close)
    assert value.dtype == backend.dtype(dtype)
    again, _ = estimated(backend(a), method, probes=8, rng=info.seed)
    assert host(again) == host(value)
