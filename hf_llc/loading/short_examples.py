"""Trials of large models on a CPU: the first tokens of a few examples tell as much as all of them, and take seconds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_COSTLY = 3e10
"""Multiplications of one example's forward pass from which on trials are short: half a second or so of one core."""

_TOKENS = 64


def is_costly(model: nn.Module, examples: Mapping[str, Tensor]) -> bool:
    """Whether a forward pass of one example takes long here."""
    weights = [p for p in model.parameters() if p.ndim == 2]
    if not weights or weights[0].device.type != "cpu":
        return False
    positions = max((x[0].numel() for x in examples.values() if x.dim() == 2 and not x.is_floating_point()), default=1)
    return positions * sum(p.numel() for p in weights) > _COSTLY


def shortened(examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The examples, of packed text its first tokens. Padded rows stay whole: what is cut off might be all that is said.

    Args:
        examples: tensors with one leading example axis.
    """
    is_packed = set(examples) <= {"input_ids", "labels"} and all(x.dim() == 2 for x in examples.values())
    lengths = {x.shape[1:] for x in examples.values()}
    if not is_packed or len(lengths) > 1 or any(x.dtype != torch.int64 for x in examples.values()):
        return dict(examples)
    return {name: x[:, :_TOKENS] for name, x in examples.items()}
