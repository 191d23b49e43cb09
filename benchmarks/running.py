"""Running estimates of λ̂ against wall time: hf_llc and its peers on one posterior, each by its own code.

Every contender gets the same model, per-example loss, nβ and γ, one process, and the clock from its call on: loading
its package is not counted; its calibration, compilation and pass over the data for L_n(w*) are. A contender's running
estimate is the mean over the later half of the steps so far (devinterp's own defaults: over all of them, which is what
its `compute_llc` does), read after the run at the same ladder of step counts for all. Chains are run in a plain loop,
hf_llc's and devinterp's: neither keeps its state on disk.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from known import Known
from models import canonical_estimator
from torch import Tensor

from hf_llc.calibration.calibrate import calibrate, with_calibration
from hf_llc.calibration.noise_spectrum import Spectrum, heating_share, is_heat_significant, noise_spectrum
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
from hf_llc.workflow.estimate_model import solve
from hf_llc.workflow.settings import settled

DEVINTERP = {"step_size": 0.01, "chains": 4, "draws": 200, "batch_size": 32}
"""`SGMCMC.sgld`'s lr; `sample`'s chains, draws (no burn-in) and batch size."""

CANONICAL = {"step_size": 1.0, "chains": 8, "draws": 100, "burnin": 100}
"""`LLCEstimator`'s learning_rate; the chains, draws and burn-in of its `GridSearchConfig`, since it has none itself."""

_MOST_STEPS = 10**6


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
    """hf_llc left to itself: one estimate, when its own rule says that it is enough, and its verdict."""
    sample = SampleConfig(nbeta=known.nbeta, localization=known.localization, seed=seed)
    begun = time.perf_counter()
    result = solve(known.problem, settled(sample, known.problem))
    taken = time.perf_counter() - begun
    steps = 0 if result.trace is None else result.trace.shape[1]
    return Curve([taken], [result.llc], steps, result.num_chains, f"± {result.llc_se:.2g}, {result.verdict}")


def ours(known: Known, *, seconds: float, chains: int, seed: int, step_size: float | None = None) -> Curve:
    """hf_llc's steps for that long in a plain loop, chains in turn, and the estimates that they gave as they went.

    Args:
        known: the problem.
        seconds: when to stop.
        chains: run in turn, in ever longer stretches.
        seed: of the chains.
        step_size: of its SGLD; None: its own sampler, calibrated on the clock.
    """
    sample = settled(
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
                spectrum = noise_spectrum(posterior, known.law, walks[0].w.clone(), **stream)
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


def _loader(examples: Mapping[str, Tensor], batch_size: int, seed: int, *, as_pairs: bool = False) -> Any:
    """A plain DataLoader over the examples, shuffled."""
    data = (
        torch.utils.data.TensorDataset(next(iter(examples.values())), list(examples.values())[-1])
        if as_pairs
        else torch.utils.data.StackDataset(**examples)
    )
    generator = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True, generator=generator)


def devinterp(
    known: Known,
    *,
    seconds: float,
    chains: int,
    seed: int,
    step_size: float,
    batch_size: int | None = None,
    draws: int = _MOST_STEPS,
    burnt: float = 0.5,
) -> Curve:
    """devinterp's SGMCMC.sgld in the plain loop of its documentation, chains in turn, each with a model of its own.

    This is leaner than its `sample`, which takes language models only, keeps every token's loss on disk, and stops the
    clock at the end alone. As there, a loader's batches are replayed after the first epoch. L_n(w*) is that of all
    examples. A loss that is not finite ends the run.
    """
    from devinterp.optim import SGMCMC

    begun, problem = time.perf_counter(), known.problem
    device = next(problem.model.parameters()).device
    size = min(known.case.batch_size if batch_size is None else batch_size, problem.num_examples)
    torch.manual_seed(seed)
    models = [copy.deepcopy(problem.model).eval() for _ in range(chains)]
    each = {"lr": step_size, "nbeta": known.nbeta, "localization": known.localization}
    optimizers = [SGMCMC.sgld(model.parameters(), **each) for model in models]
    feeds = [itertools.cycle(_loader(problem.examples, size, seed + chain)) for chain in range(chains)]
    with torch.no_grad():
        whole = torch.utils.data.DataLoader(torch.utils.data.StackDataset(**problem.examples), batch_size=size)
        parts = [problem.losses(models[0], {k: x.to(device) for k, x in batch.items()}) for batch in whole]
        init_loss = float(torch.cat(parts).double().mean())
    stamps, rows, note = [], [], ""
    for step in range(draws):
        row = []
        for model, optimizer, feed in zip(models, optimizers, feeds, strict=True):
            optimizer.zero_grad()
            loss = problem.losses(model, {k: x.to(device) for k, x in next(feed).items()}).mean()
            loss.backward()
            optimizer.step()
            row.append(loss.item())
        rows.append(row)
        stamps.append(time.perf_counter() - begun)
        if not math.isfinite(sum(row)):
            note = f"diverged at step {step}"
            break
        if stamps[-1] > seconds:
            break
    curve = running(stamps, known.nbeta * (np.array(rows).T - init_loss), burnt=burnt)
    curve.note = note or f"ε = {step_size:.2g}"
    return curve


class _Over(Exception):
    """The time is up."""


class _MeanLoss(torch.nn.Module):
    """canonical-interp calls model(x), then criterion(output, y): a language model's output here is its mean loss."""

    def __init__(self, known: Known) -> None:
        super().__init__()
        self.model, self.losses = known.problem.model, known.problem.losses
        self.name, self.is_language_model = next(iter(known.problem.examples)), known.case.is_language_model

    def forward(self, x: Tensor) -> Tensor:
        """The mean loss of token ids, or the prediction for inputs."""
        if self.is_language_model:
            return self.losses(self.model, {self.name: x}).mean()
        output = self.model(x)
        return output if isinstance(output, Tensor) else output.prediction

    def criterion(self, output: Tensor, y: Tensor) -> Tensor:
        """The mean loss."""
        return output if self.is_language_model else (output - y).square().mean()


def canonical(
    known: Known,
    *,
    seconds: float,
    chains: int,
    seed: int,
    step_size: float,
    burnin: int = 0,
    draws: int = _MOST_STEPS,
    compiled: bool,
) -> Curve:
    """canonical-interp's LLCEstimator, its chains stepped together on the same batches.

    The function that unpacks a batch, called once a step, takes the times and ends the run when time is up; the draws
    so far stand in the estimator. With `burnin` its own rule holds: that many steps dropped, all draws kept.
    """
    estimator_class = canonical_estimator()
    begun, loader = time.perf_counter(), _loader(known.problem.examples, known.case.batch_size, seed, as_pairs=True)
    estimator = estimator_class(
        draws=draws, chains=chains, burnin_steps=burnin, steps_bw_draws=1, learning_rate=step_size,
        localization=known.localization, nbeta=known.nbeta,
    )  # fmt: skip
    stamps: list[float] = []

    def unpack(batch: Any) -> tuple[Tensor, Tensor]:
        stamps.append(time.perf_counter() - begun)
        if stamps[-1] > seconds and len(stamps) > len(loader) + burnin + 1:
            raise _Over
        return batch[0], batch[1]

    whole = _MeanLoss(known)
    device = next(whole.parameters()).device
    try:
        estimator.estimate_llc(
            whole, loader, whole.criterion, devices=device, seed=seed, compile=compiled, unpack_fn=unpack,
            show_progress=False,
        )  # fmt: skip
        stamps.append(time.perf_counter() - begun)
    except _Over:
        pass
    ends = stamps[len(loader) + burnin + 1 :]  # a step ends where the next one begins
    losses = estimator.array_log_l[:, : len(ends)].detach().double().numpy()
    excess = known.nbeta * (losses - estimator.original_loss.detach().double().numpy()[:, None])
    curve = running(ends, excess, burnt=0.0 if burnin else 0.5)
    curve.note = f"ε = {step_size:.2g}" if np.isfinite(excess).all() else "diverged"
    return curve
