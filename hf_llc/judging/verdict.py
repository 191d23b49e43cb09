"""The verdict on an estimate, and what it asks of the step size."""

from __future__ import annotations

from collections.abc import Sequence

from hf_llc.judging.step_bias import is_step_too_large, smaller_step
from hf_llc.records.findings import OVERFITTED, TRUSTWORTHY, Estimate, Reason

_VERDICTS = (
    "diverged",
    "stuck",
    "left the basin",
    "gradient noise dominates",
    "not a minimum",
    "negative",
    "step size too large",
    "drifting",
    "chains disagree",
    "too few draws",
    "localization dominates",
)
"""In order of precedence: an estimate that fails several checks is called by the first."""


def precedence(name: str) -> int:
    """Place of a check in the order of precedence; those that only make notes stand at the end."""
    return _VERDICTS.index(name) if name in _VERDICTS else len(_VERDICTS)


def named(reasons: Sequence[Reason]) -> str:
    """The verdict: the first of the checks that failed, or "trustworthy", with what is odd about the point."""
    failed = {reason.name for reason in reasons if not reason.is_note}
    is_odd = any(reason.name == OVERFITTED for reason in reasons)
    good = f"{TRUSTWORTHY}, of an {OVERFITTED} point" if is_odd else TRUSTWORTHY
    return next((name for name in _VERDICTS if name in failed), good)


def lower_by(estimate: Estimate) -> float | None:
    """The factor on ε to start chains again with; None if a smaller step would not help."""
    if estimate.verdict == "diverged":
        return 0.25
    if estimate.verdict in ("not a minimum", "left the basin") or not is_step_too_large(estimate):
        return None
    return smaller_step(estimate)
