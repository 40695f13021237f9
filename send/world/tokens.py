"""The language of a world: a tokenizer of its words, and a model small enough to learn them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

__all__ = ["small_model", "subword_tokenizer", "word_tokenizer"]

_PAD, _EOS, _UNK = "<pad>", "<eos>", "<unk>"


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are the words of the texts, full stops and question marks.

    A word carries the space before it, also at the start of a text: it is the same token
    everywhere, a prompt is split alike with and without its completion, and decoding gives the text
    back.

    Parameters
    ----------
    texts : iterable of str
        One space between words.

    Returns
    -------
    PreTrainedTokenizerFast
        With pad, eos and unk tokens; ids by falling frequency.

    Examples
    --------
    >>> tokenizer = word_tokenizer(["Where was Mira born? Answer: Tarnow."])
    >>> ids = tokenizer("Where was Mira born? Answer:")["input_ids"]
    >>> len(ids)
    6
    >>> tokenizer.decode(ids)
    'Where was Mira born? Answer:'
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=_UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(prepend_scheme="always"),
        pre_tokenizers.Split(Regex("[.?]"), behavior="isolated"),
    ])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.WordLevelTrainer(special_tokens=[_PAD, _EOS, _UNK], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_EOS, unk_token=_UNK
    )


def subword_tokenizer(texts: Iterable[str], *, size: int = 2000) -> PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer of real text: every string can be encoded and decoded.

    Parameters
    ----------
    texts : iterable of str
    size : int
        Tokens in the vocabulary, at most.

    Returns
    -------
    PreTrainedTokenizerFast
        With pad and eos tokens.

    Examples
    --------
    >>> tokenizer = subword_tokenizer(["the cat sat on the mat"], size=300)
    >>> tokenizer.decode(tokenizer("a déjà vu")["input_ids"])
    'a déjà vu'
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[_PAD, _EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_EOS)


def small_model(
    tokenizer: PreTrainedTokenizerBase,
    *,
    width: int = 96,
    blocks: int = 4,
    heads: int = 4,
    positions: int = 128,
    seed: int = 0,
) -> GPTNeoXForCausalLM:
    """Return an untrained GPT-NeoX that learns a world of some hundred people in minutes.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Gives the vocabulary and the pad and eos ids.
    width : int
        Hidden size, divisible by twice the heads.
    blocks : int
        Decoder blocks.
    heads : int
        Attention heads of each block.
    positions : int
        Longest text, in tokens.
    seed : int
        Of the weights. The caller's random state is left alone.

    Returns
    -------
    GPTNeoXForCausalLM
        Without dropout.

    Raises
    ------
    ValueError
        If the sizes do not fit each other.

    Notes
    -----
    Of ``World(people=200)`` the default model comes to know most facts, and to say "unknown"
    of strangers, in three epochs of `World.pretraining_rows`: 975 steps of AdamW with batches of 64
    and a learning rate that falls from 4e-3 by the cosine, minutes on one core. Eight
    epochs of `World.finetuning_rows` (batches of 32, constant rate 5e-4) then undo both by half.

    Examples
    --------
    >>> tokenizer = word_tokenizer(["Mira Voss was born in Tarnow."])
    >>> small_model(tokenizer, width=16, blocks=3).config.num_hidden_layers
    3
    """
    if min(width, blocks, heads) < 1 or width % (2 * heads):
        msg = (
            f"width {width}, blocks {blocks} and heads {heads} do not fit: all must be positive "
            "and the width divisible by twice the heads (rotary embeddings pair coordinates)."
        )
        raise ValueError(msg)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        # With the usual 0.02 the facts take more steps.
        initializer_range=width**-0.5,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(config)
