"""The part of the gradient noise's heat that reaches λ̂, measured where it is a significant part of λ̂."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
from hf_llc.chains.cost import law_of
from hf_llc.chains.ensemble import Sampling
from hf_llc.clock import TimeIsUp
from hf_llc.judging import statistics
from hf_llc.posterior.stage_files import Journal, StageFolder
from hf_llc.progress import watch
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.trace import Trace


@dataclass
class Heat:
    """Measures, where the first chain stands, how much of the heat that chains recorded reaches λ̂.

    Chains record the heat as if all noise were in directions that the loss confines; `noise_spectrum` measures how much
    of it is. That takes gradients, so it is done only if the heat is significant.

    Attributes:
        sampling: which runs the chains; the gradients are counted there.
        decided: keeps what a piece of work finds, under a name, for a resumed run.
    """

    sampling: Sampling
    decided: Callable[[str, Callable[[StageFolder], dict[str, Any]]], dict[str, Any]]
    _known: dict[str, Spectrum] = field(default_factory=dict)

    def that_reaches(
        self, trace: Trace, settings: ChainSettings, name: str, *, num_burnin_steps: int
    ) -> tuple[Trace, Spectrum | None, float]:
        """The trace with that part of its heat which reaches λ̂, the spectrum of the noise, and λ̂'s error from it.

        Where the heat is not significant the trace stays as it is, and there is no spectrum. Where the time was up
        before it was measured there is none either, and an error above 0.

        Args:
            trace: of the chains.
            settings: of the chains.
            name: of the attempt.
            num_burnin_steps: steps dropped at the start.
        """
        if not is_heat_significant(trace, nbeta=settings.nbeta, num_burnin_steps=num_burnin_steps):
            return trace, None, 0.0
        try:
            spectrum = self._spectrum(trace, settings, name)
        except TimeIsUp:  # any share from nothing to all of it: the mean and standard deviation of a uniform law
            heat = statistics.mean_of(trace.heat[:, num_burnin_steps:])
            return replace(trace, heat=trace.heat / 2), None, heat / math.sqrt(12)
        error = heat_error(trace, spectrum, settings.localization, num_burnin_steps=num_burnin_steps)
        return replace(trace, heat=trace.heat * heating_share(spectrum, settings.localization)), spectrum, error

    def at_least(self, trace: Trace, settings: ChainSettings, name: str, num_burnin_steps: int) -> float:
        """What of the heat reaches λ̂ of chains under way, less two of its errors; 0 if there is no time to measure."""
        try:
            spectrum = self._spectrum(trace, settings, name)
        except TimeIsUp:
            return 0.0
        heat = statistics.mean_of(trace.heat[:, num_burnin_steps:]) * heating_share(spectrum, settings.localization)
        return heat - 2 * heat_error(trace, spectrum, settings.localization, num_burnin_steps=num_burnin_steps)

    def _spectrum(self, trace: Trace, settings: ChainSettings, name: str) -> Spectrum:
        """Of the noise where the first chain of a trace ended; measured once.

        Raises:
            TimeIsUp: before it was measured.
        """

        def measure(folder: StageFolder) -> dict[str, Any]:
            posterior = self.sampling.posterior
            spectrum = noise_spectrum(
                posterior,
                law_of(settings),
                self.sampling.end_of_first(settings, name),
                seed=settings.seed,
                batch_size=settings.batch_size,
                gradient=settings.gradient,
                num_samples=samples_within(trace.loss.size),
                journal=Journal(posterior.buffer, folder),
            )
            return {"spectrum": spectrum}

        key = f"heat-{name}-{trace.shape[1]}"
        if key not in self._known:
            with watch().stage("measure heat"), watch().until("measure heat"):
                self._known[key] = self.decided(key, measure)["spectrum"]
            self.sampling.num_gradients += gradients_of(self._known[key])
        return self._known[key]
