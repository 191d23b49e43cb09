"""Quantities of a result in words, for the lines of the card and of `show`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hf_llc.numerals import number, short, with_error
from hf_llc.publishing.formatting import code, inert, plain

if TYPE_CHECKING:
    from hf_llc.records.record import Record

_MAX_CHAINS = 8
"""λ̂ is listed for at most this many chains."""


def llc_per_chain(result: Record) -> str:
    """λ̂ of the first chains."""
    values = [number(x) for x in result.llc_per_chain[:_MAX_CHAINS]]
    more = len(result.llc_per_chain) - len(values)
    return ", ".join(values) + (f", … ({more} more)" if more > 0 else "")


def drift(result: Record, where: str = "") -> str:
    """The change of λ̂ between the halves of the draws; `where` says so."""
    drift, error, p = (result.plateau.get(name) for name in ("drift", "drift_se", "p_value"))
    if drift is None or not math.isfinite(drift):
        return "– (not measured)"
    return f"{with_error(drift, error if error is not None else math.nan)}{where} (p = {short(p)})"


def bias(result: Record) -> str:
    """What the finite step and the noise of minibatch gradients add to λ̂, and whether it was subtracted."""
    if result.llc_uncorrected != result.llc:
        return f"heat of gradient noise {short(result.step_size_bias)}, taken off"
    text = f"finite step {short(result.step_size_bias)}"
    if result.llc_extrapolated is not None and result.llc_extrapolated_se is not None:
        text += f"   extrapolated to ε = 0: λ̂ = {with_error(result.llc_extrapolated, result.llc_extrapolated_se)}"
    return text


def sensitivity(result: Record) -> str:
    """By how much λ̂ changes when γ is halved and doubled, with standard errors."""
    change = result.localization_sensitivity
    if not change or not math.isfinite(sum(change.values())):
        return "– (not measured)"
    halved, doubled = (
        f"{'+' * (change[name] >= 0)}{with_error(change[name], change[name + '_se'])}" for name in ("halved", "doubled")
    )
    return f"{halved} at γ/2, {doubled} at 2γ"


def descent(result: Record) -> str | None:
    """λ̂ from the minimum that γ allows: from w* it is less by what a descent from there gains."""
    if result.descent is None:
        return None
    drop, error = result.descent["loss_drop"], result.descent.get("loss_drop_se", 0.0)
    where = f", {short(distance)} away" if (distance := result.descent.get("distance")) else ""
    if drop <= error:  # noise, by which λ̂ would be corrected
        return f"as from w*: a descent lowers nβL by no more than its error, {short(error)}{where}"
    by = with_error(drop, error) if error > 0.1 * drop else short(drop)
    from_there = with_error(result.llc + drop, math.hypot(result.llc_se, error))
    if "from_chain" in result.descent:
        return f"{from_there}: a descent from where a chain ended lowers nβL by {by} below w*{where}"
    return f"{from_there}: a descent from w* lowers nβL by {by}{where}"


def sampler(result: Record) -> str:
    """Its name, friction and kind of gradients."""
    friction = "" if result.friction is None else f", friction {short(result.friction)}"
    return (
        inert(result.sampler)
        + friction
        + ("" if result.gradient == "plain" else f", {inert(result.gradient)} gradients")
    )


def precision(result: Record) -> str:
    """The mixed precision, if there is any."""
    return "" if result.mixed_precision == "no" else f", {result.mixed_precision}"


def thinning(result: Record) -> str:
    """The steps of a draw, if there are several."""
    return f" × {result.num_steps_between_draws} steps" if result.num_steps_between_draws > 1 else ""


def batches(result: Record) -> str:
    """What is unusual about the minibatches."""
    order = ", walked in turn" if result.batch_order == "in-turn" else ""
    return order + (", L_n of all examples at the draws" if result.draw_loss == "full" else "")


def minimize(result: Record) -> str | None:
    """What the minimizer found, name by name."""
    if result.minimize is None:
        return None
    values = {name: value for name, value in result.minimize.items() if isinstance(value, (int, float, str))}
    texts = {name: str(value) if isinstance(value, (str, bool)) else number(value) for name, value in values.items()}
    return "   ".join(f"{name.replace('_', ' ')} {text}" for name, text in texts.items())


def num_parameters(result: Record) -> str:
    """Of the model, and how many of them are sampled."""
    sampled, total = result.num_parameters, result.num_parameters_total
    return f"{total:,} parameters" if sampled == total else f"{sampled:,} of {total:,} parameters sampled"


def run(result: Record) -> str:
    """Where and how it ran."""
    processes = "" if result.num_processes == 1 else f", {result.num_processes} processes"
    group = max(result.data_parallel, result.parameter_parallel)
    groups = "" if group == 1 else f" in groups of {group}"
    return f"{result.device}, {result.dtype}, {result.mode} mode{processes}{groups}"


def versions(result: Record) -> str:
    """Of the packages that decide the numbers."""
    names = [name for name in ("hf_llc", "torch", "transformers") if name in result.versions]
    return ", ".join(f"{name} {inert(result.versions[name])}" for name in names) or "–"


def card_identity(values: dict[str, Any]) -> str:
    """The id and what pins it down, as Markdown code."""
    names = [name for name in ("subset", "split", "revision", "fingerprint") if values.get(name)]
    return ", ".join([code(values.get("id") or "local"), *(f"{name} {code(values[name])}" for name in names)])


def of_weights(name: str, result: Record) -> str | None:
    """What is odd about the checkpoint's weights: those not used, those equal and not tied."""
    said = result.model.get(name)
    return None if said is None else code(said)


def classes(result: Record) -> str | None:
    """How the data's classes became the model's."""
    how = result.data.get("classes")
    return None if how is None else code(how)  # the names are the data's: nothing in them is Markdown


def reading(result: Record) -> str | None:
    """How the data were read where that is a choice: chats, padding, pictures."""
    said = [f"{name}: {result.data[name]}" for name in ("chats", "padding", "pictures") if result.data.get(name)]
    return code("; ".join(said)) if said else None


def show_identity(values: dict[str, Any]) -> str:
    """Whatever the provenance holds, the id first; long revisions and fingerprints are shortened."""
    known = {name: value for name, value in values.items() if isinstance(value, (str, int, float)) and value != ""}
    first = plain(known.pop("id", "") or known.pop("class", "")) or "without a name"
    facts = [(name.replace("_", " "), value) for name, value in known.items() if value is not False]
    texts = [(name, f"{v:,}" if type(v) is int else _shortened(plain(v)), v) for name, v in facts]
    return "   ".join([first, *(name if v is True else f"{name} {text}" for name, text, v in texts)])


def _shortened(text: str) -> str:
    is_hash = len(text) >= 32 and all(char in "0123456789abcdef" for char in text)
    return text[:12] if is_hash else text
