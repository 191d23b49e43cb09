"""`Calibration`: the settings that calibration chose and λ̂ around them, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_llc.files import write_atomically
from hf_llc.seals import load_study, run_of, save_sealed_json

SCHEMA_VERSION = 1

JSON_FILE, PICTURE_FILE, SETTINGS_FILE = FILES = ("calibration.json", "calibration.png", "calibrated.yaml")
"""Files of a calibration's folder. calibration.json is written last: it says that the calibration is finished."""

_LOST = ("diverged", "stuck", "left the basin")

_VAGUE = 0.1
"""Share of λ̂ that its error may be on a plateau: two such that differ by a quarter do so by two errors."""

UNFIT = (*_LOST, "gradient noise dominates", "not a minimum", "negative", "step size too large")
"""Verdicts that longer chains at the same settings would not change."""


@dataclass(frozen=True)
class Cell:
    """λ̂ of one short run.

    Attributes:
        axis: the setting that differs from the chosen one: "step_size" or "localization".
        factor: value of that setting over the chosen value.
        step_size: ε.
        localization: γ.
        slow_step_size: ε_eff, the step size that flat directions see.
        llc: λ̂, NaN if a chain diverged.
        llc_se: its standard error.
        verdict: of the short run.
        remedy: what its first reason says to do; empty if it is trustworthy.
        is_plateau: the cell lies on the plateau: its λ̂ agrees with its neighbours' within errors.
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
    remedy: str = ""

    @property
    def value(self) -> float:
        """Value of the setting that differs."""
        return self.step_size if self.axis == "step_size" else self.localization

    @property
    def is_lost(self) -> bool:
        """True if there is no λ̂: a chain diverged, stuck or left the basin."""
        return self.verdict in _LOST or not math.isfinite(self.llc)

    @property
    def is_vague(self) -> bool:
        """True if the error is so large that a change by a quarter of λ̂ would not be seen."""
        return not self.llc_se <= _VAGUE * abs(self.llc)


@dataclass(frozen=True)
class Calibration:
    """Settings for `hf-llc estimate`, how they were chosen, and λ̂ around them.

    Attributes:
        settings: sampling settings; only the burn-in may still be "auto".
        found: what `hf_llc.calibration.calibrate.calibrate` returned; None if step_size was given.
        moved: what `hf_llc.calibration.minimize.minimize` reported; None if the run did not minimize.
        cells: of the grid; empty without one.
        num_gradients: gradient evaluations of minimizing, calibration and grid.
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
        """True if longer chains at the chosen settings could give a trustworthy λ̂, or if there is no grid."""
        return self.unfit is None

    @property
    def unfit(self) -> Cell | None:
        """The short run at the chosen settings, if longer chains there would not give a trustworthy λ̂ either."""
        return next((cell for cell in self.cells if cell.factor == 1 and cell.verdict in UNFIT), None)

    def save(self, folder: str | Path) -> None:
        """Write calibrated.yaml and calibration.json into `folder`."""
        import yaml

        folder = Path(folder)
        text = "# settings of sampling, for hf-llc estimate --config and hf-llc curve --config\n"
        if self.unfit is not None:
            text += f'# NOT FIT: λ̂ of a short run at these settings is "{self.unfit.verdict}"; {self.unfit.remedy}\n'
        text += yaml.safe_dump(self.settings, sort_keys=False)
        write_atomically(folder / SETTINGS_FILE, lambda path: path.write_text(text, encoding="utf-8"))
        values = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        files = [name for name in (PICTURE_FILE, SETTINGS_FILE) if (folder / name).exists()]
        save_sealed_json(folder / JSON_FILE, values, run=run_of(folder), files=files)

    @classmethod
    def load(cls, folder: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InputError: calibration.json is damaged or of another version, or a file beside it is not as it was.
        """
        return load_study(Path(folder) / JSON_FILE, "calibration", version=SCHEMA_VERSION, read=cls._from_dict)

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> Calibration:
        cells = [Cell(**{**cell, **_nan_for_null(cell)}) for cell in values.pop("cells")]
        return cls(cells=cells, **values)


def _nan_for_null(cell: dict[str, Any]) -> dict[str, Any]:
    """NaN for λ̂ and its error where JSON, which has no NaN, holds null."""
    return {name: math.nan for name in ("llc", "llc_se") if cell[name] is None}
