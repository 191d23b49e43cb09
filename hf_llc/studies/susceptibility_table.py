"""`SusceptibilityTable`: χ of components to tokens, as data and as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_llc.files import write_atomically, write_csv
from hf_llc.judging.susceptibility import Susceptibility
from hf_llc.numerals import number, short, with_error
from hf_llc.publishing.tables import columns, folded
from hf_llc.records.findings import is_trusted
from hf_llc.seals import run_of, save_sealed_json

Array = np.ndarray

SCHEMA_VERSION = 1

PICTURE, REPORT, PARQUET, CSV, JSON = SUSCEPTIBILITY_FILES = (
    *("susceptibility.png", "susceptibility.html", "susceptibility.parquet", "susceptibility.csv"),
    "susceptibility.json",
)
"""Files of the folder. susceptibility.json is written last."""

UNIT = "nats²; negative: the component lowers the loss of such tokens (or examples)"

_RELIABLE = 0.8
"""Reliability from which on the pattern of a component is called signal."""

_SIGNAL = 3.0
"""Standard errors from which on a χ counts."""


@dataclass(frozen=True)
class Tokens:
    """The tokens (or examples) of one probe, in order; arrays `[m]`.

    Attributes:
        probe: its name; "train": of the data that were sampled on.
        example, position: where each is.
        text: each alone.
    """

    probe: str
    example: Array
    position: Array
    text: list[str]


@dataclass(frozen=True)
class Column:
    """One component.

    Attributes:
        found: χ to the tokens of all probes, in order.
        num_parameters, llc, llc_se, verdict: of its own run.
        control: χ at nβ ≈ 0, if that was asked for.
    """

    component: str
    found: Susceptibility
    num_parameters: int
    llc: float
    llc_se: float
    verdict: str
    control: Array | None = None

    @property
    def is_trustworthy(self) -> bool:
        """True if its chains are, and their halves agree on the pattern."""
        return is_trusted(self.verdict) and self.found.reliability >= _RELIABLE

    @property
    def judged(self) -> str:
        """The verdict on its chains, or on the pattern."""
        good = self.found.reliability >= _RELIABLE
        return self.verdict if not is_trusted(self.verdict) or good else "too few draws"

    def summary(self) -> dict[str, Any]:
        """Numbers of the column as a whole."""
        chi, error = self.found.chi, self.found.chi_se
        like = float("nan") if self.control is None or not np.ptp(self.control) else _correlation(chi, self.control)
        return {
            "component": self.component,
            "num_parameters": self.num_parameters,
            "llc": self.llc,
            "llc_se": self.llc_se,
            "mean": float(chi.mean()),
            "sd": float(chi.std()),
            "median_se": float(np.median(error)),
            "signal": float((np.abs(chi) > _SIGNAL * error).mean()),
            "agreement": self.found.agreement,
            "agreement_expected": self.found.agreement_expected,
            "reliability": self.found.reliability,
            "control_rho": like,
            "verdict": self.judged,
        }


@dataclass(frozen=True)
class SusceptibilityTable:
    """χ of all components to all tokens.

    Attributes:
        columns: of the components.
        tokens: of the probes in order; the training data come first.
        level: "token" or "example".
        settings: n and the sampling settings of all runs.
        llc: λ̂ of all weights, its error and verdict.
        model: provenance of the model.
        data: provenance of the data.
    """

    columns: list[Column]
    tokens: list[Tokens]
    level: str
    settings: dict[str, Any]
    llc: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]

    @property
    def is_trustworthy(self) -> bool:
        """True if every column is, and the run of all weights."""
        return is_trusted(self.llc["verdict"]) and all(column.is_trustworthy for column in self.columns)

    @property
    def matrix(self) -> Array:
        """z-scored χ, `[token, component]`."""
        return np.stack([column.found.z for column in self.columns], axis=1)

    @property
    def headline(self) -> str:
        """What was measured, and at which law."""
        counts = ", ".join(f"{len(each.text):,} of {each.probe}" for each in self.tokens)
        law = f"nβ {number(self.settings['nbeta'])}, γ {number(self.settings['localization'])}"
        whole = f"λ̂ of all weights {with_error(self.llc['llc'], self.llc['llc_se'])} ({self.llc['verdict']})"
        return f"{self.level}s: {counts}; at {law}; {whole}"

    def to_dict(self) -> dict[str, Any]:
        """The summary in plain numbers; χ itself is in susceptibility.parquet."""
        counts = {each.probe: len(each.text) for each in self.tokens}
        formula = "chi = -E_C[phi (Delta - E_F Delta)], phi = L - L(w*), Delta = l_xy - L"
        values = {"level": self.level, "unit": UNIT, "formula": formula, "tokens": counts}
        values |= {"settings": self.settings, "llc": self.llc, "model": self.model, "data": self.data}
        return {"schema_version": SCHEMA_VERSION, **values, "rows": [column.summary() for column in self.columns]}

    def save(self, folder: str | Path) -> Path:
        """Write χ as parquet, the summary as CSV, and susceptibility.json, sealed with all files."""
        folder = Path(folder)
        write_atomically(folder / PARQUET, self._save_parquet)
        rows = [column.summary() for column in self.columns]
        write_csv(folder / CSV, list(rows[0]), (row.values() for row in rows))
        files = [name for name in SUSCEPTIBILITY_FILES[:-1] if (folder / name).exists()]
        save_sealed_json(folder / JSON, self.to_dict(), run=run_of(folder), files=files)
        return folder

    def _save_parquet(self, path: Path) -> None:
        """A row a token and component, written a component at a time."""
        import pyarrow
        from pyarrow import parquet

        probe = [each.probe for each in self.tokens for _ in each.text]
        example, position = (
            np.concatenate([getattr(t, name) for t in self.tokens]) for name in ("example", "position")
        )
        text = [piece for each in self.tokens for piece in each.text]
        writer = None
        for column in self.columns:
            found = column.found
            control = np.full(len(text), np.nan) if column.control is None else column.control
            values = {"component": [column.component] * len(text), "probe": probe, "example": example}
            values |= {"position": position, "text": text, "chi": found.chi, "chi_se": found.chi_se, "z": found.z}
            values |= {"covariance": found.covariance, "shift": found.shift, "control": control}
            rows = pyarrow.table(values).replace_schema_metadata({"made_by": "hf_llc", "unit": UNIT})
            writer = writer or parquet.ParquetWriter(path, rows.schema)
            writer.write_table(rows)
        if writer is not None:
            writer.close()

    def __str__(self) -> str:
        table = [("component", "weights", "λ̂", "sd of χ", "se of χ", "|χ| > 3 se", "reliability", "verdict")]
        table += [_line(column.summary()) for column in self.columns]
        return f"{columns(table)}\n{folded(self.headline, f'χ in {UNIT}')}"


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    llc = with_error(row["llc"], row["llc_se"])
    numbers = short(row["sd"]), short(row["median_se"]), f"{row['signal']:.0%}", short(row["reliability"])
    return (row["component"], f"{row['num_parameters']:,}", llc, *numbers, row["verdict"])


def _correlation(one: Array, two: Array) -> float:
    return float(np.corrcoef(one, two)[0, 1])
