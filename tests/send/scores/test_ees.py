"""EES against EigenScore; the published listing against its oracle."""

import warnings

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.overrides import TorchFunctionMode

import specdens
from send.scores.ees import ees, paper_coefficients
from send.scores.eigenscore import eigenscore
from tests.send.scores.samples import embeddings, library


@pytest.fixture
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specdens.AccuracyWarning)
        yield


@pytest.mark.usefixtures("_quiet")
class TestEES:
    @library
    @pytest.mark.parametrize(("d", "k"), [(64, 10), (10, 64), (30, 30), (5, 1)])
    def test_with_enough_moments_and_probes_it_is_the_eigenscore(self, to, d, k):
        e = embeddings(d, k, 0)
        side = min(d, k)
        value, info = ees(to(e), moments=2 * side, probes=side, return_info=True)
        assert float(value) == pytest.approx(float(eigenscore(e)), abs=1e-8)
        assert info.stderr == 0

    @pytest.mark.parametrize(("d", "k"), [(300, 80), (80, 300)])
    def test_it_converges_and_its_errors_hold(self, d, k):
        e = embeddings(d, k, 1) * np.geomspace(1, 0.05, k)
        truth = float(eigenscore(e))
        errors = []
        for moments, probes in ((10, 5), (40, 20), (160, 70)):
            infos = [
                ees(e, moments=moments, probes=probes, rng=s, return_info=True)[1]
                for s in range(20)
            ]
            for info in infos:
                low, high = info.interval(0.9999)
                assert low <= truth <= high
                assert info.bias_rigorous  # alpha is a proved lower bound
            errors.append(np.sqrt(np.mean([(float(i) - truth) ** 2 for i in infos])))
        assert errors[2] < 0.2 * errors[0]
        assert errors[2] < 0.05

    def test_the_order_of_answers_does_not_matter_where_it_is_exact(self):
        e = embeddings(64, 10, 0)
        order = np.random.default_rng(0).permutation(10)
        assert ees(e[:, order]) == pytest.approx(float(ees(e)), abs=1e-9)

    def test_equal_answers(self):
        e = embeddings(64, 10, 0, distinct=1)
        assert ees(e) == pytest.approx(float(eigenscore(e)), abs=1e-9)

    @library
    def test_batches_have_one_estimate_each(self, to):
        e = np.stack([embeddings(40, 10, i) for i in range(3)])
        values, infos = ees(to(e), rng=0, return_info=True)
        assert tuple(values.shape) == (3,)
        assert [float(i) for i in infos] == pytest.approx([float(v) for v in values])
        for b in range(3):
            assert float(ees(to(e[b]), rng=0)) == pytest.approx(float(values[b]))

    def test_a_seed_repeats_it(self):
        e = embeddings(60, 50, 0)
        assert ees(e, rng=3) == ees(e, rng=3) != ees(e, rng=4)

    @pytest.mark.parametrize(("d", "k"), [(90, 12), (90, 60), (50, 120)])
    @pytest.mark.parametrize("mode", ["convergent", "paper"])
    def test_it_forms_neither_gram_nor_centring_matrix(self, d, k, mode):
        """Also for K above and below the number of probes: 20."""
        seen = set()

        class Shapes(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                result = func(*args, **(kwargs or {}))
                if isinstance(result, torch.Tensor):
                    seen.add(tuple(result.shape))
                return result

        e = torch.tensor(embeddings(d, k, 0))
        with Shapes():
            ees(e, mode=mode, rng=0)
        assert seen
        assert not {(k, k), (d, d)} & seen
        with Shapes():
            eigenscore(e)
        assert {(k, k), (d, d)} & seen  # what a Gram matrix would look like

    def test_unknown_mode(self):
        with pytest.raises(ValueError, match="mode"):
            ees(np.ones((3, 2)), mode="fast")


def literal_listing(e, moments, z):
    """Algorithm 1 of the paper, line by line, given its Gaussian vectors."""
    k = e.shape[1]
    mean = e.mean(axis=1, keepdims=True)
    std = np.sqrt(((e - mean) ** 2).mean(axis=1, keepdims=True))
    norm = (e - mean) / std
    norm = norm / np.linalg.norm(norm, 2)
    h = norm.T @ norm
    polynomials = [np.eye(k), h]
    for _ in range(moments - 1):
        polynomials.append(2 * h @ polynomials[-1] - polynomials[-2])
    total = 0.0
    for m in range(moments + 1):
        d_m = np.mean(np.einsum("kr,kl,lr->r", z, polynomials[m], z))
        factor = (1 if m == 0 else 2) / np.pi
        c_m = factor * quad(lambda t, m=m: np.log(np.cos(t)) * np.cos(m * t), 0, np.pi / 2)[0]
        total += d_m * c_m
    return total / k


class TestPublishedListing:
    def test_coefficients_are_those_of_the_oracle(self):
        c = paper_coefficients(7)
        assert c[0] == pytest.approx(-0.34657359)
        assert c[1] == pytest.approx(-0.19534857)
        assert [c[2], c[4], c[6]] == pytest.approx([0.5, -0.25, 1 / 6])
        assert [c[3], c[5]] == pytest.approx([0.34805831, -0.2767411])

    @library
    def test_it_is_the_listing(self, to):
        from specdens.arrays.probes import gaussian

        e = embeddings(50, 8, 0)
        z = gaussian(8, range(20), 7, xp=np, dtype=np.float64, stream=4)
        found = float(ees(to(e), mode="paper", rng=7))
        assert found == pytest.approx(literal_listing(e, 20, z), abs=1e-9)

    def test_zero_variance_gives_zero(self):
        assert ees(embeddings(30, 10, 0, distinct=1), mode="paper") == 0
        e = embeddings(30, 10, 0)
        e[4] = 3.0  # one feature that does not vary
        assert np.isfinite(ees(e, mode="paper", rng=0))

    def test_it_does_not_see_the_scale_and_says_that_it_does_not_converge(self):
        e = embeddings(50, 8, 0)
        value, info = ees(e, mode="paper", rng=0, return_info=True)
        assert ees(100 * e, mode="paper", rng=0) == pytest.approx(float(value))
        assert eigenscore(100 * e) > eigenscore(e) + 5
        assert not info.converged
        assert "does not converge" in info.flags[0]

    def test_its_series_is_not_monotone(self):
        x = np.linspace(0, 1, 1001)
        theta = np.arccos(x)
        series = sum(c * np.cos(m * theta) for m, c in enumerate(paper_coefficients(21)))
        assert series[0] == pytest.approx(-1.81, abs=0.01)
        assert x[series.argmin()] == pytest.approx(0.089, abs=0.002)
        assert series.min() == pytest.approx(-2.60, abs=0.01)


@pytest.mark.parametrize("mode", ["convergent", "paper"])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"moments": 0}, ValueError),
        ({"probes": 0}, ValueError),
        ({"moments": 2.5}, TypeError),
        ({"probes": None}, TypeError),
    ],
    ids=str,
)
def test_effort_is_checked_in_both_modes(mode, options, error):
    with pytest.raises(error, match=f"{next(iter(options))} is"):
        ees(np.eye(5, 3), mode=mode, **options)
