"""Calibrate, then measure λ̂ at ε and γ from a quarter to four times the chosen ones.

A choice of ε or γ is sound if λ̂ does not depend on it: if it lies on a plateau.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hf_llc.backend.torch_modes import own_modes
from hf_llc.calibration.noise_spectrum import heating_share
from hf_llc.calibration.repair import retry_settings
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.files import write_atomically
from hf_llc.parallel.processes import Processes
from hf_llc.progress import Watch, watch, watching
from hf_llc.publishing.formatting import for_stderr
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate
from hf_llc.records.trace import Trace
from hf_llc.samplers.effective_step import slow_step_size
from hf_llc.studies.calibration import JSON_FILE, PICTURE_FILE, SETTINGS_FILE, UNFIT, Calibration, Cell
from hf_llc.studies.calibration_plot import plot_calibration
from hf_llc.workflow.continuations import SampledChains
from hf_llc.workflow.opened_run import opened_run
from hf_llc.workflow.run import MAX_ATTEMPTS, Run
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.summary import chosen_settings

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""ε or γ of a cell over the chosen one."""

_CHAINS, _DRAWS = 2, 50

_SHARE = 4
"""A chain of a cell takes a quarter of max_steps, the first half of them burn-in."""


def explore(
    load: LoadConfig,
    sample: SampleConfig,
    *,
    output: str | Path,
    grid: bool,
    overwrite: bool,
    progress: bool,
    begun: float | None = None,
) -> Calibration:
    """Load, minimize if asked to, calibrate and measure the grid; the main process writes the files into `output`.

    The same call continues an unfinished calibration, and reads a finished one.

    Args:
        load: model and data.
        sample: how to sample.
        output: folder of the files.
        grid: measure λ̂ around the chosen settings.
        overwrite: discard what is in `output`.
        progress: show progress bars on the main process.
        begun: `time.monotonic()` at the beginning of the command, from which on `max_seconds` counts; None: now.

    Raises:
        InputError: bad input, refused before long work.
    """
    folder = RunFolder(output, files=(PICTURE_FILE, SETTINGS_FILE, JSON_FILE))
    also_asked = {"calibrate": True, "grid": grid}
    opened = opened_run(load, sample, folder, also_asked=also_asked, overwrite=overwrite)
    is_shown = progress and Processes().is_main
    new = Watch(show=is_shown, begun=begun, max_seconds=sample.max_seconds, spell=for_stderr)
    with own_modes(), watching(new), opened as run:
        if run is None:
            return Calibration.load(output)
        calibration = calibrate_run(run, grid=grid)
        run.processes.main_does(lambda: folder.finish(lambda: _save(calibration, folder.folder)))
    return calibration


def _save(calibration: Calibration, folder: Path) -> None:
    """Write calibration.png if there is a grid, then calibrated.yaml and calibration.json."""
    if calibration.cells:
        write_atomically(folder / PICTURE_FILE, lambda path: plot_calibration(calibration, path))
    calibration.save(folder)


def calibrate_run(run: Run, *, grid: bool) -> Calibration:
    """Calibrate a run that has not begun, and measure the grid around its settings if `grid` is set."""
    run.prepare()
    cells, chosen = measure_grid(run) if grid else ([], run.settings)
    kept = as_dict(run.decided) | chosen_settings(chosen)
    if chosen.friction is None:
        del kept["friction"]  # a sampler without momentum
    return Calibration(
        settings={name: value for name, value in kept.items() if value is not None and name != "max_seconds"},
        found=run.calibration,
        moved=run.minimization,
        cells=cells,
        num_gradients=run.num_gradients,
    )


def measure_grid(run: Run) -> tuple[list[Cell], ChainSettings]:
    """λ̂ at `FACTORS` times ε and `FACTORS` times γ of a prepared run, and the settings that these are around.

    Each cell takes short runs of few chains. They all continue from chains at the chosen settings, so that the cells
    differ in their settings but not in their start. Where those chains say that the settings are not fit, they start
    again at better ones, as those of an estimate do.
    """
    steps = max(run.settings.max_steps // _SHARE, 8)
    draws = min(_DRAWS, steps // 2)
    thinning = steps // 2 // draws
    short = replace(
        run.settings,
        num_chains=_CHAINS,
        num_draws=draws,
        num_steps_between_draws=thinning,
        num_burnin_steps=steps - draws * thinning,
    )
    centre, estimate = _fit_settings(run, short)
    short = centre.settings
    cells, number = [], 0
    for axis in ("step_size", "localization"):
        chosen = getattr(short, axis)
        for factor in FACTORS:
            if factor == 1:
                cells.append(_cell(axis, factor, short, estimate))
            elif chosen > 0 and not run.is_over("check γ"):  # γ = 0: every multiple of it is 0
                number += 1
                other = replace(short, **{axis: factor * chosen})
                trace = run.sampling.go_on(other, centre.name, number=number, steps=steps)
                if trace.shape[1] < steps:
                    continue  # the time was up
                cells.append(_cell(axis, factor, other, run.judge(_continued(centre, other, trace))))
    if run.is_over("check γ") and len(cells) < 2 * len(FACTORS):
        watch().note(f"time was up: {len(cells)} of {2 * len(FACTORS)} cells were measured; raise max_seconds")
    marked = [mark_plateau([cell for cell in cells if cell.axis == axis]) for axis in ("step_size", "localization")]
    return [cell for axis in marked for cell in axis], replace(run.settings, **chosen_settings(short))


def _fit_settings(run: Run, short: ChainSettings) -> tuple[SampledChains, Estimate]:
    """Short chains at the chosen settings, or at better ones if a verdict of `UNFIT` says that they are not fit."""
    for attempt in range(MAX_ATTEMPTS):
        name = f"around-{attempt}" if attempt else "around"
        chains = run.sample(short, name)
        estimate = run.judge(chains)
        is_unfit = estimate.verdict in UNFIT
        better = retry_settings(short, run.asked, estimate, from_above=run.came_from_above) if is_unfit else None
        if better is None:
            break
        short = better if attempt + 1 < MAX_ATTEMPTS else short
    return chains, estimate


def _continued(centre: SampledChains, settings: ChainSettings, trace: Trace) -> SampledChains:
    """The chains of a cell. Their heat is scaled as that of the centre; another γ has another minimum."""
    if centre.spectrum is not None:
        trace = replace(trace, heat=trace.heat * heating_share(centre.spectrum, settings.localization))
    descent = centre.descent if settings.localization == centre.settings.localization else None
    return replace(centre, settings=settings, trace=trace, descent=descent)


def _cell(axis: str, factor: float, settings: ChainSettings, estimate: Estimate) -> Cell:
    return Cell(
        axis=axis,
        factor=factor,
        step_size=settings.step_size,
        localization=settings.localization,
        slow_step_size=slow_step_size(settings),
        llc=estimate.llc,
        llc_se=estimate.llc_se,
        verdict=estimate.verdict,
        remedy=next((reason.remedy for reason in estimate.reasons if reason.name == estimate.verdict), ""),
    )


def mark_plateau(cells: Sequence[Cell]) -> list[Cell]:
    """Mark the plateau among the cells of one axis.

    The plateau is the longest stretch of three or more cells in which each λ̂ is within three combined standard errors
    of the λ̂ before it. A λ̂ whose own error is large agrees with anything, and is on no plateau.
    """
    longest: range = range(0)
    start = 0
    for index, cell in enumerate(cells):
        if index == 0 or not _agree(cells[index - 1], cell):
            start = index
        if index + 1 - start > len(longest):
            longest = range(start, index + 1)
    is_plateau = len(longest) >= 3
    return [replace(cell, is_plateau=is_plateau and index in longest) for index, cell in enumerate(cells)]


def _agree(one: Cell, other: Cell) -> bool:
    if one.is_lost or other.is_lost or one.is_vague or other.is_vague:
        return False
    return abs(one.llc - other.llc) <= 3 * math.hypot(one.llc_se, other.llc_se)
