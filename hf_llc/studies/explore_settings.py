"""Calibrate, then measure λ̂ at ε and γ from a quarter to four times the chosen ones.

A choice of ε or γ is sound if λ̂ does not depend on it: if it lies on a plateau.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hf_llc.backend.torch_modes import own_modes
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.files import write_atomically
from hf_llc.parallel.processes import Processes
from hf_llc.progress import Watch, watching
from hf_llc.publishing.formatting import for_stderr
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.findings import Estimate
from hf_llc.samplers.effective_step import slow_step_size
from hf_llc.studies.calibration import JSON_FILE, PICTURE_FILE, SETTINGS_FILE, Calibration, Cell
from hf_llc.studies.calibration_plot import plot_calibration
from hf_llc.workflow.continuations import SampledChains
from hf_llc.workflow.opened_run import opened_run
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""ε or γ of a cell over the chosen one."""

_CHAINS, _DRAWS = 2, 50

_SHARE = 4
"""A chain of a cell takes a quarter of max_steps, the first half of them burn-in."""


def explore(
    load: LoadConfig, sample: SampleConfig, *, output: str | Path, grid: bool, overwrite: bool, progress: bool
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

    Raises:
        InputError: bad input, refused before long work.
    """
    folder = RunFolder(output, files=(PICTURE_FILE, SETTINGS_FILE, JSON_FILE))
    also_asked = {"calibrate": True, "grid": grid}
    opened = opened_run(load, sample, folder, also_asked=also_asked, overwrite=overwrite)
    is_shown = progress and Processes().is_main
    watch = Watch(show=is_shown, max_seconds=sample.max_seconds, spell=for_stderr)
    with own_modes(), watching(watch), opened as run:
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
    kept = as_dict(run.decided)
    if run.settings.friction is None:
        del kept["friction"]  # a sampler without momentum
    cells = measure_grid(run) if grid else []
    return Calibration(
        settings={name: value for name, value in kept.items() if value is not None},
        found=run.calibration,
        moved=run.minimization,
        cells=cells,
        num_gradients=run.num_gradients,
    )


def measure_grid(run: Run) -> list[Cell]:
    """λ̂ at `FACTORS` times ε and `FACTORS` times γ of a prepared run.

    Each cell takes short runs of few chains. They all continue from chains at the chosen settings, so that the cells
    differ in their settings but not in their start.
    """
    chosen = run.settings
    steps = max(chosen.max_steps // _SHARE, 8)
    draws = min(_DRAWS, steps // 2)
    thinning = steps // 2 // draws
    short = replace(
        chosen,
        num_chains=_CHAINS,
        num_draws=draws,
        num_steps_between_draws=thinning,
        num_burnin_steps=steps - draws * thinning,
    )
    trace, burnin, _ = run.sampling.until_flat(short, "around")
    chosen_chains = SampledChains(
        name="around", settings=short, trace=trace, num_burnin_steps=burnin, num_steps_between_draws=thinning
    )
    cells, number = [], 0
    for axis, centre in (("step_size", chosen.step_size), ("localization", chosen.localization)):
        for factor in FACTORS:
            if factor != 1 and centre == 0:  # γ = 0: every multiple of it is 0
                continue
            chains = chosen_chains
            if factor != 1:
                number += 1
                other = replace(short, **{axis: factor * centre})
                trace = run.sampling.go_on(other, "around", number=number, steps=steps)
                chains = replace(chosen_chains, settings=other, trace=trace)
            cells.append(_cell(axis, factor, chains.settings, run.judge(chains)))
    return [
        cell for axis in ("step_size", "localization") for cell in mark_plateau([c for c in cells if c.axis == axis])
    ]


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
    )


def mark_plateau(cells: Sequence[Cell]) -> list[Cell]:
    """Mark the plateau among the cells of one axis.

    The plateau is the longest stretch of three or more cells in which each λ̂ is within three combined standard errors
    of the λ̂ before it.
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
    if one.is_lost or other.is_lost:
        return False
    return abs(one.llc - other.llc) <= 3 * math.hypot(one.llc_se, other.llc_se)
