"""EigenScore against slogdet."""

import math

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from send.scores import gram
from send.scores.ees import ees
from send.scores.eigenscore import eigenscore
from specdens.arrays.libraries import host_view
from specdens.operators import gram as gram_operator
from tests.send.scores.samples import embeddings, library


def by_definition(e, alpha=1e-3, center="features", s=1.0):
    """``(1/K) log det(s E^T J E + alpha I)`` with J and the determinant formed."""
    d, k = e.shape
    if center == "features":
        gram = e.T @ (np.eye(d) - 1 / d) @ e
    elif center == "samples":
        p = np.eye(k) - 1 / k
        gram = p @ e.T @ e @ p
    else:
        gram = e.T @ e
    return np.linalg.slogdet(s * gram + alpha * np.eye(k))[1] / k


def tolerance(e, alpha):
    """What the determinant itself is known to, in double precision."""
    largest = np.linalg.norm(e, 2) ** 2
    return max(1e-10, 10 * np.finfo(float).eps * largest / alpha)


class TestEigenScore:
    @library
    @given(
        d=st.integers(2, 40),
        k=st.integers(1, 12),
        distinct=st.integers(1, 12),
        alpha=st.sampled_from([1e-5, 1e-3, 1.0]),
        scale=st.sampled_from([0.01, 1.0, 30.0]),
        seed=st.integers(0, 99),
    )
    def test_equals_the_determinant(self, to, d, k, distinct, alpha, scale, seed):
        e = embeddings(d, k, seed, distinct=distinct, scale=scale)
        found = float(eigenscore(to(e), alpha=alpha))
        assert abs(found - by_definition(e, alpha)) <= tolerance(e, alpha) * max(1, abs(found))

    @library
    @pytest.mark.parametrize("center", ["features", "samples", "none"])
    @pytest.mark.parametrize(("scale", "s"), [("none", 1), ("d", 1 / 30), ("d-1", 1 / 29)])
    def test_centring_and_scale(self, to, center, scale, s):
        e = embeddings(30, 6, 0)
        found = eigenscore(to(e), center=center, scale=scale)
        assert float(found) == pytest.approx(by_definition(e, center=center, s=s), abs=1e-10)

    @library
    def test_batches(self, to):
        e = np.stack([[embeddings(9, 4, i + 3 * j) for i in range(3)] for j in range(2)])
        found = eigenscore(to(e))
        assert tuple(found.shape) == (2, 3)
        for j in range(2):
            for i in range(3):
                assert float(found[j, i]) == pytest.approx(float(eigenscore(to(e[j, i]))))

    @given(seed=st.integers(0, 99), k=st.integers(2, 9))
    def test_the_order_of_answers_does_not_matter(self, seed, k):
        e = embeddings(20, k, seed)
        order = np.random.default_rng(seed).permutation(k)
        assert eigenscore(e[:, order]) == pytest.approx(float(eigenscore(e)), abs=1e-9)

    def test_it_changes_with_the_embeddings(self):
        values = [float(eigenscore(embeddings(20, 5, 0, scale=s))) for s in (0.5, 1.0, 2.0)]
        assert values[0] < values[1] < values[2]

    def test_equal_answers_are_at_the_floor(self):
        e = embeddings(64, 10, 0, distinct=1)
        largest = 10 * np.sum((e[:, 0] - e[:, 0].mean()) ** 2)
        floor = (9 * math.log(1e-3) + math.log(largest + 1e-3)) / 10
        assert eigenscore(e) == pytest.approx(floor, abs=1e-9)

    @given(seed=st.integers(0, 50), index=st.integers(0, 19))
    def test_zeroing_a_feature_never_raises_it(self, seed, index):
        """Uncentred, a feature adds a positive semidefinite term: arithmetic, not sensitivity."""
        e = embeddings(20, 5, seed)
        without = e.copy()
        without[index] = 0
        assert eigenscore(without, center="none") <= eigenscore(e, center="none") + 1e-12

    def test_more_answers_than_features(self):
        e = embeddings(4, 30, 0)
        assert eigenscore(e) == pytest.approx(by_definition(e), abs=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int32])
    def test_any_precision_is_computed_in_double(self, dtype):
        e = torch.tensor(embeddings(32, 5, 0) * 4).to(dtype)
        found = eigenscore(e)
        assert found.dtype == torch.float64
        assert found.item() == pytest.approx(by_definition(e.double().numpy()), abs=1e-10)

    def test_a_single_precision_gram_would_be_wrong(self):
        """Of answers that are nearly equal, the small eigenvalues drown in rounding."""
        e = embeddings(512, 10, 0, distinct=2, scale=30) + 1e-3 * embeddings(512, 10, 1)
        e = e.astype(np.float32)
        assert abs(eigenscore(e) - by_definition(e.astype(float))) < 1e-6
        c = e - e.mean(axis=0)
        noisy = np.linalg.eigvalsh(c.T @ c)
        assert abs(np.log(np.maximum(noisy, 0) + 1e-3).mean() - float(eigenscore(e))) > 1e-3

    @pytest.mark.parametrize(
        ("e", "options", "text"),
        [
            (np.ones(3), {}, "shape"),
            (np.ones((3, 0)), {}, "shape"),
            (np.ones((0, 3)), {}, "shape"),
            (np.full((3, 2), np.nan), {}, "NaN"),
            (np.ones((3, 2)), {"alpha": 0.0}, "alpha"),
            (np.ones((3, 2)), {"alpha": math.inf}, "alpha"),
            (np.ones((3, 2)), {"center": "rows"}, "center"),
            (np.ones((3, 2)), {"scale": "n"}, "scale"),
            (np.ones((1, 2)), {"scale": "d-1"}, "dimension 2"),
        ],
    )
    def test_bad_input(self, e, options, text):
        with pytest.raises(ValueError, match=text):
            eigenscore(e, **options)


@pytest.fixture
def for_small_ones(monkeypatch):
    """The ways of large matrices and batches, taken for small ones, in several portions."""
    monkeypatch.setattr(gram, "LEAST_ENTRIES", 0)
    monkeypatch.setattr(gram, "AT_ONCE", 500)
    monkeypatch.setattr(gram_operator, "LEAST_ENTRIES", 0)
    monkeypatch.delenv("SPECDENS_KERNELS", raising=False)


SHAPES = [(3, 60, 10), (2, 9, 20), (1, 70, 40), (2, 40, 70), (0, 5, 3), (0, 50, 40)]
"""Few columns, more of them than rows, and many."""


@pytest.mark.usefixtures("for_small_ones")
class TestLargeOnes:
    @library
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize(
        ("dtype", "center"),
        [
            ("float32", "features"),
            ("float64", "samples"),
            ("float64", "none"),
            ("int32", "features"),
            ("complex128", "features"),
        ],
    )
    def test_equal_small_ones(self, monkeypatch, to, shape, dtype, center):
        e = (10 * np.random.default_rng(0).standard_normal(shape) + 3).astype(dtype)
        found = eigenscore(to(e), center=center, scale="d-1")
        assert tuple(found.shape) == shape[:1]
        monkeypatch.setattr(gram, "LEAST_ENTRIES", math.inf)
        expected = eigenscore(e, center=center, scale="d-1")
        np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-10)
        monkeypatch.setattr(gram, "LEAST_ENTRIES", 0)
        monkeypatch.setenv("SPECDENS_KERNELS", "off")
        found = eigenscore(to(e), center=center, scale="d-1")
        np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("k", [10, 40])
    @pytest.mark.parametrize("order", ["C", "F", "slices"])
    def test_in_any_order_of_memory(self, k, order):
        e = np.stack([embeddings(80, k, i) for i in range(3)]).astype(np.float32)
        laid = {
            "C": e,
            "F": np.ascontiguousarray(e.swapaxes(1, 2)).swapaxes(1, 2),
            "slices": np.repeat(e, 2, axis=2)[:, :, ::2],
        }[order]
        expected = [by_definition(m.astype(float)) for m in e]
        assert eigenscore(laid) == pytest.approx(expected, abs=1e-9)
        negative = torch.imag(torch.conj(torch.tensor(1j * laid.astype(np.complex64))))
        assert negative.is_neg()
        assert eigenscore(negative).tolist() == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("k", [10, 40])
    def test_a_large_mean_costs_no_accuracy(self, k):
        e = embeddings(200, k, 0)
        shifted = (e + 1000).astype(np.float32)
        found = eigenscore(shifted[None])[0]
        assert found == pytest.approx(by_definition(shifted - 1000.0), abs=1e-9)

    @pytest.mark.parametrize("k", [10, 40])
    @pytest.mark.parametrize("alpha", [1e-14, 1e-9, 1e-3])
    def test_equal_answers_and_an_alpha_near_rounding(self, monkeypatch, k, alpha):
        """Where Cholesky is in doubt the eigenvalues decide, of these matrices alone."""
        e = np.stack([embeddings(64, k, 0, distinct=2), 1e-3 * embeddings(64, k, 1)])
        found = eigenscore(e, alpha=alpha)
        monkeypatch.setattr(gram, "LEAST_ENTRIES", math.inf)
        for i, one in enumerate(eigenscore(e, alpha=alpha)):
            size = max(1e-10, 100 * np.finfo(float).eps * np.linalg.norm(e[i]) ** 2 / alpha)
            assert abs(found[i] - one) <= size

    @library
    @pytest.mark.parametrize("k", [10, 40])
    @pytest.mark.parametrize(
        ("bad", "text"), [(np.nan, "NaN"), (np.inf, "NaN or infinity"), (1e200, "value of 1e.200")]
    )
    @pytest.mark.parametrize("everywhere", [False, True])
    def test_errors_are_those_of_small_ones(self, to, k, bad, text, everywhere):
        e = np.stack([embeddings(50, k, i) for i in range(3)])
        e[1, slice(None) if everywhere else 4] = bad
        for score in (eigenscore, ees):
            with pytest.raises(ValueError, match=text):
                score(to(e))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_ees_reads_embeddings_as_they_are(self, monkeypatch, dtype):
        e = (embeddings(300, 80, 1) * np.geomspace(1, 0.3, 80) + 100).astype(dtype)
        value, info = ees(e, moments=40, rng=0, return_info=True)
        low, high = info.interval(0.9999)
        assert low < eigenscore(e) < high
        monkeypatch.setenv("SPECDENS_KERNELS", "off")
        plain = ees(e, moments=40, rng=0)
        assert value == pytest.approx(float(plain), abs=1e-3 if dtype == "float32" else 1e-9)
        tiny = ees(e * np.asarray(1e-25, dtype), rng=0)  # whose squares single precision has not
        assert tiny == pytest.approx(math.log(1e-3))

    @pytest.mark.parametrize("shape", [(300, 60), (60, 300)], ids=str)
    @pytest.mark.parametrize("smallest", [1.0, 1e-4])
    def test_single_precision_is_taken_where_it_is_enough(self, monkeypatch, shape, smallest):
        decay = np.geomspace(1, smallest, shape[1])
        e = (embeddings(*shape, 0) * decay + 3).astype(np.float32)
        exact = eigenscore(e)
        monkeypatch.setattr(gram, "SINGLE_FROM", 0)
        found = eigenscore(e)
        assert found == pytest.approx(exact, abs=1e-5)
        # Of more answers than features, centred, an eigenvalue is alpha: below single precision.
        assert (found == exact) == (smallest < 1 or shape[0] < shape[1])
        monkeypatch.setattr(gram, "SINGLE_ERROR", math.inf)
        error = abs(eigenscore(e) - exact)
        monkeypatch.setattr(gram, "SINGLE_ERROR", error)
        assert abs(eigenscore(e) - exact) < error or error == 0  # it is told to be larger

    def test_a_tensor_is_not_copied(self):
        tensor = torch.zeros(3, 4)
        assert np.shares_memory(host_view(tensor), tensor.numpy())
        assert host_view(array_api_strict.zeros(3)) is None
        assert host_view(tensor.to(torch.bfloat16)) is None


def test_embeddings_whose_products_overflow_are_refused():
    for score in (eigenscore, ees):
        with pytest.raises(ValueError, match=r"value of 1e\+200; expected at most 1e\+150"):
            score(np.eye(5, 3) * 1e200)
