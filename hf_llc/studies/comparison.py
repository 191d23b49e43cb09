"""`Comparison`: λ̂ of several runs side by side, refused where they do not compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hf_llc.errors import InputError
from hf_llc.files import write_csv, write_json
from hf_llc.judging.estimator import llc_draws
from hf_llc.judging.paired import Measured, difference
from hf_llc.numerals import number, with_error
from hf_llc.publishing.result_folder import RESULT
from hf_llc.publishing.tables import columns, folded
from hf_llc.records.findings import is_trusted
from hf_llc.result import LLCResult
from hf_llc.studies.checkpoint_series import result_folders

SCHEMA_VERSION = 1

_MUST: dict[str, Callable[[LLCResult], Any]] = {
    "nβ": lambda r: r.nbeta,
    "γ": lambda r: r.localization,
    "n": lambda r: r.n,
    "data fingerprint": lambda r: r.data.get("fingerprint"),
    "task": lambda r: r.task,
    "unit of the loss": lambda r: r.unit,
    "loss_normalization": lambda r: r.data.get("loss_normalization"),
    "loss of a constant predictor": lambda r: r.trivial_loss,
}
"""What λ̂ belongs to. The loss function has no name in a result; its best constant predictor tells two apart."""

_SHOULD: dict[str, Callable[[LLCResult], Any]] = {
    **{
        name: lambda r, name=name: getattr(r, name)
        for name in ("mode", "dtype", "mixed_precision", "sampler", "step_size", "friction", "gradient", "batch_size")
    },
    **{
        name: lambda r, name=name: getattr(r, name)
        for name in (
            *("seed", "num_chains", "num_draws", "num_steps_between_draws", "num_burnin_steps", "num_parameters"),
            *("weights", "batch_order", "draw_loss"),
        )
    },
    "minimize": lambda r: r.minimize is not None,
    "hf_llc": lambda r: r.versions.get("hf_llc"),
}
"""What should be equal, and is only remarked on."""


@dataclass(frozen=True)
class Row:
    """λ̂ of one run, and its change from the first run and from the one before.

    Attributes:
        change: λ̂ minus that of the first run; 0 for the first.
        is_paired: `change_se` counts that the two runs shared their noise.
        step: λ̂ minus that of the run before; 0 for the first.
    """

    name: str
    llc: float
    llc_se: float
    change: float
    change_se: float
    is_paired: bool
    step: float
    step_se: float
    init_loss: float
    nbeta: float
    localization: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """The rows in the order given, and in what their settings differ although they should not."""

    rows: list[Row]
    remarks: list[str]
    unit: str
    data: str

    @property
    def is_trustworthy(self) -> bool:
        """True if every λ̂ is trustworthy."""
        return all(is_trusted(row.verdict) for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def save(self, folder: str | Path) -> Path:
        """Write compare.csv and compare.json into `folder`; returns the folder."""
        folder = Path(folder)
        header = [item.name for item in fields(Row)]
        write_csv(folder / "compare.csv", header, (asdict(row).values() for row in self.rows))
        write_json(folder / "compare.json", self.to_dict())
        return folder

    @property
    def law(self) -> str:
        """nβ, γ and the data, to which every λ̂ here belongs."""
        return f"nβ {number(self.rows[0].nbeta)}, γ {number(self.rows[0].localization)}, on {self.data}"

    def __str__(self) -> str:
        table = [("run", "λ̂", "change from the first", f"loss at w* ({self.unit})", "verdict")]
        for row in self.rows:
            change = "" if row is self.rows[0] else with_error(row.change, row.change_se)
            table.append((row.name, with_error(row.llc, row.llc_se), change, number(row.init_loss), row.verdict))
        are_paired = all(row.is_paired for row in self.rows[1:])
        how = "paired: the runs shared their noise" if are_paired else "not all paired: noise was not shared"
        return "\n".join([folded(f"at {self.law}"), columns(table), folded(f"± of changes: {how}", *self.remarks)])


def for_differences(result: LLCResult) -> Measured:
    """What differences need of a result."""
    trace, draws = result.trace, None
    if trace is not None:
        thinning = {
            "num_burnin_steps": result.num_burnin_steps, "num_steps_between_draws": result.num_steps_between_draws
        }  # fmt: skip
        draws = llc_draws(trace.loss, trace.init_loss, nbeta=result.nbeta, **thinning)
        draws = draws if math.isfinite(float(draws.sum())) else None
    noise = (result.seed, result.num_burnin_steps, result.num_steps_between_draws, result.batch_size, result.n)
    return Measured(result.llc, result.llc_se, draws, (*noise, result.sampler, result.data.get("fingerprint")))


def compare(results: Sequence[LLCResult], names: Sequence[str]) -> Comparison:
    """λ̂ of several results side by side.

    Raises:
        InputError: fewer than two, or they differ in nβ, γ, data or loss: their λ̂ do not compare.
    """
    if len(results) < 2:
        raise InputError("a comparison needs two results or more", value=", ".join(names) or "none")
    wrong = [text for text in (_differ(what, results, names, get) for what, get in _MUST.items()) if text]
    if wrong:
        remedy = f"estimate again with --like {names[0]}"
        raise InputError(
            "these λ̂ cannot be compared: they differ in settings or data that λ̂ belongs to",
            value="; ".join(wrong),
            remedy=remedy,
        )
    remarks = [text for text in (_differ(what, results, names, get) for what, get in _SHOULD.items()) if text]
    first = before = for_differences(results[0])
    rows = []
    for name, result in zip(names, results, strict=True):
        now = first if result is results[0] else for_differences(result)
        change, change_se, is_paired = difference(first, now) if rows else (0.0, 0.0, True)
        step, step_se, _ = difference(before, now) if rows else (0.0, 0.0, True)
        before = now
        rows.append(Row(name, result.llc, result.llc_se, change, change_se, is_paired, step, step_se, *_about(result)))
    data = results[0].data.get("id") or "local data"
    return Comparison(rows, [f"differ in {text}" for text in remarks], results[0].unit, str(data))


def _about(result: LLCResult) -> tuple[float, float, float, str]:
    """The last fields of a row."""
    return result.init_loss, result.nbeta, result.localization, result.verdict


def results_in(folders: Sequence[str]) -> tuple[list[LLCResult], list[str]]:
    """The results in folders of estimates and of curves (there one for each checkpoint), and their names.

    Raises:
        InputError: a folder holds neither, or one is given twice.
    """
    paths = result_folders(folders)
    short = [path.parent.name if path.name == RESULT else path.resolve().name for path in paths]
    names = [str(path) if short.count(name) > 1 else name for name, path in zip(short, paths, strict=True)]
    return [LLCResult.load(path) for path in paths], names


def _differ(
    what: str, results: Sequence[LLCResult], names: Sequence[str], get: Callable[[LLCResult], Any]
) -> str | None:
    """The name of what differs with two of its values and whose they are; None if all agree."""
    first = get(results[0])
    for name, result in zip(names[1:], results[1:], strict=True):
        other = get(result)
        is_unknown = what == "loss of a constant predictor" and None in (first, other)
        if not (_agree(first, other) or is_unknown):
            return f"{what} {_text(first)} of {names[0]}, {_text(other)} of {name}"
    return None


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-4)  # rounding of another device, or of a card
    return one == other


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else "none" if value is None else str(value)
