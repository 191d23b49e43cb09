"""Every check of an estimate, each with its remedy. Arrays only; `hf_llc.judging.verdict` orders what they find."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from hf_llc.judging import statistics
from hf_llc.judging.basin import minimum_or_w_star, trivial, weaker
from hf_llc.judging.evidence import Evidence
from hf_llc.judging.notes import NOTES
from hf_llc.judging.remedies import (
    Remedy,
    larger_batches,
    longer,
    more_draws,
    not_here,
    own_step_size,
    principled_nbeta,
    pull_of,
    reason_of,
    stronger_pull,
    to_minimum,
)
from hf_llc.judging.step_bias import does_heat_dominate, is_step_too_large, smaller_step
from hf_llc.judging.verdict import precedence
from hf_llc.numerals import number, short, signed, with_error
from hf_llc.records.findings import NOT_HERE, Measurements, Reason

_HELD_BY_LOSS = 0.2
"""The least share of λ̂ that the variance of nβL is where the loss holds the chains: with as much of λ̂ in stiff
directions, and the rest in flat ones, twice the γ takes 40 % of λ̂."""

_TAKEN = 0.4
"""Share of λ̂ that twice the γ takes where γ makes up λ̂: a half in the end, of which short chains show most."""

_SLOPELESS = (
    "the loss has no slope at w* that minimize could follow down: it is a saddle, a maximum, or a minimum beside a "
    "lower one; train on from weights moved a little"
)


def is_change_known(change: float, error: float, llc: float, *, within: float) -> bool:
    """Whether the change of λ̂ with γ is known to `within` of λ̂, and on which side of the verdict's line it lies."""
    is_clear = abs(change + _TAKEN * abs(llc)) > 2 * error
    return is_clear and error <= within * abs(llc)


def findings(measured: Measurements, evidence: Evidence) -> list[Reason]:
    """Every check that failed, in order of precedence, each with its remedy, and the notes.

    Of chains that diverged or are stuck nothing else is said: their numbers mean nothing. A remedy of settings that an
    earlier one changes is left out: it would repeat or contradict it. Where no setting helps, there is no other remedy.
    """
    for check in (_diverged, _stuck):
        reason = check(evidence)
        if reason is not None:
            return [reason]
    reasons = [reason for check in _CHECKS if (reason := check(measured, evidence)) is not None]
    reasons.sort(key=lambda reason: (reason.is_note, precedence(reason.name)))
    taken: set[str] = set()
    is_hopeless = False
    for place, reason in enumerate(reasons):
        if is_hopeless or not taken.isdisjoint(reason.change):
            reasons[place] = replace(reason, remedy="", change={})
        taken.update(reason.change)
        is_hopeless = is_hopeless or reason.remedy.startswith(NOT_HERE)
    return reasons


def _diverged(evidence: Evidence) -> Reason | None:
    broken = statistics.first_non_finite(evidence.loss)
    if not broken:
        return None
    chain, step = broken[0]
    asked, step_size = evidence.asked, evidence.step_size
    is_calibrated = asked.is_known and asked.is_auto("step_size")  # and lowered twice: γ is too weak
    return reason_of(
        "diverged",
        f"the loss of chain {chain} was not finite at step {step} ({len(broken)} of {len(evidence.loss)} chains)",
        stronger_pull(asked, evidence.localization, 10) if is_calibrated else own_step_size(asked, step_size, 0.25),
    )


def _stuck(evidence: Evidence) -> Reason | None:
    stuck = statistics.stuck_chains(evidence.draws)
    if not stuck:
        return None
    is_flat = not evidence.excess.any()
    flat = not_here("the loss does not change where the chains go: these weights do not act on it")
    remedy = own_step_size(evidence.asked, evidence.step_size, 0.25 if evidence.is_exact else 100)
    is_hopeless = is_flat and not evidence.is_exact and evidence.asked.is_auto("step_size")
    text = f"chain {stuck[0]} did not move ({len(stuck)} of {len(evidence.draws)} chains)"
    return reason_of("stuck", text, flat if is_hopeless else remedy)


def _heat(measured: Measurements, evidence: Evidence) -> Reason | None:
    """A correction larger than what it corrects: more examples a gradient make it smaller, a minimum does not."""
    if not does_heat_dominate(measured):
        return None
    heat = measured.llc_uncorrected - measured.llc
    return reason_of(
        "gradient noise dominates",
        f"the noise of minibatch gradients adds about {short(heat)} to λ̂, of {short(measured.llc_uncorrected)} in all",
        larger_batches(evidence.asked, max(8.0, 10 * heat / measured.llc_uncorrected)),
    )


def _not_a_minimum(measured: Measurements, evidence: Evidence) -> Reason | None:
    """λ̂ counts from a minimum: no descent may fall from w* as far as to matter, and no chain below it."""
    descent = evidence.descent
    llc = measured.llc_uncorrected if does_heat_dominate(measured) else measured.llc
    if descent is None or not statistics.is_above_minimum(descent, llc):
        return _dip(measured, evidence)
    drop, llc_se = descent["loss_drop"], measured.llc_se
    from_there = with_error(measured.llc + drop, math.hypot(llc_se, descent["loss_drop_se"]))
    is_slopeless = "from_chain" in descent
    return reason_of(
        "not a minimum",
        f"a descent from {'where a chain ended' if is_slopeless else 'w*'}, held by γ, lowers nβL by {short(drop)}"
        f"{' below w*' if is_slopeless else ''}: λ̂ counted from its end is {from_there}, counted from w* "
        f"{with_error(measured.llc, llc_se)}",
        not_here(_SLOPELESS) if is_slopeless else minimum_or_w_star(measured, evidence, drop),
    )


def _dip(measured: Measurements, evidence: Evidence) -> Reason | None:
    """A chain that starts at a minimum can only climb."""
    dip = statistics.deepest_dip(evidence.excess)
    noise = larger_batches(evidence.asked, 64)  # no descent falls so far: a few minibatches threw the chains there
    if not statistics.is_dipping(dip, measured.llc, float(evidence.draws.std())):
        return None
    return reason_of(
        "not a minimum",
        f"the chains fell below L_n(w*), by {short(-dip['depth'])} in units of λ̂ near step "
        f"{dip['step']:.0f}: w* is not at a minimum of this data's loss",
        to_minimum(evidence.asked) if evidence.descent is None else noise,
    )


def _negative(measured: Measurements, evidence: Evidence) -> Reason | None:
    llc = measured.llc
    if not llc < 0 or does_heat_dominate(measured):  # then the chains lie above L_n(w*)
        return None
    is_sure = llc < -2 * measured.llc_se
    return reason_of(
        "negative",
        f"λ̂ = {number(llc)} is below zero" + ("" if is_sure else ", within its error"),
        to_minimum(evidence.asked) if is_sure else _enough_draws(measured, evidence),
    )


def _enough_draws(measured: Measurements, evidence: Evidence) -> Remedy:
    """As many draws as bring the error to a fifth of λ̂, and fifteen effective ones a chain."""
    wanted = 0.2 * abs(measured.llc)
    by_error = (measured.llc_se / wanted) ** 2 if wanted > 0 else math.inf
    by_ess = 15 * len(evidence.draws) / measured.ess if measured.ess > 0 else 4.0
    factor = max(by_error if math.isfinite(measured.llc_se) else 4.0, by_ess)
    return more_draws(evidence.asked, evidence.localization, factor)


def _localization(measured: Measurements, evidence: Evidence) -> Reason | None:
    """Where γ makes up λ̂, λ̂ ∝ 1/γ, and twice the γ would take a half of it.

    The chains also tell it in another way. A direction of curvature h has x = nβh/(nβh + γ), adds x/2 to λ̂ and x²/2 to
    the variance of nβL. So that variance is λ̂ where the loss holds the chains, and a small part of it where γ does:
    that decides where the change at 2γ is too uncertain to.
    """
    llc = measured.llc
    change, error = measured.localization_sensitivity["doubled"], measured.localization_sensitivity["doubled_se"]
    is_flat = not statistics.is_drifting(measured.plateau, llc, measured.llc_se)
    is_steady = measured.heat_capacity + 3 * measured.heat_capacity_se < _HELD_BY_LOSS * llc
    is_half = change - (2 * error if is_steady else 0.0) < -_TAKEN * abs(llc)
    if not (is_flat and is_half and change < -3 * error):
        return None
    hardly = (
        f", and the variance of nβL is {with_error(measured.heat_capacity, measured.heat_capacity_se)} where the loss "
        "alone would make it λ̂"
    )
    return reason_of(
        "localization dominates",
        f"λ̂ changes by {signed(change)} when γ is doubled{hardly if is_steady else ''}",
        principled_nbeta(evidence.asked, evidence.nbeta) or weaker(measured, evidence),
    )


def _step_size(measured: Measurements, evidence: Evidence) -> Reason | None:
    """Is the step small enough for the law to be the one meant?"""
    asked, step_size = evidence.asked, evidence.step_size
    if is_step_too_large(measured) and not does_heat_dominate(measured):
        # ε of the pilot suits full batches: what is too much is noise
        is_heat = measured.llc_uncorrected != measured.llc or asked.is_auto("step_size")
        smaller = own_step_size(asked, step_size, smaller_step(measured))
        batches = larger_batches(asked, max(2.0, measured.step_size_bias / (0.05 * measured.llc)))
        return reason_of(
            "step size too large",
            f"the finite step and gradient noise add about {short(measured.step_size_bias)} to λ̂ = "
            f"{number(measured.llc)}",
            batches if is_heat and not asked.has_all_examples else smaller,
        )
    if measured.accept_prob < 0.5 and not evidence.is_exact:
        return reason_of(
            "step size too large",
            f"MALA would accept only {measured.accept_prob:.0%} of the steps",
            own_step_size(asked, step_size, 0.5),
        )
    if measured.accept_prob < 0.9:
        text = f"acceptance {measured.accept_prob:.2f} is below 0.9"
        return reason_of("acceptance", text, own_step_size(asked, step_size, 0.5), is_note=True)
    return None


def _relaxed(evidence: Evidence) -> Remedy:
    """Against chains that have not arrived: either γ or the number of steps keeps flat directions from relaxing."""
    asked, localization = evidence.asked, evidence.localization
    if localization < evidence.relaxed_curvature:
        return pull_of(asked, localization, 1.25 * evidence.relaxed_curvature)
    return longer(asked, localization, 4)


def _drifting(measured: Measurements, evidence: Evidence) -> Reason | None:
    """Have the chains arrived?"""
    if not statistics.is_drifting(measured.plateau, measured.llc, measured.llc_se):
        return None
    drift, error = measured.plateau["drift"], measured.plateau["drift_se"]
    return reason_of(
        "drifting",
        f"λ̂ of the later half of the draws is {signed(drift)} from that of the earlier half (error {short(error)}): "
        f"not yet flat after {evidence.num_steps:,} steps",
        _relaxed(evidence),
    )


def _disagreement(measured: Measurements, evidence: Evidence) -> Reason | None:
    if not measured.r_hat > 1.1:
        return None
    return reason_of("chains disagree", f"r̂ = {measured.r_hat:.2f} is above 1.1", _relaxed(evidence))


def _few_draws(measured: Measurements, evidence: Evidence) -> Reason | None:
    num_chains = len(evidence.draws)
    if not measured.ess >= 10 * num_chains:
        text = f"only {measured.ess:.0f} effective draws in {num_chains} chain{'s' * (num_chains != 1)}"
    elif measured.llc_se > 0.25 * abs(measured.llc):
        text = f"the standard error {short(measured.llc_se)} is over a quarter of λ̂ = {short(measured.llc)}"
    else:
        return None
    return reason_of("too few draws", text, _enough_draws(measured, evidence))


_CHECKS: tuple[Callable[[Measurements, Evidence], Reason | None], ...] = (
    *(trivial, _heat, _not_a_minimum, _negative, _localization),  # is w* a minimum, and did the chains stay near it?
    _step_size,
    *(_drifting, _disagreement, _few_draws),  # have the chains mixed?
    *NOTES,
)
"""A result lists its reasons by precedence, its notes in this order."""
