"""How many bytes a chain needs, what there is, and whether its steps are to be taken inside the backward pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from hf_llc.backend.memory import available_bytes
from hf_llc.posterior.posterior import Posterior
from hf_llc.samplers import SAMPLERS

_GIB = 2**30

_SHARE = 0.85
"""Of the memory there is that a chain may take: operations need some for themselves, and so do other programs."""

_PILOT_COPIES = 10
"""Of calibration: momentum, a direction, gradient differences, moved weights, products of power iteration; measured."""


@dataclass(frozen=True)
class Plan:
    """Bytes of one chain, stepped alone by one process.

    Attributes:
        num_parameters: that are sampled.
        device: whose memory is meant.
        weights: w, in the type of chains.
        anchor: w*, in the type of the model.
        largest: the gradient of the largest parameter; of a tied one, its two parts and their sum.
        activations: what a forward pass keeps for its backward pass; None: not known.
        activations_of: what was counted.
        available: memory that was free when this was made, the model's own included.
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
        """Momentum or preconditioner."""
        return SAMPLERS[sampler].state_copies * self.weights

    def whole(self, sampler: str) -> int:
        """All of a chain whose steps use whole gradients, at a step that is measured."""
        return self._base(sampler) + SAMPLERS[sampler].step_copies * self.weights

    def in_backward(self, sampler: str) -> int | None:
        """All of a chain whose steps are taken inside the backward pass; None: this sampler's cannot be."""
        return None if SAMPLERS[sampler].needs_whole_gradients else self._base(sampler) + self.largest

    def calibration(self) -> int:
        """All of a pilot chain, which finds what is "auto"."""
        return self._base("sgld") + _PILOT_COPIES * self.weights

    def _base(self, sampler: str) -> int:
        return self.weights + self.anchor + (self.activations or 0) + self.state(sampler)

    def fits(self, size: int) -> bool:
        """Whether so many bytes may be used."""
        return size <= _SHARE * self.available

    def step_in_backward(self, sampler: str) -> bool:
        """Only where whole gradients do not fit: they also give acceptance and heat, and suit small models better."""
        return not SAMPLERS[sampler].needs_whole_gradients and not self.fits(self.whole(sampler))

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        samplers = {
            name: {
                "state": self.state(name),
                "whole": self.whole(name),
                "in_backward": self.in_backward(name),
                "step_in_backward": self.step_in_backward(name),
                "fits": self.fits(self._chosen(name)),
            }
            for name in SAMPLERS
        }
        return {**vars(self), "calibration": self.calibration(), "samplers": samplers}

    def _chosen(self, sampler: str) -> int:
        within = self.in_backward(sampler)
        return within if within is not None and self.step_in_backward(sampler) else self.whole(sampler)

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
            within = self.in_backward(name)
            mode = "step in backward" if self.step_in_backward(name) else "whole gradients"
            if not self.fits(self._chosen(name)):
                mode += ", does not fit"
            lines.append(
                f"{name:<22}{_gib(self.state(name)):>11}{_gib(self.whole(name)):>11}"
                f"{'–' if within is None else _gib(within):>13}  {mode}"
            )
        fits = "fits" if self.fits(self.calibration()) else "does not fit: give step_size and localization"
        lines.append(f"{'calibration':<22}{'':>11}{_gib(self.calibration()):>11}{'':>13}  {fits}")
        return "\n".join(lines)


def plan_of(posterior: Posterior, *, batch_size: int, processes: int = 1) -> Plan:
    """The plan of a posterior whose model is on its device, with one example's activations as they are."""
    examples = min(batch_size, posterior.minibatches.micro_batch_size)
    anchor = sum(a.nbytes for a in posterior.buffer.anchor)
    return Plan(
        num_parameters=posterior.num_parameters,
        device=str(posterior.device),
        weights=posterior.num_parameters * posterior.dtype.itemsize,
        anchor=anchor,
        largest=_largest(posterior.model, posterior.dtype),
        activations=examples * posterior.activation_bytes(),
        activations_of=f"{examples} examples, from a forward pass of one",
        available=available_bytes(posterior.device, processes=processes) + anchor,
    )


def _largest(model: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of the largest gradient; where modules share the parameter, autograd adds up two into a third."""
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    return max(p.numel() * (3 if uses[id(p)] > 1 else 1) for p in model.parameters()) * dtype.itemsize


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.2f} MiB"
