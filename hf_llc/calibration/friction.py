"""The least friction at which gradient noise adds little to λ̂, by the effective step that it makes of ε."""

from __future__ import annotations

import math

from hf_llc.calibration.noise_spectrum import Spectrum, heating_share
from hf_llc.samplers.effective_step import effective_step_size, relaxing_localization

FRICTION = (0.05, 3.0)
"""Least and largest friction. Momentum that outlasts a few oscillations of flat directions gains nothing; above 3 the
chain is overdamped."""

_LEAST_SHARE = 0.1
"""Least ω. The quadrature cannot tell a smaller one from 0."""


def limit_effective_step(step_size: float, ceiling: float, friction: float | None = None) -> tuple[float, float]:
    """The least friction with ε_eff = ε·coth(friction/2) ≤ `ceiling`; if no friction is enough, ε is lowered too.

    Args:
        step_size: the largest stable ε.
        ceiling: largest ε_eff.
        friction: given friction, which is kept; only ε is lowered.

    Returns:
        ε and friction.
    """
    low, high = FRICTION if friction is None else (friction, friction)
    if ceiling >= effective_step_size(step_size, low):
        return step_size, low
    if ceiling <= effective_step_size(step_size, high):
        return ceiling * math.tanh(high / 2), high
    ratio = ceiling / step_size  # coth(friction/2)
    return step_size, math.log((ratio + 1) / (ratio - 1))


def largest_effective_step(allowed: float, step_size: float, spectrum: Spectrum | None, *, steps_allowed: int) -> float:
    """The largest ε_eff with ε_eff·ω ≤ `allowed`, by bisection: a larger ε_eff allows a smaller γ and raises ω.

    Args:
        allowed: where all heat reaches λ̂ (ω = 1).
        step_size: the largest stable ε.
        spectrum: of the gradient noise, which says ω; None: not known, and ω counts as 1.
        steps_allowed: of a chain, which say the γ that an ε_eff allows.
    """
    if spectrum is None:
        return allowed
    low, high = allowed, max(allowed, effective_step_size(step_size, FRICTION[0]))
    for _ in range(40):
        middle = math.sqrt(low * high)
        localization = relaxing_localization(middle, steps_allowed)
        share = max(heating_share(spectrum, localization), _LEAST_SHARE)
        low, high = (middle, high) if middle * share <= allowed else (low, middle)
    return low
