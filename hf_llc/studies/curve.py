"""`Curve`: λ̂ along a training run, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_llc.files import write_csv
from hf_llc.numerals import number, with_error
from hf_llc.publishing.headline import curve_text
from hf_llc.publishing.result_folder import CURVE_FILES
from hf_llc.publishing.tables import columns, folded
from hf_llc.records.findings import is_trusted
from hf_llc.seals import run_of, save_sealed_json

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Point:
    """λ̂ of one checkpoint. Losses are in the unit of the curve.

    Attributes:
        step: place on the axis: the number in the checkpoint's name, otherwise its index in the series.
        loss: L_n of the checkpoint as stored.
        init_loss: L_n(w*), where the chains begin: `loss`, or lower if the run minimized first.
        weights: the Hub's commit, or a fingerprint of the weights.
        change: λ̂ minus that of the first point; NaN: not known.
        change_se: standard error of `change`. The points share their noise, so it is not that of two separate λ̂.
        doubled: change of λ̂ when γ is doubled; NaN: not known.
        doubled_se: its standard error.
        remedy: what to do first about a bad verdict; "" if it is good.
    """

    step: int
    name: str
    llc: float
    llc_se: float
    loss: float
    init_loss: float
    mean_loss: float
    r_hat: float
    ess: float
    verdict: str
    weights: str
    change: float = math.nan
    change_se: float = math.nan
    doubled: float = math.nan
    doubled_se: float = math.nan
    remedy: str = ""

    @property
    def is_trustworthy(self) -> bool:
        """True if no check failed."""
        return is_trusted(self.verdict)


@dataclass(frozen=True)
class Curve:
    """The points in order of the series, and the settings that they share.

    Attributes:
        settings: n and the sampling settings.
        calibrated_on: name of the checkpoint that decided the settings left open.
        unit: of the losses.
        data: provenance of the data.
        axis: what `Point.step` counts: "step", or "position" in the series where the names tell no steps.
        skipped: what is no checkpoint of this series: name → why.
        failed: checkpoints that could not be measured: name → why.
    """

    points: list[Point]
    settings: dict[str, Any]
    calibrated_on: str
    unit: str
    data: dict[str, Any]
    axis: str = "step"
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def is_trustworthy(self) -> bool:
        """True if every point is trustworthy and none is missing."""
        return all(point.is_trustworthy for point in self.points) and not self.failed

    @property
    def headline(self) -> str:
        """How λ̂ and the loss changed from the first point to the last, and to which nβ and γ λ̂ belongs."""
        return curve_text(self.to_dict())

    @property
    def remedies(self) -> list[str]:
        """What to do first about each kind of bad verdict, and at which checkpoints it was seen."""
        places: dict[str, list[str]] = {}
        for point in self.points:
            if point.remedy:
                places.setdefault(f"{point.verdict} → {point.remedy}", []).append(point.name)
        return [f"{', '.join(names)}: {text}" for text, names in places.items()]

    def to_dict(self) -> dict[str, Any]:
        """The curve in plain numbers, strings, lists and dictionaries."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def save(self, folder: str | Path) -> Path:
        """Write curve.csv and curve.json into `folder`, and seal them with curve.png if it is there.

        Returns:
            The folder.
        """
        folder = Path(folder)
        _, *names = (item.name for item in fields(Point))  # the first is the place on the axis
        write_csv(folder / "curve.csv", [self.axis, *names], (asdict(point).values() for point in self.points))
        files = [name for name in CURVE_FILES[:-1] if (folder / name).exists()]
        save_sealed_json(folder / CURVE_FILES[-1], self.to_dict(), run=run_of(folder), files=files)
        return folder

    def __str__(self) -> str:
        rows = [(self.axis, "checkpoint", "λ̂", f"loss ({self.unit})", "verdict")]
        rows += [(str(p.step), p.name, with_error(p.llc, p.llc_se), number(p.loss), p.verdict) for p in self.points]
        lines = [*([self.headline] if self.points else []), *self.remedies]
        lines += [f"not measured: {name}: {why}" for name, why in self.failed.items()]
        lines += [f"skipped: {name}: {why}" for name, why in self.skipped.items()]
        return "\n".join([columns(rows), *([folded(*lines)] if lines else [])])
