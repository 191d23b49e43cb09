"""The part of the gradient noise's heat that reaches λ̂, measured where it is a significant part of λ̂."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hf_llc.calibration.noise_spectrum import (
    Spectrum,
    gradients_of,
    heat_error,
    heating_share,
    is_heat_significant,
    noise_spectrum,
    samples_within,
)
from hf_llc.chains.ensemble import Sampling
from hf_llc.judging import statistics
from hf_llc.parallel.processes import chain_batches
from hf_llc.posterior.law import Law
from hf_llc.progress import TimeIsUp, watch
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.trace import Trace


def with_heat_that_reaches(
    trace: Trace,
    sampling: Sampling,
    settings: ChainSettings,
    name: str,
    *,
    num_burnin_steps: int,
    decided: Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]],
) -> tuple[Trace, Spectrum | None, float]:
    """The trace with that part of its heat which reaches λ̂, the spectrum of the noise, and λ̂'s error from it.

    Chains record the heat as if all noise were in directions that the loss confines; `noise_spectrum` measures how much
    of it is, where the first chain ended. That takes gradients, so it is done only if the heat is significant: else the
    trace stays as it is, and there is no spectrum.

    Args:
        trace: of the chains.
        sampling: which ran them; the gradients are counted there.
        settings: of the chains.
        name: of the attempt.
        num_burnin_steps: steps dropped at the start.
        decided: keeps what the work finds, under a name, for a resumed run.
    """
    if not is_heat_significant(trace, nbeta=settings.nbeta, num_burnin_steps=num_burnin_steps):
        return trace, None, 0.0

    def measure() -> dict[str, Any]:
        first = chain_batches(settings.num_chains, settings.chain_batch_size)[0]
        spectrum = noise_spectrum(
            sampling.posterior,
            Law(nbeta=settings.nbeta, localization=settings.localization),
            sampling.end(name, first)[:1],
            seed=settings.seed,
            batch_size=settings.batch_size,
            gradient=settings.gradient,
            num_samples=samples_within(trace.loss.size),
        )
        return {"spectrum": spectrum}

    try:
        with watch().stage("measure heat"), watch().until("measure heat"):
            spectrum = decided(f"heat-{name}", measure)["spectrum"]
    except TimeIsUp:  # any share from nothing to all of it: the mean and standard deviation of a uniform law
        heat = statistics.mean_of(trace.heat[:, num_burnin_steps:])
        return replace(trace, heat=trace.heat / 2), None, heat / math.sqrt(12)
    sampling.num_gradients += gradients_of(spectrum)
    error = heat_error(trace, spectrum, settings.localization, num_burnin_steps=num_burnin_steps)
    return replace(trace, heat=trace.heat * heating_share(spectrum, settings.localization)), spectrum, error
