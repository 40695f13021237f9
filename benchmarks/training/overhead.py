"""What SenD costs: the same TRL fine-tuning with it and without, in turn, in one process.

    python -m benchmarks.training.overhead             minutes on two cores
    python -m benchmarks.training.overhead --quick     under a minute, into training_quick.json
    python -m benchmarks.training.overhead --only gpu  the part for a GPU; the others stay

Steps are paired: the trainings run in threads, of which one at a time takes a step, the same step
of the same batches as the others. A checkpoint's forward passes are
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
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.measuring.record import RESULTS, about
from send import SendConfig, SendTrainer
from send.demo.experiment import quiet
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
    """Train all arms at once, a step each in turn, from the same weights, on the same batches."""
    model, tokenizer = model_of(size)
    data = rows(size, tokenizer)
    runs: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder, silence():
        for turn in range(size.turns + 1):  # the first one warms up
            make = partial(Training, model, tokenizer, data, size, seed=turn, cuda=cuda)
            baton = Baton(ARMS)
            trainings = [make(arm, folder, baton) for arm in ARMS]
            gc.collect()
            with ThreadPoolExecutor(len(ARMS)) as pool:
                for arm, run in zip(ARMS, pool.map(Training.run, trainings), strict=True):
                    runs[arm] += [run] if turn else []
        found = summary(runs, size)
        if cuda:
            short = replace(size, steps=2 * size.every + 1)
            make = partial(Training, model, tokenizer, data, short, seed=0, cuda=True)
            found["peak_bytes"] = {arm: peak(make(arm, folder, Baton([arm]))) for arm in ARMS}
    return found


def peak(training: Training) -> int:
    """Return the most memory of the GPU that a training takes when it is alone there."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    training.run()
    return torch.cuda.max_memory_allocated()


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
    loss: float = 0.0


class Baton:
    """Lets threads go on one at a time, in turn; who begins a round changes."""

    def __init__(self, names: Sequence[str]) -> None:
        self.order = (
            name for i in count() for name in (*names[i % len(names) :], *names[: i % len(names)])
        )
        self.left = set(names)
        self.turn = next(self.order)
        self.changed = threading.Condition()

    def take(self, name: str) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.turn == name)

    def give(self) -> None:
        with self.changed:
            if self.left:
                self.turn = next(name for name in self.order if name in self.left)
            self.changed.notify_all()

    def leave(self, name: str) -> None:
        self.left.remove(name)
        self.give()


class Clock(TrainerCallback):
    """Stands before all others: notes the end of each step, before a checkpoint begins."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.training.ended = self.training.now()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        send = getattr(self.training.trainer, "send", None)
        self.training.found.masked.append(bool(send and send.mask and send.mask.active))
        self.begun = self.training.now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.training.ended = self.training.now()
        self.training.found.steps.append(self.training.ended - self.begun)


class After(TrainerCallback):
    """Stands after all others: notes what SenD did since the step's end, and gives way."""

    def __init__(self, training: Training) -> None:
        self.training, self.counter = training, Counter(training.trainer.model)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.note()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.note()
        self.training.baton.give()
        self.training.baton.take(self.training.arm)

    def note(self) -> None:
        run, (passes, answers) = self.training.found, self.counter.taken()
        if passes:
            run.checkpoints.append(self.training.now() - self.training.ended)
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


class Training:
    """One arm: a trainer and what is seen of it."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        data: tuple[Dataset, Dataset],
        size: Size,
        arm: str,
        folder: str,
        baton: Baton,
        *,
        seed: int,
        cuda: bool,
    ) -> None:
        self.arm, self.baton, self.cuda = arm, baton, cuda
        train, tracked = data
        ids = tokenizer(list(tracked["text"]))["input_ids"]
        longest = size.tokens + 1  # with an end token
        self.found = Run(tracked=sum(min(len(row) + 1, longest) for row in ids))
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
        common = {"train_dataset": train, "processing_class": tokenizer}
        model = copy.deepcopy(model)
        if arm == "plain":
            self.trainer = SFTTrainer(model, SFTConfig(**settings), **common)
        else:
            prompts = 16 if arm == "SenD with scores" else 0
            config = SendConfig(**settings, score_prompts=prompts, every=size.every, window=2)
            self.trainer = SendTrainer(model, config, tracking_dataset=tracked, **common)
        callbacks = self.trainer.callback_handler.callbacks
        callbacks.insert(0, Clock(self))
        callbacks.append(After(self))

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def run(self) -> Run:
        """Train, by turns with others."""
        self.baton.take(self.arm)
        try:
            self.found.loss = float(self.trainer.train().training_loss)
        finally:
            self.baton.leave(self.arm)
        if self.arm != "plain":
            self.found.chosen = [
                row["sensitivity"] is not None for row in self.trainer.send.history
            ]
        return self.found


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
    return {
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
