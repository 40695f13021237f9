"""The command line: ``send demo``, ``score``, ``evaluate``, ``train`` and ``recipes``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from send.cli_options import (
    RECIPES,
    DemoOptions,
    EvaluateOptions,
    ScoreOptions,
    TrainOptions,
    all_recipes,
    parsed,
    recipe_of,
)

if TYPE_CHECKING:
    from send.training.result import SendResult

__all__ = ["main"]

USAGE = """usage: send COMMAND [--option value ...] [--config FILE.yaml]

  demo      a spectrum against exact values, then SenD against plain fine-tuning; --text FILE: SenD
            on real text
  score     EigenScore, EES and other signs of hallucination of a model's answers to prompts
  evaluate  means of these over prompts, and loss and ROUGE-L against references, with intervals
  train     fine-tune a causal language model with Sensitivity Dropout; on several processes by
            accelerate launch -m send train ... or torchrun -m send train ...
  recipes   the YAML files that come with this package, for --config and for accelerate launch;
            recipes NAME: where one of them is

send COMMAND --help lists the options; a YAML file given by --config holds any of them: one of your
own, or the name of a recipe. Flags go above it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default those of the process.

    Returns
    -------
    int
        The exit code: 0, or 2 with one line on standard error.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "demo": _demo,
        "score": _score,
        "evaluate": _evaluate,
        "train": _train,
        "recipes": _recipes,
    }
    if not given or given[0] in {"-h", "--help"}:
        print(USAGE)
        return 0 if given else 2
    if given[0] not in commands:
        names = ", ".join(commands)
        print(f"send: no command {given[0]!r}; expected one of {names}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        from safetensors import SafetensorError

        if _rank():
            _be_quiet()
        commands[given[0]](given[1:])
    except ModuleNotFoundError as error:
        _complain(f"{error.name} is missing: pip install 'specdens[send]'")
        return 2
    except (ValueError, TypeError, OSError, ImportError) as error:
        _complain(" ".join(str(error).split()))
        return 2
    except SafetensorError as error:
        _complain(f"a file of weights or of a checkpoint is broken: {error}")
        return 2
    return 0


def _complain(what: str) -> None:
    """Say in one line what went wrong, and in which process; the others may be fine."""
    where = f" (process {_rank()})" if "RANK" in os.environ else ""
    print(f"send{where}: {what}", file=sys.stderr)


def _rank() -> int:
    """Return which of the processes that torchrun or accelerate launch has started this one is."""
    return int(os.environ.get("RANK", "0"))


def _be_quiet() -> None:
    """Leave news and warnings to the first process; errors still name what is wrong here."""
    import datasets
    import transformers

    logging.disable(logging.WARNING)
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _demo(arguments: list[str]) -> None:
    (options,) = parsed("demo", [DemoOptions], arguments)
    from send.demo.demo import run
    from send.demo.language import text

    folder = Path(options.output_dir)
    if options.text is None:
        run(folder, seed=options.seed)
    else:
        text(options.text, folder, limit=options.limit, seed=options.seed)


def _score(arguments: list[str]) -> None:
    (options,) = parsed("score", [ScoreOptions], arguments)
    prompts = _prompts(options)
    _check_output(options.output)
    _check_device(options.device)
    from send.detection.scorer import HallucinationScorer

    scorer = HallucinationScorer.from_pretrained(
        options.model,
        device=options.device,
        layer=options.layer,
        trust_remote_code=options.trust_remote_code,
    )
    table = scorer(
        prompts,
        num_samples=options.num_samples,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        max_new_tokens=options.max_new_tokens,
        alpha=options.alpha,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=True,
    )
    if options.output is None:
        print(table)
    elif options.output.lower().endswith(".csv"):
        table.to_csv(options.output)
    else:
        table.to_json(options.output)


def _prompts(options: ScoreOptions) -> list[Any]:
    if options.limit is not None and options.limit < 1:
        msg = f"--limit is {options.limit}; expected at least 1 prompt."
        raise ValueError(msg)
    prompts = [*options.prompts, *_prompts_of(options.data)][: options.limit]
    if not prompts:
        msg = "there is nothing to score: pass --prompts 'a prompt' ... or --data FILE."
        raise ValueError(msg)
    return prompts


def _check_output(output: str | None) -> None:
    """Refuse, before anything is computed, a file that could not be written."""
    if output is None:
        return
    if Path(output).suffix.lower() not in {".json", ".csv"}:
        msg = f"--output is {output}; expected a file that ends in .json or .csv."
        raise ValueError(msg)
    if not Path(output).parent.is_dir():
        msg = f"--output is {output}, but there is no folder {Path(output).parent}; make it first."
        raise ValueError(msg)


def _check_device(device: str | None) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        msg = (
            f"--device {device} cannot be used ({reason:.120}); expected cpu, or one that is here."
        )
        raise ValueError(msg) from error


def _prompts_of(data: str | None) -> list[Any]:
    """Return the prompts in a file of rows, or the lines of a plain text."""
    if data is None:
        return []
    from send.data.load_texts import load_prompts

    return load_prompts(data)


def _evaluate(arguments: list[str]) -> None:
    (options,) = parsed("evaluate", [EvaluateOptions], arguments)
    _check_output(options.output)
    _check_device(options.device)
    from send.evaluation.evaluate import evaluate

    settings = {k: v for k, v in vars(options).items() if k not in {"model", "data", "output"}}
    found = evaluate(options.model, options.data, **settings, progress=True)
    print(found)
    if options.output is not None:
        found.save(options.output)


def _recipes(arguments: list[str]) -> None:
    """Print where one recipe is, or what all of them are for, by their first lines."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    for name in arguments:
        path = recipe_of(name)
        if path is None:
            msg = f"there is no recipe {name!r}; send recipes lists them."
            raise ValueError(msg)
        print(path)
    if not arguments:
        print(f"In {RECIPES}:")
        for path in all_recipes():
            name = path.relative_to(RECIPES).with_suffix("").as_posix()
            print(f"  {name:18} {path.read_text().splitlines()[0].removeprefix('# ')}")


def _train(arguments: list[str]) -> None:
    from accelerate import PartialState

    from send.data.load_texts import load_texts
    from send.training.config import SendConfig
    from send.training.train import train

    options, config = parsed("train", [TrainOptions, SendConfig], arguments)
    load = partial(load_texts, subset=options.subset, column=options.column)
    result = train(
        options.model,
        load(options.data, limit=options.limit),
        tracking_dataset=None if options.tracking_data is None else load(options.tracking_data),
        prompt_dataset=options.prompt_data,
        eval_dataset=None if options.eval_data is None else load(options.eval_data),
        teacher=options.teacher,
        config=config,
        resume_from_checkpoint=options.resume or None,
    )
    result.save(config.output_dir)
    if not _rank():
        _draw(result, Path(config.output_dir) / "send_run.png")
        if result.evaluation is not None:
            print(result.evaluation)
        print(f"{len(result.history)} checkpoints; the model is in {config.output_dir}/")
    PartialState().destroy_process_group()


def _draw(result: SendResult, path: Path) -> None:
    """Write the picture of a training, where matplotlib is installed."""
    if find_spec("matplotlib") is not None:
        from matplotlib import pyplot as plt

        figure = result.plot()
        figure.savefig(path)
        plt.close(figure)
