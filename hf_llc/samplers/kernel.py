"""What every sampler is: one step, the state it carries, what a step costs, and its traits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_llc.samplers.walk import Walk


@dataclass
class Step:
    """What a sampler reports of one step, each `[chain]`; the diagnostics are None where it did not measure them.

    Attributes:
        loss: L_B(w) before the move.
        accept_prob: Metropolis–Hastings acceptance probability of the move, taken or hypothetical.
        grad_dot: ⟨nβ∇L_B, A∇U_B⟩, float64; see `langevin.grad_dot`.
        kinetic_temperature: ‖p‖²/d of momentum p, 1 on average without gradient noise.
        heat: (ε_eff/8)·Q, Q the power of the gradient noise: what it adds to λ̂, at most.
        step_size: ε of each chain, if it adapts.
    """

    loss: Tensor
    accept_prob: Tensor | None = None
    grad_dot: Tensor | None = None
    kinetic_temperature: Tensor | None = None
    heat: Tensor | None = None
    step_size: Tensor | None = None


class Kernel(ABC):
    """One sampler: moves every chain of a walk by one step, in place.

    A subclass needs `step` only. Its other methods and its traits, the class attributes below, have the values of plain
    SGLD without diagnostics; a sampler overrides those that differ.

    Momentum, preconditioner and thermostat live in `state`: tensors `[chain, parameter]`, made at the first step, saved
    with the chains and loaded when a run is resumed. A step may use nothing else that is not a function of
    (seed, chain, step), or a resumed run would differ from one that was not interrupted.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    """Settings beside `step_size` that its constructor takes, by their names in `SampleConfig`."""

    per_chain: ClassVar[tuple[str, ...]] = ()
    """Names in `state` of tensors `[chain, 1]`, one number a chain instead of one a parameter."""

    is_exact: ClassVar[bool] = False
    """With full batches the stationary law is the posterior at every ε (Metropolis)."""

    has_friction: ClassVar[bool] = False
    """Momentum lasts from step to step and decays by the setting `friction`; flat directions see ε·coth(friction/2)."""

    adapts_step_size: ClassVar[bool] = False
    """Takes the setting `adapt_step_size`: a chain lowers its own ε."""

    measures_heat: ClassVar[bool] = False
    """Reports `Step.heat`; how much of it reaches λ̂ is then measured after the chains."""

    learns_in_burnin: ClassVar[bool] = False
    """Learns a preconditioner in burn-in, which must have steps."""

    step_size_hint: ClassVar[str] = ""
    """How to choose ε, if `step_size` must not be "auto"; empty if it may."""

    needs_full_batch: ClassVar[bool] = False
    """Refuses minibatches."""

    needs_whole_gradients: ClassVar[bool] = False
    """Needs the gradient of all parameters at once, so that its step cannot be taken inside the backward pass."""

    unmeasured_in_backward: ClassVar[str] = ""
    """The diagnostic that is lost when the step is taken inside the backward pass, as a noun phrase."""

    state_copies: ClassVar[int] = 0
    """Tensors `[parameter]` a chain keeps from step to step, w aside."""

    step_copies: ClassVar[int] = 1
    """Tensors `[parameter]` a chain holds at the peak of a measured step: gradients, and old weights for a test."""

    def __init__(self, step_size: float) -> None:
        self.step_size = step_size
        self.state: dict[str, Tensor] = {}

    @abstractmethod
    def step(self, walk: Walk, indices: Tensor | None, *, step: int, measure: bool) -> Step:
        """Move `walk.w` in place by one step.

        Args:
            walk: weights, gradients and noise of the chains; `Walk.sweep` hands them out segment by segment.
            indices: the minibatch, int64 `[chain, batch_size]`; None for all examples.
            step: number of the step, which picks the noise.
            measure: report the diagnostics that this sampler has and that cost more than the step itself.

        Returns:
            L_B(w) before the move, and the diagnostics.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """The state; empty before the first step and for samplers without one."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that `state_dict` returned."""
        self.state = {name: value.clone() for name, value in state.items()}

    def num_gradients(self, *, steps: int, measured: int, is_full: bool) -> int:
        """Number of gradient evaluations of one chain.

        Args:
            steps: taken.
            measured: of those, how many were measured.
            is_full: every step saw all examples.
        """
        return steps
