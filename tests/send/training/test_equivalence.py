"""What does not change the mathematics does not change the masks, nor the way the losses go.

Batches are compared in which a step sees the same tokens in all arrangements.
"""

import copy
import logging

import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM

from send.dropout.mask import SensitivityMask
from send.dropout.tracking import TrackingSet
from send.models.hidden_states import HiddenTap
from send.models.tokenized_rows import read_rows
from send.training.config import SendConfig
from send.training.train import _plain
from send.training.trainer import SendTrainer
from tests.send.rows import CITIES, NAMES

# PEFT reads an attribute that Transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ROWS = [
    {"text": f"{name} was born in {city} ." + " and" * (i % 4)}
    for i, (name, city) in enumerate((name, city) for name in NAMES for city in CITIES[:4])
]
TRACKED = [
    {"text": f"{name} lives in {city} ."} for name, city in zip(NAMES, CITIES[:4] * 2, strict=True)
]
MEASURED = ("tracking_loss", "train_loss", "loss_jump", "eigenscore", "sensitivity")


def fitted(model, tokenizer, folder, *, peft_config=None, **options):
    """Train a copy of a model; return its trainer."""
    from datasets import Dataset

    settings = {
        "output_dir": str(folder),
        "max_steps": 10,
        "every": "2",
        "hold": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-3,
        "logging_steps": 2,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "gradient_checkpointing": False,
        "score_prompts": 2,
        "num_samples": 3,
        "max_new_tokens": 2,
        "seed": 3,
        **options,
    }
    trainer = SendTrainer(
        copy.deepcopy(model),
        SendConfig(**settings),
        train_dataset=Dataset.from_list(ROWS),
        tracking_dataset=Dataset.from_list(TRACKED),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.train()
    return trainer


def assert_same_way(found, expected, *, without=(), rtol=1e-3, atol=1e-4):
    """Compare the histories of two trainings: the masks exactly, the rest nearly."""
    a, b = found.send.history, expected.send.history
    assert len(a) == len(b)
    assert [row["masked"] for row in a] == [row["masked"] for row in b]
    assert any(row["masked"] for row in a)
    for x, y in zip(a, b, strict=True):
        for name in set(MEASURED) - set(without):
            assert (x[name] is None) is (y[name] is None), name
            if x[name] is not None:
                np.testing.assert_allclose(x[name], y[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.fixture
def plain(tiny_model, tokenizer, tmp_path):
    return fitted(tiny_model, tokenizer, tmp_path / "plain")


@pytest.mark.parametrize(("batch", "accumulated"), [(4, 2), (1, 8)])
def test_batch_size_and_accumulation(plain, tiny_model, tokenizer, tmp_path, batch, accumulated):
    other = fitted(
        tiny_model, tokenizer, tmp_path,
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulated,
    )  # fmt: skip
    assert_same_way(other, plain)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(plain, tiny_model, tokenizer, tmp_path, reentrant):
    other = fitted(
        tiny_model, tokenizer, tmp_path, gradient_checkpointing=True,
        activation_checkpointing_kwargs={"use_reentrant": reentrant},
    )  # fmt: skip
    assert other.model.is_gradient_checkpointing
    assert_same_way(other, plain)


# What Dynamo says of TRL's loss, a function of autograd with a backward of its own:
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compilation(plain, tiny_model, tokenizer, tmp_path):
    other = fitted(
        tiny_model, tokenizer, tmp_path, torch_compile=True, torch_compile_backend="aot_eager"
    )
    assert_same_way(other, plain)


# Packing and batches without pads ----------------------------------------------------------------
# On GPUs TRL does both with flash attention only. Transformers keeps rows apart by their position
# ids in the other attentions too, which is what runs here; TRL says in the log that it has doubts.

ALL = {"per_device_train_batch_size": len(ROWS), "max_length": 128}
"""Each step sees every row, however they are laid out."""


def test_without_pads(any_model, tokenizer, tmp_path, caplog):
    caplog.set_level(logging.ERROR, "trl")
    for module in any_model.modules():
        if isinstance(module, nn.Dropout):  # GPT-2 draws by the place in the batch
            module.p = 0.0
    # Of GPT-2, Trainer divides the loss of a padded batch by its labels with the first of each row,
    # which is predicted by nothing; TRL has taken them out of the other batches.
    without = {"train_loss"} if any_model.config.model_type == "gpt2" else ()
    padded = fitted(any_model, tokenizer, tmp_path, **ALL)
    for layout in ({"padding_free": True, "max_length": None}, {"packing": True}):
        other = fitted(any_model, tokenizer, tmp_path, **{**ALL, **layout})
        assert_same_way(other, padded, without=without)


# Adapters ----------------------------------------------------------------------------------------


@pytest.fixture
def adapted(tiny_model, tokenizer, tmp_path):
    config = LoraConfig(r=4, target_modules=["query_key_value", "dense"], task_type="CAUSAL_LM")
    return fitted(tiny_model, tokenizer, tmp_path, peft_config=config, learning_rate=5e-2)


def test_a_merged_adapter_is_watched_and_masked_alike(adapted, tokenizer, tmp_path):
    rows = read_rows(TRACKED, tokenizer)
    tracking = TrackingSet(
        rows=rows, layer=-2, pooling="mean+last", batch_size=4, score_prompts=2, num_samples=3,
        max_new_tokens=2, seed=0,
    )  # fmt: skip
    apart = _plain(adapted.model)
    merged = copy.deepcopy(apart).merge_and_unload()
    ids = torch.arange(3, 19).reshape(2, 8)
    found = []
    for model in (apart, merged):
        watched = tracking.watch(model)
        score, _ = tracking.score(model, tokenizer)
        with torch.no_grad(), SensitivityMask(model) as mask:
            free = model(ids).logits
            mask.set([1, 5, 7])
            with mask.everywhere(), HiddenTap(model) as tap:
                masked = model(ids).logits
            assert (tap.states[..., [1, 5, 7]] == 0).all()
        found.append([watched.embeddings, watched.loss, score, free.numpy(), masked.numpy()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[0][3], found[0][4], atol=1e-3)

    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        assert torch.equal(loaded(ids).logits, merged(ids).logits)


def test_an_adapter_goes_the_same_way_in_small_batches(tiny_model, tokenizer, tmp_path):
    config = LoraConfig(r=4, target_modules=["query_key_value"], task_type="CAUSAL_LM")
    runs = [
        fitted(
            tiny_model, tokenizer, tmp_path / str(batch), peft_config=config, learning_rate=5e-2,
            per_device_train_batch_size=batch, gradient_accumulation_steps=8 // batch,
        )
        for batch in (8, 2)
    ]  # fmt: skip
    assert_same_way(*runs)
