"""Stochastic gradient Nosé–Hoover thermostat (Ding et al. 2014), in the splitting of Leimkuhler and Shang (2016)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_llc.samplers.baoab import FRICTION, first_momentum
from hf_llc.samplers.kernel import Kernel, pieces_of
from hf_llc.samplers.langevin import force
from hf_llc.samplers.walk import Segment, Step, Walk


class SGNHT(Kernel):
    """BAOAB whose friction adapts, in each chain, until the kinetic temperature is 1: gradient noise is cooled away.

    dw = p dt, dp = −∇U_B dt − ζ p dt + √(2A) dW, dζ = (‖p‖² − d)/μ dt. A constant, isotropic gradient noise only raises
    the mean of ζ; the law of w is that of U all the same. In units of a step, the thermostat is ζh, it starts at the
    `friction` that noise-free gradients need, and (‖p‖²/d − 1)·friction²/2 is added to it each step: the rate at which
    its answer to a change of temperature is critically damped. The kinetic temperature reported is the mean of the two
    that the thermostat reads, after the kick and after the friction.

    Args:
        step_size: ε = h².
        friction: Ah, the friction without gradient noise, dimensionless; above 0.
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
        """One move: kick, drift, half a thermostat, friction, half a thermostat, drift."""
        if not self.state:
            start = torch.full((len(walk.w), 1), self.friction, dtype=torch.float64, device=walk.w.device)
            self.state.update(momentum=first_momentum(walk), thermostat=start)
        momentum, thermostat = pieces_of(walk, self.state["momentum"]), self.state["thermostat"]
        h, d = math.sqrt(self.step_size), walk.posterior.num_parameters
        rate = self.friction**2 / 4

        def kick(s: Segment, grad: Tensor) -> Tensor:
            p = s.of(momentum)
            p.sub_(force(walk, s, grad), alpha=h)
            s.w.add_(p, alpha=h / 2)
            return p.square().sum(dim=1, dtype=torch.float64)

        loss, kicked = walk.sweep(indices, kick, noise=None, sums=True)
        assert kicked is not None
        kicked = kicked[:, None]
        thermostat.add_(kicked / d - 1, alpha=rate)
        keep, spread = (x.to(walk.w.dtype) for x in self._friction(thermostat))
        rubbed = torch.zeros_like(thermostat)
        for s in walk.noisy_segments(step):
            p = s.of(momentum)
            p.mul_(keep).addcmul_(s.noise, spread)
            s.w.add_(p, alpha=h / 2)
            rubbed += p.square().sum(dim=1, keepdim=True, dtype=torch.float64)
        rubbed = walk.posterior.over_shards(rubbed)
        thermostat.add_(rubbed / d - 1, alpha=rate)
        return Step(loss, kinetic_temperature=(kicked + rubbed)[:, 0] / (2 * d) if measure else None)

    def _friction(self, thermostat: Tensor) -> tuple[Tensor, Tensor]:
        """What p keeps, e^{−ζh}, and the sd of what it gains, √(A(1 − e^{−2ζh})/ζ), also at ζ = 0 and below."""
        doubled = 2 * thermostat
        is_small = doubled.abs() < 1e-6
        safe = torch.where(is_small, torch.ones_like(doubled), doubled)
        share = torch.where(is_small, 1 - doubled / 2, -torch.expm1(-safe) / safe)
        return torch.exp(-thermostat), (2 * self.friction * share).sqrt()
