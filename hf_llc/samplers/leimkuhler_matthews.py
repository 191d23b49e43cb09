"""Overdamped Langevin dynamics with the noise of Leimkuhler and Matthews (2013, Appl. Math. Res. Express)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_llc.samplers.kernel import Kernel, Step
from hf_llc.samplers.langevin import drift
from hf_llc.samplers.segment import Segment
from hf_llc.samplers.walk import Walk


class LeimkuhlerMatthews(Kernel):
    """Δw = (ε/2)·[−nβ ∇L_B(w) − γ(w − w*)] + (√ε/2)(ξ_t + ξ_{t+1}): each step shares half its noise with the next.

    Like SGLD it takes one gradient a step. On a quadratic loss with full batches, coordinate i has exactly the variance
    1/a_i, a_i = nβ h_i + γ, at every ε < 4/max a_i; SGLD's is 1/(a_i (1 − ε a_i/4)).
    """

    measures_heat = True
    unmeasured_in_backward = "the heat of gradient noise, which is then not taken off λ̂,"
    step_copies = 2  # two gradients, for their noise

    @torch.no_grad()
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One move. ξ_t, already used by the last step, is drawn again, so that there is no state to save."""
        known = walk.whole_gradient(indices) if measure else None
        noise = None if known is None else walk.gradient_noise(known[1], step)
        spread = math.sqrt(self.step_size) / 2

        def update(s: Segment, grad: Tensor) -> None:
            drift(walk, s, grad, self.step_size)
            s.w.add_(s.noise, alpha=spread)

        loss, _ = walk.sweep(indices, update, noise=step, known=known)
        for s in walk.noisy_segments(step + 1):
            s.w.add_(s.noise, alpha=spread)
        return Step(loss, heat=None if noise is None else self.step_size * noise / 8)

    def num_gradients(self, *, steps: int, measured: int, is_full: bool) -> int:
        """One a step, and one more at a measured step, whose gradient noise takes a second minibatch."""
        return steps if is_full else steps + measured
