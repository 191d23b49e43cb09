"""One set of settings for many measurements: λ̂ compare only at equal nβ and γ (arXiv 2308.12108, appendix K).

ε, friction, minibatches and burn-in are shared too. Then the measurements share their noise, step by step, and much of
it cancels in differences of λ̂.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_llc.config import SampleConfig, as_dict
from hf_llc.result import LLCResult

SHARED = (
    "sampler",
    "step_size",
    "friction",
    "gradient",
    "localization",
    "adapt_step_size",
    "num_burnin_steps",
    "num_steps_between_draws",
    "nbeta",
    "batch_size",
)
"""Settings that all measurements take from the one that was calibrated, where the user left them open."""

COMPARABLE = ("localization", "nbeta", "batch_size", "sampler")
"""What stays when a step size no longer holds. The others are then found again."""

KEPT = "hf_llc"
"""Where a training keeps what its first measurement found, among `TrainerState.stateful_callbacks`."""

_LOST = ("diverged", "stuck", "left the basin")
"""Verdicts of chains that say nothing of w*: no settings are taken from them."""


def shared_settings(sample: SampleConfig, calibrated: LLCResult) -> SampleConfig:
    """`sample` with every setting of `SHARED` as the calibrated measurement used it."""
    return with_settings(sample, {name: getattr(calibrated, name) for name in SHARED})


def with_settings(sample: SampleConfig, used: dict[str, Any]) -> SampleConfig:
    """`sample` with these settings; None: the sampler has no such setting."""
    # β is dropped: nβ is among the settings used, and a config takes one of the two.
    return replace(sample, **{name: value for name, value in used.items() if value is not None}, beta=None)


def remedy_for(sample: SampleConfig, result: LLCResult) -> str:
    """What to do first about a bad verdict on one of several measurements; "" if it is good.

    Args:
        sample: the settings asked for all of them. One of theirs that is "auto" was decided on another measurement.
        result: of this one.
    """
    if result.is_trustworthy or not result.reasons:
        return ""
    first = result.reasons[0]
    if any(value == "auto" == getattr(sample, name, None) for name, value in first.change.items()):
        return (
            "the settings found at another checkpoint do not suit it: estimate it by itself, and measure all like that"
        )
    return first.remedy


def kept_settings(sample: SampleConfig, store: dict[str, Any], key: str) -> dict[str, Any]:
    """What an earlier measurement with the settings `sample` has left in `store` (`keep_settings`); else nothing.

    Args:
        sample: the settings asked for. What was found for others is not used.
        store: where findings are kept; its values may come from a file.
        key: of the finding.
    """
    kept = store.get(key)
    if not isinstance(kept, dict) or kept.get("asked") != as_dict(sample) or not isinstance(kept.get("used"), dict):
        return {}
    return {name: value for name, value in kept["used"].items() if name in SHARED}


def keep_settings(sample: SampleConfig, result: LLCResult, store: dict[str, Any], key: str) -> bool:
    """Keep in `store` what the next measurements take from `result`; return True if that is new.

    A step size that has become too large is found again at the next measurement, at the same nβ and γ.
    """
    before = kept_settings(sample, store, key)
    if result.verdict in _LOST and not before:
        return False
    has_failed = result.verdict in ("diverged", "stuck", "step size too large")
    names = COMPARABLE if has_failed else SHARED
    used = {name: getattr(result, name) for name in names}
    store[key] = {"asked": as_dict(sample), "used": used}
    return used != before
