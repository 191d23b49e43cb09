"""The descents of a run, one for each law that its chains sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hf_llc.calibration.descent import descend, examples_of_descent, has_whole_gradients, is_descent_too_large
from hf_llc.chains.ensemble import Sampling
from hf_llc.config import SampleConfig
from hf_llc.posterior.law import Law
from hf_llc.posterior.stage_files import StageFolder
from hf_llc.progress import watch
from hf_llc.records.chain_settings import ChainSettings


@dataclass
class Descents:
    """Measures how far a descent from w* falls at the γ of chains.

    Attributes:
        sampling: which runs the chains; the gradients are counted there.
        decided: keeps what a piece of work finds, under a name, for a resumed run.
        asked: the settings asked for, which bound the cost.
        llc: a first λ̂, beside which the fall matters; NaN: not known.
        is_too_large: a descent does not fit into memory, as the main process finds for all.
    """

    sampling: Sampling
    decided: Callable[[str, Callable[[StageFolder], Any]], Any]
    asked: SampleConfig
    llc: float
    is_too_large: bool = field(init=False)
    _known: dict[Law, dict[str, float] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        posterior = self.sampling.posterior
        self.is_too_large = self.sampling.processes.main_does(lambda: is_descent_too_large(posterior))

    def of(self, settings: ChainSettings, name: str) -> dict[str, float] | None:
        """`descend` at the γ of these chains, once a law; None if this process cannot tell.

        Args:
            settings: of the chains. Those with another ε have the same minimum.
            name: of the attempt.
        """
        posterior = self.sampling.posterior
        law = Law(nbeta=settings.nbeta, localization=settings.localization)
        if law in self._known or not has_whole_gradients(posterior):
            return self._known.get(law)
        size = {"num_examples": examples_of_descent(self.asked, posterior), "batch_size": settings.batch_size}
        shares = settings.gradient == "control-variate"

        def work(folder: StageFolder) -> dict[str, float] | None:
            return (
                None
                if self.is_too_large
                else descend(posterior, law, llc=self.llc, shares_anchor=shares, folder=folder, **size)
            )

        with watch().stage("descend"):
            self._known[law] = descent = self.decided(f"descent-{name}", work)
        self.sampling.num_gradients += int(descent["num_gradients"]) if descent else 0
        return descent
