"""The folder of a run: what was asked, the unfinished work, and whether a run may begin or continue there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_llc.errors import InputError
from hf_llc.files import write_json
from hf_llc.parallel.sharding import hash_of
from hf_llc.setting_checks import differences

RESULT_FILE = "result.json"


def fingerprint(model: nn.Module, examples: dict[str, torch.Tensor]) -> str:
    """A hash of all weights, buffers and examples: it identifies a run by its numbers, not by the names of files."""
    values = [*model.state_dict().values(), *examples.values()]
    return hash_of(value for value in values if isinstance(value, torch.Tensor))


class RunFolder:
    """The folder of a run: run.json says what was asked, `state` holds unfinished work, a last file says it is done.

    Args:
        folder: its path; it need not exist.
        last_file: name of the file that the run writes last.
    """

    def __init__(self, folder: str | Path, *, last_file: str = RESULT_FILE) -> None:
        self.folder = Path(folder)
        self.state = self.folder / "state"
        self.last_file = last_file

    @property
    def is_finished(self) -> bool:
        """The last file is there."""
        return (self.folder / self.last_file).exists()

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
        """Refuse a folder in which this run can neither begin nor continue. Nothing is written.

        Args:
            asked: everything that distinguishes this run from others; JSON values.
            resume: True: there must be a run to continue; False: there must be none; None: continue if there is.
            overwrite: discard what is there.

        Raises:
            InputError: the folder holds another run or a result, or it holds no run and `resume` is True.
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
        elif self.is_finished or (self.folder / RESULT_FILE).exists():  # of a run that left no run.json
            raise InputError(
                "the output folder holds a result", value=str(self.folder), remedy="use another folder, or overwrite"
            )

    def begin(self, asked: dict[str, Any], *, overwrite: bool) -> None:
        """Write run.json, after clearing the folder if `overwrite` is set."""
        if overwrite:
            self._clear()
        write_json(self.folder / "run.json", asked)

    def _clear(self) -> None:
        for name in (
            RESULT_FILE,
            "run.json",
            "trace.safetensors",
            "trace.png",
            "card.md",
            "observations.safetensors",
        ):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.state, ignore_errors=True)

    def decided(self, name: str) -> Any:
        """What the stage `name` of this run found (a step size, say) before the run was interrupted, or None."""
        path = self.state / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def decide(self, name: str, value: Any) -> Any:
        """Keep what the stage `name` found, for a resumed run; returns it."""
        write_json(self.state / f"{name}.json", value)
        return value

    def close(self) -> None:
        """Delete the unfinished work, once the result is on disk."""
        shutil.rmtree(self.state, ignore_errors=True)
