"""Distillation in SendTrainer: the loss, whom it trains, and what is refused."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file

from send.distillation.divergence import forward_kl
from send.models.tokenized_rows import IGNORED
from tests.send import naive
from tests.send.distillation.small_training import ROWS, a_trainer, config, differ, gradients
from tests.send.interruption import StopAt, Stopped
from tests.send.weights import assert_same, weights

pytestmark = [
    # PEFT and TRL read attributes that Transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
]


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


def test_prompt_tuning_is_refused(tiny_model, teacher, tokenizer, tmp_path):
    trainer = a_trainer(
        tiny_model, tokenizer, tmp_path, teacher,
        peft_config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    )  # fmt: skip
    with pytest.raises(ValueError, match="virtual tokens"):
        gradients(trainer, [[trainer.train_dataset[0]]])


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
