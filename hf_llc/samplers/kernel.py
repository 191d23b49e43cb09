"""What every sampler is: one step, the state it carries, and what a step costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from hf_llc.samplers.walk import Step, Walk


class Kernel(ABC):
    """One sampler: moves every chain of a walk by one step.

    Momenta, preconditioners and thermostats live in `state`, named tensors with a leading chain axis, made at the first
    step and saved with the chains: everything else that a step uses must follow from (seed, chain, step), or a resumed
    run is not the run. The other axis is that of the parameters, but for those named in `PER_CHAIN`.
    """

    PER_CHAIN: ClassVar[tuple[str, ...]] = ()

    def __init__(self, step_size: float) -> None:
        self.step_size = step_size
        self.state: dict[str, Tensor] = {}

    @abstractmethod
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """Move `walk.w` in place; `measure` asks for the diagnostics that this sampler has."""

    def state_dict(self) -> dict[str, Tensor]:
        """The state, `[chain, …]` each; empty before the first step and for samplers without one."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state that `state_dict` gave."""
        self.state = {name: value.clone() for name, value in state.items()}

    def num_gradients(self, *, steps: int, measured: int, is_full: bool) -> int:
        """Gradient evaluations in `steps` steps of a chain, `measured` of which were asked for acceptance."""
        return steps


def pieces_of(walk: Walk, flat: Tensor) -> list[Tensor]:
    """A state `[chain, parameter]` cut as gradients are, for `Segment.of`; views."""
    return list(torch.split(flat, walk.posterior.pieces, dim=1))
