"""Hessian, Gauss-Newton and Fisher matrices of Torch models, as operators on their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from specdens.torch.batches import Loss, Model, as_batches, option_of
from specdens.torch.curvature import CurvatureOperator, Objective
from specdens.torch.graphs import Middle, curvature_of_loss, scatter_of_slopes

__all__ = ["CurvatureOperator", "fisher_operator", "gauss_newton_operator", "hessian_operator"]

LOG_LIKELIHOODS: dict[type, Callable[..., Tensor]] = {
    nn.CrossEntropyLoss: nn.functional.cross_entropy,
    nn.MSELoss: nn.functional.mse_loss,
    nn.BCEWithLogitsLoss: nn.functional.binary_cross_entropy_with_logits,
}
"""Losses that are minus the log of a density of the targets, in its natural parameters."""


def hessian_operator(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | None,
    data: Any,
    *,
    params: Iterable[str | Tensor] | None = None,
    reduction: str | None = None,
    terms: Callable[[Any, Any], Any] | None = None,
    graph_memory: float | None = None,
    check_deterministic: bool = True,
) -> CurvatureOperator:
    r"""Return the Hessian of a loss over data by the parameters of a model.

    Parameters
    ----------
    model : torch.nn.Module
        With parameters in single or double precision on one device. It is used in the mode that it
        is in: call ``model.eval()`` first where it has dropout or BatchNorm.
    loss : callable or None
        ``loss(outputs, targets)``, a scalar: a module such as ``torch.nn.CrossEntropyLoss()`` or a
        function. None if the model returns its own as ``.loss``, as those of Transformers do when
        they are given labels.
    data : DataLoader, iterable of batches, or one batch
        A batch is a pair (inputs, targets), or a mapping of arguments of the model, whose
        ``"labels"`` are the targets. Inputs go to the model as they are; a list or tuple as
        positional, a mapping as named arguments. Outputs with ``.logits`` stand for these. Batches
        are brought to the device of the parameters.
    params : iterable of str or Parameter, optional
        Names or members of ``model.parameters()``. Default: all that require a gradient.
    reduction : {"mean", "sum"}, optional
        Whether `loss` is a mean or a sum over its batch. Default: what it says itself; a function
        that does not say must be told, if there is more than one batch.
    terms : callable, optional
        ``terms(inputs, targets)``: the number of terms that the loss of a batch is the mean of.
        Default: the targets, of cross-entropy without those that are ignored and by their weights.
    graph_memory : float, optional
        Bytes for graphs and for products of blocks, half for each. Default: half of what is free.
    check_deterministic : bool
        Raise a ValueError if two passes over the data give different gradients, or if a BatchNorm
        is in training mode.

    Returns
    -------
    CurvatureOperator, shape (n, n)
        Hermitian; n is the number of parameters. The precision and device are theirs.

    Raises
    ------
    TypeError
        If arguments are of wrong kinds, or parameters neither single nor double precision.
    ValueError
        If there are no parameters or no data, parameters are on several devices or frozen, the
        reduction is unknown, or products are random.

    Notes
    -----
    The loss is one mean (or sum) over all data: batches count by their number of terms, so that
    the operator does not depend on how data are batched, nor on their order.

    A product with a vector costs about one gradient: the graph of the gradient is kept and
    differentiated again. That takes the memory that a gradient with ``create_graph=True`` saves,
    summed over batches, and is done if it is at most half of `graph_memory`. Otherwise the graph
    of one batch at a time is built, which a product with a block shares; a product with one vector
    then costs about two gradients. A block of vectors is multiplied, by `vmap` where it knows all
    operations, as many at a time as what the largest batch saves goes into the other half; on a
    CPU into 8 MiB, beyond which wider blocks only lose its cache; beside that a product with R
    vectors holds 3 n R numbers. Making the operator costs two gradients. A DataLoader is iterated
    in each product unless graphs are kept; what can be iterated only once is read into a list.

    Attention runs by PyTorch's own formulas, since fused kernels have no second derivative.

    References
    ----------
    Pearlmutter, Neural Computation 6, 147 (1994).

    Examples
    --------
    >>> import torch, specdens
    >>> model, inputs = torch.nn.Linear(3, 1, bias=False), torch.eye(3)
    >>> H = hessian_operator(model, torch.nn.MSELoss(reduction="sum"), (inputs, torch.ones(3, 1)))
    >>> H @ torch.tensor([1.0, 2.0, 3.0])
    tensor([2., 4., 6.])
    """
    objective = _objective(model, loss, data, params, reduction, terms, None)
    return _curvature(objective, graph_memory, check_deterministic)


def gauss_newton_operator(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    data: Any,
    *,
    params: Iterable[str | Tensor] | None = None,
    reduction: str | None = None,
    terms: Callable[[Any, Any], Any] | None = None,
    graph_memory: float | None = None,
    check_deterministic: bool = True,
) -> CurvatureOperator:
    r"""Return the generalised Gauss-Newton matrix ``J^T H J`` of a loss over data.

    J is the Jacobian of the outputs of the model by its parameters, H the Hessian of the loss by
    the outputs. It is the Hessian of the loss with the model replaced by its linearisation.

    Parameters
    ----------
    model, data, params, reduction, terms, graph_memory, check_deterministic
        As for `hessian_operator`. The model returns a tensor, or an object that has it as
        ``.logits``.
    loss : callable
        ``loss(outputs, targets)``, convex in the outputs, which is not checked.

    Returns
    -------
    CurvatureOperator, shape (n, n)
        Positive semidefinite: its ``lower`` is 0.

    Raises
    ------
    TypeError, ValueError
        As `hessian_operator`; TypeError if `loss` is None.

    Notes
    -----
    A product costs about one gradient, as that of `hessian_operator`.

    References
    ----------
    Schraudolph, Neural Computation 14, 1723 (2002); Martens, JMLR 21, 146 (2020).

    Examples
    --------
    >>> import torch, specdens
    >>> model, inputs = torch.nn.Linear(3, 1, bias=False), torch.eye(3)
    >>> loss = torch.nn.MSELoss(reduction="sum")
    >>> G = gauss_newton_operator(model, loss, (inputs, torch.ones(3, 1)))
    >>> G @ torch.tensor([1.0, 2.0, 3.0])
    tensor([2., 4., 6.])
    """
    _require_loss(loss, "a Gauss-Newton matrix")
    objective = _objective(model, loss, data, params, reduction, terms, curvature_of_loss)
    return _curvature(objective, graph_memory, check_deterministic)


def fisher_operator(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    data: Any,
    *,
    kind: str = "exact",
    params: Iterable[str | Tensor] | None = None,
    reduction: str | None = None,
    terms: Callable[[Any, Any], Any] | None = None,
    graph_memory: float | None = None,
    check_deterministic: bool = True,
) -> CurvatureOperator:
    r"""Return the Fisher information matrix of a model, or the empirical one.

    Parameters
    ----------
    model, data, params, reduction, terms, graph_memory, check_deterministic
        As for `gauss_newton_operator`.
    loss : callable
        For ``"exact"`` one that is minus a log-likelihood: cross-entropy, mean squares or binary
        cross-entropy with logits (a module, a function of ``torch.nn.functional`` or a `partial`
        of one), without weights and label smoothing. Any for ``"empirical"``.
    kind : {"exact", "empirical"}
        ``"exact"``: ``E[g g^T]`` where g is the gradient of a term of the loss at a target that is
        drawn from the model's own distribution, density ``exp(-loss)``, at each input: "type 1",
        without sampling. For these losses it equals the Gauss-Newton matrix.
        ``"empirical"``: ``g_i g_i^T`` with the gradients g_i of the losses of samples at the
        targets of the data; a sample is an entry of the first axis of outputs and targets.

    Returns
    -------
    CurvatureOperator, shape (n, n)
        Positive semidefinite; a mean over terms (samples) or a sum, as the loss is.

    Raises
    ------
    TypeError, ValueError
        As `hessian_operator`; ValueError if `kind` is unknown or the loss has no exact one.

    Notes
    -----
    A product costs about one gradient, as that of `hessian_operator`: the empirical one is
    ``J^T diag(l_i l_i^T) J`` with the gradients l_i by the outputs, so that the gradients of
    samples are never formed. Of a mean, the loss of one sample out of N is N times its share.

    References
    ----------
    Martens, JMLR 21, 146 (2020), sections 5, 9.2 and 11; Kunstner, Balles and Hennig, NeurIPS 2019.

    Examples
    --------
    >>> import torch, specdens
    >>> model, inputs = torch.nn.Linear(3, 1, bias=False), torch.eye(3)
    >>> loss = torch.nn.MSELoss(reduction="sum")
    >>> F = fisher_operator(model, loss, (inputs, torch.ones(3, 1)))
    >>> F @ torch.tensor([1.0, 2.0, 3.0])
    tensor([2., 4., 6.])
    """
    _require_loss(loss, "a Fisher matrix")
    if kind not in {"exact", "empirical"}:
        msg = f'kind is {kind!r}; expected "exact" or "empirical".'
        raise ValueError(msg)
    if kind == "exact":
        _require_likelihood(loss)
    middle = curvature_of_loss if kind == "exact" else scatter_of_slopes
    objective = _objective(model, loss, data, params, reduction, terms, middle)
    if kind == "empirical":
        objective.loss.require_reduction("a sample is a share of the mean")
    return _curvature(objective, graph_memory, check_deterministic)


def _objective(
    model: Any,
    loss: Callable[[Any, Any], Tensor] | None,
    data: Any,
    params: Iterable[str | Tensor] | None,
    reduction: str | None,
    terms: Callable[[Any, Any], Any] | None,
    middle: Middle | None,
) -> Objective:
    if not isinstance(model, nn.Module):
        msg = f"model is of type {type(model).__name__}; expected a torch.nn.Module."
        raise TypeError(msg)
    parameters = _selected(model, params)
    callee = Model(model, parameters[0].device)
    return Objective(
        callee, Loss(loss, reduction, terms, callee), as_batches(data), parameters, middle
    )


def _curvature(objective: Objective, graph_memory: float | None, check: bool) -> CurvatureOperator:
    _require_eval(objective.model.module, check)
    op = CurvatureOperator(objective, graph_memory=graph_memory, check_deterministic=check)
    if objective.middle is not None:
        op.lower = 0.0
    return op


def _selected(model: nn.Module, params: Iterable[str | Tensor] | None) -> list[nn.Parameter]:
    """Return the parameters that were asked for, one dtype on one device."""
    named = dict(model.named_parameters())
    if params is None:
        found = {name: p for name, p in named.items() if p.requires_grad}
    else:
        found = dict(_named(key, named) for key in params)
    frozen = [name for name, p in found.items() if not p.requires_grad]
    if frozen or not found:
        which = f"{frozen[0]} is frozen" if frozen else "the model has no parameter to speak of"
        msg = f"{which}; expected parameters with requires_grad=True."
        raise ValueError(msg)
    for what in ("dtype", "device"):
        kinds = sorted({str(getattr(p, what)) for p in found.values()})
        if len(kinds) > 1:
            msg = f"parameters have more than one {what}: {', '.join(kinds)}; expected one."
            raise ValueError(msg)
    dtype = next(iter(found.values())).dtype
    if dtype not in {torch.float32, torch.float64}:
        msg = f"parameters are of {dtype}; expected float32 or float64: call model.float() first."
        raise TypeError(msg)
    return list(found.values())


def _named(key: str | Tensor, named: dict[str, nn.Parameter]) -> tuple[str, nn.Parameter]:
    for name, p in named.items():
        if p is key or name == key:
            return name, p
    shown = key if isinstance(key, str) else f"a {type(key).__name__}"
    msg = f"{shown} is not among the parameters of the model; expected names or members of them."
    raise ValueError(msg)


def _require_loss(loss: Any, what: str) -> None:
    if loss is None:
        msg = (
            f"loss is None; {what} needs the loss as a function of outputs and targets. "
            "Pass loss=, for example torch.nn.CrossEntropyLoss()."
        )
        raise TypeError(msg)


def _require_likelihood(loss: Any) -> None:
    """Raise a ValueError if a loss is not minus the log of a density of the targets."""
    plain = loss
    while isinstance(plain, partial):
        plain = plain.func
    known = type(plain) in LOG_LIKELIHOODS or plain in LOG_LIKELIHOODS.values()
    weighted = any(option_of(loss, name) is not None for name in ("weight", "pos_weight"))
    if not known or weighted or option_of(loss, "label_smoothing"):
        names = ", ".join(kind.__name__ for kind in LOG_LIKELIHOODS)
        msg = (
            "loss has no predictive distribution that is known here; the exact Fisher matrix needs "
            f"one of {names}, without weights and label smoothing. "
            'gauss_newton_operator takes any convex loss, kind="empirical" any loss.'
        )
        raise ValueError(msg)


def _require_eval(model: nn.Module, check: bool) -> None:
    normalising = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    if check and any(isinstance(m, normalising) and m.training for m in model.modules()):
        msg = (
            "a BatchNorm is in training mode: the loss of a sample depends on its batch, and each "
            "product changes the running statistics. Call model.eval() first; "
            "check_deterministic=False lets it pass."
        )
        raise ValueError(msg)
