"""SendCallback in a plain `Trainer`: when it measures, what it masks, and what it leaves behind."""

import copy
import json
import logging
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import IterableDataset
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from send.dropout.callback import SendCallback
from send.dropout.sensitivity import SensitivityTracker
from send.models.embeddings import sentence_embedding
from send.models.hidden_states import HiddenTap, block_at
from tests.send.rows import CITIES, NAMES, births
from tests.send.weights import assert_same, weights
from tests.send.witness import Witness

# PEFT reads an attribute that Transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXTS = births(CITIES[:4])
TRACKED = [{"text": f"{name} lives in {city} ." + " ." * i} for i, (name, city) in
           enumerate(zip(NAMES, CITIES[:4] * 2, strict=True))]  # fmt: skip
EPOCH = 4  # steps
QUICK = {"score_prompts": 2, "num_samples": 3, "max_new_tokens": 2}


def trainer_of(model, tokenizer, folder, *callbacks, dataset=None, eval_dataset=None, **options):
    settings = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": EPOCH,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    rows = Dataset.from_dict(dict(tokenizer(TEXTS))) if dataset is None else dataset
    return Trainer(
        model,
        TrainingArguments(folder, **{**settings, **options}),
        train_dataset=rows,
        eval_dataset=eval_dataset,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


def fit(model, tokenizer, folder, *callbacks, **options):
    trainer_of(model, tokenizer, folder, *callbacks, **options).train()
    return model


def with_dropout(model):
    """A copy whose training draws random numbers."""
    model = copy.deepcopy(model)
    for block in model.gpt_neox.layers:
        block.post_mlp_dropout.p = 0.1
    return model


def test_the_masks_follow_the_published_schedule(tiny_model, tokenizer, tmp_path):
    send, witness = SendCallback(TRACKED, **QUICK), Witness()
    fit(tiny_model, tokenizer, tmp_path, witness, send, num_train_epochs=9)
    assert [row["checkpoint"] for row in send.history] == list(range(10))
    assert [row["step"] for row in send.history] == [EPOCH * i for i in range(10)]
    assert [row["epoch"] for row in send.history] == [float(i) for i in range(10)]
    chosen_at = [row["checkpoint"] for row in send.history if row["sensitivity"] is not None]
    assert chosen_at == [2, 5, 8]
    masks = {at: send.history[at]["masked"] for at in chosen_at}
    assert all(len(mask) == 3 for mask in masks.values())  # round(0.2 * 16)
    by_epoch = [[], [], *[masks[2]] * 3, *[masks[5]] * 3, masks[8]]
    assert witness.zeros == [mask for mask in by_epoch for _ in range(EPOCH)]
    assert [row["masked"] for row in send.history] == [*by_epoch, masks[8]]


def test_every_so_many_steps(tiny_model, tokenizer, tmp_path):
    send, witness = SendCallback(TRACKED, every=3, window=2, hold=1, **QUICK), Witness()
    fit(tiny_model, tokenizer, tmp_path, witness, send)
    assert [row["step"] for row in send.history] == [0, 3, 6, 9, 12, 15]
    masks = [row["masked"] for row in send.history]
    assert witness.zeros == [mask for mask in masks for _ in range(3)][:16]
    assert masks[0] == []
    assert all(masks[1:])


def test_gradient_accumulation_counts_optimizer_steps(tiny_model, tokenizer, tmp_path):
    send = SendCallback(TRACKED, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, send, gradient_accumulation_steps=3, num_train_epochs=2)
    assert [row["step"] for row in send.history] == [0, 2, 4]


def test_the_selection_is_that_of_the_embeddings_without_mask(tiny_model, tokenizer, tmp_path):
    """A tracker of one's own, fed with evaluation-mode embeddings, chooses the same indices."""
    mine, choices = SensitivityTracker(3), []

    class Mine(TrainerCallback):
        def on_train_begin(self, args, state, control, model, **_):
            self.look(model)

        def on_epoch_end(self, args, state, control, model, **_):
            self.look(model)

        def look(self, model):
            texts = [row["text"] + "<eos>" for row in TRACKED]
            alone = [
                sentence_embedding(model, tokenizer(text, return_tensors="pt")) for text in texts
            ]
            mine.update(torch.cat(alone).numpy())
            if mine.ready:
                choices.append(mine.select(0.2).tolist())

    send = SendCallback(TRACKED, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, Mine(), send, num_train_epochs=6)
    assert send.history[2]["masked"] == choices[0]
    assert send.history[5]["masked"] == choices[3]
    np.testing.assert_allclose(send.tracker.checkpoints, mine.checkpoints, atol=1e-5)


def test_without_dropping_the_model_is_as_if_untouched(tiny_model, tokenizer, tmp_path):
    alone = with_dropout(tiny_model)
    watched, masked = copy.deepcopy(alone), copy.deepcopy(alone)
    fit(alone, tokenizer, tmp_path)
    send = SendCallback(TRACKED, drop_fraction=0, **QUICK)
    fit(watched, tokenizer, tmp_path, send)
    assert_same(weights(alone), weights(watched))
    assert [row["masked"] for row in send.history] == [[]] * 5
    assert send.history[2]["sensitivity"] is not None
    assert send.history[2]["loss_jump"] is None
    fit(masked, tokenizer, tmp_path, SendCallback(TRACKED, **QUICK))
    trained = weights(masked)
    assert any(not torch.equal(value, trained[name]) for name, value in weights(alone).items())


def test_until_the_first_mask_both_arms_measure_the_same(tiny_model, tokenizer, tmp_path):
    plain = SendCallback(TRACKED, drop_fraction=0, **QUICK)
    fit(copy.deepcopy(tiny_model), tokenizer, tmp_path, plain)
    send = SendCallback(TRACKED, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, send)
    measured = ("tracking_loss", "eigenscore", "eigenscore_stderr", "sensitivity")
    for a, b in zip(plain.history[:3], send.history[:3], strict=True):
        assert [a[name] for name in measured] == [b[name] for name in measured]
    assert plain.history[3]["tracking_loss"] != send.history[3]["tracking_loss"]


def test_the_same_seed_gives_the_same_and_another_one_does_not(tiny_model, tokenizer, tmp_path):
    start = with_dropout(tiny_model)
    runs = []
    for seed in (3, 3, 4):
        send = SendCallback(TRACKED, seed=seed, **QUICK)
        model = fit(copy.deepcopy(start), tokenizer, tmp_path, send, seed=seed)
        runs.append((weights(model), send.history))
    assert_same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert any(not torch.equal(value, runs[2][0][name]) for name, value in runs[0][0].items())
    assert runs[0][1][0]["eigenscore"] != runs[2][1][0]["eigenscore"]


def test_history_holds_numbers_that_json_can_hold(tiny_model, tokenizer, tmp_path):
    send = SendCallback(TRACKED, **QUICK)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, send)
    trainer.train()
    assert json.loads(json.dumps(send.history)) == send.history
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert [row["train_loss"] for row in send.history] == [None, *losses]
    chosen = send.history[2]
    assert 0.2 < chosen["masked_share"] <= 1
    assert len(chosen["sensitivity"]) == 16
    assert chosen["loss_jump"] != 0
    for row in send.history:
        assert math.isfinite(row["tracking_loss"])
        assert row["eigenscore_stderr"] >= 0


def test_the_log_has_an_entry_for_each_checkpoint(tiny_model, tokenizer, tmp_path):
    send = SendCallback(TRACKED, **QUICK)
    seen = []

    class Seen(TrainerCallback):
        def on_log(self, args, state, control, logs, **_):
            seen.append(dict(logs))

    trainer = trainer_of(tiny_model, tokenizer, tmp_path, send, Seen())
    trainer.train()
    logged = [row for row in trainer.state.log_history if "send/checkpoint" in row]
    assert [row["step"] for row in logged] == [row["step"] for row in send.history]
    for entry, row in zip(logged, send.history, strict=True):
        assert entry["send/tracking_loss"] == row["tracking_loss"]
        assert entry["send/eigenscore"] == row["eigenscore"]
        assert entry["send/masked"] == len(row["masked"])
        assert ("send/loss_jump" in entry) is (row["loss_jump"] is not None)
    shown = [row["send/checkpoint"] for row in seen if "send/checkpoint" in row]
    assert shown == [1, 2, 3, 4]  # by callbacks after ours, with the losses


def test_what_report_to_names_shows_the_measurements(
    tiny_model, tokenizer, tmp_path, monkeypatch, caplog
):
    """`Trainer` puts its reporters before the callbacks that it is given."""
    shown = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs, **_):
            shown.append(dict(logs))

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Reporter)
    send = SendCallback(TRACKED, **QUICK)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, report_to="tensorboard")
    send.add_to(trainer)
    trainer.train()
    assert [row["send/checkpoint"] for row in shown if "send/checkpoint" in row] == [1, 2, 3, 4]
    chosen = next(row for row in shown if row.get("send/checkpoint") == 2)
    assert chosen["send/loss_jump"] == send.history[2]["loss_jump"]
    assert chosen["send/sensitivity_mean"] == pytest.approx(np.mean(send.history[2]["sensitivity"]))
    assert "before it" not in caplog.text
    late = SendCallback(TRACKED, **QUICK)
    settings = {"report_to": "tensorboard", "max_steps": 1}
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, late, **settings)
    trainer.train()
    assert "tensorboard will not show what SendCallback measures" in caplog.text
    late.add_to(trainer)
    callbacks = trainer.callback_handler.callbacks
    assert callbacks[0] is late
    assert callbacks.count(late) == 1


@pytest.mark.parametrize(("every", "settings"), [("epoch", {"num_train_epochs": 5.5}),
                                                  (4, {"max_steps": 22})])  # fmt: skip
def test_a_cool_down_counts_back_from_the_end_of_training(
    tiny_model, tokenizer, tmp_path, every, settings
):
    send, witness = SendCallback(TRACKED, cooldown=2, hold=2, every=every, **QUICK), Witness()
    fit(tiny_model, tokenizer, tmp_path, witness, send, **settings)
    # Six intervals, the last one of half an epoch: the last two are without a mask.
    assert [bool(row["masked"]) for row in send.history] == [False, False, True, True, False, False]
    assert witness.zeros[15] == send.history[2]["masked"] == send.history[3]["masked"]
    assert witness.zeros[16:] == [[]] * 6


def test_a_cool_down_of_a_stream_needs_a_number_of_steps(tiny_model, tokenizer, tmp_path):
    rows = Stream([{"input_ids": ids} for ids in tokenizer(TEXTS)["input_ids"]])
    send = SendCallback(TRACKED, cooldown=1, **QUICK)
    with pytest.raises(ValueError, match=r"every=<steps> with max_steps"):
        fit(tiny_model, tokenizer, tmp_path, send, dataset=rows, max_steps=3 * EPOCH)
    send = SendCallback(TRACKED, cooldown=1, every=EPOCH, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, send, dataset=rows, max_steps=4 * EPOCH)
    assert [bool(row["masked"]) for row in send.history] == [False, False, True, False, False]


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True},
        *(
            {
                "activation_checkpointing": True,
                "activation_checkpointing_kwargs": {"use_reentrant": reentrant},
            }
            for reentrant in (False, True)
        ),
    ],
    ids=["bf16", "checkpointing", "reentrant checkpointing"],
)
def test_mixed_precision_and_checkpointed_activations(tiny_model, tokenizer, tmp_path, settings):
    send, witness = SendCallback(TRACKED, window=2, hold=1, **QUICK), Witness()
    options = {"num_train_epochs": 3, "gradient_accumulation_steps": 2, **settings}
    fit(tiny_model, tokenizer, tmp_path, witness, send, **options)
    masks = [row["masked"] for row in send.history]
    assert witness.zeros == [mask for mask in masks[:3] for _ in range(EPOCH // 2)]
    assert all(len(mask) == 3 for mask in masks[1:])


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which the compiler looks at
def test_a_compiled_training_is_compiled_once(tiny_model, tokenizer, tmp_path):
    runs = []
    options = {"every": 1, "window": 2, "hold": 1, **QUICK}
    for settings in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        torch.compiler.reset()
        send, model = SendCallback(TRACKED, **options), copy.deepcopy(tiny_model)
        with torch._dynamo.config.patch(error_on_recompile=True):
            fit(model, tokenizer, tmp_path, send, max_steps=4, **settings)
        runs.append((weights(model), [row["masked"] for row in send.history]))
    torch.compiler.reset()
    assert runs[0][1] == runs[1][1]
    for name, value in runs[0][0].items():
        torch.testing.assert_close(value, runs[1][0][name], atol=1e-4, rtol=1e-3)


def test_train_loss_is_the_last_one_logged_since_the_checkpoint_before(
    tiny_model, tokenizer, tmp_path
):
    send = SendCallback(TRACKED, **QUICK)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, send, logging_steps=7)
    trainer.train()
    losses = {row["step"]: row["loss"] for row in trainer.state.log_history if "loss" in row}
    assert [row["train_loss"] for row in send.history] == [None, None, losses[7], None, losses[14]]


def test_nothing_remains_in_the_model(tiny_model, tokenizer, tmp_path):
    keys = list(tiny_model.state_dict())
    config = tiny_model.config.to_dict()
    send = SendCallback(TRACKED, **QUICK)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, send)
    trainer.train()
    assert list(tiny_model.state_dict()) == keys
    assert not any(module._forward_hooks for module in tiny_model.modules())
    assert not any("send" in str(key).lower() for key in tiny_model.config.to_dict())
    assert tiny_model.config.to_dict().keys() == config.keys()
    assert send.mask.indices  # it ended with a mask on

    trainer.save_model(tmp_path / "saved")
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
        assert torch.equal(loaded(ids).logits, tiny_model.eval()(ids).logits)


def test_the_saved_model_loads_without_this_package(tiny_model, tokenizer, tmp_path):
    send = SendCallback(TRACKED, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, send, save_strategy="epoch", num_train_epochs=3)
    with torch.no_grad():
        logits = tiny_model.eval()(torch.arange(3, 9)[None]).logits
    code = f"""
import sys
sys.modules["send"] = sys.modules["specdens"] = None
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "checkpoint-12")!r}).eval()
torch.set_num_threads({torch.get_num_threads()})
with torch.no_grad():
    torch.save(model(torch.arange(3, 9)[None]).logits, {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits)


def test_a_checkpoint_in_the_middle_of_a_hold_holds_plain_weights(tiny_model, tokenizer, tmp_path):
    """The embedding written while the mask is on is that of the whole model."""
    send = SendCallback(TRACKED, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, send, save_strategy="steps", save_steps=10)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-10").train()
    with HiddenTap(saved) as tap:
        saved(torch.arange(3, 9)[None])
    assert tap.states.any(dim=(0, 1)).all()
    assert not block_at(saved)._forward_hooks


def test_training_again_begins_anew(tiny_model, tokenizer, tmp_path):
    send = SendCallback(TRACKED, **QUICK)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, send, num_train_epochs=3)
    trainer.train()
    first = send.history
    trainer.train()
    assert len(first) == len(send.history) == 4
    assert first[0]["tracking_loss"] > send.history[0]["tracking_loss"]
    assert len(send.tracker.checkpoints) == 4


def test_after_an_exception_close_takes_the_mask_off(tiny_model, tokenizer, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 10:
                raise KeyboardInterrupt

    send = SendCallback(TRACKED, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_model, tokenizer, tmp_path, send, Stop())
    assert len(block_at(tiny_model)._forward_hooks) == 1
    send.close()
    assert not block_at(tiny_model)._forward_hooks


@pytest.mark.parametrize(
    ("tolerances", "stopped_at"),
    [
        ({"stop_loss": 1e9, "stop_score": 1e9}, 2),
        ({"stop_loss": 0.0, "stop_score": 1e9}, 6),
        ({"stop_loss": 1e9, "stop_score": 0.0}, 6),
        ({}, 6),
    ],
    ids=["both", "score only", "loss only", "off"],
)
def test_it_stops_when_loss_and_score_are_both_settled(
    tiny_model, tokenizer, tmp_path, tolerances, stopped_at
):
    send = SendCallback(TRACKED, **QUICK, **tolerances)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, send, num_train_epochs=6)
    trainer.train()
    assert trainer.state.global_step == stopped_at * EPOCH
    assert len(send.history) == stopped_at + 1


def test_converged_looks_at_the_last_window_only(tiny_model, tokenizer, tmp_path):
    """The tolerance is the spread of the last three losses, not of all."""
    free = SendCallback(TRACKED, **QUICK)
    fit(copy.deepcopy(tiny_model), tokenizer, tmp_path, free, num_train_epochs=8)
    losses = [row["tracking_loss"] for row in free.history]
    spreads = [max(losses[i - 2 : i + 1]) - min(losses[i - 2 : i + 1]) for i in range(2, 9)]
    tolerance = sorted(spreads)[2]
    expected = 2 + next(i for i, spread in enumerate(spreads) if spread <= tolerance)
    send = SendCallback(TRACKED, stop_loss=tolerance, stop_score=1e9, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, send, num_train_epochs=8)
    assert len(send.history) - 1 == expected
    assert expected > 2


class Stream(IterableDataset):
    """Rows whose number is not known before they are read."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        yield from self.rows


def test_a_stream_has_checkpoints_at_the_end_of_each_pass(tiny_model, tokenizer, tmp_path):
    rows = Stream([{"input_ids": ids} for ids in tokenizer(TEXTS)["input_ids"]])
    send = SendCallback(TRACKED, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, send, dataset=rows, max_steps=3 * EPOCH)
    assert [row["step"] for row in send.history] == [0, EPOCH, 2 * EPOCH, 3 * EPOCH]


def test_an_epoch_cut_short_is_no_checkpoint(tiny_model, tokenizer, tmp_path):
    send = SendCallback(TRACKED, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, send, max_steps=EPOCH + 2)
    assert [row["step"] for row in send.history] == [0, EPOCH]


def test_an_adapter_is_trained_through_the_mask(tiny_model, tokenizer, tmp_path):
    base = weights(tiny_model)
    config = LoraConfig(r=2, target_modules=["query_key_value"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model, config)
    send, witness = SendCallback(TRACKED, **QUICK), Witness()
    fit(model, tokenizer, tmp_path, witness, send, num_train_epochs=3)
    assert witness.zeros[-1] == send.history[2]["masked"] != []
    merged = model.unload().state_dict()
    assert_same(base, {name: merged[name] for name in base})


def test_rows_of_tokens_need_no_tokenizer_if_nothing_is_scored(tiny_model, tokenizer, tmp_path):
    rows = [{"input_ids": tokenizer(row["text"])["input_ids"]} for row in TRACKED]
    send = SendCallback(rows, score_prompts=0)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, send)
    trainer.callback_handler.processing_class = None
    trainer.train()
    assert [row["eigenscore"] for row in send.history] == [None] * 5
    assert send.history[2]["masked"]


@pytest.mark.parametrize(
    "options", [{"pooling": "last"}, {"layer": -3}, {"aggregate": "mean-first"}]
)
def test_options_reach_the_measurement(tiny_model, tokenizer, tmp_path, options):
    default = SendCallback(TRACKED, **QUICK)
    fit(copy.deepcopy(tiny_model), tokenizer, tmp_path, default, num_train_epochs=2)
    send = SendCallback(TRACKED, **QUICK, **options)
    fit(tiny_model, tokenizer, tmp_path, send, num_train_epochs=2)
    assert send.history[2]["sensitivity"] != default.history[2]["sensitivity"]


def test_a_score_needs_a_tokenizer(tiny_model, tokenizer, tmp_path):
    rows = [{"input_ids": tokenizer(row["text"])["input_ids"]} for row in TRACKED]
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, SendCallback(rows))
    trainer.callback_handler.processing_class = None
    with pytest.raises(ValueError, match="the tracking set gives no prompt; pass processing_class"):
        trainer.train()


def test_texts_alone_are_a_tracking_set(tiny_model, tokenizer, tmp_path):
    runs = []
    for tracked in (TRACKED, [row["text"] for row in TRACKED]):
        send = SendCallback(tracked, **QUICK)
        fit(copy.deepcopy(tiny_model), tokenizer, tmp_path, send, num_train_epochs=1)
        runs.append(send.history)
    assert runs[0] == runs[1]


def test_rescale_reaches_the_mask(tiny_model, tokenizer, tmp_path):
    send = SendCallback(TRACKED, rescale=True, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, send, num_train_epochs=1)
    assert send.mask.rescale


def test_long_rows_are_cut_to_what_the_model_takes(tokenizer, any_model, tmp_path):
    long = [{"text": "Ada lives in Oslo . " * 60}]
    send = SendCallback(long, window=2, **QUICK)
    fit(any_model, tokenizer, tmp_path, send, num_train_epochs=1)
    assert len(send.history) == 2


@pytest.mark.parametrize(("fraction", "what"), [(0.99, "all"), (0.01, "none")])
def test_a_share_of_no_or_of_all_indices_is_refused_before_the_first_step(
    tiny_model, tokenizer, tmp_path, fraction, what
):
    send = SendCallback(TRACKED, drop_fraction=fraction, **QUICK)
    with pytest.raises(ValueError, match=f"of the 16 embedding indices of this model drops {what}"):
        fit(tiny_model, tokenizer, tmp_path, send)


def test_prompts_that_do_not_fit_are_not_scored(tokenizer, tmp_path, caplog):
    sizes = {"vocab_size": len(tokenizer), "n_embd": 16, "n_layer": 3, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, n_positions=24, bos_token_id=1, eos_token_id=1))
    short, long = ({"prompt": "Ada " * n, "completion": "Oslo ."} for n in (3, 20))
    send = SendCallback([long, short, long], score_prompts=3, num_samples=2, max_new_tokens=8)
    fit(model, tokenizer, tmp_path, send, max_steps=1)
    assert "2 of 3 prompts are too long" in caplog.text
    assert send.history[0]["eigenscore"] is not None
    assert send.history[0]["eigenscore_stderr"] is None  # one prompt is left
    alone = SendCallback([long], score_prompts=3, num_samples=2, max_new_tokens=8)
    with pytest.raises(ValueError, match="no prompt of the tracking set can be scored"):
        fit(model, tokenizer, tmp_path, alone, max_steps=1)


@pytest.mark.parametrize("dropping", [0.2, 0.0])
def test_the_best_model_is_loaded_whole(tiny_model, tokenizer, tmp_path, dropping):
    """Trainer loads by name, and Transformers saves the head of GPT-NeoX by another one."""
    send = SendCallback(TRACKED, drop_fraction=dropping, **QUICK)
    rng = np.random.default_rng(0)
    other = Dataset.from_dict({"input_ids": rng.integers(3, len(tokenizer), (8, 5)).tolist()})
    trainer = trainer_of(
        tiny_model, tokenizer, tmp_path, send, eval_dataset=other,
        save_strategy="epoch", eval_strategy="epoch",
        load_best_model_at_end=True, metric_for_best_model="eval_loss", learning_rate=3e-2,
    )  # fmt: skip
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best != str(tmp_path / f"checkpoint-{4 * EPOCH}")  # or nothing is tested
    assert_same(weights(tiny_model), weights(AutoModelForCausalLM.from_pretrained(best)))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-5)


def test_a_training_too_short_for_a_mask_says_so(tiny_model, tokenizer, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "send.dropout.callback")
    fit(tiny_model, tokenizer, tmp_path, SendCallback(TRACKED, **QUICK), num_train_epochs=2)
    assert "a mask needs window = 3 checkpoints, the start being one" in caplog.text
    caplog.clear()
    short = {"every": 2, **QUICK}
    fit(tiny_model, tokenizer, tmp_path, SendCallback(TRACKED, **short), num_train_epochs=2)
    fit(tiny_model, tokenizer, tmp_path, SendCallback(TRACKED, **QUICK), num_train_epochs=3)
    plain = SendCallback(TRACKED, drop_fraction=0, **QUICK)
    fit(tiny_model, tokenizer, tmp_path, plain, num_train_epochs=1)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_fraction": 1.0}, "0 <= fraction < 1"),
        ({"window": 1}, "at least 2"),
        ({"selection": "largest"}, "selection is 'largest'; expected one of"),
        ({"warmup": -1}, "warmup is -1; expected at least 0"),
        ({"cooldown": 1.5}, "cooldown is 1.5; expected an integer"),
        ({"hold": 0}, "hold is 0; expected at least 1"),
        ({"every": "step"}, "every is 'step'; expected 'epoch' or a number"),
        ({"every": 0}, "every is 0"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"aggregate": "sum"}, "aggregate is 'sum'"),
        ({"stop_loss": 0.1}, "stop_loss and stop_score work together"),
        ({"stop_loss": 0.1, "stop_score": 1, "score_prompts": 0}, "needs a score"),
        ({"tracking_dataset": []}, "no row"),
        ({"window": 2.5}, "window is 2.5; expected an integer"),
        ({"score_prompts": -1}, "score_prompts is -1; expected at least 0"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"max_length": 0}, "max_length is 0; expected at least 2"),
        ({"seed": -1}, "seed is -1"),
        ({"stop_loss": -1.0, "stop_score": 1.0}, "stop_loss is -1.0; expected a tolerance"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        SendCallback(**{"tracking_dataset": TRACKED, **options})
