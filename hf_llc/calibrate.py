"""Settles what was left open ("auto"), with a pilot chain of its own, and mends what the chains then show.

Samplers with momentum: see `hf_llc.pilot`. Others: the acceptance target of arXiv 2308.12108, appendix H.1.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hf_llc.config import UNDERDAMPED, SampleConfig
from hf_llc.curvature import Curvature
from hf_llc.estimate import Estimate
from hf_llc.kernels import SGLD
from hf_llc.pilot import PILOT, Pilot, effective_step_size, relaxing_localization, settle
from hf_llc.posterior import Posterior
from hf_llc.verdict import lower_by
from hf_llc.walk import Walk

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
    if sample.sampler in UNDERDAMPED:
        pilot = Pilot(posterior, sample)
        pilot.run()
        found = {
            "step_size": float(f"{pilot.step_size:.3g}"),
            "friction": float(f"{pilot.friction:.3g}"),
            "gradient": pilot.gradient,
            "localization": posterior.localization,
            "curvature": pilot.curvature.value,
            "num_gradients": pilot.num_gradients,
            "path": pilot.path,
        }
    else:
        found = calibrate_step_size(posterior, seed=sample.seed, batch_size=sample.batch_size)
        found["gradient"] = "plain" if sample.gradient == "auto" else sample.gradient
    return {**found, "localization": settled_localization(apply(found, sample)).localization}


_FOUND = ("step_size", "friction", "gradient", "localization")


def apply(found: dict[str, Any], sample: SampleConfig) -> SampleConfig:
    """The settings with what was found filled in; chains then watch the curvature on."""
    values = {name: found[name] for name in _FOUND if name in found}
    return replace(sample, **values, adapt_step_size=sample.sampler == "baoab")


def slow_step_size(sample: SampleConfig) -> float:
    """ε_eff of settings without "auto": flat directions relax in 2/(ε_eff γ) steps."""
    friction = sample.friction if sample.sampler in UNDERDAMPED else None
    assert friction != "auto" and sample.step_size != "auto"
    return effective_step_size(sample.step_size, friction)


def settled_localization(sample: SampleConfig) -> SampleConfig:
    """With γ "auto" the least at which flat directions relax in a twentieth of the steps allowed to a chain."""
    if sample.localization != "auto":
        return sample
    return replace(sample, localization=_relaxing(sample))


def _relaxing(sample: SampleConfig) -> float:
    """The γ that `relaxing_localization` asks for at these settings."""
    return relaxing_localization(slow_step_size(sample), sample)


def mended(sample: SampleConfig, asked: SampleConfig, found: Estimate) -> SampleConfig | None:
    """The settings that chains should start again with, None where no setting left open would mend what they show.

    Args:
        sample: those of the chains.
        asked: those of the user, who said of some "auto".
        found: what the chains showed.
    """
    assert sample.step_size != "auto" and sample.localization != "auto"
    if asked.step_size == "auto":
        factor = lower_by(found)
        if factor is not None:
            lower = replace(sample, **_lower(sample, asked, factor, is_broken=found.verdict == "diverged"))
            if asked.localization == "auto":  # flat directions are slower now
                lower = replace(lower, localization=max(sample.localization, _relaxing(lower)))
            return lower
    if asked.localization == "auto":
        localization = float(f"{_relocalized(sample, found.verdict):.2g}")
        if localization != sample.localization:
            return replace(sample, localization=localization)
    return None


def _relocalized(sample: SampleConfig, verdict: str) -> float:
    """γ four times stronger where the chains do not stay or settle, half as strong where γ makes up λ̂.

    It goes down to half of what `relaxing_localization` asks for, where flat directions relax in a tenth of the steps.
    Chains that do not settle there are not sent back: what they lack is steps, and their verdict says so.
    """
    assert sample.localization != "auto"
    is_weakened = sample.localization < 0.99 * _relaxing(sample)
    if verdict == "left the basin" or (verdict in ("drifting", "chains disagree") and not is_weakened):
        return 4 * sample.localization
    if verdict == "localization dominates" and not is_weakened:
        return sample.localization / 2
    return sample.localization


def _lower(sample: SampleConfig, asked: SampleConfig, factor: float, *, is_broken: bool) -> dict[str, Any]:
    """ε_eff times `factor`: by friction where gradient noise is to be cooled, else by ε."""
    assert sample.step_size != "auto"
    if sample.sampler not in UNDERDAMPED or is_broken:
        return {"step_size": float(f"{factor * sample.step_size:.3g}")}
    assert sample.friction != "auto"
    kept = None if asked.friction == "auto" else sample.friction
    step_size, friction = settle(sample.step_size, factor * slow_step_size(sample), kept)
    return {"step_size": float(f"{step_size:.3g}"), "friction": float(f"{friction:.3g}")}


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
    walk.steps_in_backward = False  # acceptance takes two whole gradients
    curvature = Curvature(posterior).refresh(walk.w, walk.batches.indices(0), iterations=10)
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
