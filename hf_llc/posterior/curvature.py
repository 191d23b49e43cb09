"""The largest curvature of the energy along a chain, which bounds the step size of every sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_llc.posterior.posterior import Posterior

_REACH = 1e-3
"""Hessian-vector products are gradient differences over this distance, relative to ‖w‖: well above float32's rounding
of a gradient, well below the distance over which the Hessian of a network changes."""

STABLE = 0.25
"""ε κ of samplers with momentum to begin with: h = 0.5/√κ; they are stable below ε κ = 4."""


def hessian_product(
    posterior: Posterior, w: Tensor, indices: Tensor | None, base: Sequence[Tensor], direction: Tensor
) -> Tensor:
    """∇²L_B(w) v by a gradient difference, `[chain, parameter]`; one gradient.

    Args:
        posterior: gradients.
        w: `[chain, parameter]`.
        indices: minibatches, int64 `[chain, m]`; None: all examples.
        base: ∇L_B(w) in pieces, as `Posterior.gradient` gives it.
        direction: v, unit vectors, `[chain, parameter]`.
    """
    length = _REACH * posterior.buffer.norm(w).clamp_min(1.0)
    moved = posterior.gradient(w + length * direction, indices)[1]
    return torch.cat([a - b for a, b in zip(moved, base, strict=True)], dim=1) / length


def follow(
    posterior: Posterior, w: Tensor, indices: Tensor | None, direction: Tensor, *, nbeta: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Power iteration for the largest eigenvalue of nβ∇²L_B at each chain, from a direction found before.

    Args:
        posterior: gradients; `iterations` + 1 of them.
        w: `[chain, parameter]`.
        indices: minibatches, int64 `[chain, m]`; None: all examples.
        direction: unit vectors, `[chain, parameter]`.
        nbeta: nβ.
        iterations: at least 1.

    Returns:
        The eigenvalues, float64 `[chain]` (0 where the loss is flat or not finite), and the directions.
    """
    base = posterior.gradient(w, indices)[1]
    value = torch.zeros(len(w), dtype=torch.float64, device=w.device)
    for _ in range(iterations):
        product = hessian_product(posterior, w, indices, base, direction)
        size = posterior.buffer.norm(product)
        is_sound = torch.isfinite(size) & (size > 0)
        direction = torch.where(is_sound, product / size, direction)
        value = torch.where(is_sound[:, 0], nbeta * size[:, 0].double(), value)
    return value, direction


def any_direction(num_chains: int, posterior: Posterior) -> Tensor:
    """Unit vectors to begin with, `[chain, parameter]`, always the same."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(1, posterior.num_parameters, generator=generator, dtype=posterior.dtype)
    return posterior.buffer.local_shard(v / v.norm()).to(posterior.device).expand(num_chains, -1).clone()


class Curvature:
    """Running maximum of the largest eigenvalue of nβ∇²L_B(w) along one chain; that of the energy is γ larger.

    Attributes:
        loss: the largest eigenvalue of nβ∇²L_B seen so far, at least 0.
        num_gradients: gradient evaluations spent.
    """

    def __init__(self, posterior: Posterior, *, nbeta: float) -> None:
        self.posterior, self.nbeta = posterior, nbeta
        self.loss = 0.0
        self.num_gradients = 0
        self._direction = any_direction(1, posterior)

    def refresh(self, w: Tensor, indices: Tensor | None, *, iterations: int) -> float:
        """Look at the curvature at `w`, `[1, parameter]`, on a minibatch; returns `loss`, which never falls."""
        found, self._direction = follow(
            self.posterior, w, indices, self._direction, nbeta=self.nbeta, iterations=iterations
        )
        self.num_gradients += iterations + 1
        self.loss = max(self.loss, float(found))
        return self.loss
