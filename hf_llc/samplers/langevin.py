"""What samplers share: the drift and the noise of a Langevin step, and the Metropolis–Hastings test."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_llc.backend.random_streams import uniform
from hf_llc.samplers.segment import Segment
from hf_llc.samplers.walk import Walk


def drift(walk: Walk, s: Segment, grad: Tensor, step_size: float) -> None:
    """w ← w + (ε/2)·[−nβ ∇L_B(w) − γ(w − w*)] on one segment, in place; `grad` is ∇L_B on it."""
    half = step_size / 2
    pull = half * walk.law.localization
    if pull:
        s.w.lerp_(s.w_star, pull)
    s.w.add_(grad, alpha=-half * walk.law.nbeta)


def force(walk: Walk, s: Segment, grad: Tensor) -> Tensor:
    """∇U = nβ ∇L_B + γ(w − w*) on one segment, a new tensor `[chain, k]`."""
    energy_gradient = grad * walk.law.nbeta
    if walk.law.localization:
        energy_gradient.add_(s.w - s.w_star, alpha=walk.law.localization)
    return energy_gradient


def noise_step(walk: Walk, step: int) -> int | None:
    """The step whose noise `diffuse` needs in the segments; None on a GPU, where its kernel draws the noise itself."""
    return step if walk.philox is None else None


def diffuse(walk: Walk, s: Segment, grad: Tensor, step_size: float, *, step: int) -> None:
    """w ← w + (ε/2)·[−nβ ∇L_B(w) − γ(w − w*)] + N(0, ε I) on one segment, in place ([L], Algorithm 1)."""
    spread = math.sqrt(step_size)
    if walk.philox is None:
        drift(walk, s, grad, step_size)
        s.w.add_(s.noise, alpha=spread)
        return
    half = step_size / 2
    pull, push = half * walk.law.localization, half * walk.law.nbeta
    walk.philox.diffuse(s.w, grad, s.anchor, step=step, start=s.start, pull=pull, push=push, spread=spread)


@torch.no_grad()
def move(walk: Walk, grad: list[Tensor], *, step_size: float, step: int) -> None:
    """`diffuse` on all segments."""
    for s in walk.noisy_segments(noise_step(walk, step)):
        diffuse(walk, s, s.of(grad), step_size, step=step)


@torch.no_grad()
def log_accept(
    walk: Walk,
    *,
    old: Tensor,
    old_loss: Tensor,
    old_grad: list[Tensor],
    new_loss: Tensor,
    new_grad: list[Tensor],
    step_size: float,
) -> Tensor:
    """log of π(w′) q(w|w′) / (π(w) q(w′|w)) for w = `old` and w′ = `walk.w`, on one minibatch; float64 `[chain]`.

    With v = w′ − w, G = ∇log π(w) and G′ = ∇log π(w′),

        log q(w|w′) − log q(w′|w) = −(G + G′)·(v/2 + (ε/8)(G′ − G)).

    The two Gaussian log densities are of the order of the number of parameters; written so, they do not cancel.

    Args:
        walk: at w′.
        old: w, `[chain, parameter]`.
        old_loss: L_B(w), `[chain]`.
        old_grad: ∇L_B(w), in pieces.
        new_loss: L_B(w′).
        new_grad: ∇L_B(w′).
        step_size: ε.
    """
    nbeta, gamma = walk.law.nbeta, walk.law.localization
    total = torch.zeros_like(new_loss)
    at = 0
    for s in walk.segments():
        before = old[:, at : at + s.w.shape[1]].double()
        at += s.w.shape[1]
        after, anchor = s.w.double(), s.w_star.double()
        v = after - before
        g_before = -nbeta * s.of(old_grad).double() - gamma * (before - anchor)
        g_after = -nbeta * s.of(new_grad).double() - gamma * (after - anchor)
        total = total - (gamma / 2) * (v * (after + before - 2 * anchor)).sum(1)
        total = total - ((g_before + g_after) * (v / 2 + (step_size / 8) * (g_after - g_before))).sum(1)
    return walk.sum_over_shards(total) - nbeta * (new_loss - old_loss)


def grad_dot(walk: Walk, s: Segment, grad: Tensor, preconditioner: Tensor | None = None) -> Tensor:
    """⟨nβ∇L_B, A∇U_B⟩ on one segment, float64 `[chain]`, for `judging.statistics.step_size_bias`.

    U = nβL + (γ/2)‖w − w*‖², and A is the diagonal `preconditioner`, or the identity if it is None.
    """
    nbeta, gamma = walk.law.nbeta, walk.law.localization
    pull = nbeta * grad.double()
    both = pull * (pull + gamma * (s.w - s.w_star).double())
    return (both if preconditioner is None else both * preconditioner).sum(1)


def accept_prob(log_ratio: Tensor) -> Tensor:
    """min(1, exp(log ratio)); 0 if the log ratio is not a number, as when the proposal's loss is not finite."""
    return torch.nan_to_num(log_ratio, nan=-math.inf).clamp(max=0.0).exp()


@torch.no_grad()
def accept_or_undo(
    walk: Walk,
    probability: Tensor,
    *,
    old: Tensor,
    before: tuple[Tensor, list[Tensor]],
    after: tuple[Tensor, list[Tensor]],
    step: int,
) -> tuple[Tensor, list[Tensor]]:
    """Metropolis: each chain keeps its proposal `walk.w` with its probability, else goes back to `old`, in place.

    Args:
        walk: at the proposals.
        probability: of acceptance, float64 `[chain]`.
        old: positions before the proposals, `[chain, parameter]`.
        before: loss and gradient at `old`.
        after: loss and gradient at the proposals.
        step: number of the step, which picks the uniform random numbers.

    Returns:
        Loss and gradient where each chain is now.
    """
    draws = [uniform(walk.seed, chain, step, purpose="accept") for chain in walk.chains]
    accepted = torch.tensor(draws, dtype=torch.float64, device=probability.device) < probability
    rejected = ~accepted[:, None]
    walk.w.copy_(torch.where(rejected, old, walk.w))
    grad = [torch.where(rejected, a, b) for a, b in zip(before[1], after[1], strict=True)]
    return torch.where(accepted, after[0], before[0]), grad
