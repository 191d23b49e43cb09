"""γ from above, where a pilot at weak γ is thrown out: near-zero loss is near-zero curvature at w*, not around it.

A rung is a short run at one γ, from where the rung above ended. γ is strong at first, so that the chain hardly moves,
and falls by a factor of four, at last of two. The last rung that holds gives γ. A pilot at that γ, which begins at w*
as chains do, then chooses step size, friction and gradient. Its γ is raised if it does not hold that pilot.
"""

from __future__ import annotations

import math
from dataclasses import replace

from hf_llc.calibration.pilot import Pilot
from hf_llc.posterior.posterior import Posterior
from hf_llc.samplers.effective_step import effective_step_size, relaxing_localization

_NEAR = 0.01
"""‖w − w*‖ over ‖w*‖ to which the first γ holds the chain."""

_FACTOR, _LAST_FACTOR = 4.0, 2.0
"""γ of a rung over that of the next; between the rung that holds and the one that does not."""

_LOST = 0.25
"""Share of the way from L_n(w*) to the loss of a constant predictor beyond which a chain no longer stays near w*: half
of that at which it has left the basin."""

_STIFFER = 8.0
"""Growth of the curvature within a rung from which on its step size was not that of the place it came to."""

_TRIES = 3
"""Runs of a rung, each with a quarter of the step size, before it is said not to hold; runs of a pilot likewise."""

SLOWER = 4
"""How much more slowly than by `relaxing_localization` flat directions may relax where γ decides what λ̂ is: in a fifth
of the steps. Chains then run on until they have (`judging.stopping`)."""

_FRICTION = 1.0
"""Least friction of a rung: momentum that lasts carries a chain through a narrow valley before ε can follow."""

_FAR = 10.0
"""nβ(L_B(w) − L_B(w*)) a parameter that no chain near w* has: λ̂ is at most half of their number."""

_LEAST_LLC = 0.05
"""λ̂ beside which heat counts, at least."""


def is_lost(pilot: Pilot) -> bool:
    """A block of the pilot's last run was not finite, or its mean loss was far from L_n(w*)."""
    return any(not _is_near(pilot, row["llc"]) for row in pilot.path[pilot.begun :])


def _is_near(pilot: Pilot, excess: float, share: float = _LOST) -> bool:
    """Whether a mean of nβ(L_B(w) − L_B(w*)) is finite and below `share` of the way to a constant predictor's.

    Where that is not known it is to be below `_FAR` a parameter.
    """
    trivial, init_loss = pilot.posterior.problem.trivial_loss, pilot.posterior.init_loss
    if trivial is None or trivial <= init_loss:
        return math.isfinite(excess) and excess <= _FAR * pilot.posterior.num_parameters
    return math.isfinite(excess) and excess <= share * pilot.law.nbeta * (trivial - init_loss)


def strongest_localization(posterior: Posterior) -> float:
    """The γ at which d directions that it alone holds spread over `_NEAR` of ‖w*‖."""
    size = float(posterior.buffer.norm(posterior.start(1)))
    return posterior.num_parameters / (_NEAR * max(size, 1.0)) ** 2


def come_from_above(pilot: Pilot) -> None:
    """Give a pilot whose γ is "auto" the settings of the weakest γ that holds it near w*.

    The rungs are added to the pilot's path.
    """
    asked = pilot.sample
    pilot.least_llc = _LEAST_LLC
    localization = _weakest_that_holds(pilot)
    known = pilot.curvature.loss  # not that at w*, or the pilot would be thrown out again
    for _ in range(_TRIES):
        _set_localization(pilot, localization)
        pilot.begin_again()
        pilot.curvature.loss = known
        pilot.run()
        if not _ends_lost(pilot) or pilot.is_time_up():
            break
        localization *= _FACTOR
    slow = effective_step_size(pilot.step_size, pilot.friction)
    least = relaxing_localization(slow, asked.steps_allowed) / SLOWER
    _set_localization(pilot, float(f"{max(pilot.law.localization, least):.2g}"))
    pilot.sample = asked


def keep_localization(pilot: Pilot) -> None:
    """Run a pilot whose γ is given, and which was thrown out, again with smaller step sizes.

    One that walked away from w*, and is still better than a constant predictor, would do so at any step size.
    """
    for _ in range(_TRIES - 1):
        if _is_near(pilot, pilot.path[-1]["llc"], 1.0) or pilot.is_time_up():
            return
        known = pilot.curvature.loss
        pilot.begin_again()
        pilot.curvature.loss = 4 * max(known, pilot.energy_curvature)
        pilot.run()


def _ends_lost(pilot: Pilot) -> bool:
    """Whether the last block was lost: a run mends its own step size after a block that was."""
    return not _is_near(pilot, pilot.path[-1]["llc"])


def _set_localization(pilot: Pilot, localization: float) -> None:
    pilot.sample = replace(pilot.sample, localization=localization)
    pilot.law = replace(pilot.law, localization=localization)


def _weakest_that_holds(pilot: Pilot) -> float:
    """Go down the ladder from `strongest_localization`; that γ itself if not even it holds."""
    held = localization = strongest_localization(pilot.posterior)
    pilot.begin_again()
    pilot.curvature.refresh(pilot.walk.w, pilot.walk.batches.indices(0), iterations=20)
    factor, kept_friction = _FACTOR, pilot.least_friction
    pilot.least_friction = _FRICTION
    while True:
        _set_localization(pilot, localization)
        if _holds(pilot):
            held = localization
            slow = effective_step_size(pilot.step_size, kept_friction)
            weakest = relaxing_localization(slow, pilot.sample.steps_allowed) / SLOWER
            if held <= 1.01 * weakest or factor == _LAST_FACTOR or pilot.is_time_up():
                break
            localization = float(f"{max(held / factor, weakest):.2g}")
        elif factor == _FACTOR and localization < held:
            factor = _LAST_FACTOR
            localization = float(f"{held / factor:.2g}")
        else:
            break
    pilot.least_friction = kept_friction
    return held


def _holds(pilot: Pilot) -> bool:
    """Whether the pilot stays near w* at its γ. If not, it is back where it was.

    A chain that was thrown out by its step size gets smaller ones; one that walked out does not.
    """
    kept, before = pilot.journal.hold("start", {"w": pilot.walk.w.clone()}), pilot.curvature.loss
    for attempt in range(1, _TRIES + 1):
        pilot.step_at(pilot.path[-1]["steps"])
        excess = pilot.path[-1]["llc"]
        if _is_near(pilot, excess):
            return True
        is_stiffer = pilot.curvature.loss > _STIFFER * max(before, pilot.law.localization)
        pilot.walk.w.copy_(kept["w"])
        pilot.curvature.loss = before * 4**attempt
        if (math.isfinite(excess) and not is_stiffer) or pilot.is_time_up():
            break
    pilot.curvature.loss = before
    return False
