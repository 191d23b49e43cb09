"""One estimate from a problem to its result: minimize, calibrate, sample until flat, judge, look at γ and ε again."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_llc.calibration.calibrate import calibrate, with_calibration
from hf_llc.calibration.chain_batching import fastest_chain_batch
from hf_llc.calibration.minimize import minimize
from hf_llc.calibration.noise_spectrum import (
    NUM_GRADIENTS,
    Spectrum,
    heating_share,
    is_heat_significant,
    noise_spectrum,
)
from hf_llc.calibration.repair import retry_settings
from hf_llc.chains.ensemble import Sampling
from hf_llc.chains.progress import ProgressBar
from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.judging import statistics
from hf_llc.judging.estimator import estimate as estimate_llc
from hf_llc.judging.stopping import is_long_enough
from hf_llc.observables import observables_named
from hf_llc.parallel.processes import Processes, chain_batches
from hf_llc.parallel.sharding import mesh_of
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.sharded_posterior import ShardedPosterior
from hf_llc.posterior.weights import sampled_parameters
from hf_llc.problem import Problem
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate, LocalizationCheck, Reason
from hf_llc.result import LLCResult
from hf_llc.samplers import SAMPLERS
from hf_llc.samplers.effective_step import slow_step_size
from hf_llc.workflow.continuations import SampledChains, check_localization, extrapolate
from hf_llc.workflow.memory_plan import plan_of
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.summary import chosen_settings, cost_of, settings_of, subject_of

_MAX_ATTEMPTS = 3
"""Where settings were left open the chains start again at better ones, twice at most."""

_LARGE = 2**20
"""Parameters from which it is worth asking whether a chain fits the memory."""


class Run:
    """One estimate. Stages are kept in the folder, so that a resumed run does not repeat them.

    Args:
        problem: model at w*, data, loss.
        sample: settings after `decide_from_data`.
        folder: of the run.
        processes: among which chains are shared out.
        progress: show bars on the main process.
    """

    def __init__(
        self, problem: Problem, sample: SampleConfig, folder: RunFolder, processes: Processes, progress: bool
    ) -> None:
        assert sample.nbeta is not None and isinstance(sample.batch_size, int)
        self.problem, self.asked, self.folder, self.processes = problem, sample, folder, processes
        self.nbeta, self.batch_size = sample.nbeta, sample.batch_size
        self.show = progress and processes.is_main
        self.posterior = self._posterior()
        if sample.chain_batch_size not in (1, "auto") and not self.posterior.can_batch_chains():
            warnings.warn("the module does not run under torch.vmap: chains run one by one", stacklevel=2)
            self.asked = replace(sample, chain_batch_size=1)
        if self.posterior.step_in_backward and self.asked.gradient == "auto":
            self.asked = replace(self.asked, gradient="plain")
        self.minimization: dict[str, Any] | None = None
        self.calibration: dict[str, Any] | None = None

    def _posterior(self) -> Posterior:
        """The posterior around where the model is now.

        Raises:
            InputError: the loss there is not finite.
        """
        sample = self.asked
        kind = Posterior if mesh_of(self.problem.model) is None else ShardedPosterior
        posterior = kind(
            self.problem,
            micro_batch_size=sample.micro_batch_size,
            mixed_precision=sample.mixed_precision,
            compile=sample.compile,
            step_in_backward=sample.step_in_backward is True,
            gradient_checkpointing=sample.gradient_checkpointing,
            group=self.processes.group,
        )
        bad = torch.flatten(~torch.isfinite(posterior.init_losses)).nonzero()
        if len(bad):
            raise InputError(
                "the loss at w* is not finite",
                value=f"example {int(bad[0])}",
                remedy="check the inputs, the labels and the dtype",
            )
        if sample.step_in_backward == "auto":
            posterior.step_in_backward = self._is_memory_short(posterior)
        return posterior

    def _is_memory_short(self, posterior: Posterior) -> bool:
        """Whether whole gradients do not fit where chains run one by one and need none; for all processes alike."""
        sample = self.asked
        is_other = (
            self.processes.group.size > 1
            or sample.compile
            or sample.chain_batch_size != 1
            or sample.gradient == "control-variate"
        )
        if is_other or posterior.buffer.is_flat or posterior.num_parameters < _LARGE:
            return False
        count = 1 if posterior.device.type == "cuda" else self.processes.count
        return self.processes.main_does(
            lambda: plan_of(posterior, batch_size=self.batch_size, processes=count).step_in_backward(sample.sampler)
        )

    def prepare(self) -> None:
        """Minimize and calibrate, if that was asked for, and fix the settings of the chains."""
        self.minimization = self._minimize() if self.asked.minimize else None
        sample = self.asked
        if self.asked.step_size == "auto":
            self.calibration = self._decided("calibration", lambda: calibrate(self.posterior, self.asked))
            sample = with_calibration(sample, self.calibration)
        if self.asked.chain_batch_size == "auto":
            sample = replace(sample, chain_batch_size=self._decided("batching", self._batching)["chain_batch_size"])
        self.decided, self.settings = sample, ChainSettings.of(sample)
        self.sampling = Sampling(
            self.posterior,
            processes=self.processes,
            state=self.folder.state,
            show=self.show,
            is_long_enough=is_long_enough,
            r_hat=statistics.r_hat,
            observables=observables_named(self.asked.observe),
        )

    @property
    def num_gradients(self) -> int:
        """Gradient evaluations so far: of minimization, calibration and the chains."""
        before = (part["num_gradients"] for part in (self.minimization, self.calibration) if part is not None)
        return sum(before) + self.sampling.num_gradients

    def result(self, begun: float) -> LLCResult:
        """Prepare, sample and judge, again at better settings if the chains ask for it, and summarize.

        Args:
            begun: `time.monotonic()` at the start of the call, in seconds.
        """
        self.prepare()
        settings, attempts = self.settings, []
        while True:
            chains = self._sample(settings, f"attempt-{len(attempts)}")
            estimate = self.judge(chains)
            if estimate.verdict == "trustworthy" and self.asked.check_localization:
                check = check_localization(self.sampling, chains, estimate)
                estimate = estimate if check is None else self.judge(chains, check)
            better = retry_settings(settings, self.asked, estimate)
            if better is None or len(attempts) + 1 == _MAX_ATTEMPTS:
                break
            attempts.append(chosen_settings(settings) | {"verdict": estimate.verdict, "llc": estimate.llc})
            settings = better
        if self.calibration is not None:
            self.calibration |= {"attempts": attempts}
        if self.asked.extrapolate:
            llc, llc_se = extrapolate(self.sampling, chains, estimate)
            estimate = replace(estimate, llc_extrapolated=llc, llc_extrapolated_se=llc_se)
        return LLCResult(
            estimate=estimate,
            settings=settings_of(
                chains,
                self.asked,
                step_in_backward=self._steps_in_backward(settings),
                minimize=self.minimization,
                calibration=self.calibration,
            ),
            cost=cost_of(self.sampling, self.processes, self.asked, begun=begun, num_gradients=self.num_gradients),
            subject=subject_of(self.problem, self.posterior),
            trace=chains.trace,
            observations=self.sampling.observations,
        )

    def _sample(self, settings: ChainSettings, name: str) -> SampledChains:
        """Run the chains; their `Trace.heat` becomes that part of the gradient noise's heat which reaches λ̂.

        Chains record the heat as if all noise were in directions that the loss confines; `noise_spectrum` measures how
        much of it is. That takes gradients, so it is done only if the heat is a significant part of λ̂.
        """
        trace, burnin, thinning = self.sampling.until_flat(settings, name)
        spectrum = None
        if is_heat_significant(trace, nbeta=settings.nbeta, num_burnin_steps=burnin):
            work = functools.partial(self._noise_spectrum, settings, name)
            spectrum = self._decided(f"heat-{name}", lambda: {"spectrum": work()})["spectrum"]
            self.sampling.num_gradients += NUM_GRADIENTS
            trace = replace(trace, heat=trace.heat * heating_share(spectrum, settings.localization))
        return SampledChains(
            name=name,
            settings=settings,
            trace=trace,
            num_burnin_steps=burnin,
            num_steps_between_draws=thinning,
            spectrum=spectrum,
        )

    def _noise_spectrum(self, settings: ChainSettings, name: str) -> Spectrum:
        """The spectrum of the gradient noise where the first chain ended."""
        law = Law(nbeta=settings.nbeta, localization=settings.localization)
        first = chain_batches(settings.num_chains, settings.chain_batch_size)[0]
        w = self.sampling.end(name, first)
        return noise_spectrum(
            self.posterior, law, w[:1], seed=settings.seed, batch_size=settings.batch_size, gradient=settings.gradient
        )

    def judge(self, chains: SampledChains, localization_check: LocalizationCheck | None = None) -> Estimate:
        """λ̂ and its verdict from sampled chains (`hf_llc.judging.estimator.estimate`).

        Args:
            chains: the chains.
            localization_check: the change of λ̂ with γ, if other chains measured it; None: by reweighting the draws.
        """
        settings, sampler = chains.settings, SAMPLERS[chains.settings.sampler]
        estimate = estimate_llc(
            chains.trace,
            nbeta=settings.nbeta,
            init_loss=self.posterior.init_loss,
            localization=settings.localization,
            step_size=settings.step_size,
            slow_step_size=slow_step_size(settings),
            is_exact=sampler.is_exact,
            num_burnin_steps=chains.num_burnin_steps,
            num_steps_between_draws=chains.num_steps_between_draws,
            localization_check=localization_check,
            is_full=settings.batch_size == self.posterior.num_examples,
            trivial_loss=self.problem.trivial_loss,
        )
        if not (sampler.unmeasured_in_backward and self._steps_in_backward(settings)):
            return estimate
        text = (
            f"{sampler.unmeasured_in_backward} takes two whole gradients, and steps were taken inside the backward pass"
        )
        note = Reason("not measured", text, "give it more memory", is_note=True)
        return replace(estimate, reasons=[*estimate.reasons, note])

    def _steps_in_backward(self, settings: ChainSettings) -> bool:
        """Whether chains with these settings take their steps inside the backward pass."""
        size = {"num_chains": settings.chain_batch_size, "batch_size": settings.batch_size}
        return self.posterior.steps_in_backward(**size) and settings.gradient != "control-variate"

    def _minimize(self) -> dict[str, Any]:
        """Replace w* by ŵ for this run, on every process the same bits."""

        def work() -> tuple[Tensor, dict[str, Any]]:
            bar = ProgressBar(self.asked.minimize_steps, "minimize", enabled=self.show)
            w, done = minimize(
                self.posterior,
                steps=self.asked.minimize_steps,
                batch_size=self.batch_size,
                state=self.folder.state / "minimize.safetensors",
                save_seconds=self.asked.save_seconds,
                report=bar.set_loss,
            )
            bar.close()
            return w.cpu(), done

        w, done = self.processes.main_group_does(work)
        start = 0
        del self.posterior  # its anchor is the old w*
        for parameter in sampled_parameters(self.problem.model).values():
            values = w[0, start : start + parameter.numel()].to(parameter.device)
            parameter.data = values.view(parameter.shape).clone()
            start += parameter.numel()
        self.posterior = self._posterior()
        return done

    def _decided(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `work` finds out, once a run: by the main process and those of its group, whose gradients are sums."""
        known = self.processes.main_does(lambda: self.folder.decided(name))
        if known is None:
            found = self.processes.main_group_does(work)
            known = self.processes.main_does(lambda: self.folder.decide(name, found))
        return known

    def _batching(self) -> dict[str, Any]:
        """How many chains to step together."""
        return fastest_chain_batch(
            self.posterior,
            num_chains=self.asked.num_chains,
            num_groups=self.processes.count // self.processes.group.size,
            batch_size=self.batch_size,
            seed=self.asked.seed,
        )
