"""The norm of every parameter tensor: which layers the chains leave alone, and which they move."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_llc.posterior.restriction import whole_weights


def parameter_norms(model: nn.Module) -> Tensor:
    """‖θ‖ of each parameter tensor θ, `[tensor]`, in the order of `model.parameters()`."""
    return torch.stack([weights.norm() for weights in whole_weights(model)])
