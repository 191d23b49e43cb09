"""When chains have run long enough: the rule that `chains.ensemble` asks after each doubling of the steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hf_llc.judging import statistics
from hf_llc.judging.estimator import llc_draws
from hf_llc.judging.heat import heat_errors
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.trace import Trace
from hf_llc.samplers.effective_step import slow_step_size

_RELAXED = 4 * 0.99
"""ε_eff γ times the burn-in steps from which flat directions count as relaxed: twice the 2/(ε_eff γ) steps in which
they relax, after which their energy is at 98 % of its final value; a percent less, for rounding of γ."""


_GROWTH = 3
"""λ̂ may still grow to so many times what the first steps say."""

_FAR_ABOVE = _GROWTH * statistics.MATERIAL
"""Share of λ̂ by which w* may lie above its minimum before more steps would not help: it is then still no minimum."""

_HALF = 0.5
"""Share of λ̂, counted from where the descent ends, by which w* may lie above that before chains end at a first look."""

_SURE = 4.0
"""Standard errors from which on it is sure that more steps would not help."""


@np.errstate(over="ignore", invalid="ignore")
def is_in_vain(
    settings: ChainSettings, trace: Trace, num_burnin_steps: int, *, descent: dict[str, float] | None
) -> bool:
    """Return True if the first steps of the chains have climbed less from w* than a descent fell.

    λ̂ would have to grow ninefold for its verdict to let w* pass as a minimum.

    Args:
        settings: of the chains.
        trace: of their first steps, burn-in included.
        num_burnin_steps: steps dropped at the start.
        descent: how far a descent from w* falls (`calibration.descent`), or None.
    """
    steps = {"num_burnin_steps": num_burnin_steps, "num_steps_between_draws": 1}
    draws = llc_draws(trace.loss, trace.init_loss, nbeta=settings.nbeta, **steps)
    highest = float(draws.mean()) + _SURE * statistics.standard_error(draws)
    return math.isfinite(highest) and statistics.is_above_minimum(descent, highest, _HALF)


@np.errstate(over="ignore", invalid="ignore")  # a diverging chain's last finite loss times nβ
def is_long_enough(
    settings: ChainSettings,
    trace: Trace,
    num_burnin_steps: int,
    num_steps_between_draws: int,
    *,
    has_learnt_nothing: bool = False,
    descent: dict[str, float] | None = None,
    least_heat: Callable[..., float] | None = None,
) -> bool:
    """Return True if the draws are flat and many enough, or if more steps would not help.

    More steps do not help a chain that diverged, nor a model that has learnt nothing, nor a w* that lies far above its
    minimum; nor, where the chains are flat and agree, a w* that surely lies above it by a material part of λ̂, a λ̂ that
    is surely below zero, or one of which gradient noise surely makes the larger part. Otherwise the chains go on until
    flat directions have relaxed within the burn-in (a slow climb of many of them is hard to see in the draws), the
    draws do not drift, the chains agree and the standard error is below `target_se` times λ̂.

    Args:
        settings: of the chains.
        trace: every step of every chain, burn-in included.
        num_burnin_steps: steps dropped at the start.
        num_steps_between_draws: steps averaged into one draw.
        has_learnt_nothing: the model is no better at w* than a constant predictor (`judging.basin`).
        descent: how far a descent from w* falls (`calibration.descent`), or None.
        least_heat: (trace, burn-in steps) → what of the heat of gradient noise reaches λ̂, at least; asked only where
            all of the heat would be the larger part. None: it is not known.
    """
    draws = llc_draws(
        trace.loss,
        trace.init_loss,
        nbeta=settings.nbeta,
        num_burnin_steps=num_burnin_steps,
        num_steps_between_draws=num_steps_between_draws,
    )
    llc, llc_se = float(draws.mean()), statistics.standard_error(draws)
    if has_learnt_nothing or not math.isfinite(llc):
        return True
    dip = statistics.deepest_dip(settings.nbeta * (trace.loss - trace.init_loss))
    if statistics.is_dipping(dip, llc, float(draws.std())):
        return True
    if statistics.is_above_minimum(descent, llc, _FAR_ABOVE):
        return True
    # at the ε that the chains came down to
    slow = slow_step_size(settings) * statistics.step_share(trace.step_size[:, :num_burnin_steps], settings.step_size)
    is_relaxed = num_burnin_steps * slow * settings.localization >= _RELAXED
    is_flat = not statistics.is_drifting(statistics.drift(draws), llc, llc_se)
    agree = statistics.r_hat(draws) <= 1.1
    if is_flat and agree:
        highest = (llc + _SURE * llc_se) * (1 if is_relaxed else _GROWTH)
        if highest < 0 or statistics.is_above_minimum(descent, highest):
            return True
        if _does_heat_exceed(highest / 2, settings, trace, num_burnin_steps, least_heat):
            return True
    is_mixed = agree and statistics.ess(draws) >= 10 * len(draws)
    return is_relaxed and is_flat and is_mixed and llc_se <= settings.target_se * abs(llc)


def _does_heat_exceed(
    bound: float,
    settings: ChainSettings,
    trace: Trace,
    num_burnin_steps: int,
    least_heat: Callable[..., float] | None,
) -> bool:
    """The heat of gradient noise is surely more than `bound`: all of it that the chains saw, and what of it reaches λ̂.

    The heat of a law stays as it is, however long chains run.
    """
    kept = slice(num_burnin_steps, None)
    heat = statistics.mean_of(trace.heat[:, kept])
    if least_heat is None or not heat > bound:
        return False
    excess = settings.nbeta * (trace.loss - trace.init_loss)[:, kept]
    error = math.sqrt(max(statistics.standard_error(excess) ** 2 + heat_errors(excess, trace.heat[:, kept])[0], 0.0))
    return least_heat(trace, num_burnin_steps=num_burnin_steps) - _SURE * error > bound
