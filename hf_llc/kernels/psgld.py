"""SGLD with a diagonal preconditioner A that is fixed, or adapted in burn-in and then frozen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_llc.kernels.kernel import Kernel, pieces_of
from hf_llc.kernels.langevin import force, grad_dot
from hf_llc.walk import Step, Walk


class PreconditionedSGLD(Kernel):
    """Δw = (ε/2) A [−nβ ∇L_B(w) − γ(w − w*)] + N(0, ε A), with a fixed positive diagonal A.

    The noise has A too: without it the law is another one (arXiv 2308.12108, eq. 27, leaves it out). On a quadratic the
    stationary variance of coordinate i is 1/(a_i (1 − ε A_i a_i/4)); ε < 4/max A_i a_i.

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
        loss, grad = walk.gradient(indices)
        a = pieces_of(walk, self._fixed.to(walk.w).expand_as(walk.w))
        dot = grad_dot(walk, grad, a) if measure else None
        preconditioned_move(walk, grad, a, step_size=self.step_size, step=step)
        return Step(loss, grad_dot=dot)


class AdaptiveSGLD(Kernel):
    """The same with A learnt in the first `freeze_after` steps and fixed from there on.

    A_i = (1 + c)/(√(V_i/max V) + c), V the running mean of the squared minibatch gradients (RMSProp) and c = 0.1, so
    that 1 ≤ A_i ≤ 11, with 1 where gradients are largest: ε keeps there the meaning it has in SGLD. V is that of the
    steps before. While A moves with the gradient the law is not exact (the term ½∇·A is missing): draws are to be kept
    from `freeze_after` on only.

    Args:
        step_size: ε.
        freeze_after: steps that adapt, at least 1.
    """

    _DECAY, _FLOOR = 0.99, 0.1

    def __init__(self, step_size: float, *, freeze_after: int) -> None:
        super().__init__(step_size)
        self.freeze_after = freeze_after
        self._frozen: list[Tensor] | None = None

    @torch.no_grad()
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One move, and in burn-in one more squared gradient."""
        loss, grad = walk.gradient(indices)
        if not self.state:
            self.state["square_avg"] = torch.cat([g.square() for g in grad], dim=1)
        square_avg = pieces_of(walk, self.state["square_avg"])
        is_frozen = step >= self.freeze_after
        a = self._frozen if is_frozen and self._frozen is not None else self._preconditioner(walk, square_avg)
        self._frozen = a if is_frozen else None
        dot = grad_dot(walk, grad, a) if measure else None
        preconditioned_move(walk, grad, a, step_size=self.step_size, step=step)
        if not is_frozen:
            for v, g in zip(square_avg, grad, strict=True):
                v.lerp_(g.square(), 1 - self._DECAY)
        return Step(loss, grad_dot=dot)

    def _preconditioner(self, walk: Walk, square_avg: list[Tensor]) -> list[Tensor]:
        """A in the pieces of the gradient."""
        none = square_avg[0].new_zeros(len(walk.w))  # a process may hold no parameter
        largest = torch.stack([none, *(v.amax(dim=1) for v in square_avg if v.shape[1])]).amax(dim=0)[:, None]
        largest = walk.posterior.over_shards(largest, largest=True)
        scale = largest.clamp_min(torch.finfo(largest.dtype).tiny)  # a loss without gradient: A = 11 throughout
        return [(1 + self._FLOOR) / ((v / scale).sqrt_() + self._FLOOR) for v in square_avg]


def preconditioned_move(walk: Walk, grad: list[Tensor], a: list[Tensor], *, step_size: float, step: int) -> None:
    """w ← w − (ε/2) A ∇U_B(w) + √(εA) ξ, in place; A in the pieces of the gradient."""
    half, spread = step_size / 2, math.sqrt(step_size)
    for s in walk.noisy_segments(step):
        scale = s.of(a)
        s.w.addcmul_(scale, force(walk, s, s.of(grad)), value=-half)
        s.w.addcmul_(scale.sqrt(), s.noise, value=spread)
