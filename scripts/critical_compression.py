"""How far a network can be compressed before its loss rises: weights rounded to few levels, or small ones dropped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def rounded(weights: Tensor, bits: float) -> Tensor:
    """Weights rounded to round(2^bits) evenly spaced levels, the outer ones at ± the largest weight.

    The error of a weight that lies anywhere between two levels has variance s²/12, s = 2 max|w| / (levels − 1).

    Args:
        weights: of any shape.
        bits: of a weight, 1 or more; not whole ones too.
    """
    levels, largest = max(2, round(2**bits)), weights.abs().max()
    step = 2 * largest / (levels - 1)
    return torch.where(step > 0, torch.round((weights + largest) / step) * step - largest, weights)


@torch.no_grad()
def quantised(model: nn.Module, bits: float) -> None:
    """Round the weights of each tensor."""
    for parameter in model.parameters():
        parameter.copy_(rounded(parameter, bits))


@torch.no_grad()
def pruned(model: nn.Module, share: float) -> None:
    """Keep the largest `share` of all weights, of all tensors together, and set the others to zero."""
    sizes = torch.cat([parameter.abs().flatten() for parameter in model.parameters()])
    dropped = len(sizes) - max(1, round(share * len(sizes)))
    if dropped == 0:
        return
    least = sizes.kthvalue(dropped).values
    for parameter in model.parameters():
        parameter.mul_(parameter.abs() > least)


def critical(increase: Callable[[float], float], sizes: Sequence[float], *, tolerance: float) -> float:
    """The smallest size of a compressed network from which on the loss is never more than `tolerance` higher.

    Sizes are tried from the largest down to the first whose loss is too high; between that and the one before, the
    logarithm of the increase is taken to be linear.

    Args:
        increase: size → loss of the compressed network, less its own.
        sizes: rising.
        tolerance: of the increase, above 0.

    Returns:
        The size; the smallest one if all pass, NaN if the largest does not.
    """
    above, size_above = math.nan, math.nan
    for size in reversed(sizes):
        found = increase(size)
        if not found <= tolerance:
            if math.isnan(size_above):
                return math.nan
            low = max(above, tolerance * 1e-3)
            share = math.log(found / tolerance) / math.log(found / low) if math.isfinite(found) else 1.0
            return size + share * (size_above - size)
        above, size_above = found, size
    return sizes[0]
