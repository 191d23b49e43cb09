"""What the stages of a run find, kept in its folder so that a resumed run does not repeat it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_llc.parallel.processes import Processes
from hf_llc.posterior.kept_losses import KeptLosses
from hf_llc.posterior.stage_files import StageFolder
from hf_llc.workflow.run_folder import RunFolder


class Findings:
    """The findings of one run's stages, and what a stage under way has found so far.

    Args:
        folder: of the run.
        processes: all of them call `once` together.
        save_seconds: time between two writes of a stage.
    """

    def __init__(self, folder: RunFolder, processes: Processes, save_seconds: float) -> None:
        self._folder, self._processes, self._save_seconds = folder, processes, save_seconds

    def once(self, name: str, work: Callable[[StageFolder], Any]) -> Any:
        """The finding of `work`, which is done once a run; a resumed run reads it from the folder.

        The group of the main process does it: gradients are sums over a group. `work` gets a folder for what it has
        found so far.
        """
        finding = self._processes.main_does(lambda: self._folder.decided(name))
        if finding is None:
            new = self._processes.main_group_does(lambda: work(self.stage_folder(name)))
            finding = self._processes.main_does(lambda: self._folder.decide(name, new))
        return finding

    def stage_folder(self, name: str) -> StageFolder:
        """Where a stage of this name keeps what it has found so far."""
        return StageFolder(self._folder.state / name, f"{self._folder.seal}/{name}", self._save_seconds)

    def losses(self, rate: float) -> KeptLosses | None:
        """Where ℓ_i at w* are kept, or at the end of a minimization at this learning rate; the main process's alone.

        Args:
            rate: first learning rate of the minimization; 0: there was none.
        """
        if not self._processes.is_main:
            return None
        path = self._folder.state / ("losses.safetensors" if rate == 0 else f"losses-{rate:g}.safetensors")
        return KeptLosses(path, self._folder.seal, self._save_seconds)
