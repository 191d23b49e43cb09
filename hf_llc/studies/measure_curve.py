"""λ̂ along a series of checkpoints: one calibration, the same settings for all, one point for each checkpoint.

All checkpoints share ε, γ, nβ and burn-in, because only then do their λ̂ compare (arXiv 2308.12108, appendix K). They
also share noise and minibatches. Errors of neighbouring points are therefore correlated: differences along a curve are
more certain than the error bars of its points.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_llc.budget import Budget
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.files import write_atomically
from hf_llc.judging.paired import Measured, difference
from hf_llc.parallel.processes import Processes
from hf_llc.problem import Problem
from hf_llc.publishing.result_folder import CURVE_FILES
from hf_llc.result import LLCResult
from hf_llc.studies.along_series import look_at_all, measured_series, opened
from hf_llc.studies.checkpoint_series import Checkpoint
from hf_llc.studies.comparison import for_differences
from hf_llc.studies.curve import Curve, Point
from hf_llc.studies.curve_plot import plot_curve
from hf_llc.studies.hardest_checkpoint import hardest
from hf_llc.studies.series_left import SeriesLeft
from hf_llc.studies.shared_settings import remedy_for, shared_settings
from hf_llc.workflow.estimate_model import estimate_model
from hf_llc.workflow.identity import asked_of
from hf_llc.workflow.run_folder import RunFolder


def measure(
    checkpoints: Sequence[Checkpoint],
    load: LoadConfig,
    sample: SampleConfig,
    *,
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
) -> Curve:
    """Estimate λ̂ of every checkpoint, on every process; the main one writes curve.csv, curve.json and curve.png.

    All checkpoints are looked at first. One of them is estimated first; it decides the settings that are "auto". One
    that cannot be measured is left out, and the curve says why. Each checkpoint's result has a folder of its own in
    `output`. A finished result is read, not computed again.

    Args:
        checkpoints: from `revisions`, `checkpoint_folders` or `weight_files`.
        load: model and data; each checkpoint replaces some of its settings.
        sample: how to sample.
        output: the curve's folder. It is refused if it holds a curve with other settings.
        dataset: the data, if it is an object.
        resume: refuse a folder that holds no curve.
        overwrite: compute every point again.
        progress: show progress bars on the main process.
        x_scale: "linear" or "log" axis of steps in the picture.
        calibrate_on: the checkpoint that decides: "first", "middle", "last", its step or its name; None: the stiffest
            of these three (`hardest_checkpoint`), or that of the curve which goes on.
        steps: of checkpoints whose names do not tell theirs, by name.
        data_fingerprint: of the examples that are to be measured on; None: any.
        begun: `time.monotonic()` at the beginning of the command, whose time `max_seconds` is; None: now.
        report: called with a line of text after each checkpoint.

    Raises:
        InputError: bad input. Whatever can be checked before long work is checked before it.
    """
    budget = Budget(sample.max_seconds, begun)
    processes = Processes(sample.data_parallel, parameter_parallel=sample.parameter_parallel)
    series: SeriesLeft[LLCResult] = SeriesLeft(checkpoints, report, steps=steps)
    look_at_all(series, load, output, processes=processes)
    folder = RunFolder(output, files=CURVE_FILES)
    paired: dict[str, Measured] = {}

    kept: dict[str, Problem] = {}
    of_all = {"load": load, "dataset": dataset, "data_fingerprint": data_fingerprint}
    given_of = functools.partial(opened, **of_all, kept=kept)
    look = {"processes": processes, "progress": progress, "max_seconds": sample.max_seconds}

    def measured(checkpoint: Checkpoint, decided: LLCResult | None) -> LLCResult:
        asked, given = given_of(checkpoint)
        result = estimate_model(
            asked,
            sample if decided is None else _settings_of_points(sample, decided),
            given,
            output=folder.folder / checkpoint.folder,
            overwrite=overwrite,
            progress=progress,
            title=checkpoint.name,
            limit=budget.share(series.num_open if series.results else (series.num_open + 1) / 2),
        )
        paired[checkpoint.name] = for_differences(result)
        result.trace = None  # the largest part of a result; a curve does not need it
        return result

    with measured_series(
        series,
        folder,
        asked_of(load, sample),
        measured,
        check=lambda: _check_points(folder.folder, series, overwrite=overwrite),
        processes=processes,
        calibrate_on=calibrate_on,
        hardest=functools.partial(hardest, series, sample, given_of, kept=kept, **look),
        resume=resume,
        overwrite=overwrite,
    ) as name:
        curve = _curve(series, sample, shared_settings(sample, series.results[name]), name, paired)
        processes.main_does(lambda: folder.finish(lambda: _save(curve, folder.folder, x_scale)))
    return curve


def _settings_of_points(sample: SampleConfig, decided: LLCResult) -> SampleConfig:
    """Those of the checkpoint that decided. Chains begin as its ended, and go on to `target_se` where that is open."""
    shared = shared_settings(sample, decided)
    return replace(shared, num_burnin_steps="auto") if sample.num_burnin_steps == "auto" else shared


def _check_points(folder: Path, series: SeriesLeft[LLCResult], *, overwrite: bool) -> None:
    """Check the points' folders before any work: one that is damaged is no fault of its checkpoint.

    Raises:
        FolderError: one is damaged, or holds files that no run wrote.
    """
    for checkpoint in series.left:
        point = RunFolder(folder / checkpoint.folder)
        point.refuse_foreign_files()
        if not overwrite and point.recorded() is not None and point.is_finished:
            LLCResult.load(point.folder)


def _curve(
    series: SeriesLeft[LLCResult],
    sample: SampleConfig,
    shared: SampleConfig,
    calibrated_on: str,
    paired: dict[str, Measured],
) -> Curve:
    """The curve of the results, in the order of the series.

    Args:
        series: the results.
        sample: the settings asked for.
        shared: the settings of all points.
        calibrated_on: the checkpoint that decided those left open.
        paired: for differences.
    """
    places, axis = series.places()
    points = []
    for name, place in places.items():
        change, change_se, _ = difference(paired[next(iter(places))], paired[name])
        result = series.results[name]
        point = replace(_point(place, name, result), change=change, change_se=change_se)
        points.append(replace(point, remedy=remedy_for(sample, result)))
    calibrated = series.results[calibrated_on]
    return Curve(
        points=points,
        settings={"n": calibrated.n, **as_dict(shared)},
        calibrated_on=calibrated_on,
        unit=calibrated.unit,
        data=calibrated.data,
        axis=axis,
        skipped=series.skipped,
        failed=series.failed,
    )


def _point(step: int, name: str, result: LLCResult) -> Point:
    return Point(
        step=step,
        name=name,
        llc=result.llc,
        llc_se=result.llc_se,
        loss=result.init_loss if result.minimize is None else result.minimize["loss_before"],
        init_loss=result.init_loss,
        mean_loss=result.mean_loss,
        r_hat=result.r_hat,
        ess=result.ess,
        verdict=result.verdict,
        doubled=result.localization_sensitivity.get("doubled", math.nan),
        doubled_se=result.localization_sensitivity.get("doubled_se", math.nan),
        weights=str(result.model.get("revision") or result.model.get("fingerprint")),
    )


def _save(curve: Curve, folder: Path, x_scale: str) -> None:
    """Write curve.png, then curve.csv and curve.json."""
    write_atomically(folder / "curve.png", lambda path: plot_curve(curve, path, x_scale=x_scale))
    curve.save(folder)
