"""The first words of report, card and picture: λ̂, to which nβ and γ it belongs, and how far minimize moved w*."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_llc.judging.moved import is_moved, of
from hf_llc.numerals import minus, number, short, with_error
from hf_llc.publishing.formatting import plain
from hf_llc.records.findings import NOT_HERE

if TYPE_CHECKING:
    from hf_llc.records.findings import Reason
    from hf_llc.records.record import Record

_LAW = {"nbeta": "nβ", "localization": "γ"}
_USEFUL = 10
"""Percent of λ̂: that it moves by no more is worth saying."""


def estimate_text(result: Record) -> str:
    """λ̂ ± its standard error, e.g. `λ̂ = 12.34 ± 0.56`, or `λ̂ of l0h1 = …` where only that was sampled."""
    return f"λ̂{part_text(result)} = {with_error(result.llc, result.llc_se)}"


def part_text(result: Record) -> str:
    """Of which part of the weights, e.g. ` of l0h1`; nothing if all were sampled."""
    return "" if result.weights == "all" else f" of {plain(result.weights)}"


def law_text(result: Record) -> str:
    """To which nβ and γ this λ̂ belongs, and by how much it moves with γ: `nβ 374.7, γ 1,200; −34 % at 2γ`."""
    text = f"nβ {number(result.nbeta)}, γ {number(result.localization)}"
    change, error = (result.localization_sensitivity.get(name, math.nan) for name in ("doubled", "doubled_se"))
    moves = "" if result.localization == 0 else _at_twice_localization(change, error, result.llc)
    return f"{text}; {moves}" if moves else text


def _at_twice_localization(change: float, error: float, llc: float) -> str:
    """How λ̂ moves when γ is doubled, as a share of it; "" if that was not measured.

    A share that is smaller than its own error is noise: then only how large it may be is said, if that is of use.
    """
    if not math.isfinite(change) or not math.isfinite(llc) or llc == 0:
        return ""
    share, bound = round(100 * change / abs(llc)), math.ceil(100 * error / abs(llc)) if math.isfinite(error) else 0
    if math.isfinite(error) and error >= abs(change):
        return f"no change beyond ±{bound} % at 2γ" if bound <= _USEFUL else "change at 2γ not known"
    return "no change at 2γ" if share == 0 else minus(f"{share:+d} % at 2γ")


def moved_text(result: Record) -> str | None:
    """That minimize made another model: it moved w* by more than 1 % of its length, or the loss by more than 1 %."""
    if not is_moved(result.minimize):
        return None
    names = ("relative_distance", "loss_before", "loss_after")
    relative, before, after = (of(result.minimize, name) for name in names)
    gain = before - after
    lower = "" if math.isnan(gain) else f", {short(gain)} {result.unit.split(' per ')[0]} lower on this data"
    return f"λ̂ of a point {short(relative)} ‖w*‖ away from the model given{lower}"


def curve_text(curve: Mapping[str, Any]) -> str:
    """How λ̂ and the loss changed along a curve (its file's contents), and to which nβ and γ λ̂ belongs.

    The change has the error of a difference: the points share their noise.
    """
    settings, (first, *_), last = curve.get("settings", {}), curve["points"], curve["points"][-1]
    known = [f"{sign} {number(settings[name])}" for name, sign in _LAW.items() if name in settings]
    text = f"λ̂{' at ' if known else ''}{', '.join(known)}: {number(first['llc'])}"
    if first is last:
        return text
    text += f" → {number(last['llc'])}"
    if math.isfinite(_float(last.get("change"))):
        change = with_error(_float(last["change"]), _float(last.get("change_se")))
        text += f", a change of {change} (paired: the points share their noise)"
    text += f", while the loss went {number(first['loss'])} → {number(last['loss'])}"
    change, error = (_float(last.get(name)) for name in ("doubled", "doubled_se"))
    moves = _at_twice_localization(change, error, _float(last["llc"]))
    return f"{text}; {moves} for the last" if moves else text


def remedies_of(reasons: Sequence[Reason]) -> list[str]:
    """The remedy of each reason, those against a bad verdict numbered in the order in which to try them."""
    texts, count = [], 0
    for reason in reasons:
        is_step = bool(reason.remedy) and not reason.is_note and not reason.remedy.startswith(NOT_HERE)
        count += is_step
        texts.append(f"{count}. {reason.remedy}" if is_step else reason.remedy)
    return texts


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
