"""`ComponentCurve`: λ̂ of the components of a model along its training, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_llc.files import write_csv, write_parquet
from hf_llc.numerals import number, with_error
from hf_llc.publishing.tables import columns, folded
from hf_llc.seals import run_of, save_sealed_json
from hf_llc.studies.component_table import ComponentTable, Row

SCHEMA_VERSION = 1

PICTURE, PARQUET, CSV, JSON = COMPONENT_CURVE_FILES = (
    *("component_curve.png", "component_curve.parquet", "component_curve.csv"),
    "component_curve.json",
)
"""Files of the folder. component_curve.json is written last."""

_SHOWN = 4
"""Checkpoints in the printed table; the files have all."""


@dataclass(frozen=True)
class ComponentCurve:
    """A table of components a checkpoint, and the settings that all share.

    Attributes:
        tables: by checkpoint, in the order of the series.
        steps: place of each on the axis: the number in its name, otherwise its index in the series.
        settings: n and the sampling settings.
        calibrated_on: name of the checkpoint that decided the settings left open.
        axis: what `steps` count: "step", or "position" in the series where the names tell no steps.
        skipped: what is no checkpoint of this series: name → why.
        failed: checkpoints that could not be measured: name → why.
    """

    tables: dict[str, ComponentTable]
    steps: list[int]
    settings: dict[str, Any]
    calibrated_on: str
    axis: str = "step"
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def components(self) -> list[str]:
        """Names of the components, all weights ("all") last."""
        table = next(iter(self.tables.values()))
        return [row.component for row in (*table.rows, table.whole)]

    @property
    def is_trustworthy(self) -> bool:
        """True if every λ̂ is, and no checkpoint is missing."""
        return all(table.is_trustworthy for table in self.tables.values()) and not self.failed

    @property
    def headline(self) -> str:
        """What was measured, and to which nβ and γ λ̂ belongs."""
        law = f"nβ {number(self.settings['nbeta'])}, γ {number(self.settings['localization'])}"
        parts, places = len(self.components) - 1, len(self.tables)
        return f"λ̂ of {parts} components at {places} checkpoints, at {law}, decided on {self.calibrated_on}"

    def of(self, component: str) -> list[Row]:
        """The rows of one component, checkpoint by checkpoint."""
        return [row for _, _, row in self.rows() if row.component == component]

    def rows(self) -> Iterator[tuple[int, str, Row]]:
        """Step, checkpoint and λ̂ of each component, and of all weights."""
        for step, (name, table) in zip(self.steps, self.tables.items(), strict=True):
            for row in (*table.rows, table.whole):
                yield step, name, row

    def to_dict(self) -> dict[str, Any]:
        """The curve in plain numbers, strings, lists and dictionaries."""
        table = self.tables[self.calibrated_on]
        about = {name: getattr(self, name) for name in ("settings", "calibrated_on", "axis", "skipped", "failed")}
        points = [{self.axis: step, "name": name, **asdict(row)} for step, name, row in self.rows()]
        about |= {"components": self.components, "unit": table.unit, "data": table.data, "points": points}
        return {"schema_version": SCHEMA_VERSION, **about}

    def save(self, folder: str | Path) -> Path:
        """Write component_curve.parquet, .csv and .json into `folder`, sealed with the picture if it is there."""
        folder = Path(folder)
        names = [self.axis, "name", *(item.name for item in fields(Row))]
        rows = [[step, name, *asdict(row).values()] for step, name, row in self.rows()]
        write_parquet(folder / PARQUET, names, rows)
        write_csv(folder / CSV, names, rows)
        files = [name for name in COMPONENT_CURVE_FILES[:-1] if (folder / name).exists()]
        save_sealed_json(folder / JSON, self.to_dict(), run=run_of(folder), files=files)
        return folder

    def __str__(self) -> str:
        last = len(self.steps) - 1
        shown = sorted({round(i * last / (_SHOWN - 1)) for i in range(_SHOWN)})
        table = [("component", "weights", *(f"λ̂ at {self.axis} {self.steps[i]}" for i in shown), "verdict")]
        for name in self.components:
            rows = self.of(name)
            bad = [row.verdict for row in rows if not row.is_trustworthy]
            verdict = f"{len(bad)} of {len(rows)}: {', '.join(dict.fromkeys(bad))}" if bad else "trustworthy"
            values = (with_error(rows[i].llc, rows[i].llc_se) for i in shown)
            table.append((name, f"{rows[0].num_parameters:,}", *values, verdict))
        lines = [self.headline, *(f"not measured: {name}: {why}" for name, why in self.failed.items())]
        lines += [f"skipped: {name}: {why}" for name, why in self.skipped.items()]
        return f"{columns(table)}\n{folded(*lines)}"
