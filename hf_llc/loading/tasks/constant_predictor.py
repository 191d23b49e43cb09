"""The loss of the best constant predictor, for a loss function of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

_MAX_NUMBERS = 2**22
"""Outputs (labels × numbers an output) that one evaluation of the loss takes at most: some 20 ms for cross-entropy."""

_OPTIONS = {"maxiter": 50, "maxfun": 60, "ftol": 1e-12, "gtol": 1e-9}

_TOLERANCE = 0.02
"""What the loss may still fall, as a share of what it has fallen, for the constant to count as the best."""


class ConstantLoss(NamedTuple):
    """The loss of the best constant predictor.

    Attributes:
        loss: mean over all labels, in the loss function's unit.
        num_labels: labels that the constant was fitted to. If they are fewer than all, the best constant's loss may lie
            below `loss`.
    """

    loss: float
    num_labels: int


def best_constant_loss(loss_fn: Callable[[Any, Tensor], Tensor], start: Tensor, labels: Tensor) -> ConstantLoss | None:
    """min over constant outputs c of the mean over labels y of loss_fn(c, y).

    L-BFGS from `start` on c. Usual losses are convex in c: cross-entropy then gives the entropy of the labels, and the
    squared error their variance. It costs some 60 evaluations of the loss on the distinct labels, or on an evenly
    spaced sample of the labels if those are too many, and no evaluation of the model.

    Args:
        loss_fn: `loss_fn(outputs, labels)` → losses `[batch]`.
        start: an output of the model, without the batch axis; on the device that loss_fn works on.
        labels: `[example, …]`, on any device.

    Returns:
        None if the loss of `start` is not finite, if loss_fn has no gradient, or if the loss can still fall after the
        last iteration, like one that has no minimum.

    Raises:
        Exception: what loss_fn raises.
    """
    points, weights = _distinct(labels)
    with torch.no_grad():  # all labels before any step: a label that loss_fn does not take is found here
        first = _mean_loss(loss_fn, start, points, weights)
    bound = max(1, _MAX_NUMBERS // max(1, start.numel()))
    sample, sample_weights = points, weights
    if len(points) > bound:
        rows = torch.linspace(0, len(points) - 1, bound).long()
        sample, sample_weights = points[rows], weights[rows] / weights[rows].sum()
    constant = _minimized(loss_fn, start, sample, sample_weights) if math.isfinite(first) else None
    if constant is None:
        return None
    with torch.no_grad():
        best = min(first, _mean_loss(loss_fn, constant, points, weights))
    return ConstantLoss(best, len(labels) if len(points) == len(sample) else len(sample))


def _distinct(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct labels and the share of each. Labels of several numbers stay as they are, in equal shares."""
    if labels.dim() == 1:
        values, counts = labels.unique(return_counts=True)
        return values, counts.double().cpu() / len(labels)
    return labels, torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)


def _mean_loss(loss_fn: Callable[[Any, Tensor], Tensor], constant: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Mean loss of a constant output, in pieces that fit in memory."""
    size = max(1, _MAX_NUMBERS // max(1, constant.numel()))
    pieces = zip(labels.split(size), weights.split(size), strict=True)
    return sum(float(_weighted(loss_fn, constant, part, shares)) for part, shares in pieces)


def _weighted(loss_fn: Callable[[Any, Tensor], Tensor], constant: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Σ_y weight(y)·loss_fn(c, y), float64 on the CPU."""
    outputs = constant.expand(len(labels), *constant.shape).clone()  # loss_fn may write into what it is given
    return (loss_fn(outputs, labels.to(constant.device)).cpu().double() * weights).sum()


@torch.enable_grad()
def _minimized(
    loss_fn: Callable[[Any, Tensor], Tensor], start: Tensor, labels: Tensor, weights: Tensor
) -> Tensor | None:
    """The constant output of least mean loss; None if there is none to be found."""

    def as_output(flat: np.ndarray) -> Tensor:
        return torch.from_numpy(flat).view(start.shape).to(start.device, start.dtype)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        constant = as_output(flat.copy()).requires_grad_()
        loss = _weighted(loss_fn, constant, labels, weights)
        (gradient,) = torch.autograd.grad(loss, constant)
        return loss.item(), gradient.flatten().cpu().double().numpy()

    if not _weighted(loss_fn, start.clone().requires_grad_(), labels[:1], weights[:1]).requires_grad:
        return None
    origin = start.detach().flatten().cpu().double().numpy()
    first, _ = loss_and_gradient(origin)
    # scipy's, as torch.optim takes seconds to import its compiler.
    found = minimize(loss_and_gradient, origin, jac=True, method="L-BFGS-B", options=_OPTIONS)
    # By convexity the loss can still fall by ‖gradient‖ × (distance to the minimum). For the distance stands the way
    # that L-BFGS has come: large, and the gradient with it, for a loss without a minimum.
    remaining = float(np.linalg.norm(found.jac) * np.linalg.norm(found.x - origin))
    if not math.isfinite(found.fun + remaining) or remaining > _TOLERANCE * (first - found.fun) + 1e-4 * abs(found.fun):
        return None
    return as_output(found.x)
