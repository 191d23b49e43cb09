"""A calibration as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_llc.numerals import number, with_error
from hf_llc.studies.calibration import Calibration, Cell


def render(calibration: Calibration) -> str:
    """The pilot's path, the chosen settings and the grid, as text."""
    parts = [_path(calibration.found), _chosen(calibration), _unfit(calibration)]
    for axis, name in (("step_size", "ε"), ("localization", "γ")):
        cells = calibration.along(axis)
        if cells:
            parts.append(_grid(cells, name))
    return "\n\n".join(part for part in parts if part)


def _path(found: dict[str, Any] | None) -> str:
    """What the pilot measured and chose, a line for each block of steps."""
    if found is None:
        return ""
    path = found["path"]
    if not path or not isinstance(path[0], dict):  # a sampler without momentum: (step size, acceptance)
        return "\n".join(
            [f"{'ε':>10} {'acceptance':>10}", *(f"{number(step):>10} {accept:10.3f}" for step, accept in path)]
        )
    head = f"{'steps':>6} {'κ':>9} {'λ̂ so far':>10} {'noise Q':>9} {'controlled':>10} {'ε':>9} {'friction':>8}"
    lines = [
        f"{row['steps']:6} {number(row['curvature']):>9} {_or_dash(row['llc']):>9} {number(row['noise']):>9} "
        f"{number(row['controlled_noise']):>10} {number(row['step_size']):>9} {number(row['friction']):>8}  "
        f"{row['gradient']}"
        for row in path
    ]
    return "\n".join([f"{head}  gradient", *lines])


def _chosen(calibration: Calibration) -> str:
    """The chosen settings, the curvature κ that ε rests on, and the cost."""
    s, found = calibration.settings, calibration.found
    friction = f"   friction {number(s['friction'])}" if "friction" in s else ""
    how = "step_size was given" if found is None else f"κ {number(found['curvature'])}"
    lines = [
        f"chosen    {s['sampler']}   ε {number(s['step_size'])}{friction}   {s['gradient']} gradients   γ "
        f"{number(s['localization'])}",
        f"at        nβ {number(s['nbeta'])}   batch {s['batch_size']}   {how}",
        f"cost      {calibration.num_gradients:,} gradients",
    ]
    if calibration.moved is not None:
        before, after = calibration.moved.get("loss_before"), calibration.moved.get("loss_after")
        lines.append(f"minimize  loss {number(before)} → {number(after)}")
    return "\n".join(lines)


def _unfit(calibration: Calibration) -> str:
    """What is wrong with the chosen settings, and what to do."""
    cell = calibration.unfit
    return (
        ""
        if cell is None
        else f"not fit   λ̂ of a short run at the chosen settings: {cell.verdict}\n→         {cell.remedy}"
    )


def _grid(cells: Sequence[Cell], name: str) -> str:
    lines = [f"{name:>10} {'':>6} {'ε_eff':>9} {'λ̂':>17}   plateau  verdict of the short run"]
    for cell in cells:
        plateau = "█" if cell.is_plateau else ""
        mark = "chosen" if cell.factor == 1 else f"×{number(cell.factor)}"
        llc = "×" if cell.is_lost else with_error(cell.llc, cell.llc_se)
        lines.append(
            f"{number(cell.value):>10} {mark:>6} {number(cell.slow_step_size):>9} {llc:>16}   {plateau:^7}  "
            f"{cell.verdict}"
        )
    centre = next((cell for cell in cells if cell.factor == 1), None)
    if not any(cell.is_plateau for cell in cells):
        lines.append(f"no plateau in {name}: {_no_plateau(cells, name)}")
    elif centre is not None and not centre.is_plateau:
        lines.append(f"the chosen {name} is not on the plateau")
    return "\n".join(lines)


def _no_plateau(cells: Sequence[Cell], name: str) -> str:
    """Why there is none, and what to do."""
    if sum(not (cell.is_lost or cell.is_vague) for cell in cells) < 3:
        return "too few cells have an error below a tenth of λ̂; raise max_steps, of which each takes a quarter"
    if name == "γ":
        return "λ̂ is that of its γ; compare results only at one γ, or look further down with a smaller localization"
    return "λ̂ moves with the step size; lower step_size, and raise max_steps by as much"


def _or_dash(value: float | None) -> str:
    return number(None if value is None else float(value))
