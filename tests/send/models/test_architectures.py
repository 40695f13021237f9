"""Every causal language model whose blocks can be told: tap and mask, and what is refused."""

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from send.dropout.mask import SensitivityMask
from send.dropout.sensitivity_dropout import SensitivityDropout
from send.models.hidden_states import HiddenTap, block_at, decoder_blocks, hidden_size

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}
GROUPED = {"num_key_value_heads": 2}
CONFIGS = {
    "GPTNeoXConfig": {},
    "GPT2Config": {},
    "LlamaConfig": GROUPED,
    "MistralConfig": GROUPED,
    "Qwen2Config": GROUPED,
    "Qwen3Config": {**GROUPED, "head_dim": 4},
    "GemmaConfig": {**GROUPED, "head_dim": 4},
    "Gemma2Config": {**GROUPED, "head_dim": 4},
    "Gemma3TextConfig": {**GROUPED, "head_dim": 4},
    "OPTConfig": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "PhiConfig": {},
    "Phi3Config": GROUPED,
    "FalconConfig": {"new_decoder_architecture": False},
    "BloomConfig": {},
    "OlmoConfig": {},
    "StableLmConfig": GROUPED,
    "MixtralConfig": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2MoeConfig": {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2,
                       "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
}  # fmt: skip
CHOSEN = (1, 5, 12)
OTHERS = [i for i in range(16) if i not in CHOSEN]
IDS = torch.tensor([[3, 4, 5, 6, 7], [9, 8, 7, 3, 11]])


def random_model(name, **options):
    config = getattr(transformers, name)(**{**SIZES, **options})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)


@pytest.fixture(params=CONFIGS)
def model(request):
    return random_model(request.param, **CONFIGS[request.param]).eval()


def logits_and_outputs(model):
    """One pass: the logits and what each block gives, with the same random numbers each time."""
    outputs, handles = [], []
    for block in decoder_blocks(model):
        handles.append(
            block.register_forward_hook(lambda _block, _inputs, output: outputs.append(output))
        )
    torch.manual_seed(0)
    with torch.no_grad():
        logits = model(IDS, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return logits, [x if isinstance(x, torch.Tensor) else x[0] for x in outputs]


def test_the_tap_reads_the_hidden_states_and_the_mask_zeroes_them(model):
    assert hidden_size(model) == 16
    with torch.no_grad(), HiddenTap(model) as tap:
        expected = model(IDS, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(tap.states, expected)

    evaluated = logits_and_outputs(model)
    trained = logits_and_outputs(model.train())
    hooks = dict(block_at(model)._forward_hooks)  # Transformers keeps one for the states
    with SensitivityMask(model) as mask:
        mask.set(CHOSEN)
        masked = logits_and_outputs(model)
        unseen = logits_and_outputs(model.eval())
    # In training: exactly these indices of exactly this block, and all that follows from it.
    for before, after in zip(trained[1][:2], masked[1][:2], strict=True):
        assert torch.equal(before, after)
    assert trained[1][2][..., CHOSEN].any(dim=(0, 1)).all()
    assert not masked[1][2][..., CHOSEN].any()
    assert torch.equal(masked[1][2][..., OTHERS], trained[1][2][..., OTHERS])
    assert not torch.equal(masked[0], trained[0])
    # In evaluation: nothing.
    assert torch.equal(unseen[0], evaluated[0])
    for before, after in zip(evaluated[1], unseen[1], strict=True):
        assert torch.equal(before, after)
    assert dict(block_at(model)._forward_hooks) == hooks


def test_a_checkpoint_is_measured_in_every_architecture(model):
    send = SensitivityDropout([{"input_ids": [3, 4, 5]}] * 3, window=2, score_prompts=0)
    send.attach(model)
    send.checkpoint(step=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    row = send.checkpoint(step=1)
    assert len(row["masked"]) == 3
    assert row["loss_jump"] != 0
    send.detach()


class WithoutConfig(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2)] * 2)


def shared():
    model = random_model("LlamaConfig")
    model.model.layers = nn.ModuleList([model.model.layers[0]] * 4)
    return model


def twice():
    model = random_model("LlamaConfig")
    model.other = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
    return model


def missing():
    model = random_model("LlamaConfig")
    model.model.layers = nn.ModuleList(model.model.layers[:3])
    return model


def of(name, config, **options):
    kind = getattr(transformers, config)
    return getattr(transformers, name)(kind(**{**SIZES, **options}))


REFUSED = {
    "encoder-decoder": (
        lambda: of("T5ForConditionalGeneration", "T5Config", d_model=16, d_ff=8, d_kv=4,
                   num_layers=2, num_heads=2),
        "T5ForConditionalGeneration is an encoder-decoder; expected a decoder-only",
    ),
    "encoder": (
        lambda: of("BertForMaskedLM", "BertConfig"),
        "BertForMaskedLM attends in both directions, as an encoder does",
    ),
    "another encoder": (
        lambda: of("DistilBertModel", "DistilBertConfig", dim=16, hidden_dim=8, n_layers=4,
                   n_heads=2),
        "DistilBertModel attends in both directions",
    ),
    "no head": (lambda: of("LlamaModel", "LlamaConfig"), "LlamaModel has no head that predicts"),
    "no configuration": (WithoutConfig, r"has no config\.num_hidden_layers"),
    "one block for all layers": (shared, "uses one block for several layers"),
    "two lists of blocks": (twice, r"= 4 blocks \(model\.layers, other\); expected exactly one"),
    "a block too few": (missing, "has 0 lists of num_hidden_layers = 4 blocks"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_masked_is_refused_by_what_it_lacks(case):
    make, message = REFUSED[case]
    model = make()
    send = SensitivityDropout([{"input_ids": [3, 4, 5]}], score_prompts=0)
    with pytest.raises(ValueError, match=message):
        send.attach(model)
    assert not any(module._forward_hooks for module in model.modules())
    if case != "no head":
        with pytest.raises(ValueError, match=message):
            SensitivityMask(model)
