"""What SenD must remember across a restart, as one safetensors file in each checkpoint folder.

Arrays as tensors, the rest as JSON. The file is written after everything
else in the folder, all at once, and lists what it found there: a checkpoint is complete if it has
one and the files are still those.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints, sort_checkpoints

from send.checkpoints.manifest import Manifest, fault_of, flush, manifest, write_atomically

__all__ = [
    "Rotation",
    "SendState",
    "check_complete",
    "find_checkpoint",
    "last_checkpoint",
    "load_renamed_weights",
    "read_state",
    "saving",
    "write_state",
]

logger = logging.getLogger(__name__)

Row: TypeAlias = dict[str, Any]
"""What was measured at one checkpoint: see `SensitivityDropout`."""

STATE_FILE = "send_state.safetensors"
FORMAT = "1"


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
    """Write a state into a checkpoint folder, which is complete from then on.

    Parameters
    ----------
    state : SendState
        What to write.
    folder : Path
        A checkpoint folder in which everything else is written.

    Notes
    -----
    Everything in the folder is flushed to the disk first, so that not even a power failure leaves
    the file without the others; this costs the time that the disk needs for them.
    """
    flush(folder)
    plain = {"step": state.step, "history": state.history, "identity": state.identity}
    texts = {
        "format": FORMAT,
        "send": json.dumps(plain),
        "files": json.dumps(manifest(folder, without=STATE_FILE)),
    }
    digest = _digest(state.embeddings, texts)
    # A tensor, since readers refuse a header of more than 100 MB.
    tensors = {"embeddings": state.embeddings, "send": _bytes_of(texts.pop("send"))}
    content = save(tensors, metadata={**texts, "digest": digest})
    write_atomically(folder / STATE_FILE, content)


def _bytes_of(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(text.encode(), np.uint8)


def _digest(embeddings: np.ndarray[Any, Any], texts: dict[str, str]) -> str:
    parts = [embeddings.tobytes(), *(texts[name].encode() for name in ("format", "send", "files"))]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


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
        If the file is broken, or of another version of this package.
    """
    return _read(folder)[0]


def _read(folder: Path) -> tuple[SendState, Manifest]:
    file = folder / STATE_FILE
    if not file.is_file():
        msg = f"there is no {STATE_FILE} in {folder}."
        raise FileNotFoundError(msg)
    try:
        with safe_open(file, framework="np") as content:
            texts = content.metadata()
            embeddings = content.get_tensor("embeddings")
            texts["send"] = content.get_tensor("send").tobytes().decode(errors="replace")
        if texts["format"] != FORMAT:
            msg = (
                f"{file} has format {texts['format']}, but this version of send reads format "
                f"{FORMAT}; go on with the version that wrote it."
            )
            raise ValueError(msg)
        if texts["digest"] != _digest(embeddings, texts):
            msg = f"{file} is broken (its checksum differs); resume from another checkpoint."
            raise ValueError(msg)
        state = SendState(embeddings=embeddings, **json.loads(texts["send"]))
        return state, json.loads(texts["files"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        msg = f"{file} is broken ({error}); resume from another checkpoint."
        raise ValueError(msg) from error


def _fault(folder: Path) -> str | None:
    """Return why a folder is not a complete checkpoint, None if it is one."""
    if not folder.is_dir():
        return "there is no such folder"
    if not (folder / STATE_FILE).is_file():
        return f"it has no {STATE_FILE}, which is written last"
    try:
        return fault_of(folder, _read(folder)[1])
    except ValueError as error:
        return str(error).rstrip(".")


def check_complete(folder: str | Path) -> None:
    """Refuse to resume from a folder that is not a complete checkpoint.

    Parameters
    ----------
    folder : str or Path
        The checkpoint folder.

    Raises
    ------
    ValueError
        If a file is missing, cut off, or not the one that was saved with the others.
    """
    folder = Path(folder)
    fault = _fault(folder)
    if fault is not None:
        msg = f"{folder} cannot be resumed from: {fault}. {_advice(folder.parent)}"
        raise ValueError(msg)


def _advice(folder: Path) -> str:
    last = last_checkpoint(folder)
    if last is None:
        return f"There is no complete checkpoint in {folder}; begin again."
    return (
        f"The last complete checkpoint is {last}: resume from that with "
        "resume_from_checkpoint=True, or send train --resume."
    )


@contextlib.contextmanager
def saving(what: str, folder: str | Path) -> Iterator[None]:
    """Say, of a save that fails, which checkpoint is the last complete one, and how to go on.

    Parameters
    ----------
    what : str
        What is written, as ``checkpoint-100``.
    folder : str or Path
        Where, beside the checkpoints.

    Raises
    ------
    OSError
        In the place of the various errors of the libraries that write.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        # PyTorch says of a disk that is full only at which position it noticed.
        by_torch = "inline_container" in reason or "iostream" in reason
        if isinstance(error, RuntimeError) and not by_torch:
            raise
        reason = "PyTorch could not write all of a file" if by_torch else reason
        msg = (
            f"{what} could not be written into {folder}: {reason}. Is the disk full? "
            f"{_advice(Path(folder))}"
        )
        raise OSError(msg) from error


class Rotation:
    """Deletes old checkpoints in the place of `Trainer`, once the new one is complete.

    `Trainer` deletes when its own files are written, before callbacks hear of the checkpoint: of a
    process killed just then, with one checkpoint to keep, nothing would be left to resume from.

    Parameters
    ----------
    args : TrainingArguments
        Its ``save_total_limit`` is None until `give_back`.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self.args = args
        self.limit = args.save_total_limit
        args.save_total_limit = None

    def keep(self, folder: Path, best: str | None) -> None:
        """Delete the oldest checkpoints beside a complete one that are above the limit.

        Parameters
        ----------
        folder : Path
            The new checkpoint.
        best : str, optional
            The checkpoint of the best model, which is never deleted.
        """
        # A file system without times gives numbers instead, and a half-written folder of a later
        # step would count as the newest: then nothing is deleted.
        if sort_checkpoints(str(folder.parent), use_mtime=True)[-1] == str(folder):
            rotate_checkpoints(str(folder.parent), self.limit, best, use_mtime=True)

    def give_back(self) -> None:
        """Leave deletion to `Trainer` again."""
        self.args.save_total_limit = self.limit


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
        If none has it, or a file in that folder is missing or broken.
    """
    looked = [Path(folder) for folder in folders]
    for folder in looked:
        if (folder / STATE_FILE).is_file() and read_state(folder).step == step:
            check_complete(folder)
            return folder
    msg = (
        f"the training resumes at step {step}, but there is no {STATE_FILE} of that step in "
        f"{' or '.join(map(str, looked))}. Pass resume_from=<the checkpoint folder> to "
        "SendCallback, or resume from a complete checkpoint, or begin a new training, without "
        "resume_from_checkpoint."
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

    Unlike Transformers' own search, this passes over a folder that a killed process or a full disk
    left half written, with a warning in the log that says what is wrong with it.

    Parameters
    ----------
    folder : str or Path
        The output folder of the training, with ``checkpoint-100`` and so on.

    Returns
    -------
    Path or None
    """
    steps = {
        int(match[1]): checkpoint
        for checkpoint in Path(folder).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)) and checkpoint.is_dir()
    }
    for _, checkpoint in sorted(steps.items(), reverse=True):
        fault = _fault(checkpoint)
        if fault is None:
            return checkpoint
        logger.warning("%s is passed over: %s", checkpoint, fault)
    return None
