"""What is said of a result, line by line: each quantity once, with its value and its labels on the card and in `show`.

To add a line to the card, write a `Line` here and put it into `CARD_DIAGNOSTICS` or `CARD_SETTINGS`; to add it to
`show`, put it into a row of `SHOW`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_llc.numerals import number, short, with_error
from hf_llc.publishing.formatting import code, counted, duration, escaped, inert, plain

if TYPE_CHECKING:
    from hf_llc.records.record import Record

_MAX_CHAINS = 8
"""λ̂ is listed for at most this many chains."""


@dataclass(frozen=True)
class Line:
    """One quantity of a result.

    Attributes:
        text: the value for people; None if the result does not have it, and then the line is left out.
        card: the label in the card's table, in Markdown; `{unit}` in it stands for the unit of the losses.
        show: the value with its label in a row of `show`; `{}` stands for the value.
    """

    text: Callable[[Record], str | None]
    card: str = ""
    show: str = "{}"


def card_rows(result: Record, lines: Sequence[Line]) -> list[tuple[str, str]]:
    """The lines as rows (label, value) of a table on the card."""
    texts = [(line.card.format(unit=escaped(result.unit)), line.text(result)) for line in lines]
    return [(label, text) for label, text in texts if text is not None]


def show_rows(result: Record, table: dict[str, tuple[Line, ...]] | None = None) -> list[tuple[str, str]]:
    """The rows (label, text) of `show` below the verdict; all, if no `table` says which."""
    rows = []
    for label, lines in (SHOW if table is None else table).items():
        texts = [(line, line.text(result)) for line in lines]
        said = [line.show.format(text) for line, text in texts if text is not None]
        if said:
            rows.append((label, "   ".join(said)))
    return rows


def _llc_per_chain(result: Record) -> str:
    values = [number(x) for x in result.llc_per_chain[:_MAX_CHAINS]]
    more = len(result.llc_per_chain) - len(values)
    return ", ".join(values) + (f", … ({more} more)" if more > 0 else "")


def _drift(result: Record, where: str = "") -> str:
    drift, error, p = (result.plateau.get(name) for name in ("drift", "drift_se", "p_value"))
    if drift is None or not math.isfinite(drift):
        return "– (not measured)"
    return f"{with_error(drift, error if error is not None else math.nan)}{where} (p = {short(p)})"


def _bias(result: Record) -> str:
    """What the finite step and the noise of minibatch gradients add to λ̂, and whether it was subtracted."""
    if result.llc_uncorrected != result.llc:
        return f"heat of gradient noise {short(result.step_size_bias)}, taken off"
    text = f"finite step {short(result.step_size_bias)}"
    if result.llc_extrapolated is not None and result.llc_extrapolated_se is not None:
        text += f"   extrapolated to ε = 0: λ̂ = {with_error(result.llc_extrapolated, result.llc_extrapolated_se)}"
    return text


def _sensitivity(result: Record) -> str:
    """By how much λ̂ changes when γ is halved and doubled, with standard errors."""
    change = result.localization_sensitivity
    if not change or not math.isfinite(sum(change.values())):
        return "– (not measured)"
    halved, doubled = (
        f"{'+' * (change[name] >= 0)}{with_error(change[name], change[name + '_se'])}" for name in ("halved", "doubled")
    )
    return f"{halved} at γ/2, {doubled} at 2γ"


def _descent(result: Record) -> str | None:
    """λ̂ from the minimum that γ allows: from w* it is less by what a descent from there gains."""
    if result.descent is None:
        return None
    drop, error = result.descent["loss_drop"], result.descent.get("loss_drop_se", 0.0)
    where = f", {short(distance)} away" if (distance := result.descent.get("distance")) else ""
    if drop <= error:  # noise, by which λ̂ would be corrected
        return f"as from w*: a descent lowers nβL by no more than its error, {short(error)}{where}"
    by = with_error(drop, error) if error > 0.1 * drop else short(drop)
    from_there = with_error(result.llc + drop, math.hypot(result.llc_se, error))
    return f"{from_there}: a descent from w* lowers nβL by {by}{where}"


def _sampler(result: Record) -> str:
    friction = "" if result.friction is None else f", friction {short(result.friction)}"
    return (
        inert(result.sampler)
        + friction
        + ("" if result.gradient == "plain" else f", {inert(result.gradient)} gradients")
    )


def _precision(result: Record) -> str:
    return "" if result.mixed_precision == "no" else f", {result.mixed_precision}"


def _thinning(result: Record) -> str:
    return f" × {result.num_steps_between_draws} steps" if result.num_steps_between_draws > 1 else ""


def _batches(result: Record) -> str:
    """What is unusual about the minibatches."""
    order = ", walked in turn" if result.batch_order == "in-turn" else ""
    return order + (", L_n of all examples at the draws" if result.draw_loss == "full" else "")


def _minimize(result: Record) -> str | None:
    if result.minimize is None:
        return None
    values = {name: value for name, value in result.minimize.items() if isinstance(value, (int, float, str))}
    texts = {name: str(value) if isinstance(value, (str, bool)) else number(value) for name, value in values.items()}
    return "   ".join(f"{name.replace('_', ' ')} {text}" for name, text in texts.items())


def _num_parameters(result: Record) -> str:
    sampled, total = result.num_parameters, result.num_parameters_total
    return f"{total:,} parameters" if sampled == total else f"{sampled:,} of {total:,} parameters sampled"


def _run(result: Record) -> str:
    processes = "" if result.num_processes == 1 else f", {result.num_processes} processes"
    group = max(result.data_parallel, result.parameter_parallel)
    groups = "" if group == 1 else f" in groups of {group}"
    return f"{result.device}, {result.dtype}, {result.mode} mode{processes}{groups}"


def _versions(result: Record) -> str:
    names = [name for name in ("hf_llc", "torch", "transformers") if name in result.versions]
    return ", ".join(f"{name} {inert(result.versions[name])}" for name in names) or "–"


def _card_identity(values: dict[str, Any]) -> str:
    """The id and what pins it down, as Markdown code."""
    names = [name for name in ("subset", "split", "revision", "fingerprint") if values.get(name)]
    return ", ".join([code(values.get("id") or "local"), *(f"{name} {code(values[name])}" for name in names)])


def _of_weights(name: str, result: Record) -> str | None:
    """What is odd about the checkpoint's weights: those not used, those equal and not tied."""
    said = result.model.get(name)
    return None if said is None else code(said)


def _classes(result: Record) -> str | None:
    """How the data's classes became the model's."""
    how = result.data.get("classes")
    return None if how is None else code(how)  # the names are the data's: nothing in them is Markdown


def _reading(result: Record) -> str | None:
    """How the data were read where that is a choice: chats, padding, pictures."""
    said = [f"{name}: {result.data[name]}" for name in ("chats", "padding", "pictures") if result.data.get(name)]
    return code("; ".join(said)) if said else None


def _show_identity(values: dict[str, Any]) -> str:
    """Whatever the provenance holds, the id first; long revisions and fingerprints are shortened."""
    known = {name: value for name, value in values.items() if isinstance(value, (str, int, float)) and value != ""}
    first = plain(known.pop("id", "") or known.pop("class", "")) or "without a name"
    facts = [(name.replace("_", " "), value) for name, value in known.items() if value is not False]
    texts = [(name, f"{v:,}" if type(v) is int else _shortened(plain(v)), v) for name, v in facts]
    return "   ".join([first, *(name if v is True else f"{name} {text}" for name, text, v in texts)])


def _shortened(text: str) -> str:
    is_hash = len(text) >= 32 and all(char in "0123456789abcdef" for char in text)
    return text[:12] if is_hash else text


# The estimate and its diagnostics

_LLC_PER_CHAIN = Line(_llc_per_chain, card="λ̂ by chain")
_PLAIN = Line(
    lambda r: with_error(r.llc_plain, r.llc_plain_se),
    card="λ̂ without paired losses",
    show="{} (from L_n(w*), not paired)",
)
_R_HAT = Line(lambda r: number(r.r_hat), card="r̂ between chains (below 1.1)", show="r̂ {}")
_ESS = Line(lambda r: number(round(r.ess, 1)), card="Effective draws", show="ESS {}")
_ACCEPTANCE = Line(  # samplers with momentum do not measure it
    lambda r: None if math.isnan(r.accept_prob) else number(r.accept_prob),
    card="MALA acceptance",
    show="acceptance {}",
)
_DRIFT = Line(_drift, card="Drift of λ̂ between halves")
_SHOWN_DRIFT = Line(lambda r: _drift(r, " between the halves of the draws"))
_BIAS = Line(_bias, card="Added to λ̂ by the sampler")
_SENSITIVITY = Line(_sensitivity, card="Change of λ̂ with γ", show="λ̂ changes by {}")
_HEAT_CAPACITY = Line(  # with an error above λ̂, or a λ̂ below zero, it says nothing of λ
    lambda r: with_error(r.heat_capacity, r.heat_capacity_se) if r.heat_capacity_se <= r.llc else None,
    card="Variance of nβL (tends to λ)",
    show="variance of nβL {}",
)
_KINETIC_TEMPERATURE = Line(
    lambda r: None if math.isnan(r.kinetic_temperature) else number(r.kinetic_temperature),
    show="kinetic temperature {}",
)
_DESCENT = Line(_descent, card="λ̂ from the minimum that γ allows", show="λ̂ {}")
_INIT_LOSS = Line(lambda r: number(r.init_loss), card="Loss at w\\* ({unit})", show="at w* {}")
_MEAN_LOSS = Line(lambda r: number(r.mean_loss), card="Mean loss of the chains", show="mean {}")
_TRIVIAL_LOSS = Line(
    lambda r: None if r.trivial_loss is None else number(r.trivial_loss),
    card="Loss of a constant predictor",
    show="trivial predictor {}",
)
_UNIT = Line(lambda r: r.unit, show="({})")

# The settings

_NBETA = Line(lambda r: number(r.nbeta), card="Inverse temperature times n, nβ", show="nβ {}")
_LOCALIZATION = Line(lambda r: number(r.localization), card="Localization γ", show="γ {}")
_SUBJECT = Line(
    lambda r: (
        f"{plain(r.model.get('id') or r.model.get('class') or 'a model')} on "
        f"{plain(r.data.get('id') or 'data without a name')}, n {r.n:,}"
    )
)
_N = Line(lambda r: f"{r.n:,} ({counted(r.unit)})", card="n", show="n {}")
_SAMPLER = Line(_sampler, card="Sampler")
_STEP_SIZE = Line(
    lambda r: number(r.step_size) + ("" if r.calibration is None else " (calibrated)"), card="Step size ε"
)
_ROUNDED_STEP_SIZE = Line(lambda r: short(r.step_size) + ("" if r.calibration is None else " (auto)"), show="ε {}")
_CHAINS = Line(lambda r: f"{r.num_chains:,} × {r.num_draws:,}{_thinning(r)}", card="Chains × draws")
_BURNIN = Line(lambda r: f"{r.num_burnin_steps:,}", card="Burn-in steps")
_CHAINS_AND_BURNIN = Line(
    lambda r: f"{r.num_chains:,} × {r.num_draws:,} draws{_thinning(r)}, after {r.num_burnin_steps:,} steps of burn-in"
)
_BATCH_SIZE = Line(lambda r: f"{r.batch_size:,}{_batches(r)}", card="Batch size", show="batch {}")
_SEED = Line(lambda r: str(r.seed), card="Seed")
_SEED_AND_PRECISION = Line(lambda r: f"{r.seed}{_precision(r)}", show="seed {}")
_WEIGHTS = Line(lambda r: None if r.weights == "all" else code(r.weights), card="Weights sampled")
_DISTANCE = Line(
    lambda r: None if r.minimize is None else f"moved by {number(r.minimize.get('distance'))}",
    card="w\\* first taken to the nearest minimum",
)
_MINIMIZE = Line(_minimize)

# The evidence, the cost, and what was measured

_FREE_ENERGY = Line(lambda r: number(r.free_energy), show="n L_n(w*) + λ̂ ln n {} nats")
_WBIC = Line(  # at nβ = n / ln n the two are one number
    lambda r: None if number(r.wbic) == number(r.free_energy) else number(r.wbic), show="n E[L_n] {} nats"
)
_NUM_GRADIENTS = Line(lambda r: f"{r.num_gradients:,} gradients")
_DURATION = Line(lambda r: duration(r.wall_seconds))
_SPEED = Line(lambda r: number(r.steps_per_second), show="{} steps/s")
_MEMORY = Line(lambda r: f"{r.peak_memory_bytes / 2**20:,.0f} MiB")
_MODEL = Line(lambda r: f"{_card_identity(r.model)}, {_num_parameters(r)}", card="Model")
_SHOWN_MODEL = Line(lambda r: _show_identity(r.model))
_NUM_PARAMETERS = Line(_num_parameters)
_UNUSED_WEIGHTS = Line(partial(_of_weights, "unused_weights"), card="Tensors of the checkpoint that are not used")
_UNTIED_WEIGHTS = Line(partial(_of_weights, "untied_weights"), card="Equal weights that config.json does not tie")
_DATA = Line(lambda r: _card_identity(r.data), card="Data")
_SHOWN_DATA = Line(lambda r: _show_identity(r.data))
_CLASSES = Line(_classes, card="The data's classes")
_READING = Line(_reading, card="The data were read")
_TASK = Line(lambda r: inert(r.task), card="Task")
_RUN = Line(lambda r: inert(f"{r.mode} mode, {r.dtype}{_precision(r)}, {r.device}"), card="Run")
_SHOWN_RUN = Line(_run)
_VERSIONS = Line(_versions, card="Versions")

CARD_DIAGNOSTICS = (
    *(_LLC_PER_CHAIN, _R_HAT, _ESS, _ACCEPTANCE, _DRIFT, _BIAS, _SENSITIVITY, _HEAT_CAPACITY, _PLAIN),
    *(_DESCENT, _INIT_LOSS, _MEAN_LOSS, _TRIVIAL_LOSS),
)
CARD_SETTINGS = (
    *(
        _MODEL,
        _WEIGHTS,
        _UNUSED_WEIGHTS,
        _UNTIED_WEIGHTS,
        _DATA,
        _CLASSES,
        _READING,
        _TASK,
        _N,
        _NBETA,
        _LOCALIZATION,
        _SAMPLER,
        _STEP_SIZE,
    ),
    *(_CHAINS, _BURNIN, _BATCH_SIZE, _SEED, _DISTANCE, _RUN, _VERSIONS),
)
SHOW = {
    "by chain": (_LLC_PER_CHAIN,),
    "plain": (_PLAIN,),
    "mixing": (_R_HAT, _ESS, _ACCEPTANCE),
    "drift": (_SHOWN_DRIFT,),
    "bias": (_BIAS,),
    "γ": (_SENSITIVITY,),
    "minimum": (_DESCENT,),
    "heat": (_HEAT_CAPACITY, _KINETIC_TEMPERATURE),
    "loss": (_MEAN_LOSS, _INIT_LOSS, _TRIVIAL_LOSS, _UNIT),
    "posterior": (_NBETA, _LOCALIZATION, _N),
    "sampler": (_SAMPLER, _ROUNDED_STEP_SIZE, _BATCH_SIZE, _SEED_AND_PRECISION),
    "chains": (_CHAINS_AND_BURNIN,),
    "evidence": (_FREE_ENERGY, _WBIC),
    "minimize": (_MINIMIZE,),
    "cost": (_NUM_GRADIENTS, _DURATION, _SPEED, _MEMORY),
    "model": (_SHOWN_MODEL, _NUM_PARAMETERS),
    "data": (_SHOWN_DATA,),
    "run": (_TASK, _SHOWN_RUN),
}
"""Rows of `show --details`: label → lines, which stand side by side."""
SHORT = {"γ": (_SENSITIVITY,), "mixing": (_R_HAT, _ESS), "of": (_SUBJECT,)}
"""Rows of `show` without details."""
