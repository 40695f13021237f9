"""ROUGE-L of an answer and its reference: ``F = 2 L / (m + n)``, L their longest common words."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["rouge_l"]

WORD = re.compile(r"[^\W_]+")


def rouge_l(reference: str, answer: str) -> float:
    """Return the ROUGE-L F1 of an answer: how much of it, in order, is in the reference.

    Parameters
    ----------
    reference, answer : str
        Words are runs of letters and digits, in lower case; there is no stemming.

    Returns
    -------
    float
        From 0 to 1: the harmonic mean of recall L/m and precision L/n, where the texts have m and n
        words and a longest common subsequence of L words, gaps allowed; 0 without any word.

    Notes
    -----
    On ASCII text the value of the package ``rouge-score`` (``rougeL``, its defaults), which takes
    every other letter for a space. Where a language writes none between words, a word here is a
    whole phrase. It sees words, not truth: an answer with the one wrong year scores high.

    References
    ----------
    Lin, ROUGE: a package for automatic evaluation of summaries, ACL 2004 workshop, section 3.

    Examples
    --------
    >>> rouge_l("police killed the gunman", "The gunman kill police.")
    0.5
    """
    expected, given = WORD.findall(reference.lower()), WORD.findall(answer.lower())
    if not expected or not given:
        return 0.0
    return 2 * _common(expected, given) / (len(expected) + len(given))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence; bit i of each integer is for a[i]."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    # A zero bit where the table of the textbook grows by one: Hyyrö, AWOCA 2004.
    row = full = (1 << len(a)) - 1
    for word in b:
        match = row & places.get(word, 0)
        row = (row + match | row - match) & full
    return len(a) - row.bit_count()
