"""λ̂ of a model on data, or of a problem that is loaded already."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from hf_llc.backend.torch_modes import own_modes
from hf_llc.components.part_of import part_of
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.observables import Observable
from hf_llc.parallel.processes import Processes, alone
from hf_llc.posterior.restriction import restricted
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.progress import Watch, watching
from hf_llc.publishing.formatting import for_stderr
from hf_llc.publishing.result_folder import check_unread, save
from hf_llc.result import LLCResult
from hf_llc.weights_setting import weights_name
from hf_llc.workflow.foretold import Foretold
from hf_llc.workflow.memory_plan import Plan, plan_of
from hf_llc.workflow.observed import observables_of
from hf_llc.workflow.opened_run import NOTHING, Given, loaded, opened_run
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.settings import decide_from_data


def estimate_model(
    load: LoadConfig,
    sample: SampleConfig,
    given: Given = NOTHING,
    *,
    output: str | Path | None = None,
    resume: bool | None = None,
    overwrite: bool = False,
    progress: bool = True,
    title: str = "",
    begun: float | None = None,
    limit: float | None = None,
) -> LLCResult:
    """λ̂ of a model on data. Every process calls this and gets the result; the main one writes the files.

    Args:
        load: model and data.
        sample: how to sample.
        given: objects in place of names in `load`.
        output: folder for the result, and for resuming; None: nothing is kept on disk. A finished run is only read.
        resume: True: there must be a run to continue; False: there must be none; None: continue if there is.
        overwrite: discard what is in `output`.
        progress: show on the main process what is done, and how long it still takes.
        title: what is measured, in front of that.
        begun: `time.monotonic()` at the beginning of the command, from which on `max_seconds` counts; None: now.
        limit: seconds in place of `max_seconds`, where that is for several estimates.

    Raises:
        InputError: bad input, refused before long work.
    """
    begun = time.monotonic() if begun is None else begun
    folder = None if output is None else RunFolder(output)
    is_shown = progress and Processes().is_main
    time_of = {"begun": begun, "max_seconds": sample.max_seconds, "limit": limit}
    watch = Watch(show=is_shown, title=title, spell=for_stderr, **time_of)
    opened = opened_run(load, sample, folder, given, resume=resume, overwrite=overwrite)
    with own_modes(), watching(watch), opened as run:
        if run is None:
            assert output is not None
            finished = LLCResult.load(output)
            check_unread(Path(output))
            return finished
        result = run.result(begun)
        if folder is not None:
            run.processes.main_does(lambda: folder.finish(lambda: str(save(result, folder.folder, run=folder.id))))
    return result


def foretell(
    load: LoadConfig, sample: SampleConfig, given: Given = NOTHING, *, begun: float | None = None
) -> tuple[Plan, Foretold]:
    """The memory of a chain, and what `estimate_model` would take with the same settings. Nothing is estimated.

    Model and data are loaded, the model is tried on a few examples, and one gradient is timed.

    Args:
        load: model and data.
        sample: how to sample.
        given: objects in place of names in `load`.
        begun: `time.monotonic()` at the beginning of the command; None: now.

    Raises:
        InputError: bad input, or not even the shortest run fits into `max_seconds`.
    """
    watch = Watch(show=True, begun=begun, max_seconds=sample.max_seconds, spell=for_stderr, is_forecast=True)
    with own_modes(), alone(), watching(watch):
        with watch.stage("load model and data"):
            problem, sample = loaded(load, sample, given)
        with _run_without_folder(problem, sample, {}) as run:
            assert run.foretold is not None
            return plan_of(run.posterior, batch_size=run.batch_size), run.foretold


def estimate_problem(problem: Problem, sample: SampleConfig, *, title: str | None = None) -> LLCResult:
    """λ̂ of a problem that is loaded already, by this process alone; nothing is kept on disk.

    Args:
        problem: model, examples and loss.
        sample: how to sample.
        title: show under this title what is done, and how long it still takes; None: show nothing.

    Raises:
        InputError: a setting does not fit the problem, or the loss at w* is not finite.
    """
    begun = time.monotonic()
    problem = replace(problem, part=part_of(problem.model, sample.weights))
    sample = decide_from_data(replace(sample, weights=weights_name(sample.weights)), problem)
    how = {"show": title is not None, "title": title or "", "spell": for_stderr}
    with own_modes(), alone(), watching(Watch(**how, begun=begun, max_seconds=sample.max_seconds)):
        observed = observables_of(sample, problem, LoadConfig())
        with _run_without_folder(problem, sample, observed) as run:
            run.measure_anchor()
            return run.result(begun)


@contextlib.contextmanager
def _run_without_folder(problem: Problem, sample: SampleConfig, observables: Mapping[str, Observable]) -> Iterator[Run]:
    """A run of a problem that is loaded; at the end nothing of it is on disk, and the model is restored."""
    with (
        preserved(problem.model),
        restricted(problem.model, problem.part),
        tempfile.TemporaryDirectory(prefix="hf_llc-") as temporary,
    ):
        yield Run(problem, sample, RunFolder(temporary), Processes(), observables)
