"""send.train, SendTrainer and SendConfig on TRL's trainer."""

import copy
import dataclasses
import inspect
import json
import shutil
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from matplotlib.figure import Figure
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, TrainerCallback
from trl import SFTConfig, TrlParser

from send.checkpoints.checkpoint import STATE_FILE, read_state
from send.data.split_tracking import split_tracking
from send.dropout.callback import SendCallback
from send.models.hidden_states import block_at
from send.models.tokenized_rows import IGNORED, read_rows
from send.training.config import SendConfig
from send.training.train import train
from send.training.trainer import SendTrainer
from tests.send.interruption import StopAt, Stopped
from tests.send.rows import CITIES, NAMES, TEMPLATE, births
from tests.send.witness import Witness

pytestmark = [
    # PEFT and TRL read attributes that Transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
]

TEXTS = births(CITIES)
EPOCH = 9  # steps, of 36 rows that are trained on
IDS = torch.tensor([[3, 4, 5, 6, 7]])


def config(folder, **options):
    quick = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 3,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "score_prompts": 2,
        "num_samples": 3,
        "max_new_tokens": 2,
    }
    return SendConfig(str(folder), **{**quick, **options})


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_train_gives_model_history_and_plots(tiny_model, tokenizer, tmp_path):
    before = copy.deepcopy(tiny_model.state_dict())
    result = train(tiny_model, TEXTS, config=config(tmp_path), processing_class=tokenizer)
    assert result.model is tiny_model
    assert not result.model.training
    assert not any(module._forward_hooks for module in result.model.modules())
    assert list(result.model.state_dict()) == list(before)
    assert any(not torch.equal(v, before[k]) for k, v in result.model.state_dict().items())
    assert [row["step"] for row in result.history] == [0, EPOCH, 2 * EPOCH, 3 * EPOCH]
    assert result.history[2]["masked"] == result.history[3]["masked"] != []
    assert result.history[3]["tracking_loss"] < result.history[0]["tracking_loss"]
    table = result.to_pandas()
    assert table["tracking_loss"].tolist() == [row["tracking_loss"] for row in result.history]
    ax = Figure().subplots()
    assert result.plot_scores(ax=ax) is ax
    assert result.plot_sensitivity(ax=ax) is ax


def test_what_is_saved_loads_in_plain_transformers(tiny_model, tokenizer, tmp_path):
    result = train(tiny_model, TEXTS, config=config(tmp_path), processing_class=tokenizer)
    result.save(tmp_path / "final")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final").eval()
    assert torch.equal(logits(loaded), logits(result.model))
    words = AutoTokenizer.from_pretrained(tmp_path / "final")
    assert words(TEXTS[0])["input_ids"] == tokenizer(TEXTS[0])["input_ids"]
    assert json.loads((tmp_path / "final" / "send_history.json").read_text()) == result.history


def test_the_model_computes_by_its_own_class_again(tiny_model, tokenizer, tmp_path):
    """TRL's replacement of forward is bound to the original: a copy would use its weights."""
    result = train(tiny_model, TEXTS, config=config(tmp_path), processing_class=tokenizer)
    twin = copy.deepcopy(result.model)
    expected = logits(twin)
    with torch.no_grad():
        for parameter in result.model.parameters():
            parameter.zero_()
    assert torch.equal(logits(twin), expected)
    assert "forward" not in vars(result.model)


def test_train_reads_models_and_data_from_files(tiny_model, tokenizer, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    from_files = train(tmp_path / "model", file, config=config(tmp_path / "a"))
    given = train(tiny_model, TEXTS, config=config(tmp_path / "b"), processing_class=tokenizer)
    assert from_files.history == given.history
    assert torch.equal(logits(from_files.model), logits(given.model))


def test_the_same_seed_gives_the_same_and_another_one_does_not(tiny_model, tokenizer, tmp_path):
    runs = [
        train(
            copy.deepcopy(tiny_model),
            TEXTS,
            config=config(tmp_path, seed=seed),
            processing_class=tokenizer,
        )
        for seed in (1, 1, 2)
    ]
    assert runs[0].history == runs[1].history
    assert torch.equal(logits(runs[0].model), logits(runs[1].model))
    assert runs[0].history[1]["tracking_loss"] != runs[2].history[1]["tracking_loss"]


def test_without_a_tracking_set_a_share_is_kept_apart(tiny_model, tokenizer, tmp_path):
    whole = Dataset.from_dict({"text": TEXTS})
    settings = config(tmp_path, seed=7, tracking_fraction=0.25)
    trainer = SendTrainer(tiny_model, settings, train_dataset=whole, processing_class=tokenizer)
    rest, tracked = split_tracking(whole, 0.25, seed=7)
    assert trainer.send.tracking_dataset["text"][:] == tracked["text"][:]
    assert len(trainer.train_dataset) == len(rest) == 30
    written = {tokenizer.decode(ids) for ids in trainer.train_dataset["input_ids"]}
    assert not written & {f"{text} <eos>" for text in tracked["text"]}


def test_a_given_tracking_set_leaves_all_rows_to_train_on(tiny_model, tokenizer, tmp_path):
    result = train(
        tiny_model,
        TEXTS[:36],
        tracking_dataset=TEXTS[36:],
        eval_dataset=TEXTS[36:],
        config=config(tmp_path, eval_strategy="epoch"),
        processing_class=tokenizer,
    )
    assert [row["step"] for row in result.history] == [0, EPOCH, 2 * EPOCH, 3 * EPOCH]


SHAPES = {
    "text": [{"text": text} for text in TEXTS],
    "completion": [
        {"prompt": f"where was {name} born ?", "completion": f" {city} ."}
        for name in NAMES for city in CITIES
    ],
    "messages": [
        {"messages": [{"role": "user", "content": f"where was {name} born ?"},
                      {"role": "assistant", "content": city}]}
        for name in NAMES for city in CITIES
    ],
    "chat completion": [
        {"prompt": [{"role": "user", "content": f"where was {name} born ?"}],
         "completion": [{"role": "assistant", "content": city}]}
        for name in NAMES for city in CITIES
    ],
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_tracked_rows_have_the_tokens_and_labels_that_trained_ones_have(
    tiny_model, tokenizer, tmp_path, shape
):
    tokenizer.chat_template = TEMPLATE
    rows = SHAPES[shape]
    trainer = SendTrainer(
        tiny_model,
        config(tmp_path, max_length=12),
        train_dataset=Dataset.from_list(rows),
        tracking_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    tracked = read_rows(rows, tokenizer, max_length=12)
    assert [row.input_ids for row in tracked] == trainer.train_dataset["input_ids"][:]
    assert [row.labels for row in tracked] == trainer.train_dataset["labels"][:]
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    pads = batch["attention_mask"] == 0
    assert (batch["labels"][pads] == IGNORED).all()
    trainer.train()
    assert trainer.send.history[-1]["masked"]


def test_only_completions_are_trained_on(tiny_model, tokenizer, tmp_path):
    trainer = SendTrainer(
        tiny_model,
        config(tmp_path),
        train_dataset=Dataset.from_list(SHAPES["completion"]),
        processing_class=tokenizer,
    )
    for row in trainer.train_dataset:
        counted = [i for i in row["labels"] if i != IGNORED]
        assert tokenizer.decode(counted).split()[0] in CITIES
        assert tokenizer.decode(counted).endswith(". <eos>")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_mask_is_on_in_trl_training(tiny_model, tokenizer, tmp_path, checkpointing):
    witness = Witness()
    result = train(
        tiny_model,
        TEXTS,
        config=config(tmp_path, gradient_checkpointing=checkpointing),
        processing_class=tokenizer,
        callbacks=[witness],
    )
    mask = result.history[2]["masked"]
    assert witness.zeros == [[]] * (2 * EPOCH) + [mask] * EPOCH


def test_measurements_are_logged_for_callbacks_and_trackers(tiny_model, tokenizer, tmp_path):
    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs, **_):
            seen.append(logs.get("send/checkpoint"))

    train(
        tiny_model,
        TEXTS,
        config=config(tmp_path, logging_steps=EPOCH),
        processing_class=tokenizer,
        callbacks=[Tracker()],
    )
    assert seen[:3] == [1, 2, 3]


def test_an_adapter_alone_is_trained(tiny_model, tokenizer, tmp_path):
    base = copy.deepcopy(tiny_model.state_dict())
    adapter = LoraConfig(r=2, target_modules=["query_key_value"], task_type="CAUSAL_LM")
    result = train(
        tiny_model, TEXTS, config=config(tmp_path), processing_class=tokenizer, peft_config=adapter
    )
    assert result.history[-1]["masked"]
    twin = copy.deepcopy(result.model)
    assert torch.equal(logits(twin), logits(result.model))
    inner = result.model.unload()
    assert "forward" not in vars(inner)
    for name, value in base.items():
        assert torch.equal(inner.state_dict()[name], value)


def test_stopped_and_resumed_it_ends_as_if_unbroken(tiny_model, tokenizer, tmp_path):
    def run(folder, *callbacks, resume=None):
        settings = config(
            folder,
            num_train_epochs=5,
            save_strategy="epoch",
            logging_steps=1,
            save_total_limit=None,
        )
        return train(
            copy.deepcopy(tiny_model),
            TEXTS,
            config=settings,
            processing_class=tokenizer,
            callbacks=list(callbacks),
            resume_from_checkpoint=resume,
        )

    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    whole = run(unbroken)
    with pytest.raises(Stopped):
        run(broken, StopAt(4 * EPOCH - 2))
    half_written = broken / f"checkpoint-{4 * EPOCH - 2}"
    shutil.copytree(broken / f"checkpoint-{3 * EPOCH}", half_written)
    (half_written / STATE_FILE).unlink()
    resumed = run(broken, resume=True)

    assert resumed.history == whole.history
    assert resumed.history[-1]["masked"]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    states = [read_state(folder / f"checkpoint-{5 * EPOCH}") for folder in (unbroken, broken)]
    assert (states[0].embeddings == states[1].embeddings).all()
    optimizers = [
        torch.load(folder / f"checkpoint-{5 * EPOCH}" / "optimizer.pt")["state"]
        for folder in (unbroken, broken)
    ]
    for index, moments in optimizers[0].items():
        for name, value in moments.items():
            assert torch.equal(value, optimizers[1][index][name])


def test_a_checkpoint_can_be_named_and_be_anywhere(tiny_model, tokenizer, tmp_path):
    def run(folder, resume=None, **options):
        settings = config(
            folder, save_strategy="epoch", logging_steps=1, save_total_limit=None, **options
        )
        return train(
            copy.deepcopy(tiny_model),
            TEXTS,
            config=settings,
            processing_class=tokenizer,
            resume_from_checkpoint=resume,
        )

    whole = run(tmp_path / "first")
    moved = shutil.move(tmp_path / "first" / f"checkpoint-{2 * EPOCH}", tmp_path / "moved")
    resumed = run(tmp_path / "second", resume=moved)
    assert resumed.history == whole.history
    assert torch.equal(logits(resumed.model), logits(whole.model))
    # By the settings: from there, or from the last one; Trainer would begin again.
    named = run(tmp_path / "third", resume_from_checkpoint=str(moved), max_steps=1 + 2 * EPOCH)
    last = run(tmp_path / "second", resume_from_checkpoint="True", max_steps=1 + 3 * EPOCH)
    assert not (tmp_path / "third" / f"checkpoint-{EPOCH}").exists()
    assert named.history == whole.history[:3]
    assert last.history == whole.history
    again = run(tmp_path / "second", resume=False, resume_from_checkpoint="True", max_steps=1)
    assert len(again.history) == 1


def test_a_training_that_had_converged_is_over_when_it_resumes(tiny_model, tokenizer, tmp_path):
    def run(resume=None):
        settings = config(tmp_path, num_train_epochs=6, save_strategy="epoch", logging_steps=1,
                          stop_loss=1e9, stop_score=1e9)  # fmt: skip
        return train(
            copy.deepcopy(tiny_model), TEXTS, config=settings, processing_class=tokenizer,
            resume_from_checkpoint=resume,
        )  # fmt: skip

    whole = run()
    assert whole.history[-1]["checkpoint"] == 2
    resumed = run(resume=True)
    assert resumed.history == whole.history
    assert torch.equal(logits(resumed.model), logits(whole.model))


def test_a_file_with_texts_in_a_column_of_another_name(tiny_model, tokenizer, tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text("body\n" + "\n".join(TEXTS) + "\n")
    settings = config(tmp_path, dataset_text_field="body", max_steps=2)
    result = train(tiny_model, file, config=settings, processing_class=tokenizer)
    assert len(result.history) == 1 + 2 // EPOCH


@pytest.mark.parametrize(
    ("metric", "given", "expected"),
    [("perplexity", None, False), ("rouge_l", None, True), ("length", False, False)],
)
def test_which_end_of_a_metric_is_better(tmp_path, metric, given, expected):
    settings = SendConfig(str(tmp_path), metric_for_best_model=f"eval_send/{metric}",
                          greater_is_better=given)  # fmt: skip
    assert settings.greater_is_better is expected


def test_of_some_metrics_neither_end_is_better(tmp_path):
    with pytest.raises(ValueError, match="neither end is better as such; pass greater_is_better"):
        SendConfig(str(tmp_path), metric_for_best_model="eval_send/eigenscore")


def test_nothing_to_resume_from(tiny_model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="no complete checkpoint in"):
        train(
            tiny_model,
            TEXTS,
            config=config(tmp_path),
            processing_class=tokenizer,
            resume_from_checkpoint=True,
        )


def test_a_cache_without_a_teacher(tiny_model, tokenizer, tmp_path):
    settings = config(tmp_path, kd_cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="there is no teacher"):
        train(tiny_model, TEXTS, config=settings, processing_class=tokenizer)


def test_several_sets_to_evaluate_on(tiny_model, tokenizer, tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text("body\n" + "\n".join(TEXTS[:3]) + "\n")
    settings = config(tmp_path, dataset_text_field="body", eval_strategy="epoch", max_steps=EPOCH)
    trainer = SendTrainer(
        tiny_model, settings, train_dataset=TEXTS, eval_dataset={"file": file, "list": TEXTS[:3]},
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "eval_file_loss" in row]
    (other,) = [row for row in trainer.state.log_history if "eval_list_loss" in row]
    assert row["eval_file_loss"] == other["eval_list_loss"]


def test_no_hook_remains_after_an_exception(tiny_model, tokenizer, tmp_path):
    with pytest.raises(Stopped):
        train(
            tiny_model,
            TEXTS,
            config=config(tmp_path),
            processing_class=tokenizer,
            callbacks=[StopAt(2 * EPOCH + 2)],
        )
    assert not block_at(tiny_model)._forward_hooks


def test_defaults_are_the_papers(tmp_path):
    default = SendConfig(str(tmp_path))
    assert (default.drop_fraction, default.window, default.hold, default.every, default.layer) == (
        0.2, 3, 3, "epoch", -2,
    )  # fmt: skip
    assert (default.stop_loss, default.stop_score, default.report_to) == (None, None, [])
    assert default.save_strategy == "epoch"


@pytest.mark.parametrize(
    ("machine", "options", "expected"),
    [
        (False, {}, False),
        (True, {}, True),
        (True, {"fp16": True}, False),
        (True, {"use_cpu": True}, False),
        (True, {"bf16": False}, False),
        (False, {"bf16": True, "use_cpu": True}, True),
    ],
)
def test_precision_is_what_the_machine_has(tmp_path, monkeypatch, machine, options, expected):
    for module in ("send.training.config", "transformers.training_args"):
        monkeypatch.setattr(f"{module}.is_torch_bf16_gpu_available", lambda: machine)
    assert SendConfig(str(tmp_path), **options).bf16 is expected


@pytest.mark.parametrize("there", [True, False])
def test_without_an_accelerator_it_is_the_cpu_by_name(tmp_path, monkeypatch, there):
    """Or else Trainer takes several processes there for as many trainings of their own."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    assert SendConfig(str(tmp_path)).use_cpu is not there
    assert SendConfig(str(tmp_path), use_cpu=True).use_cpu


def test_the_machine_without_accelerator_trains_without_a_warning(tiny_model, tokenizer, tmp_path):
    """On a CPU that is not asked for, too: warnings are errors here."""
    settings = config(tmp_path, use_cpu=False, num_train_epochs=1)
    assert settings.dataloader_pin_memory is torch.accelerator.is_available()
    result = train(tiny_model, TEXTS, config=settings, processing_class=tokenizer)
    assert len(result.history) == 2


def test_every_option_of_the_callback_is_one_of_the_config_and_has_help():
    inherited = {f.name for f in dataclasses.fields(SFTConfig)}
    ours = {f.name: f for f in dataclasses.fields(SendConfig) if f.name not in inherited}
    of_callback = set(inspect.signature(SendCallback).parameters)
    set_otherwise = {"tracking_dataset", "max_length", "batch_size", "seed", "resume_from"}
    set_otherwise.add("completion_only_loss")  # SFTConfig has it
    of_distillation = {name for name in ours if name.startswith("kd_")} | {"lambda_kd"}
    others = {"tracking_fraction", "eval_prompts"} | of_distillation
    assert ours.keys() - others == of_callback - set_otherwise
    for option in ours.values():
        assert option.metadata["help"].endswith((".", ":"))
        assert "%" not in option.metadata["help"]


def test_options_come_from_the_command_line(tmp_path):
    words = f"--output_dir {tmp_path} --every 50 --drop_fraction 0.3 --layer -3 --stop_loss 0.01"
    words += " --stop_score 0.1"
    (parsed,) = HfArgumentParser(SendConfig).parse_args_into_dataclasses(words.split())
    assert (parsed.every, parsed.drop_fraction, parsed.layer) == ("50", 0.3, -3)
    assert (parsed.stop_loss, parsed.stop_score, parsed.num_train_epochs) == (0.01, 0.1, 8.0)
    assert HfArgumentParser(SendConfig).format_help()


@pytest.mark.parametrize("selection", ["random", "magnitude-matched"])
def test_controls_come_from_the_command_line(tiny_model, tokenizer, tmp_path, selection):
    words = f"--output_dir {tmp_path} --selection {selection} --warmup 3 --cooldown 1 --hold 9"
    (parsed,) = HfArgumentParser(SendConfig).parse_args_into_dataclasses(words.split())
    assert (parsed.selection, parsed.warmup, parsed.cooldown) == (selection, 3, 1)
    settings = config(
        tmp_path, selection=selection, warmup=3, cooldown=1, hold=9, num_train_epochs=5
    )
    result = train(tiny_model, TEXTS, config=settings, processing_class=tokenizer)
    assert [bool(row["masked"]) for row in result.history] == [0, 0, 0, 1, 0, 0]
    with pytest.raises(ValueError, match="selection is 'largest'"):
        config(tmp_path, selection="largest")


def test_options_come_from_a_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(f"output_dir: {tmp_path}\nevery: 50\nhold: 2\nrescale: true\nuse_cpu: true\n")
    words = ["--config", str(file), "--window", "4"]
    (parsed,) = TrlParser(SendConfig).parse_args_and_config(words)
    assert (int(parsed.every), parsed.hold, parsed.rescale, parsed.window) == (50, 2, True, 4)
    assert parsed.bf16 is False


def test_every_from_a_file_counts_steps(tiny_model, tokenizer, tmp_path):
    settings = config(tmp_path, every=5, num_train_epochs=1)
    result = train(tiny_model, TEXTS, config=settings, processing_class=tokenizer)
    assert [row["step"] for row in result.history] == [0, 5]


def test_stopping_reaches_the_callback(tiny_model, tokenizer, tmp_path):
    settings = config(tmp_path, stop_loss=1e9, stop_score=1e9, num_train_epochs=9)
    result = train(tiny_model, TEXTS, config=settings, processing_class=tokenizer)
    assert len(result.history) == 3


def tracking_and_eval_loss(model, tokenizer, folder, rows, **options):
    """The tracking loss at the start and TRL's own loss, on the same rows."""
    rows = Dataset.from_list(rows)
    settings = config(folder, per_device_eval_batch_size=9, max_steps=1, every=5, **options)
    trainer = SendTrainer(
        model, settings, train_dataset=rows, tracking_dataset=rows, eval_dataset=rows,
        processing_class=tokenizer,
    )  # fmt: skip
    loss = trainer.evaluate()["eval_loss"]
    trainer.train()
    return trainer.send.history[0]["tracking_loss"], loss


@pytest.mark.parametrize("only", [None, True, False])
def test_tracking_loss_is_that_of_trl(tiny_model, tokenizer, tmp_path, only):
    rows = [{"prompt": f"where was {name} born ?", "completion": " Oslo ."} for name in NAMES]
    tracked, loss = tracking_and_eval_loss(
        tiny_model, tokenizer, tmp_path, rows, completion_only_loss=only
    )
    assert tracked == pytest.approx(loss, rel=1e-4)


def test_texts_may_be_in_a_column_of_another_name(tiny_model, tokenizer, tmp_path):
    rows = [{"content": text, "id": str(i)} for i, text in enumerate(TEXTS[:8])]
    tracked, loss = tracking_and_eval_loss(
        tiny_model, tokenizer, tmp_path, rows, dataset_text_field="content"
    )
    assert tracked == pytest.approx(loss, rel=1e-4)


def test_a_stream_is_trained_on_with_rows_to_track(tiny_model, tokenizer, tmp_path):
    stream = Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()
    settings = config(tmp_path, max_steps=3, every=1)
    with pytest.raises(ValueError, match="no share of a stream"):
        train(tiny_model, stream, config=settings, processing_class=tokenizer)
    result = train(
        tiny_model, stream, tracking_dataset=TEXTS[:4], config=settings, processing_class=tokenizer
    )
    assert [row["step"] for row in result.history] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"body": "a"}] * 4, {}, "have the columns body; expected text, or prompt and completion"),
        ([{"prompt": "a"}] * 4, {}, "have the columns prompt; expected text"),
        (TEXTS, {"eval_strategy": "epoch"}, "there is no eval_dataset"),
        (TEXTS, {"assistant_only_loss": True}, "assistant_only_loss is not known"),
    ],
)
def test_what_cannot_be_trained_or_tracked_is_refused_at_once(
    tiny_model, tokenizer, tmp_path, rows, options, message
):
    with pytest.raises(ValueError, match=message):
        train(tiny_model, rows, config=config(tmp_path, **options), processing_class=tokenizer)


def test_wrong_data_are_refused(tiny_model, tokenizer, tmp_path):
    with pytest.raises(TypeError, match="the data are a int"):
        train(tiny_model, 3, config=config(tmp_path), processing_class=tokenizer)


def test_rows_without_a_token_to_train_on_are_left_out(tiny_model, tokenizer, tmp_path, caplog):
    long = {"prompt": "Ada was born in Oslo . " * 9, "completion": "not"}
    rows = [{"prompt": f"{name} was born in", "completion": "Oslo ."} for name in NAMES]
    options = {"max_length": 20, "max_steps": 1}
    trainer = SendTrainer(
        tiny_model, config(tmp_path, **options), train_dataset=[*rows, long, long, {"prompt": 3}],
        tracking_dataset=rows[:1], processing_class=tokenizer,
    )  # fmt: skip
    assert len(trainer.train_dataset) == len(NAMES)
    assert "left out 2 of 10 training rows without a token to train on" in caplog.text
    assert "left out 1 of 11 rows: row 10: prompt is 3; expected text" in caplog.text
    trainer.train()
    assert trainer.state.log_history[-1]["train_loss"] > 0
    with pytest.raises(ValueError, match="none of the 2 training rows has a token to train on"):
        SendTrainer(
            tiny_model, config(tmp_path, **options), train_dataset=[long, long],
            tracking_dataset=rows[:1], processing_class=tokenizer,
        )  # fmt: skip


def test_importing_send_is_light():
    code = (
        "import sys, send; print([m for m in ('torch', 'trl', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
