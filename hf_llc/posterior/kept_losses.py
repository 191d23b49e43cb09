"""ℓ_i(w*) on disk while they are computed: a pass over many examples that is killed goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hf_llc.seals import load_tensors, save_tensors

_WORTH = 2.0
"""Seconds from which on a pass is kept."""


@dataclass
class KeptLosses:
    """The file of the losses of the first examples.

    Attributes:
        path: of the file.
        seal: of the run (`hf_llc.seals`).
        save_seconds: between two writes.
    """

    path: Path
    seal: str
    save_seconds: float

    def __post_init__(self) -> None:
        self._begun = self._last = time.monotonic()

    def read(self) -> list[Tensor]:
        """The losses that are known, in one part; none if there is no file."""
        self._begun = self._last = time.monotonic()
        return [load_tensors(self.path, seal=self.seal)["losses"]] if self.path.exists() else []

    def write(self, parts: Sequence[Tensor], *, is_last: bool) -> None:
        """Replace the file, if that is due or the last time; a quick pass leaves none."""
        now = time.monotonic()
        is_due = now - self._begun > _WORTH if is_last else now - self._last > self.save_seconds
        if is_due:
            save_tensors(self.path, {"losses": torch.cat(list(parts)).cpu()}, seal=self.seal)
            self._last = now
