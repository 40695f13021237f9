"""A tiny training in which random states matter, and all that its last checkpoint holds."""

import json
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback

from send.checkpoints.checkpoint import check_complete, read_state
from send.training.config import SendConfig
from send.training.trainer import SendTrainer

WORDS = [f"w{i}" for i in range(30)]
LAST = 24  # steps


def sentences(seed, count):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(4, 9))) for _ in range(count)]


def model_and_tokenizer():
    """A GPT-2 with dropout, so that random states matter."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>"
    )
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(vocabulary), n_embd=16, n_layer=3, n_head=2, n_positions=32,
        eos_token_id=1, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config), tokenizer


class Stopped(Exception):
    """What ends a training early."""


class StopAt(TrainerCallback):
    """Raises at an event of a step, before a callback that comes later hears of it."""

    def __init__(self, step, event="on_step_begin"):
        self.step = step
        setattr(self, event, self.stop)

    def stop(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Stopped


def a_trainer(folder, *callbacks, peft_config=None, **settings):
    """A training with all that may go wrong in it: accumulation, logs and saves out of step."""
    model, tokenizer = model_and_tokenizer()
    config = SendConfig(
        folder,
        **{
            "max_steps": LAST, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2, "logging_steps": 7, "save_strategy": "steps", "save_steps": 4,
            "save_total_limit": 1, "disable_tqdm": True, "use_cpu": True, "every": 3, "hold": 2,
            "score_prompts": 2, "num_samples": 2, "max_new_tokens": 2, **settings,
        },
    )  # fmt: skip
    return SendTrainer(
        model,
        config,
        train_dataset=Dataset.from_dict({"text": sentences(0, 30)}),
        tracking_dataset=Dataset.from_dict({"text": sentences(1, 6)}),
        eval_dataset=Dataset.from_dict({"text": sentences(2, 6)}),
        processing_class=tokenizer,
        callbacks=list(callbacks),
        peft_config=peft_config,
    )


def outcome(folder, last=LAST):
    """Everything that the last checkpoint of a training holds."""
    checkpoint = Path(folder) / f"checkpoint-{last}"
    check_complete(checkpoint)
    send = read_state(checkpoint)
    sums = checkpoint / "send_running_sums.json"  # of a SendTrainer
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    timeless = [
        {k: v for k, v in row.items() if not k.endswith(("_runtime", "_per_second"))} for row in log
    ]
    (weights,) = checkpoint.glob("*model.safetensors")  # or those of an adapter
    return {
        "sums": json.loads(sums.read_text()) if sums.is_file() else None,
        "weights": load_file(weights),
        "optimizer": torch.load(checkpoint / "optimizer.pt"),
        "schedule": torch.load(checkpoint / "scheduler.pt"),
        "random": torch.load(checkpoint / "rng_state.pth", weights_only=False),
        "embeddings": send.embeddings,
        "history": send.history,
        "log": timeless,
    }


def assert_equal(a, b, where=""):
    """Compare nested things bit by bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b), where
    else:
        assert a == b, where
