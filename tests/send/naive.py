"""Literal textbook twins: one sequence at a time, no padding, no cache, no hook."""

import math

import torch


def hidden_states(model, ids, layer):
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    return out.hidden_states[layer][0]


def pooled(states, pooling="mean+last"):
    """Definition 3.1, token by token."""
    mean = sum(states) / len(states)
    last = states[-1]
    return {"mean+last": 0.5 * (mean + last), "mean": mean, "last": last}[pooling]


def sentence_embedding(model, ids, layer=-2, pooling="mean+last"):
    return pooled(hidden_states(model, ids, layer), pooling)


def answer_embedding(model, prompt, answer, layer=-2, pooling="mean+last"):
    """The tokens of the answer alone are pooled; an empty one has the last of the prompt."""
    states = hidden_states(model, prompt + answer, layer)
    return pooled(states[len(prompt) :] if answer else states[-1:], pooling)


def next_log_probs(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1].double().log_softmax(-1)


def mean_nll(model, prompt, answer):
    """Teacher forcing: each token from the text before it, without temperature."""
    total = 0.0
    for i, token in enumerate(answer):
        total -= float(next_log_probs(model, prompt + answer[:i])[token])
    return total / len(answer)


def mean_entropy(model, prompt, answer):
    """Shannon's formula at each token of the answer."""
    total = 0.0
    for i in range(len(answer)):
        log_p = next_log_probs(model, prompt + answer[:i])
        total -= float((log_p.exp() * log_p).sum())
    return total / len(answer)


def greedy(model, prompt, max_new_tokens, ends):
    """Return the most likely tokens, and whether they end: the end token is left out."""
    answer = []
    while len(answer) < max_new_tokens:
        token = int(next_log_probs(model, prompt + answer).argmax())
        if token in ends:
            return answer, True
        answer.append(token)
    return answer, False


def eigenscore(e, alpha=1e-3):
    """The determinant itself, with the centring matrix formed."""
    e = e.double()
    d, k = e.shape
    centring = torch.eye(d, dtype=e.dtype) - torch.ones(d, d, dtype=e.dtype) / d
    gram = e.T @ centring @ e + alpha * torch.eye(k, dtype=e.dtype)
    return float(torch.logdet(gram)) / k


def perplexity(model, prompt, answer):
    return math.exp(mean_nll(model, prompt, answer))
