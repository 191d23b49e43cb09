"""Every check of an estimate, each with its remedy. Arrays only; `hf_llc.judging.verdict` orders what they find."""

from __future__ import annotations

import math
from collections.abc import Callable

from hf_llc.judging import statistics
from hf_llc.judging.evidence import Evidence
from hf_llc.judging.step_bias import does_heat_dominate, is_step_too_large, smaller_step
from hf_llc.records.findings import Measurements, Reason


def findings(measured: Measurements, evidence: Evidence) -> list[Reason]:
    """Every check that failed, each with its remedy, and the notes.

    Of chains that diverged or are stuck nothing else is said: their numbers mean nothing.
    """
    for check in (_diverged, _stuck):
        reason = check(evidence)
        if reason is not None:
            return [reason]
    reasons = (check(measured, evidence) for check in _CHECKS)
    return [reason for reason in reasons if reason is not None]


def _diverged(evidence: Evidence) -> Reason | None:
    broken = statistics.first_non_finite(evidence.loss)
    if not broken:
        return None
    chain, step = broken[0]
    return Reason(
        "diverged",
        f"the loss of chain {chain} was not finite at step {step} ({len(broken)} of {len(evidence.loss)} chains)",
        f"lower step_size, to {evidence.step_size / 4:.1e} or less",
    )


def _stuck(evidence: Evidence) -> Reason | None:
    stuck = statistics.stuck_chains(evidence.draws)
    if not stuck:
        return None
    return Reason(
        "stuck",
        f"chain {stuck[0]} did not move ({len(stuck)} of {len(evidence.draws)} chains)",
        f"{'lower' if evidence.is_exact else 'raise'} step_size",
    )


def _trivial(measured: Measurements, evidence: Evidence) -> Reason | None:
    """Is the model better than a constant predictor, at w* and at the draws?"""
    init_loss, mean_loss, trivial_loss = measured.init_loss, measured.mean_loss, evidence.trivial_loss
    if trivial_loss is None:
        return None
    if not trivial_loss > init_loss:
        return Reason(
            "not a minimum",
            f"the loss {init_loss:.4g} at w* is no better than {trivial_loss:.4g} of a constant predictor",
            "use data that the model was trained for, or minimize",
        )
    lost = (mean_loss - init_loss) / (trivial_loss - init_loss)
    if not lost > 0.5:
        return None
    how = "above" if lost >= 1 else f"{lost:.0%} of the way to"
    return Reason(
        "left the basin",
        f"the mean loss {mean_loss:.4g}, from {init_loss:.4g} at w*, is {how} the "
        f"{trivial_loss:.4g} of a constant predictor: the model is destroyed",
        f"raise nbeta above {evidence.nbeta:.4g} (the principled value is n / ln n) or raise localization",
    )


def _heat(measured: Measurements, evidence: Evidence) -> Reason | None:
    """A correction larger than what it corrects: more examples a gradient make it smaller, a minimum does not."""
    if not does_heat_dominate(measured):
        return None
    return Reason(
        "gradient noise dominates",
        f"the noise of minibatch gradients adds about {measured.llc_uncorrected - measured.llc:.3g} to λ̂, of "
        f"{measured.llc_uncorrected:.3g} in all",
        f"raise batch_size, to eight times or to 'full', or lower step_size, to about {evidence.step_size / 8:.1e}",
    )


_TO_MINIMUM = "set minimize: w* is first taken to the nearest minimum (if it was set, raise minimize_steps)"


def _not_a_minimum(measured: Measurements, evidence: Evidence) -> Reason | None:
    """λ̂ counts from a minimum: no descent may fall from w* as far as to matter, and no chain below it."""
    descent = evidence.descent
    llc = measured.llc_uncorrected if does_heat_dominate(measured) else measured.llc
    if descent is None or not statistics.is_above_minimum(descent, llc):
        return _dip(measured, evidence)
    drop = descent["loss_drop"]
    return Reason(
        "not a minimum",
        f"a descent from w*, held by γ, lowers nβL by {drop:.3g}: λ̂ is {measured.llc + drop:.3g} from where it ends, "
        f"{measured.llc:.3g} from w*",
        _TO_MINIMUM,
    )


def _dip(measured: Measurements, evidence: Evidence) -> Reason | None:
    """A chain that starts at a minimum can only climb."""
    dip = statistics.deepest_dip(evidence.excess)
    if not statistics.is_dipping(dip, measured.llc, float(evidence.draws.std())):
        return None
    return Reason(
        "not a minimum",
        f"the chains fell below L_n(w*), by {-dip['depth']:.4g} in units of λ̂ near step "
        f"{dip['step']:.0f}: w* is not at a minimum of this data's loss",
        _TO_MINIMUM,
    )


def _negative(measured: Measurements, evidence: Evidence) -> Reason | None:
    llc = measured.llc
    if not llc < 0 or does_heat_dominate(measured):  # then the chains lie above L_n(w*)
        return None
    is_sure = llc < -2 * measured.llc_se
    return Reason(
        "negative",
        f"λ̂ = {llc:.4g} is below zero" + ("" if is_sure else ", within its error"),
        "set minimize" if is_sure else "raise num_draws, or minimize",
    )


def _localization(measured: Measurements, evidence: Evidence) -> Reason | None:
    """Where γ makes up λ̂, λ̂ ∝ 1/γ, and twice the γ would take a half of it."""
    change, error = measured.localization_sensitivity["doubled"], measured.localization_sensitivity["doubled_se"]
    is_flat = not statistics.is_drifting(measured.plateau, measured.llc, measured.llc_se)
    if not (is_flat and change < -0.4 * abs(measured.llc) and change < -3 * error):
        return None
    return Reason(
        "localization dominates",
        f"λ̂ changes by {change:.3g} when γ is doubled",
        "lower localization (raise max_steps, if it is auto)",
    )


def _step_size(measured: Measurements, evidence: Evidence) -> Reason | None:
    """Is the step small enough for the law to be the one meant?"""
    if is_step_too_large(measured) and not does_heat_dominate(measured):
        has_momentum = math.isfinite(measured.kinetic_temperature)
        lower = f"lower step_size, to about {smaller_step(measured) * evidence.step_size:.1e}"
        is_heat = measured.llc_uncorrected != measured.llc
        more = "raise batch_size" + (" or friction" if has_momentum else "")
        return Reason(
            "step size too large",
            f"the finite step and gradient noise add about {measured.step_size_bias:.3g} to λ̂ = {measured.llc:.4g}",
            f"{more}, or {lower}" if is_heat else f"{lower}, or {more}",
        )
    if measured.accept_prob < 0.5 and not evidence.is_exact:
        return Reason(
            "step size too large",
            f"MALA would accept only {measured.accept_prob:.0%} of the steps",
            f"lower step_size, to about {evidence.step_size / 2:.1e}",
        )
    if measured.accept_prob < 0.9:
        text = f"acceptance {measured.accept_prob:.2f} is below 0.9"
        return Reason("acceptance", text, "lower step_size", is_note=True)
    return None


def _drifting(measured: Measurements, evidence: Evidence) -> Reason | None:
    """Have the chains arrived? If not: either γ or the number of steps keeps flat directions from relaxing."""
    if not statistics.is_drifting(measured.plateau, measured.llc, measured.llc_se):
        return None
    longer = "num_burnin_steps (max_steps, if it is auto)"
    if evidence.localization >= evidence.relaxed_curvature:
        remedy = f"raise {longer}, to {2 * evidence.num_steps:,} or more"
    else:
        longest = f", or {longer}, to about {evidence.enough_steps}" if evidence.localization > 0 else ""
        remedy = (
            f"raise localization, to about {evidence.relaxed_curvature:.2g}{longest}: flat directions relax in 2/(εγ) "
            "steps"
        )
    drift, error = measured.plateau["drift"], measured.plateau["drift_se"]
    return Reason(
        "drifting",
        f"λ̂ of the later half of the draws is {drift:+.3g} from that of the earlier half (error {error:.2g}): not yet "
        f"flat after {evidence.num_steps:,} steps",
        remedy,
    )


def _disagreement(measured: Measurements, evidence: Evidence) -> Reason | None:
    if not measured.r_hat > 1.1:
        return None
    return Reason(
        "chains disagree",
        f"r̂ = {measured.r_hat:.2f} is above 1.1",
        "raise num_burnin_steps (max_steps, if it is auto) and num_draws",
    )


def _few_draws(measured: Measurements, evidence: Evidence) -> Reason | None:
    num_chains = len(evidence.draws)
    if not measured.ess >= 10 * num_chains:
        return Reason(
            "too few draws",
            f"only {measured.ess:.0f} effective draws in {num_chains} chains",
            "raise num_draws (max_steps, if burn-in is auto)",
        )
    if measured.llc_se > 0.25 * abs(measured.llc):
        return Reason(
            "too few draws",
            f"the standard error {measured.llc_se:.2g} is over a quarter of λ̂ = {measured.llc:.3g}",
            "raise num_draws, num_chains or batch_size",
        )
    return None


def _one_chain(measured: Measurements, evidence: Evidence) -> Reason | None:
    if len(evidence.draws) != 1:
        return None
    text = "with one chain, disagreement between chains cannot be seen"
    return Reason("one chain", text, "use num_chains 2 or more", is_note=True)


def _kinetic_temperature(measured: Measurements, evidence: Evidence) -> Reason | None:
    temperature = measured.kinetic_temperature
    if not abs(temperature - 1) > 0.01:
        return None
    return Reason(
        "kinetic temperature",
        f"momenta are at {temperature:.3f} of the temperature meant",
        "raise friction or lower step_size" if temperature > 1 else "lower step_size",
        is_note=True,
    )


def _heat_capacity(measured: Measurements, evidence: Evidence) -> Reason | None:
    llc, capacity, capacity_se = measured.llc, measured.heat_capacity, measured.heat_capacity_se
    error = math.hypot(capacity_se, measured.llc_se)
    if not (llc > 0 and abs(capacity - llc) > max(0.5 * llc, 3 * error)):
        return None
    return Reason(
        "heat capacity",
        f"the variance of nβL gives {capacity:.3g} ± {capacity_se:.2g} for λ, its mean "
        f"{llc:.3g}: the loss is not near its singular form at this temperature, or not equilibrated",
        "raise num_draws; if it stays, read λ̂ as that of this nβ and γ",
        is_note=True,
    )


def _still_spreading(measured: Measurements, evidence: Evidence) -> Reason | None:
    """λ̂ is that of the range that the chains have reached, not yet of the one that γ allows."""
    if not evidence.llc_still_missing:
        return None
    before, distance, change = (evidence.spreading[name] for name in ("distance_before", "distance", "change"))
    count = evidence.llc_still_missing / change
    times = "" if count == 1 else f", {count:.1f} times: for each doubling of the steps that flat directions still need"
    longer = f", or steps to about {evidence.enough_steps}" if evidence.localization > 0 else ""
    return Reason(
        "still spreading",
        f"since the burn-in ‖w − w*‖ grew from {before:.3g} to {distance:.3g} and λ̂ changed by {change:+.3g}, which is "
        f"in its error{times}: γ does not hold the flat directions yet",
        f"raise localization{longer}",
        is_note=True,
    )


def _stiffer(measured: Measurements, evidence: Evidence) -> Reason | None:
    """Chains that lowered ε relax more slowly, and some directions may not have relaxed at all."""
    if not (evidence.is_stiffer and evidence.relaxed_curvature > evidence.localization):
        return None
    curvature = f"{evidence.relaxed_curvature:.2g}"
    return Reason(
        "stiffer than at w*",
        f"steps fell to {evidence.step_share:.0%} of what w* allows: directions of curvature below {curvature} have "
        "not relaxed, and what they add to λ̂ may be missing",
        f"raise localization, to about {curvature}, or num_draws (max_steps, if burn-in is auto)",
        is_note=True,
    )


_CHECKS: tuple[Callable[[Measurements, Evidence], Reason | None], ...] = (
    *(_trivial, _heat, _not_a_minimum, _negative, _localization),  # is w* a minimum, and did the chains stay near it?
    _step_size,
    *(_drifting, _disagreement, _few_draws, _one_chain),  # have the chains mixed?
    *(_kinetic_temperature, _heat_capacity),  # is the temperature the one meant?
    *(_still_spreading, _stiffer),  # have flat directions relaxed?
)
"""In the order in which a result lists its reasons."""
