"""SendCallback in the trainers of TRL, beside its own: preferences and reinforcement."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import BitsAndBytesConfig, GPTNeoXForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from send.dropout.callback import SendCallback
from send.models.hidden_states import HiddenTap, block_at
from send.training.config import SendConfig
from send.training.trainer import SendTrainer

# TRL and PEFT call what Transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning")

NAMES = ["Ada", "Bo", "Cyn", "Dag"]
TRACKED = [f"{name} lives in Lima ." for name in NAMES]
OPTIONS = {"window": 2, "hold": 1, "every": 1, "score_prompts": 1, "num_samples": 2}
SETTINGS = {
    "max_steps": 3,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "dataloader_pin_memory": False,
    "activation_checkpointing": True,  # as the default of TRL, under its old name
}


def a_send():
    return SendCallback(TRACKED, max_new_tokens=2, **OPTIONS)


def zeros_in_training(model):
    """Watch the block while the model trains: a list of what was zero, and the hook that tells."""
    seen = []

    def look(block, _inputs, output):
        if block.training:
            states = output[0] if isinstance(output, tuple) else output
            dead = (states.detach() == 0).all(dim=0).all(dim=0)
            seen.append(torch.nonzero(dead).flatten().tolist())

    return seen, look


def fit(trainer, send):
    """Train; return what was zero in the block, once for each pass in training mode."""
    seen, look = zeros_in_training(trainer.model)

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, model, **_):
            self.handle = block_at(model).register_forward_hook(look)

        def on_train_end(self, args, state, control, **_):
            self.handle.remove()

    trainer.add_callback(Look())  # after ours, whose mask it is to see
    trainer.train()
    return seen


def assert_masked(send, seen, model):
    assert [row["step"] for row in send.history] == [0, 1, 2, 3]
    masks = [row["masked"] for row in send.history]
    assert masks[0] == []
    assert all(len(mask) == 3 for mask in masks[1:])
    # From first to last, each as often as a step has passes.
    changes = [zeros for i, zeros in enumerate(seen) if i == 0 or zeros != seen[i - 1]]
    assert changes == masks[:3]
    assert not block_at(model)._forward_hooks
    with HiddenTap(model) as tap, torch.no_grad():
        model.train()(torch.arange(3, 9)[None].to(model.device))
    assert tap.states.any(dim=(0, 1)).all()


@pytest.mark.parametrize("peft", [False, True])
def test_supervised(tiny_model, tokenizer, tmp_path, peft):
    send = a_send()
    trainer = SFTTrainer(
        tiny_model, SFTConfig(str(tmp_path), **SETTINGS),
        train_dataset=Dataset.from_dict({"text": TRACKED * 2}), processing_class=tokenizer,
        callbacks=[send], peft_config=LoraConfig(r=2) if peft else None,
    )  # fmt: skip
    assert_masked(send, fit(trainer, send), trainer.model)


@pytest.mark.parametrize("peft", [False, True])
def test_preferences(tiny_model, tokenizer, tmp_path, peft):
    rows = [
        {"prompt": f"where was {name} born ?", "chosen": " unknown .", "rejected": " Oslo ."}
        for name in NAMES
    ]
    tiny_model.save_pretrained(tmp_path / "model")  # from where the reference comes
    send = a_send()
    trainer = DPOTrainer(
        str(tmp_path / "model"), args=DPOConfig(str(tmp_path), **SETTINGS),
        train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[send],
        peft_config=LoraConfig(r=2) if peft else None,
    )  # fmt: skip
    assert_masked(send, fit(trainer, send), trainer.model)


def test_reinforcement(tiny_model, tokenizer, tmp_path):
    rows = [{"prompt": f"where was {name} born ?"} for name in NAMES]
    send = a_send()
    settings = {**SETTINGS, "num_generations": 2, "max_completion_length": 3}
    trainer = GRPOTrainer(
        tiny_model, reward_funcs=lambda completions, **_: [float(len(c)) for c in completions],
        args=GRPOConfig(str(tmp_path), **settings), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[send],
    )  # fmt: skip
    assert_masked(send, fit(trainer, send), trainer.model)


FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}


def quantized(model, tokenizer, folder, **settings):
    """A trainer of an adapter on a model of four bits, which is read from a folder."""
    model.save_pretrained(folder / "model")
    return SendTrainer(
        str(folder / "model"),
        SendConfig(str(folder), **{**SETTINGS, **OPTIONS, "every": "1", **settings}),
        train_dataset=Dataset.from_dict({"text": TRACKED * 2}),
        tracking_dataset=Dataset.from_dict({"text": TRACKED}),
        processing_class=tokenizer,
        quantization_config=BitsAndBytesConfig(**FOUR_BITS),
        peft_config=LoraConfig(r=2),
    )


def test_a_quantized_model_is_asked_for(tiny_model, tokenizer, tmp_path, monkeypatch):
    """Without a GPU: how it is loaded, and that the mask is on in half precision."""
    asked = []

    def load(_kind, _name, **options):
        asked.append(options["quantization_config"])
        return tiny_model.to(torch.bfloat16)

    monkeypatch.setattr(GPTNeoXForCausalLM, "from_pretrained", classmethod(load))
    trainer = quantized(tiny_model, tokenizer, tmp_path)
    assert (asked[0].load_in_4bit, asked[0].bnb_4bit_compute_dtype) == (True, torch.bfloat16)
    assert_masked(trainer.send, fit(trainer, trainer.send), trainer.model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_an_adapter_is_trained_on_a_quantized_model(tiny_model, tokenizer, tmp_path):
    pytest.importorskip("bitsandbytes")
    trainer = quantized(tiny_model, tokenizer, tmp_path, use_cpu=False, bf16=True)
    assert_masked(trainer.send, fit(trainer, trainer.send), trainer.model)
