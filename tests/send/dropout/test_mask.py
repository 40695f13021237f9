"""The mask zeroes exactly the chosen indices of one block's output, while training only."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from send.dropout.mask import SensitivityMask
from send.models.hidden_states import HiddenTap, block_at

CHOSEN = (1, 5, 12)
OTHERS = [i for i in range(16) if i not in CHOSEN]
IDS = torch.tensor([[3, 4, 5, 6, 7], [9, 8, 7, 3, 11]])


def logits_and_states(model, layer=-2):
    """One forward pass, with the same random numbers each time."""
    torch.manual_seed(0)
    with HiddenTap(model, layer) as tap, torch.no_grad():
        return model(IDS).logits, tap.states


@pytest.mark.parametrize("layer", [-2, -4, 2])
def test_only_the_chosen_indices_are_zero_in_training(any_model, layer):
    any_model.train()
    logits, states = logits_and_states(any_model, layer)
    with SensitivityMask(any_model, layer) as mask:
        mask.set(CHOSEN)
        masked_logits, masked_states = logits_and_states(any_model, layer)
    assert states[..., CHOSEN].any(dim=(0, 1)).all()
    assert not masked_states[..., CHOSEN].any()
    assert torch.equal(masked_states[..., OTHERS], states[..., OTHERS])
    assert not torch.equal(masked_logits, logits)


def test_earlier_blocks_are_not_touched(any_model):
    any_model.train()
    _, before = logits_and_states(any_model, -3)
    with SensitivityMask(any_model) as mask:
        mask.set(CHOSEN)
        _, masked = logits_and_states(any_model, -3)
    assert torch.equal(before, masked)


def test_evaluation_never_sees_the_mask(any_model):
    any_model.eval()
    plain = logits_and_states(any_model)
    with SensitivityMask(any_model) as mask:
        mask.set(CHOSEN)
        for a, b in zip(plain, logits_and_states(any_model), strict=True):
            assert torch.equal(a, b)


def test_a_released_mask_gives_back_the_unmasked_logits(any_model):
    any_model.train()
    plain, _ = logits_and_states(any_model)
    with SensitivityMask(any_model) as mask:
        mask.set(CHOSEN)
        assert not torch.equal(logits_and_states(any_model)[0], plain)
        mask.release()
        assert torch.equal(logits_and_states(any_model)[0], plain)
        mask.set(CHOSEN)
    assert torch.equal(logits_and_states(any_model)[0], plain)


def test_released_the_output_is_the_same_object(tiny_model):
    block = block_at(tiny_model.train())
    outputs = []
    block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with SensitivityMask(tiny_model):
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        logits_and_states(tiny_model)
    assert outputs[0] is outputs[1]


def test_nothing_of_it_is_in_the_model(tiny_model):
    before = copy.deepcopy(tiny_model.state_dict())
    modules, buffers = list(tiny_model.modules()), dict(tiny_model.named_buffers())
    with SensitivityMask(tiny_model) as mask:
        mask.set(CHOSEN)
        logits_and_states(tiny_model.train())
        assert list(tiny_model.modules()) == modules
        assert dict(tiny_model.named_buffers()).keys() == buffers.keys()
        assert list(tiny_model.state_dict()) == list(before)
        for name, value in tiny_model.state_dict().items():
            assert torch.equal(value, before[name])
    assert not block_at(tiny_model)._forward_hooks


def test_gradient_flows_to_the_other_indices_only(tiny_model):
    tiny_model.train()
    weight = block_at(tiny_model).mlp.dense_4h_to_h.weight  # row i writes into index i
    with SensitivityMask(tiny_model) as mask:
        mask.set(CHOSEN)
        tiny_model(IDS, labels=IDS).loss.backward()
    assert not weight.grad[list(CHOSEN)].any()
    assert (weight.grad[OTHERS] != 0).any(dim=1).all()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(tiny_model, use_reentrant):
    def gradients():
        tiny_model.zero_grad()
        tiny_model(IDS, labels=IDS, use_cache=False).loss.backward()
        return [p.grad.clone() for p in tiny_model.parameters()]

    tiny_model.train()
    with SensitivityMask(tiny_model) as mask:
        mask.set(CHOSEN)
        plain = gradients()
        tiny_model.enable_input_require_grads()
        tiny_model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        for a, b in zip(plain, gradients(), strict=True):
            assert torch.equal(a, b)


def test_set_replaces_what_was_set_and_sorts_it(tiny_model):
    with SensitivityMask(tiny_model) as mask:
        assert (mask.active, mask.indices) == (False, ())
        mask.set([7, 2, 7])
        assert (mask.active, mask.indices) == (True, (2, 7))
        mask.set(torch.tensor([0]))
        assert mask.indices == (0,)
        _, states = logits_and_states(tiny_model.train())
        assert not states[..., 0].any()
        assert states[..., [2, 7]].abs().min() > 0
        mask.set([])
        assert not mask.active


def test_everywhere_applies_the_mask_in_evaluation_too(tiny_model):
    plain, _ = logits_and_states(tiny_model)
    with SensitivityMask(tiny_model) as mask:
        mask.set(CHOSEN)
        with mask.everywhere():
            logits, states = logits_and_states(tiny_model)
        assert not states[..., CHOSEN].any()
        assert not torch.equal(logits, plain)
        assert torch.equal(logits_and_states(tiny_model)[0], plain)


def test_rescale_keeps_the_expected_size(tiny_model):
    tiny_model.train()
    _, states = logits_and_states(tiny_model)
    with SensitivityMask(tiny_model, rescale=True) as mask:
        mask.set(CHOSEN)
        _, masked = logits_and_states(tiny_model)
    assert not masked[..., CHOSEN].any()
    torch.testing.assert_close(masked[..., OTHERS], states[..., OTHERS] * (16 / 13))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precision_stays(tiny_model, dtype):
    tiny_model.to(dtype).train()
    with SensitivityMask(tiny_model, rescale=True) as mask:
        mask.set(CHOSEN)
        logits, states = logits_and_states(tiny_model)
    assert logits.dtype == states.dtype == dtype
    assert not states[..., CHOSEN].any()


class TwoBlocks(nn.Module):
    """A model whose blocks return what `wrap` makes of their states, as older ones do."""

    def __init__(self, wrap):
        super().__init__()
        text_config = SimpleNamespace(hidden_size=4, num_hidden_layers=2)
        self.config = SimpleNamespace(get_text_config=lambda: text_config)
        self.layers = nn.ModuleList([Wrapping(wrap), Wrapping(wrap)])


class Wrapping(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, states):
        return self.wrap(states)


@pytest.mark.parametrize("wrap", [lambda s: (s, "cache", 3), lambda s: [s, "cache", 3]])
def test_the_rest_of_a_tuple_is_passed_on(wrap):
    model = TwoBlocks(wrap)
    with SensitivityMask(model) as mask:
        mask.set([2])
        states, *rest = model.layers[0](torch.ones(1, 1, 4))
    assert states.tolist() == [[[1, 1, 0, 1]]]
    assert rest == ["cache", 3]


def test_infinity_is_dropped_too():
    model = TwoBlocks(lambda s: s)
    with SensitivityMask(model) as mask:
        mask.set([0])
        states = model.layers[0](torch.tensor([[[torch.inf, 1, 1, 1]]]))
    assert states.tolist() == [[[0, 1, 1, 1]]]


def test_removing_twice_is_harmless(tiny_model):
    mask = SensitivityMask(tiny_model)
    mask.remove()
    mask.remove()
    assert not block_at(tiny_model)._forward_hooks


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([16], "do not lie in 0..15"),
        ([-1, 3], "do not lie in 0..15"),
        (range(16), "all 16 indices"),
    ],
)
def test_set_refuses_what_it_cannot_drop(tiny_model, indices, message):
    with SensitivityMask(tiny_model) as mask:
        mask.set([3])
        with pytest.raises(ValueError, match=message):
            mask.set(indices)
        assert mask.indices == (3,)


def test_there_must_be_such_a_block(tiny_model):
    with pytest.raises(ValueError, match="not the output of a decoder block"):
        SensitivityMask(tiny_model, layer=-1)


def test_an_index_that_is_no_integer_is_refused(tiny_model):
    with SensitivityMask(tiny_model) as mask, pytest.raises(TypeError, match="integer"):
        mask.set([1.7])
