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


def kd_loss(teacher, student, temperature=1.0):
    """Hinton's definition of one token, term by term, less the entropy of the teacher."""
    p, q = ([math.exp(x / temperature) for x in logits] for logits in (teacher, student))
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    cross_entropy = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    entropy = -sum(a * math.log(a) for a in p)
    return temperature**2 * (cross_entropy - entropy)


def distilled_loss(student, teacher, rows, *, weight, convex=False, temperature=1.0):
    """The mean over all response tokens of rows of (input_ids, labels), one row at a time."""
    losses, divergences = [], []
    for ids, labels in rows:
        s, t = (
            model(torch.tensor([ids]), use_cache=False).logits[0] for model in (student, teacher)
        )
        for i, label in enumerate(labels[1:]):
            if label != -100:
                losses.append(-math.log(softmax(s[i].tolist())[label]))
                divergences.append(kd_loss(t[i].tolist(), s[i].tolist(), temperature))
    sft, kd = sum(losses) / len(losses), sum(divergences) / len(losses)
    return ((1 - weight) * sft if convex else sft) + weight * kd


def softmax(logits):
    top = [math.exp(x) for x in logits]
    return [x / sum(top) for x in top]
