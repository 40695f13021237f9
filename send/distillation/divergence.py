"""The Kullback-Leibler divergence of a student from its teacher, at a temperature.

``tau^2 KL(p || q)`` with ``p = softmax(teacher / tau)``, ``q = softmax(student / tau)``, for each
token: from all logits, or from the k most probable tokens and one bucket that holds all others.
"""

from __future__ import annotations

import torch

__all__ = ["bucketed_kl", "forward_kl", "top_k"]


def forward_kl(
    teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    r"""Return :math:`\tau^2 \, \mathrm{KL}(p_T \| p_S)` of each pair of next-token distributions.

    Parameters
    ----------
    teacher, student : Tensor, shape (..., V)
        Logits, of any precision; computed in float32, or in float64 if that is what they are.
    temperature : float
        tau, above 0, by which both are divided. The factor tau^2 keeps the gradient, which shrinks
        as 1/tau^2, comparable to that of the loss on labels.

    Returns
    -------
    Tensor, shape (...,)
        At least 0, up to rounding; 0 where the distributions are equal.

    Notes
    -----
    The cross-entropy of teacher and student is this plus ``tau^2 H(p_T)``, which the student does
    not enter: both have the same gradient.

    References
    ----------
    Hinton, Vinyals, Dean (arXiv:1503.02531), section 2; Kim and Rush (arXiv:1606.07947), eq. 5.

    Examples
    --------
    >>> teacher, student = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> forward_kl(teacher, student)
    tensor(0.1201)
    >>> forward_kl(teacher, teacher + 3.0)
    tensor(0.)
    """
    return temperature**2 * _relative_entropy(
        _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    )


def top_k(
    teacher: torch.Tensor, k: int, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k most probable tokens and the log-probabilities of them and of all others.

    Parameters
    ----------
    teacher : Tensor, shape (..., V)
        Logits.
    k : int
        From 1; all V tokens if that is less.
    temperature : float
        As for `forward_kl`.

    Returns
    -------
    indices : Tensor of int32, shape (..., k)
    log_probs : Tensor, shape (..., k + 1)
        The last is the logarithm of the mass of all other tokens; it is left out where there are no
        others, and the shape then is (..., V).

    Examples
    --------
    >>> indices, log_probs = top_k(torch.tensor([1.0, 3.0, 2.0]), 1)
    >>> indices, log_probs.exp()
    (tensor([1], dtype=torch.int32), tensor([0.6652, 0.3348]))
    """
    log_p = _log_softmax(teacher, temperature)
    top, indices = log_p.topk(min(k, log_p.shape[-1]))
    return indices.int(), _with_rest(log_p, indices, top)


def bucketed_kl(
    indices: torch.Tensor, log_probs: torch.Tensor, student: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return `forward_kl` over the buckets of `top_k`: k tokens, and all others as one.

    Parameters
    ----------
    indices : Tensor of integers, shape (..., k)
        The tokens that have a bucket of their own.
    log_probs : Tensor, shape (..., k + 1) or (..., V)
        Of the teacher at this temperature. What rounding took is given back to all in proportion.
    student : Tensor, shape (..., V)
        Logits.
    temperature : float
        As for `forward_kl`.

    Returns
    -------
    Tensor, shape (...,)
        Never above `forward_kl`, since putting tokens together cannot increase a divergence (the
        data-processing inequality); equal to it when k = V, or where within the last bucket both
        distributions are in proportion.

    Examples
    --------
    >>> teacher, student = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([4.0, 1.0, 2.0, 3.0])
    >>> [round(float(bucketed_kl(*top_k(teacher, k), student)), 3) for k in (1, 2, 3, 4)]
    [0.0, 0.355, 0.41, 0.41]
    >>> round(float(forward_kl(teacher, student)), 3)
    0.41
    """
    indices = indices.long()
    log_q = _log_softmax(student, temperature)
    top = log_q.gather(-1, indices)
    return temperature**2 * _relative_entropy(
        _log_softmax(log_probs), _with_rest(log_q, indices, top)
    )


def _log_softmax(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    exact = torch.promote_types(logits.dtype, torch.float32)
    return (logits.to(exact) / temperature).log_softmax(-1)


def _with_rest(log_p: torch.Tensor, indices: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Append the log of the mass outside the indices, if there is any token outside."""
    if indices.shape[-1] == log_p.shape[-1]:
        return top
    rest = log_p.scatter(-1, indices, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([top, rest], dim=-1)


def _relative_entropy(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill(p == 0, 0)).sum(-1)  # 0 log 0 = 0
