"""λ̂ at other settings, by chains that continue from where those of an estimate ended.

Such chains start in the stationary law of nearly the same settings, so a short run of them shows a small difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hf_llc.calibration.noise_spectrum import Spectrum, heating_share
from hf_llc.chains.ensemble import Sampling
from hf_llc.judging import statistics
from hf_llc.judging.checks import is_change_known
from hf_llc.progress import watch
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate, LocalizationCheck
from hf_llc.records.trace import Trace, join_chains

_FEW_CHAINS = 2
"""Chains that go on at another γ at first. The others follow where these do not tell how λ̂ changes: a γ that two
chains have met says as much of its λ̂, within the error that was asked for, as all of them."""


@dataclass(frozen=True, kw_only=True)
class SampledChains:
    """All chains of an estimate after sampling.

    Attributes:
        name: of the folder that holds their states.
        settings: with which they ran.
        trace: every step of every chain, burn-in included.
        num_burnin_steps: steps dropped at the start.
        num_steps_between_draws: steps averaged into one draw.
        spectrum: of their gradient noise; None if the noise does not heat λ̂ significantly.
        heat_error: standard error of the heat in λ̂ that comes from the share of it which reaches λ̂.
        descent: how far a descent from w* falls at their γ; None if there was none.
    """

    name: str
    settings: ChainSettings
    trace: Trace
    num_burnin_steps: int
    num_steps_between_draws: int
    spectrum: Spectrum | None = None
    heat_error: float = 0.0
    descent: dict[str, float] | None = None

    @property
    def num_kept_steps(self) -> int:
        """Steps of each chain after burn-in."""
        return self.trace.shape[1] - self.num_burnin_steps


def check_localization(sampling: Sampling, chains: SampledChains, estimate: Estimate) -> LocalizationCheck | None:
    """The change of λ̂ when γ is halved and doubled, from chains that continue there.

    Returns:
        The changes and their standard errors; None if γ is 0, if reweighting the draws has already told them, or if
        the time was up.
    """
    settings = chains.settings
    if settings.localization == 0 or math.isfinite(sum(estimate.localization_sensitivity.values())):
        return None
    few = range(few_chains(settings.num_chains, settings.chain_batch_size))
    check = LocalizationCheck()
    with watch().stage("check γ", sampling.work_of(settings, 2 * _steps_of_check(chains), among=few)):
        for number, (name, factor) in enumerate((("halved", 0.5), ("doubled", 2.0)), start=1):
            other = replace(settings, localization=factor * settings.localization)
            found = _change(sampling, chains, estimate, other, number=number, few=few)
            if found is None:
                return None
            check |= {name: found[0], f"{name}_se": found[1]}
    return check


def few_chains(num_chains: int, chain_batch_size: int) -> int:
    """How many chains go on at another γ at first: two, or a batch."""
    return min(num_chains, -(-_FEW_CHAINS // chain_batch_size) * chain_batch_size)


def _steps_of_check(chains: SampledChains) -> int:
    """Steps of each chain at another γ."""
    return max(chains.num_kept_steps // 2, 8)


def _change(
    sampling: Sampling, chains: SampledChains, estimate: Estimate, other: ChainSettings, *, number: int, few: range
) -> tuple[float, float] | None:
    """λ̂ at the settings `other` less that of `estimate`, and its standard error; None if the time was up.

    From the chains `few` that continue there, and from all where these do not tell.
    """
    steps, parts = _steps_of_check(chains), []
    found = math.nan, math.nan
    for among in (few, range(few.stop, other.num_chains)):
        if parts and not among:
            break
        if parts:
            watch().take_more(sampling.work_of(other, steps, among=among))
        parts.append(sampling.go_on(other, chains.name, number=number, steps=steps, among=among))
        if parts[-1].shape[1] < steps:
            return None
        llc, llc_se = _later_llc(join_chains(parts), chains, other)
        found = llc - estimate.llc, math.hypot(llc_se, estimate.llc_se)
        if is_change_known(*found, estimate.llc, within=other.target_se):
            break
    return found


def extrapolate(sampling: Sampling, chains: SampledChains, estimate: Estimate) -> tuple[float, float] | None:
    """λ̂ ± its standard error at ε → 0, from ε and ε/2: 2 λ̂(ε/2) − λ̂(ε); None if the time was up.

    The excess due to a finite step and to gradient noise is linear in ε.
    """
    half, steps = replace(chains.settings, step_size=chains.settings.step_size / 2), 2 * chains.num_kept_steps
    trace = sampling.go_on(half, chains.name, number=3, steps=steps)
    if trace.shape[1] < steps:
        return None
    llc, llc_se = _later_llc(trace, chains, half)
    return 2 * llc - estimate.llc, math.hypot(2 * llc_se, estimate.llc_se)


def _later_llc(trace: Trace, chains: SampledChains, settings: ChainSettings) -> tuple[float, float]:
    """λ̂ ± its standard error from the later half of a trace that continues `chains` at `settings`."""
    begun = trace.shape[1] // 2
    excess = settings.nbeta * (trace.loss - trace.init_loss)[:, begun:]
    draws = statistics.block_means(excess, max(1, excess.shape[1] // settings.num_draws))
    # The heat of gradient noise is subtracted as in the estimate, or the difference of the two would contain it.
    heat = statistics.mean_of(trace.heat[:, begun:])
    if chains.spectrum is not None:
        heat *= heating_share(chains.spectrum, settings.localization)
    return float(draws.mean()) - (heat if math.isfinite(heat) else 0.0), statistics.standard_error(draws)
