"""A calibration as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_llc.numerals import number, with_error
from hf_llc.publishing.report import table
from hf_llc.publishing.tables import columns, folded
from hf_llc.studies.calibration import Calibration, Cell


def render(calibration: Calibration) -> str:
    """The pilot's path, the chosen settings and the grid, as text."""
    parts = [_path(calibration.found), _chosen(calibration)]
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
        return columns([("ε", "acceptance"), *((number(step), f"{accept:.3f}") for step, accept in path)])
    names = ("curvature", "llc", "noise", "controlled_noise", "step_size", "friction")
    head = ("steps", "κ", "λ̂ so far", "noise Q", "controlled", "ε", "friction", "gradient")
    rows = [(number(row["steps"]), *(_or_dash(row[name]) for name in names), row["gradient"]) for row in path]
    return columns([head, *rows])


def _chosen(calibration: Calibration) -> str:
    """The chosen settings, the curvature κ that ε rests on, the cost, and what is wrong with them."""
    s, found = calibration.settings, calibration.found
    friction = f", friction {number(s['friction'])}" if "friction" in s else ""
    how = "step_size was given" if found is None else f"κ {number(found['curvature'])}"
    step = f"{s['sampler']}, ε {number(s['step_size'])}{friction}, {s['gradient']} gradients"
    rows = [
        ("chosen", f"{step}, γ {number(s['localization'])}"),
        ("at", f"nβ {number(s['nbeta'])}, batch {s['batch_size']}, {how}"),
        ("cost", f"{calibration.num_gradients:,} gradients"),
    ]
    if calibration.moved is not None:
        before, after = calibration.moved.get("loss_before"), calibration.moved.get("loss_after")
        rows.append(("minimize", f"loss {number(before)} → {number(after)}"))
    cell = calibration.unfit
    if cell is not None:
        rows.append(("not fit", f"λ̂ of a short run at the chosen settings: {cell.verdict}\n→ {cell.remedy}"))
    return table(rows)


def _grid(cells: Sequence[Cell], name: str) -> str:
    rows = [(name, "", "ε_eff", "λ̂", "plateau", "verdict of the short run")]
    for cell in cells:
        mark = "chosen" if cell.factor == 1 else f"×{number(cell.factor)}"
        llc = "×" if cell.is_lost else with_error(cell.llc, cell.llc_se)
        plateau = "yes" if cell.is_plateau else ""
        rows.append((number(cell.value), mark, number(cell.slow_step_size), llc, plateau, cell.verdict))
    lines = []
    centre = next((cell for cell in cells if cell.factor == 1), None)
    if not any(cell.is_plateau for cell in cells):
        lines.append(f"no plateau in {name}: {_no_plateau(cells, name)}")
    elif centre is not None and not centre.is_plateau:
        lines.append(f"the chosen {name} is not on the plateau")
    return "\n".join([columns(rows), *([folded(*lines)] if lines else [])])


def _no_plateau(cells: Sequence[Cell], name: str) -> str:
    """Why there is none, and what to do."""
    if sum(not (cell.is_lost or cell.is_vague) for cell in cells) < 3:
        return "too few cells have an error below a tenth of λ̂; raise max_steps, of which each takes a quarter"
    if name == "γ":
        return "λ̂ is that of its γ; compare results only at one γ, or look further down with a smaller localization"
    return "λ̂ moves with the step size; lower step_size, and raise max_steps by as much"


def _or_dash(value: float | None) -> str:
    return number(None if value is None else float(value))
