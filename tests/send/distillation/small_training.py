"""Trainers with a teacher on a few rows, and what is compared of them."""

import copy

import torch
from datasets import Dataset

from send.training.config import SendConfig
from send.training.trainer import SendTrainer
from tests.send.rows import CITIES, NAMES

ROWS = [
    {"prompt": f"where was {name} born ?", "completion": f" {city}" + " and Lima" * (i % 3) + " ."}
    for i, (name, city) in enumerate((name, city) for name in NAMES for city in CITIES)
]
TRACKED = ROWS[:4]


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
