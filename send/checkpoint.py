"""What SenD must remember across a restart, as one safetensors file in each checkpoint folder.

Arrays as tensors, the rest as JSON in the file's metadata. The file is written after everything
else in the folder, and all at once: a folder that has one is a complete checkpoint.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

__all__ = [
    "SendState",
    "find_checkpoint",
    "last_checkpoint",
    "load_renamed_weights",
    "read_state",
    "write_state",
]

Row: TypeAlias = dict[str, Any]
"""What was measured at one checkpoint: see `send.protocol.SensitivityDropout`."""

STATE_FILE = "send_state.safetensors"


@dataclass(frozen=True, eq=False, kw_only=True)
class SendState:
    """The state of Sensitivity Dropout after an optimizer step.

    Attributes
    ----------
    step : int
        Number of optimizer steps done.
    embeddings : ndarray of float32, shape (at most C + 1, inputs, d)
        Those of the tracking set at the last checkpoints.
    history : list of dict
        One row a checkpoint; the last one names the indices that are dropped now.
    identity : dict
        What the embeddings belong to: a state is of use only where all of it is the same.
    """

    step: int
    embeddings: np.ndarray[Any, Any]
    history: list[Row]
    identity: dict[str, Any]


def write_state(state: SendState, folder: Path) -> None:
    """Write a state into a checkpoint folder, so that it is there as a whole or not at all.

    Parameters
    ----------
    state : SendState
        What to write.
    folder : Path
        An existing checkpoint folder.
    """
    plain = {"step": state.step, "history": state.history, "identity": state.identity}
    content = save({"embeddings": state.embeddings}, metadata={"send": json.dumps(plain)})
    unfinished = folder / f"{STATE_FILE}.{os.getpid()}"
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / STATE_FILE)


def read_state(folder: Path) -> SendState:
    """Return the state that was written into a checkpoint folder.

    Parameters
    ----------
    folder : Path
        A checkpoint folder.

    Returns
    -------
    SendState

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If the file is broken.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        msg = f"there is no {STATE_FILE} in {folder}."
        raise FileNotFoundError(msg)
    try:
        with safe_open(file, framework="np") as content:
            plain = json.loads(content.metadata()["send"])
            embeddings = content.get_tensor("embeddings")
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        msg = f"{file} is broken ({error}); resume from another checkpoint."
        raise ValueError(msg) from error
    return SendState(embeddings=embeddings, **plain)


def find_checkpoint(folders: Iterable[str | Path], step: int) -> Path:
    """Return the first of some folders that has the state of an optimizer step.

    Parameters
    ----------
    folders : iterable of str or Path
        Where to look.
    step : int
        The step from which a training resumes.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If none has it, or a file is broken.
    """
    looked = [Path(folder) for folder in folders]
    for folder in looked:
        if (folder / STATE_FILE).is_file() and read_state(folder).step == step:
            return folder
    msg = (
        f"the training resumes at step {step}, but there is no {STATE_FILE} of that step in "
        f"{' or '.join(map(str, looked))}. Pass resume_from=<the checkpoint folder> to "
        "SendCallback, or begin a new training, without resume_from_checkpoint."
    )
    raise ValueError(msg)


def load_renamed_weights(model: nn.Module, folder: Path) -> None:
    """Load those weights of a checkpoint that `Trainer` has passed over, because of their names.

    Transformers saves some architectures under older names than it has in memory (GPT-NeoX its
    ``lm_head`` as ``embed_out``). Only ``from_pretrained`` knows of it: `Trainer` loads by name,
    to resume as well as to end with the best model, and leaves such a weight, with a line in the
    log, as it is.

    Parameters
    ----------
    model : nn.Module
        The model of a `Trainer`. One inside a wrapper, or divided among processes, is loaded by
        other ways.
    folder : Path
        The checkpoint folder that the trainer has loaded.
    """
    saved: set[str] = set()
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            saved.update(weights.keys())
    if (
        isinstance(model, PreTrainedModel)
        and not _is_divided(model)
        and not saved <= model.state_dict().keys()
    ):
        model.load_state_dict(type(model).from_pretrained(folder, dtype="auto").state_dict())


def _is_divided(model: nn.Module) -> bool:
    """Tell whether each process holds a share of the weights only (FSDP2, DeepSpeed's ZeRO-3)."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


def last_checkpoint(folder: str | Path) -> Path | None:
    """Return the latest complete checkpoint among those of a training, if there is any.

    Unlike Transformers' own search, this passes over a folder that a killed process left half
    written.

    Parameters
    ----------
    folder : str or Path
        The output folder of the training, with ``checkpoint-100`` and so on.

    Returns
    -------
    Path or None
    """
    steps = {
        int(match[1]): file.parent
        for file in Path(folder).glob(f"checkpoint-*/{STATE_FILE}")
        if (match := re.fullmatch(r"checkpoint-(\d+)", file.parent.name))
    }
    return steps[max(steps)] if steps else None
