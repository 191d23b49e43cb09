"""One measurement a checkpoint: one of them decides the settings left open, and the others are measured at the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hf_llc.config import LoadConfig
from hf_llc.errors import FolderError, InputError, LimitTooShort, OutOfTime
from hf_llc.files import check_writable
from hf_llc.parallel.processes import Processes
from hf_llc.problem import Problem
from hf_llc.studies.checkpoint_series import Checkpoint
from hf_llc.studies.series_left import Judged, SeriesLeft, faults_of
from hf_llc.workflow.opened_run import Given
from hf_llc.workflow.run_folder import RunFolder

T = TypeVar("T", bound=Judged)


def look_at_all(series: SeriesLeft[Any], load: LoadConfig, output: str | Path, *, processes: Processes) -> None:
    """Before any work: can the folder be written, and which checkpoints can be loaded and placed along training?

    Those that cannot are left out.

    Raises:
        InputError: the folder cannot be written, or fewer than two checkpoints are left.
    """
    processes.main_does(lambda: str(check_writable(Path(output))))
    series.fail(processes.main_does(lambda: faults_of(series.left, load)))
    series.skip_without_steps()


def opened(
    checkpoint: Checkpoint,
    *,
    load: LoadConfig,
    dataset: Any,
    data_fingerprint: str | None,
    kept: dict[str, Problem],
) -> tuple[LoadConfig, Given]:
    """What a checkpoint is loaded by: the settings, and the objects in place of names in them.

    Args:
        checkpoint: one of the series. A plain module is built and its weights are read.
        load: settings common to all.
        dataset: the data, or None if `load` names them.
        data_fingerprint: of the examples that are to be measured on; None: any.
        kept: problems that were loaded already, by the names of their checkpoints; each is taken from there.
    """
    model, loss_fn = (None, None) if checkpoint.open is None else checkpoint.open()
    objects = {"model": model, "data": dataset, "problem": kept.pop(checkpoint.name, None)}
    given = Given(**objects, loss_fn=loss_fn, data_fingerprint=data_fingerprint)
    return replace(load, **checkpoint.load), given


@contextlib.contextmanager
def measured_series(
    series: SeriesLeft[T],
    folder: RunFolder,
    asked: dict[str, Any],
    measured: Callable[[Checkpoint, T | None], T],
    *,
    check: Callable[[], None],
    processes: Processes,
    calibrate_on: str | None,
    hardest: Callable[[], tuple[str, str]],
    resume: bool,
    overwrite: bool,
) -> Iterator[str]:
    """Measure every checkpoint of the series, on every process; within, the folder is still locked.

    One that fails is left out. Yields the name of the checkpoint that decided.

    Args:
        series: takes the results.
        folder: of all of them.
        asked: what is asked for, for the folder's run.json.
        measured: measures a checkpoint at the settings of the one that has decided; None: this one decides.
        check: looks at the folders of the checkpoints before any work.
        processes: all.
        calibrate_on: see `SeriesLeft.meant_by`; None: what `hardest` says, or that of the run which goes on.
        hardest: which word, and why.
        resume: refuse a folder that holds no such run.
        overwrite: do all again.

    Raises:
        InputError: the folder holds another run, or too few checkpoints can be measured.
    """
    try:
        processes.main_does(folder.lock)
        processes.main_does(check)
        word, why = calibrate_on, ""
        if word is None and processes.main_does(lambda: _is_new(folder, resume=resume, overwrite=overwrite)):
            word, why = hardest()
        is_new, name = processes.main_does(
            lambda: _begin(folder, asked, series, calibrate_on=word, resume=resume, overwrite=overwrite)
        )
        if why:
            series.tell(f"{name} decides the settings: {why}")
        while name not in series.results:
            try:
                series.add(name, measured(series.named(name), None))
            except InputError as error:  # one broken checkpoint does not cost the others
                if isinstance(error, (FolderError, OutOfTime, LimitTooShort)) or not (is_new and series.may_go_on):
                    raise
                series.fail({name: str(error)})
                series.check()
                _, name = processes.main_does(
                    lambda: _begin(folder, asked, series, calibrate_on=calibrate_on, resume=False, overwrite=True)
                )
        for checkpoint in series.left:
            if checkpoint.name != name:
                try:
                    series.add(checkpoint.name, measured(checkpoint, series.results[name]))
                except FolderError:  # a curve that goes on without that point would look whole
                    raise
                except InputError as error:
                    series.fail({checkpoint.name: str(error)})
        yield name
    finally:
        folder.unlock()


def _is_new(folder: RunFolder, *, resume: bool, overwrite: bool) -> bool:
    """Whether a run begins in the folder, or would: one that must go on is refused later if there is none."""
    return overwrite or (folder.recorded() is None and not resume)


def _begin(
    folder: RunFolder,
    asked: dict[str, Any],
    series: SeriesLeft[Any],
    *,
    calibrate_on: str | None,
    resume: bool,
    overwrite: bool,
) -> tuple[bool, str]:
    """Begin a curve in `folder`, or continue the one in it.

    Returns:
        Whether it is a new one, and the name of the checkpoint to calibrate on.

    Raises:
        InputError: `folder` holds another run, or no run and `resume` is set.
    """
    recorded = None if overwrite else folder.recorded()
    # A checkpoint added later does not become the calibrated one: finished points keep their settings.
    calibrated_on = (recorded or {}).get("calibrated_on")
    if calibrated_on is None or calibrate_on is not None:
        calibrated_on = series.meant_by(calibrate_on or "last")
    asked = {**asked, "calibrated_on": calibrated_on}
    folder.check(asked, resume=resume or None, overwrite=overwrite)
    folder.begin(asked, overwrite=overwrite)
    return recorded is None, calibrated_on
