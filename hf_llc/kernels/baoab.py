"""Underdamped Langevin dynamics, BAOAB splitting (Leimkuhler and Matthews 2013): one gradient a step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_llc.kernels.kernel import Kernel, pieces_of
from hf_llc.kernels.langevin import force
from hf_llc.walk import Step, Walk


class BAOAB(Kernel):
    """dw = p dt, dp = −∇U dt − ζ p dt + √(2ζ) dW at unit mass, in time steps h = √ε.

    A step: kick p ← p − h ∇U_B(w) (the closing half kick of the last step and the opening one of this, which meet at
    the same w), drift w ← w + (h/2) p, friction p ← c p + √(1 − c²) ξ with c = exp(−friction), drift again. On a
    quadratic with full batches w has exactly the variance 1/a_i for h < 2/√max a_i; infinite friction is the
    Leimkuhler–Matthews kernel at the same ε.

    The kinetic temperature ‖p‖²/d is read after the kick, where on a quadratic it is 1 on average; gradient noise of
    variance V in the force adds h²V to it before friction takes that away.

    Args:
        step_size: ε = h².
        friction: ζh, the share of momentum lost in a step, dimensionless; above 0.
    """

    def __init__(self, step_size: float, *, friction: float) -> None:
        super().__init__(step_size)
        self.friction = friction

    @torch.no_grad()
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One move."""
        loss, grad = walk.gradient(indices)
        noise = walk.gradient_noise(grad, step) if measure else None
        if not self.state:
            self.state["momentum"] = first_momentum(walk)
        momentum = pieces_of(walk, self.state["momentum"])
        h, keep = math.sqrt(self.step_size), math.exp(-self.friction)
        spread = math.sqrt(-math.expm1(-2 * self.friction))
        heat = torch.zeros_like(walk.w[:, 0], dtype=torch.float64) if measure else None
        for s in walk.noisy_segments(step):
            p = s.of(momentum)
            p.sub_(force(walk, s, s.of(grad)), alpha=h)
            if heat is not None:
                heat += p.square().sum(dim=1, dtype=torch.float64)
            s.w.add_(p, alpha=h / 2)
            p.mul_(keep).add_(s.noise, alpha=spread)
            s.w.add_(p, alpha=h / 2)
        temperature = None if heat is None else heat / walk.w.shape[1]
        return Step(loss, kinetic_temperature=temperature, gradient_noise=noise)

    def num_gradients(self, *, steps: int, measured: int, is_full: bool) -> int:
        """One a step, and one more where gradient noise was looked at."""
        return steps if is_full else steps + measured


def first_momentum(walk: Walk) -> Tensor:
    """p ~ N(0, I) from the noise of step −1, `[chain, parameter]`."""
    momentum = torch.empty_like(walk.w)
    pieces = pieces_of(walk, momentum)
    for s in walk.noisy_segments(-1):
        s.of(pieces).copy_(s.noise)
    return momentum
