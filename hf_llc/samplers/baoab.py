"""Underdamped Langevin dynamics in the BAOAB splitting (Leimkuhler and Matthews 2013), one gradient a step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_llc.posterior.curvature import initial_direction, top_eigenvalue
from hf_llc.samplers.kernel import Kernel, Step
from hf_llc.samplers.langevin import force
from hf_llc.samplers.segment import Segment
from hf_llc.samplers.walk import Walk

FRICTION = 0.2
"""Default of samplers with momentum, if the user gives a step size and no friction."""

_MAX_CURVATURE = 1.0
"""ε κ above which a chain lowers its ε: a quarter of the limit of stability, four times what calibration chooses."""

_WATCH_EVERY, _WATCH_ITERATIONS = 100, 3
"""Steps between two measurements of κ, and the Hessian-vector products of each."""


class BAOAB(Kernel):
    """dw = p dt, dp = −∇U dt − ζ p dt + √(2ζ) dW at unit mass, in time steps h = √ε.

    A step, with c = exp(−friction):

        kick p ← p − h ∇U_B(w);   drift w ← w + (h/2) p;   friction p ← c p + √(1 − c²) ξ;   drift w ← w + (h/2) p.

    The kick is the closing half kick of the last step and the opening one of this, both at the same w.

    On a quadratic loss with full batches, coordinate i has exactly the variance 1/a_i for h < 2/√max a_i. Infinite
    friction gives `LeimkuhlerMatthews` at the same ε.

    The kinetic temperature ‖p‖²/d is read after the kick, where it is 1 on average on a quadratic. Gradient noise of
    variance V in ∇U_B adds h²V to it, which friction then takes away.

    With `adapt_step_size` each chain follows κ, the largest curvature of its own energy, and lowers its ε to 1/κ when κ
    exceeds 1/ε. Deep networks are stiffer away from w*, and get stiffer while flat directions spread. ε may fall among
    kept draws too. It never rises, so it changes ever less often; an ε above the limit of stability would not sample
    the law. The state `shrink` is the share of ε that is left; a continuation at another ε starts with the same share.

    Args:
        step_size: ε = h², before it is lowered.
        friction: ζh, the rate at which momentum decays in a step, dimensionless, above 0.
        adapt_step_size: lower ε where the curvature grows.
    """

    settings = ("friction", "adapt_step_size")
    per_chain = ("shrink",)
    has_friction = True
    adapts_step_size = True
    measures_heat = True
    unmeasured_in_backward = "the heat of gradient noise, which is then not taken off λ̂,"
    state_copies = 1
    step_copies = 2  # two gradients, for their noise

    def __init__(self, step_size: float, *, friction: float = FRICTION, adapt_step_size: bool = False) -> None:
        super().__init__(step_size)
        self.friction = friction
        self.adapt_step_size = adapt_step_size

    @torch.no_grad()
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One move."""
        known = walk.whole_gradient(indices) if measure else None
        noise = None if known is None else walk.gradient_noise(known[1], step)
        if not self.state:
            self.state["momentum"] = first_momentum(walk)
            self.state["shrink"] = torch.ones_like(walk.w[:, :1], dtype=torch.float64)
            if self.adapt_step_size:
                self.state["direction"] = initial_direction(len(walk.w), walk.posterior)
        if self.adapt_step_size and step > 0 and step % _WATCH_EVERY == 0:
            self._follow_curvature(walk, indices)
        epsilon = self.step_size * self.state["shrink"]
        h = epsilon.sqrt().to(walk.w)
        momentum = walk.pieces_of(self.state["momentum"])
        keep, spread = math.exp(-self.friction), math.sqrt(-math.expm1(-2 * self.friction))

        is_fused = walk.philox is not None and not measure

        def update(s: Segment, grad: Tensor) -> Tensor | None:
            p = s.of(momentum)
            if is_fused:
                walk.philox.baoab(
                    s.w, p, grad, s.anchor, h, step=step, start=s.start, nbeta=walk.law.nbeta,
                    localization=walk.law.localization, keep=keep, spread=spread,
                )  # fmt: skip
                return None
            p.sub_(force(walk, s, grad).mul_(h))
            momentum_sq = p.square().sum(dim=1, dtype=torch.float64) if measure else None
            s.w.addcmul_(p, h, value=0.5)
            p.mul_(keep).add_(s.noise, alpha=spread)
            s.w.addcmul_(p, h, value=0.5)
            return momentum_sq

        loss, momentum_sq = walk.sweep(indices, update, noise=None if is_fused else step, known=known, sums=measure)
        if momentum_sq is None:
            return Step(loss)
        heat = None if noise is None else epsilon[:, 0] / math.tanh(self.friction / 2) * noise / 8
        temperature = momentum_sq / walk.num_parameters
        return Step(loss, kinetic_temperature=temperature, heat=heat, step_size=epsilon[:, 0])

    def _follow_curvature(self, walk: Walk, indices: Tensor | None) -> None:
        """Measure κ in each chain, and lower its ε to 1/κ if it is larger."""
        curvature, self.state["direction"] = top_eigenvalue(
            walk.posterior, walk.w, indices, self.state["direction"], nbeta=walk.law.nbeta, iterations=_WATCH_ITERATIONS
        )
        ceiling = _MAX_CURVATURE / (self.step_size * (curvature + walk.law.localization)).clamp_min(1e-300)
        self.state["shrink"] = torch.minimum(self.state["shrink"], ceiling[:, None])

    def num_gradients(self, *, steps: int, measured: int, is_full: bool) -> int:
        """One a step, one more at a measured step with minibatches, and those that follow the curvature."""
        watched = max(0, steps - 1) // _WATCH_EVERY if self.adapt_step_size else 0
        return steps + (0 if is_full else measured) + watched * (_WATCH_ITERATIONS + 1)


def first_momentum(walk: Walk) -> Tensor:
    """p ~ N(0, I), `[chain, parameter]`, from the noise of step −1."""
    momentum = torch.empty_like(walk.w)
    pieces = walk.pieces_of(momentum)
    for s in walk.noisy_segments(-1):
        s.of(pieces).copy_(s.noise)
    return momentum
