"""A problem that several estimates are about, loaded before the first of them."""

from __future__ import annotations

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.parallel.processes import Processes
from hf_llc.problem import Problem
from hf_llc.progress import Watch, watch, watching
from hf_llc.publishing.formatting import for_stderr
from hf_llc.workflow.opened_run import Given, in_time, loaded


def load_once(
    load: LoadConfig,
    sample: SampleConfig,
    given: Given,
    *,
    processes: Processes,
    progress: bool,
    begun: float | None,
    limit: float | None = None,
) -> tuple[Problem, SampleConfig]:
    """The problem, and the settings that its data decide, shown and within `max_seconds` as the loading of a run.

    `limit`: seconds in place of `max_seconds`, where that is for several studies.

    Raises:
        InputError: bad input.
        OutOfTime: it takes too long.
    """
    is_shown = progress and processes.is_main
    new = Watch(show=is_shown, begun=begun, max_seconds=sample.max_seconds, limit=limit, spell=for_stderr)
    with watching(new), watch().stage("load model and data"):
        return processes.all_do(lambda: in_time(lambda: loaded(load, sample, given)))
