"""What a stage has found so far, on disk: a stage that is killed takes none of it twice.

Two kinds. `Journal` is for a stage of many small steps that move a few tensors, such as a pilot chain: what each step
found is kept, of the tensors the latest alone. `KeptTensors` is for few results that are large, such as the gradients
of a descent: each is a file.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hf_llc.parallel.group import Group
from hf_llc.parallel.pacing import Pacer
from hf_llc.parallel.shard_spans import Spans
from hf_llc.posterior.chain_buffer import ChainBuffer
from hf_llc.progress import watch
from hf_llc.seals import load_tensors, save_tensors


@dataclass(frozen=True)
class StageFolder:
    """The folder of a stage, which is removed once the stage's result is known.

    Attributes:
        path: of the folder.
        seal: of the run, and the folder's place in it (`hf_llc.seals`).
        save_seconds: work that a kill may cost.
    """

    path: Path
    seal: str
    save_seconds: float


class Journal:
    """The steps of a stage, in order.

    The stage keeps its control flow: each step that takes gradients goes through `once`. A stage that was killed runs
    again from its beginning. `once` then gives back what the steps found, without taking them; at the last one that is
    known it restores the tensors that steps move. So the same steps must follow the same findings. What else may decide
    which step comes next is the clock, which a journal answers for (`is_over`).

    All processes of a group use it together.

    Args:
        buffer: where the chain lies, and which weights of it this process holds.
        folder: of the stage; None: nothing is kept.
    """

    def __init__(self, buffer: ChainBuffer, folder: StageFolder | None = None) -> None:
        self.buffer, self.folder = buffer, folder
        self._held: dict[str, dict[str, Tensor]] = {}
        self._values: list[Tensor] = []
        self._known: deque[Tensor] = deque()
        self._restored: dict[str, Tensor] = {}
        self._is_closed, self._earlier, self._begun = folder is None, 0.0, watch().done
        if folder is not None:
            self._read(folder)
        self._last_save, self._pacer = time.monotonic(), Pacer(buffer.group, len(self._known))

    @property
    def is_replaying(self) -> bool:
        """Whether the next step is known."""
        return bool(self._known)

    def hold(self, name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Save and restore these tensors, until others have the same name; returns them.

        Args:
            name: of the whole.
            tensors: which steps change in place, or replace in this dictionary: `[chain, parameter]` or `[chain, 1]`.
        """
        self._held[name] = tensors
        return tensors

    def drop(self, name: str) -> None:
        """Forget what was held under this name."""
        self._held.pop(name, None)

    def once(self, step: Callable[[], Tensor]) -> Tensor:
        """What a step finds, float64 `[number]`; the step is taken unless that is known."""
        if self._known:
            value = self._known.popleft()
            self._values.append(value)
            if not self._known:
                self._restore()
            return value
        value = step().to(torch.float64).reshape(-1)
        if self._is_closed:
            return value
        self._values.append(value)
        if self._pacer.is_due(len(self._values), lambda: False):
            assert self.folder is not None
            is_late = time.monotonic() - self._last_save > self.folder.save_seconds
            if self._pacer.agree(len(self._values), stop=False, save=is_late)[1]:
                self._save(self.folder)
                self._last_save = time.monotonic()
        return value

    def is_over(self, stage: str) -> bool:
        """Whether the time of a stage is up (`Watch.is_over`); it was not up before a step that is known."""
        if self.is_replaying:
            return False
        is_over = watch().is_over(stage, self.buffer.group)
        if is_over:
            self.close()
        return is_over

    def close(self) -> None:
        """Save nothing more: what follows depends on the clock. A run with more time goes on from before that."""
        self._is_closed = True

    def _path(self, folder: StageFolder) -> Path:
        return folder.path / "steps.safetensors"

    def _save(self, folder: StageFolder) -> None:
        tensors = {}
        for name, held in self._held.items():
            for key, x in held.items():
                is_vector = x.shape[-1] > 1
                full = self.buffer.gather_shards(x) if is_vector else x
                tensors[f"{'vector' if is_vector else 'number'}.{name}.{key}"] = full.detach().cpu().contiguous()
        if not self.buffer.group.leads:
            return
        tensors["values"] = torch.cat(self._values).cpu()
        tensors["lengths"] = torch.tensor([len(value) for value in self._values])
        tensors["work"] = torch.tensor(self._earlier + watch().done - self._begun, dtype=torch.float64)
        save_tensors(self._path(folder), tensors, seal=folder.seal)

    def _read(self, folder: StageFolder) -> None:
        path, buffer = self._path(folder), self.buffer

        def spans_of(name: str) -> Sequence[Spans] | None:
            return buffer.shard_spans() if name.startswith("vector.") else None

        def read() -> dict[str, Tensor]:
            return load_tensors(path, seal=folder.seal) if path.exists() else {}

        saved = dict(buffer.group.from_leader(read, spans_of))
        if not saved:
            return
        lengths = saved.pop("lengths").tolist()
        self._known.extend(saved.pop("values").to(buffer.device).split(lengths))
        self._earlier = float(saved.pop("work"))
        watch().take_more(-self._earlier)
        self._restored = saved

    def _restore(self) -> None:
        """Give the tensors that steps move the values that they had after the last known step."""
        found: dict[str, dict[str, Tensor]] = {whose: {} for whose in self._held}
        for name, x in self._restored.items():
            _, whose, key = name.split(".", 2)
            found[whose][key] = x
        for whose, tensors in found.items():
            held = self._held[whose]
            for key in held.keys() - tensors.keys():
                del held[key]
            for key, x in tensors.items():
                if key in held:
                    held[key].copy_(x)
                else:
                    held[key] = x.to(self.buffer.device)
        self._restored = {}


class KeptTensors:
    """Tensors by name, each set of them in a file of its own; what a set is may not depend on the clock.

    What took less than `save_seconds` since the stage began, or went on, is not written: a kill may cost as much. Nor
    is what takes more than half of the disk that is free.

    Args:
        group: the processes that compute them together; the leader's files serve all.
        device: where tensors go.
        folder: of the stage; None: nothing is kept.
    """

    def __init__(self, group: Group, device: torch.device, folder: StageFolder | None = None) -> None:
        self.group, self.device, self.folder = group, device, folder
        self._begun = time.monotonic()
        here = [] if folder is None else [path.stem for path in folder.path.glob("[!.]*.safetensors")]
        self._names = set(group.all_gather(here)[0])

    def once(self, name: str, work: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
        """What `work` gives, which is done unless that is known."""
        known = self.read(name)
        if known is not None:
            return known
        found = list(work())
        if self.is_due(self._begun):
            self.write(name, found)
        return found

    def is_due(self, since: float) -> bool:
        """Whether what was found since then (`time.monotonic()`) is worth keeping."""
        return self.folder is not None and time.monotonic() - since > self.folder.save_seconds

    def read(self, name: str) -> list[Tensor] | None:
        """What was written under this name; None if nothing was."""
        folder = self.folder
        if folder is None or name not in self._names:
            return None
        path = folder.path / f"{name}.safetensors"
        saved: Mapping[str, Tensor] = self.group.from_leader(lambda: load_tensors(path, seal=folder.seal))
        return [saved[str(number)].to(self.device) for number in range(len(saved))]

    def write(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Keep tensors under this name; the leader does."""
        size = sum(x.nbytes for x in tensors)
        if self.folder is not None and self.group.leads and 2 * size < _free(self.folder.path):
            named = {str(number): x.detach().cpu().contiguous() for number, x in enumerate(tensors)}
            save_tensors(self.folder.path / f"{name}.safetensors", named, seal=self.folder.seal)


def _free(path: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free
