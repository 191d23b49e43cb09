"""Checks that make notes: they do not change the verdict. Arrays only."""

from __future__ import annotations

import math
from collections.abc import Callable

from hf_llc.judging import statistics
from hf_llc.judging.evidence import Evidence
from hf_llc.judging.moved import is_overfitted, of
from hf_llc.judging.remedies import Remedy, longer, own_step_size, pull_of, reason_of, set_to
from hf_llc.numerals import number, short, signed, with_error
from hf_llc.records.findings import OVERFITTED, Measurements, Reason


def _one_chain(measured: Measurements, evidence: Evidence) -> Reason | None:
    if len(evidence.draws) != 1:
        return None
    text = "one chain cannot show whether chains agree"
    return reason_of("one chain", text, set_to(evidence.asked, num_chains=4), is_note=True)


def _kinetic_temperature(measured: Measurements, evidence: Evidence) -> Reason | None:
    temperature = measured.kinetic_temperature
    if not abs(temperature - 1) > 0.01:
        return None
    return reason_of(
        "kinetic temperature",
        f"the temperature of the momenta is {temperature:.3f} and should be 1",
        own_step_size(evidence.asked, evidence.step_size, 0.5),
        is_note=True,
    )


def _heat_capacity(measured: Measurements, evidence: Evidence) -> Reason | None:
    llc, capacity, capacity_se = measured.llc, measured.heat_capacity, measured.heat_capacity_se
    error = math.hypot(capacity_se, measured.llc_se)
    if not (llc > 0 and abs(capacity - llc) > max(0.5 * llc, 3 * error)):
        return None
    return reason_of(
        "heat capacity",
        f"the variance of nβL gives {with_error(capacity, capacity_se)} for λ, its mean {short(llc)}: the loss is not "
        "near its singular form at this temperature, or the chains are not in equilibrium",
        Remedy("read λ̂ as that of this nβ and γ"),
        is_note=True,
    )


def _still_spreading(measured: Measurements, evidence: Evidence) -> Reason | None:
    """λ̂ is that of the range that the chains have reached, not yet of the one that γ allows."""
    if not evidence.llc_still_missing:
        return None
    before, distance, change = (evidence.spreading[name] for name in ("distance_before", "distance", "change"))
    count = evidence.llc_still_missing / change
    times = "" if count == 1 else f", {count:.1f} times: for each doubling of the steps that flat directions still need"
    wanted = max(1.25 * evidence.relaxed_curvature, 2 * evidence.localization)
    return reason_of(
        "still spreading",
        f"since the burn-in ‖w − w*‖ grew from {number(before)} to {number(distance)} and λ̂ changed by "
        f"{signed(change)}, which is in its error{times}: γ does not hold the flat directions yet",
        pull_of(evidence.asked, evidence.localization, wanted),
        is_note=True,
    )


def _short_burnin(measured: Measurements, evidence: Evidence) -> Reason | None:
    """The draws began before the chains had relaxed, and that widens the error by a tenth or more."""
    missing, asked = evidence.llc_unrelaxed, evidence.asked
    if evidence.llc_still_missing or not missing > 0.42 * measured.llc_se:  # 0.42 of it: a tenth wider
        return None
    relaxed = 2 / (evidence.slow_step_size * evidence.localization) if evidence.localization else math.inf
    if asked.is_auto("num_burnin_steps"):
        remedy = longer(asked, evidence.localization, 2)
    else:
        least = 2 * asked.settings.num_burnin_steps
        remedy = set_to(asked, num_burnin_steps=max(least, min(math.ceil(4 * relaxed), 10 * least)))
    return reason_of(
        "short burn-in",
        f"λ̂ was still rising when the burn-in ended, and up to {short(missing)} may be missing, which is in its error; "
        f"flat directions relax in {short(relaxed)} steps",
        remedy,
        is_note=True,
    )


def _stiffer(measured: Measurements, evidence: Evidence) -> Reason | None:
    """Chains that lowered ε relax more slowly, and some directions may not have relaxed at all."""
    if not (evidence.is_stiffer and evidence.relaxed_curvature > evidence.localization):
        return None
    return reason_of(
        "stiffer than at w*",
        f"steps fell to {evidence.step_share:.0%} of what w* allows: directions of curvature below "
        f"{short(evidence.relaxed_curvature)} have not relaxed, and their part of λ̂ may be missing",
        pull_of(evidence.asked, evidence.localization, 1.25 * evidence.relaxed_curvature),
        is_note=True,
    )


def _minimum_not_known(measured: Measurements, evidence: Evidence) -> Reason | None:
    """A descent on few examples says too little of others: a fall that the verdict would name may hide in its error."""
    descent, llc = evidence.descent, measured.llc
    if descent is None or not llc > 0 or statistics.is_above_minimum(descent, llc):
        return None
    drop, error = descent["loss_drop"], descent["loss_drop_se"]
    if not 3 * error > statistics.MATERIAL * (llc + max(drop, 0.0)):
        return None
    return reason_of(
        "minimum not known",
        f"a descent from w* lowers nβL by {with_error(drop, error)}: it cannot tell whether w* lies above a minimum by "
        "a tenth of λ̂",
        Remedy("allow more steps, for the descent then sees more examples"),
        is_note=True,
    )


def _overfitted(measured: Measurements, evidence: Evidence) -> Reason | None:
    """λ̂ is that of a point which minimize fitted to these data alone."""
    found = evidence.minimize
    if not is_overfitted(found):
        return None
    before, after, error = (of(found, f"held_out_{name}") for name in ("before", "after", "se"))
    count = int(of(found, "held_out_examples"))
    return reason_of(
        OVERFITTED,
        f"a minimization from w* that does not see {count:,} of the examples raises their loss from {number(before)} "
        f"to {with_error(after, error)}: its end fits only the data that it sees",
        Remedy("read λ̂ as that of the point found; for w* itself leave minimize out, or give more examples"),
        is_note=True,
    )


NOTES: tuple[Callable[[Measurements, Evidence], Reason | None], ...] = (
    *(_overfitted, _minimum_not_known, _one_chain),
    *(_kinetic_temperature, _heat_capacity),  # is the temperature the one meant?
    *(_still_spreading, _short_burnin, _stiffer),  # have flat directions relaxed?
)
"""In the order in which a result lists them."""
