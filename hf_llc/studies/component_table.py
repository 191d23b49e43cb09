"""`ComponentTable`: λ̂ of the components of a model, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hf_llc.files import write_csv, write_parquet
from hf_llc.numerals import number, short, with_error
from hf_llc.publishing.tables import columns, folded
from hf_llc.records.findings import is_trusted
from hf_llc.seals import run_of, save_sealed_json

SCHEMA_VERSION = 1

PICTURE, PARQUET, CSV, JSON = COMPONENT_FILES = (
    *("components.png", "components.parquet", "components.csv"),
    "components.json",
)
"""Files of the folder. components.json is written last."""


@dataclass(frozen=True)
class Row:
    """λ̂ of one component at the nβ and γ of all.

    Attributes:
        num_parameters: d, the weights of the component.
        llc_per_half_dimension: 2λ̂/d, at most 1 in a quadratic loss: how far the component is from degenerate.
    """

    component: str
    num_parameters: int
    llc: float
    llc_se: float
    llc_per_half_dimension: float
    mean_loss: float
    step_size: float
    r_hat: float
    ess: float
    verdict: str

    @property
    def is_trustworthy(self) -> bool:
        """True if no check failed."""
        return is_trusted(self.verdict)


@dataclass(frozen=True)
class ComponentTable:
    """The components in order, and the whole model beside them.

    Attributes:
        rows: of the components.
        whole: of all weights, at the same nβ and γ; its component is "all".
        is_partition: the components share no weight and leave none out.
        settings: n and the sampling settings.
        unit: of the losses.
        model: provenance of the model.
        data: provenance of the data.
    """

    rows: list[Row]
    whole: Row
    is_partition: bool
    settings: dict[str, Any]
    unit: str
    model: dict[str, Any]
    data: dict[str, Any]

    @property
    def is_trustworthy(self) -> bool:
        """True if λ̂ of every component and of the whole is."""
        return all(row.is_trustworthy for row in (self.whole, *self.rows))

    @property
    def verdict(self) -> str:
        """One word on all of them."""
        bad = sum(not row.is_trustworthy for row in (self.whole, *self.rows))
        return f"{bad} of {len(self.rows) + 1} not trustworthy" if bad else "trustworthy"

    @property
    def coupling(self) -> tuple[float, float] | None:
        """Σ λ̂_C − λ̂ over a partition, and its standard error; None if the components are none.

        It is zero if the Hessian has no blocks between components, and positive if it has (in a quadratic loss). The
        errors are added as independent: each component's chains have noise of their own.
        """
        if not self.is_partition:
            return None
        excess = math.fsum(row.llc for row in self.rows) - self.whole.llc
        return excess, math.sqrt(math.fsum(row.llc_se**2 for row in (self.whole, *self.rows)))

    @property
    def headline(self) -> str:
        """λ̂ of the whole, to which nβ and γ all λ̂ belong, and the coupling."""
        law = f"nβ {number(self.settings['nbeta'])}, γ {number(self.settings['localization'])}"
        whole = with_error(self.whole.llc, self.whole.llc_se)
        text = f"at {law}: λ̂ = {whole} of all {self.whole.num_parameters:,} weights"
        coupling = self.coupling
        return text if coupling is None else f"{text}; Σ λ̂_C − λ̂ = {with_error(*coupling)}"

    def to_dict(self) -> dict[str, Any]:
        """The table in plain numbers, strings, lists and dictionaries."""
        coupling = self.coupling
        value, error = (None, None) if coupling is None else coupling
        return {"schema_version": SCHEMA_VERSION, **asdict(self), "coupling": value, "coupling_se": error}

    def save(self, folder: str | Path) -> Path:
        """Write components.parquet, .csv and .json into `folder`, sealed with components.png if it is there."""
        folder = Path(folder)
        names = [item.name for item in fields(Row)]
        rows = [list(asdict(row).values()) for row in (*self.rows, self.whole)]
        write_parquet(folder / PARQUET, names, rows, unit=self.unit)
        write_csv(folder / CSV, names, rows)
        files = [name for name in COMPONENT_FILES[:-1] if (folder / name).exists()]
        save_sealed_json(folder / JSON, self.to_dict(), run=run_of(folder), files=files)
        return folder

    def __str__(self) -> str:
        table = [("component", "weights", "λ̂", "2λ̂/d", "verdict")]
        for row in (*self.rows, self.whole):
            error = with_error(row.llc, row.llc_se)
            table.append(
                (row.component, f"{row.num_parameters:,}", error, short(row.llc_per_half_dimension), row.verdict)
            )
        return f"{columns(table)}\n{folded(self.headline)}"
