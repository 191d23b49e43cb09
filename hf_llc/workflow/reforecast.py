"""The forecast of what is left, told again when more is known: after L_n(w*), after calibration, at another attempt."""

from __future__ import annotations

import math
from typing import NamedTuple

from hf_llc.numerals import number, short
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.posterior import Posterior
from hf_llc.progress import watch
from hf_llc.ranges import SAID, Range, said
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.workflow.forecast import Foresee
from hf_llc.workflow.shortest_run import Work

_CORRELATED = 1.5
"""Draws of one step for each independent one (1.0 on stories260K, 1.5 on the embedded model)."""


class FirstLook(NamedTuple):
    """What the last block of a pilot says of λ̂: its mean, and the spread of single steps around it. NaN: not known."""

    llc: float
    spread: float


def expect_chains(
    posterior: Posterior, settings: ChainSettings, processes: Processes, foresee: Foresee, *, first: FirstLook
) -> None:
    """Put chains with these settings, and what follows them, into the plan of the watch, if there was a forecast."""
    if watch().needs_forecast:
        new = foresee(posterior, settings, processes, checks="check γ" in watch().plan)
        if settings.num_burnin_steps is None:
            new = _as_long_as_needed(new, settings, first)
        watch().plan |= _least(new) if watch().is_short else new
        left = watch().time_left()
        if left.most > SAID:
            watch().note(f"{said(left)} left, with γ {short(settings.localization)}, ε {short(settings.step_size)}")


def _as_long_as_needed(work: Work, settings: ChainSettings, first: FirstLook) -> Work:
    """The work of chains whose first look says how many draws `target_se` takes, or that λ̂ is below zero."""
    names = [name for name in ("sample", "check γ") if name in work]
    if first.llc <= 0:  # no draws make that a λ̂ to trust
        return work | {name: Range(work[name].least, work[name].least, work[name].most) for name in names}
    errors = first.spread / (settings.target_se * first.llc)
    draws = _CORRELATED * errors * errors / settings.num_chains  # a square by ** would raise where it overflows
    if not math.isfinite(draws):
        return work
    sample = work["sample"]
    # the least are twice `num_draws` steps, half of them burn-in
    needed = draws / (settings.num_draws * settings.num_steps_between_draws) * sample.least
    factor = max(min(needed, sample.most) / sample.guess, 1.0)
    return work | {name: work[name]._replace(guess=min(factor * work[name].guess, work[name].most)) for name in names}


def expect_little(init_loss: float, trivial_loss: float | None) -> None:
    """The model has learnt nothing, as its loss at w* says: plan the least after calibration, and no descent."""
    watch().is_short = True
    watch().plan = _least(watch().plan)
    left = said(watch().time_left())
    known = f"the loss at w* is {number(init_loss)}, and {number(trivial_loss)} of a constant predictor"
    watch().note(f"the model has learnt nothing: {known}; the chains end early{', ' * bool(left)}{left}")


def _least(work: Work) -> Work:
    """The least of each stage that has to be; calibration takes as long as for a model that has learnt."""
    return {
        name: each if name == "calibrate" else Range(*[each.least] * 3)
        for name, each in work.items()
        if each.least > 0 and name != "descend"
    }
