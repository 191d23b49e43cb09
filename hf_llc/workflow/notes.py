"""What a run adds to the findings of its chains: why they ended, and what could not be measured."""

from __future__ import annotations

from dataclasses import replace

from hf_llc.numerals import typed
from hf_llc.records.findings import Estimate, Reason

_HOPELESS = ("gradient noise dominates", "not a minimum", "negative")
"""Verdicts that more steps do not change: chains end early for them (`judging.stopping`)."""

_SHORT = ("too few draws", "drifting", "chains disagree")
"""Verdicts on chains that were too short. γ was chosen for all the steps that they may take: more time comes first."""

_LONGER = 4
"""Times more seconds that a run whose time was up is given: half of its standard error."""


def with_notes(
    estimate: Estimate,
    *,
    cut_at: int | None,
    max_seconds: float | None,
    steps: int,
    allowed: int,
    is_heat_guessed: bool,
    unmeasured: str | None,
    is_descent_too_large: bool = False,
    in_turn: str | None = None,
) -> Estimate:
    """The estimate with notes.

    Args:
        estimate: of the chains.
        cut_at: steps at which their time was up; None: it was not.
        max_seconds: the time that they had.
        steps: that each chain took.
        allowed: steps that it might have taken.
        is_heat_guessed: the time was up before it was measured how much of the heat reaches λ̂.
        unmeasured: what steps inside the backward pass cannot measure; None: nothing, or steps were taken otherwise.
        is_descent_too_large: for this machine's memory, so that there was none.
        in_turn: `draw_loss` of chains whose minibatches were walked in turn; None: they were not.
    """
    reasons = list(estimate.reasons)
    if cut_at is not None and max_seconds is not None:
        change = {"max_seconds": _LONGER * max_seconds}
        remedy = f"give max_seconds {typed(change['max_seconds'])}"
        if estimate.verdict in _SHORT:
            reasons[0] = replace(reasons[0], remedy=remedy, change=change)
        text = f"max_seconds ended the chains after {cut_at:,} steps"
        reasons.append(Reason("time was up", text, remedy, is_note=True, change=change))
    elif 2 * steps <= allowed and estimate.verdict in _HOPELESS:
        text = f"the chains ended after {steps:,} of at most {allowed:,} steps: more steps would not change the verdict"
        reasons.append(Reason("ended early", text, is_note=True))
    if is_heat_guessed and max_seconds is not None:
        change = {"max_seconds": _LONGER * max_seconds}
        text = "max_seconds left no time to measure how much of the heat reaches λ̂: half of it was taken off, "
        text += "with an error that allows for none and for all of it"
        remedy = f"give max_seconds {typed(change['max_seconds'])}"
        reasons.append(Reason("heat not measured", text, remedy, is_note=True, change=change))
    if is_descent_too_large:
        text = "how far w* lies above a minimum, because a descent does not fit into the free memory"
        reasons.append(
            Reason("not measured", text, "give it more memory, or sample a part of the weights", is_note=True)
        )
    if unmeasured is not None:
        text = f"{unmeasured} takes two whole gradients, but steps were taken inside the backward pass"
        reasons.append(Reason("not measured", text, "give it more memory", is_note=True))
    if in_turn is not None:
        leans = "each depends on what earlier ones did to w, so λ̂ is too high"
        cools = "their noise adds up to nothing over a turn, so the measured heat is too high"
        text = f"minibatches were walked in turn: {leans if in_turn == 'batch' else cools}"
        reasons.append(Reason("batches in turn", text, "leave batch_order at random", is_note=True))
    return replace(estimate, reasons=reasons)
