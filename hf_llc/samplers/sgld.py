"""Stochastic gradient Langevin dynamics, Algorithm 1 of arXiv 2308.12108 (Welling and Teh 2011)."""

from __future__ import annotations

from torch import Tensor

from hf_llc.samplers.kernel import Kernel
from hf_llc.samplers.langevin import accept_prob, diffuse, grad_dot, log_accept, noise_of
from hf_llc.samplers.walk import Segment, Step, Walk


class SGLD(Kernel):
    """Δw = (ε/2)·[−nβ ∇L_B(w) − γ(w − w*)] + N(0, ε I).

    ε is the variance of the noise; libraries that write √(2ε) call half of it the step size. On a quadratic loss with
    full batches and a_i = nβ h_i + γ the stationary variance of coordinate i is 1/(a_i (1 − ε a_i/4)); ε < 4/max a_i.
    """

    unmeasured_in_backward = "the acceptance that MALA would have"
    step_copies = 3  # both gradients and the old weights, for the acceptance

    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One move. `measure` adds one forward and backward pass: the probability with which MALA would accept it.

        That takes the old weights and two whole gradients, so it is left out where there are none.
        """

        def update(s: Segment, grad: Tensor) -> Tensor | None:
            dot = grad_dot(walk, s, grad) if measure else None
            diffuse(walk, s, grad, self.step_size, step=step)
            return dot

        before = walk.whole_gradient(indices) if measure else None
        old = None if before is None else walk.w.clone()
        loss, dot = walk.sweep(indices, update, noise=noise_of(walk, step), known=before, sums=measure)
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
        """One a step, and one more where a proposal was looked at."""
        return steps + measured
