"""Estimates of one part of a model's weights after another, each in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hf_llc.budget import Budget
from hf_llc.components.listed import components_named
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.files import check_writable
from hf_llc.parallel.processes import Processes
from hf_llc.result import LLCResult
from hf_llc.studies.load_once import load_once
from hf_llc.workflow.estimate_model import estimate_model
from hf_llc.workflow.opened_run import Given


class Parts:
    """The parts of one model, loaded once.

    Args:
        load: model and data.
        sample: how to sample all weights.
        given: objects in place of names in `load`.
        components: see `components.listed.components_named`.
        output: folder of the study.
        overwrite: compute finished results again.
        progress: show progress bars on the main process.
        begun: `time.monotonic()` at the beginning of the command, whose time `max_seconds` is; None: now.
        limit: seconds in place of `max_seconds`, where that is for several studies.
        report: called with a line of text after each estimate.
        repeats: how often all parts are to be estimated.

    Attributes:
        names: of the parts, without that of all weights.
        problem: what was loaded.

    Raises:
        InputError: bad input.
    """

    def __init__(
        self,
        load: LoadConfig,
        sample: SampleConfig,
        given: Given,
        *,
        components: str,
        output: str | Path,
        overwrite: bool,
        progress: bool,
        begun: float | None,
        report: Callable[[str], None],
        limit: float | None = None,
        repeats: int = 1,
    ) -> None:
        self.processes = Processes(sample.data_parallel)
        self._budget = Budget(sample.max_seconds if limit is None else limit, begun)
        self._output = Path(output)
        self.processes.main_does(lambda: str(check_writable(self._output)))
        self.problem, _ = load_once(
            load, sample, given, processes=self.processes, progress=progress, begun=begun, limit=limit
        )
        self.names = components_named(self.problem.model, components)
        self._load, self._given = load, replace(given, problem=self.problem)
        self._overwrite, self._progress, self._report = overwrite, progress, report
        self._done, self._all = 0, repeats * (len(self.names) + 1)

    def estimate(self, name: str, settings: SampleConfig, *, within: str = "") -> LLCResult:
        """λ̂ of one part, without its trace; a finished one is read. The first, which finds settings, gets more time.

        Args:
            name: of the part.
            settings: how to sample.
            within: the folder in the study's own in which the part's is; empty: that itself.
        """
        left, title = self._all - self._done, f"{within} {name}".strip()
        result = estimate_model(
            self._load,
            replace(settings, weights=name),
            self._given,
            output=self._output / within / folder_of(name),
            overwrite=self._overwrite,
            progress=self._progress,
            title=title,
            limit=self._budget.share(left if self._done else (left + 1) / 2),
        )
        self._done += 1
        self._report(f"{title}: {result.verdict} ({self._done} of {self._all})")
        result.trace = None  # the largest part of a result
        return result


def folder_of(name: str) -> str:
    """The folder of a part: its name in characters that every file system takes, apart from other names."""
    return re.sub(r"[^\w.+~-]", lambda match: f"_{ord(match[0]):x}_" if match[0] != " " else "_", name)
