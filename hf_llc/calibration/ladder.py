"""γ from above, where a pilot at weak γ is thrown out: near-zero loss is near-zero curvature at w*, not around it.

A rung is a short run at one γ, from where the rung above ended. γ is strong at first, so that the chain hardly moves,
and falls by a factor of four. The last rung that holds gives γ, and step size and friction for the curvature there.
"""

from __future__ import annotations

import math
from dataclasses import replace

from hf_llc.calibration.pilot import Pilot
from hf_llc.posterior.posterior import Posterior
from hf_llc.samplers.effective_step import effective_step_size, relaxing_localization

_NEAR = 0.01
"""‖w − w*‖ over ‖w*‖ to which the first γ holds the chain."""

_FACTOR = 4.0
"""γ of a rung over that of the next."""

_STIFFER = 8.0
"""Growth of the curvature within a rung from which on its step size was not that of the place it came to."""

_LOST = 0.1
"""Share of the way from L_n(w*) to the loss of a constant predictor beyond which a chain no longer stays near w*."""


_FRICTION = 1.0
"""Least friction: momentum that lasts carries a chain through a narrow valley before its step size can follow."""

_LEAST_LLC = 0.05
"""λ̂ beside which heat counts, at least."""


def is_lost(pilot: Pilot) -> bool:
    """A block of the pilot was not finite, or its mean loss was far from L_n(w*)."""
    return any(not _is_near(pilot, row["llc"]) for row in pilot.path)


def _is_near(pilot: Pilot, excess: float) -> bool:
    """Whether a mean of nβ(L_B(w) − L_B(w*)) is finite and below `_LOST`."""
    trivial, init_loss = pilot.posterior.problem.trivial_loss, pilot.posterior.init_loss
    if trivial is None or trivial <= init_loss:
        return math.isfinite(excess)
    return math.isfinite(excess) and excess <= _LOST * pilot.law.nbeta * (trivial - init_loss)


def strongest_localization(posterior: Posterior) -> float:
    """The γ at which d directions that it alone holds spread over `_NEAR` of ‖w*‖."""
    size = float(posterior.buffer.norm(posterior.start(1)))
    return posterior.num_parameters / (_NEAR * max(size, 1.0)) ** 2


def come_from_above(pilot: Pilot) -> None:
    """Give a pilot whose γ is "auto" the settings of the weakest γ that holds it near w*.

    The rungs are added to the pilot's path. If not even the first one holds, the settings are those of it.
    """
    asked = pilot.sample
    localization = strongest_localization(pilot.posterior)
    pilot.begin_again()
    pilot.least_friction, pilot.least_llc = _FRICTION, _LEAST_LLC
    chosen = None
    while True:
        pilot.sample = replace(asked, localization=localization)
        pilot.law = replace(pilot.law, localization=localization)
        before = pilot.curvature.loss
        pilot.step_at(pilot.path[-1]["steps"])
        is_stiffer = pilot.curvature.loss > _STIFFER * max(before, localization)
        holds = _is_near(pilot, pilot.path[-1]["llc"]) and not is_stiffer
        if chosen is not None and not holds:
            break
        chosen = pilot.step_size, pilot.friction, pilot.gradient, pilot.law, pilot.energy_curvature
        slow = effective_step_size(pilot.step_size, pilot.friction)
        weakest = relaxing_localization(slow, asked.steps_allowed)
        if not holds or localization <= weakest:
            break
        localization = max(float(f"{localization / _FACTOR:.2g}"), weakest)
    step_size, pilot.friction, pilot.gradient, pilot.law, curvature = chosen
    pilot.step_size = step_size / 2  # chains run on for longer than a rung, to where it is stiffer still
    pilot.curvature.loss = curvature - pilot.law.localization
    pilot.sample = asked
