"""The chains of a profile, on their way down the ladder of γ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from hf_llc.judging.quadratic import Quadratic
from hf_llc.judging.verdict import lower_by, named
from hf_llc.numerals import short, with_error
from hf_llc.posterior.curvature import STABLE
from hf_llc.progress import watch
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate
from hf_llc.samplers.effective_step import slow_step_size
from hf_llc.studies.profile_table import Row, with_exponents
from hf_llc.workflow.continuations import SampledChains
from hf_llc.workflow.forecast import work_of_chains
from hf_llc.workflow.run import Run

_ESTIMATES = 2
"""Steps of all γ of one nβ together, at most, in those of one estimate."""

_RELAXATIONS = 20
"""Relaxation times of flat directions that a chain spends at a γ, as an estimate's does."""

_BURNIN = 3
"""A third of the steps at a γ is burn-in: chains come from a γ near by."""

_FEWEST = 60
"""Steps of a chain at a γ, at least."""

_TRIES = 3
"""Runs at a γ, with smaller steps, where the step size turns out too large."""

_EXPECTED = "localization dominates"
"""A check that says of a single λ̂ what a profile is made to show."""


class Ladder:
    """The chains of one nβ, on their way down.

    Args:
        run: prepared.
        nbeta: nβ.
        number: of this ladder.
        report: called after each γ.
    """

    def __init__(self, run: Run, nbeta: float, number: int, report: Callable[[str], None]) -> None:
        self.run, self.nbeta, self.number, self.report = run, nbeta, number, report
        self.caution = 1.0  # by which ε is lowered from here on down
        self.above: str | None = None  # name of the chains at the γ above

    def rows(self, ladder: Sequence[float], spectrum: Quadratic) -> tuple[list[Row], dict[str, float]]:
        """The rows from the weakest γ on, and how far nβL falls in a descent there."""
        steps = self._steps([self._settings(localization) for localization in ladder])
        rows, descent = [], None
        for number, localization in enumerate(ladder):
            weakest = number + 1 == len(ladder)
            if weakest:
                descent = self.run.descents.of(self._settings(localization), f"profile-{self.number}")
            self._expect(sum(steps[number + 1 :]))
            found = self._rung(number, localization, steps[number], descent)
            if found is None:  # the time is up
                break
            estimate, chains = found
            rows.append(_row(estimate, chains, spectrum))
            said = with_error(estimate.llc, estimate.llc_se)
            self.report(f"γ = {short(localization)}: λ̂ = {said}, {rows[-1].verdict} ({number + 1} of {len(ladder)})")
        dropped = {} if descent is None else {f"{self.nbeta:g}": descent["loss_drop"]}
        return with_exponents(rows[::-1]), dropped

    def _expect(self, steps: int) -> None:
        """Put the chains at the γ that follow into the plan of the watch, if there was a forecast."""
        if watch().needs_forecast:
            one = replace(self.run.settings, num_burnin_steps=0, num_draws=1, num_steps_between_draws=1)
            work = work_of_chains(self.run.posterior, one, self.run.processes, checks=False)["sample"]
            watch().plan["further γ"] = work.times(steps)

    def _settings(self, localization: float) -> ChainSettings:
        """Those of the run at this γ and nβ: ε by the largest curvature, and damping that is critical at γ or more."""
        run, base = self.run, self.run.settings
        if run.calibration is None:
            step_size = min(base.step_size, STABLE / localization)
        else:
            known = run.calibration["curvature"]
            here = (known - base.localization) * self.nbeta / base.nbeta + localization
            step_size = base.step_size * known / max(here, 1e-300)
        step_size *= self.caution
        friction = base.friction
        if friction is not None and run.asked.friction == "auto":
            friction = max(friction, 2 * math.sqrt(step_size * localization))
        law = {"nbeta": self.nbeta, "localization": localization}
        return replace(base, step_size=step_size, friction=friction, **law)

    def _steps(self, settings: Sequence[ChainSettings]) -> list[int]:
        """Steps of a chain at each γ: until flat directions have relaxed, within the budget."""
        allowed = self.run.asked.steps_allowed
        least = _fewest(allowed)
        wanted = [2 * _RELAXATIONS / (slow_step_size(each) * each.localization) for each in settings]
        steps = [min(max(each, least), allowed) for each in wanted]
        share = min(1.0, _ESTIMATES * allowed / sum(steps))
        return [max(round(share * each), 8) for each in steps]

    def _rung(
        self, number: int, localization: float, steps: int, descent: dict[str, float] | None
    ) -> tuple[Estimate, SampledChains] | None:
        """λ̂ at one γ, again with smaller steps if they turn out too large; None if the time was up."""
        is_open = self.run.asked.step_size == "auto"
        for attempt in range(_TRIES):
            name = f"nbeta-{self.number}-gamma-{number}" + (f"-{attempt}" if attempt else "")
            chains = self._sampled(self._settings(localization), name, number, attempt, steps)
            if chains is None:
                return None
            estimate = self.run.judge(replace(chains, descent=descent))
            factor = lower_by(estimate) if is_open and attempt + 1 < _TRIES else None
            if factor is None:
                break
            self.caution *= factor
        self.above = name
        return estimate, chains

    def _sampled(
        self, settings: ChainSettings, name: str, number: int, attempt: int, steps: int
    ) -> SampledChains | None:
        """Chains of `steps` steps at one γ, from the end of those above or from w*."""
        sampling = self.run.sampling
        burnin, draws, thinning = _cut(steps, settings.num_draws)
        cut = {"num_burnin_steps": burnin, "num_draws": draws, "num_steps_between_draws": thinning}
        settings = replace(settings, **cut)
        if self.above is None:
            trace, _, _ = sampling.until_flat(settings, name)
        else:
            continued = {"number": number * _TRIES + attempt, "steps": steps, "into": name, "stage": "sample"}
            trace = sampling.go_on(settings, self.above, **continued)
        if trace.shape[1] < steps:
            if trace.shape[1] < 8:
                return None
            burnin, draws, thinning = _cut(trace.shape[1], settings.num_draws)
        return self.run.with_heat(trace, settings, name, burnin, thinning)


def _fewest(allowed: int) -> int:
    """Steps at one γ, at least, where a chain of an estimate is allowed so many."""
    return min(max(_FEWEST, allowed // 10), allowed)


def fewest_and_most(rungs: int, allowed: int) -> tuple[int, int]:
    """Steps of a chain at all γ of one nβ together, if no step size turns out too large."""
    most = _ESTIMATES * allowed
    return min(rungs * _fewest(allowed), most), min(rungs * allowed, most)


def _cut(steps: int, most: int) -> tuple[int, int, int]:
    """Burn-in, draws, and steps a draw."""
    kept = steps - steps // _BURNIN
    draws = min(most, kept)
    return steps - draws * (kept // draws), draws, kept // draws


def _row(estimate: Estimate, chains: SampledChains, spectrum: Quadratic) -> Row:
    settings = chains.settings
    scale = settings.localization / settings.nbeta
    quadratic, quadratic_se = spectrum.llc(scale)
    left, left_se = spectrum.expected(scale)
    exponent, exponent_se = spectrum.exponent(scale)
    return Row(
        nbeta=settings.nbeta,
        localization=settings.localization,
        llc=estimate.llc,
        llc_se=estimate.llc_se,
        llc_quadratic=quadratic,
        llc_quadratic_se=quadratic_se,
        slope=settings.nbeta * spectrum.fall(scale),
        bent=quadratic - left,
        expected_se=left_se,
        exponent=math.nan,
        exponent_se=math.nan,
        exponent_quadratic=exponent,
        exponent_quadratic_se=exponent_se,
        negative_directions=spectrum.negative_directions(scale),
        step_size=settings.step_size,
        num_steps=chains.trace.shape[1],
        r_hat=estimate.r_hat,
        ess=estimate.ess,
        verdict=named([reason for reason in estimate.reasons if reason.name != _EXPECTED]),
    )
