"""The step size of the overdamped chain that a sampler amounts to on flat directions."""

from __future__ import annotations

import math

from hf_llc.records.chain_settings import ChainSettings


def effective_step_size(step_size: float, friction: float | None) -> float:
    """ε_eff, the step size that slow directions see: ε·coth(friction/2), or ε without momentum (friction None)."""
    return step_size if friction is None else step_size / math.tanh(friction / 2)


def relaxing_localization(slow_step_size: float, steps: int) -> float:
    """The least γ at which flat directions relax, in 2/(ε_eff γ) steps, within a twentieth of a chain's steps.

    The half that is kept then holds twenty independent energies of directions at nβh = γ, and ten of softer ones. A
    tenth would do for the burn-in, but where soft directions make up λ̂, with no gradient noise over them, chains then
    disagree now and then: r̂ was above 1.1 in 2 of 12 runs on quadratics, and in none of 12 at a twentieth.

    Args:
        slow_step_size: ε_eff.
        steps: that a chain may take.
    """
    return float(f"{40 / (slow_step_size * steps):.2g}")


def slow_step_size(settings: ChainSettings) -> float:
    """ε_eff of these settings: flat directions relax in 2/(ε_eff γ) steps."""
    return effective_step_size(settings.step_size, settings.friction)
