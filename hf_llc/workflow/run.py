"""One estimate from a problem to its result: minimize, calibrate, sample until flat, judge, look at γ and ε again."""

from __future__ import annotations

import math
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_llc.backend.versions import package_versions
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
from hf_llc.parallel.processes import Processes, chain_batches
from hf_llc.parallel.sharding import mesh_of
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.sharded_posterior import ShardedPosterior
from hf_llc.posterior.weights import sampled_parameters
from hf_llc.problem import Problem
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.conditions import Cost, Settings, Subject
from hf_llc.records.findings import Estimate, LocalizationCheck, Reason
from hf_llc.records.trace import Trace
from hf_llc.result import LLCResult
from hf_llc.samplers import SAMPLERS
from hf_llc.samplers.effective_step import slow_step_size
from hf_llc.workflow.memory_plan import plan_of
from hf_llc.workflow.run_folder import RunFolder

_MAX_ATTEMPTS = 3
"""Where settings were left open the chains start again at better ones, twice at most."""

_LARGE = 2**20
"""Parameters from which it is worth asking whether a chain fits the memory."""


class Run:
    """One estimate. Stages are kept in the folder, so that a resumed run does not repeat them.

    Args:
        problem: model at w*, data, loss.
        sample: settings after `settled`.
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
        self.moved: dict[str, Any] | None = None
        self.calibration: dict[str, Any] | None = None
        self.spectrum: Spectrum | None = None

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
        """Minimize and calibrate, as far as that was asked for."""
        self.moved = self._minimize() if self.asked.minimize else None
        sample = self.asked
        if self.asked.step_size == "auto":
            self.calibration = self._decided("calibration", lambda: calibrate(self.posterior, self.asked))
            sample = with_calibration(sample, self.calibration)
        if self.asked.chain_batch_size == "auto":
            found = self._decided("batching", self._batching)
            sample = replace(sample, chain_batch_size=found["chain_batch_size"])
        self.decided, self.settings = sample, ChainSettings.of(sample)
        self.sampling = Sampling(
            self.posterior,
            processes=self.processes,
            state=self.folder.state,
            show=self.show,
            is_long_enough=is_long_enough,
            r_hat=statistics.r_hat,
        )

    def result(self, begun: float) -> LLCResult:
        """All stages."""
        self.prepare()
        name, tried = "attempt-0", []
        for attempt in range(_MAX_ATTEMPTS):
            name = f"attempt-{attempt}"
            trace, burnin, thinning = self.sampling.until_flat(self.settings, name)
            trace = self._heated(trace, burnin, name)
            found = self.judge(trace, burnin, thinning)
            if found.verdict == "trustworthy":
                moved = self._moved_localization(found, name, trace.shape[1] - burnin)
                found = found if moved is None else self.judge(trace, burnin, thinning, moved=moved)
            better = retry_settings(self.settings, self.asked, found)
            if better is None or attempt + 1 == _MAX_ATTEMPTS:
                break
            tried.append(self._settings() | {"verdict": found.verdict, "llc": found.llc})
            self.settings = better
        if self.calibration is not None:
            self.calibration |= {"attempts": tried}
        extrapolated = self._extrapolated(found, name, trace.shape[1] - burnin) if self.asked.extrapolate else None
        return self._result(found, trace, burnin, thinning, extrapolated, begun)

    def _heated(self, trace: Trace, burnin: int, name: str) -> Trace:
        """The trace with that part of the gradient noise's heat which reaches λ̂; looked for where it would matter.

        `Trace.heat` of the chains takes all noise to be in directions that the loss holds (`noise_spectrum`).
        """
        self.spectrum = None
        if not is_heat_significant(trace, nbeta=self.nbeta, num_burnin_steps=burnin):
            return trace
        self.spectrum = self._decided(f"heat-{name}", lambda: {"spectrum": self._noise_spectrum(name)})["spectrum"]
        self.sampling.num_gradients += NUM_GRADIENTS
        assert self.spectrum is not None
        return replace(trace, heat=trace.heat * heating_share(self.spectrum, self.settings.localization))

    def _noise_spectrum(self, name: str) -> Spectrum:
        """Of the gradients of this run's chains, where the first of them ended."""
        settings = self.settings
        law = Law(nbeta=self.nbeta, localization=settings.localization)
        first = chain_batches(settings.num_chains, settings.chain_batch_size)[0]
        w = self.sampling.end(name, first)
        return noise_spectrum(
            self.posterior, law, w[:1], seed=settings.seed, batch_size=self.batch_size, gradient=settings.gradient
        )

    def judge(self, trace: Trace, burnin: int, thinning: int, *, moved: LocalizationCheck | None = None) -> Estimate:
        """λ̂ and the verdict on a trace made at the present settings; see `hf_llc.judging.estimator.estimate`."""
        settings = self.settings
        found = estimate_llc(
            trace,
            nbeta=self.nbeta,
            init_loss=self.posterior.init_loss,
            localization=settings.localization,
            step_size=settings.step_size,
            slow_step_size=slow_step_size(settings),
            is_exact=SAMPLERS[settings.sampler].is_exact,
            num_burnin_steps=burnin,
            num_steps_between_draws=thinning,
            localization_check=moved,
            is_full=self.batch_size == self.posterior.num_examples,
            trivial_loss=self.problem.trivial_loss,
        )
        missing = SAMPLERS[settings.sampler].unmeasured_in_backward if self.steps_in_backward else ""
        if not missing:
            return found
        text = f"{missing} takes two whole gradients, and steps were taken inside the backward pass"
        return replace(
            found, reasons=[*found.reasons, Reason("not measured", text, "give it more memory", is_note=True)]
        )

    @property
    def steps_in_backward(self) -> bool:
        """How the chains of this run take their steps."""
        size = {"num_chains": self.settings.chain_batch_size, "batch_size": self.batch_size}
        return self.posterior.steps_in_backward(**size) and self.settings.gradient != "control-variate"

    def _moved_localization(self, found: Estimate, name: str, kept: int) -> LocalizationCheck | None:
        """λ̂ with γ halved and doubled, by chains that go on from where they are, where the draws do not say."""
        settings = self.settings
        change = found.localization_sensitivity
        if not self.asked.check_localization or settings.localization == 0 or math.isfinite(sum(change.values())):
            return None
        moved: LocalizationCheck = {}
        for number, (key, factor) in enumerate((("halved", 0.5), ("doubled", 2.0)), start=1):
            other = replace(settings, localization=factor * settings.localization)
            llc, error = self._elsewhere(other, name, number=number, steps=max(kept // 2, 8))
            moved |= {key: llc - found.llc, f"{key}_se": math.hypot(error, found.llc_se)}
        return moved

    def _extrapolated(self, found: Estimate, name: str, kept: int) -> tuple[float, float]:
        """λ̂ at ε → 0 from ε and ε/2: the excess of a finite step and of gradient noise is linear in ε."""
        half = replace(self.settings, step_size=self.settings.step_size / 2)
        llc, error = self._elsewhere(half, name, number=3, steps=2 * kept)
        return 2 * llc - found.llc, math.hypot(2 * error, found.llc_se)

    def _elsewhere(self, settings: ChainSettings, name: str, *, number: int, steps: int) -> tuple[float, float]:
        """λ̂ ± its error at other settings: the later half of `steps` steps that go on from the chains of `name`.

        The heat of gradient noise is taken off here as in `estimate`, or the difference of the two would hold it.
        """
        trace = self.sampling.go_on(settings, name, number=number, steps=steps)
        excess = self.nbeta * (trace.loss - trace.init_loss)
        draws = statistics.block_means(excess[:, steps // 2 :], max(1, (steps - steps // 2) // settings.num_draws))
        heat = statistics.mean_of(trace.heat[:, steps // 2 :])
        if self.spectrum is not None:
            heat *= heating_share(self.spectrum, settings.localization)
        return float(draws.mean()) - (heat if math.isfinite(heat) else 0.0), statistics.standard_error(draws)

    def _settings(self) -> dict[str, Any]:
        """What sampling used that may have been found rather than given."""
        settings = self.settings
        return {
            "step_size": settings.step_size,
            "friction": settings.friction,
            "gradient": settings.gradient,
            "localization": settings.localization,
            "adapt_step_size": settings.adapt_step_size,
        }

    def _result(
        self,
        found: Estimate,
        trace: Trace,
        burnin: int,
        thinning: int,
        extrapolated: tuple[float, float] | None,
        begun: float,
    ) -> LLCResult:
        before = sum(part["num_gradients"] for part in (self.moved, self.calibration) if part is not None)
        llc, error = (None, None) if extrapolated is None else extrapolated
        settings = Settings(
            nbeta=self.nbeta,
            sampler=self.settings.sampler,
            **self._settings(),
            num_chains=self.settings.num_chains,
            num_draws=self.settings.num_draws,
            num_steps_between_draws=thinning,
            num_burnin_steps=burnin,
            batch_size=self.batch_size,
            chain_batch_size=self.settings.chain_batch_size,
            seed=self.settings.seed,
            mixed_precision=self.asked.mixed_precision,
            step_in_backward=self.steps_in_backward,
            gradient_checkpointing=self.asked.gradient_checkpointing,
            minimize=self.moved,
            calibration=self.calibration,
        )
        return LLCResult(
            estimate=replace(found, llc_extrapolated=llc, llc_extrapolated_se=error),
            settings=settings,
            cost=self._cost(begun, before + self.sampling.num_gradients),
            subject=self._subject(),
            trace=trace,
        )

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

    def _cost(self, begun: float, num_gradients: int) -> Cost:
        """Time and memory of this call (a resumed run counts its own part)."""
        new_steps = sum(self.processes.gather([self.sampling.new_steps]))
        device = self.posterior.device
        if device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(device)
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Cost(
            num_gradients=num_gradients,
            wall_seconds=time.monotonic() - begun,
            steps_per_second=new_steps / max(self.sampling.seconds, 1e-9),
            peak_memory_bytes=memory,
            device=device.type,
            num_processes=self.processes.count,
            data_parallel=self.asked.data_parallel,
            parameter_parallel=self.asked.parameter_parallel,
        )

    def _subject(self) -> Subject:
        """What was measured, on what."""
        total = sum(p.numel() for p in self.problem.model.parameters())
        provenance = self.problem.provenance
        return Subject(
            n=self.problem.n,
            unit=self.problem.unit,
            trivial_loss=self.problem.trivial_loss,
            num_parameters=self.posterior.num_parameters,
            num_parameters_total=total,
            task=self.problem.task,
            mode="eval",
            dtype=str(self.posterior.dtype).removeprefix("torch."),
            model=provenance.get("model", {}),
            data=provenance.get("data", {}),
            versions=package_versions(),
        )
