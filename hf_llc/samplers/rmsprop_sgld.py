"""RMSProp-SGLD as the field runs it (Li et al. 2016; Hitchcock and Hoogland, arXiv 2507.21449): for comparison."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_llc.samplers.kernel import Kernel, Step
from hf_llc.samplers.langevin import grad_dot
from hf_llc.samplers.psgld import preconditioned_diffuse
from hf_llc.samplers.segment import Segment
from hf_llc.samplers.walk import Walk


class RMSPropSGLD(Kernel):
    """Δw = (ε/2) A_t [−nβ ∇L_B(w) − γ(w − w*)] + N(0, ε A_t), A_t = 1/(√V_t + c), adapting without end.

    V_t = 0.99 V_{t−1} + 0.01 (∇L_B)², with V_0 = 0 and this step's gradient in V_t. The law is not the posterior: A_t
    depends on the gradient that it multiplies, and the term ½∇·A is left out. `AdaptiveSGLD` freezes A instead.

    Args:
        step_size: ε. Where gradients vanish A_t = 1/c, so that ε here moves as ε/c does in SGLD.
        rmsprop_eps: c, in the units of ∇L_B. The default is that of the field's libraries.
    """

    step_size_hint = "a tenth of sgld's or so"
    state_copies = 1

    _DECAY = 0.99

    def __init__(self, step_size: float, *, rmsprop_eps: float = 0.1) -> None:
        super().__init__(step_size)
        self.rmsprop_eps = rmsprop_eps

    @torch.no_grad()
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """The squared gradient goes into V, then one move."""
        if not self.state:
            self.state["square_avg"] = torch.zeros_like(walk.w)
        square_avg = walk.pieces_of(self.state["square_avg"])

        def update(s: Segment, grad: Tensor) -> Tensor | None:
            v = s.of(square_avg)
            v.mul_(self._DECAY).addcmul_(grad, grad, value=1 - self._DECAY)
            a = 1 / (v.sqrt() + self.rmsprop_eps)
            dot = grad_dot(walk, s, grad, a) if measure else None
            preconditioned_diffuse(walk, s, grad, a, self.step_size)
            return dot

        loss, dot = walk.sweep(indices, update, noise=step, sums=measure)
        return Step(loss, grad_dot=dot)
