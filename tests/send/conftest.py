"""Tiny models and a tiny tokenizer, made from configurations: nothing is downloaded.

Every fixture gives a fresh object, so that a test may change it.
"""

import gc

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

TEXT = """
    <pad> <eos> <unk> Ada Bo Cyn Dag Eve Finn Gil Hana Ines Jo was born in Oslo Lima Cairo Kyoto
    Quito Riga Accra works as a baker pilot nurse judge painter at Acme Nordic Globex where does who
    is the of city name unknown answer question year 1901 1902 1903 1904 1905 lives and or not
    ? . : ,
"""
VOCABULARY = TEXT.split()

ARCHITECTURES = ("gpt_neox", "llama", "gpt2", "mistral", "qwen2")

_COMMON = {
    "vocab_size": len(VOCABULARY),
    "pad_token_id": VOCABULARY.index("<pad>"),
    "eos_token_id": VOCABULARY.index("<eos>"),
    "bos_token_id": None,
    # Wide enough that the logits of a random model differ clearly from each other.
    "initializer_range": 0.2,
}
_SIZES = {
    **_COMMON,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
}


def _build(architecture: str) -> PreTrainedModel:
    """Return a random model of an architecture, always the same, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if architecture == "gpt_neox":
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**_SIZES))
        elif architecture == "llama":
            model = LlamaForCausalLM(LlamaConfig(**_SIZES, num_key_value_heads=2))
        elif architecture == "gpt2":
            model = GPT2LMHeadModel(
                GPT2Config(**_COMMON, n_embd=16, n_layer=4, n_head=4, n_inner=32, n_positions=128)
            )
        elif architecture == "mistral":
            sizes = {**_SIZES, "num_key_value_heads": 2, "sliding_window": None}
            model = MistralForCausalLM(MistralConfig(**sizes))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**_SIZES, num_key_value_heads=2))
    return model.eval()


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words with <pad>, <eos> and <unk>, ids 0, 1 and 2."""
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


@pytest.fixture
def tiny_model() -> PreTrainedModel:
    """A GPT-NeoX of 4 blocks and hidden size 16 over the vocabulary of `tokenizer`."""
    return _build("gpt_neox")


@pytest.fixture(params=ARCHITECTURES)
def any_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """As `tiny_model`, one of each of the five architectures."""
    return _build(request.param)


@pytest.fixture(autouse=True, scope="module")
def no_telemetry():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CI", "1")  # TRL reports nothing then
        yield


@pytest.fixture(autouse=True, scope="module")
def quick_garbage_collection():
    """Trainer collects garbage before it trains; what is imported need not be looked at again."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def examinations():
    """Rows of two examiners in which every number is another one."""
    return {"plain": _examined(0.03), "SenD": _examined(0.07)}


def _examined(shift):
    rows = []
    for epoch in range(3):
        rates = {}
        for place, group in enumerate(("known", "new", "unknown")):
            rate = 0.1 * epoch + 0.2 * place + shift
            rates[group] = {"rate": rate, "low": rate - 0.011, "high": rate + 0.017}
        scores = {"eigenscore": {"all": epoch - 5 + shift}, "eigenscore_stderr": 0.25 + shift}
        rows.append({"epoch": epoch, "rates": rates, **scores})
    return rows
