"""From settings and objects to a run that may begin: what every command with a run folder does first."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hf_llc.clock import TimeIsUp
from hf_llc.components.part_of import part_of
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import FolderError, InputError, OutOfTime
from hf_llc.files import check_writable
from hf_llc.loading.problem_loader import load_problem
from hf_llc.observables import Observable, observables_named
from hf_llc.observe_setting import registered_names
from hf_llc.parallel.pacing import ringing
from hf_llc.parallel.placement import arrange_processes, place_for_loading, shard_over_group
from hf_llc.parallel.processes import Processes
from hf_llc.parallel.sharding import is_sharded
from hf_llc.posterior.restriction import restricted
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.progress import watch
from hf_llc.weights_setting import weights_name
from hf_llc.workflow.forecast import Foresee, work_of_chains
from hf_llc.workflow.identity import asked_of, identity_of
from hf_llc.workflow.observed import fingerprints_of, observables_of
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.settings import decide_from_data

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a caller gives as objects; None: what `LoadConfig` names.

    Attributes:
        model: a module, pipeline, Hub id or folder.
        data: a data set, tensors, Hub id or files.
        loss_fn: `loss_fn(outputs, labels)` → losses `[batch]` in nats, for a plain module.
        tokenizer: tokenizer or image processor.
        label_mapping: what the data calls each label, by the model's name for it.
        data_fingerprint: of the examples that are to be measured on; other data are refused. None: any data.
        problem: what was loaded already with the same settings; the other objects are not looked at then.
    """

    model: Any = None
    data: Any = None
    loss_fn: Any = None
    tokenizer: Any = None
    label_mapping: Mapping[str, Any] | None = None
    data_fingerprint: str | None = None
    problem: Problem | None = None


NOTHING = Given()


def loaded(load: LoadConfig, sample: SampleConfig, given: Given) -> tuple[Problem, SampleConfig]:
    """The problem that a run is about, and the settings that its data decide.

    Raises:
        InputError: bad input.
    """
    problem = given.problem or load_problem(
        load.model if given.model is None else given.model,
        load.data if given.data is None else given.data,
        place_for_loading(load, sample, given.model),
        loss_fn=given.loss_fn,
        tokenizer=given.tokenizer,
        label_mapping=given.label_mapping,
    )
    found = problem.provenance.get("data", {}).get("fingerprint")
    if given.data_fingerprint not in (None, found):
        raise InputError(
            "the data are not those of the run that like names",
            value=f"fingerprint {found}",
            allowed=f"fingerprint {given.data_fingerprint}",
            remedy="give the same data, or leave out like",
        )
    problem.part = part_of(problem.model, sample.weights)
    return problem, decide_from_data(replace(sample, weights=weights_name(sample.weights)), problem)


def in_time(load: Callable[[], T]) -> T:
    """What `load` returns. Each process ends it by its own clock, and tells the others what it raised (`all_do`).

    Raises:
        OutOfTime: most of `max_seconds` is over.
    """
    try:
        with watch().until("load", within_passes=True), ringing(watch().ends_at("load"), watch().check):
            watch().check()
            return load()
    except TimeIsUp:
        how_far = "while data were read, or the model was tried on a few examples"
        remedy = "or give max_examples, max_length, or a smaller model"
        raise watch().out_of_time("load model and data", how_far, remedy) from None


def _is_finished(folder: RunFolder | None) -> bool:
    """Whether a result is there; what is wrong with a folder is said once the run that is asked for is known."""
    try:
        return folder is not None and folder.is_finished
    except FolderError:
        return False


@contextlib.contextmanager
def opened_run(
    load: LoadConfig,
    sample: SampleConfig,
    folder: RunFolder | None,
    given: Given = NOTHING,
    *,
    also_asked: Mapping[str, Any] | None = None,
    resume: bool | None = None,
    overwrite: bool = False,
    foresee: Foresee = work_of_chains,
) -> Iterator[Run | None]:
    """A run at its beginning, on every process; None if `folder` holds this run, finished.

    At the end the states of unfinished chains are deleted, unless an exception was raised, and the model is restored.

    Args:
        load: model and data.
        sample: how to sample.
        folder: of the run; None: nothing is kept on disk.
        given: objects in place of names in `load`.
        also_asked: more that distinguishes this run from others, for run.json.
        resume: True: there must be a run to continue; False: there must be none; None: continue if there is.
        overwrite: discard what is in the folder.
        foresee: the work of the chains and of what follows them, for the forecast.

    Raises:
        InputError: bad input, or the folder holds another run; nothing has been written then.
    """
    sample, processes = arrange_processes(sample, given.model)
    if folder is None and resume:
        raise InputError("resume needs an output folder", remedy="give output")
    for name in registered_names(sample.observe):
        observables_named(name)  # an unknown one is refused now, before anything is loaded
    if folder is not None:
        processes.main_does(lambda: str(check_writable(folder.folder)))

    def prepared() -> tuple[Problem, SampleConfig, dict[str, Observable], dict[str, Any]]:
        problem, decided = loaded(load, sample, given)
        observed = observables_of(decided, problem, load, given.loss_fn, given.tokenizer)
        if folder is None:  # then there is nothing to tell apart
            return problem, decided, observed, {}
        observing = {"observed": fingerprints_of(observed)} if isinstance(decided.observe, dict) else {}
        return problem, decided, observed, {**identity_of(problem, given.loss_fn), **observing}

    takes_all = is_sharded(given.model)  # its processes meet inside the work
    is_finished = not overwrite and processes.main_does(lambda: _is_finished(folder))
    load_all = prepared if is_finished else functools.partial(in_time, prepared)  # a result is read without a limit
    with watch().stage("load model and data"):
        # the groups of `processes` agree on nothing while they work together, and nobody does so yet
        problem, sample, observed, identity = prepared() if takes_all else Processes().all_do(load_all)
    asked = {**asked_of(load, sample), **identity}
    asked |= also_asked or {}
    with tempfile.TemporaryDirectory(prefix="hf_llc-") as temporary:
        used = RunFolder(temporary) if folder is None else folder
        try:
            processes.main_does(used.lock)
            processes.main_does(lambda: used.check(asked, resume=resume, overwrite=overwrite))
            if not overwrite and processes.main_does(lambda: used.is_finished):
                yield None
                processes.main_does(used.sweep)  # a kill may have come after the result
                return
            shard_over_group(problem, sample, processes)
            with contextlib.ExitStack() as kept:
                processes.all_do(lambda: kept.enter_context(preserved(problem.model)))
                processes.all_do(lambda: kept.enter_context(restricted(problem.model, problem.part)))
                run = Run(problem, sample, used, processes, observed, foresee)
                is_new = processes.main_does(lambda: used.has_nothing)
                used.join(*processes.main_does(lambda: used.begin(asked, overwrite=overwrite)))
                try:
                    run.measure_anchor()
                except InputError as error:
                    if is_new and not isinstance(error, OutOfTime):
                        processes.main_does(used.retract)
                    raise
                yield run
                processes.main_does(used.close)
        finally:
            used.unlock()
