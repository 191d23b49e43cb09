"""Settles what was left open ("auto"), with a pilot chain of its own, and mends what the chains then show.

Samplers with momentum: see `hf_llc.calibration.pilot`. Others: the acceptance target of arXiv 2308.12108, appendix H.1.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hf_llc.calibration.pilot import PILOT, Pilot, initial_law
from hf_llc.config import SampleConfig
from hf_llc.posterior.curvature import Curvature
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.samplers import SAMPLERS, SGLD
from hf_llc.samplers.effective_step import settled_localization
from hf_llc.samplers.walk import Walk

ACCEPT_TARGET = (0.9, 0.95)

_BLOCK = 10
"""Steps between two decisions, each with its acceptance."""

_MAX_BLOCKS = 40


def calibrate(posterior: Posterior, sample: SampleConfig) -> dict[str, Any]:
    """All that is "auto" in `sample`, and how it was found.

    Returns:
        The settings found (step_size, localization, with momentum friction and gradient), `num_gradients`, `curvature`,
        and the `path` that led there.
    """
    assert isinstance(sample.batch_size, int)
    if SAMPLERS[sample.sampler].has_friction:
        pilot = Pilot(posterior, sample)
        pilot.run()
        found = {
            "step_size": float(f"{pilot.step_size:.3g}"),
            "friction": float(f"{pilot.friction:.3g}"),
            "gradient": pilot.gradient,
            "localization": pilot.law.localization,
            "curvature": pilot.energy_curvature,
            "num_gradients": pilot.num_gradients,
            "path": pilot.path,
        }
    else:
        found = calibrate_step_size(posterior, initial_law(sample), seed=sample.seed, batch_size=sample.batch_size)
        found["gradient"] = "plain" if sample.gradient == "auto" else sample.gradient
    return {**found, "localization": settled_localization(apply(found, sample)).localization}


_FOUND = ("step_size", "friction", "gradient", "localization")


def apply(found: dict[str, Any], sample: SampleConfig) -> SampleConfig:
    """The settings with what was found filled in; chains then watch the curvature on."""
    values = {name: found[name] for name in _FOUND if name in found}
    return replace(sample, **values, adapt_step_size=SAMPLERS[sample.sampler].adapts_step_size)


def calibrate_step_size(posterior: Posterior, law: Law, *, seed: int, batch_size: int) -> dict[str, Any]:
    """ε at which MALA would accept 90–95 % of the pilot's steps.

    Starts at 1/κ, κ the largest curvature at w*, which it never exceeds (SGLD is stable below 4/κ and its excess in
    that direction is a quarter there). Halves ε below the target and raises it by half above, bisecting once both
    sides are known. Acceptance on a step's own minibatch does not see gradient noise: `diagnostics.step_size_bias`
    judges that on the chains themselves.

    Returns:
        step_size, accept_prob, curvature, num_gradients and the path of (step size, acceptance) tried.
    """
    walk = Walk(posterior, law, [PILOT], seed=seed, batch_size=batch_size)
    walk.steps_in_backward = False  # acceptance takes two whole gradients
    curvature = Curvature(posterior, nbeta=law.nbeta).refresh(walk.w, walk.batches.indices(0), iterations=10)
    curvature += law.localization
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
