"""What each command takes, as dataclasses; read from flags, and below them from a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "RECIPES",
    "DemoOptions",
    "EvaluateOptions",
    "ScoreOptions",
    "TrainOptions",
    "all_recipes",
    "parsed",
    "recipe_of",
]

RECIPES = Path(__file__).parent / "recipes"


@dataclass
class DemoOptions:
    """What `send demo` takes."""

    output_dir: str = field(default="out", metadata={"help": "Folder for pictures and models."})
    seed: int = field(default=0, metadata={"help": "Of everything."})
    text: str | None = field(default=None, metadata={"help": "A file of texts: SenD on them."})
    limit: int = field(default=400, metadata={"help": "With --text: how many of them."})


@dataclass(kw_only=True)
class AnswerOptions:
    """A model and how it answers."""

    model: str = field(metadata={"help": "A folder, or a name on the hub."})
    num_samples: int = field(default=10, metadata={"help": "Answers sampled to a prompt (K)."})
    temperature: float = field(default=0.5, metadata={"help": "Of sampling."})
    top_k: int = field(default=5, metadata={"help": "Of sampling; 0: all tokens."})
    top_p: float = field(default=0.99, metadata={"help": "Of sampling."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest answer."})
    layer: int = field(default=-2, metadata={"help": "Index into hidden_states."})
    alpha: float = field(default=1e-3, metadata={"help": "Regularisation of the EigenScore."})
    batch_size: int | None = field(default=None, metadata={"help": "Answers generated at once."})
    device: str | None = field(default=None, metadata={"help": "For example cuda."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model."}
    )


@dataclass(kw_only=True)
class ScoreOptions(AnswerOptions):
    """What `send score` takes."""

    prompts: list[str] = field(default_factory=list, metadata={"help": "Prompts, one an argument."})
    data: str | None = field(
        default=None, metadata={"help": "A file: see send.load_prompts; or .txt, one a line."}
    )
    limit: int | None = field(default=None, metadata={"help": "Use the first so many prompts."})
    output: str | None = field(default=None, metadata={"help": "Write .json or .csv; else print."})
    seed: int = field(default=0, metadata={"help": "Of the sampled answers."})


@dataclass(kw_only=True)
class EvaluateOptions(AnswerOptions):
    """What `send evaluate` takes."""

    data: str = field(metadata={"help": "A file of prompts, with references: see send.evaluate."})
    output: str | None = field(
        default=None, metadata={"help": "Write a row for each prompt: .json or .csv."}
    )
    max_prompts: int | None = field(
        default=None, metadata={"help": "Evaluate at most so many rows, drawn at random."}
    )
    level: float = field(default=0.95, metadata={"help": "Coverage of the intervals."})
    seed: int = field(default=0, metadata={"help": "Of the prompts and the sampled answers."})


@dataclass
class TrainOptions:
    """What `send train` takes besides all fields of `SendConfig`."""

    model: str = field(metadata={"help": "A folder, or a name on the hub."})
    data: str = field(metadata={"help": "A file, folder or hub name: see send.load_texts."})
    tracking_data: str | None = field(
        default=None, metadata={"help": "Rows to track sensitivity on, not trained on."}
    )
    prompt_data: str | None = field(
        default=None, metadata={"help": "Prompts, with references or without, to answer meanwhile."}
    )
    eval_data: str | None = field(
        default=None, metadata={"help": "Rows to evaluate on, as --eval_strategy says."}
    )
    teacher: str | None = field(
        default=None, metadata={"help": "A model to distil from; see --lambda_kd and --kd_*."}
    )
    subset: str | None = field(
        default=None, metadata={"help": "Which configuration of a data set on the hub."}
    )
    column: str | None = field(
        default=None, metadata={"help": "A column to read as text, of all but --prompt_data."}
    )
    limit: int | None = field(default=None, metadata={"help": "Use the first so many rows."})
    resume: bool = field(default=False, metadata={"help": "From the last complete checkpoint."})


def parsed(command: str, kinds: Sequence[type], arguments: list[str]) -> tuple[Any, ...]:
    """Return options from flags and, below them, from a YAML file given by --config."""
    from trl import TrlParser

    def refuse(message: str) -> None:
        msg = f"{message}; send {command} --help lists the options."
        raise ValueError(msg)

    if "--config" in arguments:
        after = arguments.index("--config") + 1
        recipe = recipe_of(arguments[after]) if arguments[after:] else None
        if recipe is not None and not Path(arguments[after]).exists():
            arguments = [*arguments[:after], str(recipe), *arguments[after + 1 :]]
        _check_config(arguments[after:])
    parser = TrlParser(kinds, prog=f"send {command}", allow_abbrev=False)
    parser.error = refuse  # argparse would print the whole usage
    *options, unknown = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    if unknown:
        # Without the values, one of which may be a token.
        names = [text.split("=")[0] for text in unknown if text.startswith("-")]
        refuse(f"unknown options: {' '.join(names) or 'values without a name'}")
    return tuple(options)


def _check_config(following: list[str]) -> None:
    """Refuse a file of settings that is not there, or does not hold settings."""
    import yaml

    if not following or not Path(following[0]).is_file():
        msg = (
            f"--config is followed by {(following or ['nothing'])[0]}; expected a YAML "
            "file, or a name that `send recipes` lists."
        )
        raise ValueError(msg)
    try:
        settings = yaml.safe_load(Path(following[0]).read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # What PyYAML says besides quotes the line, which may hold a token.
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        reason = getattr(error, "problem", None) or type(error).__name__
        msg = f"{following[0]} is not YAML{place}: {reason}"
        raise ValueError(msg) from error
    if not isinstance(settings, dict):
        msg = f"{following[0]} holds no settings; expected lines such as 'seed: 1'."
        raise ValueError(msg)


def recipe_of(name: str) -> Path | None:
    """Return the file of a recipe, named as `send recipes` names it."""
    known = {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in all_recipes()}
    return known.get(name.removesuffix(".yaml"))


def all_recipes() -> list[Path]:
    """Return the files of all recipes: of `send train`, and then of `accelerate launch`."""
    return sorted(RECIPES.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
