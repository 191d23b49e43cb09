"""Better settings for chains that went wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_llc.calibration.pilot import limit_effective_step
from hf_llc.config import SampleConfig
from hf_llc.judging.verdict import lower_by
from hf_llc.records.findings import Estimate
from hf_llc.samplers import SAMPLERS
from hf_llc.samplers.effective_step import _relaxing, slow_step_size


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
    if not SAMPLERS[sample.sampler].has_friction or is_broken:
        return {"step_size": float(f"{factor * sample.step_size:.3g}")}
    assert sample.friction != "auto"
    kept = None if asked.friction == "auto" else sample.friction
    step_size, friction = limit_effective_step(sample.step_size, factor * slow_step_size(sample), kept)
    return {"step_size": float(f"{step_size:.3g}"), "friction": float(f"{friction:.3g}")}
