"""Running estimates of λ̂ against wall time: hf_llc and its peers on one posterior, each by its own code.

Every contender has the same model, per-example loss, nβ, γ, and one process. Its clock starts with its call: its
calibration, compilation and pass over the data for L_n(w*) count, loading its package does not. Its running estimate is
the mean over the later half of the steps so far (with devinterp's own defaults over all of them, as in its
`compute_llc`), read after the run at the same step counts for all. hf_llc's and devinterp's chains run in a plain loop
that keeps nothing on disk.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from known import Known

from hf_llc.calibration.calibrate import calibrate, with_calibration
from hf_llc.calibration.noise_spectrum import (
    Spectrum,
    heating_share,
    is_heat_significant,
    noise_spectrum,
    samples_within,
)
from hf_llc.chains.run_chains import Recorder, take_step
from hf_llc.config import SampleConfig
from hf_llc.judging.estimator import estimate
from hf_llc.parallel.processes import alone
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate
from hf_llc.records.trace import Trace, empty_trace, first_steps, join_chains
from hf_llc.samplers import SAMPLERS, make_kernel
from hf_llc.samplers.effective_step import slow_step_size
from hf_llc.samplers.walk import Walk
from hf_llc.workflow.estimate_model import estimate_problem
from hf_llc.workflow.settings import decide_from_data


@dataclass
class Curve:
    """After `seconds[i]` of wall time the estimate stood at `llc[i]`; `note` says why it ended early, if it did."""

    seconds: list[float]
    llc: list[float]
    steps: int = 0
    chains: int = 0
    note: str = ""


def arrival(curve: Curve, truth: float, *, tolerance: float = 0.05) -> float | None:
    """Seconds from which on the relative error stays below `tolerance`; None if it is not below at the end."""
    found = None
    for seconds, llc in zip(reversed(curve.seconds), reversed(curve.llc), strict=True):
        if not abs(llc / truth - 1) < tolerance:  # NaN is not below
            break
        found = seconds
    return found


def ladder(first: int = 20, ratio: float = 1.15) -> Iterator[int]:
    """Step counts at which running estimates are read."""
    steps = float(first)
    while True:
        yield round(steps)
        steps = max(steps * ratio, steps + 1)


def running(stamps: Sequence[float], excess: np.ndarray, *, burnt: float = 0.5) -> Curve:
    """The estimates that a run's steps gave as it went.

    Args:
        stamps: wall time at the end of each step of all chains.
        excess: nβ(L_B(w_t) − L_n(w*)), `[chain, step]`.
        burnt: share of the steps so far that is dropped.
    """
    total = np.concatenate([[0.0], np.cumsum(excess.mean(axis=0))])
    curve = Curve([], [], steps=len(stamps), chains=len(excess))
    rungs = itertools.takewhile(lambda steps: steps < len(stamps), ladder())
    for steps in [*rungs, len(stamps)] if len(stamps) else []:
        start = int(burnt * steps)
        curve.seconds.append(stamps[steps - 1])
        curve.llc.append(float(total[steps] - total[start]) / (steps - start))
    return curve


def defaults(known: Known, *, seed: int) -> Curve:
    """hf_llc with its defaults: one estimate, at the end of its run, and its verdict."""
    sample = SampleConfig(nbeta=known.nbeta, localization=known.localization, seed=seed)
    begun = time.perf_counter()
    result = estimate_problem(known.problem, sample)
    taken = time.perf_counter() - begun
    steps = 0 if result.trace is None else result.trace.shape[1]
    return Curve([taken], [result.llc], steps, result.num_chains, f"± {result.llc_se:.2g}, {result.verdict}")


def ours(known: Known, *, seconds: float, chains: int, seed: int, step_size: float | None = None) -> Curve:
    """Run hf_llc's chains in turn, in a plain loop, for `seconds`; return their running estimates.

    Args:
        known: the problem.
        seconds: when to stop.
        chains: run in turn, in ever longer stretches.
        seed: of the chains.
        step_size: of its SGLD; None: its own sampler, calibrated on the clock.
    """
    sample = decide_from_data(
        SampleConfig(
            nbeta=known.nbeta, localization=known.localization, num_chains=chains, seed=seed,
            batch_size=known.case.batch_size, step_size="auto" if step_size is None else step_size,
        ),
        known.problem,
    )  # fmt: skip
    begun, rungs, done = time.perf_counter(), [], 0
    with alone(), preserved(known.problem.model):
        posterior = Posterior(known.problem)
        if step_size is None:
            sample = with_calibration(sample, calibrate(posterior, sample))
        settings = ChainSettings.of(sample)
        stream = {"seed": seed, "batch_size": settings.batch_size, "gradient": settings.gradient}
        walks = [Walk(posterior, known.law, [chain], **stream) for chain in range(chains)]
        options = {"friction": settings.friction, "adapt_step_size": settings.adapt_step_size}
        kernels = [make_kernel(settings.sampler, settings.step_size, **options) for _ in walks]
        recorders = [Recorder(empty_trace(1)) for _ in walks]
        spectrum: Spectrum | None = None
        for steps in ladder():
            for walk, kernel, recorder in zip(walks, kernels, recorders, strict=True):
                for step in range(done, steps):
                    take_step(walk, kernel, recorder, step)
                recorder.flush()
            done, trace = steps, join_chains([recorder.trace() for recorder in recorders])
            if spectrum is None and is_heat_significant(trace, nbeta=known.nbeta, num_burnin_steps=steps // 2):
                samples = samples_within(trace.loss.size)  # as an estimate has of chains that are no longer
                spectrum = noise_spectrum(posterior, known.law, walks[0].w.clone(), num_samples=samples, **stream)
            share = 1.0 if spectrum is None else heating_share(spectrum, known.localization)
            rungs.append((time.perf_counter() - begun, steps, share))
            if rungs[-1][0] > seconds or not np.isfinite(trace.loss[:, -1]).all():
                break
        curve = Curve([], [], done, chains)
        for stamp, steps, share in rungs:
            curve.seconds.append(stamp)
            found = _estimate(known, posterior, settings, first_steps(trace, steps), share)
            curve.llc.append(found.llc)
    settled_at = f"{settings.sampler}, ε = {settings.step_size:.2g}, {settings.gradient}"
    curve.note = "diverged" if found.verdict == "diverged" else settled_at
    return curve


def _estimate(known: Known, posterior: Posterior, settings: ChainSettings, trace: Trace, share: float) -> Estimate:
    """λ̂ from the later half of a trace, that share of its heat taken off."""
    steps = trace.shape[1]
    return estimate(
        replace(trace, heat=trace.heat * share), nbeta=known.nbeta, init_loss=posterior.init_loss,
        is_exact=SAMPLERS[settings.sampler].is_exact, localization=known.localization, step_size=settings.step_size,
        slow_step_size=slow_step_size(settings), num_burnin_steps=steps // 2,
        num_steps_between_draws=max(1, steps // 400), is_full=settings.batch_size == posterior.num_examples,
    )  # fmt: skip
