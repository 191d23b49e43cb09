"""`Trace`: what every step of every chain left behind, and how traces are joined. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from hf_llc.files import write_atomically

Array = np.ndarray


@dataclass
class Trace:
    """What every step of every chain left behind, burn-in included.

    Attributes:
        loss: L_B(w_t), float64 `[chain, step]`: the minibatch loss before step t (with control-variate gradients that
            of `Walk.gradient`, of the same mean); NaN after a chain has stopped.
        init_loss: L_B(w*) on the same minibatch, float64 `[chain, step]`.
        accept_prob: MALA acceptance probability of step t on its own minibatch, NaN where it was not measured.
        sq_distance: ‖w_t − w*‖², NaN where it was not measured.
        grad_dot: ⟨nβ∇L_B, nβ∇L_B + γ(w_t − w*)⟩, NaN where it was not measured; see `statistics.step_size_bias`.
        kinetic_temperature: ‖p‖²/d of samplers with momentum, NaN where there is none or it was not measured.
        heat: what the noise of minibatch gradients adds to λ̂, ε_eff Q/8 (`hf_llc.calibration.pilot`), with
            Q = E‖nβ(∇L_B − ∇L_n)‖² estimated from two batches at w_t; 0 for full batches, NaN where it was not
            measured.
        step_size: ε of samplers that adapt it chain by chain, NaN elsewhere.
    """

    loss: Array
    init_loss: Array
    accept_prob: Array
    sq_distance: Array
    grad_dot: Array
    kinetic_temperature: Array = field(default_factory=lambda: np.empty(0))
    heat: Array = field(default_factory=lambda: np.empty(0))
    step_size: Array = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        for name in ("kinetic_temperature", "heat", "step_size"):
            if getattr(self, name).size == 0:
                setattr(self, name, np.full(self.loss.shape, np.nan))

    @property
    def shape(self) -> tuple[int, int]:
        """(chains, steps)."""
        return self.loss.shape  # type: ignore[return-value]

    def save(self, path: str | Path) -> Path:
        """Write all arrays to one safetensors file, atomically."""
        arrays = {item.name: np.ascontiguousarray(getattr(self, item.name)) for item in fields(self)}
        return write_atomically(path, lambda temporary: save_file(arrays, temporary))

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a file written by `save`."""
        return cls(**load_file(path))


def join_steps(traces: Sequence[Trace]) -> Trace:
    """One trace after the other, same chains."""
    return Trace(**{f.name: np.concatenate([getattr(t, f.name) for t in traces], axis=1) for f in fields(Trace)})


def join_chains(traces: Sequence[Trace]) -> Trace:
    """One trace below the other, all of the same number of steps."""
    return Trace(**{f.name: np.concatenate([getattr(t, f.name) for t in traces]) for f in fields(Trace)})


def first_steps(trace: Trace, steps: int) -> Trace:
    """The trace up to a step."""
    return Trace(**{f.name: getattr(trace, f.name)[:, :steps] for f in fields(Trace)})


def padded(trace: Trace, steps: int) -> Trace:
    """The trace of chains that stopped early, with NaN up to `steps`."""
    missing = ((0, 0), (0, steps - trace.shape[1]))
    return Trace(**{f.name: np.pad(getattr(trace, f.name), missing, constant_values=np.nan) for f in fields(Trace)})


def empty_trace(num_chains: int) -> Trace:
    """No steps yet."""
    return Trace(**{f.name: np.empty((num_chains, 0)) for f in fields(Trace)})
