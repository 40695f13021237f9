"""A budget or an accuracy: what is asked for is what comes back, on every kind of spectrum."""

import json
import math
import warnings
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from specdens import AccuracyWarning, aslinearoperator, logdet, slogdet, trace_function
from specdens.estimation.goal import Spending, forecast, goal_of, tridiagonal_of
from specdens.recurrences.quadrature import Rule, gauss
from specdens.scalar_functions import LOG
from specdens.testing import laplacian, laplacian_eigenvalues, rotated, with_spectrum
from tests.specdens.matrices import known

N = 600
INDEX = np.arange(1, N + 1)
SPECTRA = {
    "flat": np.linspace(0.1, 1, N),
    "1/i": 1 / INDEX + 1e-3,
    "1/i^2": 1.0 / INDEX**2 + 1e-3,
    "0.7^i": 0.7**INDEX + 1e-3,
    "step": np.where(INDEX <= N // 2, 1.0, 0.01),
    "outliers": np.r_[np.linspace(1, 2, N - 6), 10.0 ** np.arange(1, 7)],
}


def quietly(call, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        return call(*args, return_info=True, **options)[1]


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("budget", [12, 40, 150])
def test_a_budget_is_kept(name, budget):
    op = known(SPECTRA[name])
    for f in ("log", "xlogx", "sqrt"):
        info = quietly(trace_function, op, f, max_matvecs=budget, rng=1)
        assert budget / 2 < info.matvecs <= budget or info.stderr <= 1e-9 * abs(info.value)


@pytest.mark.parametrize("name", SPECTRA)
def test_it_beats_plain_quadrature(name):
    """At equal products, against the best of some fixed divisions in hindsight."""
    eigenvalues = SPECTRA[name]
    truth, op, plain = np.log(eigenvalues).sum(), known(eigenvalues), rotated(eigenvalues)
    ours = [quietly(logdet, op, max_matvecs=120, rng=s).value - truth for s in range(6)]
    fixed = []
    for steps in (5, 10, 20, 30):
        options = {"method": "lanczos", "moments": 2 * steps, "probes": 120 // steps}
        found = [quietly(logdet, plain, rng=s, **options).value - truth for s in range(6)]
        fixed.append(np.sqrt(np.mean(np.square(found))))
    assert np.sqrt(np.mean(np.square(ours))) < min(fixed)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("f", ["log", "exp", "sqrt", "xlogx"])
def test_intervals_hold(name, f):
    eigenvalues = SPECTRA[name]
    op = known(eigenvalues)
    if f == "exp" and eigenvalues.max() > 100:
        eigenvalues = eigenvalues / eigenvalues.max()
        op = known(eigenvalues)
    apply = {"log": np.log, "exp": np.exp, "sqrt": np.sqrt, "xlogx": lambda x: x * np.log(x)}[f]
    truth, inside = apply(eigenvalues).sum(), 0
    for seed in range(20):
        info = quietly(trace_function, op, f, max_matvecs=100, rng=seed)
        low, high = info.interval(0.99)
        inside += low <= truth <= high
    # P(at most 15 of 20) is below 1e-6 for a coverage of 97 %.
    assert inside > stats.binom.ppf(1e-6, 20, 0.97)


@pytest.mark.parametrize("name", ["flat", "1/i^2", "step"])
def test_an_accuracy_is_reached_and_not_much_more_is_spent(name):
    eigenvalues = SPECTRA[name]
    op, truth = known(eigenvalues), np.log(eigenvalues).sum()
    costs = []
    for atol in (10.0, 3.0):
        info = quietly(logdet, op, atol=atol, rng=0, bounds=(1e-4, 2.0))
        low, high = info.interval(0.95)
        assert (high - low) / 2 <= atol
        assert abs(info.value - truth) < 2 * atol
        costs.append(info.matvecs)
    assert costs[0] <= costs[1]


def test_a_relative_accuracy():
    info = quietly(logdet, laplacian(12, 12, 12), method="lanczos", rtol=1e-3, rng=0)
    truth = np.log(laplacian_eigenvalues(12, 12, 12)).sum()
    assert abs(info.value / truth - 1) < 2e-3


def test_an_accuracy_out_of_reach_is_admitted():
    with pytest.warns(AccuracyWarning):
        logdet(rotated(SPECTRA["1/i"]), atol=1e-3, max_matvecs=60, rng=0)


def test_decay_is_computed_and_not_sampled():
    eigenvalues = SPECTRA["0.7^i"]
    info = quietly(logdet, known(eigenvalues), max_matvecs=120, rng=0)
    assert info.deflated > 10
    assert info.value == pytest.approx(np.log(eigenvalues).sum(), rel=1e-9)


def test_flat_spectra_are_not_deflated():
    assert quietly(logdet, known(SPECTRA["flat"]), max_matvecs=120, rng=0).deflated == 0


def test_fixed_moments_and_probes_stay_fixed():
    op = known(SPECTRA["flat"])
    info = quietly(logdet, op, moments=12, max_matvecs=60, rng=0)
    assert info.samples == 10
    info = quietly(logdet, op, probes=5, max_matvecs=60, rng=0)
    assert info.samples == 5


@pytest.mark.parametrize("n", [1, 2, 3, 7, 21, 30])
def test_small_matrices_come_out_exactly(n):
    eigenvalues = np.linspace(1, 2, n)
    op = rotated(eigenvalues) if n > 1 else aslinearoperator(lambda v: v, n=1, hermitian=True)
    for f, apply in (("log", np.log), ("exp", np.exp)):
        info = quietly(trace_function, op, f, max_matvecs=200, rng=0)
        assert info.value == pytest.approx(apply(eigenvalues).sum(), abs=1e-8)


def test_the_identity_is_exact():
    op = aslinearoperator(lambda v: 3 * v, n=500, hermitian=True)
    assert quietly(logdet, op, max_matvecs=50).value == pytest.approx(500 * math.log(3))


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_every_backend(backend, dtype):
    eigenvalues = np.r_[np.linspace(1, 2, 90), 10.0 ** np.arange(1, 4)]
    a = with_spectrum(eigenvalues, rng=0, dtype=np.dtype(dtype).type)
    info = quietly(logdet, backend(a, dtype), method="lanczos", max_matvecs=80, rng=3)
    low, high = info.interval(0.9999)
    assert low <= np.log(eigenvalues).sum() <= high
    assert info.matvecs <= 80


def test_indefinite_matrices_take_a_budget_too():
    eigenvalues = np.r_[np.linspace(-2, -1, 100), np.linspace(1, 3, 200)]
    info = quietly(logdet, rotated(eigenvalues), max_matvecs=400, rng=0)
    truth = np.log(np.abs(eigenvalues)).sum()
    assert abs(info.value - truth) < 6 * info.stderr + info.bias_bound
    assert info.matvecs <= 400


def test_negative_definite_matrices():
    eigenvalues = -SPECTRA["flat"]
    sign, value = slogdet(known(eigenvalues), max_matvecs=200, rng=0, bounds=(-1.0, -0.1))
    assert sign == 1
    assert float(value) == pytest.approx(np.log(-eigenvalues).sum(), abs=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_matvecs": 5}, "needs 12 products"),
        ({"max_matvecs": 2.5}, "max_matvecs is 2.5"),
        ({"rtol": 0}, "rtol is 0"),
        ({"atol": -1.0}, "atol is -1"),
        ({"atol": True}, "atol is True"),
        ({"guarantee": 1.0}, "expected \\(eps, delta\\)"),
        ({"guarantee": (1.0, 2.0)}, "expected \\(eps, delta\\)"),
        ({"guarantee": (1.0, 0.1), "rtol": 0.1}, "leave out rtol"),
        ({"rtol": 0.1, "probes": np.ones((N, 3))}, "pass an int"),
        ({"rtol": 0.1, "method": "chebyshev"}, "method='chebyshev'"),
    ],
)
def test_what_cannot_be_asked_for(options, message):
    with pytest.raises(ValueError, match=message):
        logdet(rotated(SPECTRA["flat"]), **options)


def test_a_guarantee_is_kept_and_dear():
    eigenvalues = np.linspace(1, 1.5, 400)
    op, truth = rotated(eigenvalues), np.log(eigenvalues).sum()
    for seed in range(5):
        value, info = logdet(
            op, guarantee=(4.0, 0.01), bounds=(1.0, 1.5), rng=seed, return_info=True
        )
        assert abs(float(value) - truth) < 4
        assert info.bias_rigorous
    loose = quietly(logdet, op, atol=4.0, bounds=(1.0, 1.5), rng=0)
    assert info.matvecs > loose.matvecs


def test_a_guarantee_of_every_digit_takes_all_unit_vectors():
    eigenvalues = np.linspace(1, 1.5, 40)
    value, info = logdet(
        rotated(eigenvalues), guarantee=(1e-6, 0.1), bounds=(1.0, 1.5), return_info=True
    )
    assert info.stderr == 0
    assert abs(float(value) - np.log(eigenvalues).sum()) <= 1e-6


@pytest.mark.parametrize(
    ("op", "options", "message"),
    [
        (rotated(np.linspace(1, 2, 100)), {}, "known by proof"),
        (rotated(np.linspace(1, 2, 100)), {"bounds": (-1.0, 2.0)}, "known by proof"),
        (
            rotated(np.linspace(1, 2, 100)),
            {"bounds": (1.0, 2.0), "max_matvecs": 20},
            "more than max",
        ),
        (
            aslinearoperator(lambda v: v, n=100, dtype=complex, hermitian=True),
            {"bounds": (0.5, 2.0)},
            "complex",
        ),
    ],
)
def test_a_guarantee_that_cannot_be_given(op, options, message):
    with pytest.raises(ValueError, match=message):
        logdet(op, guarantee=(5.0, 0.1), **options)


def test_the_tridiagonal_of_a_discrete_measure_gives_it_back():
    rng = np.random.default_rng(0)
    weights = rng.random(9)
    rule = Rule(np.sort(rng.standard_normal(9)), weights / weights.sum())
    again = gauss(tridiagonal_of(rule, 20))
    np.testing.assert_allclose(again.nodes, rule.nodes, atol=1e-12)
    np.testing.assert_allclose(again.weights, rule.weights, atol=1e-12)


def test_forecasts_weigh_steps_against_probes():
    """A flat measure needs few steps and many probes; one that reaches 0 needs more of them."""
    goal = goal_of(None, None, None, None, 200, None)
    spending = Spending(goal, left=200, target=0.0, longest=40)
    options = {"spending": spending, "degree": 2, "mass": 1000.0}
    uniform = np.full(60, 1 / 60)
    easy = forecast(Rule(np.linspace(0.5, 1, 60), uniform), LOG, **options)
    hard = forecast(Rule(np.geomspace(1e-4, 1, 60), uniform), LOG, **options)
    assert easy.steps < hard.steps
    assert easy.error < hard.error
    assert easy.cost <= 200


@pytest.mark.parametrize("options", [{}, {"max_matvecs": 60}, {"atol": 5.0}], ids=str)
def test_estimates_are_plain_numbers(options):
    """They go to JSON as they are."""
    for name in SPECTRA:
        info = quietly(logdet, known(SPECTRA[name]), method="lanczos", rng=0, **options)
        assert json.loads(json.dumps(asdict(info)))["matvecs"] == info.matvecs


@pytest.mark.parametrize("budget", [12, 60, 400])
def test_a_budget_is_kept_where_f_overflows(budget):
    calls = []

    def product(x):
        calls.append(x.shape[1])
        return np.linspace(1, 1000, 3000)[:, None] * x

    op = aslinearoperator(
        lambda x: product(x[:, None])[:, 0], n=3000, matmat=product, hermitian=True
    )
    info = quietly(trace_function, op, "exp", max_matvecs=budget, rng=0)
    assert not info.converged
    assert info.matvecs == sum(calls) <= budget


@pytest.mark.parametrize("atol", [1e-155, 1e-200, 1e-300])
def test_no_tolerance_is_too_small_to_be_missed(atol):
    info = quietly(logdet, known(SPECTRA["flat"]), atol=atol, max_matvecs=60, rng=0)
    assert not info.converged
    assert abs(info.value - np.log(SPECTRA["flat"]).sum()) < 20


def test_tiny_traces():
    values = np.linspace(100, 300, 3000)
    info = quietly(
        trace_function, known(values), lambda x: np.exp(-x), rtol=1e-3, max_matvecs=200, rng=0
    )
    assert abs(info.value - np.exp(-values).sum()) <= info.interval()[1] - info.value


def test_truncation_that_looks_small_by_accident_is_not_stopped_at():
    """Few small eigenvalues far below the rest: 60 products do not find them."""
    values = np.r_[np.geomspace(1e-6, 1e-2, 200), np.linspace(0.1, 1, 1800)]
    found = [quietly(trace_function, known(values), "inv", max_matvecs=60, rng=s) for s in range(8)]
    assert not any(info.converged for info in found)


def test_a_pilot_says_how_long_its_longest_run_was():
    info = quietly(logdet, known(np.geomspace(1e-3, 1, 3000)), max_matvecs=400, rng=0)
    assert info.samples * info.steps > 400  # not all runs are as long
    assert 20 < info.steps < 100


def test_probes_are_not_added_where_bias_alone_exceeds_the_tolerance():
    a = laplacian(8, 8) + 2 * np.eye(64)
    options = {"method": "lanczos", "moments": 4, "rtol": 1e-3, "rng": 0}
    info = quietly(trace_function, a, "log", **options)
    assert not info.converged
    assert info.samples <= 20
