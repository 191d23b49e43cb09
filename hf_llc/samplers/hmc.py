"""Hamiltonian Monte Carlo with full batches (Duane et al. 1987; Neal 2011), for reference values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_llc.backend.random_streams import uniform
from hf_llc.errors import InputError
from hf_llc.samplers.kernel import Kernel, Step
from hf_llc.samplers.langevin import accept_or_undo, accept_prob, force
from hf_llc.samplers.walk import Walk


class HMC(Kernel):
    """Fresh momentum, leapfrog steps of time h = √ε at unit mass, then a Metropolis test: exact at every ε.

    Each trajectory of each chain has its own h, drawn uniformly from 0.8√ε … 1.2√ε: at a fixed h a trajectory could
    come back to where it began. One leapfrog step of h = √ε is MALA.

    Args:
        step_size: ε.
        num_leapfrog_steps: leapfrog steps, and so gradients, a trajectory.
    """

    settings = ("num_leapfrog_steps",)
    is_exact = True
    needs_full_batch = True
    needs_whole_gradients = True
    step_copies = 8  # measured: gradients, momentum, the old position, temporaries

    def __init__(self, step_size: float, *, num_leapfrog_steps: int = 10) -> None:
        super().__init__(step_size)
        self.num_leapfrog_steps = num_leapfrog_steps
        self._known: tuple[Tensor, list[Tensor]] | None = None

    @torch.no_grad()
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """One trajectory, accepted or rejected. Its last loss and gradient are kept for the next.

        Raises:
            InputError: `indices` is a minibatch.
        """
        if indices is not None:
            raise InputError("hmc needs all examples in every step", remedy="set batch_size to 'full'")
        loss, grad = walk.gradient(None) if self._known is None else self._known
        old, h = walk.w.clone(), self._time_steps(walk, step)
        momentum = torch.empty_like(walk.w)
        p = walk.pieces_of(momentum)
        for s in walk.noisy_segments(step):
            s.of(p).copy_(s.noise)
        before = self._kinetic_and_pull(walk, momentum)
        self._kick(walk, p, grad, h / 2)
        new_loss, new_grad = loss, grad
        for leap in range(self.num_leapfrog_steps):
            walk.w.addcmul_(momentum, h)
            new_loss, new_grad = walk.gradient(None)
            is_last = leap + 1 == self.num_leapfrog_steps
            self._kick(walk, p, new_grad, h / 2 if is_last else h)
        after = self._kinetic_and_pull(walk, momentum)
        probability = accept_prob(before - after - walk.law.nbeta * (new_loss - loss))
        self._known = accept_or_undo(
            walk, probability, old=old, before=(loss, grad), after=(new_loss, new_grad), step=step
        )
        return Step(loss, probability)

    def num_gradients(self, *, steps: int, measured: int, is_full: bool) -> int:
        """`num_leapfrog_steps` a step."""
        return steps * self.num_leapfrog_steps

    def _time_steps(self, walk: Walk, step: int) -> Tensor:
        """h of this step's trajectory, `[chain, 1]`."""
        jitter = [0.8 + 0.4 * uniform(walk.seed, chain, step, purpose="time step") for chain in walk.chains]
        return math.sqrt(self.step_size) * torch.tensor(jitter, dtype=walk.w.dtype, device=walk.w.device)[:, None]

    @staticmethod
    def _kick(walk: Walk, p: list[Tensor], grad: list[Tensor], time: Tensor) -> None:
        """p ← p − time·∇U."""
        for s in walk.segments():
            s.of(p).addcmul_(force(walk, s, s.of(grad)), time, value=-1)

    @staticmethod
    def _kinetic_and_pull(walk: Walk, momentum: Tensor) -> Tensor:
        """½‖p‖² + (γ/2)‖w − w*‖², float64 `[chain]`."""
        kinetic = walk.sum_over_shards(momentum.square().sum(dim=1, dtype=torch.float64))
        return (kinetic + walk.law.localization * walk.sq_distance()) / 2
