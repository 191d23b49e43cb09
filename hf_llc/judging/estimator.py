"""Trace + nβ → λ̂, its standard error, its diagnostics and the verdict. Arrays only.

Three steps: `_measure` the trace, let `checks.findings` look at the measurements, and name the verdict.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hf_llc.config import SampleConfig
from hf_llc.judging import statistics
from hf_llc.judging.checks import findings
from hf_llc.judging.evidence import STIFFER, Evidence
from hf_llc.judging.heat import heat_capacity, heat_errors
from hf_llc.judging.remedies import Asked
from hf_llc.judging.verdict import named
from hf_llc.records.findings import Estimate, LocalizationCheck, Measurements
from hf_llc.records.trace import Trace

Array = np.ndarray


def llc_draws(
    loss: Array, reference: Array | float, *, nbeta: float, num_burnin_steps: int, num_steps_between_draws: int = 1
) -> Array:
    """nβ·(L_B(w_t) − reference) after burn-in, averaged over the steps of each draw: `[chain, draw]`.

    With reference L_B(w*) on the same minibatch this is the paired estimator; with L_n(w*) the plain one of [L],
    Algorithm 1. Their means estimate the same λ̂; the paired draws spread less.

    Args:
        loss: L_B(w_t), every step, `[chain, step]`.
        reference: L_B(w*), every step, `[chain, step]`; or L_n(w*).
        nbeta: inverse temperature times n.
        num_burnin_steps: steps dropped at the start.
        num_steps_between_draws: steps averaged into one draw.
    """
    return statistics.block_means(nbeta * (loss - reference)[:, num_burnin_steps:], num_steps_between_draws)


@np.errstate(over="ignore", invalid="ignore")  # the last finite loss of a diverging chain, in float64, times nβ
def estimate(
    trace: Trace,
    *,
    nbeta: float,
    init_loss: float,
    localization: float,
    step_size: float,
    is_exact: bool,
    num_burnin_steps: int,
    num_steps_between_draws: int,
    slow_step_size: float | None = None,
    localization_check: LocalizationCheck | None = None,
    is_full: bool = False,
    trivial_loss: float | None = None,
    descent: dict[str, float] | None = None,
    heat_error: float = 0.0,
    minimize: dict[str, Any] | None = None,
    asked: Asked | None = None,
) -> Estimate:
    """λ̂ = nβ·mean[L_B(w_t) − L_B(w*)] over all kept steps and chains ([L], eq. 12, with paired losses), judged.

    Args:
        trace: every step of every chain, burn-in included.
        nbeta: inverse temperature times n.
        init_loss: L_n(w*), in the unit of the trace.
        localization: γ.
        step_size: ε.
        is_exact: the sampler's law does not depend on ε (`Kernel.is_exact`).
        num_burnin_steps: steps dropped at the start.
        num_steps_between_draws: steps averaged into one draw.
        slow_step_size: ε_eff of samplers with momentum (`samplers.effective_step`); None: ε.
        localization_check: change of λ̂ when γ is halved and doubled, from chains of their own; None: from these draws,
            reweighted.
        is_full: every step saw all examples.
        trivial_loss: L_n of the best constant predictor, or None.
        descent: how far a descent from w* falls, or None.
        heat_error: standard error of the share of the heat that reaches λ̂, times the heat (`noise_spectrum`).
        minimize: what minimize found, or None.
        asked: the settings asked for, for the remedies; None: they are not known.
    """
    excess = nbeta * (trace.loss - trace.init_loss)
    thinning = {"num_burnin_steps": num_burnin_steps, "num_steps_between_draws": num_steps_between_draws}
    slow = step_size if slow_step_size is None else slow_step_size
    share = statistics.step_share(trace.step_size[:, num_burnin_steps:], step_size)
    relaxed = slow * statistics.step_share(trace.step_size, step_size) * excess.shape[1] * localization
    spreading = statistics.spreading(excess, trace.sq_distance, num_burnin_steps)
    evidence = Evidence(
        loss=trace.loss,
        excess=excess,
        draws=llc_draws(trace.loss, trace.init_loss, nbeta=nbeta, **thinning),
        trivial_loss=trivial_loss,
        nbeta=nbeta,
        localization=localization,
        step_size=step_size,
        step_share=share,
        slow_step_size=slow * share,
        is_exact=is_exact,
        spreading=spreading,
        llc_still_missing=_still_missing(spreading["change"], share, relaxed),
        llc_unrelaxed=statistics.unrelaxed(excess, num_burnin_steps, slow * share * localization),
        asked=asked or _unknown(num_burnin_steps, len(excess)),
        descent=descent,
        minimize=minimize,
    )
    plain = llc_draws(trace.loss, init_loss, nbeta=nbeta, **thinning)
    kept = slice(num_burnin_steps, None)
    if localization_check is None:
        localization_check = statistics.reweighted(excess[:, kept], trace.sq_distance[:, kept], localization)
    measured = _measure(
        trace, kept, evidence, plain, localization_check, init_loss=init_loss, is_full=is_full, heat_error=heat_error
    )
    reasons = findings(measured, evidence)
    return Estimate(**vars(measured), verdict=named(reasons), reasons=reasons, descent=descent)


def _unknown(num_burnin_steps: int, num_chains: int) -> Asked:
    """Of a bare trace only the burn-in and the chains are known: remedies then name settings, without values."""
    return Asked(SampleConfig(num_burnin_steps=num_burnin_steps, num_chains=num_chains), is_known=False)


def _measure(
    trace: Trace,
    kept: slice,
    evidence: Evidence,
    plain: Array,
    localization_check: LocalizationCheck,
    *,
    init_loss: float,
    is_full: bool,
    heat_error: float,
) -> Measurements:
    """The numbers of the `kept` steps."""
    draws = evidence.draws
    heat_per_chain, is_corrected = _heat_per_chain(trace.heat[:, kept])
    llc_per_chain = draws.mean(axis=1) - heat_per_chain
    heat = float(heat_per_chain.mean())
    of_heat, formula = heat_errors(evidence.excess[:, kept], trace.heat[:, kept]) if heat else (0.0, 0.0)
    if is_corrected or evidence.is_exact:
        bias = heat
    else:
        bias = statistics.step_size_bias(trace.grad_dot[:, kept], evidence.step_size)
    temperature = statistics.mean_of(trace.kinetic_temperature[:, kept])
    capacity, capacity_se = heat_capacity(
        evidence.excess[:, kept], is_full=is_full, has_momentum=math.isfinite(temperature)
    )
    return Measurements(
        llc=float(llc_per_chain.mean()),
        llc_se=math.hypot(_error_of_mean(draws, of_heat), formula, heat_error, evidence.llc_missing),
        llc_per_chain=llc_per_chain.tolist(),
        llc_uncorrected=float(draws.mean(axis=1).mean()),  # summed as λ̂ is, to the last bit
        llc_plain=float(plain.mean(axis=1).mean()),
        llc_plain_se=statistics.standard_error(plain),
        init_loss=init_loss,
        mean_loss=float(trace.loss[:, kept].mean()),
        r_hat=statistics.r_hat(draws),
        ess=statistics.ess(draws),
        accept_prob=statistics.mean_of(trace.accept_prob[:, kept]),
        plateau=statistics.drift(draws),
        localization_sensitivity=localization_check,
        step_size_bias=bias,
        kinetic_temperature=temperature,
        heat_capacity=capacity,
        heat_capacity_se=capacity_se,
    )


def _error_of_mean(draws: Array, of_heat: float) -> float:
    """The standard error of the mean of the draws, with the variance that taking off the heat adds; not below half."""
    error = statistics.standard_error(draws)
    return math.sqrt(max(error**2 + of_heat, error**2 / 4)) if of_heat else error


def _heat_per_chain(heat: Array) -> tuple[Array, bool]:
    """What gradient noise adds to λ̂ in each chain, `[chain]`, and whether it was measured in all; else zeros.

    ε_eff Q/8 (`calibration.pilot`) is exact for soft directions of a quadratic loss, and too much if γ, not the loss,
    confines the noisy directions. In that case the workflow has already scaled `Trace.heat` by the share that reaches
    λ̂ (`calibration.noise_spectrum`).
    """
    measured = np.array([statistics.mean_of(row) for row in heat])
    is_measured = bool(np.isfinite(measured).all())
    return (measured if is_measured else np.zeros(len(measured))), is_measured


def _still_missing(change: float, share: float, relaxed: float) -> float:
    """What λ̂ may still gain while the chains move away from w*; 0 if they do not, or if that cannot be told.

    Burn-in and draws are a doubling of the time, and `change` is what λ̂ gained from the one to the other. If the loss
    has become so much stiffer on the way that ε fell below a half, λ̂ may climb as much in each doubling that is left
    until flat directions have relaxed, at 4/(ε_eff γ) steps.

    Args:
        change: of λ̂ since the burn-in (`statistics.spreading`).
        share: mean ε of the draws over the ε they began with.
        relaxed: ε_eff γ times the steps so far.
    """
    if not math.isfinite(change):
        return 0.0
    if share >= STIFFER:
        return change
    # One doubling if flat directions have nearly relaxed, or if γ is 0 and they never will.
    return change * (math.log2(4 / relaxed) if 0 < relaxed < 2 else 1.0)
