"""The states of chains on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from hf_llc.errors import FolderError
from hf_llc.parallel.group import Group
from hf_llc.parallel.shard_spans import Spans
from hf_llc.records.trace import Trace, empty_trace
from hf_llc.seals import load_tensors, save_tensors


class ChainStore:
    """The states of chains in a folder: one file for each batch of chains, which is complete or absent.

    Args:
        folder: of the files.
        seal: the run, and the folder's place in it (`hf_llc.seals`).
    """

    def __init__(self, folder: str | Path, *, seal: str = "") -> None:
        self.folder, self.seal = Path(folder), seal

    def path(self, chains: Sequence[int]) -> Path:
        """The file of these chains."""
        return self.folder / f"chains-{chains[0]:05d}-{chains[-1]:05d}.safetensors"

    def save(self, chains: Sequence[int], w: torch.Tensor, trace: Trace, kernel: dict[str, torch.Tensor]) -> None:
        """Replace the saved state of these chains.

        Args:
            chains: chain numbers.
            w: their weights, `[chain, parameter]`.
            trace: every step that led there.
            kernel: the sampler's state (`Kernel.state_dict`).
        """
        tensors = {
            f"trace.{f.name}": torch.from_numpy(np.ascontiguousarray(getattr(trace, f.name))) for f in fields(Trace)
        }
        tensors |= {f"kernel.{name}": value.detach().cpu().contiguous() for name, value in kernel.items()}
        tensors["w"] = w.detach().cpu()
        save_tensors(self.path(chains), tensors, seal=self.seal)

    def load(
        self,
        chains: Sequence[int],
        device: torch.device,
        group: Group | None = None,
        spans_of: Callable[[str], Sequence[Spans] | None] = lambda name: None,
        *,
        is_needed: bool = False,
    ) -> tuple[torch.Tensor | None, Trace, dict[str, torch.Tensor]]:
        """The saved weights (on the host), trace and kernel state; or None, an empty trace and no state.

        Args:
            chains: chain numbers.
            device: where the kernel state goes.
            group: processes that share these chains. Their leader reads for all: the others may not see its files, or
                see them late.
            spans_of: name of a tensor → the spans of it that each process of the group gets; None: each gets all of it.
            is_needed: this run has written it. Without this a chain that continues from it would begin at w*.

        Raises:
            FolderError: the file is damaged; or it is gone, though it is needed.
        """
        saved = (group or Group()).from_leader(lambda: self._read(chains), spans_of)
        if not saved and is_needed:
            raise FolderError(
                "a saved state is gone", value=str(self.path(chains)), remedy="run the same command again"
            )
        if not saved:
            return None, empty_trace(len(chains)), {}
        trace = Trace(**{f.name: saved[f"trace.{f.name}"].cpu().numpy() for f in fields(Trace)})
        kernel = {
            name.removeprefix("kernel."): value.to(device)
            for name, value in saved.items()
            if name.startswith("kernel.")
        }
        return saved["w"], trace, kernel

    def _read(self, chains: Sequence[int]) -> dict[str, torch.Tensor]:
        path = self.path(chains)
        return load_tensors(path, seal=self.seal) if path.exists() else {}
