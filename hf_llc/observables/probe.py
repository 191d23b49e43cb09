"""Losses of fixed examples along the chains: what influence functions and loss kernels are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from hf_llc.posterior.minibatches import auto_micro_batch_size, logits_per_token
from hf_llc.problem import Problem


class Probe:
    """An observable: losses of some examples at the weights of a chain minus those at w*, in nats.

    By example, ℓ_i is summed over the tokens of i, whatever the loss of the run is divided by, so that nβ/n is its
    weight in the posterior. By token, it is the loss of each position; 0 where none is predicted.

    Args:
        problem: the model, these examples, and their losses.
        level: "example" or "token".
        count: the first so many examples; None: all.

    Attributes:
        examples: on the model's device, `[example, …]`.
        init: the losses at w*, float64 `[example]` or `[example, position]`; None before `start`.
    """

    def __init__(self, problem: Problem, *, level: str, count: int | None = None) -> None:
        device = next(problem.model.parameters()).device
        self.examples = {name: x[:count].to(device) for name, x in problem.examples.items()}
        tokens = problem.token_losses if level == "token" else None
        self._losses: Callable[..., Tensor] = problem.losses if tokens is None else tokens
        self._scale = problem.n / problem.num_examples if tokens is None else 1.0  # back to a sum over tokens
        self._size = auto_micro_batch_size(problem.num_positions, logits_per_token(problem.model))
        self.init: Tensor | None = None

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        """Take the losses at w*, where the model is now."""
        self.init = self._measured(model)

    def __call__(self, model: nn.Module) -> Tensor:
        """ℓ_i(w) − ℓ_i(w*), float32 `[example]` or `[example, position]`."""
        assert self.init is not None
        return (self._measured(model) - self.init).float()

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        """The token ids, if the examples are tokens."""
        found = self.examples.get("input_ids")
        return {} if found is None else {"input_ids": found.cpu().numpy()}

    def _measured(self, model: nn.Module) -> Tensor:
        count = len(next(iter(self.examples.values())))
        parts = []
        for begin in range(0, count, self._size):
            batch = {name: x[begin : begin + self._size] for name, x in self.examples.items()}
            parts.append(self._losses(model, batch).double() * self._scale)
        return torch.cat(parts)
