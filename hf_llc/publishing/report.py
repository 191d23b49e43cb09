"""The small table that `print(result)` and `hf-llc show` give."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from hf_llc.publishing.formatting import WIDTH, for_encoding, number, with_error

if TYPE_CHECKING:
    from hf_llc.records.findings import Reason
    from hf_llc.records.record import Record

_LABEL = 14


def estimate_text(result: Record) -> str:
    """λ̂ ± its standard error, e.g. `λ̂ = 12.34 ± 0.56`."""
    return f"λ̂ = {with_error(result.llc, result.llc_se)}"


def render(result: Record, *, encoding: str | None = None) -> str:
    """The result as a table of at most 100 columns, without a line feed at its end.

    Args:
        result: what to show.
        encoding: of the text's reader; None: that of standard output. Plain ASCII where it cannot hold the symbols.
    """
    rows = [*_estimate(result), *_diagnostics(result), *_settings(result), *_subject(result)]
    rows = [(for_encoding(label, encoding), for_encoding(text, encoding)) for label, text in rows]
    return "\n".join(line for label, text in rows for line in _row(label, text))


def _row(label: str, text: str) -> list[str]:
    lines = []
    for part in text.split("\n"):
        lines += textwrap.wrap(part, WIDTH - _LABEL, break_on_hyphens=False) or [""]
    first = label.ljust(_LABEL + _zero_width(label))
    return [(first if i == 0 else " " * _LABEL) + line for i, line in enumerate(lines)]


def _zero_width(text: str) -> int:
    """Combining marks (the hat) take a character but no column."""
    return sum(0x300 <= ord(char) < 0x370 for char in text)


def _estimate(result: Record) -> list[tuple[str, str]]:
    rows = [("λ̂", with_error(result.llc, result.llc_se)), ("verdict", result.verdict)]
    rows += [("  because", _reason(reason)) for reason in result.reasons if not reason.is_note]
    rows += [("  note", _reason(reason)) for reason in result.reasons if reason.is_note]
    chains = ", ".join(number(x) for x in result.llc_per_chain[:8])
    more = len(result.llc_per_chain) - 8
    rows.append(("by chain", chains + (f", … ({more} more)" if more > 0 else "")))
    rows.append(("plain", f"{with_error(result.llc_plain, result.llc_plain_se)} (from L_n(w*), not paired)"))
    return rows


def _reason(reason: Reason) -> str:
    return f"{reason.name}: {reason.text}" + (f"\n→ {reason.remedy}" if reason.remedy else "")


def _diagnostics(result: Record) -> list[tuple[str, str]]:
    plateau = result.plateau
    trivial = "" if result.trivial_loss is None else f"   trivial predictor {number(result.trivial_loss)}"
    return [
        ("mixing", f"r̂ {number(result.r_hat)}   ESS {number(round(result.ess, 1))}   acceptance "
                   f"{number(result.accept_prob)}"),
        ("drift", f"{number(plateau.get('drift'))} ± {_short(plateau.get('drift_se'))} between the halves of the draws "
                  f"(p = {_short(plateau.get('p_value'))})"),
        ("bias", bias_text(result)),
        ("γ", f"λ̂ changes by {sensitivity_text(result)}"),
        ("heat", f"variance of nβL {with_error(result.heat_capacity, result.heat_capacity_se)}   kinetic temperature "
                 f"{number(result.kinetic_temperature)}"),
        ("loss", f"mean {number(result.mean_loss)}   at w* {number(result.init_loss)}{trivial}   ({result.unit})"),
    ]  # fmt: skip


def bias_text(result: Record) -> str:
    """What the finite step and gradient noise add to λ̂, and whether that was taken off."""
    if result.llc_uncorrected != result.llc:
        return f"heat of gradient noise {_short(result.step_size_bias)}, taken off"
    text = f"finite step {_short(result.step_size_bias)}"
    if result.llc_extrapolated is not None and result.llc_extrapolated_se is not None:
        text += f"   extrapolated to ε = 0: λ̂ = {with_error(result.llc_extrapolated, result.llc_extrapolated_se)}"
    return text


def sensitivity_text(result: Record) -> str:
    """By how much λ̂ moves when γ is halved and doubled, with errors."""
    change = result.localization_sensitivity
    if not change or not math.isfinite(sum(change.values())):
        return "– (not measured)"
    halved, doubled = (f"{change[name]:+.2g} ± {change[name + '_se']:.2g}" for name in ("halved", "doubled"))
    return f"{halved} at γ/2, {doubled} at 2γ"


def sampler_text(result: Record) -> str:
    """The sampler with its friction and its kind of gradient, where it has them."""
    friction = "" if result.friction is None else f", friction {_short(result.friction)}"
    return result.sampler + friction + ("" if result.gradient == "plain" else f", {result.gradient} gradients")


def _settings(result: Record) -> list[tuple[str, str]]:
    precision = "" if result.mixed_precision == "no" else f", {result.mixed_precision}"
    thinning = f" × {result.num_steps_between_draws} steps" if result.num_steps_between_draws > 1 else ""
    found = "" if result.calibration is None else " (auto)"
    rows = [
        ("posterior", f"nβ {number(result.nbeta)}   γ {number(result.localization)}   n {result.n:,} "
                      f"({_counted(result.unit)})"),
        ("sampler", f"{sampler_text(result)}   ε {_short(result.step_size)}{found}   batch {result.batch_size:,}   "
                    f"seed {result.seed}{precision}"),
        ("chains", f"{result.num_chains:,} × {result.num_draws:,} draws{thinning}, after {result.num_burnin_steps:,} "
                   "steps of burn-in"),
        ("evidence", f"n L_n(w*) + λ̂ ln n {number(result.free_energy)} nats   n E[L_n] {number(result.wbic)} nats"),
    ]  # fmt: skip
    if result.minimize is not None:
        found = {name: value for name, value in result.minimize.items() if isinstance(value, (int, float, str))}
        rows.append(("minimize", "   ".join(f"{name.replace('_', ' ')} {_plain(v)}" for name, v in found.items())))
    speed = f"{number(result.steps_per_second)} steps/s"
    rows.append(("cost", f"{result.num_gradients:,} gradients   {_duration(result.wall_seconds)}   {speed}   "
                         f"{result.peak_memory_bytes / 2**20:,.0f} MiB"))  # fmt: skip
    return rows


def _subject(result: Record) -> list[tuple[str, str]]:
    sampled, total = result.num_parameters, result.num_parameters_total
    count = f"{total:,} parameters" if sampled == total else f"{sampled:,} of {total:,} parameters sampled"
    where = f"{result.device}, {result.dtype}, {result.mode} mode"
    processes = "" if result.num_processes == 1 else f", {result.num_processes} processes"
    size = max(result.data_parallel, result.parameter_parallel)
    processes += "" if size == 1 else f" in groups of {size}"
    return [
        ("model", f"{_identity(result.model)}   {count}"),
        ("data", _identity(result.data)),
        ("run", f"{result.task}   {where}{processes}"),
    ]


def _identity(values: dict[str, Any]) -> str:
    """Whatever provenance holds, the id first; long revisions and fingerprints shortened."""
    known = {name: value for name, value in values.items() if isinstance(value, (str, int, float)) and value != ""}
    first = str(known.pop("id", "")) or "–"
    return "   ".join([first, *(f"{name.replace('_', ' ')} {_cut(str(value))}" for name, value in known.items())])


def _cut(text: str) -> str:
    return text[:12] if len(text) >= 32 and all(char in "0123456789abcdef" for char in text) else text


def _counted(unit: str) -> str:
    """`nats per token` → `tokens`: what n counts."""
    return unit.rsplit(" per ", 1)[1] + "s" if " per " in unit else unit


def _short(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2g}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, bool) else number(value)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
