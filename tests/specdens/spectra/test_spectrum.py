"""One run, many answers: they equal those of runs of their own, and identities hold among them."""

import math
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import specdens
from specdens.testing import laplacian, laplacian_eigenvalues, rotated, with_spectrum

RUN = {"method": "lanczos", "moments": 24, "probes": 8, "rng": 3}
POSITIVE = np.geomspace(0.05, 3, 60)
FEW = np.geomspace(0.05, 3, 24)


def run(a, **changed):
    return specdens.spectrum(a, **RUN | changed)


def assert_same(answer, value, info):
    assert answer.value == pytest.approx(info.value)
    assert float(value) == pytest.approx(info.value, rel=1e-6)
    assert (answer.stderr, answer.bias_bound) == pytest.approx((info.stderr, info.bias_bound))
    assert (answer.flags, answer.matvecs, answer.seed) == (info.flags, info.matvecs, info.seed)


class TestEqualsARunOfItsOwn:
    @pytest.mark.parametrize("f", ["log", "inv", "exp", "sqrt", "xlogx", "square", np.cos])
    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
    def test_trace_function(self, backend, quiet, f, dtype):
        kind = complex if dtype == "complex128" else float
        a = backend(with_spectrum(FEW, rng=0, dtype=kind), dtype)
        options = {"moments": 12, "probes": 4}
        with quiet():
            value, info = specdens.trace_function(a, f, return_info=True, **RUN | options)
        assert_same(run(a, **options).trace_function(f), value, info)

    @pytest.mark.parametrize("shift", [0.0, 0.5, -10.0, -0.9])
    def test_logdet_of_either_sign(self, quiet, shift):
        a = with_spectrum(POSITIVE, rng=0)
        with quiet():
            value, info = specdens.logdet(a, shift=shift, return_info=True, **RUN)
        for answer in (run(a, shift=shift).logdet(), run(a).logdet(shift)):
            assert_same(answer, value, info)

    def test_density_under_every_kernel(self, backend):
        a = backend(with_spectrum(POSITIVE, rng=0))
        found, x = run(a), np.linspace(0, 3, 50)
        for kernel in ("jackson", "lorentz", "none"):
            expected = specdens.density(a, kernel=kernel, **RUN)
            assert found.density(kernel=kernel)(x) == pytest.approx(expected(x), abs=1e-9)
        assert found.density(moments=9).integrate(np.square) * 60 == pytest.approx(
            found.trace_function("square").value, rel=0.2
        )

    def test_count(self, quiet):
        a = with_spectrum(POSITIVE, rng=0)
        with quiet():
            value, info = specdens.eigencount(a, 0.1, 1.0, return_info=True, **RUN)
        assert_same(run(a).count(0.1, 1.0), value, info)

    def test_pencil(self, quiet):
        a, b = with_spectrum(POSITIVE, rng=0), with_spectrum(POSITIVE + 1, rng=1)
        with quiet():
            value, info = specdens.trace_function(a, "exp", B=b, return_info=True, **RUN)
        assert_same(run(a, B=b).trace_function("exp"), value, info)

    def test_given_probes(self, quiet):
        a = with_spectrum(POSITIVE, rng=0)
        probes = np.random.default_rng(0).standard_normal((60, 5))
        with quiet():
            value, info = specdens.trace_function(
                a, "exp", return_info=True, **{**RUN, "probes": probes}
            )
        assert_same(run(a, probes=probes).trace_function("exp"), value, info)


class TestAllEigenvalues:
    EIGENVALUES = np.array([-2.0, -0.5, 0.25, 1.0, 3.0])

    @pytest.fixture(params=["exact", "every probe"])
    def found(self, request, backend):
        a = backend(with_spectrum(self.EIGENVALUES, rng=0))
        if request.param == "exact":
            return specdens.spectrum(a)
        return specdens.spectrum(a, method="lanczos", moments=10, probes=5)

    def test_sums(self, found):
        e = self.EIGENVALUES
        assert float(found.logdet()) == pytest.approx(np.log(np.abs(e)).sum())
        assert float(found.estrada_index()) == pytest.approx(np.exp(e).sum())
        assert [float(x) for x in found.heat_trace([0.0, 0.3])] == pytest.approx([
            5.0,
            np.exp(-0.3 * e).sum(),
        ])
        assert float(found.trace_function(lambda x: 1 / (x - 1j)).value.imag) == pytest.approx(
            np.imag(1 / (e - 1j)).sum()
        )

    def test_norms_and_ranks(self, found):
        e = np.abs(self.EIGENVALUES)
        p = e / e.sum()
        assert float(found.nuclear_norm()) == pytest.approx(e.sum())
        assert float(found.schatten_norm(3)) == pytest.approx((e**3).sum() ** (1 / 3))
        assert float(found.effective_rank()) == pytest.approx(math.exp(-(p * np.log(p)).sum()))
        assert float(found.numerical_rank(0.3)) == pytest.approx(4)
        assert float(found.condition_number()) == pytest.approx(12)
        assert tuple(found.bounds()) == pytest.approx((-2, 3))
        assert found.nuclear_norm().converged
        assert found.condition_number().converged

    def test_counts(self, found):
        assert float(found.count(-1, 1)) == pytest.approx(3)
        assert [float(x) for x in found.cumulative([-3, 0, 9])] == pytest.approx([0, 0.4, 1])

    def test_entropies_need_a_definite_matrix(self, found):
        with pytest.raises(ValueError, match="negative eigenvalue"):
            found.entropy()
        moved = found.shifted(2.5)
        p = self.EIGENVALUES + 2.5
        p = p / p.sum()
        assert float(moved.entropy()) == pytest.approx(-(p * np.log(p)).sum())
        assert float(moved.renyi_entropy(2)) == pytest.approx(-math.log((p**2).sum()))
        assert float(moved.renyi_entropy(0.5)) == pytest.approx(2 * math.log((p**0.5).sum()))
        assert float(moved.renyi_entropy(1)) == float(moved.entropy())


class TestErrorsOfNonlinearAnswers:
    """The truth lies within five standard errors and the bias; the errors are not idle."""

    @pytest.mark.parametrize("key", range(3))
    @pytest.mark.parametrize("known", [True, False], ids=["traces", "no traces"])
    def test_entropies_and_norms(self, key, known):
        e = np.geomspace(1e-3, 1, 300)
        a = with_spectrum(e, rng=0)
        op = a if known else specdens.aslinearoperator(lambda v: a @ v, n=300, hermitian=True)
        found = specdens.spectrum(op, method="lanczos", moments=60, rng=key)
        p = e / e.sum()
        cases = {
            "entropy": (found.entropy(), -(p * np.log(p)).sum()),
            "renyi": (found.renyi_entropy(3), -math.log((p**3).sum()) / 2),
            "rank": (found.effective_rank(), math.exp(-(p * np.log(p)).sum())),
            "schatten": (found.schatten_norm(1.5), (e**1.5).sum() ** (1 / 1.5)),
        }
        for name, (answer, truth) in cases.items():
            error = abs(answer.value - truth)
            assert error <= 5.5 * answer.stderr + answer.bias_bound, name
            assert answer.stderr < 0.05 * truth, name
            assert answer.converged, name

    def test_one_probe_has_an_error_too(self):
        answer = run(with_spectrum(POSITIVE, rng=0), probes=1).entropy()
        assert answer.stderr > 0

    def test_standard_error_is_the_scatter(self):
        e = np.linspace(0.1, 1, 200)
        op = rotated(e, rng=0)
        answers = [specdens.spectrum(op, method="lanczos", moments=30, rng=k).entropy()
                   for k in range(40)]  # fmt: skip
        scatter = np.std([a.value for a in answers], ddof=1)
        assert 0.5 < scatter / np.mean([a.stderr for a in answers]) < 1.8

    def test_ranks_admit_what_is_not_resolved(self):
        e = np.r_[np.zeros(100), np.linspace(1e-4, 2, 200)]
        answer = specdens.spectrum(with_spectrum(e, rng=0), method="lanczos", rng=0)
        rank = answer.numerical_rank(1e-10)
        assert not rank.converged
        assert abs(rank.value - 200) <= 5 * rank.stderr + rank.bias_bound

    def test_condition_numbers_admit_what_is_not_resolved(self):
        answer = specdens.spectrum(laplacian(40, 40), method="lanczos", moments=20, rng=0)
        found = answer.condition_number()
        e = laplacian_eigenvalues(40, 40)
        assert found.value < e.max() / e.min()
        assert not found.converged
        assert found.bias_bound > e.max() / e.min() - found.value


class TestBounds:
    def test_an_end_that_is_proved_and_near_is_taken(self):
        found = run(laplacian(9, 9)).bounds()
        assert tuple(found) == (0, 8)
        assert found.rigorous

    def test_an_end_that_is_contradicted_is_not(self):
        e = laplacian_eigenvalues(9, 9)
        wrong = run(laplacian(9, 9), bounds=(1.0, 2.0))
        found = wrong.bounds()
        assert found.low <= e.min() <= e.max() <= found.high
        assert not found.low_rigorous
        assert not found.high_rigorous
        assert wrong.condition_number().bias_bound > 0
        assert wrong.trace_function("exp").flags


class TestShifts:
    def test_many_equal_one_by_one_and_grow(self):
        found = run(laplacian(12, 12))
        shifts = np.linspace(0, 2, 7)
        answers = found.logdet(shifts)
        assert [float(found.logdet(t)) for t in shifts] == [float(a) for a in answers]
        assert np.all(np.diff([float(a) for a in answers]) > 0)

    @settings(max_examples=15, deadline=None)
    @given(first=st.floats(-2, 2), second=st.floats(-2, 2))
    def test_they_add_up(self, first, second):
        found = run(laplacian(5, 5))
        both = found.shifted(first).shifted(second)
        assert both.run.shift == pytest.approx(first + second)
        value = found.shifted(first + second).trace_function("exp").value
        assert both.trace_function("exp").value == pytest.approx(value, rel=1e-9)
        assert tuple(both.run.known) == pytest.approx((first + second, 8 + first + second))


class TestInvariances:
    @settings(max_examples=15, deadline=None)
    @given(scale=st.floats(1e-15, 1e15))  # beyond, squares of entries are no control variates
    def test_scaling(self, scale):
        a = with_spectrum(POSITIVE, rng=0)
        one, other = run(a), run(scale * a)
        for name in ("entropy", "effective_rank", "numerical_rank", "condition_number"):
            expected = getattr(one, name)().value
            assert getattr(other, name)().value == pytest.approx(expected, rel=1e-6), name
        for p in (0.5, 1, 3):
            expected = scale * one.schatten_norm(p).value
            assert other.schatten_norm(p).value == pytest.approx(expected, rel=1e-6)

    def test_entropies_fall_with_their_order(self):
        found = run(with_spectrum(POSITIVE, rng=0))
        values = [found.renyi_entropy(order).value for order in (0.5, 0.99, 1, 1.01, 2, 4)]
        assert np.all(np.diff(values) < 0)
        assert values[2] == pytest.approx((values[1] + values[3]) / 2, abs=1e-3)

    def test_participation_of_an_explicit_matrix_is_exact(self):
        e = POSITIVE
        answer = run(with_spectrum(e, rng=0)).renyi_entropy(2)
        assert math.exp(answer.value) == pytest.approx(e.sum() ** 2 / (e**2).sum())
        assert answer.stderr < 1e-9


class TestMerge:
    def test_two_halves_make_a_whole(self):
        a = laplacian(9, 9)
        first, second = (run(a, probes=r) for r in (range(8), range(8, 12)))
        merged, whole = first.merge(second), run(a, probes=12)
        assert merged.run.sources == whole.run.sources == ((3, range(12)),)
        assert merged.trace_function("exp") == whole.trace_function("exp")
        assert (merged.seed, merged.matvecs) == (3, whole.matvecs)

    def test_of_two_keys(self):
        a = laplacian(9, 9)
        merged = run(a).merge(run(a, rng=4))
        assert merged.seed is None
        assert merged.trace_function("exp").samples == 16

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({}, "probes of key 3"),
            ({"probes": range(5, 30)}, "probes of key 3"),
            ({"rng": 4, "shift": 1.0}, "differ in shift"),
            ({"rng": 4, "moments": 30}, "differ in moments"),
            ({"probes": 81}, "random probes"),
            ({"method": "exact"}, "random probes"),
        ],
    )
    def test_of_what_does_not_fit(self, changed, message):
        a = laplacian(9, 9)
        with pytest.raises(ValueError, match=message):
            run(a).merge(run(a, **changed))

    def test_of_different_matrices(self):
        with pytest.raises(ValueError, match="differ in"):
            run(laplacian(9, 9)).merge(run(2 * laplacian(9, 9), rng=4))


class TestExtend:
    @pytest.mark.parametrize(
        "more", [{"probes": 12}, {"moments": 30}, {"probes": 12, "moments": 30}], ids=str
    )
    def test_equals_a_longer_run(self, more):
        a = laplacian(9, 9)
        longer, found = run(a, **more), run(a, shift=0.5).extend(a, **more).shifted(-0.5)
        assert found.logdet().value == pytest.approx(longer.logdet().value)
        assert found.logdet().stderr == pytest.approx(longer.logdet().stderr)
        again = 96 if "moments" in more else 0
        assert found.matvecs == longer.matvecs + again

    def test_of_stated_bounds(self):
        a = laplacian(9, 9)
        found = run(a, bounds=(0.1, 8)).extend(a, probes=12)
        assert found.run.known.low == 0.1

    def test_of_what_does_not_fit(self):
        a = laplacian(9, 9)
        with pytest.raises(ValueError, match="no more than"):
            run(a).extend(a)
        with pytest.raises(ValueError, match="expected the matrix of the run"):
            run(a).extend(laplacian(8, 8), probes=12)
        with pytest.raises(ValueError, match="nothing to extend"):
            specdens.spectrum(a, method="exact").extend(a, probes=12)


class TestFiles:
    def some(self):
        a = laplacian(9, 9)
        x = np.random.default_rng(0).standard_normal((10, 25))
        yield run(a, bounds=(0, 8), shift=0.25)
        yield run(a).merge(run(a, rng=2**64 - 1))
        yield run(a, probes=81)
        yield specdens.spectrum(a)
        yield specdens.spectrum(np.zeros((0, 0)))
        yield run(specdens.Gram(x))

    def test_round_trip_is_exact(self, tmp_path):
        path = tmp_path / "run"
        for found in self.some():
            found.save(path)
            again = specdens.Spectrum.load(path)
            assert repr(again) == repr(found)
            assert again.run.sources == found.run.sources
            assert again.run.known == found.run.known
            assert again.logdet([0.5, 1.0]) == found.logdet([0.5, 1.0])
            assert again.heat_trace(1.0) == found.heat_trace(1.0)
            assert again.count(0, 1) == found.count(0, 1)

    def altered(self, tmp_path, **changed):
        path = tmp_path / "run.npz"
        run(laplacian(9, 9)).save(path)
        with np.load(path) as archive:
            arrays = dict(archive)
        arrays.update({k: np.asarray(v) for k, v in changed.items() if v is not None})
        for name in [k for k, v in changed.items() if v is None]:
            del arrays[name]
        np.savez(path, **arrays)
        return path

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"version": 2}, "version 2; expected 1"),
            ({"version": None}, "no version"),
            ({"diagonals": None}, "lacks diagonals"),
            ({"diagonals": np.zeros(3)}, "coefficients"),
            ({"diagonals": np.full(96, np.nan)}, "diagonals are bad"),
            ({"lengths": np.full(8, -1)}, "lengths"),
            ({"lengths": np.zeros(0, int), "residuals": np.zeros(0), "diagonals": np.zeros(0),
              "off_diagonals": np.zeros(0)}, "neither eigenvalues nor probes"),
            ({"moments": 4}, "too long"),
            ({"n": -3}, "n is no count"),
            ({"n": 2.5}, "n is no count"),
            ({"n": np.zeros(4)}, "run.npz"),
            ({"unit": 0.0}, "roundoff"),
            ({"shift": np.inf}, "shift"),
            ({"bounds": [2.0, 1.0]}, "interval"),
            ({"bounds": [np.nan, 1.0]}, "interval"),
            ({"ranges": [[5, 5]]}, "range is empty"),
            ({"ranges": [[0, 5]]}, "lacks probes"),
            ({"atoms": [[0.0, 100.0]]}, "atoms"),
            ({"all_eigenvalues": True}, "lacks eigenvalues"),
            ({"how": np.array([1], dtype=object)}, "pickle"),
        ],
        ids=lambda x: x if isinstance(x, str) else "-".join(x),
    )  # fmt: skip
    def test_altered_ones(self, tmp_path, changed, message):
        path = self.altered(tmp_path, **changed)
        with pytest.raises(ValueError, match=message) as caught:
            specdens.Spectrum.load(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    def test_broken_ones(self, tmp_path):
        path = tmp_path / "run.npz"
        run(laplacian(9, 9)).save(path)
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(60):
            broken = bytearray(whole[: rng.integers(len(whole))])
            for place in rng.integers(max(len(broken), 1), size=3):
                if broken:
                    broken[place] = rng.integers(256)
            path.write_bytes(bytes(broken))
            with pytest.raises(ValueError, match="not a readable spectrum"):
                specdens.Spectrum.load(path)

    def test_bits_that_flip(self, tmp_path):
        """A ValueError or a spectrum: anything else is wrong."""
        path = tmp_path / "run.npz"
        run(laplacian(4, 4)).save(path)
        whole, rng = path.read_bytes(), np.random.default_rng(1)
        for place in rng.integers(len(whole), size=150):
            broken = bytearray(whole)
            broken[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(broken))
            with suppress(ValueError):
                specdens.Spectrum.load(path)

    def test_others(self, tmp_path):
        with pytest.raises(ValueError, match="no such file"):
            specdens.Spectrum.load(tmp_path / "nothing.npz")
        path = tmp_path / "empty.zip"
        with zipfile.ZipFile(path, "w"):
            pass
        with pytest.raises(ValueError, match="no version"):
            specdens.Spectrum.load(path)


class TestGram:
    """Zeros that are there by construction are not sampled."""

    def test_known_zeros(self):
        x = np.random.default_rng(0).standard_normal((40, 300))
        found = specdens.spectrum(specdens.Gram(x), method="lanczos", rng=0, probes=40, moments=80)
        e = np.linalg.eigvalsh(x @ x.T)
        p = e / e.sum()
        assert found.run.atoms == ((0.0, 260),)
        assert found.entropy().value == pytest.approx(-(p * np.log(p)).sum())
        assert found.numerical_rank().value == pytest.approx(40)
        assert found.logdet().value == -math.inf
        assert found.logdet(1.0).value == pytest.approx(np.log1p(e).sum())
        assert found.heat_trace(0.0).value == pytest.approx(300)
        assert found.count(-1, 1).value == pytest.approx(260)
        assert found.condition_number().value == math.inf
        assert found.density().integrate(lambda t: t) == pytest.approx(e.sum() / 300)
        shifted = specdens.spectrum(specdens.Gram(x, shift=2.0), method="lanczos", rng=0)
        assert shifted.run.atoms == ((2.0, 260),)


class TestSmallest:
    def test_nothing(self):
        found = specdens.spectrum(np.zeros((0, 0)))
        for answer in (found.logdet(), found.nuclear_norm(), found.numerical_rank()):
            assert answer.value == 0
        assert found.count(0, 1).value == 0
        for ask in (found.entropy, found.effective_rank, found.condition_number, found.density,
                    found.bounds, lambda: found.cumulative(0.0)):  # fmt: skip
            with pytest.raises(ValueError, match="empty"):
                ask()

    @pytest.mark.parametrize("method", ["exact", "lanczos"])
    def test_one_number(self, method):
        found = specdens.spectrum(np.array([[4.0]]), method=method)
        assert found.logdet().value == pytest.approx(math.log(4))
        assert found.entropy().value == 0
        assert found.schatten_norm(3).value == pytest.approx(4)
        assert found.condition_number().value == 1

    def test_zero(self):
        found = specdens.spectrum(np.zeros((3, 3)), method="lanczos", probes=2)
        assert found.nuclear_norm().value == 0
        assert found.numerical_rank().value == 0
        assert found.logdet().value == -math.inf
        with pytest.raises(ValueError, match="sum up to 0"):
            found.entropy()


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "chebyshev"}, "method is 'chebyshev'"),
            ({"moments": 0}, "moments is 0"),
            ({"probes": range(3, 9, 2)}, "expected range"),
            ({"probes": range(-1, 4)}, "expected range"),
            ({"probes": range(4, 4)}, "expected range"),
            ({"shift": 1j}, "real"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            specdens.spectrum(np.eye(3), **options)

    def test_questions(self):
        found = run(laplacian(9, 9))
        with pytest.raises(ValueError, match="extend it first"):
            found.density(moments=100)
        with pytest.raises(ValueError, match="order is 0"):
            found.renyi_entropy(0)
        with pytest.raises(ValueError, match="p is -1"):
            found.schatten_norm(-1)
        with pytest.raises(ValueError, match="tol is -1"):
            found.numerical_rank(-1)
        with pytest.raises(ValueError, match="one-dimensional"):
            found.logdet(np.zeros((2, 2)))
        with pytest.raises(ValueError, match="low <= high"):
            found.count(2, 1)

    def test_not_hermitian(self):
        with pytest.raises(ValueError, match="not Hermitian"):
            specdens.spectrum(np.array([[1.0, 2.0], [0.0, 1.0]]))
