"""Counter-based probes: known answers, the same on every backend, for every block size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdens.arrays.libraries import namespace, to_host
from specdens.arrays.probes import DISTRIBUTIONS, gaussian, key_of, make_probes, philox, signs
from tests.specdens import naive

WORD = 0xFFFFFFFF
HOME = {"xp": namespace(np.ones(1)), "dtype": np.float64, "where": "cpu"}


@pytest.mark.parametrize(
    ("fill", "key", "answer"),
    [
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (WORD, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
    ids=["zeros", "ones"],
)
def test_philox_known_answers(backend, fill, key, answer):
    word = backend.xp.asarray([fill], dtype=backend.xp.int64, device=backend.device)
    found = philox(backend.xp, (word, word, word, word), key)
    assert [int(w[0]) for w in found] == list(answer)


@given(
    counter=st.tuples(*[st.integers(0, WORD)] * 4),
    key=st.integers(0, 2**64 - 1),
)
def test_philox_equals_integer_arithmetic(counter, key):
    words = tuple(np.array([c]) for c in counter)
    found = philox(np, words, key)
    assert [int(w[0]) for w in found] == naive.philox4x32_10(counter, (key & WORD, key >> 32))


def test_signs_are_the_contracted_bits(backend):
    key = 0x0123456789ABCDEF
    found = to_host(
        signs(300, range(3, 6), key, xp=backend.xp, dtype=backend.xp.float32, where=backend.device)
    )
    expected = [[naive.sign(i, r, key) for r in range(3, 6)] for i in range(300)]
    assert np.array_equal(found, expected)


def test_phases_come_from_two_streams(backend):
    found = to_host(
        signs(140, range(2), 5, xp=backend.xp, dtype=backend.xp.complex128, where=backend.device)
    )
    turn = {1: 1, -1: 1j}
    expected = [
        [naive.sign(i, r, 5) * turn[naive.sign(i, r, 5, stream=1)] for r in range(2)]
        for i in range(140)
    ]
    assert np.array_equal(found, expected)


@given(n=st.integers(1, 400), count=st.integers(2, 9), cut=st.integers(1, 8))
def test_signs_do_not_depend_on_blocks(n, count, cut):
    options = {"xp": np, "dtype": np.float64}
    whole = signs(n, range(count), 7, **options)
    cut = min(cut, count - 1)
    parts = [signs(n, columns, 7, **options) for columns in (range(cut), range(cut, count))]
    assert np.array_equal(whole, np.concatenate(parts, axis=1))
    longer = signs(n + 200, range(count), 7, **options)
    assert np.array_equal(whole, longer[:n])


def test_signs_are_balanced_and_uncorrelated():
    z = signs(4096, range(64), 11, xp=np, dtype=np.float64)
    # 64 column sums and 2016 products of columns, each normal with variance 4096: 6 sigma.
    assert np.abs(z.sum(axis=0)).max() < 6 * 64
    assert np.abs(np.triu(z.T @ z, 1)).max() < 6 * 64


def test_gaussian_is_normal_and_alike_on_all_backends(backend):
    options = {"xp": backend.xp, "dtype": backend.xp.float64, "where": backend.device}
    found = to_host(gaussian(20001, range(2), 3, **options))
    reference = gaussian(20001, range(2), 3, xp=np, dtype=np.float64)
    assert np.allclose(found, reference, rtol=1e-12, atol=1e-14)
    scale = 6 / np.sqrt(found.size)
    assert abs(found.mean()) < scale
    assert abs(found.var() - 1) < np.sqrt(2) * scale
    assert abs((found**4).mean() - 3) < np.sqrt(96) * scale


def test_key_of():
    assert key_of(5) == 5
    assert key_of(np.int64(5)) == 5
    assert key_of(2**64 - 1) == 2**64 - 1
    assert key_of(np.random.default_rng(0)) == key_of(np.random.default_rng(0))
    assert key_of(np.random.SeedSequence(1)) != key_of(np.random.SeedSequence(2))
    assert key_of(None) != key_of(None)


@pytest.mark.parametrize("rng", [-1, 2**64], ids=["negative", "too large"])
def test_key_of_refuses_what_is_no_key(rng):
    with pytest.raises(ValueError, match="key itself"):
        key_of(rng)


@pytest.mark.parametrize("rng", ["0", True, 1.5], ids=["str", "bool", "float"])
def test_key_of_refuses_other_kinds(rng):
    with pytest.raises(TypeError, match="Generator"):
        key_of(rng)


def test_a_generator_gives_one_key_and_moves_on():
    generator = np.random.default_rng(0)
    assert key_of(generator) != key_of(generator)


@pytest.mark.parametrize(
    ("probes", "error", "text"),
    [
        (0, ValueError, "at least 1"),
        (np.ones(5), ValueError, "expected \\(5, R\\)"),
        (np.ones((4, 2)), ValueError, "expected \\(5, R\\)"),
        (np.zeros((5, 2)), ValueError, "zero"),
        (np.full((5, 1), np.nan), ValueError, "NaN"),
        (1j * np.ones((5, 1)), ValueError, "complex"),
        ("many", TypeError, "expected an int or an array"),
    ],
    ids=["none", "1-d", "length", "zero", "nan", "complex", "str"],
)
def test_bad_probes(probes, error, text):
    with pytest.raises(error, match=text):
        make_probes(probes, 5, 0, **HOME)


def test_as_many_probes_as_rows_are_the_unit_vectors():
    probes = make_probes(7, 5, 0, **HOME)
    assert probes.exhaustive
    assert np.array_equal(probes.block(range(1, 4)), np.eye(5)[:, 1:4])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_all_probes_have_norm_sqrt_n(backend, distribution, dtype):
    home = {"xp": backend.xp, "dtype": backend.dtype(dtype), "where": backend.device}
    probes = make_probes(12, 300, 7, distribution=distribution, **home)
    z = to_host(probes.block(range(12)))
    close = 1e-4 if dtype == "float32" else 1e-12
    assert np.allclose(np.linalg.norm(z, axis=0), np.sqrt(300), rtol=close)
    assert np.iscomplexobj(z) == (dtype == "complex128")
    if distribution == "orthogonal":
        assert np.allclose(z.conj().T @ z, 300 * np.eye(12), atol=300 * close)
    # Alike on every library, and whatever the block.
    numpy_home = {"xp": namespace(np.ones(1)), "dtype": np.dtype(dtype), "where": "cpu"}
    reference = make_probes(12, 300, 7, distribution=distribution, **numpy_home)
    assert np.allclose(z, reference.block(range(12)), atol=10 * close)
    parts = [to_host(probes.block(columns)) for columns in probes.blocks(5)]
    assert np.allclose(np.hstack(parts), z, atol=close)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_more_probes_begin_with_the_same_ones(dtype):
    for distribution in DISTRIBUTIONS:
        few, many = (
            make_probes(r, 50, 1, distribution=distribution, **{**HOME, "dtype": dtype})
            for r in (4, 9)
        )
        assert np.allclose(few.block(range(4)), many.block(range(4)))


def test_complex_sphere_has_independent_parts():
    z = make_probes(400, 500, 3, distribution="sphere", **{**HOME, "dtype": np.complex128}).block(
        range(400)
    )
    moments = np.mean(z**2), np.mean(np.abs(z) ** 2) - 1, np.mean(z)
    assert np.max(np.abs(moments)) < 6 * np.sqrt(2 / z.size)


@pytest.mark.parametrize(
    ("probes", "distribution", "text"),
    [(3, "gauss", "expected one of"), (np.ones((5, 2)), "sphere", "probes is an array")],
)
def test_bad_distributions(probes, distribution, text):
    with pytest.raises(ValueError, match=text):
        make_probes(probes, 5, 0, distribution=distribution, **HOME)
