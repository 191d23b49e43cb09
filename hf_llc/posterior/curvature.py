"""The largest curvature of the loss along a chain, which bounds the step size of every sampler."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.stage_files import Journal

_REACH = 1e-3
"""Distance of the gradient differences that give Hessian-vector products, relative to ‖w‖: far enough that float32
rounding does not matter, near enough that the Hessian of a network does not change."""

_PIECE = 2**22
"""Numbers that are summed in float64 at a time."""

STABLE = 0.25
"""εκ at which samplers with momentum begin, that is h = √ε = 0.5/√κ; they are stable below εκ = 4."""


def hessian_product(
    posterior: Posterior, w: Tensor, indices: Tensor | None, base: Sequence[Tensor], direction: Tensor
) -> Tensor:
    """∇²L_B(w) v by a difference of gradients, `[chain, parameter]`; evaluates one gradient.

    Args:
        posterior: its gradients.
        w: `[chain, parameter]`.
        indices: minibatches, int64 `[chain, m]`; None: all examples.
        base: ∇L_B(w) in pieces, as `Posterior.gradient` gives it.
        direction: v, unit vectors, `[chain, parameter]`.
    """
    length = _REACH * posterior.buffer.norm(w).clamp_min(1.0)
    ahead = posterior.gradient((length * direction).add_(w), indices)[1]
    return torch.cat([a.sub_(b) for a, b in zip(ahead, base, strict=True)], dim=1).div_(length)


def inner_product(u: Tensor, v: Tensor) -> Tensor:
    """⟨u, v⟩ of two vectors of one shape, a float64 number: piece by piece, so that no large vector is copied."""
    pieces = zip(u.flatten().split(_PIECE), v.flatten().split(_PIECE), strict=True)
    return torch.stack([(a.double() * b).sum() for a, b in pieces]).sum()


def top_eigenvalue(
    posterior: Posterior, w: Tensor, indices: Tensor | None, direction: Tensor, *, nbeta: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of nβ∇²L_B(w) of each chain, by power iteration from an earlier direction.

    Args:
        posterior: its gradients; `iterations` + 1 are evaluated.
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
        size, direction = _power_step(posterior, w, indices, base, direction)
        value = torch.where(_is_sound(size), nbeta * size, value)
    return value, direction


def _power_step(
    posterior: Posterior, w: Tensor, indices: Tensor | None, base: Sequence[Tensor], direction: Tensor
) -> tuple[Tensor, Tensor]:
    """‖∇²L_B(w) v‖, float64 `[chain]`, and its direction; v where that has none."""
    product = hessian_product(posterior, w, indices, base, direction)
    size = posterior.buffer.norm(product)
    direction = torch.where(_is_sound(size), product.div_(size), direction)
    return size[:, 0].double(), direction


def _is_sound(size: Tensor) -> Tensor:
    """Where a vector of this length has a direction."""
    return torch.isfinite(size) & (size > 0)


def initial_direction(num_chains: int, posterior: Posterior) -> Tensor:
    """Unit vectors where power iteration starts, `[chain, parameter]`; always the same."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(1, posterior.num_parameters, generator=generator, dtype=posterior.dtype)
    return posterior.buffer.local_shard(v / v.norm()).to(posterior.device).expand(num_chains, -1).clone()


class Curvature:
    """Running maximum, along one chain, of the largest eigenvalue of nβ∇²L_B(w). The energy's is γ larger.

    Args:
        posterior: its gradients.
        nbeta: nβ.
        journal: of the stage that needs it, in which each product is a step; None: nothing is kept.

    Attributes:
        loss: the maximum so far, at least 0.
        num_gradients: gradient evaluations so far.
    """

    def __init__(self, posterior: Posterior, *, nbeta: float, journal: Journal | None = None) -> None:
        self.posterior, self.nbeta = posterior, nbeta
        self.journal = journal or Journal(posterior.buffer)
        self.loss = 0.0
        self.num_gradients = 0
        self._held = self.journal.hold("curvature", {"direction": initial_direction(1, posterior)})

    def refresh(self, w: Tensor, indices: Tensor | None, *, iterations: int) -> float:
        """Evaluate the curvature at `w`, `[1, parameter]`, on a minibatch; returns `loss`, which never falls."""
        base = functools.cache(lambda: self.posterior.gradient(w, indices)[1])

        def step() -> Tensor:
            size, self._held["direction"] = _power_step(self.posterior, w, indices, base(), self._held["direction"])
            return size

        value = torch.zeros(1, dtype=torch.float64, device=w.device)
        for _ in range(iterations):
            size = self.journal.once(step)
            value = torch.where(_is_sound(size), self.nbeta * size, value)
        self.num_gradients += iterations + 1
        self.loss = max(self.loss, float(value))
        return self.loss
