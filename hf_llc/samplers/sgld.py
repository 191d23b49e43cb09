"""Stochastic gradient Langevin dynamics, Algorithm 1 of arXiv 2308.12108 (Welling and Teh 2011)."""

from __future__ import annotations

from torch import Tensor

from hf_llc.samplers.kernel import Kernel, Step
from hf_llc.samplers.langevin import accept_prob, diffuse, grad_dot, log_accept, noise_step
from hf_llc.samplers.segment import Segment
from hf_llc.samplers.walk import Walk


class SGLD(Kernel):
    """Δw = (ε/2)·[−nβ ∇L_B(w) − γ(w − w*)] + N(0, ε I).

    ε is the variance of the noise. Libraries whose noise is √(2ε) call half of that the step size.

    On a quadratic loss with full batches, coordinate i with a_i = nβ h_i + γ has the stationary variance
    1/(a_i (1 − ε a_i/4)), for ε < 4/max a_i.
    """

    unmeasured_in_backward = "the acceptance that MALA would have"
    step_copies = 3  # both gradients and the old weights, for the acceptance

    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One move; `measure` adds the probability with which MALA would accept it, for one more gradient.

        The probability takes the old position and the gradient at both ends, all parameters at once. It is left out if
        steps are taken inside the backward pass, where those never exist.
        """

        def update(s: Segment, grad: Tensor) -> Tensor | None:
            dot = grad_dot(walk, s, grad) if measure else None
            diffuse(walk, s, grad, self.step_size, step=step)
            return dot

        before = walk.whole_gradient(indices) if measure else None
        old = None if before is None else walk.w.clone()
        loss, dot = walk.sweep(indices, update, noise=noise_step(walk, step), known=before, sums=measure)
        if before is None or old is None:
            return Step(loss, grad_dot=dot)
        new_loss, new_grad = walk.gradient(indices)
        ratio = log_accept(
            walk,
            old=old,
            old_loss=loss,
            old_grad=before[1],
            new_loss=new_loss,
            new_grad=new_grad,
            step_size=self.step_size,
        )
        return Step(loss, accept_prob(ratio), dot)

    def num_gradients(self, *, steps: int, measured: int, is_full: bool) -> int:
        """One a step, and one more at a measured step."""
        return steps + measured
