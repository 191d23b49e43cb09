"""Trace + nβ → λ̂, its standard error and its diagnostics; `hf_llc.judging.verdict` judges them. Arrays only."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hf_llc.judging import statistics
from hf_llc.judging.verdict import STIFFER, Evidence, findings, named
from hf_llc.records.findings import Estimate, LocalizationCheck
from hf_llc.records.trace import Trace

Array = np.ndarray


def llc_draws(
    loss: Array, reference: Array | float, *, nbeta: float, num_burnin_steps: int, num_steps_between_draws: int = 1
) -> Array:
    """nβ·(L_B(w_t) − reference) after burn-in, averaged over the steps of each draw: `[chain, draw]`.

    With reference L_B(w*) on the same minibatch this is the paired estimator; with L_n(w*) the plain one of [L],
    Algorithm 1. Their means estimate the same λ̂; the paired draws spread less.
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
    moved: LocalizationCheck | None = None,
    is_full: bool = False,
    trivial_loss: float | None = None,
) -> Estimate:
    """λ̂ = nβ·mean[L_B(w_t) − L_B(w*)] over all kept steps and chains ([L], eq. 12, with paired losses).

    Where the sampler measured the noise of its gradients (BAOAB, Leimkuhler–Matthews), the heat ε_eff Q/8 that it adds
    (`pilot`) is taken off, and a quarter of it goes into the standard error. It is exact for soft directions of
    a quadratic loss, and too much where γ, not the loss, confines the noisy directions: `Run` has scaled it by the
    share that reaches λ̂ (`noise_spectrum`) where that matters. Where the chains still move away from w*, the change
    of λ̂ since the burn-in goes into the error too (`spreading`). Burn-in and draws are a doubling of the time;
    where the loss has become so much stiffer on the way that ε fell below a half, λ̂ may climb as much in each doubling
    that is left until flat directions have relaxed, at twice their 2/(ε_eff γ) steps, and all of it goes in.

    Args:
        trace: every step of every chain, burn-in included.
        nbeta: inverse temperature times n.
        init_loss: L_n(w*), in the unit of the trace.
        localization: γ.
        step_size: ε.
        is_exact: the sampler's law does not depend on ε (`Kernel.is_exact`).
        num_burnin_steps: steps dropped at the start.
        num_steps_between_draws: steps a draw.
        slow_step_size: ε_eff of samplers with momentum (`calibration.pilot`); None: ε.
        moved: what λ̂ does when γ is halved and doubled, from runs of their own; None: from these draws, reweighted.
        is_full: every step saw all examples.
        trivial_loss: L_n of the best constant predictor, or None.
    """
    slow = step_size if slow_step_size is None else slow_step_size
    share = statistics.step_share(trace.step_size[:, num_burnin_steps:], step_size)
    cut = {"nbeta": nbeta, "num_burnin_steps": num_burnin_steps, "num_steps_between_draws": num_steps_between_draws}
    draws = llc_draws(trace.loss, trace.init_loss, **cut)
    plain = llc_draws(trace.loss, init_loss, **cut)
    excess = nbeta * (trace.loss - trace.init_loss)
    kept = slice(num_burnin_steps, None)
    noise, is_corrected = _heat_by_chain(trace.heat[:, kept])
    heat = float(noise.mean())
    spreading = statistics.spreading(excess, trace.sq_distance, num_burnin_steps)
    missing = spreading["change"] if math.isfinite(spreading["change"]) else 0.0
    if share < STIFFER:
        missing *= _doublings(slow * statistics.step_share(trace.step_size, step_size) * excess.shape[1] * localization)
    is_known = is_corrected or is_exact
    bias = heat if is_known else statistics.step_size_bias(trace.grad_dot[:, kept], step_size)
    temperature = statistics.mean_of(trace.kinetic_temperature[:, kept])
    capacity, capacity_se = statistics.heat_capacity(
        excess[:, kept], is_full=is_full, has_momentum=bool(np.isfinite(temperature))
    )
    if moved is None:
        moved = statistics.reweighted(excess[:, kept], trace.sq_distance[:, kept], localization)
    draft = Estimate(
        llc=float((draws.mean(axis=1) - noise).mean()),
        llc_se=math.hypot(statistics.standard_error(draws), statistics.HEAT_ERROR * heat, missing),
        llc_per_chain=(draws.mean(axis=1) - noise).tolist(),
        llc_uncorrected=float(draws.mean(axis=1).mean()),  # summed as λ̂ is, to the last bit
        llc_plain=float(plain.mean(axis=1).mean()),
        llc_plain_se=statistics.standard_error(plain),
        init_loss=init_loss,
        mean_loss=float(trace.loss[:, kept].mean()),
        r_hat=statistics.r_hat(draws),
        ess=statistics.ess(draws),
        accept_prob=statistics.mean_of(trace.accept_prob[:, kept]),
        plateau=statistics.drift(draws),
        localization_sensitivity=moved,
        step_size_bias=bias,
        kinetic_temperature=temperature,
        heat_capacity=capacity,
        heat_capacity_se=capacity_se,
        verdict="",
        reasons=[],
    )
    seen = Evidence(
        loss=trace.loss,
        excess=excess,
        draws=draws,
        trivial_loss=trivial_loss,
        nbeta=nbeta,
        localization=localization,
        step_size=step_size,
        share=share,
        slow=slow * share,
        is_exact=is_exact,
        spreading=spreading,
        missing=missing,
    )
    reasons = findings(draft, seen)
    return replace(draft, reasons=reasons, verdict=named(reasons))


def _heat_by_chain(heat: Array) -> tuple[Array, bool]:
    """What gradient noise adds to λ̂ in each chain, `[chain]`, and whether it was measured in all; else zeros."""
    noise = np.array([statistics.mean_of(row) for row in heat])
    is_measured = bool(np.isfinite(noise).all())
    return (noise if is_measured else np.zeros(len(noise))), is_measured


def _doublings(relaxed: float) -> float:
    """Of the steps, until flat directions have relaxed; 1 where they nearly have, or γ is 0 and they never will.

    Args:
        relaxed: ε_eff γ times the steps so far; 4 when they have.
    """
    return math.log2(4 / relaxed) if 0 < relaxed < 2 else 1.0
