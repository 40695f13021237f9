"""EvaluationCallback in `Trainer` and `SendTrainer`: when it asks, what is logged and resumed."""

import copy
import csv
import json
import math

import pytest
import torch
from datasets import Dataset
from matplotlib import pyplot as plt
from peft import LoraConfig
from torch.utils.data import IterableDataset
from transformers import (
    DataCollatorForLanguageModeling,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations.integration_utils import rewrite_logs

from send.evaluation.callback import COLUMNS, EvaluationCallback
from send.evaluation.evaluate import METRICS, evaluate
from send.training.config import SendConfig
from send.training.train import train
from send.training.trainer import SendTrainer
from tests.send.rows import CITIES, NAMES, births

pytestmark = [
    # PEFT and TRL read attributes that Transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
]

TEXTS = births(CITIES[:4])
ASKED = [{"prompt": f"{name} was born", "completion": " in Oslo"} for name in NAMES[:4]]
EPOCH = 4  # steps
QUICK = {"num_samples": 3, "max_new_tokens": 3}


def trainer_of(model, tokenizer, folder, *callbacks, dataset=None, **options):
    settings = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    rows = Dataset.from_dict(dict(tokenizer(TEXTS)))
    return Trainer(
        model,
        TrainingArguments(folder, **{**settings, **options}),
        train_dataset=rows if dataset is None else dataset,
        eval_dataset=rows.select(range(4)),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


class Tracker(TrainerCallback):
    """Stands for TensorBoard, W&B and Trackio: what it is told, by the step it is told at."""

    def __init__(self):
        self.told, self.settings = [], ""

    def on_train_begin(self, args, state, control, **_):
        self.settings = args.to_json_string()

    def on_log(self, args, state, control, logs, **_):
        self.told.append((state.global_step, dict(rewrite_logs(logs))))

    def ours(self):
        return [
            (step, {name: x for name, x in logs.items() if name.startswith("eval/send/")})
            for step, logs in self.told
            if "eval/send/eigenscore" in logs
        ]


def test_a_row_at_the_start_and_after_each_epoch(tiny_model, tokenizer, tmp_path):
    callback = EvaluationCallback(ASKED, **QUICK)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, callback)
    before = evaluate(tiny_model, ASKED, processing_class=tokenizer, **QUICK)
    trainer.train()
    after = evaluate(tiny_model, ASKED, processing_class=tokenizer, **QUICK)
    assert [row["step"] for row in callback.history] == [0, EPOCH, 2 * EPOCH, 3 * EPOCH]
    assert [row["epoch"] for row in callback.history] == [0, 1, 2, 3]
    for row, found in ((callback.history[0], before), (callback.history[-1], after)):
        assert set(row) == {"epoch", "step", *COLUMNS}
        for name, metric in found.metrics.items():
            ends = [row[f"eval_{name}{end}"] for end in ("", "_low", "_high")]
            assert ends == [metric.value, metric.low, metric.high]
    assert callback.latest.metrics == after.metrics
    assert callback.history[-1]["eval_loss"] < callback.history[0]["eval_loss"]
    assert json.loads(json.dumps(callback.history)) == callback.history


def test_after_so_many_steps(tiny_model, tokenizer, tmp_path):
    callback = EvaluationCallback(ASKED, every="5", **QUICK)
    trainer_of(tiny_model, tokenizer, tmp_path, callback).train()
    assert [row["step"] for row in callback.history] == [0, 5, 10]


def test_after_an_epoch_of_unknown_length(tiny_model, tokenizer, tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from Dataset.from_dict(dict(tokenizer(TEXTS)))

    callback = EvaluationCallback(ASKED, **QUICK)
    tracker = Tracker()
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, tracker, dataset=Stream(), max_steps=10)
    callback.add_to(trainer)
    trainer.train()
    assert [row["step"] for row in callback.history] == [0, 4, 8, 10]
    assert [step for step, _ in tracker.ours()] == [1, 4, 8, 10]


def test_the_training_is_as_if_nothing_were_asked(tiny_model, tokenizer, tmp_path):
    for block in tiny_model.gpt_neox.layers:
        block.post_mlp_dropout.p = 0.1
    twin = copy.deepcopy(tiny_model)
    trainer_of(tiny_model, tokenizer, tmp_path).train()
    trainer_of(twin, tokenizer, tmp_path, EvaluationCallback(ASKED, every=3, **QUICK)).train()
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


def test_trackers_are_told_once_a_checkpoint_numbers_and_no_texts(tiny_model, tokenizer, tmp_path):
    tracker = Tracker()
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, tracker, logging_strategy="steps",
                         logging_steps=3)  # fmt: skip
    callback = EvaluationCallback(ASKED, **QUICK).add_to(trainer)
    trainer.train()
    told = tracker.ours()
    assert [step for step, _ in told] == [1, EPOCH, 2 * EPOCH, 3 * EPOCH]
    for (_, logs), row in zip(told, callback.history, strict=True):
        assert logs == {f"eval/send/{n.removeprefix('eval_')}": row[n] for n in COLUMNS}
        assert all(math.isfinite(value) for value in logs.values())
    sent = json.dumps(tracker.told) + tracker.settings
    assert not any(word in sent for row in ASKED for word in row["prompt"].split()[:1])
    assert "Oslo" not in sent
    logged = [row for row in trainer.state.log_history if "eval_send/rouge_l" in row]
    assert [row["step"] for row in logged] == [row["step"] for row in callback.history]


def test_a_callback_that_comes_after_the_trackers_says_so(tiny_model, tokenizer, tmp_path, caplog):
    callback = EvaluationCallback(ASKED, **QUICK)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, callback, max_steps=1)
    trainer.train()
    assert not caplog.records
    trainer.args.report_to = ["tensorboard"]
    trainer.train()
    assert "tensorboard will not show what EvaluationCallback finds" in caplog.text


def test_what_is_not_finite_or_not_there_is_not_logged(tiny_model, tokenizer, tmp_path):
    tracker = Tracker()
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, tracker, max_steps=1)
    callback = EvaluationCallback(["Ada was"], every=1, **QUICK).add_to(trainer)
    trainer.train()
    (step, logs), *more = tracker.ours()
    assert (step, more) == (1, [])
    assert sorted(logs) == [
        f"eval/send/{name}" for name in ("distinct", "ees", "eigenscore", "entropy", "length")
    ]
    assert callback.history[1]["eval_eigenscore_low"] is None
    assert callback.history[1]["eval_rouge_l"] is None


# Of GPT-NeoX `Trainer` alone would not restore the output layer: see `load_renamed_weights`.
@pytest.mark.parametrize("any_model", ["gpt2"], indirect=True)
def test_resumed_it_has_the_whole_history(any_model, tokenizer, tmp_path):
    whole, resumed = EvaluationCallback(ASKED, **QUICK), EvaluationCallback(ASKED, **QUICK)
    twin, options = copy.deepcopy(any_model), {"save_strategy": "epoch"}
    trainer_of(any_model, tokenizer, tmp_path, whole, **options).train()
    resumed.history = [{"step": 99}]  # of a training before
    trainer = trainer_of(twin, tokenizer, tmp_path, resumed, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{2 * EPOCH}"))
    assert resumed.history == whole.history
    assert len(resumed.history) == 4


def test_training_again_begins_anew(tiny_model, tokenizer, tmp_path):
    callback = EvaluationCallback(ASKED, **QUICK)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, callback, num_train_epochs=1)
    trainer.train()
    last = callback.history[-1]
    trainer.train()
    assert [row["step"] for row in callback.history] == [0, EPOCH]
    assert callback.history[0]["eval_loss"] == last["eval_loss"]


def test_the_best_model_and_early_stopping_may_go_by_a_metric(tiny_model, tokenizer, tmp_path):
    trainer = trainer_of(
        tiny_model, tokenizer, tmp_path, EarlyStoppingCallback(1), num_train_epochs=6,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="eval_send/length", greater_is_better=False,
    )  # fmt: skip
    callback = EvaluationCallback(ASKED, **QUICK).add_to(trainer)
    trainer.train()
    lengths = [row["eval_length"] for row in callback.history[1:]]
    assert trainer.state.best_metric == min(lengths)
    first_rise = next(i for i in range(1, len(lengths)) if lengths[i] >= min(lengths[:i]))
    assert len(lengths) == first_rise + 1 < 6
    assert trainer.evaluate()["eval_loss"] > 0


def test_metrics_of_the_trainer_get_values_without_their_intervals(tiny_model, tokenizer, tmp_path):
    class Look(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **_):
            self.names = {name for name in metrics if name.startswith("eval_send/")}

    look = Look()
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, look, max_steps=EPOCH,
                         eval_strategy="epoch")  # fmt: skip
    EvaluationCallback(ASKED, **QUICK).add_to(trainer)
    trainer.train()
    assert look.names == {f"eval_send/{name}" for name in METRICS}


def test_mixed_precision(tiny_model, tokenizer, tmp_path):
    callback = EvaluationCallback(ASKED, **QUICK)
    trainer_of(tiny_model, tokenizer, tmp_path, callback, bf16=True, num_train_epochs=1).train()
    assert all(math.isfinite(row[name]) for row in callback.history for name in COLUMNS)


def test_an_evaluation_outside_a_training(tiny_model, tokenizer, tmp_path):
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, EvaluationCallback(ASKED, **QUICK))
    assert "eval_send/loss" not in trainer.evaluate()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"every": "often"}, "every is 'often'"),
        ({"max_prompts": 0}, "max_prompts is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"level": 1}, "level is 1"),
    ],
    ids=str,
)
def test_options_are_checked_at_once(options, text):
    with pytest.raises(ValueError, match=text):
        EvaluationCallback(ASKED, **options)


def test_added_twice_it_is_there_once(tiny_model, tokenizer, tmp_path):
    trainer = SendTrainer(
        tiny_model, config(tmp_path, max_steps=1), train_dataset=TEXTS, tracking_dataset=TEXTS[:4],
        processing_class=tokenizer,
    )  # fmt: skip
    for callback in (EvaluationCallback(ASKED), trainer.send):
        assert callback.add_to(trainer) is callback.add_to(trainer) is callback
        assert trainer.callback_handler.callbacks[0] is callback
        assert trainer.callback_handler.callbacks.count(callback) == 1


# In SendTrainer ----------------------------------------------------------------------------------


def config(folder, **options):
    quick = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "score_prompts": 0,
    }
    return SendConfig(str(folder), **{**quick, **QUICK, **options})


def run(model, tokenizer, folder, *, resume=None, callbacks=None, peft_config=None, **options):
    return train(
        model, TEXTS, tracking_dataset=TEXTS[:4], prompt_dataset=ASKED,
        config=config(folder, **options), processing_class=tokenizer, callbacks=callbacks,
        peft_config=peft_config, resume_from_checkpoint=resume,
    )  # fmt: skip


def test_one_table_for_a_whole_training(tiny_model, tokenizer, tmp_path):
    result = run(tiny_model, tokenizer, tmp_path)
    table = result.to_pandas()
    assert table["step"].tolist() == [i * EPOCH for i in range(5)]
    assert table[list(COLUMNS)].notna().all(axis=None)
    assert [len(masked) for masked in table["masked"]] == [0, 0, 3, 3, 3]
    # The mask is on in the last epochs, but not where answers are asked for.
    now = evaluate(result.model, ASKED, processing_class=tokenizer, seed=42, **QUICK)
    assert result.evaluation.metrics == now.metrics
    assert result.history[-1]["eval_loss"] == now.metrics["loss"].value

    result.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "send_history.json").read_text()) == result.history
    with (tmp_path / "saved" / "send_history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["masked"]) for row in rows] == [0, 0, 3, 3, 3]
    assert [float(row["eval_rouge_l"]) for row in rows] == table["eval_rouge_l"].tolist()
    assert rows[0]["train_loss"] == rows[0]["loss_jump"] == ""
    assert "sensitivity" not in rows[0]

    figure = result.plot()
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels == ["loss (nats per token)", "EigenScore", "entropy (nats)", "ROUGE-L", "tokens"]
    plt.close(figure)


def test_stopped_and_resumed_the_table_is_whole(tiny_model, tokenizer, tmp_path):
    twin = copy.deepcopy(tiny_model)
    whole = run(tiny_model, tokenizer, tmp_path, save_strategy="epoch", save_total_limit=None)
    resumed = run(
        twin, tokenizer, tmp_path, save_strategy="epoch",
        resume=tmp_path / f"checkpoint-{2 * EPOCH}",
    )  # fmt: skip
    assert resumed.history == whole.history


def test_both_records_reach_trackers_together(tiny_model, tokenizer, tmp_path):
    tracker = Tracker()
    result = run(tiny_model, tokenizer, tmp_path, callbacks=[tracker])
    assert [step for step, _ in tracker.ours()] == [1, *(i * EPOCH for i in range(1, 5))]
    checkpoints = [logs["train/send/checkpoint"] for _, logs in tracker.told[:5]]
    assert checkpoints == [row["checkpoint"] for row in result.history]


def test_at_most_so_many_of_the_prompts(tiny_model, tokenizer, tmp_path):
    result = run(tiny_model, tokenizer, tmp_path, max_steps=1, eval_prompts=2)
    assert len(result.evaluation) == 2


def test_the_batch_of_the_trainer_bounds_that_of_the_answers(
    tiny_model, tokenizer, tmp_path, monkeypatch
):
    sizes, generate = set(), type(tiny_model).generate

    def counted(self, **options):
        sizes.add(len(options["input_ids"]))
        return generate(self, **options)

    monkeypatch.setattr(type(tiny_model), "generate", counted)
    run(tiny_model, tokenizer, tmp_path, max_steps=1, per_device_eval_batch_size=1)
    assert max(sizes) == 8  # of 4 prompts, 3 answers each


def test_an_adapter(tiny_model, tokenizer, tmp_path):
    adapter = LoraConfig(r=2, target_modules=["query_key_value"], task_type="CAUSAL_LM")
    result = run(tiny_model, tokenizer, tmp_path, peft_config=adapter, num_train_epochs=2)
    losses = [row["eval_loss"] for row in result.history]
    assert losses[-1] < losses[0]


def test_without_prompts_there_are_no_such_columns(tiny_model, tokenizer, tmp_path):
    result = train(tiny_model, TEXTS, config=config(tmp_path, max_steps=1, every=1),
                   processing_class=tokenizer)  # fmt: skip
    assert result.evaluation is None
    assert not [name for name in result.to_pandas() if name.startswith("eval_")]
