"""How many bytes a chain needs, how many there are, and whether its steps must be taken inside the backward pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from hf_llc.backend.memory import available_bytes
from hf_llc.posterior.minibatches import logits_per_token
from hf_llc.posterior.posterior import Posterior
from hf_llc.samplers import SAMPLERS

_GIB = 2**30

_SHARE = 0.85
"""Share of the available memory that a chain may take. Operations need some more, and so do other programs."""

PILOT_COPIES = 10
"""Tensors as large as the weights that calibration holds at its peak (measured): momentum, a direction, differences of
gradients, moved weights, products of the power iteration."""


@dataclass(frozen=True)
class Plan:
    """Bytes that one chain takes, stepped alone by one process.

    Attributes:
        num_parameters: number of sampled parameters.
        device: the device whose memory is meant.
        weights: bytes of w, in the type of the chains.
        anchor: bytes of w*, in the type of the model.
        largest: bytes of the largest parameter's gradient; of a tied parameter, of its two parts and their sum.
        activations: bytes that a forward pass keeps for its backward pass; None: not known.
        activations_of: the forward pass that was counted, in words.
        available: bytes that were free when the plan was made, the model's own included.
    """

    num_parameters: int
    device: str
    weights: int
    anchor: int
    largest: int
    activations: int | None
    activations_of: str
    available: int

    def state(self, sampler: str) -> int:
        """Bytes of the momentum or the preconditioner."""
        return SAMPLERS[sampler].state_copies * self.weights

    def whole(self, sampler: str) -> int:
        """Bytes of a chain with whole gradients, at a step that is measured."""
        return self._base(sampler) + SAMPLERS[sampler].step_copies * self.weights

    def in_backward(self, sampler: str) -> int | None:
        """Bytes of a chain that steps inside the backward pass; None: this sampler cannot."""
        return None if SAMPLERS[sampler].needs_whole_gradients else self._base(sampler) + self.largest

    def calibration(self) -> int:
        """Bytes of the pilot chain of calibration."""
        return self._base("sgld") + PILOT_COPIES * self.weights

    def _base(self, sampler: str) -> int:
        return self.weights + self.anchor + (self.activations or 0) + self.state(sampler)

    def fits(self, size: int) -> bool:
        """Whether a chain may take `size` bytes."""
        return size <= _SHARE * self.available

    def step_in_backward(self, sampler: str) -> bool:
        """Whether to step inside the backward pass: only if whole gradients do not fit.

        Whole gradients are preferred: they also give acceptance and heat, and are faster for small models.
        """
        return not SAMPLERS[sampler].needs_whole_gradients and not self.fits(self.whole(sampler))

    def as_dict(self) -> dict[str, object]:
        """The plan with its numbers for every sampler, as JSON values."""
        samplers = {
            name: {
                "state": self.state(name),
                "whole": self.whole(name),
                "in_backward": self.in_backward(name),
                "step_in_backward": self.step_in_backward(name),
                "fits": self.fits(self.needed(name)),
            }
            for name in SAMPLERS
        }
        return {**vars(self), "calibration": self.calibration(), "samplers": samplers}

    def needed(self, sampler: str) -> int:
        """Bytes of a chain that steps as `step_in_backward` says."""
        in_backward = self.in_backward(sampler)
        return in_backward if in_backward is not None and self.step_in_backward(sampler) else self.whole(sampler)

    def render(self) -> str:
        """The plan as a table."""
        bits = {self.weights: "as chains"}.get(self.anchor, f"{8 * self.anchor // self.num_parameters} bits")
        known = _gib(self.activations) if self.activations is not None else "not known"
        rows = [
            ("weights w", _gib(self.weights), f"{self.num_parameters:,} parameters"),
            ("anchor w*", _gib(self.anchor), bits),
            ("gradients", _gib(self.weights), f"whole; {_gib(self.largest)} (largest parameter) inside backward"),
            ("activations", known, self.activations_of),
            ("available", _gib(self.available), self.device),
        ]
        lines = [f"{name:<14}{size:>11}  {text}" for name, size, text in rows]
        lines.append(f"\n{'sampler':<22}{'state':>11}{'whole':>11}{'in backward':>13}  mode")
        for name in SAMPLERS:
            in_backward = self.in_backward(name)
            mode = "step in backward" if self.step_in_backward(name) else "whole gradients"
            if not self.fits(self.needed(name)):
                mode += ", does not fit"
            lines.append(
                f"{name:<22}{_gib(self.state(name)):>11}{_gib(self.whole(name)):>11}"
                f"{'–' if in_backward is None else _gib(in_backward):>13}  {mode}"
            )
        fits = "fits" if self.fits(self.calibration()) else "does not fit: give step_size and localization"
        lines.append(f"{'calibration':<22}{'':>11}{_gib(self.calibration()):>11}{'':>13}  {fits}")
        return "\n".join(lines)


def plan_of(posterior: Posterior, *, batch_size: int, processes: int = 1) -> Plan:
    """The plan for a model that is on its device; the activations of one example are measured.

    Args:
        posterior: of the model.
        batch_size: examples of a minibatch.
        processes: that share this machine's memory.
    """
    examples, length = min(batch_size, posterior.minibatches.micro_batch_size), posterior.problem.num_positions
    anchor = sum(a.nbytes for a in posterior.buffer.anchor)
    return Plan(
        num_parameters=posterior.num_parameters,
        device=str(posterior.device),
        weights=posterior.num_parameters * posterior.dtype.itemsize,
        anchor=anchor,
        largest=_largest(posterior.model, posterior.dtype),
        activations=examples * (posterior.activation_bytes() + loss_bytes(length, logits_per_token(posterior.model))),
        activations_of=f"{examples} examples, from a forward pass of one",
        available=available_bytes(posterior.device, processes=processes) + anchor,
    )


def loss_bytes(num_positions: int, num_logits: int) -> int:
    """Bytes that the loss of one example takes beside what is kept for the backward pass: two copies of its logits."""
    return 2 * 4 * num_positions * num_logits if num_logits > 1 else 0


def _largest(model: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of the largest parameter's gradient; of one that modules share, autograd adds two parts into a third."""
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    return max(p.numel() * (3 if uses[id(p)] > 1 else 1) for p in model.parameters()) * dtype.itemsize


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.2f} MiB"
