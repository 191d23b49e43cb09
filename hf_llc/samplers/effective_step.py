"""The effective step ε_eff: the step size of the overdamped chain that a sampler amounts to in flat directions.

A direction of curvature a relaxes in 2/(ε_eff a) steps. The derivation is in docs/mathematics.md.
"""

from __future__ import annotations

import math

from hf_llc.records.chain_settings import ChainSettings


def effective_step_size(step_size: float, friction: float | None) -> float:
    """ε_eff = ε·coth(friction/2), or ε if friction is None, without momentum."""
    return step_size if friction is None else step_size / math.tanh(friction / 2)


def relaxing_localization(slow_step_size: float, steps: int) -> float:
    """The smallest γ at which flat directions relax within a twentieth of a chain's steps: 2/(ε_eff γ) = steps/20.

    The kept half of the chain then holds 20 independent energies of a direction with nβh = γ, and 10 of a softer one.

    Args:
        slow_step_size: ε_eff.
        steps: number of steps that a chain may take, burn-in included.
    """
    # A tenth of the steps is enough for the burn-in. But if flat directions make up λ̂ and gradients have no noise
    # there, chains disagree now and then: r̂ > 1.1 in 2 of 12 runs on quadratics, against 0 of 12 at a twentieth.
    return float(f"{40 / (slow_step_size * steps):.2g}")


def slow_step_size(settings: ChainSettings) -> float:
    """ε_eff at these settings."""
    return effective_step_size(settings.step_size, settings.friction)
