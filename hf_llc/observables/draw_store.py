"""Records of observables on disk: for each batch of chains a block at every save, which carries its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hf_llc.errors import FolderError
from hf_llc.records.observations import Observations
from hf_llc.seals import load_tensors, save_tensors

_STEPS = "steps"


class DrawStore:
    """Blocks in a folder. Each is one file, complete or absent, named by its chains and its first step.

    Args:
        folder: of the files.
        seal: the run, and the folder's place in it (`hf_llc.seals`).
    """

    def __init__(self, folder: str | Path, *, seal: str = "") -> None:
        self.folder, self.seal = Path(folder), seal

    def append(self, chains: Sequence[int], steps: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Write a block. It replaces one with the same first step, which a kill left without the state that follows it.

        Args:
            chains: chain numbers.
            steps: `[record]`, ascending.
            values: float32 `[chain, record, …]` by the observable's name.
        """
        path = self.folder / f"{_prefix(chains)}{steps[0]:09d}.safetensors"
        tensors = {_STEPS: torch.tensor(steps), **{name: value.contiguous() for name, value in values.items()}}
        save_tensors(path, tensors, seal=self.seal)

    def read(self, chains: Sequence[int], steps: Sequence[int], *, known: int = 0) -> Observations:
        """The records of these steps; NaN where there is none.

        Args:
            chains: chain numbers.
            steps: ascending.
            known: that many of the steps, from the first, have a record.

        Raises:
            FolderError: a block of these is gone, or one is damaged.
        """
        place = {step: number for number, step in enumerate(steps)}
        values: dict[str, np.ndarray] = {}
        seen: set[int] = set()
        for path in self._blocks(chains):
            block = {name: value.numpy() for name, value in load_tensors(path, seal=self.seal).items()}
            recorded = block.pop(_STEPS).tolist()
            seen.update(recorded)
            here = [number for number, step in enumerate(recorded) if step in place]
            first = place.get(int(path.stem.removeprefix(_prefix(chains))), 0)
            for name, value in block.items():
                if name not in values:
                    values[name] = np.full((len(chains), len(steps), *value.shape[2:]), np.nan, np.float32)
                values[name][:, first : first + len(here)] = value[:, here]
        self._refuse_lost(chains, steps[:known], seen)
        return Observations(np.array(steps, dtype=np.int64), values)

    def check(self, chains: Sequence[int], steps: Sequence[int]) -> None:
        """Check that there is a record of each of these steps.

        Raises:
            FolderError: a block is gone or damaged.
        """
        seen: set[int] = set()
        for path in self._blocks(chains):
            seen.update(load_tensors(path, seal=self.seal)[_STEPS].tolist())
        self._refuse_lost(chains, steps, seen)

    def _refuse_lost(self, chains: Sequence[int], steps: Sequence[int], seen: Set[int]) -> None:
        lost = [step for step in steps if step not in seen]
        if lost:
            where = str(self.folder / f"{_prefix(chains)}*")
            raise FolderError(f"records of step {lost[0]} are gone", value=where, remedy="use overwrite")

    def _blocks(self, chains: Sequence[int]) -> list[Path]:
        return sorted(self.folder.glob(f"{_prefix(chains)}*.safetensors"))


def _prefix(chains: Sequence[int]) -> str:
    return f"observables-{chains[0]:05d}-{chains[-1]:05d}-"
