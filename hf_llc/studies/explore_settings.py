"""What calibration did, and λ̂ around the settings it chose: on which side of a plateau they stand.

Short runs of few chains, with ε from a quarter to four times the chosen one and γ the same, all going on from chains
at the chosen settings. A choice is sound where λ̂ does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.files import check_writable, write_atomically
from hf_llc.loading.hub_errors import public_name
from hf_llc.loading.problem_loader import load_problem
from hf_llc.parallel.placement import place, split, spread
from hf_llc.posterior.weights import preserved
from hf_llc.samplers.effective_step import slow_step_size
from hf_llc.studies.calibration import FILES, JSON_FILE, PICTURE_FILE, Calibration, Cell
from hf_llc.studies.calibration_plot import plot_calibration
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder, fingerprint
from hf_llc.workflow.settings import settled

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_CHAINS, _DRAWS = 2, 50
_SHARE = 4
"""A cell takes a quarter of the steps allowed to a chain, the first half of them dropped."""


def explore(
    load: LoadConfig, sample: SampleConfig, *, output: str | Path, grid: bool, overwrite: bool, progress: bool
) -> Calibration:
    """Load, minimize if that is asked for, calibrate, look around; the main process writes the files into `output`.

    The same call again goes on where it stopped, and only reads what it has finished.

    Raises:
        InputError: bad input, refused before any long work.
    """
    sample, processes = spread(sample)
    folder = RunFolder(output)
    processes.main_does(lambda: str(check_writable(output)))
    problem = load_problem(load.model, load.data, place(load, sample))
    sample = settled(sample, problem)
    asked = {**as_dict(load), **as_dict(sample), "fingerprint": fingerprint(problem.model, problem.examples)}
    asked |= {name: public_name(asked[name]) for name in ("model", "data", "tokenizer")} | {"calibrate": True}
    asked["grid"] = grid
    processes.main_does(lambda: folder.check(asked, resume=None, overwrite=overwrite))
    if not overwrite and processes.main_does(lambda: (folder.folder / JSON_FILE).exists()):
        return Calibration.load(output)

    split(problem, sample, processes)

    def begin() -> None:
        folder.begin(asked, overwrite=overwrite)
        for name in FILES:
            (folder.folder / name).unlink(missing_ok=True)

    with preserved(problem.model):
        run = Run(problem, sample, folder, processes, progress)
        processes.main_does(begin)
        calibration = examined(run, grid=grid)
    processes.main_does(lambda: _save(calibration, Path(output)))
    processes.main_does(folder.close)
    return calibration


def _save(calibration: Calibration, folder: Path) -> None:
    """Write calibration.png if there is a grid, then calibrated.yaml and calibration.json."""
    if calibration.cells:
        write_atomically(folder / PICTURE_FILE, lambda path: plot_calibration(calibration, path))
    calibration.save(folder)


def examined(run: Run, *, grid: bool) -> Calibration:
    """The calibration of a run that has not begun, with or without the grid around it."""
    run.prepare()
    chosen, kept = run.sample, as_dict(run.sample)
    if chosen.friction == "auto":
        del kept["friction"]  # a sampler without momentum
    cells = look_around(run) if grid else []
    before = sum(part["num_gradients"] for part in (run.moved, run.calibration) if part is not None)
    return Calibration(
        settings={name: value for name, value in kept.items() if value is not None},
        found=run.calibration,
        moved=run.moved,
        cells=cells,
        num_gradients=before + run.sampling.num_gradients,
    )


def look_around(run: Run) -> list[Cell]:
    """λ̂ at ε and γ around those of a prepared run, which is left at the chosen ones."""
    chosen = run.sample
    assert chosen.step_size != "auto" and chosen.localization != "auto"
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
    cells, number = [], 0
    for axis, centre in (("step_size", chosen.step_size), ("localization", chosen.localization)):
        for factor in FACTORS:
            if factor != 1 and centre == 0:  # γ = 0 has no neighbours
                continue
            run.sample = replace(short, **{axis: factor * centre})
            if factor != 1:
                number += 1
            there = trace if factor == 1 else run.sampling.go_on(run.sample, "around", number=number, steps=steps)
            found = run.judge(there, burnin, thinning)
            cells.append(_cell(axis, factor, run.sample, found.llc, found.llc_se, found.verdict))
    run.sample = chosen
    return [cell for axis in ("step_size", "localization") for cell in marked([c for c in cells if c.axis == axis])]


def _cell(axis: str, factor: float, sample: SampleConfig, llc: float, llc_se: float, verdict: str) -> Cell:
    assert sample.step_size != "auto" and sample.localization != "auto"
    return Cell(
        axis=axis,
        factor=factor,
        step_size=sample.step_size,
        localization=sample.localization,
        slow_step_size=slow_step_size(sample),
        llc=llc,
        llc_se=llc_se,
        verdict=verdict,
    )


def marked(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of one axis with the plateau marked: the longest stretch, of three or more, in which each λ̂ is within
    three combined standard errors of that before it."""
    best: range = range(0)
    start = 0
    for at, cell in enumerate(cells):
        if at == 0 or not _agree(cells[at - 1], cell):
            start = at
        if at + 1 - start > len(best):
            best = range(start, at + 1)
    is_one = len(best) >= 3
    return [replace(cell, is_plateau=is_one and at in best) for at, cell in enumerate(cells)]


def _agree(one: Cell, other: Cell) -> bool:
    if one.is_lost or other.is_lost:
        return False
    return abs(one.llc - other.llc) <= 3 * math.hypot(one.llc_se, other.llc_se)
