"""The picture of a calibration: λ̂ against ε and against γ, around the chosen values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_llc.numerals import number
from hf_llc.publishing.picture import BAD, COLOURS, GOOD, drawn
from hf_llc.records.findings import is_trusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_llc.studies.calibration import Calibration, Cell


def plot_calibration(calibration: Calibration, path: str | Path) -> Path:
    """Draw λ̂ ± its standard error against ε (left, at the chosen γ) and γ (right, at the chosen ε), as a PNG.

    A dashed line marks the chosen value, shading the plateau, a hollow point a λ̂ that is not trustworthy, and a cross
    at the top a run that gave none.

    Args:
        calibration: settings and cells of the grid.
        path: of the PNG.

    Returns:
        The path.
    """
    s = calibration.settings
    labels = {"step_size": f"ε  (at γ = {number(s['localization'])})",
              "localization": f"γ  (at ε = {number(s['step_size'])})"}  # fmt: skip
    with drawn(path, height=3.8) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (axis, label) in zip(panels, labels.items(), strict=True):
            _draw(axes, calibration.along(axis))
            axes.set_xlabel(label)
        panels[0].set_ylabel("λ̂")
        handles, names = panels[0].get_legend_handles_labels()
        for handle, name in zip(*panels[1].get_legend_handles_labels(), strict=True):
            if name not in names:
                handles.append(handle)
                names.append(name)
        figure.legend(handles, names, loc="outside lower center", ncols=3)
        friction = f", friction {number(s['friction'])}" if "friction" in s else ""
        figure.suptitle(
            f"{s['sampler']}{friction}, {s['gradient']} gradients   nβ {number(s['nbeta'])}   batch {s['batch_size']}",
        )
    return Path(path)


def _draw(axes: Axes, cells: Sequence[Cell]) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    axes.set_xscale("log")
    good = [cell for cell in cells if not cell.is_lost]
    lost = [cell for cell in cells if cell.is_lost]
    flat = [cell.value for cell in cells if cell.is_plateau]
    if flat:
        axes.axvspan(min(flat) / 1.19, max(flat) * 1.19, color=COLOURS[2], alpha=0.15, lw=0, label="plateau")
    for cell in cells:
        if cell.factor == 1:
            axes.axvline(cell.value, color="black", lw=1, ls="--", label="chosen")
    axes.errorbar(
        [cell.value for cell in good],
        [cell.llc for cell in good],
        [cell.llc_se for cell in good],
        color=GOOD,
        marker="o",
        lw=1,
        label="λ̂ ± standard error",
    )
    if doubted := [cell for cell in good if not is_trusted(cell.verdict)]:
        axes.plot(
            [cell.value for cell in doubted],
            [cell.llc for cell in doubted],
            color=GOOD,
            marker="o",
            mfc="white",
            ls="none",
            zorder=3,
            label="not trustworthy",
        )
    if lost:
        axes.plot(
            [cell.value for cell in lost],
            [0.96] * len(lost),
            transform=axes.get_xaxis_transform(),
            color=BAD,
            marker="x",
            ms=9,
            mew=2,
            ls="none",
            label="no λ̂: diverged, stuck or left the basin",
        )
    if cells:
        axes.set_xlim(cells[0].value / 1.5, cells[-1].value * 1.5)
        axes.set_xticks([cell.value for cell in cells], [number(cell.value) for cell in cells], fontsize=8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=False, axis="x")
