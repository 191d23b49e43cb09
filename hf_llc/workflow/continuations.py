"""λ̂ at other settings, by chains that continue from where those of an estimate ended.

Such chains start in the stationary law of nearly the same settings, so a short run of them shows a small difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hf_llc.calibration.noise_spectrum import Spectrum, heating_share
from hf_llc.chains.ensemble import Sampling
from hf_llc.judging import statistics
from hf_llc.progress import watch
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate, LocalizationCheck
from hf_llc.records.trace import Trace


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
    work = sampling.work_of(settings, 2 * _steps_of_check(chains))
    with watch().stage("check γ", work):
        return _checked(sampling, chains, estimate)


def _steps_of_check(chains: SampledChains) -> int:
    """Steps of each chain at another γ."""
    return max(chains.num_kept_steps // 2, 8)


def _checked(sampling: Sampling, chains: SampledChains, estimate: Estimate) -> LocalizationCheck | None:
    settings, check = chains.settings, LocalizationCheck()
    for number, (key, factor) in enumerate((("halved", 0.5), ("doubled", 2.0)), start=1):
        other = replace(settings, localization=factor * settings.localization)
        found = _continued_llc(sampling, chains, other, number=number, steps=_steps_of_check(chains))
        if found is None:
            return None
        llc, llc_se = found
        check |= {key: llc - estimate.llc, f"{key}_se": math.hypot(llc_se, estimate.llc_se)}
    return check


def extrapolate(sampling: Sampling, chains: SampledChains, estimate: Estimate) -> tuple[float, float] | None:
    """λ̂ ± its standard error at ε → 0, from ε and ε/2: 2 λ̂(ε/2) − λ̂(ε); None if the time was up.

    The excess due to a finite step and to gradient noise is linear in ε.
    """
    half = replace(chains.settings, step_size=chains.settings.step_size / 2)
    found = _continued_llc(sampling, chains, half, number=3, steps=2 * chains.num_kept_steps)
    if found is None:
        return None
    llc, llc_se = found
    return 2 * llc - estimate.llc, math.hypot(2 * llc_se, estimate.llc_se)


def _continued_llc(
    sampling: Sampling, chains: SampledChains, settings: ChainSettings, *, number: int, steps: int
) -> tuple[float, float] | None:
    """λ̂ ± its standard error at `settings`, from the later half of `steps` steps that continue `chains`.

    None if the time was up before the last of them.

    Args:
        sampling: which runs them.
        chains: to continue.
        settings: the other settings.
        number: of the continuation; each has noise and minibatches of its own.
        steps: of each chain.
    """
    trace = sampling.go_on(settings, chains.name, number=number, steps=steps)
    if trace.shape[1] < steps:
        return None
    excess = settings.nbeta * (trace.loss - trace.init_loss)
    draws = statistics.block_means(excess[:, steps // 2 :], max(1, (steps - steps // 2) // settings.num_draws))
    # The heat of gradient noise is subtracted as in the estimate, or the difference of the two would contain it.
    heat = statistics.mean_of(trace.heat[:, steps // 2 :])
    if chains.spectrum is not None:
        heat *= heating_share(chains.spectrum, settings.localization)
    return float(draws.mean()) - (heat if math.isfinite(heat) else 0.0), statistics.standard_error(draws)
