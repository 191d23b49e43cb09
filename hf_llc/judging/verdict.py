"""The verdict on an estimate of λ̂: every check, in order of precedence, with its remedy. Arrays only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hf_llc.judging import statistics
from hf_llc.records.findings import Reason

if TYPE_CHECKING:
    from hf_llc.records.findings import Estimate

Array = np.ndarray

_VERDICTS = (
    "diverged",
    "stuck",
    "left the basin",
    "not a minimum",
    "negative",
    "step size too large",
    "drifting",
    "chains disagree",
    "too few draws",
    "localization dominates",
)
"""In order of precedence: an estimate that fails several checks is called by the first."""

STIFFER = 0.5
"""Share of ε that chains come down to, below which the result says so."""


def named(reasons: Sequence[Reason]) -> str:
    """The verdict: the first of the checks that failed, or trustworthy."""
    failed = {reason.name for reason in reasons if not reason.is_note}
    return next((name for name in _VERDICTS if name in failed), "trustworthy")


def is_step_too_large(found: Estimate) -> bool:
    """The finite step and gradient noise add more than a tenth of a positive λ̂, and more than its stated error."""
    return found.llc > 0 and found.step_size_bias > max(0.1 * found.llc, found.llc_se)


def lower_by(found: Estimate) -> float | None:
    """The part of ε that chains should start again with, None where a smaller one would not mend anything."""
    if found.verdict == "diverged":
        return 0.25
    if found.verdict in ("not a minimum", "left the basin") or not is_step_too_large(found):
        return None
    return _smaller(found)


def _smaller(found: Estimate) -> float:
    """The part of ε at which that share would be a twentieth; from an eighth to a half."""
    return min(0.5, max(0.125, 0.05 * abs(found.llc) / found.step_size_bias))


@dataclass(frozen=True)
class Evidence:
    """What the checks look at beside the estimate.

    Attributes:
        loss: L_B(w_t) of every step, `[chain, step]`.
        excess: nβ(L_B(w_t) − L_B(w*)), every step, `[chain, step]`.
        draws: `[chain, draw]`.
        trivial_loss: L_n of the best constant predictor, or None.
        nbeta: inverse temperature times n.
        localization: γ.
        step_size: ε to begin with.
        share: mean ε of the draws, as a part of that.
        slow: ε_eff that the draws were made at.
        sampler: its name.
        spreading: how far the chains have come (`statistics.spreading`).
        missing: what is in the error because they still move away from w*; 0: they do not.
    """

    loss: Array
    excess: Array
    draws: Array
    trivial_loss: float | None
    nbeta: float
    localization: float
    step_size: float
    share: float
    slow: float
    is_exact: bool
    spreading: dict[str, float]
    missing: float

    @property
    def steps(self) -> int:
        """Of a chain, burn-in included."""
        return self.excess.shape[1]

    @property
    def relaxed(self) -> float:
        """The curvature of directions that relax, in 2/(ε_eff a) steps, within a quarter of the steps; γ should be
        above it."""
        return 8 / (self.slow * self.steps)


def findings(found: Estimate, seen: Evidence) -> list[Reason]:
    """Every check that failed, in order of precedence, each with its remedy; then the notes."""
    broken = statistics.first_non_finite(seen.loss)
    if broken:
        chain, step = broken[0]
        return [
            Reason(
                "diverged",
                f"the loss of chain {chain} was not finite at step {step} ({len(broken)} of {len(seen.loss)} chains)",
                f"lower step_size, to {seen.step_size / 4:.1e} or less",
            )
        ]
    stuck = statistics.stuck_chains(seen.draws)
    if stuck:
        return [
            Reason(
                "stuck",
                f"chain {stuck[0]} did not move ({len(stuck)} of {len(seen.draws)} chains)",
                f"{'lower' if seen.is_exact else 'raise'} step_size",
            )
        ]
    reasons = _basin(found, seen) + _step_size(found, seen) + _mixing(found, seen) + _thermometers(found)
    if seen.missing:
        reasons.append(_spreading(seen))
    if seen.share < STIFFER and seen.relaxed > seen.localization:
        reasons.append(_stiffer(seen))
    return reasons


def _basin(found: Estimate, seen: Evidence) -> list[Reason]:
    """Is w* a minimum, and did the chains stay near it?"""
    reasons, llc, llc_se, init_loss, trivial_loss = [], found.llc, found.llc_se, found.init_loss, seen.trivial_loss
    if trivial_loss is not None and trivial_loss > init_loss:
        lost = (found.mean_loss - init_loss) / (trivial_loss - init_loss)
        if lost > 0.5:
            how = "above" if lost >= 1 else f"{lost:.0%} of the way to"
            reasons.append(
                Reason(
                    "left the basin",
                    f"the mean loss {found.mean_loss:.4g}, from {init_loss:.4g} at w*, is {how} the "
                    f"{trivial_loss:.4g} of a constant predictor: the model is destroyed",
                    f"raise nbeta above {seen.nbeta:.4g} (the principled value is n / ln n) or raise localization",
                )
            )
    elif trivial_loss is not None:
        reasons.append(
            Reason(
                "not a minimum",
                f"the loss {init_loss:.4g} at w* is no better than {trivial_loss:.4g} of a constant predictor",
                "use data that the model was trained for, or minimize",
            )
        )
    dip = statistics.deepest_dip(seen.excess)
    if statistics.is_dipping(dip, llc, float(seen.draws.std())):
        reasons.append(
            Reason(
                "not a minimum",
                f"the chains fell below L_n(w*), by {-dip['depth']:.4g} in units of λ̂ near step "
                f"{dip['step']:.0f}: w* is not at a minimum of this data's loss",
                "set minimize: w* is first taken to the nearest minimum (if it was set, raise minimize_steps)",
            )
        )
    if llc < 0:
        sure = llc < -2 * llc_se
        reasons.append(
            Reason(
                "negative",
                f"λ̂ = {llc:.4g} is below zero" + ("" if sure else ", within its error"),
                "set minimize" if sure else "raise num_draws, or minimize",
            )
        )
    change, error = found.localization_sensitivity["doubled"], found.localization_sensitivity["doubled_se"]
    is_flat = not statistics.is_drifting(found.plateau, llc, llc_se)
    if is_flat and change < -0.4 * abs(llc) and change < -3 * error:  # λ̂ ∝ 1/γ would lose a half
        reasons.append(
            Reason(
                "localization dominates",
                f"λ̂ changes by {change:.3g} when γ is doubled",
                "lower localization (raise max_steps, if it is auto)",
            )
        )
    return reasons


def _thermometers(found: Estimate) -> list[Reason]:
    """Notes where momentum or the spread of the loss is not as hot as the law says."""
    notes, llc = [], found.llc
    if abs(found.kinetic_temperature - 1) > 0.01:
        notes.append(
            Reason(
                "kinetic temperature",
                f"momenta are at {found.kinetic_temperature:.3f} of the temperature meant",
                "raise friction or lower step_size" if found.kinetic_temperature > 1 else "lower step_size",
                is_note=True,
            )
        )
    apart, error = found.heat_capacity - llc, math.hypot(found.heat_capacity_se, found.llc_se)
    if llc > 0 and abs(apart) > max(0.5 * llc, 3 * error):
        notes.append(
            Reason(
                "heat capacity",
                f"the variance of nβL gives {found.heat_capacity:.3g} ± {found.heat_capacity_se:.2g} for λ, its mean "
                f"{llc:.3g}: the loss is not near its singular form at this temperature, or not equilibrated",
                "raise num_draws; if it stays, read λ̂ as that of this nβ and γ",
                is_note=True,
            )
        )
    return notes


def _step_size(found: Estimate, seen: Evidence) -> list[Reason]:
    """Is the step small enough for the law to be the one meant?"""
    if is_step_too_large(found):
        return [
            Reason(
                "step size too large",
                f"the finite step and gradient noise add about {found.step_size_bias:.3g} to λ̂ = {found.llc:.4g}",
                f"lower step_size, to about {_smaller(found) * seen.step_size:.1e}, or raise batch_size"
                + (" or friction" if math.isfinite(found.kinetic_temperature) else ""),
            )
        ]
    if found.accept_prob < 0.5 and not seen.is_exact:
        return [
            Reason(
                "step size too large",
                f"MALA would accept only {found.accept_prob:.0%} of the steps",
                f"lower step_size, to about {seen.step_size / 2:.1e}",
            )
        ]
    if found.accept_prob < 0.9:
        return [
            Reason("acceptance", f"acceptance {found.accept_prob:.2f} is below 0.9", "lower step_size", is_note=True)
        ]
    return []


def _drifting(found: Estimate, seen: Evidence) -> Reason:
    """What would let flat directions relax."""
    longer = "num_burnin_steps (max_steps, if it is auto)"
    if seen.localization >= seen.relaxed:
        remedy = f"raise {longer}, to {2 * seen.steps:,} or more"
    else:
        longest = f", or {longer}, to about {_enough(seen)}" if seen.localization > 0 else ""
        remedy = f"raise localization, to about {seen.relaxed:.2g}{longest}: flat directions relax in 2/(εγ) steps"
    drift, error = found.plateau["drift"], found.plateau["drift_se"]
    return Reason(
        "drifting",
        f"λ̂ of the later half of the draws is {drift:+.3g} from that of the earlier half (error {error:.2g}): not yet "
        f"flat after {seen.steps:,} steps",
        remedy,
    )


def _enough(seen: Evidence) -> str:
    """Steps in which flat directions relax four times over."""
    return f"{8 / (seen.slow * seen.localization):.2g}"


def _spreading(seen: Evidence) -> Reason:
    """A note: λ̂ is that of the range that the chains have reached, not yet of the one that γ allows."""
    needed = f", or steps to about {_enough(seen)}" if seen.localization > 0 else ""
    was, distance, change = (seen.spreading[name] for name in ("was", "distance", "change"))
    count = seen.missing / change
    times = "" if count == 1 else f", {count:.1f} times: for each doubling of the steps that flat directions still need"
    return Reason(
        "still spreading",
        f"since the burn-in ‖w − w*‖ grew from {was:.3g} to {distance:.3g} and λ̂ changed by {change:+.3g}, which is in "
        f"its error{times}: γ does not hold the flat directions yet",
        f"raise localization{needed}",
        is_note=True,
    )


def _stiffer(seen: Evidence) -> Reason:
    """A note: the chains are where the loss is stiffer, and their clock runs more slowly."""
    relaxed = f"{seen.relaxed:.2g}"
    return Reason(
        "stiffer than at w*",
        f"steps fell to {seen.share:.0%} of what w* allows: directions of curvature below {relaxed} have not relaxed, "
        "and what they add to λ̂ may be missing",
        f"raise localization, to about {relaxed}, or num_draws (max_steps, if burn-in is auto)",
        is_note=True,
    )


def _mixing(found: Estimate, seen: Evidence) -> list[Reason]:
    """Have the chains arrived, do they agree, and are there enough draws?"""
    reasons, num_chains = [], len(seen.draws)
    if statistics.is_drifting(found.plateau, found.llc, found.llc_se):
        reasons.append(_drifting(found, seen))
    if found.r_hat > 1.1:
        reasons.append(
            Reason(
                "chains disagree",
                f"r̂ = {found.r_hat:.2f} is above 1.1",
                "raise num_burnin_steps (max_steps, if it is auto) and num_draws",
            )
        )
    if not found.ess >= 10 * num_chains:
        reasons.append(
            Reason(
                "too few draws",
                f"only {found.ess:.0f} effective draws in {num_chains} chains",
                "raise num_draws (max_steps, if burn-in is auto)",
            )
        )
    elif found.llc_se > 0.25 * abs(found.llc):
        reasons.append(
            Reason(
                "too few draws",
                f"the standard error {found.llc_se:.2g} is over a quarter of λ̂ = {found.llc:.3g}",
                "raise num_draws, num_chains or batch_size",
            )
        )
    if num_chains == 1:
        reasons.append(
            Reason(
                "one chain",
                "with one chain, disagreement between chains cannot be seen",
                "use num_chains 2 or more",
                is_note=True,
            )
        )
    return reasons
