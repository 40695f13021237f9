"""The teacher itself: its logits, from a folder or in memory, and how it is known again."""

import copy
import dataclasses
import json
import shutil

import pytest
import torch
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from send.distillation.teacher import Teacher, logits_of
from send.training.train import train
from tests.send.distillation.small_training import ROWS, a_trainer, config
from tests.send.weights import assert_same, weights

pytestmark = [
    # PEFT and TRL read attributes that Transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
]


SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "pad_token_id": 0,
    "bos_token_id": None, "eos_token_id": 1, "initializer_range": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=2.0)),
        lambda: Cohere2ForCausalLM(Cohere2Config(**SMALL, logit_scale=0.3)),
        lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=3.0)),
    ],
    ids=["gemma2", "cohere2", "granite"],
)
def test_logits_are_those_of_the_model(make):
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        found = logits_of(model, model.base_model(ids).last_hidden_state)
        torch.testing.assert_close(found, model(ids).logits)
    assert Teacher(model).model is model


def test_a_model_with_logits_of_its_own_is_refused(teacher):
    teacher.register_forward_hook(lambda *a: dataclasses.replace(a[2], logits=a[2].logits + 1))
    with pytest.raises(ValueError, match="are not those of its output embeddings"):
        _ = Teacher(teacher).model


def test_a_teacher_in_a_folder_is_the_same(tiny_model, teacher, tokenizer, tmp_path, folder):
    trained = []
    for given in (teacher, folder, str(folder)):
        result = train(
            copy.deepcopy(tiny_model),
            ROWS,
            teacher=given,
            config=config(tmp_path),
            processing_class=tokenizer,
        )
        trained.append(weights(result.model))
    assert_same(trained[0], trained[1])
    assert_same(trained[0], trained[2])


def test_it_can_be_loaded_over_all_devices(tiny_model, tokenizer, tmp_path, folder):
    """And a cache that it made so is that of the teacher in one piece."""
    options = {"kd_cache": str(tmp_path / "cache")}
    a_trainer(
        tiny_model, tokenizer, tmp_path, folder, kd_teacher_device_map="auto", **options
    ).train()
    again = a_trainer(tiny_model, tokenizer, tmp_path, folder, **options)
    assert again.distillation.teacher._model is None  # not loaded


def test_its_precision_is_as_asked(tiny_model, tokenizer, tmp_path, folder):
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, folder, kd_teacher_dtype="bfloat16")
    assert trainer.distillation.teacher.model.dtype == torch.bfloat16
    trainer.train()
    with pytest.raises(ValueError, match="kd_teacher_dtype is 'bfloat61'"):
        a_trainer(tiny_model, tokenizer, tmp_path, folder, kd_teacher_dtype="bfloat61")


def test_a_teacher_in_a_folder_is_known_by_its_weights(teacher, folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert Teacher(moved).identity() == Teacher(str(folder)).identity()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.001)
    teacher.save_pretrained(moved)
    assert Teacher(moved).identity() != Teacher(folder).identity()


def test_a_teacher_on_the_hub_is_known_by_its_revision(tiny_model):
    found = []
    for revision in ("a", "b", "a"):
        teacher = Teacher("someone/model")
        teacher.config = copy.deepcopy(tiny_model.config)
        teacher.config._commit_hash = revision
        found.append(teacher.identity())
    assert found[0] == found[2] != found[1]


def test_another_tokenizer(tiny_model, teacher, tokenizer, tmp_path):
    swapped = json.loads(tokenizer._tokenizer.to_str())
    words = swapped["model"]["vocab"]
    words["Oslo"], words["Lima"] = words["Lima"], words["Oslo"]
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer._tokenizer.from_str(json.dumps(swapped)).save(str(tmp_path / "t.json"))
    other = type(tokenizer)(tokenizer_file=str(tmp_path / "t.json"))
    other.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"2 of the student's \d+ tokens"):
        a_trainer(tiny_model, tokenizer, tmp_path, tmp_path / "teacher")
    with pytest.raises(ValueError, match="there is no tokenizer in the teacher /no/such/folder"):
        a_trainer(tiny_model, tokenizer, tmp_path, "/no/such/folder")
    small = LlamaForCausalLM(LlamaConfig(**{**SMALL, "vocab_size": 20}))
    with pytest.raises(ValueError, match="the teacher knows 20 tokens"):
        a_trainer(tiny_model, tokenizer, tmp_path, small)
