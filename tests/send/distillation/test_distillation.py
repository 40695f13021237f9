"""Distillation in SendTrainer: the loss, the teacher itself or its cache, what is refused."""

import copy
import dataclasses
import json
import math
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
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

from send.distillation.distillation import CachedCollator
from send.distillation.divergence import forward_kl, top_k
from send.distillation.teacher import Teacher, logits_of
from send.distillation.teacher_cache import HEADER, TeacherCache
from send.models.tokenized_rows import IGNORED
from send.training.config import SendConfig
from send.training.trainer import SendTrainer, train
from tests.send import naive
from tests.send.interruption import StopAt, Stopped

pytestmark = [
    # PEFT and TRL read attributes that Transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
]

NAMES = ["Ada", "Bo", "Cyn", "Dag", "Eve", "Finn", "Gil", "Hana"]
CITIES = ["Oslo", "Lima", "Cairo", "Kyoto", "Quito"]
ROWS = [
    {"prompt": f"where was {name} born ?", "completion": f" {city}" + " and Lima" * (i % 3) + " ."}
    for i, (name, city) in enumerate((name, city) for name in NAMES for city in CITIES)
]
TRACKED = ROWS[:4]


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL reports nothing then


@pytest.fixture
def teacher(tiny_model):
    """Of the class of the student, and of its size, with other weights."""
    other = copy.deepcopy(tiny_model)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng))
    return other


def config(folder, **options):
    quick = {
        "max_steps": 4,
        "every": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "score_prompts": 0,
        "lambda_kd": 0.5,
    }
    return SendConfig(str(folder), **{**quick, **options})


def a_trainer(model, tokenizer, folder, teacher, *, rows=ROWS, callbacks=None, **options):
    peft_config = options.pop("peft_config", None)
    return SendTrainer(
        copy.deepcopy(model),
        config(folder, **options),
        train_dataset=Dataset.from_list(rows),
        tracking_dataset=Dataset.from_list(TRACKED),
        teacher=teacher,
        processing_class=tokenizer,
        callbacks=callbacks,
        peft_config=peft_config,
    )


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def differ(a, b):
    return any(not torch.equal(value, b[name]) for name, value in a.items())


def gradients(trainer, batches):
    """The loss and the gradients of one optimizer step over some batches of examples."""
    model = trainer.model
    model.train()
    model.zero_grad()
    collated = [trainer.data_collator(examples) for examples in batches]
    count = trainer._get_num_items_in_batch(collated, torch.device("cpu"))
    trainer.current_gradient_accumulation_steps = len(collated)
    with trainer.distillation.attached():
        loss = sum(float(trainer.training_step(model, batch, count)) for batch in collated)
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss, grads


@pytest.mark.parametrize("convex", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_that_of_the_textbook(
    tiny_model, teacher, tokenizer, tmp_path, convex, temperature
):
    trainer = a_trainer(
        tiny_model, tokenizer, tmp_path, teacher,
        kd_form="convex" if convex else "sum", kd_temperature=temperature, lambda_kd=0.3,
    )  # fmt: skip
    examples = [trainer.train_dataset[i] for i in range(6)]
    loss, _ = gradients(trainer, [examples])
    expected = naive.distilled_loss(
        tiny_model,
        teacher,
        [(row["input_ids"], row["labels"]) for row in examples],
        weight=0.3,
        convex=convex,
        temperature=temperature,
    )
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_batches_and_accumulation_give_the_same(tiny_model, teacher, tokenizer, tmp_path, cached):
    """Of batches with unequal numbers of response tokens."""
    options = {"kd_cache": str(tmp_path / "cache")} if cached else {}
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options)
    examples = [trainer.train_dataset[i] for i in range(8)]
    counts = [sum(label != IGNORED for label in row["labels"][1:]) for row in examples]
    assert len(set(counts)) > 1
    whole = gradients(trainer, [examples])
    for parts in ([examples[:1], examples[1:]], [examples[i : i + 2] for i in range(0, 8, 2)]):
        loss, grads = gradients(trainer, parts)
        assert loss == pytest.approx(whole[0], rel=1e-5)
        for name, grad in whole[1].items():
            torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-6)


def test_labels_of_no_loss_do_not_matter(tiny_model, teacher, tokenizer, tmp_path):
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher)
    examples = [trainer.train_dataset[i] for i in range(3)]
    loss, grads = gradients(trainer, [examples])
    # An empty response, longer than all others: more pads, and no token more.
    silent = {"input_ids": [5] * 20, "labels": [IGNORED] * 20}
    again, more = gradients(trainer, [[silent, *examples]])
    assert again == pytest.approx(loss, rel=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(more[name], grad, rtol=1e-4, atol=1e-6)
    nothing, none = gradients(trainer, [[silent]])
    assert nothing == 0
    assert all((grad == 0).all() for grad in none.values())


def test_portions_of_logits_give_the_same(tiny_model, teacher, tokenizer, tmp_path, monkeypatch):
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher)
    examples = [trainer.train_dataset[i] for i in range(8)]
    whole = gradients(trainer, [examples])
    monkeypatch.setattr("send.distillation.distillation.PORTION", 3 * tiny_model.config.vocab_size)
    parts = gradients(trainer, [examples])
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    for name, grad in whole[1].items():
        torch.testing.assert_close(parts[1][name], grad, rtol=1e-4, atol=1e-6)


def test_both_parts_are_logged(tiny_model, teacher, tokenizer, tmp_path):
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher, gradient_accumulation_steps=2)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == 4
    for row in logged:
        assert row["send/kd_loss"] > 0
        parts = row["send/sft_loss"] + 0.5 * row["send/kd_loss"]
        assert row["loss"] == pytest.approx(parts, abs=2e-4)  # Trainer rounds


def test_evaluation_is_without_the_teacher(tiny_model, teacher, tokenizer, tmp_path):
    plain, distilled = (
        a_trainer(tiny_model, tokenizer, tmp_path, t).evaluate(Dataset.from_list(ROWS[:8]))
        for t in (None, teacher)
    )
    assert plain["eval_loss"] == distilled["eval_loss"]
    assert not any("kd" in name for name in distilled)


def distribution_gap(student, teacher, trainer, rows):
    """Mean KL over the response tokens of rows."""
    total, count = 0.0, 0
    for row in trainer._prepare_dataset(
        Dataset.from_list(rows), trainer.processing_class, trainer.args, False, None, "test"
    ):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            kl = forward_kl(*(model(ids).logits[0, :-1] for model in (teacher, student)))
        total, count = (
            total + float(kl[labels[1:] != IGNORED].sum()),
            count + int((labels[1:] != IGNORED).sum()),
        )
    return total / count


@pytest.mark.parametrize("cached", [False, True])
def test_a_distilled_student_comes_closer_to_its_teacher(
    tiny_model, teacher, tokenizer, tmp_path, cached
):
    """On rows that are not trained on, closer than one that learned from the same rows alone."""
    gaps = {}
    for weight in (0, 2.0):
        options = {"kd_cache": str(tmp_path / "cache"), "kd_top_k": 16} if cached else {}
        trainer = a_trainer(
            tiny_model, tokenizer, tmp_path, teacher, rows=ROWS[:30],
            max_steps=40, every=20, lambda_kd=weight, **options,
        )  # fmt: skip
        trainer.train()
        student = trainer.model.eval()
        gaps[weight] = distribution_gap(student, teacher, trainer, ROWS[30:])
    assert gaps[2.0] < 0.7 * gaps[0]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_the_teacher_is_neither_masked_nor_trained_nor_saved(
    tiny_model, teacher, tokenizer, tmp_path, cached, adapter
):
    before = weights(teacher)
    trained_modes, zeros = [], []

    def look(_block, _inputs, output):
        states = output if isinstance(output, torch.Tensor) else output[0]
        zeros.append((states == 0).all(dim=(0, 1)).any())
        trained_modes.append(_block.training)

    teacher.gpt_neox.layers[2].register_forward_hook(look)
    options = {"kd_cache": str(tmp_path / "cache")} if cached else {}
    if adapter:
        options["peft_config"] = LoraConfig(
            r=2, target_modules=["query_key_value"], task_type="CAUSAL_LM"
        )
    trainer = a_trainer(
        tiny_model, tokenizer, tmp_path, teacher, save_strategy="steps", save_steps=4, **options
    )
    seen = len(zeros)
    trainer.train()
    assert trainer.send.history[-1]["masked"]
    assert (len(zeros) > seen) is not cached
    assert not any(zeros)
    assert not any(trained_modes)
    assert_same(weights(teacher), before)
    assert all(p.grad is None for p in teacher.parameters())
    mine = {id(p) for p in teacher.parameters()}
    groups = trainer.optimizer.param_groups
    assert not mine & {id(p) for group in groups for p in group["params"]}
    assert not any(m._forward_hooks for m in trainer.model.modules())
    if not adapter:
        saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
        assert len(saved) <= len(tiny_model.state_dict())


def test_the_mask_is_on_the_student(tiny_model, teacher, tokenizer, tmp_path):
    """Masked and with a teacher, training is another than with either alone."""
    results = []
    for drop, weight in ((0.2, 0.5), (0.2, 0), (0, 0.5)):
        trainer = a_trainer(
            tiny_model, tokenizer, tmp_path, teacher, drop_fraction=drop, lambda_kd=weight
        )
        trainer.train()
        results.append(weights(trainer.model))
    assert differ(results[0], results[1])
    assert differ(results[0], results[2])


def test_weight_zero_is_plain_training_and_the_teacher_is_not_asked(
    tiny_model, teacher, tokenizer, tmp_path
):
    def refuse(*_):
        raise AssertionError

    teacher.register_forward_pre_hook(refuse)
    plain, idle = (
        a_trainer(tiny_model, tokenizer, tmp_path, t, lambda_kd=0) for t in (None, teacher)
    )
    plain.train()
    idle.train()
    assert_same(weights(plain.model), weights(idle.model))
    assert any(p.requires_grad for p in teacher.parameters())
    folder = a_trainer(tiny_model, tokenizer, tmp_path, "/no/such/folder", lambda_kd=0)
    assert folder.distillation is None


@pytest.mark.parametrize(
    ("cached", "checkpointing"), [(False, False), (True, False), (False, True)]
)
def test_stopped_and_resumed_it_ends_as_if_unbroken(
    tiny_model, teacher, tokenizer, tmp_path, cached, checkpointing
):
    for block in tiny_model.gpt_neox.layers:
        block.post_mlp_dropout.p = 0.1

    def run(name, *callbacks, resume=None):
        trainer = a_trainer(
            tiny_model, tokenizer, tmp_path / name, copy.deepcopy(teacher),
            callbacks=list(callbacks), max_steps=14, save_strategy="steps", save_steps=4,
            logging_steps=3,  # a sum is under way where it stops
            gradient_checkpointing=checkpointing,
            kd_cache=str(tmp_path / "cache") if cached else None,
        )  # fmt: skip
        trainer.train(resume)
        return trainer

    unbroken = run("a")
    with pytest.raises(Stopped):
        run("b", StopAt(9))
    resumed = run("b", resume=True)
    assert_same(weights(unbroken.model), weights(resumed.model))
    assert unbroken.send.history == resumed.send.history
    losses = [
        [
            (row["step"], row["loss"], row["send/kd_loss"])
            for row in t.state.log_history
            if "loss" in row
        ]
        for t in (unbroken, resumed)
    ]
    assert losses[0] == losses[1]


def test_gradient_checkpointing_changes_nothing(tiny_model, teacher, tokenizer, tmp_path):
    trained = []
    for checkpointing in (False, True):
        trainer = a_trainer(
            tiny_model, tokenizer, tmp_path, teacher, gradient_checkpointing=checkpointing
        )
        trainer.train()
        trained.append(weights(trainer.model))
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-5, atol=1e-6)


def test_mixed_precision_compares_in_float32(tiny_model, teacher, tokenizer, tmp_path, monkeypatch):
    seen = []

    def spy(teacher_logits, student_logits, temperature):
        value = forward_kl(teacher_logits, student_logits, temperature)
        seen.append((student_logits.dtype, teacher_logits.dtype, value.dtype))
        return value

    monkeypatch.setattr("send.distillation.distillation.forward_kl", spy)
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher, bf16=True)
    trainer.train()
    assert set(seen) == {(torch.bfloat16, torch.float32, torch.float32)}
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert all(math.isfinite(loss) for loss in losses)


def test_any_architecture_learns_from_any_other(any_model, teacher, tokenizer, tmp_path):
    for module in any_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer = a_trainer(any_model, tokenizer, tmp_path, teacher, max_steps=1)
    examples = [trainer.train_dataset[i] for i in range(4)]
    loss, _ = gradients(trainer, [examples])
    rows = [(row["input_ids"], row["labels"]) for row in examples]
    expected = naive.distilled_loss(any_model, teacher, rows, weight=0.5)
    assert loss == pytest.approx(expected, rel=1e-4)


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


def test_a_teacher_with_an_adapter(tiny_model, teacher, tokenizer, tmp_path):
    adapter = LoraConfig(r=2, target_modules=["query_key_value"], init_lora_weights=False)
    tuned = get_peft_model(teacher, adapter)
    merged = copy.deepcopy(tuned).merge_and_unload()
    losses = []
    for given in (tuned, merged):
        trainer = a_trainer(tiny_model, tokenizer, tmp_path, given)
        losses.append(gradients(trainer, [[trainer.train_dataset[i] for i in range(4)]])[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_weights_in_low_precision(tiny_model, teacher, tokenizer, tmp_path):
    """The loss of each token remains in float32."""
    trainer = a_trainer(tiny_model.bfloat16(), tokenizer, tmp_path, teacher.bfloat16())
    examples = [trainer.train_dataset[i] for i in range(6)]
    found = []
    trainer.model.register_forward_hook(lambda *a: found.append(a[2].log_probs.dtype))
    loss, _ = gradients(trainer, [examples])
    assert set(found) == {torch.float32}
    rows = [(row["input_ids"], row["labels"]) for row in examples]
    expected = naive.distilled_loss(tiny_model, teacher, rows, weight=0.5)
    assert loss == pytest.approx(expected, rel=1e-2)


def test_a_model_with_logits_of_its_own_is_refused(teacher):
    teacher.register_forward_hook(lambda *a: dataclasses.replace(a[2], logits=a[2].logits + 1))
    with pytest.raises(ValueError, match="are not those of its output embeddings"):
        _ = Teacher(teacher).model


def test_padded_vocabularies_are_compared_on_what_they_share(
    tiny_model, teacher, tokenizer, tmp_path
):
    words = len(tokenizer)
    losses = []
    for extra in (0, 7):
        wide = copy.deepcopy(teacher)
        wide.resize_token_embeddings(words + extra, mean_resizing=False)
        with torch.no_grad():
            wide.get_output_embeddings().weight[words:] = 5.0  # would change a softmax
        trainer = a_trainer(tiny_model, tokenizer, tmp_path, wide)
        assert trainer.distillation.vocabulary == words
        losses.append(gradients(trainer, [[trainer.train_dataset[i] for i in range(4)]])[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


# The teacher, from a file ------------------------------------------------------------------------


@pytest.fixture
def folder(teacher, tokenizer, tmp_path):
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


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


# The cache ---------------------------------------------------------------------------------------


def test_the_cache_says_what_the_teacher_says(tiny_model, teacher, tokenizer, tmp_path):
    """With all tokens exactly so, up to float16; with fewer a lower bound."""
    losses = {}
    for k in (None, 3, len(tokenizer)):
        options = {} if k is None else {"kd_cache": str(tmp_path / str(k)), "kd_top_k": k}
        trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options)
        batches = [[trainer.train_dataset[i] for i in order] for order in ([0, 1, 2], [39, 5, 17])]
        losses[k] = [gradients(trainer, [batch])[0] for batch in batches]
    assert losses[len(tokenizer)] == pytest.approx(losses[None], rel=2e-3)
    for fewer, exact in zip(losses[3], losses[None], strict=True):
        assert fewer < exact


def test_rows_are_found_in_any_order(tiny_model, teacher, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("send.distillation.teacher_cache.ROWS_PER_FILE", 7)
    options = {"kd_cache": str(tmp_path / "cache"), "kd_top_k": 5}
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options)
    assert len(list((tmp_path / "cache").glob("rows-*.safetensors"))) == 6
    rows = np.random.default_rng(0).permutation(len(trainer.train_dataset))[:9].tolist()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in rows])
    at = 0
    for i in rows:
        row = trainer.train_dataset[i]
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            indices, log_probs = top_k(teacher(ids).logits[0, :-1][labels[1:] != IGNORED], 5)
        here = slice(at, at := at + len(indices))
        assert torch.equal(batch["kd_indices"][here], indices)
        found = batch["kd_log_probs"][here].float()
        torch.testing.assert_close(found, log_probs, rtol=1e-3, atol=1e-3)
    assert at == len(batch["kd_indices"])


def test_a_complete_cache_needs_no_teacher(tiny_model, tokenizer, tmp_path, folder, monkeypatch):
    options = {"kd_cache": str(tmp_path / "cache")}
    first = a_trainer(tiny_model, tokenizer, tmp_path, folder, **options)
    first.train()

    def refuse(_):
        raise AssertionError

    monkeypatch.setattr(Teacher, "_loaded", refuse)
    again = a_trainer(tiny_model, tokenizer, tmp_path, folder, **options)
    again.train()
    assert_same(weights(first.model), weights(again.model))


def test_a_half_written_cache_is_completed(tiny_model, teacher, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("send.distillation.teacher_cache.ROWS_PER_FILE", 7)
    cache = tmp_path / "cache"
    a_trainer(tiny_model, tokenizer, tmp_path, teacher, kd_cache=str(cache))
    files = sorted(cache.glob("rows-*.safetensors"))
    whole = [file.read_bytes() for file in files]
    files[1].unlink()
    files[2].write_bytes(whole[2][: len(whole[2]) // 2])
    shutil.copy(files[0], files[3])
    (cache / "rows-000004.12345").write_bytes(b"left by a killed process")
    TeacherCache(tmp_path / "other", {"k": 9}, rows=7).write(
        0, [1] * 7, torch.zeros(7, 1), torch.zeros(7, 2)
    )
    shutil.copy(tmp_path / "other" / "rows-000000.safetensors", files[5])
    a_trainer(tiny_model, tokenizer, tmp_path, teacher, kd_cache=str(cache))
    for file, content in zip(files, whole, strict=True):
        same = file.read_bytes() == content
        assert same, file.name


def test_a_stale_cache_is_refused(tiny_model, teacher, tokenizer, tmp_path):
    options = {"kd_cache": str(tmp_path / "cache")}
    a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options)
    a_trainer(tiny_model, tokenizer, tmp_path, copy.deepcopy(teacher), **options)  # the same
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    for changed, name in (
        ({"kd_top_k": 3}, "kd_top_k"),
        ({"kd_temperature": 2.0}, "kd_temperature"),
        ({"rows": ROWS[::-1]}, "training rows"),
        ({"completion_only_loss": False}, "training rows"),
    ):
        with pytest.raises(ValueError, match=f"was made with another {name}; pass another"):
            a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options, **changed)
    with pytest.raises(ValueError, match="was made with another teacher"):
        a_trainer(tiny_model, tokenizer, tmp_path, other, **options)
    (tmp_path / "cache" / HEADER).write_text("{")
    with pytest.raises(ValueError, match=r"is broken .* remove"):
        a_trainer(tiny_model, tokenizer, tmp_path, teacher, **options)


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


def test_the_cache_takes_the_space_that_is_said(tmp_path):
    cache = TeacherCache(tmp_path, {}, rows=10)
    indices, log_probs = top_k(torch.randn(10_000, 100, generator=torch.manual_seed(0)), 64)
    cache.write(0, [1000] * 10, indices, log_probs)
    size = next(tmp_path.glob("rows-*")).stat().st_size
    assert 0 <= size - 386 * 10_000 < 1000


def test_workers_look_up_for_themselves(tiny_model, teacher, tokenizer, tmp_path):
    trained = []
    for workers in (0, 2):
        trainer = a_trainer(
            tiny_model, tokenizer, tmp_path, teacher, kd_cache=str(tmp_path / "cache"),
            dataloader_num_workers=workers,
        )  # fmt: skip
        trainer.train()
        trained.append(weights(trainer.model))
    assert_same(*trained)


def test_a_collator_that_changes_rows_is_noticed(tiny_model, teacher, tokenizer, tmp_path):
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher, kd_cache=str(tmp_path / "c"))
    assert isinstance(trainer.data_collator, CachedCollator)
    inner = trainer.data_collator.collate

    def shorter(examples):
        return {name: value[:, :-2] for name, value in inner(examples).items()}

    trainer.data_collator.collate = shorter
    with pytest.raises(ValueError, match="leaves the rows as they are"):
        trainer.train()


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lambda_kd": -0.1}, "lambda_kd is -0.1; expected at least 0"),
        ({"lambda_kd": math.nan}, "lambda_kd is nan"),
        ({"lambda_kd": 1.5, "kd_form": "convex"}, "expected 0 to 1 with kd_form='convex'"),
        ({"kd_form": "product"}, "kd_form is 'product'"),
        ({"kd_temperature": 0.0}, "kd_temperature is 0.0"),
        ({"kd_top_k": 0}, "kd_top_k is 0"),
    ],
)
def test_settings_out_of_range(tmp_path, options, text):
    with pytest.raises(ValueError, match=text):
        config(tmp_path, **options)


def test_what_does_not_go_together(tiny_model, teacher, tokenizer, tmp_path):
    cached = {"kd_cache": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match="loss_type is 'dft'"):
        a_trainer(tiny_model, tokenizer, tmp_path, teacher, loss_type="dft")
    stream = IterableDataset.from_generator(lambda: iter(ROWS))
    with pytest.raises(ValueError, match=r"a stream, .* cannot be looked up"):
        SendTrainer(
            tiny_model,
            config(tmp_path, **cached),
            train_dataset=stream,
            tracking_dataset=Dataset.from_list(TRACKED),
            teacher=teacher,
            processing_class=tokenizer,
        )
    with pytest.raises(ValueError, match="dispatch_batches"):
        a_trainer(
            tiny_model, tokenizer, tmp_path, teacher,
            accelerator_config={"dispatch_batches": True}, **cached,
        )  # fmt: skip
    with pytest.raises(ValueError, match="student and teacher share weights"):
        SendTrainer(
            teacher,
            config(tmp_path),
            train_dataset=Dataset.from_list(ROWS),
            teacher=teacher,
            processing_class=tokenizer,
        )
    assert all(p.requires_grad for p in teacher.parameters())


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


def test_prompt_tuning_is_refused(tiny_model, teacher, tokenizer, tmp_path):
    trainer = a_trainer(
        tiny_model, tokenizer, tmp_path, teacher,
        peft_config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    )  # fmt: skip
    with pytest.raises(ValueError, match="virtual tokens"):
        gradients(trainer, [[trainer.train_dataset[0]]])


def test_packed_rows(tiny_model, teacher, tokenizer, tmp_path):
    trainer = a_trainer(
        tiny_model, tokenizer, tmp_path, teacher, packing=True, packing_strategy="wrapped",
        max_length=16, kd_cache=str(tmp_path / "cache"),
    )  # fmt: skip
    trainer.train()
    losses = [row["send/kd_loss"] for row in trainer.state.log_history if "loss" in row]
    assert all(loss > 0 for loss in losses)


def test_packed_rows_without_padding(tiny_model, teacher, tokenizer, tmp_path):
    """Several rows as one sequence, which the teacher gets with the same positions."""
    packed = {"packing": True, "max_length": 32}
    trainer = a_trainer(tiny_model, tokenizer, tmp_path, teacher, **packed)
    assert trainer.padding_free
    examples = [trainer.train_dataset[i] for i in range(2)]
    loss, _ = gradients(trainer, [examples])
    rows = []
    for row in examples:
        ends = np.cumsum([0, *row["seq_lengths"]])
        for i, j in pairwise(ends):
            rows.append((row["input_ids"][i:j], row["labels"][i:j]))
    expected = naive.distilled_loss(tiny_model, teacher, rows, weight=0.5)
    assert loss == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="a cache does not know batches without padding"):
        a_trainer(tiny_model, tokenizer, tmp_path, teacher, kd_cache=str(tmp_path / "c"), **packed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("cached", [False, True])
def test_on_a_gpu_as_on_a_cpu(tiny_model, teacher, tokenizer, tmp_path, cached):
    logs = []
    for cpu in (True, False):
        folder = str(tmp_path / f"{cpu}")
        trainer = a_trainer(
            tiny_model, tokenizer, tmp_path, copy.deepcopy(teacher), use_cpu=cpu, bf16=False,
            optim="sgd", kd_cache=folder if cached else None,
        )  # fmt: skip
        trainer.train()
        names = ("loss", "send/kd_loss", "send/sft_loss")
        rows = [row for row in trainer.state.log_history if "loss" in row]
        logs.append([[row[name] for name in names] for row in rows])
    np.testing.assert_allclose(logs[0], logs[1], rtol=1e-2)
