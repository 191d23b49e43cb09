"""The descents of a run, one for each law that its chains sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from hf_llc.calibration.descent import descend, examples_of_descent, has_whole_gradients, is_descent_too_large
from hf_llc.chains.cost import law_of
from hf_llc.chains.ensemble import Sampling
from hf_llc.config import SampleConfig
from hf_llc.judging.statistics import is_above_minimum
from hf_llc.judging.verdict import precedence
from hf_llc.posterior.law import Law
from hf_llc.posterior.stage_files import StageFolder
from hf_llc.progress import watch
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate
from hf_llc.workflow.continuations import SampledChains

_STILL = 0.002
"""Share of λ̂ below which a descent from w* has found next to no slope there."""


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
        law = law_of(settings)
        if law not in self._known and has_whole_gradients(self.sampling.posterior):
            self._known[law] = self._descend(settings, f"descent-{name}", self.llc, lambda: None)
        return self._known.get(law)

    def from_a_chain(self, chains: SampledChains, estimate: Estimate) -> SampledChains | None:
        """The chains with a second descent, from where the first of them ended; None if there is no need of one.

        At a saddle or a maximum the loss has no slope, and a descent from there finds nothing. Chains leave it, and λ̂
        from w* is then short by what they have fallen. The second descent counts where it comes far below w*; else the
        first stays, at the cost of both.

        Args:
            chains: with their descent from w*.
            estimate: of them.
        """
        found, settings, llc = chains.descent, chains.settings, estimate.llc
        if found is None or precedence(estimate.verdict) <= precedence("not a minimum"):
            return None
        if found["loss_drop"] > max(_STILL * llc, 3 * found["loss_drop_se"]):
            return None
        lower = self._descend(
            settings, f"descent-{chains.name}-end", llc, lambda: self.sampling.end_of_first(settings, chains.name)
        )
        if lower is None:
            return None
        both = {"num_gradients": found["num_gradients"] + lower["num_gradients"]}
        is_lower = is_above_minimum(lower, llc)
        return replace(chains, descent=(lower | {"from_chain": 1.0} if is_lower else found) | both)

    def _descend(
        self, settings: ChainSettings, name: str, llc: float, start: Callable[[], Tensor | None]
    ) -> dict[str, float] | None:
        """`descend`, once a name, and its cost."""
        posterior = self.sampling.posterior
        size = {"num_examples": examples_of_descent(self.asked, posterior), "batch_size": settings.batch_size}
        shares = settings.gradient == "control-variate"

        def work(folder: StageFolder) -> dict[str, float] | None:
            return (
                None
                if self.is_too_large
                else descend(
                    posterior, law_of(settings), llc=llc, shares_anchor=shares, folder=folder, start=start(), **size
                )
            )

        with watch().stage("descend"):
            descent = self.decided(name, work)
        self.sampling.num_gradients += int(descent["num_gradients"]) if descent else 0
        return descent
