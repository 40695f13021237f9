"""Sentences of which each token stands apart by spaces, put together as one writes them."""

from __future__ import annotations

import re

__all__ = ["natural_spacing"]


def natural_spacing(tokens: str) -> str:
    r"""Return a sentence with its tokens put together as one writes them.

    Parameters
    ----------
    tokens : str
        Tokens with spaces in between, as in WikiText, where ``@-@`` is a hyphen inside a word.

    Returns
    -------
    str

    Examples
    --------
    >>> natural_spacing('Cuba \'s " long @-@ term " debt ( 1,234 @.@ 5 $ ) , it seems : high .')
    'Cuba\'s "long-term" debt (1,234.5 $), it seems: high.'
    """
    text = re.sub(r" @(\S+?)@ ", r"\1", tokens)
    text = re.sub(r'(?<!\S)" (.+?) "(?!\S)', r'"\1"', text)
    text = re.sub(r" ([,.;:!?%)\]]|'\w)", r"\1", text)
    text = re.sub(r"([(\[$£€#]) (?=[\w\"'])", r"\1", text)
    return re.sub(r"(?<=\w) / (?=\w)", "/", text)
