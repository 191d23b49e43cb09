"""The folder of a run: what it was asked to do, how far it got, and whether it may go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_llc.config import differences
from hf_llc.errors import InputError
from hf_llc.files import write_json
from hf_llc.parallel.sharding import hash_of


def fingerprint(model: nn.Module, examples: dict[str, torch.Tensor]) -> str:
    """A hash of all weights, buffers and examples: the same run means the same numbers, whatever their names."""
    values = [*model.state_dict().values(), *examples.values()]
    return hash_of(value for value in values if isinstance(value, torch.Tensor))


class RunFolder:
    """`run.json` says what was asked; `state/` holds unfinished work; `result.json` ends it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.state = self.folder / "state"

    @property
    def is_finished(self) -> bool:
        """A result is there."""
        return (self.folder / "result.json").exists()

    def recorded(self) -> dict[str, Any] | None:
        """What run.json says of the run that began here; None if none did.

        Raises:
            InputError: run.json is damaged.
        """
        path = self.folder / "run.json"
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError("the run's record is damaged", value=str(path), remedy="use overwrite") from error

    def check(self, asked: dict[str, Any], *, resume: bool | None, overwrite: bool) -> None:
        """May the run described by `asked` begin or go on here? Nothing is written.

        Raises:
            InputError: another run is there, or nothing is and `resume` demands it.
        """
        if overwrite:
            return
        old = self.recorded()
        if old is not None:
            changed = differences(old, json.loads(json.dumps(asked)))
            if changed or resume is False:
                more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
                what = f"another run ({'; '.join(changed[:3])}{more})" if changed else "this run already"
                raise InputError(
                    f"the output folder holds {what}", value=str(self.folder), remedy="use another folder, or overwrite"
                )
        elif resume:
            raise InputError("nothing to resume there", value=str(self.folder), remedy="drop resume")
        elif self.is_finished:
            raise InputError(
                "the output folder holds a result", value=str(self.folder), remedy="use another folder, or overwrite"
            )

    def begin(self, asked: dict[str, Any], *, overwrite: bool) -> None:
        """Say what is being done here."""
        if overwrite:
            self._clear()
        write_json(self.folder / "run.json", asked)

    def _clear(self) -> None:
        for name in (
            "result.json",
            "run.json",
            "trace.safetensors",
            "trace.png",
            "card.md",
            "observations.safetensors",
        ):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.state, ignore_errors=True)

    def decided(self, name: str) -> Any:
        """What an earlier stage found (a step size, say), or None."""
        path = self.state / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def decide(self, name: str, value: Any) -> Any:
        """Keep what a stage found for a resumed run; returns it."""
        write_json(self.state / f"{name}.json", value)
        return value

    def close(self) -> None:
        """Remove unfinished work: the result is on disk."""
        shutil.rmtree(self.state, ignore_errors=True)
