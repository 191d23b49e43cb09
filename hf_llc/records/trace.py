"""`Trace`: what was recorded at every step of every chain, and how traces are joined. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from hf_llc.errors import FolderError
from hf_llc.records.arrays import load_arrays, save_arrays

Array = np.ndarray


@dataclass
class Trace:
    """What was recorded at every step of every chain, burn-in included: float64 arrays `[chain, step]`.

    NaN where a quantity was not measured, and after a chain has stopped.

    Attributes:
        loss: L_B(w_t), the minibatch loss before step t. With control-variate gradients it is that of `Walk.gradient`,
            which has the same mean. With draws of all examples it is L_n(w) at the last draw up to step t.
        init_loss: L_B(w*) on the same minibatch; L_n(w*) with draws of all examples.
        accept_prob: acceptance probability that MALA has, or would have, for step t on its own minibatch.
        sq_distance: ‖w_t − w*‖².
        grad_dot: ⟨nβ∇L_B, nβ∇L_B + γ(w_t − w*)⟩; see `statistics.step_size_bias`.
        kinetic_temperature: ‖p‖²/d of samplers with momentum p.
        heat: ε_eff Q/8, what the noise of minibatch gradients adds to λ̂ (`calibration.pilot`), with
            Q = E‖nβ(∇L_B − ∇L_n)‖² estimated from two minibatches at w_t; 0 for full batches.
        step_size: ε of samplers that adapt it chain by chain.
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
        return save_arrays(path, {item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a file written by `save`.

        Raises:
            FolderError: the file is no trace.
        """
        arrays = load_arrays(path, "the trace")
        names = {item.name for item in fields(cls)}
        needed = {"loss", "init_loss", "accept_prob", "sq_distance", "grad_dot"}
        shapes = {x.shape for x in arrays.values()}
        is_sound = needed <= arrays.keys() <= names and len(shapes) == 1 and len(next(iter(shapes))) == 2
        if not (is_sound and all(x.dtype.kind == "f" for x in arrays.values())):
            raise FolderError("the trace is damaged", value=str(path), remedy="estimate again, with overwrite")
        return cls(**arrays)


def join_steps(traces: Sequence[Trace]) -> Trace:
    """The steps of several traces of the same chains, one trace after the other."""
    return Trace(**{f.name: np.concatenate([getattr(t, f.name) for t in traces], axis=1) for f in fields(Trace)})


def join_chains(traces: Sequence[Trace]) -> Trace:
    """The chains of several traces of the same number of steps."""
    return Trace(**{f.name: np.concatenate([getattr(t, f.name) for t in traces]) for f in fields(Trace)})


def first_steps(trace: Trace, steps: int) -> Trace:
    """The first `steps` steps."""
    return Trace(**{f.name: getattr(trace, f.name)[:, :steps] for f in fields(Trace)})


def padded(trace: Trace, steps: int) -> Trace:
    """The trace filled up with NaN to `steps` steps, for chains that stopped early."""
    missing = ((0, 0), (0, steps - trace.shape[1]))
    return Trace(**{f.name: np.pad(getattr(trace, f.name), missing, constant_values=np.nan) for f in fields(Trace)})


def empty_trace(num_chains: int) -> Trace:
    """A trace of no steps."""
    return Trace(**{f.name: np.empty((num_chains, 0)) for f in fields(Trace)})
