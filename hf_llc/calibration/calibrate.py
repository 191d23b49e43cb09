"""Choose the settings that are "auto", by a pilot chain.

Samplers with momentum: see `hf_llc.calibration.pilot`. Others: the acceptance target of [L], arXiv 2308.12108,
appendix H.1.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_llc.calibration.ladder import come_from_above, is_lost, keep_localization
from hf_llc.calibration.pilot import PILOT, Pilot, initial_law
from hf_llc.clock import TimeIsUp
from hf_llc.config import SampleConfig
from hf_llc.posterior.curvature import Curvature
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.stage_files import Journal, StageFolder
from hf_llc.progress import watch
from hf_llc.samplers import SAMPLERS, SGLD
from hf_llc.samplers.effective_step import relaxing_localization
from hf_llc.samplers.walk import Walk

ACCEPT_TARGET = (0.9, 0.95)
"""Least and largest mean acceptance probability of MALA ([L], appendix H.1)."""

_FASTER = "or give step_size and localization; fewer or shorter examples in a batch; a part of the weights"

_BLOCK = 10
"""Pilot steps at one ε."""

_MAX_BLOCKS = 40


def calibrate(posterior: Posterior, sample: SampleConfig, folder: StageFolder | None = None) -> dict[str, Any]:
    """Choose step size, gradient, localization and, with momentum, friction: those that are "auto" in `sample`.

    Args:
        posterior: losses and gradients around w*.
        sample: the settings asked for; its step_size is "auto".
        folder: from which a killed calibration goes on; None: nothing is kept.

    Returns:
        The settings (step_size, gradient, localization and, with momentum, friction), `num_gradients`, the largest
        `curvature` κ, the `path` of the pilot, and whether γ came `from_above`.
    """
    journal = Journal(posterior.buffer, folder)
    if SAMPLERS[sample.sampler].has_friction:
        pilot = Pilot(posterior, sample, journal)
        from_above = _run(pilot, sample)
        return {
            "step_size": float(f"{pilot.step_size:.3g}"),
            "friction": float(f"{pilot.friction:.3g}"),
            "gradient": pilot.gradient,
            "localization": pilot.law.localization,
            "curvature": pilot.energy_curvature,
            "num_gradients": pilot.num_gradients,
            "path": pilot.path,
            "from_above": from_above,
        }
    assert isinstance(sample.batch_size, int)
    stream = {"seed": sample.seed, "batch_size": sample.batch_size}
    chosen = calibrate_step_size(posterior, initial_law(sample), **stream, journal=journal)
    localization = sample.localization
    if localization == "auto":
        localization = relaxing_localization(chosen["step_size"], sample.steps_allowed)
    gradient = "plain" if sample.gradient == "auto" else sample.gradient
    return {**chosen, "gradient": gradient, "localization": localization}


def _run(pilot: Pilot, sample: SampleConfig) -> bool:
    """Run a pilot, with what a γ that does not hold it asks for; returns whether γ came from above.

    Raises:
        OutOfTime: the time was up before it had chosen settings.
    """
    from_above = False
    try:
        with watch().until("attempt"):
            pilot.run()
        if pilot.is_time_up():
            return False
        with watch().until("calibrate"):
            from_above = sample.localization == "auto" and is_lost(pilot)
            if from_above:
                come_from_above(pilot)
            elif sample.localization != "auto":
                keep_localization(pilot)
    except TimeIsUp:  # the settings chosen so far are what there is
        if not pilot.path:
            raise watch().out_of_time("calibrate", f"after {pilot.num_gradients} gradients", _FASTER) from None
    return from_above


def with_calibration(sample: SampleConfig, calibration: dict[str, Any]) -> SampleConfig:
    """`sample` with the settings that `calibrate` chose. Chains go on to adapt ε to their curvature if they can."""
    names = ("step_size", "friction", "gradient", "localization")
    values = {name: calibration[name] for name in names if name in calibration}
    return replace(sample, **values, adapt_step_size=SAMPLERS[sample.sampler].adapts_step_size)


def calibrate_step_size(
    posterior: Posterior, law: Law, *, seed: int, batch_size: int, journal: Journal
) -> dict[str, Any]:
    """The ε at which MALA would accept 90 to 95 % of the pilot's steps.

    Below the target ε is halved, above it raised by half, and bisected once both sides are known. Acceptance on a
    step's own minibatch is blind to gradient noise; `judging.statistics.step_size_bias` measures that on the chains.

    Args:
        posterior: losses and gradients around w*.
        law: nβ and γ.
        seed: seed of the pilot's noise and minibatches.
        batch_size: examples a step.
        journal: of the steps.

    Returns:
        step_size, accept_prob, curvature, num_gradients, and the path of (step size, acceptance) tried.
    """
    walk = Walk(posterior, law, [PILOT], seed=seed, batch_size=batch_size)
    walk.steps_in_backward = False  # acceptance takes two whole gradients
    journal.hold("walk", {"w": walk.w})
    at_w_star = Curvature(posterior, nbeta=law.nbeta, journal=journal)
    curvature = at_w_star.refresh(walk.w, walk.batches.indices(0), iterations=10) + law.localization
    ceiling = 1.0 / max(curvature, 1e-300)  # a quarter of SGLD's limit of stability, 4/κ
    step_size, low, high = ceiling, 0.0, math.inf
    path: list[list[float]] = []
    for block in range(_MAX_BLOCKS):
        if block and journal.is_over("calibrate"):
            break
        accept = _pilot_block(walk, step_size, block * _BLOCK, journal)
        path.append([step_size, accept])
        if accept < 0.5:  # far too large an ε may have thrown the pilot out of the basin: back to w*
            walk.w.copy_(posterior.start(1))
        too_small = accept > ACCEPT_TARGET[1]
        if ACCEPT_TARGET[0] <= accept and (not too_small or step_size >= ceiling):
            break
        low, high = (step_size, high) if too_small else (low, step_size)
        if high < 1.05 * low:  # acceptance changed as the pilot moved on: open the bracket again
            low = 0.0
        outward = 1.5 * step_size if too_small else step_size / 2
        step_size = min(math.sqrt(low * high) if low > 0 and high < math.inf else outward, ceiling)
    # the one tried whose acceptance is nearest to the target
    step_size, accept = min(path, key=lambda tried: max(ACCEPT_TARGET[0] - tried[1], tried[1] - ACCEPT_TARGET[1], 0.0))
    return {
        "step_size": float(f"{step_size:.3g}"),
        "accept_prob": accept,
        "curvature": curvature,
        "num_gradients": 11 + 2 * _BLOCK * len(path),
        "path": path,
    }


def _pilot_block(walk: Walk, step_size: float, start: int, journal: Journal) -> float:
    """Mean acceptance over a block of the pilot; 0 if it diverges."""
    kernel, accepts = SGLD(step_size), []

    def take(step: int) -> Tensor:
        info = kernel.step(walk, walk.batches.indices(step), step=step, measure=True)
        assert info.accept_prob is not None
        return torch.stack([info.loss[0].double(), info.accept_prob[0].double()])

    for step in range(start, start + _BLOCK):
        loss, accept = journal.once(functools.partial(take, step)).tolist()
        if not math.isfinite(loss):
            return 0.0
        accepts.append(accept)
    return sum(accepts) / _BLOCK
