"""What the traces say: measurements, the reasons found in them, and the estimate that holds both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TRUSTWORTHY = "trustworthy"
"""How a verdict begins if no check failed."""

OVERFITTED = "overfitted"
"""The note on a point that minimize fitted to these data alone. The verdict says so too."""

NOT_HERE = "not here, because"
"""The first words of a remedy if no setting helps."""


def is_trusted(verdict: str) -> bool:
    """Whether a verdict says that no check failed."""
    return verdict.startswith(TRUSTWORTHY)


@dataclass(frozen=True)
class Reason:
    """One finding of the checks: what the draws show and what to do about it. A note does not change the verdict.

    Attributes:
        name: of the check.
        text: what was seen.
        remedy: what to do. Follow that of the first reason first; no other contradicts it. It is "" if an earlier
            remedy changes the same settings, and "not here, because …" if no setting helps.
        is_note: it does not change the verdict.
        change: the remedy as settings and their new values; the value None means to leave the setting out. Empty if no
            setting helps, or if the settings are not known.
    """

    name: str
    text: str
    remedy: str = ""
    is_note: bool = False
    change: dict[str, Any] = field(default_factory=dict)


LocalizationCheck = dict[str, float]
"""`halved`, `halved_se`, `doubled`, `doubled_se`: the change of λ̂ when γ is halved or doubled, and its error."""


@dataclass(frozen=True)
class Measurements:
    """The numbers of a trace, before they are judged. λ̂ has no unit; losses are in the unit of the trace.

    Attributes:
        llc: λ̂, the paired estimate, minus the heat of gradient noise if that was measured.
        llc_se: Monte Carlo standard error of λ̂: its distance from what endless sampling with the same settings would
            give, not its variation over other data, γ or nβ.
        llc_per_chain: λ̂ of each chain, minus its own heat.
        llc_uncorrected: λ̂ with the heat left in.
        llc_plain: λ̂ with L_n(w*) as reference instead of the paired L_B(w*).
        llc_plain_se: standard error of `llc_plain`.
        init_loss: L_n(w*).
        mean_loss: mean minibatch loss of the draws.
        r_hat: rank-normalised split r̂ of the draws.
        ess: effective sample size of all draws.
        accept_prob: mean MALA acceptance probability; NaN if not measured.
        plateau: `drift`, `drift_se`, `p_value`: later half of the draws minus earlier half.
        localization_sensitivity: see `LocalizationCheck`.
        step_size_bias: how much the finite step and gradient noise add to λ̂ (the heat itself, if it was measured).
        kinetic_temperature: mean ‖p‖²/d, which should be 1; NaN without momentum.
        heat_capacity: Var(nβ L_n), a second estimate of λ.
        heat_capacity_se: its standard error.
    """

    llc: float
    llc_se: float
    llc_per_chain: list[float]
    llc_uncorrected: float
    llc_plain: float
    llc_plain_se: float
    init_loss: float
    mean_loss: float
    r_hat: float
    ess: float
    accept_prob: float
    plateau: dict[str, float]
    localization_sensitivity: LocalizationCheck
    step_size_bias: float
    kinetic_temperature: float
    heat_capacity: float
    heat_capacity_se: float


@dataclass(frozen=True)
class Estimate(Measurements):
    """The measurements with the verdict on them.

    Attributes:
        descent: how far a descent from w* falls (`calibration.descent`); None if there was none. λ̂ from the minimum
            that γ allows is `llc` + `descent["loss_drop"]`.
        verdict: "trustworthy" ("trustworthy, of an overfitted point" if minimize found such), or the first check that
            failed, in order of precedence.
        reasons: every check that failed, then the notes.
        llc_extrapolated: λ̂ at ε → 0, from ε and ε/2; None if that was not asked for.
        llc_extrapolated_se: its standard error.
    """

    verdict: str
    reasons: list[Reason]
    llc_extrapolated: float | None = None
    llc_extrapolated_se: float | None = None
    descent: dict[str, float] | None = None
