"""Stochastic gradient Nosé–Hoover thermostat (Ding et al. 2014), in the splitting of Leimkuhler and Shang (2016)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_llc.samplers.baoab import FRICTION, first_momentum
from hf_llc.samplers.kernel import Kernel, Step
from hf_llc.samplers.langevin import force
from hf_llc.samplers.segment import Segment
from hf_llc.samplers.walk import Walk


class SGNHT(Kernel):
    """BAOAB whose friction adapts in each chain until the kinetic temperature is 1, which cools gradient noise away.

        dw = p dt,   dp = −∇U_B dt − ζ p dt + √(2A) dW,   dζ = (‖p‖² − d)/μ dt.

    Gradient noise that is constant and isotropic raises the mean of ζ and leaves the law of w as it is.

    The state `thermostat` is ζh, h = √ε the time of a step. It starts at `friction` = Ah, its mean without gradient
    noise, and gains (‖p‖²/d − 1)·friction²/2 a step, the rate at which its response to a change of temperature is
    critically damped. Half of it is gained after the kick and half after the friction; the kinetic temperature reported
    is the mean of ‖p‖²/d at these two points.

    Args:
        step_size: ε = h².
        friction: Ah, dimensionless, above 0.
    """

    settings = ("friction",)
    per_chain = ("thermostat",)
    has_friction = True
    state_copies = 1

    def __init__(self, step_size: float, *, friction: float = FRICTION) -> None:
        super().__init__(step_size)
        self.friction = friction

    @torch.no_grad()
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One move: kick, half drift, half thermostat, friction, half thermostat, half drift."""
        if not self.state:
            start = torch.full((len(walk.w), 1), self.friction, dtype=torch.float64, device=walk.w.device)
            self.state.update(momentum=first_momentum(walk), thermostat=start)
        momentum, thermostat = walk.pieces_of(self.state["momentum"]), self.state["thermostat"]
        h, d = math.sqrt(self.step_size), walk.num_parameters
        rate = self.friction**2 / 4

        def kick(s: Segment, grad: Tensor) -> Tensor:
            p = s.of(momentum)
            p.sub_(force(walk, s, grad), alpha=h)
            s.w.add_(p, alpha=h / 2)
            return p.square().sum(dim=1, dtype=torch.float64)

        loss, after_kick = walk.sweep(indices, kick, noise=None, sums=True)
        assert after_kick is not None
        after_kick = after_kick[:, None]
        thermostat.add_(after_kick / d - 1, alpha=rate)
        keep, spread = (x.to(walk.w.dtype) for x in self._friction(thermostat))
        after_friction = torch.zeros_like(thermostat)
        for s in walk.noisy_segments(step):
            p = s.of(momentum)
            p.mul_(keep).addcmul_(s.noise, spread)
            s.w.add_(p, alpha=h / 2)
            after_friction += p.square().sum(dim=1, keepdim=True, dtype=torch.float64)
        after_friction = walk.sum_over_shards(after_friction)
        thermostat.add_(after_friction / d - 1, alpha=rate)
        return Step(loss, kinetic_temperature=(after_kick + after_friction)[:, 0] / (2 * d) if measure else None)

    def _friction(self, thermostat: Tensor) -> tuple[Tensor, Tensor]:
        """e^{−ζh}, the factor of p, and √(A(1 − e^{−2ζh})/ζ), the sd of its noise; ζ may be 0 or negative."""
        doubled = 2 * thermostat
        is_small = doubled.abs() < 1e-6
        safe = torch.where(is_small, torch.ones_like(doubled), doubled)
        share = torch.where(is_small, 1 - doubled / 2, -torch.expm1(-safe) / safe)
        return torch.exp(-thermostat), (2 * self.friction * share).sqrt()
