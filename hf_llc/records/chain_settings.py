"""`ChainSettings`: what chains are run with, as `SampleConfig` is what was asked for, some of it "auto"."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from hf_llc.config import SampleConfig
from hf_llc.sampler_rules import SAMPLER_RULES, Sampler


@dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """The settings of chains, every one of them decided. Names and units are those of `SampleConfig`.

    Attributes:
        friction: of a sampler with momentum; None: the sampler has none.
        num_burnin_steps: steps dropped at the start; None: as many as are kept, and the chains get longer until flat.
        batch_size: examples a step.
        chain_batch_size: chains that one process steps together.
    """

    sampler: Sampler
    step_size: float
    friction: float | None
    adapt_step_size: bool
    num_leapfrog_steps: int
    gradient: Literal["plain", "control-variate"]
    localization: float
    nbeta: float
    batch_size: int
    batch_order: Literal["random", "in-turn"]
    draw_loss: Literal["batch", "full"]
    num_chains: int
    chain_batch_size: int
    num_draws: int
    num_steps_between_draws: int
    num_burnin_steps: int | None
    max_steps: int
    max_seconds: float | None
    target_se: float
    seed: int
    save_seconds: float
    observe_every: int

    @classmethod
    def of(cls, config: SampleConfig) -> ChainSettings:
        """The settings of a config in which the data and calibration have replaced every "auto" but the burn-in's."""
        values = {item.name: getattr(config, item.name) for item in fields(cls)}
        if config.num_burnin_steps == "auto":
            values["num_burnin_steps"] = None
        if not SAMPLER_RULES[config.sampler].has_friction:
            values["friction"] = None
        undecided = [name for name, value in values.items() if value == "auto"]
        assert not undecided, f"still to be decided: {', '.join(undecided)}"
        return cls(**values)

    @property
    def full_loss_every(self) -> int:
        """Steps from one L_n(w) to the next; 0: minibatch losses are the draws."""
        return self.num_steps_between_draws if self.draw_loss == "full" else 0

    @property
    def freeze_after(self) -> int:
        """Steps in which psgld learns its preconditioner: the burn-in, or the shortest that may turn out."""
        if self.num_burnin_steps is not None:
            return self.num_burnin_steps
        kept = self.num_draws * self.num_steps_between_draws
        return min(kept, self.max_steps - kept)
