"""The divergence of a student from its teacher: identities, the textbook, buckets."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from send.distillation.divergence import bucketed_kl, forward_kl, top_k
from tests.send import naive

EPS = torch.finfo(torch.float64).eps

temperatures = st.floats(0.5, 4)
vocabularies = st.integers(2, 12)
seeds = st.integers(0, 2**31)


def logits_pair(seed, vocabulary, count=3):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, vocabulary, generator=rng, dtype=torch.float64) * 3


@given(seeds, vocabularies, temperatures)
def test_at_least_zero_and_zero_at_equality(seed, vocabulary, temperature):
    teacher, student = logits_pair(seed, vocabulary)
    assert (forward_kl(teacher, student, temperature) >= -50 * EPS).all()
    shifted = student + 7.0  # logits have no origin
    same = forward_kl(student, shifted, temperature)
    assert same.abs().max() < 1000 * EPS


@given(seeds, vocabularies, temperatures)
def test_it_is_the_textbook(seed, vocabulary, temperature):
    teacher, student = logits_pair(seed, vocabulary)
    for t, s, value in zip(
        teacher, student, forward_kl(teacher, student, temperature), strict=True
    ):
        expected = naive.kd_loss(t.tolist(), s.tolist(), temperature)
        assert float(value) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@given(seeds, vocabularies, temperatures)
def test_its_gradient_is_that_of_the_cross_entropy(seed, vocabulary, temperature):
    teacher, student = logits_pair(seed, vocabulary)
    student.requires_grad_()
    p, q = (teacher / temperature).softmax(-1), (student / temperature).log_softmax(-1)
    ours = torch.autograd.grad(forward_kl(teacher, student, temperature).sum(), student)[0]
    cross_entropy = -(temperature**2) * (p * q).sum()
    theirs = torch.autograd.grad(cross_entropy, student)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours, temperature * (q.exp() - p), rtol=1e-9, atol=1e-12)


@given(seeds, vocabularies, st.floats(0.5, 20))
def test_a_temperature_divides_all_logits(seed, vocabulary, temperature):
    teacher, student = logits_pair(seed, vocabulary)
    torch.testing.assert_close(
        forward_kl(temperature * teacher, temperature * student, temperature),
        temperature**2 * forward_kl(teacher, student),
    )


def test_at_high_temperature_it_matches_centred_logits():
    """The limit in Hinton et al., eq. 4: half the variance of the difference of the logits."""
    teacher, student = logits_pair(0, 6)
    expected = (teacher - student).var(-1, correction=0) / 2
    torch.testing.assert_close(forward_kl(teacher, student, 1e5), expected, rtol=1e-3, atol=1e-4)


@given(seeds, vocabularies, temperatures, st.randoms(use_true_random=False))
def test_tokens_have_no_order(seed, vocabulary, temperature, random):
    teacher, student = logits_pair(seed, vocabulary)
    order = random.sample(range(vocabulary), vocabulary)
    moved = forward_kl(teacher[:, order], student[:, order], temperature)
    torch.testing.assert_close(moved, forward_kl(teacher, student, temperature))
    k = max(1, vocabulary // 2)
    torch.testing.assert_close(
        bucketed_kl(*top_k(teacher[:, order], k, temperature), student[:, order], temperature),
        bucketed_kl(*top_k(teacher, k, temperature), student, temperature),
    )


@given(seeds, vocabularies, temperatures)
def test_with_all_tokens_buckets_are_exact(seed, vocabulary, temperature):
    teacher, student = logits_pair(seed, vocabulary)
    exact = forward_kl(teacher, student, temperature)
    for k in (vocabulary, vocabulary + 5):
        indices, log_probs = top_k(teacher, k, temperature)
        assert indices.shape == log_probs.shape == teacher.shape
        buckets = bucketed_kl(indices, log_probs, student, temperature)
        torch.testing.assert_close(buckets, exact)


@given(seeds, st.integers(3, 12), temperatures)
def test_fewer_buckets_never_increase_it(seed, vocabulary, temperature):
    """The data-processing inequality: buckets of k tokens are buckets of k + 1 put together."""
    teacher, student = logits_pair(seed, vocabulary)
    values = [
        bucketed_kl(*top_k(teacher, k, temperature), student, temperature)
        for k in range(1, vocabulary + 1)
    ]
    for fewer, more in pairwise(values):
        assert (fewer <= more + 50 * EPS).all()
    assert (values[0] >= -50 * EPS).all()
    torch.testing.assert_close(values[-2], values[-1])  # one other token is its own bucket


@given(seeds, st.integers(3, 12), temperatures)
def test_buckets_hold_the_whole_distribution(seed, vocabulary, temperature):
    teacher, _ = logits_pair(seed, vocabulary)
    indices, log_probs = top_k(teacher, 2, temperature)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    p = (teacher / temperature).softmax(-1)
    torch.testing.assert_close(log_probs[:, :2].exp(), p.gather(-1, indices.long()))


@given(seeds, st.integers(4, 12))
def test_buckets_have_a_gradient_everywhere(seed, vocabulary):
    teacher, student = logits_pair(seed, vocabulary)
    student.requires_grad_()
    loss = bucketed_kl(*top_k(teacher, 2), student).sum()
    assert torch.autograd.gradcheck(lambda s: bucketed_kl(*top_k(teacher, 2), s).sum(), student)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_rounding_to_float16_moves_it_little():
    teacher, student = logits_pair(0, 50, count=200)
    indices, log_probs = top_k(teacher, 8)
    exact = bucketed_kl(indices, log_probs, student)
    rounded = bucketed_kl(indices, log_probs.half(), student)
    assert (rounded - exact).abs().max() < 2**-9  # 2^-11 of |log p| < 16, weighted by p
    assert rounded.min() >= -1e-6


def test_low_precision_is_computed_in_float32():
    teacher, student = logits_pair(1, 9)
    low = forward_kl(teacher.bfloat16(), student.bfloat16(), 2.0)
    assert low.dtype == torch.float32
    exact = forward_kl(teacher.bfloat16().double(), student.bfloat16().double(), 2.0)
    torch.testing.assert_close(low.double(), exact, rtol=1e-5, atol=1e-6)


@settings(max_examples=20)
@given(seeds)
def test_a_token_that_the_teacher_excludes_counts_nothing(seed):
    teacher, student = logits_pair(seed, 5)
    teacher[:, 2] = -math.inf
    student.requires_grad_()
    loss = forward_kl(teacher, student)
    assert loss.isfinite().all()
    grad = torch.autograd.grad(loss.sum(), student)[0]
    torch.testing.assert_close(grad, student.softmax(-1) - teacher.softmax(-1))
