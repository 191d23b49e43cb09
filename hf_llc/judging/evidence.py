"""`Evidence`: what the checks of an estimate look at beside its measurements. Arrays and settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_llc.judging.remedies import Asked

Array = np.ndarray

STIFFER = 0.5
"""Share of ε below which chains that lowered it are said to be where the loss is stiffer than at w*."""


@dataclass(frozen=True)
class Evidence:
    """What the checks look at beside the measurements.

    Attributes:
        loss: L_B(w_t) of every step, `[chain, step]`.
        excess: nβ(L_B(w_t) − L_B(w*)) of every step, `[chain, step]`.
        draws: `excess` after burn-in, averaged over the steps of each draw, `[chain, draw]`.
        trivial_loss: L_n of the best constant predictor, or None.
        nbeta: inverse temperature times n.
        localization: γ.
        step_size: ε at the start of the burn-in.
        step_share: mean ε of the draws over that; 1 if no chain lowered it.
        slow_step_size: ε_eff of the draws.
        is_exact: the sampler's law does not depend on ε.
        spreading: how far the chains have come (`statistics.spreading`).
        llc_still_missing: what λ̂ may still gain while the chains move away from w*; 0 if they do not.
        llc_unrelaxed: what λ̂ may lack because the burn-in was too short (`statistics.unrelaxed`).
        descent: how far a descent from w* falls (`calibration.descent`); None if there was none.
        asked: what remedies may change.
        minimize: what minimize found; None: w* was not moved.
    """

    loss: Array
    excess: Array
    draws: Array
    trivial_loss: float | None
    nbeta: float
    localization: float
    step_size: float
    step_share: float
    slow_step_size: float
    is_exact: bool
    spreading: dict[str, float]
    llc_still_missing: float
    llc_unrelaxed: float
    asked: Asked
    descent: dict[str, float] | None = None
    minimize: dict[str, Any] | None = None

    @property
    def llc_missing(self) -> float:
        """What λ̂ may lack of what endless sampling would give: the larger of the two, which may see the same."""
        return max(self.llc_still_missing, self.llc_unrelaxed, key=abs)

    @property
    def num_steps(self) -> int:
        """Steps of a chain, burn-in included."""
        return self.excess.shape[1]

    @property
    def relaxed_curvature(self) -> float:
        """The least curvature a that relaxes, in 2/(ε_eff a) steps, in a quarter of the chain; γ should exceed it."""
        return 8 / (self.slow_step_size * self.num_steps)

    @property
    def is_stiffer(self) -> bool:
        """Chains had to halve ε or more on the way: the loss is stiffer there than at w*."""
        return self.step_share < STIFFER
