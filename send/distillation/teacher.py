"""A teacher: a frozen model whose next-token distributions others learn from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from send.models.embeddings import device_of
from send.models.tokenized_rows import IGNORED

__all__ = ["Teacher", "logits_of", "response_mask"]


def logits_of(model: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """Return the logits of last hidden states, by the output layer and what some models add.

    The same as in TRL's fused output layer, which never builds the logits that this needs.
    """
    config = model.config.get_text_config()
    head: Any = model.get_output_embeddings()
    # FSDP counts the calls of a module that it has divided, of which processes may make different
    # numbers; its weights are here since the last norm, with which it shares them.
    divided = isinstance(head, FSDPModule)
    logits: torch.Tensor = head.forward(states) if divided else head(states)
    scales = ("logit_scale", "output_multiplier", "lm_head_multiplier")
    known = (getattr(config, name, None) for name in scales)
    scale = next((value for value in known if value is not None), None)
    scaling = getattr(config, "logits_scaling", None)
    if scale is None and scaling is not None:
        scale = scaling if config.model_type == "hyperclovax" else 1 / scaling
    if scale is not None:
        logits = logits * scale
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def response_mask(labels: torch.Tensor) -> torch.Tensor:
    """Return whether a labelled token is predicted, at all positions but the last."""
    return labels[:, 1:] != IGNORED


class Teacher:
    """A frozen model in evaluation mode, which no trainer, optimizer or wrapper knows of.

    Parameters
    ----------
    model : PreTrainedModel, str or Path
        A causal language model, or where it is: a folder or a name on the hub, which is not loaded
        before it is needed.
    device : torch.device, optional
        Where it is put; a model that is spread over devices stays where it is.
    dtype : str
        Of the weights, if they are loaded: "auto" for that of the file, or such as "bfloat16".
    device_map : str, optional
        For loading: "auto" spreads it over all devices that the process sees.
    trust_remote_code : bool
        Whether to run code that comes with the model.

    Raises
    ------
    ValueError
        If there is no such precision.
    """

    def __init__(
        self,
        model: PreTrainedModel | str | Path,
        *,
        device: torch.device | None = None,
        dtype: str = "auto",
        device_map: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
            msg = f"kd_teacher_dtype is {dtype!r}; expected 'auto', or such as 'bfloat16'."
            raise ValueError(msg)
        self.source = model
        self.device = device
        self.dtype = dtype
        self.device_map = device_map
        self.trust_remote_code = trust_remote_code
        self._model: PreTrainedModel | None = None
        self._home: torch.device | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The model, loaded when it is first asked for."""
        if self._model is None:
            self._model = self._loaded()
        return self._model

    def _loaded(self) -> PreTrainedModel:
        model: Any = self.source
        if not isinstance(model, nn.Module):
            model = AutoModelForCausalLM.from_pretrained(
                model,
                dtype=self.dtype,
                device_map=self.device_map,
                trust_remote_code=self.trust_remote_code,
            )
        if hasattr(model, "get_base_model"):  # PEFT: the adapter is in its layers
            model = model.get_base_model()
        model = model.eval().requires_grad_(False)
        self._home = device_of(model)
        # One that is spread over devices, or quantized, stays where it is.
        if not (getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False)):
            model = model.to(self.device)
        _check_logits(model)
        found: PreTrainedModel = model
        return found

    @cached_property
    def config(self) -> Any:
        """The configuration, for which no weight is loaded."""
        if isinstance(self.source, nn.Module):
            return self.source.config
        return AutoConfig.from_pretrained(self.source, trust_remote_code=self.trust_remote_code)

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.config.get_text_config().vocab_size)

    def check_apart(self, student: nn.Module) -> None:
        """Raise a ValueError if a student has weights of this teacher, which would freeze them."""
        if isinstance(self.source, nn.Module) and not set(self.source.parameters()).isdisjoint(
            student.parameters()
        ):
            msg = (
                "student and teacher share weights; expected a teacher that stays as it is: a copy "
                "of the student, or the folder or name that it came from."
            )
            raise ValueError(msg)

    def release(self) -> None:
        """Free the device of the model, until it is asked for again."""
        if isinstance(self.source, nn.Module) and self._home is not None:
            self.source.to(self._home)
        self._model = None

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise a ValueError unless a token of the student means the same to the teacher.

        Of a model that is passed as such only the number of tokens can be compared.
        """
        ours = tokenizer.get_vocab()
        if not isinstance(self.source, nn.Module):
            theirs = self._tokenizer().get_vocab()
            other = [token for token, i in ours.items() if theirs.get(token) != i]
            if other:
                msg = (
                    f"{len(other)} of the student's {len(ours)} tokens, such as {other[0]!r}, have "
                    "another number in the teacher's tokenizer, or none; expected a teacher with "
                    "the same tokenizer."
                )
                raise ValueError(msg)
        if self.vocabulary <= max(ours.values()):
            msg = (
                f"the teacher knows {self.vocabulary} tokens, but those of the student go up to "
                f"{max(ours.values())}; expected a teacher with the same tokenizer."
            )
            raise ValueError(msg)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        try:
            found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.source, trust_remote_code=self.trust_remote_code
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            msg = (
                f"there is no tokenizer in the teacher {self.source} ({reason}); expected a folder "
                "or a name on the hub that holds a model and its tokenizer."
            )
            raise ValueError(msg) from error
        return found

    def identity(self) -> dict[str, Any]:
        """Return what tells this teacher from others, without loading it.

        Of a model: its configuration and numbers from all over its weights. Of a folder: numbers
        from all over its files of weights. Of a name on the hub: the revision.
        """
        # Where it was loaded from, and by which version, is no property of a model.
        config = {k: v for k, v in self.config.to_dict().items() if "version" not in k}
        config.pop("_name_or_path", None)
        seen = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        if isinstance(self.source, nn.Module):
            for name, value in sorted(self.source.state_dict().items()):
                seen.update(name.encode())
                seen.update(_sample(value))
        elif Path(self.source).is_dir():
            files = Path(self.source).iterdir()
            for file in sorted(f for f in files if f.suffix in {".safetensors", ".bin"}):
                seen.update(_sample(torch.from_numpy(np.memmap(file, np.uint8, "c"))))
        else:
            seen.update(f"{self.source}@{getattr(self.config, '_commit_hash', None)}".encode())
        return {"dtype": self.dtype, "digest": seen.hexdigest()}

    @torch.no_grad()
    def states(self, inputs: Mapping[str, Any], mask: torch.Tensor) -> torch.Tensor:
        """Return its last hidden states where a response token is predicted, shape (count, d)."""
        here = device_of(self.model)
        inputs = {
            name: value.to(here) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
            if name != "labels"
        }
        with torch.autocast(mask.device.type, enabled=False):
            output = self.model.base_model(**{**inputs, "use_cache": False})
        states: torch.Tensor = output.last_hidden_state
        return states[:, :-1][mask.to(states.device)]

    @torch.no_grad()
    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of some of its states, in its own precision."""
        with torch.autocast(states.device.type, enabled=False):
            return logits_of(self.model, states)


def _sample(values: torch.Tensor, count: int = 4096) -> bytes:
    """Return the shape and some of the values, evenly spaced."""
    flat = values.detach().reshape(-1)
    some = flat[:: max(1, flat.numel() // count)].cpu().contiguous()
    return (
        str((tuple(values.shape), values.dtype)).encode() + some.view(torch.uint8).numpy().tobytes()
    )


@torch.no_grad()
def _check_logits(model: PreTrainedModel) -> None:
    """Refuse a model that makes logits in a way of its own."""
    ids = torch.tensor([[0, 1]], device=device_of(model))
    expected = model(input_ids=ids, use_cache=False).logits.float()
    found = logits_of(model, model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    if found.shape != expected.shape or not torch.allclose(
        found.float(), expected, rtol=1e-2, atol=1e-2
    ):
        msg = (
            f"the logits of {type(model).__name__} are not those of its output embeddings; "
            "expected a decoder-only language model of Transformers."
        )
        raise ValueError(msg)
