"""Picks the step size from the acceptance target of [L], appendix H.1, with a pilot chain of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hf_llc.kernels import SGLD
from hf_llc.posterior import Posterior
from hf_llc.walk import Walk

PILOT = -2
"""The pilot's chain number: its noise and batches are nobody else's, so it never touches the estimate's draws."""

ACCEPT_TARGET = (0.9, 0.95)

_BLOCK = 10
"""Steps between two decisions, each with its acceptance."""

_MAX_BLOCKS = 40


def largest_curvature(posterior: Posterior, indices: Tensor | None, *, iterations: int = 10) -> float:
    """Largest eigenvalue of nβ∇²L_B(w*) + γ by power iteration, Hessian-vector products from gradient differences."""
    w_star = posterior.start(1)
    _, base = posterior.gradient(w_star, indices)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(w_star.shape, generator=generator, dtype=w_star.dtype).to(w_star.device)
    v /= v.norm()
    length = 1e-3 * max(float(w_star.norm()), 1.0)
    value = 0.0
    for _ in range(iterations):
        _, moved = posterior.gradient(w_star + length * v, indices)
        product = torch.cat([a - b for a, b in zip(moved, base, strict=True)], dim=1) / length
        value = float(product.norm())
        if not math.isfinite(value) or value == 0:
            break
        v = product / value
    return posterior.nbeta * (value if math.isfinite(value) else 0.0) + posterior.localization


def calibrate_step_size(posterior: Posterior, *, seed: int, batch_size: int) -> dict[str, Any]:
    """ε at which MALA would accept 90–95 % of the pilot's steps.

    Starts at 1/κ, κ the largest curvature at w*, which it never exceeds (SGLD is stable below 4/κ and its excess in
    that direction is a quarter there). Halves ε below the target and raises it by half above, bisecting once both
    sides are known. Acceptance on a step's own minibatch does not see gradient noise: `diagnostics.step_size_bias`
    judges that on the chains themselves.

    Returns:
        step_size, accept_prob, curvature, num_gradients and the path of (step size, acceptance) tried.
    """
    walk = Walk(posterior, [PILOT], seed=seed, batch_size=batch_size)
    curvature = largest_curvature(posterior, walk.batches.indices(0))
    ceiling = 1.0 / max(curvature, 1e-300)
    step_size, low, high = ceiling, 0.0, math.inf
    path: list[list[float]] = []
    for block in range(_MAX_BLOCKS):
        accept = _pilot_block(walk, step_size, block * _BLOCK)
        path.append([step_size, accept])
        if accept < 0.5:  # the pilot may be where no good step leads: back to w*
            walk.w.copy_(posterior.start(1))
        too_small = accept > ACCEPT_TARGET[1]
        if ACCEPT_TARGET[0] <= accept and (not too_small or step_size >= ceiling):
            break
        low, high = (step_size, high) if too_small else (low, step_size)
        if high < 1.05 * low:  # acceptance fell as the pilot moved on: open the bracket again
            low = 0.0
        elsewhere = 1.5 * step_size if too_small else step_size / 2
        step_size = min(math.sqrt(low * high) if low > 0 and high < math.inf else elsewhere, ceiling)
    step_size, accept = min(path, key=lambda tried: max(ACCEPT_TARGET[0] - tried[1], tried[1] - ACCEPT_TARGET[1], 0.0))
    return {
        "step_size": float(f"{step_size:.3g}"),
        "accept_prob": accept,
        "curvature": curvature,
        "num_gradients": 11 + 2 * _BLOCK * len(path),
        "path": path,
    }


def _pilot_block(walk: Walk, step_size: float, start: int) -> float:
    """Mean acceptance over a block of the pilot; 0 where it diverges."""
    kernel, accepts = SGLD(step_size), []
    for step in range(start, start + _BLOCK):
        info = kernel.step(walk, walk.batches.indices(step), step=step, measure=True)
        assert info.accept_prob is not None
        if not math.isfinite(float(info.loss)):
            return 0.0
        accepts.append(float(info.accept_prob))
    return sum(accepts) / _BLOCK
