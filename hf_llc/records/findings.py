"""What is known about an estimate: its numbers, and the reasons for its verdict."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """One finding of the diagnostics: what was seen and what to do about it. A note does not spoil the verdict."""

    name: str
    text: str
    remedy: str = ""
    is_note: bool = False


LocalizationCheck = dict[str, float]
"""`halved`, `halved_se`, `doubled`, `doubled_se`: by how much λ̂ moves when γ is halved and doubled, and the errors."""


@dataclass(frozen=True)
class Estimate:
    """λ̂ and all that is known about it from the trace alone."""

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
    localization_sensitivity: dict[str, float]
    step_size_bias: float
    kinetic_temperature: float
    heat_capacity: float
    heat_capacity_se: float
    verdict: str
    reasons: list[Reason]
