from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from send.models.hidden_states import HiddenTap, block_at, decoder_blocks, states_of

# PEFT asks transformers for a property under its old name.
OLD_NAME = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
LAYERS = (1, 2, 3, -2, -3, -4)  # of 4 blocks


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("layer", LAYERS)
def test_the_tap_reads_the_hidden_states_of_its_index(any_model, layer):
    ids = torch.tensor([[3, 13, 14, 15, 16], [5, 4, 3, 20, 21]])
    with torch.no_grad(), HiddenTap(any_model, layer) as tap:
        expected = any_model(ids, output_hidden_states=True).hidden_states[layer]
    assert torch.equal(tap.states, expected)


def test_the_tap_keeps_the_last_pass_only_and_leaves_nothing_behind(tiny_model):
    with torch.no_grad(), HiddenTap(tiny_model) as tap:
        tiny_model(torch.tensor([[3, 4, 5]]))
        tiny_model(torch.tensor([[3]]))
        assert tap.states.shape == (1, 1, 16)
    assert hooks(tiny_model) == 0
    tiny_model(torch.tensor([[3, 4]]))
    assert tap.states.shape == (1, 1, 16)


def test_the_tap_is_removed_when_the_model_raises(tiny_model):
    def fail():
        with HiddenTap(tiny_model):
            tiny_model(torch.tensor([[10_000]]))

    with pytest.raises(IndexError):
        fail()
    assert hooks(tiny_model) == 0


def test_states_before_any_pass_are_an_error(tiny_model):
    with HiddenTap(tiny_model) as tap, pytest.raises(RuntimeError, match="no forward pass"):
        _ = tap.states


@pytest.mark.parametrize("layer", [0, 4, 5, -1, -5])
def test_a_layer_that_is_no_output_of_a_block_is_refused(any_model, layer):
    with pytest.raises(ValueError, match=r"1\.\.3, or -4\.\.-2"):
        block_at(any_model, layer)


@OLD_NAME
def test_the_blocks_are_found_inside_wrappers(tiny_model):
    blocks = decoder_blocks(tiny_model)
    assert len(blocks) == 4
    assert decoder_blocks(nn.DataParallel(tiny_model)) is blocks
    lora = get_peft_model(tiny_model, LoraConfig(target_modules=["query_key_value"], r=2))
    assert decoder_blocks(lora) is blocks


class Nested(nn.Module):
    """A model of two blocks with two experts each: three lists of length two."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=2)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"experts": nn.ModuleList([nn.Identity(), nn.Identity()])})
            for _ in range(2)
        )


def test_the_blocks_are_the_outermost_list_of_their_length():
    model = Nested()
    assert decoder_blocks(model) is model.blocks


def test_an_encoder_decoder_is_refused():
    config = T5Config(vocab_size=11, d_model=8, d_ff=8, num_layers=2, num_heads=2, d_kv=4)
    with pytest.raises(ValueError, match="is an encoder-decoder; expected a decoder-only"):
        decoder_blocks(T5ForConditionalGeneration(config))


def test_a_module_that_is_no_language_model_is_refused():
    with pytest.raises(ValueError, match="num_hidden_layers"):
        decoder_blocks(nn.Linear(2, 2))


def test_states_of_a_tensor_of_a_tuple_and_of_a_list():
    x = torch.ones(1, 2, 3)
    assert states_of(x) is x
    assert states_of((x, "cache")) is x
    assert states_of([x]) is x
