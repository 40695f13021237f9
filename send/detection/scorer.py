"""Hallucination scores of prompts: how much the answers that a model samples to each differ."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from send.detection.score_table import Numbers, ScoreTable
from send.models.answers import (
    Answers,
    Prompt,
    Samples,
    greedy_answers,
    prompt_text,
    sample_answers,
)
from send.models.embeddings import check_pooling
from send.models.generation_options import SamplingOptions
from send.models.hidden_states import PENULTIMATE, block_at
from send.scores.ees import check_effort, ees
from send.scores.eigenscore import check_alpha, eigenscore
from specdens import AccuracyWarning
from specdens.arrays.libraries import to_host

__all__ = ["HallucinationScorer", "ScoreTable"]


class HallucinationScorer:
    """Scores prompts by how much the answers that a model samples to each of them differ.

    What the scores can tell, and what not:

    - On short answers EigenScore is close to a function of the number of distinct answers, the
      column ``distinct``: compare with it before you credit the embeddings.
    - A confident hallucination is invisible to any score of consistency: a model that is wrong in
      the same way each time scores as low as one that knows.
    - The perplexity of the greedy answer needs no samples: compare with it too.
    - Longer answers differ more: look at ``mean_length`` too. Compare prompts, not the mean over
      mixed prompts, which says nothing about how often a model is wrong.

    Parameters
    ----------
    model : PreTrainedModel
        A decoder-only language model of Transformers, also inside a PEFT wrapper.
    processing_class : PreTrainedTokenizerBase
        Its tokenizer.
    layer : int
        Index into Transformers' ``hidden_states`` of the layer that embeds the answers; -2 is the
        output of the last block but one.
    pooling : {"mean+last", "mean", "last"}
        As for `send.models.embeddings.pool`.

    Raises
    ------
    ValueError
        If the model has no such layer, or the pooling does not exist.

    References
    ----------
    Chen et al., INSIDE, ICLR 2024 (arXiv:2402.03744); SenD (arXiv:2410.15460).

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"<eos>": 0, "where": 1, "here": 2}, unk_token="<eos>"))
    >>> words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    >>> config = GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=3, eos_token_id=0)
    >>> scorer = HallucinationScorer(GPT2LMHeadModel(config), tokenizer)
    >>> table = scorer(["where", "here where"], num_samples=4, max_new_tokens=3)
    >>> len(table), len(table[0]["answers"])
    (2, 4)
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processing_class: PreTrainedTokenizerBase,
        *,
        layer: int = PENULTIMATE,
        pooling: str = "mean+last",
    ) -> None:
        block_at(model, layer)
        check_pooling(pooling)
        self.model = model
        self.processing_class = processing_class
        self.layer = layer
        self.pooling = pooling

    @classmethod
    def from_pretrained(
        cls,
        path_or_model: str | os.PathLike[str] | PreTrainedModel,
        *,
        processing_class: PreTrainedTokenizerBase | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        trust_remote_code: bool = False,
        layer: int = PENULTIMATE,
        pooling: str = "mean+last",
    ) -> HallucinationScorer:
        """Return a scorer of a model that is stored in a directory or on the hub, or at hand.

        Parameters
        ----------
        path_or_model : path, str or PreTrainedModel
            Directory or name of a model, or the model itself, which is then left as it is.
        processing_class : PreTrainedTokenizerBase, optional
            Its tokenizer, unless it is stored with the model.
        device : str or torch.device, optional
            Where to put a loaded model: unless given, on the accelerator if there is one.
        dtype : str or torch.dtype, optional
            Precision of a loaded model: unless given, as stored.
        trust_remote_code : bool
            Whether code that is stored with the model may run.
        layer, pooling
            As for the class.

        Returns
        -------
        HallucinationScorer

        Raises
        ------
        ValueError
            If a model at hand comes without tokenizer, or with a device or precision to load to;
            or there is no tokenizer with a stored one.
        """
        if not isinstance(path_or_model, str | os.PathLike):
            if processing_class is None or device is not None or dtype is not None:
                msg = (
                    f"got a model ({type(path_or_model).__name__}), not a path; expected its "
                    "tokenizer as processing_class=, and neither device= nor dtype=: move it first."
                )
                raise ValueError(msg)
            return cls(path_or_model, processing_class, layer=layer, pooling=pooling)
        model = AutoModelForCausalLM.from_pretrained(
            path_or_model, dtype=dtype or "auto", trust_remote_code=trust_remote_code
        )
        if processing_class is None:
            processing_class = _tokenizer_of(path_or_model, trust_remote_code)
        model = model.to(device or torch.accelerator.current_accelerator() or "cpu")
        return cls(model, processing_class, layer=layer, pooling=pooling)

    def __call__(
        self,
        prompts: str | Iterable[Prompt],
        *,
        num_samples: int = 10,
        temperature: float = 0.5,
        top_k: int = 5,
        top_p: float = 0.99,
        max_new_tokens: int = 64,
        alpha: float = 1e-3,
        count_eos: bool = False,
        batch_size: int | None = None,
        seed: int = 0,
        moments: int = 20,
        probes: int = 20,
        progress: bool = False,
    ) -> ScoreTable:
        """Return the scores of prompts.

        Costs K sampled answers and one greedy answer a prompt.

        Parameters
        ----------
        prompts : str, or iterable of str or of chats
            A chat is a list of messages, rendered by the chat template of the tokenizer.
        num_samples, temperature, top_k, top_p, max_new_tokens, count_eos, batch_size, seed
            As for `send.models.generation_options.SamplingOptions`.
        alpha : float
            Regularisation of the scores, as for `send.eigenscore`.
        moments, probes : int
            Accuracy of ``ees``, as for `send.ees`.
        progress : bool
            Show bars.

        Returns
        -------
        ScoreTable
            One row for each prompt; reproducible from the seed.

        Raises
        ------
        TypeError
            If a prompt is neither a text nor a chat.
        ValueError
            If an option is out of range, a prompt is empty or too long for the model, or a chat is
            given to a tokenizer without a chat template.

        Warns
        -----
        specdens.AccuracyWarning
            At most once, if the error bars of some ``ees`` are not to be trusted.
        """
        asked: list[Prompt] = [prompts] if isinstance(prompts, str) else list(prompts)
        texts = [prompt_text(self.processing_class, prompt) for prompt in asked]
        check_alpha(alpha)  # before hours of generation
        check_effort(moments, probes)
        options = SamplingOptions(
            num_samples=num_samples,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            layer=self.layer,
            pooling=self.pooling,
            count_eos=count_eos,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        samples = sample_answers(self.model, self.processing_class, asked, options)
        greedy = greedy_answers(self.model, self.processing_class, asked, options)
        estimates = _estimated(
            samples.embeddings, moments=moments, probes=probes, alpha=alpha, seed=seed
        )
        return _table(texts, samples, greedy, estimates, alpha)


def _tokenizer_of(path: str | os.PathLike[str], trust_remote_code: bool) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    # From a folder without one Transformers makes a tokenizer that knows no word.
    if not tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys():
        msg = (
            f"there is no tokenizer in {path}; save it there with tokenizer.save_pretrained, or "
            "pass it as processing_class=."
        )
        raise ValueError(msg)
    return tokenizer


def _estimated(
    embeddings: torch.Tensor, *, moments: int, probes: int, alpha: float, seed: int
) -> Numbers:
    """Return the EES of each prompt, with at most one warning for all of them.

    The probes are the same for each prompt, so that its score does not depend on the others.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AccuracyWarning)
        scores = ees(embeddings, moments=moments, probes=probes, alpha=alpha, rng=seed)
    _warn_once(caught, len(embeddings))
    return to_host(scores)


def _warn_once(caught: list[warnings.WarningMessage], total: int) -> None:
    doubts = 0
    for w in caught:
        if issubclass(w.category, AccuracyWarning):
            doubts += 1
        else:
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    if doubts:
        msg = (
            f"the column ees is not to be trusted for {doubts} of {total} prompts: truncation may "
            "cost more than the standard error. Raise moments= or probes=, or look at the column "
            "eigenscore, which is exact."
        )
        warnings.warn(msg, AccuracyWarning, stacklevel=4)


def _table(
    texts: list[str], samples: Samples, greedy: Answers, estimates: Numbers, alpha: float
) -> ScoreTable:
    return ScoreTable(
        prompt=texts,
        answers=samples.answers,
        eigenscore=to_host(eigenscore(samples.embeddings, alpha=alpha)),
        ees=estimates,
        distinct=np.asarray([len(set(answers)) for answers in samples.answers], dtype=np.int64),
        mean_nll=samples.mean_nll.double().mean(dim=1).numpy(),
        entropy=samples.mean_entropy.double().mean(dim=1).numpy(),
        greedy_answer=greedy.answers,
        greedy_perplexity=greedy.mean_nll.double().exp().numpy(),
        mean_length=samples.lengths.double().mean(dim=1).numpy(),
    )
