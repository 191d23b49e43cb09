"""λ̂ of the components of a model along its training: a table a checkpoint, all at one nβ and γ (arXiv 2410.02984)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_llc.budget import Budget
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.files import write_atomically
from hf_llc.parallel.processes import Processes
from hf_llc.problem import Problem
from hf_llc.studies import measure_components
from hf_llc.studies.along_series import look_at_all, measured_series, opened
from hf_llc.studies.checkpoint_series import Checkpoint
from hf_llc.studies.component_curve import COMPONENT_CURVE_FILES, PICTURE, ComponentCurve
from hf_llc.studies.component_curve_plot import plot_component_curve
from hf_llc.studies.component_table import COMPONENT_FILES, ComponentTable
from hf_llc.studies.hardest_checkpoint import hardest
from hf_llc.studies.series_left import SeriesLeft
from hf_llc.studies.shared_settings import SHARED, with_settings
from hf_llc.studies.whole_settings import check_whole
from hf_llc.workflow.identity import asked_of
from hf_llc.workflow.run_folder import RunFolder


def measure(
    checkpoints: Sequence[Checkpoint],
    load: LoadConfig,
    sample: SampleConfig,
    *,
    components: str,
    output: str | Path,
    dataset: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    x_scale: str = "linear",
    calibrate_on: str | None = None,
    steps: Mapping[str, int] | None = None,
    data_fingerprint: str | None = None,
    begun: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> ComponentCurve:
    """Estimate λ̂ of each component at every checkpoint, on every process; the main one writes the files.

    The folder of a checkpoint is that of `hf-llc components`; a finished one is read, not computed again. All weights
    of one checkpoint decide the settings that are "auto", for every component and every checkpoint.

    Args:
        checkpoints: see `measure_curve.measure`, as for all that is not named here.
        load: model and data; each checkpoint replaces some of its settings.
        sample: how to sample.
        components: see `components.listed.components_named`.
        output: the curve's folder.
        dataset: the data, if it is an object.
        resume: refuse a folder that holds no such curve.
        overwrite: compute every λ̂ again.
        progress: show progress bars on the main process.
        x_scale: "linear" or "log" axis of steps in the picture.
        calibrate_on: the checkpoint that decides; None: the stiffest of the first, the middle and the last
            (`hardest_checkpoint`), or that of the curve which goes on.
        steps: of checkpoints whose names do not tell theirs, by name.
        data_fingerprint: of the examples that are to be measured on; None: any.
        begun: `time.monotonic()` at the beginning of the command, whose time `max_seconds` is; None: now.
        report: called with a line of text after each component and each checkpoint.

    Raises:
        InputError: bad input.
    """
    check_whole(sample, "components")
    budget, processes = Budget(sample.max_seconds, begun), Processes(sample.data_parallel)
    series: SeriesLeft[ComponentTable] = SeriesLeft(checkpoints, report, steps=steps)
    look_at_all(series, load, output, processes=processes)
    folder = RunFolder(output, files=COMPONENT_CURVE_FILES)

    kept: dict[str, Problem] = {}
    of_all = {"load": load, "dataset": dataset, "data_fingerprint": data_fingerprint}
    given_of = functools.partial(opened, **of_all, kept=kept)
    look = {"processes": processes, "progress": progress, "max_seconds": sample.max_seconds}

    def measured(checkpoint: Checkpoint, decided: ComponentTable | None) -> ComponentTable:
        asked, given = given_of(checkpoint)
        return measure_components.measure(
            asked,
            sample if decided is None else with_settings(sample, {name: decided.settings[name] for name in SHARED}),
            given,
            components=components,
            output=folder.folder / checkpoint.folder,
            overwrite=overwrite,
            progress=progress,
            limit=budget.share(series.num_open),
            report=lambda line: report(f"{checkpoint.name}, {line}"),
        )

    with measured_series(
        series,
        folder,
        {**asked_of(load, sample), "components": components},
        measured,
        check=lambda: _check_tables(folder.folder, series),
        processes=processes,
        calibrate_on=calibrate_on,
        hardest=functools.partial(hardest, series, sample, given_of, kept=kept, **look),
        resume=resume,
        overwrite=overwrite,
    ) as name:
        curve = _curve(series, name)
        processes.main_does(lambda: folder.finish(lambda: _save(curve, folder.folder, x_scale)))
    return curve


def _check_tables(folder: Path, series: SeriesLeft[ComponentTable]) -> None:
    """Check the tables' folders before any work: files that no run wrote are no fault of a checkpoint.

    Raises:
        FolderError: there are some.
    """
    for checkpoint in series.left:
        RunFolder(folder / checkpoint.folder, files=COMPONENT_FILES).refuse_foreign_files()


def _curve(series: SeriesLeft[ComponentTable], calibrated_on: str) -> ComponentCurve:
    places, axis = series.places()
    return ComponentCurve(
        tables={name: series.results[name] for name in places},
        steps=list(places.values()),
        settings=series.results[calibrated_on].settings,
        calibrated_on=calibrated_on,
        axis=axis,
        skipped=series.skipped,
        failed=series.failed,
    )


def _save(curve: ComponentCurve, folder: Path, x_scale: str) -> None:
    """Write the picture, then the other files, component_curve.json last."""
    write_atomically(folder / PICTURE, lambda path: plot_component_curve(curve, path, x_scale=x_scale))
    curve.save(folder)
