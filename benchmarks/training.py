"""What SenD costs: the same TRL fine-tuning with it and without, in turn, in one process.

    python benchmarks/training.py             minutes on two cores
    python benchmarks/training.py --quick     under a minute, into training_quick.json
    python benchmarks/training.py --only gpu  the part for a GPU; the other rows stay as they were

Steps are paired: the same step of the same batches in each arm. A checkpoint's forward passes are
counted by a hook, in tokens, over those of the tracking set; answers sampled for the score come
apart from them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import io
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from record import RESULTS, about
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel, TrainerCallback
from trl import SFTConfig, SFTTrainer

from send import SendConfig, SendTrainer
from send.experiment import quiet
from send.world import World

STEPS_AT_MOST = 1.03
PASSES_AT_MOST = 1.1
TRACKED = 0.05
"""Share of the rows."""

ARMS = ("plain", "SenD", "SenD with scores")


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, batches for it, and how long to train; in each turn all arms."""

    width: int
    blocks: int
    heads: int
    tokens: int
    batch: int
    steps: int
    every: int
    turns: int
    rows: int = 2000
    vocabulary: int | None = None
    bf16: bool = False
    more: dict[str, Any] = field(default_factory=dict)


SIZES = {
    "cpu": Size(width=192, blocks=4, heads=4, tokens=128, batch=8, steps=36, every=6, turns=5),
    "gpu": Size(
        width=2048, blocks=16, heads=8, tokens=512, batch=8, steps=48, every=8, turns=5,
        vocabulary=50_304, bf16=True, more={"gradient_checkpointing": False},
    ),
}  # fmt: skip
"""On a GPU: the shape of Pythia-1B."""

QUICK = {"width": 64, "blocks": 4, "tokens": 64, "steps": 18, "every": 3, "turns": 2, "rows": 1000}


def main() -> None:
    """Run the parts and write what each found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SIZES)
    options = parser.parse_args()
    path = RESULTS / ("training_quick.json" if options.quick else "training.json")
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for part in options.only or SIZES:
        size = replace(SIZES[part], **QUICK) if options.quick else SIZES[part]
        if part == "gpu" and not torch.cuda.is_available():
            found: dict[str, Any] = {"skipped": "no GPU: torch.cuda.is_available() is False"}
        else:
            found = measured(size, cuda=part == "gpu")
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        setting = {"torch_threads": torch.get_num_threads(), "gpu": device}
        versions = about(("torch", "transformers", "trl", "accelerate")) | setting
        if "skipped" not in found or part not in known:
            known[part] = {"about": versions, "size": vars(size), **found}
        show(part, found)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")


def measured(size: Size, *, cuda: bool) -> dict[str, Any]:
    """Train all arms in turn, from the same weights, on the same batches; compare."""
    model, tokenizer = model_of(size)
    data = rows(size, tokenizer)
    runs: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    for turn in range(size.turns + 1):  # the first one warms up
        for arm in ARMS if turn % 2 else reversed(ARMS):
            run = once(arm, copy.deepcopy(model), tokenizer, data, size, seed=turn, cuda=cuda)
            if turn:
                runs[arm].append(run)
    return summary(runs, size)


def rows(size: Size, tokenizer: Any) -> tuple[Dataset, Dataset]:
    """Return rows of equal length: tokens to train on, and texts to track."""
    world = World(0, people=200)
    sentences = ["".join(row.values()) for row in world.pretraining_rows()]
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(size.rows):
        words: list[str] = []
        while len(words) < size.tokens:
            words += sentences[rng.integers(len(sentences))].split()
        texts.append(" ".join(words[: size.tokens]))
    tracked = round(TRACKED * size.rows)
    return (
        Dataset.from_dict({"input_ids": tokenizer(texts[tracked:])["input_ids"]}),
        Dataset.from_dict({"text": texts[:tracked]}),
    )


def model_of(size: Size) -> tuple[PreTrainedModel, Any]:
    """Return an untrained GPT-NeoX and the tokenizer of the texts."""
    tokenizer = World(0, people=200).tokenizer()
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=size.vocabulary or len(tokenizer),
        hidden_size=size.width,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        max_position_embeddings=2 * size.tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    dtype = torch.bfloat16 if size.bf16 else torch.float32
    return GPTNeoXForCausalLM(config).to(dtype), tokenizer


# One training ------------------------------------------------------------------------------------


@dataclass
class Run:
    """What was seen of one training."""

    steps: list[float] = field(default_factory=list)
    """Seconds of each, without the callbacks at its end."""
    checkpoints: list[float] = field(default_factory=list)
    """Seconds of SenD's part at the start and at each step that is a checkpoint."""
    passes: list[int] = field(default_factory=list)
    """Tokens of forward passes at each of these that reach the whole model, without answers."""
    answers: list[int] = field(default_factory=list)
    """Tokens of forward passes that sample answers."""
    masked: list[bool] = field(default_factory=list)
    """Whether a mask was on during each step."""
    tracked: int = 0
    """Tokens of the tracking set."""
    chosen: list[bool] = field(default_factory=list)
    """Whether a mask was chosen at each checkpoint."""
    memory: int = 0
    loss: float = 0.0


class Clock(TrainerCallback):
    """Stands before all others: notes the end of each step, before a checkpoint begins."""

    def __init__(self, run: Run, *, cuda: bool) -> None:
        self.run, self.cuda, self.trainer = run, cuda, None

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended = self.now()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        send = getattr(self.trainer, "send", None)
        self.run.masked.append(bool(send and send.mask and send.mask.active))
        self.begun = self.now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended = self.now()
        self.run.steps.append(self.ended - self.begun)


class After(TrainerCallback):
    """Stands after SenD: notes how long that took, where it did something."""

    def __init__(self, clock: Clock, counter: Counter) -> None:
        self.clock, self.counter = clock, counter

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.note()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.note()

    def note(self) -> None:
        run, (passes, answers) = self.clock.run, self.counter.taken()
        if passes:
            run.checkpoints.append(self.clock.now() - self.clock.ended)
            run.passes.append(passes)
            run.answers.append(answers)


class Counter:
    """Counts the tokens that go through a model in evaluation mode; pads do not count.

    Passes with a cache are those of `generate`; all others watch the tracking set.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.passes = self.answers = 0
        model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, model: torch.nn.Module, _: Any, inputs: dict[str, Any]) -> None:
        if model.training:
            return
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        if inputs.get("use_cache"):
            self.answers += ids.numel()
        else:
            self.passes += ids.numel() if mask is None else int(mask.sum())

    def taken(self) -> tuple[int, int]:
        found, self.passes, self.answers = (self.passes, self.answers), 0, 0
        return found


def once(
    arm: str,
    model: PreTrainedModel,
    tokenizer: Any,
    data: tuple[Dataset, Dataset],
    size: Size,
    *,
    seed: int,
    cuda: bool,
) -> Run:
    """Train one arm."""
    train, tracked = data
    ids = tokenizer(list(tracked["text"]))["input_ids"]
    longest = size.tokens + 1
    run = Run(tracked=sum(min(len(row) + 1, longest) for row in ids))  # with an end token each
    with tempfile.TemporaryDirectory() as folder, silence():
        settings = {
            **quiet(seed),
            "output_dir": folder,
            "max_steps": size.steps,
            "per_device_train_batch_size": size.batch,
            "per_device_eval_batch_size": size.batch,
            "max_length": longest,
            "learning_rate": 1e-4,
            "disable_tqdm": True,
            "use_cpu": not cuda,
            **size.more,
        }
        clock = Clock(run, cuda=cuda)
        if arm == "plain":
            trainer = SFTTrainer(
                model, SFTConfig(**settings), train_dataset=train, processing_class=tokenizer
            )
        else:
            scores = {"score_prompts": 16} if arm == "SenD with scores" else {"score_prompts": 0}
            config = SendConfig(**settings, **scores, every=size.every, window=2)
            trainer = SendTrainer(
                model, config, train_dataset=train, tracking_dataset=tracked,
                processing_class=tokenizer,
            )  # fmt: skip
        clock.trainer = trainer
        trainer.callback_handler.callbacks.insert(0, clock)
        trainer.callback_handler.callbacks.append(After(clock, Counter(trainer.model)))
        gc.collect()  # the training before
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        run.loss = float(trainer.train().training_loss)
        run.memory = torch.cuda.max_memory_allocated() if cuda else 0
    if arm != "plain":
        run.chosen = [row["sensitivity"] is not None for row in trainer.send.history]
    return run


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hide what trainers print."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


# All of them -------------------------------------------------------------------------------------


def summary(runs: dict[str, list[Run]], size: Size) -> dict[str, Any]:
    """Return costs over those of the plain training, each with what it was aimed at."""
    plain, send, scored = (runs[arm] for arm in ARMS)
    found = {
        "steps": {
            "with a mask": step_ratio(plain, send, size, masked=True),
            "before the first mask": step_ratio(plain, send, size, masked=False),
            "target": STEPS_AT_MOST,
        },
        "passes": passes(send) | {"target": PASSES_AT_MOST},
        "checkpoint_seconds": {
            arm: median(run.checkpoints for run in runs[arm]) for arm in ARMS[1:]
        },
        "step_seconds": {arm: median(run.steps for run in runs[arm]) for arm in ARMS},
        "epoch": {arm: epoch(plain, runs[arm], size) for arm in ARMS[1:]},
        "tokens_per_second": {
            arm: size.batch * size.tokens / median(run.steps for run in runs[arm]) for arm in ARMS
        },
        "answer_tokens": int(median(run.answers for run in scored)),
        "losses": {arm: float(np.mean([run.loss for run in runs[arm]])) for arm in ARMS},
    }
    if plain[0].memory:
        found["peak_bytes"] = {arm: max(run.memory for run in runs[arm]) for arm in ARMS}
    return found


def step_ratio(plain: list[Run], send: list[Run], size: Size, *, masked: bool) -> dict[str, float]:
    """Return the median and the extremes over turns of each turn's median over its steps."""
    # The first steps of a training, and the first one after a checkpoint, find cold caches.
    counted = [i for i in range(2, size.steps) if i % size.every]
    turns = [
        float(np.median([b.steps[i] / a.steps[i] for i in counted if b.masked[i] is masked]))
        for a, b in zip(plain, send, strict=True)
    ]
    return {"median": float(np.median(turns)), "min": min(turns), "max": max(turns)}


def passes(runs: list[Run]) -> dict[str, float]:
    """Return the tokens of forward passes at a checkpoint over those of the tracking set."""
    counts, chosen = np.array([run.passes for run in runs]), np.array(runs[0].chosen)
    counts = counts / runs[0].tracked
    return {
        "mean": float(counts.mean()),
        "where a mask is chosen": float(counts[:, chosen].max()),
        "elsewhere": float(counts[:, ~chosen].max()),
        "tracking_tokens": runs[0].tracked,
    }


def epoch(plain: list[Run], runs: list[Run], size: Size) -> float:
    """Return the time of an epoch with a mask and a checkpoint at its end, over the plain one's."""
    steps = (1 - TRACKED) * size.rows / size.batch
    checkpoint = median(run.checkpoints for run in runs) / median(run.steps for run in plain)
    return step_ratio(plain, runs, size, masked=True)["median"] + checkpoint / steps


def median(lists: Any) -> float:
    return float(np.median([value for values in lists for value in values]))


def show(part: str, found: dict[str, Any]) -> None:
    """Print a part."""
    if "skipped" in found:
        print(f"{part}: skipped, {found['skipped']}")
        return
    for name in ("with a mask", "before the first mask"):
        r = found["steps"][name]
        print(
            f"{part}: a step {name} takes {r['median']:.3f} [{r['min']:.3f}, {r['max']:.3f}] of a "
            f"plain one (at most {STEPS_AT_MOST})"
        )
    p, step = found["passes"], found["step_seconds"]["plain"]
    print(
        f"{part}: passes of the tracking set at a checkpoint: {p['mean']:.3f} on average (at most "
        f"{PASSES_AT_MOST}), {p['where a mask is chosen']:.3f} where a mask is chosen"
    )
    for arm, seconds in found["checkpoint_seconds"].items():
        print(f"{part}: a checkpoint of {arm} takes {seconds / step:.1f} steps; "
              f"an epoch {found['epoch'][arm]:.3f} of a plain one")  # fmt: skip
    print(f"{part}: tokens/s " + json.dumps(found["tokens_per_second"]))
    if "peak_bytes" in found:
        print(f"{part}: GiB " + json.dumps({k: v / 2**30 for k, v in found["peak_bytes"].items()}))


if __name__ == "__main__":
    main()
