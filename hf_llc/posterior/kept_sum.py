"""A gradient of many examples on disk while it is summed: one that is killed goes on where it was."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_llc.posterior.stage_files import StageFolder
from hf_llc.seals import load_tensors, save_tensors

_WORTH = 2.0
"""Seconds from which on a sum is kept where the time is up."""

Sum = tuple[Tensor, list[Tensor]]
"""Loss and gradient in pieces, of the examples so far."""


class KeptSum:
    """The file of the latest sum that took longer than `save_seconds`.

    It says whose it is by a checksum of the weights and the examples, so that it does not matter which stage asked.

    Args:
        folder: of the file.
    """

    def __init__(self, folder: StageFolder) -> None:
        self.folder, self._path = folder, folder.path / "sum.safetensors"
        self._begun = self._last = time.monotonic()
        self._whose: Tensor | None = None
        self._left, self._left_size = None, 0
        if self._path.exists():
            left = load_tensors(self._path, seal=folder.seal)
            self._left, self._left_size = left["whose"], int(left["size"])

    def begin(self, w: Tensor, indices: Tensor | None, *, size: int) -> tuple[int, Sum | None]:
        """How many of `size` examples are summed already, and their sum; 0 and None: none are."""
        self._begun = self._last = time.monotonic()
        self._whose = None
        if self._left is None or size != self._left_size or not torch.equal(self._left, _whose(w, indices)):
            return 0, None
        self._left = None
        saved = load_tensors(self._path, seal=self.folder.seal)
        pieces = [saved[f"piece.{number}"].to(w.device) for number in range(len(saved) - 4)]
        return int(saved["done"]), (saved["loss"].to(w.device), pieces)

    def write(
        self, w: Tensor, indices: Tensor | None, *, size: int, done: int, found: Sum, is_last: bool = False
    ) -> None:
        """Replace the file, if that is due, or if this is the last time and the sum has taken long."""
        now = time.monotonic()
        if not (now - self._begun > _WORTH if is_last else now - self._last > self.folder.save_seconds):
            return
        self._whose = _whose(w, indices) if self._whose is None else self._whose
        loss, pieces = found
        numbers = {"size": torch.tensor(size), "done": torch.tensor(done), "loss": loss.cpu(), "whose": self._whose}
        save_tensors(self._path, {**numbers, **_named(pieces)}, seal=self.folder.seal)
        self._last = now


def _named(pieces: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"piece.{number}": piece.cpu().contiguous() for number, piece in enumerate(pieces)}


def _whose(w: Tensor, indices: Tensor | None) -> Tensor:
    """A checksum of weights and examples, uint8 `[32]`."""
    digest = hashlib.sha256(repr(tuple(w.shape)).encode())
    for x in (w,) if indices is None else (w, indices):
        digest.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
