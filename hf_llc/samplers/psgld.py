"""SGLD with a diagonal preconditioner A, given or learnt in burn-in and then frozen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_llc.samplers.kernel import Kernel, Step
from hf_llc.samplers.langevin import force, grad_dot
from hf_llc.samplers.segment import Segment
from hf_llc.samplers.walk import Walk


class PreconditionedSGLD(Kernel):
    """Δw = (ε/2) A [−nβ ∇L_B(w) − γ(w − w*)] + N(0, ε A), with a fixed positive diagonal A.

    The noise must have A too, or the law is not the posterior; arXiv 2308.12108, eq. 27, leaves it out. On a quadratic
    loss with full batches, coordinate i has the stationary variance 1/(a_i (1 − ε A_i a_i/4)), for ε < 4/max A_i a_i.

    Args:
        step_size: ε.
        preconditioner: A, `[parameter]`, in the order of the sampled parameters.
    """

    def __init__(self, step_size: float, preconditioner: Tensor) -> None:
        super().__init__(step_size)
        self._fixed = preconditioner

    @torch.no_grad()
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One move."""
        a = walk.pieces_of(self._fixed.to(walk.w).expand_as(walk.w))

        def update(s: Segment, grad: Tensor) -> Tensor | None:
            dot = grad_dot(walk, s, grad, s.of(a)) if measure else None
            preconditioned_diffuse(walk, s, grad, s.of(a), self.step_size)
            return dot

        loss, dot = walk.sweep(indices, update, noise=step, sums=measure)
        return Step(loss, grad_dot=dot)


class AdaptiveSGLD(Kernel):
    """`PreconditionedSGLD` with A learnt in the first `freeze_after` steps and fixed afterwards.

    A_i = (1 + c)/(√(V_i/max V) + c) with c = 0.1. V is the running mean of the squared minibatch gradients of the steps
    before (RMSProp). So 1 ≤ A_i ≤ 11, and A_i = 1 where gradients are largest, where ε means the same as in SGLD.

    While A changes the law is not the posterior, since the term ½∇·A is missing: keep no draw before `freeze_after`.

    Args:
        step_size: ε.
        freeze_after: number of steps in which A is learnt, at least 1.
    """

    settings = ("freeze_after",)
    learns_in_burnin = True
    state_copies = 1

    _DECAY, _FLOOR = 0.99, 0.1

    def __init__(self, step_size: float, *, freeze_after: int = 200) -> None:
        super().__init__(step_size)
        self.freeze_after = freeze_after
        self._frozen_largest: Tensor | None = None

    @torch.no_grad()
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One move; before `freeze_after` the squared gradient then goes into V."""
        known = None
        if not self.state:
            known = self._first(walk, indices)
        square_avg = walk.pieces_of(self.state["square_avg"])
        is_frozen = step >= self.freeze_after
        largest = self._frozen_largest if is_frozen and self._frozen_largest is not None else _largest(walk, square_avg)
        self._frozen_largest = largest if is_frozen else None

        def update(s: Segment, grad: Tensor) -> Tensor | None:
            v = s.of(square_avg)
            a = (1 + self._FLOOR) / ((v / largest).sqrt_() + self._FLOOR)
            dot = grad_dot(walk, s, grad, a) if measure else None
            preconditioned_diffuse(walk, s, grad, a, self.step_size)
            if not is_frozen:
                v.lerp_(grad.square(), 1 - self._DECAY)
            return dot

        loss, dot = walk.sweep(indices, update, noise=step, known=known, sums=measure)
        return Step(loss, grad_dot=dot)

    def _first(self, walk: Walk, indices: Tensor | None) -> tuple[Tensor, list[Tensor]] | None:
        """Set V to the first squared gradient: A needs max V, and so all of V, before any parameter moves.

        Returns:
            That loss and gradient, for the move; None if gradients never exist at once: the move computes it again.
        """
        self.state["square_avg"] = torch.empty_like(walk.w)
        square_avg, known = walk.pieces_of(self.state["square_avg"]), walk.whole_gradient(indices)

        def square(s: Segment, grad: Tensor) -> None:
            torch.mul(grad, grad, out=s.of(square_avg))

        walk.sweep(indices, square, noise=None, known=known)
        return known


def _largest(walk: Walk, square_avg: list[Tensor]) -> Tensor:
    """max V of each chain, `[chain, 1]`. It is above 0, so that a loss without gradient gets A = 11 everywhere."""
    none = walk.w.new_zeros(len(walk.w))  # a process may hold no parameter
    largest = torch.stack([none, *(v.amax(dim=1) for v in square_avg if v.shape[1])]).amax(dim=0)[:, None]
    largest = walk.max_over_shards(largest)
    return largest.clamp_min(torch.finfo(largest.dtype).tiny)


def preconditioned_diffuse(walk: Walk, s: Segment, grad: Tensor, a: Tensor, step_size: float) -> None:
    """w ← w − (ε/2) A ∇U_B(w) + √(εA) ξ on one segment, in place; `a` is A on the segment."""
    s.w.addcmul_(a, force(walk, s, grad), value=-step_size / 2)
    s.w.addcmul_(a.sqrt(), s.noise, value=math.sqrt(step_size))
