"""Entropy-SGD (Chaudhari et al. 2017, arXiv 1611.01838, Algorithm 1): gradient descent on the local entropy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

NUM_LANGEVIN_STEPS = 5
"""L unless told otherwise: the gradients that an outer step takes."""


class EntropySGD(Optimizer):
    """Descends −log ∫ exp(−f(x′) − (γ/2)‖x − x′‖²) dx′, whose gradient is γ(x − ⟨x′⟩).

    ⟨x′⟩ is estimated by L steps of Langevin dynamics that start at x, each on a minibatch of its own:

        v′ ← m v′ + ∇f(x′) − γ(x − x′)
        x′ ← x′ − η′ v′ + √η′ ε N(0, I)
        μ  ← (1 − α) μ + α x′

    and then x moves: v ← m v + (x − μ), x ← x − η v. The factor γ of the gradient is taken into η: γ is small at first
    and grows ("scoping"), γ = γ₀(1 + γ₁)^t in outer step t, and would else slow the start to nothing. The momentum m is
    that of both loops; v′ begins at zero in every outer step. Algorithm 1 is without momentum: set it to 0.

    Args:
        params: as of any optimizer.
        lr: η, of the outer step.
        num_langevin_steps: L; each calls the closure once.
        langevin_lr: η′.
        noise: ε.
        alpha: α, the share of the newest x′ in μ.
        gamma_0: γ₀, the scope at first.
        gamma_1: γ₁, its growth an outer step.
        momentum: m.
        generator: of the noise, on the parameters' device; None: the global one.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        num_langevin_steps: int = NUM_LANGEVIN_STEPS,
        langevin_lr: float = 0.1,
        noise: float = 1e-4,
        alpha: float = 0.75,
        gamma_0: float = 1e-4,
        gamma_1: float = 1e-3,
        momentum: float = 0.9,
        generator: torch.Generator | None = None,
    ) -> None:
        if num_langevin_steps < 1:
            raise ValueError(f"num_langevin_steps must be 1 or more, not {num_langevin_steps}")
        if lr <= 0 or langevin_lr <= 0:
            raise ValueError(f"lr and langevin_lr must be above 0, not {lr} and {langevin_lr}")
        if not 0 <= alpha <= 1 or not 0 <= momentum < 1:
            raise ValueError(f"alpha must be in 0 … 1 and momentum below 1, not {alpha} and {momentum}")
        defaults = {
            "lr": lr,
            "langevin_lr": langevin_lr,
            "noise": noise,
            "alpha": alpha,
            "gamma_0": gamma_0,
            "gamma_1": gamma_1,
            "momentum": momentum,
            "outer_step": 0,
        }
        super().__init__(params, defaults)
        self.num_langevin_steps, self.generator = num_langevin_steps, generator

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One outer step.

        Args:
            closure: clears the gradients, computes the loss of a new minibatch and its gradient, and returns the loss.

        Returns:
            The loss of the last minibatch, at x′.

        Raises:
            ValueError: no closure.
        """
        if closure is None:
            raise ValueError("EntropySGD needs a closure: it takes several gradients a step")
        places = [(group, p) for group in self.param_groups for p in group["params"]]
        start = [p.clone() for _, p in places]
        mean = [p.clone() for _, p in places]
        velocity = [torch.zeros_like(p) for _, p in places]
        loss = None
        for _ in range(self.num_langevin_steps):
            with torch.enable_grad():
                loss = closure()
            for (group, p), x, mu, v in zip(places, start, mean, velocity, strict=True):
                if p.grad is None:
                    continue
                scope = group["gamma_0"] * (1 + group["gamma_1"]) ** group["outer_step"]
                v.mul_(group["momentum"]).add_(p.grad).sub_(x - p, alpha=scope)
                p.sub_(v, alpha=group["langevin_lr"])
                spread = math.sqrt(group["langevin_lr"]) * group["noise"]
                if spread:
                    p.add_(torch.randn(p.shape, generator=self.generator, dtype=p.dtype, device=p.device), alpha=spread)
                mu.lerp_(p, group["alpha"])
        for (group, p), x, mu in zip(places, start, mean, strict=True):
            outer = self.state[p].setdefault("velocity", torch.zeros_like(p))
            outer.mul_(group["momentum"]).add_(x - mu)
            p.copy_(x).sub_(outer, alpha=group["lr"])
        for group in self.param_groups:
            group["outer_step"] += 1
        return loss
