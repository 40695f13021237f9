import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from send import sentence_embedding
from send.models.embeddings import POOLINGS, evaluating, pool, positions
from tests.send import naive

# PEFT asks transformers for a property under its old name.
OLD_NAME = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
TEXTS = ([3, 13, 14, 15, 16], [4], [5, 20, 21])
PADS = {"left": (1, 0), "right": (0, 1), "both": (1, 1)}


def close(actual, expected, factor=64):
    """Equal up to `factor` roundings of the largest entry."""
    tolerance = factor * torch.finfo(actual.dtype).eps * float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def padded(texts, side, pad=0):
    """Return input ids and mask, with pads on one side, or on both sides of each text."""
    width = max(map(len, texts)) + 2
    ids, mask = [], []
    for text in texts:
        missing = width - len(text)
        left = {"left": missing, "right": 0, "both": missing // 2}[side]
        ids.append([pad] * left + text + [pad] * (missing - left))
        mask.append([0] * left + [1] * len(text) + [0] * (missing - left))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@st.composite
def marked_states(draw):
    batch, tokens, d = (draw(st.integers(1, n)) for n in (4, 7, 5))
    rows = st.lists(st.booleans(), min_size=tokens, max_size=tokens).filter(any)
    mask = torch.tensor(draw(st.lists(rows, min_size=batch, max_size=batch)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.randn(batch, tokens, d, generator=generator), mask


@given(marked_states(), st.sampled_from(POOLINGS))
def test_pool_equals_its_definition_on_the_marked_tokens(drawn, pooling):
    states, mask = drawn
    vectors = pool(states, mask.int(), pooling=pooling)
    for vector, row, marks in zip(vectors, states, mask, strict=True):
        close(vector, naive.pooled(list(row[marks]), pooling))


@given(marked_states(), st.sampled_from(POOLINGS), st.sampled_from([float("nan"), float("inf")]))
def test_what_stands_at_unmarked_positions_has_no_influence(drawn, pooling, poison):
    states, mask = drawn
    poisoned = torch.where(mask.unsqueeze(-1), states, poison)
    assert torch.equal(pool(poisoned, mask, pooling=pooling), pool(states, mask, pooling=pooling))


@given(marked_states(), st.integers(0, 3), st.integers(0, 3))
def test_pads_around_the_tokens_change_no_pooled_vector(drawn, left, right):
    states, mask = drawn
    wider = nn.functional.pad(states, (0, 0, left, right), value=7.0)
    marks = nn.functional.pad(mask, (left, right), value=False)
    close(pool(wider, marks), pool(states, mask))


@given(marked_states())
@settings(max_examples=20)
def test_the_default_is_half_mean_half_last(drawn):
    states, mask = drawn
    halves = (pool(states, mask, pooling="mean") + pool(states, mask, pooling="last")) / 2
    close(pool(states, mask), halves)


@pytest.mark.parametrize(
    ("given_", "result"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_pooling_is_at_least_in_single_precision(given_, result):
    # 4096 halves of 1 + 2^-7: half precision would lose the small part when summing.
    states = torch.full((1, 4096, 1), 1 + 2**-7, dtype=given_)
    vector = pool(states, torch.ones(1, 4096))
    assert vector.dtype == result
    assert float(vector) == 1 + 2**-7


def test_a_row_without_tokens_is_refused_by_number():
    with pytest.raises(ValueError, match=r"row \[1\]"):
        pool(torch.ones(2, 3, 4), torch.tensor([[1, 0, 0], [0, 0, 0]]))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), (2, 4, 4), (3, 3, 4)], ids=str)
def test_states_that_do_not_fit_the_mask_are_refused(shape):
    with pytest.raises(ValueError, match="expected \\(batch, tokens, d\\)"):
        pool(torch.ones(shape), torch.ones(2, 3))


def test_an_unknown_pooling_is_refused(tiny_model):
    with pytest.raises(ValueError, match="pooling is 'max'"):
        pool(torch.ones(1, 2, 3), torch.ones(1, 2), pooling="max")
    with pytest.raises(ValueError, match="pooling is 'max'"):
        sentence_embedding(tiny_model, padded(TEXTS, "left"), pooling="max")


def test_positions_count_text_only():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0]])
    expected = [[0, 0, 0, 1, 2], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert positions(mask).tolist() == expected


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_changes_no_embedding(any_model, side):
    vectors = sentence_embedding(any_model, padded(TEXTS, side))
    for vector, text in zip(vectors, TEXTS, strict=True):
        close(vector, naive.sentence_embedding(any_model, text), factor=256)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("layer", [1, -3])
def test_layer_and_pooling_are_those_asked_for(tiny_model, layer, pooling):
    vectors = sentence_embedding(tiny_model, padded(TEXTS, "left"), layer=layer, pooling=pooling)
    for vector, text in zip(vectors, TEXTS, strict=True):
        close(vector, naive.sentence_embedding(tiny_model, text, layer, pooling), factor=256)


def test_what_a_tokenizer_returns_is_accepted(tiny_model, tokenizer):
    texts = ["Ada was born in Oslo", "where ?"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    vectors = sentence_embedding(tiny_model, inputs)
    for vector, text in zip(vectors, texts, strict=True):
        ids = tokenizer(text)["input_ids"]
        close(vector, naive.sentence_embedding(tiny_model, ids), factor=256)


def test_the_pad_token_itself_has_no_influence(any_model):
    zeros, ones = (padded(TEXTS, "left", pad=pad) for pad in (0, 9))
    assert torch.equal(sentence_embedding(any_model, zeros), sentence_embedding(any_model, ones))


def test_a_model_in_training_is_embedded_without_dropout_and_keeps_its_modes(any_model):
    for module in any_model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    expected = sentence_embedding(any_model, padded(TEXTS, "left"))
    any_model.train()
    frozen = any_model.get_input_embeddings().eval()
    vectors = sentence_embedding(any_model, padded(TEXTS, "left"))
    assert torch.equal(vectors, expected)
    assert not vectors.requires_grad
    assert [m for m in any_model.modules() if not m.training] == [frozen]


def test_modes_and_hooks_are_restored_when_the_model_raises(tiny_model):
    tiny_model.train()
    inputs = {"input_ids": torch.tensor([[10_000]]), "attention_mask": torch.tensor([[1]])}
    with pytest.raises(IndexError):
        sentence_embedding(tiny_model, inputs)
    assert all(module.training for module in tiny_model.modules())
    assert not any(module._forward_hooks for module in tiny_model.modules())


def test_evaluating_gives_back_each_module_its_own_mode():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False]


@OLD_NAME
def test_wrapped_models_give_the_same_embedding(tiny_model):
    inputs = padded(TEXTS, "left")
    expected = sentence_embedding(tiny_model, inputs)
    assert torch.equal(sentence_embedding(nn.DataParallel(tiny_model), inputs), expected)
    lora = get_peft_model(tiny_model, LoraConfig(target_modules=["query_key_value"], r=2))
    close(sentence_embedding(lora, inputs), expected)


def test_inputs_without_a_mask_are_refused(tiny_model):
    with pytest.raises(ValueError, match="lack attention_mask"):
        sentence_embedding(tiny_model, {"input_ids": torch.tensor([[3, 4]])})


def test_inputs_of_one_text_without_a_batch_are_refused(tiny_model):
    inputs = {"input_ids": [3, 4], "attention_mask": [1, 1]}
    with pytest.raises(ValueError, match="expected \\(batch, tokens\\)"):
        sentence_embedding(tiny_model, inputs)


@pytest.mark.parametrize(("shape", "message"), [((0, 3), "not empty"), ((1, 200), "128 positions")])
def test_no_text_and_a_text_too_long_are_refused(shape, message):
    config = GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=11, n_positions=128)
    inputs = {name: torch.ones(shape, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match=message):
        sentence_embedding(GPT2LMHeadModel(config), inputs)
