"""`Profile`: λ̂ over scales γ beside λ of the Hessian at w*, as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from hf_llc.files import write_csv
from hf_llc.numerals import number, short, with_error
from hf_llc.publishing.tables import columns, folded
from hf_llc.records.findings import is_trusted
from hf_llc.seals import load_study, run_of, save_sealed_json

SCHEMA_VERSION = 3

PICTURE, CSV, JSON = PROFILE_FILES = ("profile.png", "profile.csv", "profile.json")
"""Files of the folder. profile.json is written last."""

_APART = 3.0
"""Standard errors from which on λ̂ and λ_Q differ."""

_MATERIAL = 0.02
"""Share of λ_Q from which on it is said what a slope or negative curvature takes; and directions that fall faster than
γ holds, as a share of it, from which on λ̂ is not compared: each can do about one."""


@dataclass(frozen=True)
class Row:
    """λ̂ and λ_Q at one γ and nβ.

    Attributes:
        nbeta, localization: nβ and γ.
        llc, llc_se: λ̂ and its standard error.
        llc_quadratic, llc_quadratic_se: λ_Q = ½ Σ h/(h + γ/nβ) of the Hessian at w*, and its error, of vectors and
            of the choice of examples.
        slope: what the gradient at w* takes off λ̂, where the loss is quadratic; NaN: not known.
        bent: what negative curvature takes off λ̂ there; where directions lie below −γ/nβ, at least.
        expected_se: standard error of λ_Q − bent.
        exponent, exponent_se: −d ln λ̂/d ln γ between the neighbouring γ.
        exponent_quadratic, exponent_quadratic_se: the same of λ_Q, at this γ.
        negative_directions: eigenvalues of the Hessian below −γ/nβ, which λ_Q leaves out.
        step_size, num_steps: of the chains at this γ.
        r_hat, ess, verdict: of their draws.
    """

    nbeta: float
    localization: float
    llc: float
    llc_se: float
    llc_quadratic: float
    llc_quadratic_se: float
    slope: float
    bent: float
    expected_se: float
    exponent: float
    exponent_se: float
    exponent_quadratic: float
    exponent_quadratic_se: float
    negative_directions: float
    step_size: float
    num_steps: int
    r_hat: float
    ess: float
    verdict: str

    @property
    def is_trustworthy(self) -> bool:
        """True if no check failed."""
        return is_trusted(self.verdict)

    @property
    def expected(self) -> float:
        """λ̂ from w* if the loss were its quadratic form there: λ_Q less what slope and negative curvature take."""
        return self.llc_quadratic - self.bent - (0.0 if math.isnan(self.slope) else self.slope)

    @property
    def difference(self) -> float:
        """λ̂ less `expected`, in their standard errors; NaN where too much of the form at w* has no law."""
        if self.negative_directions > _MATERIAL * self.llc_quadratic:
            return math.nan
        error = math.hypot(self.llc_se, self.expected_se)
        gap = self.llc - self.expected
        return gap / error if error > 0 else math.copysign(math.inf, gap) if gap else 0.0


@dataclass(frozen=True)
class Profile:
    """λ̂(γ) beside λ_Q(γ).

    Attributes:
        rows: by nβ, and by γ from the weakest.
        negative_share: of the Hessian's curvature Σ|h|.
        top_curvature: the largest eigenvalue of ∇²L_n(w*).
        hessian: vectors, products and examples of the quadrature.
        descent: nβL falls by so much in a descent from w* at the weakest γ of each nβ, by its text; empty: not known.
        settings: n and the sampling settings.
        model: provenance of the model.
        data: provenance of the data.
    """

    rows: list[Row]
    negative_share: float
    top_curvature: float
    hessian: dict[str, int]
    descent: dict[str, float]
    settings: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]

    @property
    def is_trustworthy(self) -> bool:
        """True if λ̂ at every γ is."""
        return all(row.is_trustworthy for row in self.rows)

    @property
    def has_slope(self) -> bool:
        """True if the gradient at w* takes a material share off λ̂ at some γ."""
        return any(row.slope > _MATERIAL * row.llc_quadratic > 0 for row in self.rows)

    @property
    def taken(self) -> str:
        """What takes a material share off λ̂ at some γ, beside λ_Q; empty: nothing."""
        is_bent = any(row.bent > _MATERIAL * row.llc_quadratic > 0 for row in self.rows)
        return " and ".join(["the slope"] * self.has_slope + ["negative curvature"] * is_bent)

    @property
    def headline(self) -> str:
        """Where the loss is quadratic and where it is singular, a line an nβ, and the share of negative curvature."""
        lines = [self._compared(nbeta) for nbeta in dict.fromkeys(row.nbeta for row in self.rows)]
        if self.has_slope:
            most = max(row.slope / row.llc_quadratic for row in self.rows if row.llc_quadratic > 0)
            lines.append(f"w* is no minimum: its slope takes up to {most:.0%} off λ̂; --minimize goes to one")
        lines.append(f"negative curvature: {short(100 * self.negative_share)} % of Σ|h|, left out of λ_Q")
        return "\n".join(lines)

    def _compared(self, nbeta: float) -> str:
        """λ̂ beside λ_Q at one nβ, in words."""
        all_rows = [row for row in self.rows if row.nbeta == nbeta]
        rows = [row for row in all_rows if math.isfinite(row.difference)]
        kinds = {"below": [row for row in rows if row.difference < -_APART],
                 "above": [row for row in rows if row.difference > _APART],
                 "equal to": [row for row in rows if abs(row.difference) <= _APART]}  # fmt: skip
        less = f" less what {self.taken} {'take' if ' and ' in self.taken else 'takes'}" if self.taken else ""
        said = [f"{kind} λ_Q{less} at γ {_list(found)}" for kind, found in kinds.items() if found]
        line = f"nβ {number(nbeta)}: λ̂ is " + ("; ".join(said) or "not known beside λ_Q")
        if doubtful := [row for row in rows if not row.is_trustworthy]:
            line += f" (not to be trusted at γ {_list(doubtful)})"
        if falling := [row for row in all_rows if row.negative_directions > _MATERIAL * row.llc_quadratic]:
            line += f"; not compared at γ {_list(falling)}, where the loss falls faster than γ holds"
        return line

    def to_dict(self) -> dict[str, Any]:
        """The profile in plain numbers, strings, lists and dictionaries."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def save(self, folder: str | Path) -> Path:
        """Write profile.csv and profile.json into `folder`, sealed with profile.png if it is there."""
        folder = Path(folder)
        write_csv(folder / CSV, [item.name for item in fields(Row)], (asdict(row).values() for row in self.rows))
        files = [name for name in (PICTURE, CSV) if (folder / name).exists()]
        save_sealed_json(folder / JSON, self.to_dict(), run=run_of(folder), files=files)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Profile:
        """Read what `save` wrote.

        Raises:
            InputError: profile.json is damaged or of another version, or a file beside it is not as it was.
        """
        return load_study(Path(folder) / JSON, "profile", version=SCHEMA_VERSION, read=cls._from_dict)

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> Profile:
        rows = [Row(**_nan_for_null(row)) for row in values.pop("rows")]
        return cls(rows=rows, **_nan_for_null(values))

    def __str__(self) -> str:
        table = [("nβ", "γ", "λ̂", "λ_Q", "slope", "h < 0", "exponent", "of λ_Q", "h < −γ/nβ", "verdict")]
        for row in self.rows:
            quadratic = with_error(row.llc_quadratic, row.llc_quadratic_se)
            exponent = with_error(row.exponent, row.exponent_se) if math.isfinite(row.exponent) else "–"
            of_form = with_error(row.exponent_quadratic, row.exponent_quadratic_se)
            table.append((
                number(row.nbeta), number(row.localization), with_error(row.llc, row.llc_se), quadratic,
                short(0 - row.slope), short(0 - row.bent), exponent,
                of_form, short(row.negative_directions), row.verdict,
            ))  # fmt: skip
        return f"{columns(table)}\n{folded(self.headline)}"


def _nan_for_null(values: dict[str, Any]) -> dict[str, Any]:
    """NaN for a number where JSON, which has no NaN, holds null."""
    return {name: math.nan if value is None else value for name, value in values.items()}


def _list(rows: Sequence[Row]) -> str:
    return ", ".join(number(row.localization) for row in rows)


def with_exponents(rows: Sequence[Row]) -> list[Row]:
    """Rows of one nβ, sorted by γ, with −d ln λ̂/d ln γ between the neighbours of each (at the ends: to the next)."""
    found = []
    for k, row in enumerate(rows):
        one, two = rows[max(k - 1, 0)], rows[min(k + 1, len(rows) - 1)]
        if one is two or not (one.llc > 0 and two.llc > 0):
            found.append(replace(row, exponent=math.nan, exponent_se=math.nan))
            continue
        span = math.log(two.localization / one.localization)
        error = math.hypot(one.llc_se / one.llc, two.llc_se / two.llc) / span
        found.append(replace(row, exponent=math.log(one.llc / two.llc) / span, exponent_se=error))
    return found
