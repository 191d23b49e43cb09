"""What rounding may move an output of a model by."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_ROUNDING = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 2e-2}
"""Relative to the largest, where this is the coarsest type of the forward pass. It is some 200 units in the last place
of float32 for deep networks, and fewer of the short types, which are accumulated in float32."""

_TF32 = 1e-2


def rounding_of(kinds: Iterable[torch.dtype], model: nn.Module, device: torch.device) -> float:
    """What rounding may move an output by, relative to the largest output.

    Args:
        kinds: types of the tensors of the forward pass.
        model: may hold convolutions, which have a precision of their own.
        device: that it runs on.
    """
    return max([_ROUNDING.get(kind, 0.0) for kind in kinds] + [_of_products(model, device)])


def _of_products(model: nn.Module, device: torch.device) -> float:
    """What matrix products of float32 are rounded by where torch may shorten them."""
    precision = torch.get_float32_matmul_precision()
    if device.type != "cuda":
        return _ROUNDING[torch.bfloat16] if precision == "medium" else 0.0
    has_convolution = any("Conv" in type(module).__name__ for module in model.modules())
    return _TF32 if precision != "highest" or (has_convolution and torch.backends.cudnn.allow_tf32) else 0.0
