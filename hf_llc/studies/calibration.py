"""`Calibration`: what a grid of settings gave, as data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_llc.errors import InputError
from hf_llc.files import write_atomically, write_json
from hf_llc.studies.calibration_plot import plot_calibration

SCHEMA_VERSION = 1


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
        found: what `hf_llc.calibration.calibrate.calibrate` says, None where step_size was given.
        moved: what `hf_llc.calibration.minimize.minimize` did, None where it was not asked for.
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
