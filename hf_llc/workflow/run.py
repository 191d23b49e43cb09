"""One estimate, from a problem to its result: minimize, calibrate, sample, judge, summarize."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hf_llc.calibration.calibrate import calibrate, with_calibration
from hf_llc.calibration.repair import retry_settings
from hf_llc.chains.ensemble import Sampling
from hf_llc.config import SampleConfig
from hf_llc.judging.basin import has_learnt_nothing
from hf_llc.judging.estimator import estimate as estimate_llc
from hf_llc.judging.remedies import Asked
from hf_llc.judging.running import describe, judged
from hf_llc.judging.stopping import is_in_vain, is_long_enough
from hf_llc.observables import Observable
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.kept_sum import KeptSum
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.stage_files import KeptTensors
from hf_llc.posterior.weights import put
from hf_llc.problem import Problem
from hf_llc.progress import watch
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate, LocalizationCheck, is_trusted
from hf_llc.records.trace import Trace
from hf_llc.result import LLCResult
from hf_llc.samplers import SAMPLERS
from hf_llc.samplers.effective_step import slow_step_size
from hf_llc.workflow.chain_choices import compile_chains, fastest_batch
from hf_llc.workflow.continuations import SampledChains, check_localization, extrapolate
from hf_llc.workflow.descents import Descents
from hf_llc.workflow.findings import Findings
from hf_llc.workflow.forecast import Foresee, forecast, work_of_chains
from hf_llc.workflow.heat_share import Heat
from hf_llc.workflow.nearest_minimum import nearest_minimum
from hf_llc.workflow.notes import with_notes
from hf_llc.workflow.observed import references_of, start_observables
from hf_llc.workflow.open_posterior import check_finite, check_spacing, open_posterior
from hf_llc.workflow.reforecast import FirstLook, expect_chains, expect_little
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.summary import chosen_settings, cost_of, settings_of, subject_of

MAX_ATTEMPTS = 3
"""Chains whose "auto" settings turn out wrong start again at better ones, so at most twice."""


class Run:
    """One estimate. What each stage finds is kept in the folder, so that a resumed run does not repeat it.

    Args:
        problem: model at w*, data, loss.
        sample: settings after `decide_from_data`.
        folder: of the run.
        processes: which share the chains out.
        observables: recorded along the chains.
        foresee: the work of the chains and of what follows them.

    Attributes:
        asked: `sample`, without what this model or its memory rules out.
        foretold: what it takes; None where nobody sees it.
        decided: `asked` with every "auto" replaced but that of the burn-in; after `prepare`.
        settings: the same for the chains; after `prepare`.
        minimization: what minimization found; None if it was not asked for.
        calibration: what calibration found; None if ε was given.
    """

    def __init__(
        self,
        problem: Problem,
        sample: SampleConfig,
        folder: RunFolder,
        processes: Processes,
        observables: Mapping[str, Observable] | None = None,
        foresee: Foresee = work_of_chains,
    ) -> None:
        assert isinstance(sample.batch_size, int)
        self.problem, self.asked, self.folder, self.processes = problem, sample, folder, processes
        self.batch_size = sample.batch_size
        self.observables = observables or {}
        self.findings = Findings(folder, processes, sample.save_seconds)
        self.posterior = self._posterior()
        is_new = processes.main_does(lambda: folder.has_nothing)
        self._foresee = foresee
        self.foretold = forecast(
            self.posterior, self.asked, processes, batch_size=self.batch_size, is_new=is_new, foresee=foresee
        )
        if sample.chain_batch_size not in (1, "auto") and not self.posterior.can_batch_chains():
            warnings.warn("the module does not run under torch.vmap: chains run one by one", stacklevel=2)
            self.asked = replace(sample, chain_batch_size=1)
        if self.posterior.step_in_backward and self.asked.gradient == "auto":
            self.asked = replace(self.asked, gradient="plain")
        self.minimization: dict[str, Any] | None = None
        self.calibration: dict[str, Any] | None = None

    def measure_anchor(self) -> None:
        """Compute ℓ_i(w*), which are kept in the folder on the way.

        Raises:
            InputError: one of them is not finite.
            OutOfTime: `max_seconds` is too short for them.
        """
        self._keep(0.0)
        self.processes.all_do(lambda: check_finite(self.posterior))
        watch().begin_work()

    def _keep(self, rate: float) -> None:
        """Let the posterior keep in the folder what a pass over many examples finds.

        Args:
            rate: first learning rate of the minimization whose end w* is; 0: there was none.
        """
        posterior, folder = self.posterior, self.findings.stage_folder("anchor")
        posterior.kept_losses = self.findings.losses(rate)
        if posterior.buffer.shard_spans() is None:
            posterior.anchor_gradients.kept = KeptTensors(posterior.group, posterior.device, folder)
        if self.processes.is_main and posterior.group.size == 1:
            posterior.kept_sum = KeptSum(self.findings.stage_folder("sum"))

    def _posterior(self) -> Posterior:
        """The posterior around the model's present weights, which the observables have seen."""
        posterior = open_posterior(self.problem, self.asked, self.processes, batch_size=self.batch_size)
        if self.observables:
            start_observables(self.observables, posterior, self.asked, self.folder.folder, self.processes)
        return posterior

    def prepare(self) -> None:
        """Minimize and calibrate, if that was asked for, and fix the settings of the chains."""
        self.minimization = self._minimize() if self.asked.minimize else None
        sample = self.asked
        if self.asked.step_size == "auto":
            with watch().stage("calibrate"):
                self.calibration = self.findings.once(
                    "calibration", lambda folder: calibrate(self.posterior, self.asked, folder)
                )
            assert self.calibration is not None
            sample = with_calibration(sample, self.calibration)
            self.processes.all_do(lambda: check_spacing(self.posterior, ChainSettings.of(sample).step_size))
        if self.asked.chain_batch_size == "auto":
            size = fastest_batch(self.posterior, self.asked, self.findings, self.processes)
            sample = replace(sample, chain_batch_size=size)
        self.decided, self.settings = sample, ChainSettings.of(sample)
        if self.settings.gradient == "plain":  # a pilot may have looked at a control variate
            self.posterior.anchor_gradients.forget_examples()
        if self.asked.compile == "auto":
            work = self._foresee(self.posterior, self.settings, self.processes, checks=False)
            compile_chains(self.posterior, self.settings, self.findings, work)
        expect_chains(self.posterior, self.settings, self.processes, self._foresee, first=self._first)
        self.sampling = Sampling(
            self.posterior,
            processes=self.processes,
            state=self.folder.state,
            seal=self.folder.seal,
            is_long_enough=is_long_enough,
            describe=describe,
            observables=self.observables,
        )
        self.heat = Heat(self.sampling, self.findings.once)
        self.descents = Descents(self.sampling, self.findings.once, self.asked, self._first.llc)

    @property
    def _first(self) -> FirstLook:
        """λ̂ at the end of calibration."""
        path = [] if self.calibration is None else self.calibration["path"]
        row = path[-1] if path and isinstance(path[-1], dict) else {}
        return FirstLook(row.get("llc", math.nan), row.get("llc_spread", math.nan))

    @property
    def came_from_above(self) -> bool:
        """Whether calibration found γ down the ladder (`hf_llc.calibration.ladder`)."""
        return self.calibration is not None and self.calibration.get("from_above", False)

    @property
    def is_hopeless(self) -> bool:
        """Whether chains can only say that the model has learnt nothing, and nobody has asked for their draws.

        Somebody has who gives the burn-in, or observes the chains.
        """
        is_asked = bool(self.observables) or self.asked.num_burnin_steps != "auto"
        return not is_asked and has_learnt_nothing(self.posterior.init_loss, self.problem.trivial_loss)

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
        if self.is_hopeless and not self.asked.minimize:
            expect_little(self.posterior.init_loss, self.problem.trivial_loss)
        self.prepare()
        settings, attempts = self.settings, []
        while True:
            chains = self.sample(settings, f"attempt-{len(attempts)}")
            estimate = self.judge(chains)
            below = self.descents.from_a_chain(chains, estimate)
            chains, estimate = (chains, estimate) if below is None else (below, self.judge(below))
            if is_trusted(estimate.verdict) and self.asked.check_localization and not self.is_over("sample"):
                check = check_localization(self.sampling, chains, estimate)
                estimate = estimate if check is None else self.judge(chains, check)
            watch().conclude(functools.partial(judged, estimate))
            better = retry_settings(settings, self.asked, estimate, from_above=self.came_from_above)
            if better is None or len(attempts) + 1 == MAX_ATTEMPTS or self.is_over("attempt"):
                break
            expect_chains(self.posterior, better, self.processes, self._foresee, first=self._first)
            attempts.append(chosen_settings(settings) | {"verdict": estimate.verdict, "llc": estimate.llc})
            settings = better
        if self.calibration is not None:
            self.calibration |= {"attempts": attempts}
        if self.sampling.observations is not None:
            init, inputs = references_of(self.observables)
            self.sampling.observations.init, self.sampling.observations.inputs = init, inputs
        if self.asked.extrapolate:
            extrapolated = extrapolate(self.sampling, chains, estimate)
            if extrapolated is not None:
                llc, llc_se = extrapolated
                estimate = replace(estimate, llc_extrapolated=llc, llc_extrapolated_se=llc_se)
        return LLCResult(
            estimate=estimate,
            settings=settings_of(
                chains,
                self.asked,
                step_in_backward=self._steps_in_backward(settings),
                is_compiled=self.posterior.one_pass.is_compiled(settings.chain_batch_size, settings.batch_size),
                minimize=self.minimization,
                calibration=self.calibration,
            ),
            cost=cost_of(self.sampling, self.processes, self.asked, begun=begun, num_gradients=self.num_gradients),
            subject=subject_of(self.problem, self.posterior),
            trace=chains.trace,
            observations=self.sampling.observations,
        )

    def is_over(self, stage: str) -> bool:
        """Whether the time for a stage is up, by the main process's clock."""
        return self.processes.main_does(lambda: watch().is_over(stage))

    def sample(self, settings: ChainSettings, name: str) -> SampledChains:
        """Run the chains; their `Trace.heat` becomes that part of the gradient noise's heat which reaches λ̂."""
        is_hopeless = self.is_hopeless
        descent = None if is_hopeless else self.descents.of(settings, name)
        least_heat = functools.partial(self.heat.at_least, settings=settings, name=name)
        self.sampling.is_long_enough = functools.partial(
            is_long_enough, has_learnt_nothing=is_hopeless, descent=descent, least_heat=least_heat
        )
        is_looked_at = descent is not None and not self.observables
        self.sampling.is_in_vain = functools.partial(is_in_vain, descent=descent) if is_looked_at else None
        trace, burnin, thinning = self.sampling.until_flat(settings, name)
        return self.with_heat(trace, settings, name, burnin, thinning, descent=descent)

    def with_heat(
        self,
        trace: Trace,
        settings: ChainSettings,
        name: str,
        burnin: int,
        thinning: int,
        *,
        descent: dict[str, float] | None = None,
    ) -> SampledChains:
        """The chains of a trace, with that part of its heat which reaches λ̂ (`heat_share`)."""
        trace, spectrum, error = self.heat.that_reaches(trace, settings, name, num_burnin_steps=burnin)
        return SampledChains(
            name=name,
            settings=settings,
            trace=trace,
            num_burnin_steps=burnin,
            num_steps_between_draws=thinning,
            spectrum=spectrum,
            heat_error=error,
            descent=descent,
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
            is_full=settings.batch_size == self.posterior.num_examples or settings.draw_loss == "full",
            trivial_loss=self.problem.trivial_loss,
            descent=chains.descent,
            heat_error=chains.heat_error,
            minimize=self.minimization,
            asked=Asked(self.asked, self.problem.n, self.posterior.num_examples, settings.friction),
        )
        return with_notes(
            estimate,
            cut_at=self.sampling.cut_at,
            max_seconds=self.asked.max_seconds,
            allowed=self.asked.steps_allowed,
            steps=chains.trace.shape[1],
            is_heat_guessed=chains.spectrum is None and chains.heat_error > 0,
            is_descent_too_large=chains.descent is None and self.descents.is_too_large,
            unmeasured=sampler.unmeasured_in_backward if self._steps_in_backward(settings) else None,
            in_turn=settings.draw_loss if settings.batch_order == "in-turn" else None,
        )

    def _steps_in_backward(self, settings: ChainSettings) -> bool:
        """Whether chains with these settings take their steps inside the backward pass."""
        size = {"num_chains": settings.chain_batch_size, "batch_size": settings.batch_size}
        return self.posterior.steps_in_backward(**size) and settings.gradient != "control-variate"

    def _minimize(self) -> dict[str, Any]:
        """Move the model's weights to the nearest minimum, the same bits on every process; they are w* from here on."""
        w, done = nearest_minimum(self.posterior, self.asked, self.folder, self.processes, findings=self.findings)
        cost = self.posterior.loss_cost
        del self.posterior  # its anchor is the old w*
        put(w, self.problem.model)
        self.posterior = self._posterior()
        self.posterior.loss_cost = cost
        self._keep(done["learning_rate"])
        self.posterior.losses_end = "descend"
        self.processes.all_do(lambda: check_finite(self.posterior))
        return done
