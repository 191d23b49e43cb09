"""What calibration did, and λ̂ around the settings it chose: on which side of a plateau they stand.

Short runs of few chains, with ε from a quarter to four times the chosen one and γ the same, all going on from chains
at the chosen settings. A choice is sound where λ̂ does not depend on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hf_llc.calibrate import slow_step_size
from hf_llc.calibration_plot import plot_calibration
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.evaluator import settled
from hf_llc.files import check_writable, write_atomically, write_json
from hf_llc.loading import load_problem
from hf_llc.refusals import public_name
from hf_llc.report import number, with_error
from hf_llc.run import Run
from hf_llc.run_folder import RunFolder, fingerprint
from hf_llc.spread import place, split, spread
from hf_llc.weights import preserved

SCHEMA_VERSION = 1

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_CHAINS, _DRAWS = 2, 50
_SHARE = 4
"""A cell takes a quarter of the steps allowed to a chain, the first half of them dropped."""

_LOST = ("diverged", "stuck", "left the basin")
UNFIT = (*_LOST, "not a minimum", "negative", "step size too large")
"""Verdicts that longer chains at the same settings would not mend."""

FILES = ("calibration.json", "calibration.png", "calibrated.yaml")


@dataclass(frozen=True)
class Cell:
    """λ̂ of one short run.

    Attributes:
        axis: which setting differs from the chosen one: "step_size" or "localization".
        factor: by what.
        slow_step_size: ε_eff, the ε that slow directions see.
        llc: λ̂, NaN where a chain diverged.
        is_plateau: it agrees with its neighbours within errors.
    """

    axis: str
    factor: float
    step_size: float
    localization: float
    slow_step_size: float
    llc: float
    llc_se: float
    verdict: str
    is_plateau: bool = False

    @property
    def value(self) -> float:
        """Of the setting that differs."""
        return self.step_size if self.axis == "step_size" else self.localization

    @property
    def is_lost(self) -> bool:
        """A chain diverged, stuck or left the basin: there is no λ̂."""
        return self.verdict in _LOST or not math.isfinite(self.llc)


@dataclass(frozen=True)
class Calibration:
    """Settings for `hf-llc estimate`, how they were found, and what lies around them.

    Attributes:
        settings: of sampling, none of them "auto" but the burn-in.
        found: what `hf_llc.calibrate.calibrate` says, None where step_size was given.
        moved: what `hf_llc.minimize.minimize` did, None where it was not asked for.
        cells: of the grid, empty without one.
        num_gradients: gradient evaluations of it all.
    """

    settings: dict[str, Any]
    found: dict[str, Any] | None
    moved: dict[str, Any] | None
    cells: list[Cell]
    num_gradients: int

    def along(self, axis: str) -> list[Cell]:
        """The cells of one axis, in order."""
        return [cell for cell in self.cells if cell.axis == axis]

    @property
    def is_fit(self) -> bool:
        """The chosen settings gave a λ̂ that longer chains could confirm; True without a grid."""
        return not any(cell.verdict in UNFIT for cell in self.cells if cell.factor == 1)

    def save(self, folder: str | Path) -> None:
        """Write calibration.json, calibrated.yaml and, of a grid, calibration.png, each whole or not at all."""
        import yaml

        folder = Path(folder)
        text = "# settings of sampling, for hf-llc estimate --config and hf-llc curve --config\n"
        text += yaml.safe_dump(self.settings, sort_keys=False)
        write_atomically(folder / FILES[2], lambda path: path.write_text(text, encoding="utf-8"))
        if self.cells:
            write_atomically(folder / FILES[1], lambda path: plot_calibration(self, path))
        write_json(folder / FILES[0], {"schema_version": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def load(cls, folder: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InputError: calibration.json is damaged or of another version.
        """
        path = Path(folder) / FILES[0]
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("schema_version") != SCHEMA_VERSION:
                raise KeyError("schema_version")
            cells = [Cell(**{**cell, **_numbers(cell)}) for cell in values.pop("cells")]
            return cls(cells=cells, **values)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError("the calibration is damaged", value=str(path), remedy="use overwrite") from error


def _numbers(cell: dict[str, Any]) -> dict[str, Any]:
    """What JSON has no word for: λ̂ of a chain that diverged."""
    return {name: math.nan for name in ("llc", "llc_se") if cell[name] is None}


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
    if not overwrite and processes.main_does(lambda: (folder.folder / FILES[0]).exists()):
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
    processes.main_does(lambda: calibration.save(output))
    processes.main_does(folder.close)
    return calibration


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


def render(calibration: Calibration) -> str:
    """The pilot's path, the settings, and the grid as text."""
    parts = [_path(calibration.found), _chosen(calibration)]
    for axis, name in (("step_size", "ε"), ("localization", "γ")):
        cells = calibration.along(axis)
        if cells:
            parts.append(_grid(cells, name))
    return "\n\n".join(part for part in parts if part)


def _path(found: dict[str, Any] | None) -> str:
    """What calibration tried, a line each."""
    if found is None:
        return ""
    path = found["path"]
    if not path or not isinstance(path[0], dict):
        return "\n".join([f"{'ε':>10} {'acceptance':>10}", *(f"{step:10.3g} {accept:10.3f}" for step, accept in path)])
    head = f"{'steps':>6} {'κ':>9} {'λ̂ so far':>10} {'noise Q':>9} {'controlled':>10} {'ε':>9} {'friction':>8}"
    lines = [
        f"{row['steps']:6} {row['curvature']:9.3g} {_or_dash(row['llc']):>9} {row['noise']:9.3g} "
        f"{row['controlled_noise']:10.3g} {row['step_size']:9.3g} {row['friction']:8.3g}  {row['gradient']}"
        for row in path
    ]
    return "\n".join([f"{head}  gradient", *lines])


def _chosen(calibration: Calibration) -> str:
    """The settings, with what the choice of ε rests on."""
    s, found = calibration.settings, calibration.found
    friction = f"   friction {s['friction']:.3g}" if "friction" in s else ""
    how = "step_size was given" if found is None else f"κ {found['curvature']:.3g}"
    lines = [
        f"chosen    {s['sampler']}   ε {s['step_size']:.3g}{friction}   {s['gradient']} gradients   γ "
        f"{number(s['localization'])}",
        f"at        nβ {number(s['nbeta'])}   batch {s['batch_size']}   {how}",
        f"cost      {calibration.num_gradients:,} gradients",
    ]
    if calibration.moved is not None:
        before, after = calibration.moved.get("loss_before"), calibration.moved.get("loss_after")
        lines.append(f"minimize  loss {number(before)} → {number(after)}")
    return "\n".join(lines)


def _grid(cells: Sequence[Cell], name: str) -> str:
    lines = [f"{name:>10} {'':>6} {'ε_eff':>9} {'λ̂':>17}   plateau  verdict of the short run"]
    for cell in cells:
        plateau = "█" if cell.is_plateau else ""
        mark = "chosen" if cell.factor == 1 else f"×{cell.factor:g}"
        llc = "×" if cell.is_lost else with_error(cell.llc, cell.llc_se)
        lines.append(
            f"{number(cell.value):>10} {mark:>6} {cell.slow_step_size:9.3g} {llc:>16}   {plateau:^7}  {cell.verdict}"
        )
    centre = next((cell for cell in cells if cell.factor == 1), None)
    if not any(cell.is_plateau for cell in cells):
        lines.append(f"no plateau in {name}: three neighbours that agree within errors were not found")
    elif centre is not None and not centre.is_plateau:
        lines.append(f"the chosen {name} is not on the plateau")
    return "\n".join(lines)


def _or_dash(value: float | None) -> str:
    return number(None if value is None else float(value))
