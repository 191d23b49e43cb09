"""`Observations`: what observables saw along the chains. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hf_llc.errors import FolderError
from hf_llc.records.arrays import load_arrays, save_arrays

Array = np.ndarray

_STEPS = "steps"
_KINDS = ("observable.", "init.", "inputs.")


@dataclass
class Observations:
    """Records of observables, on some steps of all chains.

    Attributes:
        steps: the step before which each record was made, int64 `[record]`; burn-in included.
        values: by the observable's name, float32 `[chain, record, …]`; NaN where the chain had ended. Of the losses of
            examples: those at w* are taken off.
        init: by name, the losses of these examples at w*, float64 `[example]` or `[example, position]`.
        inputs: by name, the token ids of these examples, `[example, token]`.
    """

    steps: Array
    values: dict[str, Array]
    init: dict[str, Array] = field(default_factory=dict)
    inputs: dict[str, Array] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write all arrays to one safetensors file, atomically."""
        arrays = {_STEPS: self.steps}
        for kind, named in zip(_KINDS, (self.values, self.init, self.inputs), strict=True):
            arrays |= {f"{kind}{name}": value for name, value in named.items()}
        return save_arrays(path, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Observations:
        """Read a file written by `save`.

        Raises:
            FolderError: the file holds no observations.
        """
        arrays = load_arrays(path, "the file of observations")
        steps = arrays.pop(_STEPS, np.empty(()))
        values, init, inputs = (
            {name.removeprefix(kind): x for name, x in arrays.items() if name.startswith(kind)} for kind in _KINDS
        )
        is_known = len(arrays) == len(values) + len(init) + len(inputs)
        if steps.ndim != 1 or not is_known or any(x.ndim < 2 or x.shape[1] != len(steps) for x in values.values()):
            remedy = "estimate again, with overwrite"
            raise FolderError("the file of observations is damaged", value=str(path), remedy=remedy)
        return cls(steps, values, init, inputs)


def join_observations(parts: Sequence[Observations]) -> Observations:
    """Batches of chains, in order, as one."""
    names = parts[0].values
    return Observations(parts[0].steps, {name: np.concatenate([part.values[name] for part in parts]) for name in names})
