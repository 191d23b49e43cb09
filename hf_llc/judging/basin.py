"""Did the chains keep the model? And what to do, by what they lose of its distance to a constant predictor."""

from __future__ import annotations

import math
from dataclasses import replace

from hf_llc.judging.evidence import Evidence
from hf_llc.judging.remedies import (
    Remedy,
    hotter_at_w_star,
    not_here,
    own_step_size,
    principled_nbeta,
    pull_of,
    reason_of,
    set_to,
    stronger_pull,
    to_minimum,
    weaker_pull,
)
from hf_llc.numerals import number
from hf_llc.records.findings import Measurements, Reason

_SAFE = 0.25
"""Of the distance from L_n(w*) to the loss of a constant predictor, what chains at a new γ are meant to lose."""


def has_learnt_nothing(init_loss: float, trivial_loss: float | None) -> bool:
    """Whether the model is no better at w* than a constant predictor, if that one's loss is known."""
    return trivial_loss is not None and not trivial_loss > init_loss


def trivial(measured: Measurements, evidence: Evidence) -> Reason | None:
    """Is the model better than a constant predictor, at w* and at the draws?"""
    init_loss, mean_loss, trivial_loss = measured.init_loss, measured.mean_loss, evidence.trivial_loss
    if trivial_loss is None:
        return None
    if has_learnt_nothing(init_loss, trivial_loss):
        return reason_of(
            "not a minimum",
            f"the loss {number(init_loss)} at w* is no better than {number(trivial_loss)} of a constant predictor",
            not_here("the model has learnt nothing of this data: use data that it was trained on"),
        )
    lost = (mean_loss - init_loss) / (trivial_loss - init_loss)
    if not lost > 0.5:
        return None
    how = "above" if lost >= 1 else f"{lost:.0%} of the way to"
    return reason_of(
        "left the basin",
        f"the mean loss {number(mean_loss)}, from {number(init_loss)} at w*, is {how} the "
        f"{number(trivial_loss)} of a constant predictor: the model is destroyed",
        _colder(measured, evidence, lost),
    )


def _colder(measured: Measurements, evidence: Evidence, lost: float) -> Remedy:
    """Against chains that left the basin: the principled nβ first, then ε and γ of the pilot, then more γ."""
    asked = evidence.asked
    if not asked.is_known:
        return Remedy("raise nbeta, to n / ln n, or localization")
    if remedy := principled_nbeta(asked, evidence.nbeta):
        return remedy
    if not asked.is_auto("step_size"):
        return own_step_size(asked, evidence.step_size, 0.25)
    if not asked.is_auto("localization") and evidence.localization < 5 * evidence.relaxed_curvature:
        return set_to(asked, {"localization": evidence.localization}, localization="auto")
    # λ̂ ∝ 1/γ where γ holds the chains; what they lose goes as 1 − exp(−c/γ), for it ends at a constant predictor
    factor = 30.0 if lost >= 1 else min(math.log1p(-lost) / math.log1p(-_SAFE), 30.0)
    return stronger_pull(asked, evidence.localization, factor)


def weaker(measured: Measurements, evidence: Evidence) -> Remedy:
    """Against a γ that makes up λ̂: the weakest that keeps the model, by what chains lose at one that was given."""
    asked, gap = evidence.asked, _gap(measured, evidence)
    lost = measured.llc / (evidence.nbeta * gap) if gap > 0 else 0.0
    if not asked.is_known or asked.is_auto("localization") or lost < 0.01:
        return weaker_pull(asked, evidence.localization)
    if lost >= _SAFE / 2:
        return not_here(
            f"γ alone keeps the model: chains lose {lost:.0%} of the way to a constant predictor, and with a γ so weak "
            "that the loss held them they would leave the basin"
        )
    return pull_of(asked, evidence.localization, evidence.localization * lost / _SAFE)


def minimum_or_w_star(measured: Measurements, evidence: Evidence, drop: float) -> Remedy:
    """Move w* to a minimum; or leave it, and ask at a temperature that does not see how far it lies above one."""
    moved, from_minimum, gap = to_minimum(evidence.asked), measured.llc + drop, _gap(measured, evidence)
    if not from_minimum > 0 or evidence.asked.settings.minimize:
        return moved
    stay = hotter_at_w_star(
        evidence.asked,
        nbeta=evidence.nbeta,
        localization=evidence.localization,
        share=drop / from_minimum,
        lost=from_minimum / (evidence.nbeta * gap) if gap > 0 else 0.0,
    )
    return moved if stay is None else replace(moved, text=f"{moved.text}; or keep w*, and {stay.text}")


def _gap(measured: Measurements, evidence: Evidence) -> float:
    """How much better than a constant predictor the model is, in the unit of the loss; 0: not known, or not better."""
    return max(0.0 if evidence.trivial_loss is None else evidence.trivial_loss - measured.init_loss, 0.0)
