"""What is said of a result, line by line: each quantity once, with its value and its labels on the card and in `show`.

To add a line to the card, write a `Line` here and put it into `CARD_DIAGNOSTICS` or `CARD_SETTINGS`; to add it to
`show`, put it into a row of `SHOW`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hf_llc.numerals import number, short, with_error
from hf_llc.publishing import quantities
from hf_llc.publishing.formatting import code, counted, duration, escaped, inert, plain

if TYPE_CHECKING:
    from hf_llc.records.record import Record


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


# The estimate and its diagnostics

_LLC_PER_CHAIN = Line(quantities.llc_per_chain, card="λ̂ by chain")
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
_DRIFT = Line(quantities.drift, card="Drift of λ̂ between halves")
_SHOWN_DRIFT = Line(lambda r: quantities.drift(r, " between the halves of the draws"))
_BIAS = Line(quantities.bias, card="Added to λ̂ by the sampler")
_SENSITIVITY = Line(quantities.sensitivity, card="Change of λ̂ with γ", show="λ̂ changes by {}")
_HEAT_CAPACITY = Line(  # with an error above λ̂, or a λ̂ below zero, it says nothing of λ
    lambda r: with_error(r.heat_capacity, r.heat_capacity_se) if r.heat_capacity_se <= r.llc else None,
    card="Variance of nβL (tends to λ)",
    show="variance of nβL {}",
)
_KINETIC_TEMPERATURE = Line(
    lambda r: None if math.isnan(r.kinetic_temperature) else number(r.kinetic_temperature),
    show="kinetic temperature {}",
)
_DESCENT = Line(quantities.descent, card="λ̂ from the minimum that γ allows", show="λ̂ {}")
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
_SAMPLER = Line(quantities.sampler, card="Sampler")
_STEP_SIZE = Line(
    lambda r: number(r.step_size) + ("" if r.calibration is None else " (calibrated)"), card="Step size ε"
)
_ROUNDED_STEP_SIZE = Line(lambda r: short(r.step_size) + ("" if r.calibration is None else " (auto)"), show="ε {}")
_CHAINS = Line(lambda r: f"{r.num_chains:,} × {r.num_draws:,}{quantities.thinning(r)}", card="Chains × draws")
_BURNIN = Line(lambda r: f"{r.num_burnin_steps:,}", card="Burn-in steps")
_CHAINS_AND_BURNIN = Line(
    lambda r: (
        f"{r.num_chains:,} × {r.num_draws:,} draws{quantities.thinning(r)}, "
        f"after {r.num_burnin_steps:,} steps of burn-in"
    )
)
_BATCH_SIZE = Line(lambda r: f"{r.batch_size:,}{quantities.batches(r)}", card="Batch size", show="batch {}")
_SEED = Line(lambda r: str(r.seed), card="Seed")
_SEED_AND_PRECISION = Line(lambda r: f"{r.seed}{quantities.precision(r)}", show="seed {}")
_WEIGHTS = Line(lambda r: None if r.weights == "all" else code(r.weights), card="Weights sampled")
_DISTANCE = Line(
    lambda r: None if r.minimize is None else f"moved by {number(r.minimize.get('distance'))}",
    card="w\\* first taken to the nearest minimum",
)
_MINIMIZE = Line(quantities.minimize)

# The evidence, the cost, and what was measured

_FREE_ENERGY = Line(lambda r: number(r.free_energy), show="n L_n(w*) + λ̂ ln n {} nats")
_WBIC = Line(  # at nβ = n / ln n the two are one number
    lambda r: None if number(r.wbic) == number(r.free_energy) else number(r.wbic), show="n E[L_n] {} nats"
)
_NUM_GRADIENTS = Line(lambda r: f"{r.num_gradients:,} gradients")
_DURATION = Line(lambda r: duration(r.wall_seconds))
_SPEED = Line(lambda r: number(r.steps_per_second), show="{} steps/s")
_MEMORY = Line(lambda r: f"{r.peak_memory_bytes / 2**20:,.0f} MiB")
_MODEL = Line(lambda r: f"{quantities.card_identity(r.model)}, {quantities.num_parameters(r)}", card="Model")
_SHOWN_MODEL = Line(lambda r: quantities.show_identity(r.model))
_NUM_PARAMETERS = Line(quantities.num_parameters)
_UNUSED_WEIGHTS = Line(
    partial(quantities.of_weights, "unused_weights"), card="Tensors of the checkpoint that are not used"
)
_UNTIED_WEIGHTS = Line(
    partial(quantities.of_weights, "untied_weights"), card="Equal weights that config.json does not tie"
)
_DATA = Line(lambda r: quantities.card_identity(r.data), card="Data")
_SHOWN_DATA = Line(lambda r: quantities.show_identity(r.data))
_CLASSES = Line(quantities.classes, card="The data's classes")
_READING = Line(quantities.reading, card="The data were read")
_TASK = Line(lambda r: inert(r.task), card="Task")
_RUN = Line(lambda r: inert(f"{r.mode} mode, {r.dtype}{quantities.precision(r)}, {r.device}"), card="Run")
_SHOWN_RUN = Line(quantities.run)
_VERSIONS = Line(quantities.versions, card="Versions")

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
