"""Better settings for chains whose verdict other settings can change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_llc.calibration.friction import limit_effective_step
from hf_llc.calibration.ladder import SLOWER
from hf_llc.config import SampleConfig
from hf_llc.judging.verdict import lower_by
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate
from hf_llc.samplers.effective_step import relaxing_localization, slow_step_size


def retry_settings(
    settings: ChainSettings, asked: SampleConfig, estimate: Estimate, *, from_above: bool = False
) -> ChainSettings | None:
    """The settings to start the chains again with; None if changing an "auto" setting would not help.

    Args:
        settings: settings of the chains.
        asked: settings asked for. Only those that are "auto" may change.
        estimate: what the chains gave.
        from_above: γ is the weakest that holds the chains (`ladder`), and is raised as little as can be.
    """
    if asked.step_size == "auto":
        factor = lower_by(estimate)
        if factor is not None:
            has_diverged = estimate.verdict == "diverged"
            lower = replace(settings, **_lower_step(settings, asked, factor, has_diverged=has_diverged))
            if asked.localization == "auto":  # flat directions relax more slowly at a smaller ε_eff
                least = float(f"{_relaxing(lower, asked) / (SLOWER if from_above else 1):.2g}")
                lower = replace(lower, localization=max(settings.localization, least))
            return lower
    if asked.localization == "auto":
        localization = float(f"{_retry_localization(settings, asked, estimate.verdict, from_above):.2g}")
        if localization != settings.localization:
            return replace(settings, localization=localization)
    return None


def _retry_localization(settings: ChainSettings, asked: SampleConfig, verdict: str, from_above: bool) -> float:
    """Four times γ if the chains leave the basin or do not equilibrate, half of γ if γ makes up λ̂, otherwise γ."""
    # Half of the γ of `relaxing_localization` is the least: flat directions then relax in a tenth of the steps. Chains
    # that do not equilibrate there keep their γ. They need more steps, as their verdict says.
    least = _relaxing(settings, asked) * (2 / SLOWER if from_above else 1)
    is_weakened = settings.localization < 0.99 * least
    if verdict == "left the basin" or (verdict in ("drifting", "chains disagree") and not is_weakened):
        return 4 * settings.localization
    if verdict == "localization dominates" and not is_weakened:
        return settings.localization / 2
    return settings.localization


def _relaxing(settings: ChainSettings, asked: SampleConfig) -> float:
    """The γ of `relaxing_localization` at these settings."""
    return relaxing_localization(slow_step_size(settings), asked.steps_allowed)


def _lower_step(settings: ChainSettings, asked: SampleConfig, factor: float, *, has_diverged: bool) -> dict[str, Any]:
    """The step size, and with momentum the friction, at which ε_eff is `factor` times the present one.

    Friction lowers the heat of gradient noise at the same ε. A chain that diverged needs a smaller ε.
    """
    if settings.friction is None or has_diverged:
        return {"step_size": float(f"{factor * settings.step_size:.3g}")}
    given_friction = None if asked.friction == "auto" else settings.friction
    step_size, friction = limit_effective_step(settings.step_size, factor * slow_step_size(settings), given_friction)
    return {"step_size": float(f"{step_size:.3g}"), "friction": float(f"{friction:.3g}")}
