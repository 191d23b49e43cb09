"""Better settings for chains that went wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_llc.calibration.pilot import limit_effective_step
from hf_llc.config import SampleConfig
from hf_llc.judging.verdict import lower_by
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate
from hf_llc.samplers.effective_step import relaxing_localization, slow_step_size


def mended(settings: ChainSettings, asked: SampleConfig, found: Estimate) -> ChainSettings | None:
    """The settings that chains should start again with, None where no setting left open would mend what they show.

    Args:
        settings: those of the chains.
        asked: those of the user, who said of some "auto".
        found: what the chains showed.
    """
    if asked.step_size == "auto":
        factor = lower_by(found)
        if factor is not None:
            lower = replace(settings, **_lower(settings, asked, factor, is_broken=found.verdict == "diverged"))
            if asked.localization == "auto":  # flat directions are slower now
                lower = replace(lower, localization=max(settings.localization, _relaxing(lower, asked)))
            return lower
    if asked.localization == "auto":
        localization = float(f"{_relocalized(settings, asked, found.verdict):.2g}")
        if localization != settings.localization:
            return replace(settings, localization=localization)
    return None


def _relocalized(settings: ChainSettings, asked: SampleConfig, verdict: str) -> float:
    """γ four times stronger where the chains do not stay or settle, half as strong where γ makes up λ̂.

    It goes down to half of what `relaxing_localization` asks for, where flat directions relax in a tenth of the steps.
    Chains that do not settle there are not sent back: what they lack is steps, and their verdict says so.
    """
    is_weakened = settings.localization < 0.99 * _relaxing(settings, asked)
    if verdict == "left the basin" or (verdict in ("drifting", "chains disagree") and not is_weakened):
        return 4 * settings.localization
    if verdict == "localization dominates" and not is_weakened:
        return settings.localization / 2
    return settings.localization


def _relaxing(settings: ChainSettings, asked: SampleConfig) -> float:
    """The γ that `relaxing_localization` asks for at these settings."""
    return relaxing_localization(slow_step_size(settings), asked.steps_allowed)


def _lower(settings: ChainSettings, asked: SampleConfig, factor: float, *, is_broken: bool) -> dict[str, Any]:
    """ε_eff times `factor`: by friction where gradient noise is to be cooled, else by ε."""
    if settings.friction is None or is_broken:
        return {"step_size": float(f"{factor * settings.step_size:.3g}")}
    kept = None if asked.friction == "auto" else settings.friction
    step_size, friction = limit_effective_step(settings.step_size, factor * slow_step_size(settings), kept)
    return {"step_size": float(f"{step_size:.3g}"), "friction": float(f"{friction:.3g}")}
