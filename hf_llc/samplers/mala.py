"""Metropolis-adjusted Langevin algorithm (Roberts and Tweedie 1996)."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_llc.samplers.kernel import Kernel, Step
from hf_llc.samplers.langevin import accept_or_undo, accept_prob, log_accept, move
from hf_llc.samplers.walk import Walk


class MALA(Kernel):
    """An SGLD step as proposal, accepted with probability min(1, π(w′) q(w|w′) / π(w) q(w′|w)).

    With full batches the law is exact at every ε. With minibatches, loss and gradient at both ends come from the same
    minibatch, as in arXiv 2308.12108, appendix M; the law is then not the posterior.
    """

    is_exact = True
    needs_whole_gradients = True
    step_copies = 5  # measured: both gradients, the old position, temporaries of the test

    def __init__(self, step_size: float) -> None:
        super().__init__(step_size)
        self._known: tuple[Tensor, list[Tensor]] | None = None

    @torch.no_grad()
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One proposal, accepted or rejected. With full batches the gradient at w is that of the last step."""
        known = self._known if indices is None else None
        loss, grad = walk.gradient(indices) if known is None else known
        old = walk.w.clone()
        move(walk, grad, step_size=self.step_size, step=step)
        new_loss, new_grad = walk.gradient(indices)
        ratio = log_accept(
            walk, old=old, old_loss=loss, old_grad=grad, new_loss=new_loss, new_grad=new_grad, step_size=self.step_size
        )
        probability = accept_prob(ratio)
        self._known = accept_or_undo(
            walk, probability, old=old, before=(loss, grad), after=(new_loss, new_grad), step=step
        )
        return Step(loss, probability)

    def num_gradients(self, *, steps: int, measured: int, is_full: bool) -> int:
        """One a step; two with minibatches, since the last step's gradient at w is of another minibatch."""
        return steps * (1 if is_full else 2)
