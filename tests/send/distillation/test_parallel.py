"""Distillation in two processes: the same losses and gradients as in one.

Also a program, which the tests run in two processes: python test_distillation_parallel.py FOLDER
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl.trainer.utils import add_fused_lm_head

from send.distillation import distil, distillation
from send.distillation.distillation import Distillation
from send.distillation.teacher import Teacher
from send.training.config import SendConfig
from send.training.trainer import SendTrainer

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")

VOCABULARY = ["<pad>", "<eos>", *(f"w{i}" for i in range(30))]
ROWS = [
    {"prompt": f"w{i} w{3 * i % 30}", "completion": " ".join(f" w{j}" for j in range(i % 4 + 1))}
    for i in range(24)
]


def a_model(seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=len(VOCABULARY), intermediate_size=32, pad_token_id=0,
                    eos_token_id=1, bos_token_id=None, initializer_range=0.3, **sizes)
    )  # fmt: skip


def trained(folder, *, processes, cached):
    """Losses and weights of a few steps over batches of 8 rows, whoever has which of them."""
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = SendConfig(
        str(folder),
        max_steps=3,
        every=2,
        per_device_train_batch_size=4 // processes,
        gradient_accumulation_steps=2,
        learning_rate=0.1,
        optim="sgd",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        score_prompts=0,
        lambda_kd=0.7,
        kd_cache=str(folder / "cache") if cached else None,
        ddp_backend="gloo" if processes > 1 else None,
    )
    trainer = SendTrainer(
        a_model(0),
        config,
        train_dataset=Dataset.from_list(ROWS),
        tracking_dataset=Dataset.from_list(ROWS[:4]),
        teacher=a_model(1),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>"
        ),
    )
    trainer.train()
    names = ("loss", "send/kd_loss", "send/sft_loss", "grad_norm")
    log = [[row[name] for name in names] for row in trainer.state.log_history if "loss" in row]
    return {"log": torch.tensor(log), "weights": trainer.model.state_dict()}


def gradients(shard, together=()):
    """Those of one batch in each process, averaged over them.

    Some modules may be `together`, as Accelerate has the last norm and the output layer.
    """
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    student = a_model(0)
    add_fused_lm_head(student)
    teacher = Teacher(a_model(1), device=torch.device("cpu"))
    both = Distillation(student, teacher, weight=0.7)
    torch.manual_seed(distributed.get_rank())
    ids = torch.randint(2, len(VOCABULARY), (2, 9))
    labels = ids.clone()
    labels[:, 4 + 3 * distributed.get_rank() :] = -100  # so that portions differ in number
    inputs = {"input_ids": ids, "labels": labels}
    with both.attached(), both.batch(inputs):
        if shard:
            for part in student.model.layers:
                fully_shard(part, mesh=mesh, reshard_after_forward=True)
            if together:
                parts = [student.get_submodule(name) for name in together]
                fully_shard(parts, mesh=mesh, reshard_after_forward=False)
            fully_shard(student, mesh=mesh, reshard_after_forward=not together)
        (-student(**inputs, fused_lm_head=True).log_probs.sum()).backward()
    for parameter in student.parameters():
        if not shard:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= distributed.get_world_size()
    return {
        name: p.grad.full_tensor() if shard else p.grad for name, p in student.named_parameters()
    }


def main(folder):
    torch.set_num_threads(1)
    distil.PORTION = distillation.PORTION = 3 * len(VOCABULARY)
    result = {
        "live": trained(folder, processes=2, cached=False),
        "cached": trained(folder, processes=2, cached=True),
        "sharded": gradients(shard=True),
        "as Accelerate": gradients(shard=True, together=("model.norm", "lm_head")),
        "whole": gradients(shard=False),
    }
    torch.save(result, folder / f"rank{os.environ['RANK']}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "OMP_NUM_THREADS": "1",
        "CI": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
    }
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("teacher", ["live", "cached"])
def test_as_in_one_process(ranks, tmp_path, teacher, monkeypatch):
    monkeypatch.setenv("CI", "1")
    one = trained(tmp_path, processes=1, cached=teacher == "cached")
    first, second = (rank[teacher] for rank in ranks)
    torch.testing.assert_close(first["log"], one["log"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first["weights"], one["weights"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second["weights"], first["weights"], rtol=0, atol=0)


@pytest.mark.parametrize("how", ["sharded", "as Accelerate"])
def test_sharded_weights_have_the_same_gradients(ranks, how):
    for rank in ranks:
        torch.testing.assert_close(rank[how], rank["whole"], rtol=1e-5, atol=1e-7)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
