"""Gradients at w*, which control variates take off: of all examples, and of each minibatch.

Where they fit in memory those of all examples are kept, and a minibatch's is the mean of its rows: a step with a
control variate then costs one gradient, not two. That is for small models of sequences. A row is 4·P bytes to read, a
gradient 6·P FLOPs a token: of short examples it is as quick to compute.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

if TYPE_CHECKING:
    from hf_llc.posterior.posterior import Posterior

_KEPT_BYTES = 2 * 2**30
"""Gradients of all examples up to this size are kept, by each process. It does not depend on what is free: which way is
taken changes the rounding, and a run that goes on has to take the same."""

_LONG = 16
"""Tokens of an example from which on its gradient is worth keeping."""


class AnchorGradients:
    """∇L_n(w*) and ∇L_B(w*), computed when first asked for.

    Args:
        posterior: whose w*.
    """

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior

    @functools.cached_property
    def are_kept(self) -> bool:
        """Whether those of all examples are in memory, or will be."""
        p = self.posterior
        is_whole = p.group.size == 1 and p.split() is None
        size = p.num_examples * p.num_parameters * p.dtype.itemsize
        return is_whole and p.problem.num_positions >= _LONG and size <= _KEPT_BYTES

    def per_gradient(self, gradient: str) -> int:
        """Evaluations that a gradient of a batch takes, "plain" or "control-variate"."""
        return 2 if gradient == "control-variate" and not self.are_kept else 1

    @functools.cached_property
    def _rows(self) -> Tensor:
        """∇ℓ_i(w*), `[example, parameter]`."""
        p, w = self.posterior, self.posterior.start(1)
        rows = torch.empty(p.num_examples, p.num_parameters, dtype=p.dtype, device=p.device)
        for i, row in enumerate(rows.split(1)):
            torch.cat(p.gradient(w, torch.tensor([[i]], device=p.device))[1], dim=1, out=row)
        return rows

    @functools.cached_property
    def mean(self) -> list[Tensor]:
        """∇L_n(w*), in flat pieces `[1, size of the piece]`."""
        if self.are_kept:
            return list(torch.split(self._rows.mean(0, keepdim=True), self.posterior.pieces, dim=1))
        return self.posterior.gradient(self.posterior.start(1), None)[1]

    def of(self, indices: Tensor | None, w_star: Tensor) -> list[Tensor]:
        """∇L_B(w*) on each chain's minibatch, in flat pieces `[chain, size of the piece]`.

        Args:
            indices: int64 `[chain, m]`, or None for all examples.
            w_star: chains at w*, `[chain, parameter]`.
        """
        if indices is None or not self.are_kept:
            return self.posterior.gradient(w_star, indices)[1]
        return list(torch.split(embedding_bag(indices, self._rows, mode="mean"), self.posterior.pieces, dim=1))
