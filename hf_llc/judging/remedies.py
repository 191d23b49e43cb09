"""Remedies: the settings to change after a check has failed. Their text is made from them, so the two cannot differ.

Each goes as far as one step needs to: a result whose first remedy is followed is trustworthy within three such steps,
or says why no setting helps (tests/test_remedies.py walks there).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hf_llc.config import SampleConfig
from hf_llc.numerals import number, short
from hf_llc.records.findings import NOT_HERE, Reason
from hf_llc.sampler_rules import SAMPLER_RULES

_MOST_LONGER = 50.0
"""More steps by more than this factor are no remedy."""

_FEW_TIMES = 5.0
"""More draws than this factor cost more than better settings would."""

_MOST_MINIMIZE_STEPS = 8000
"""A minimum that so many steps do not find is not found by more of them: four times the default."""

_MOST_STEPS = 8000
"""The same of chains that γ alone holds."""


_CLOSE = 0.05
"""How far w* may lie above a minimum that is meant to be at w*, as a share of λ̂."""

_LEAST_NBETA = 0.01
"""A smaller part of nβ makes another question of it."""

_KEPT = 0.5
"""Of the distance from L_n(w*) to the loss of a constant predictor chains may lose less than this."""

_MOST_TIGHTER = 4.0
"""γ/nβ may grow by this factor: with more, λ̂ becomes small beside the drop too."""


@dataclass(frozen=True)
class Asked:
    """What a remedy may change, and what bounds it.

    Attributes:
        settings: as asked for; one that is "auto" may stay so.
        n: examples or predicted tokens; None: not known.
        num_examples: the largest batch_size; None: not known.
        friction: what the chains used.
        is_known: False: of a bare trace only chains and burn-in are known. Remedies then name settings without values.
    """

    settings: SampleConfig
    n: int | None = None
    num_examples: int | None = None
    friction: float | None = None
    is_known: bool = True

    def is_auto(self, name: str) -> bool:
        """Whether the setting was left "auto"."""
        return getattr(self.settings, name) == "auto"

    @property
    def has_all_examples(self) -> bool:
        """Each gradient is of all examples; True also where that is not known."""
        size = self.settings.batch_size
        return not isinstance(size, int) or self.num_examples is None or size >= self.num_examples


@dataclass(frozen=True)
class Remedy:
    """What to do: `change`, the settings and their values (none: no setting helps), and the same as text."""

    text: str
    change: dict[str, Any] = field(default_factory=dict)


def reason_of(name: str, text: str, remedy: Remedy, *, is_note: bool = False) -> Reason:
    """A finding with its remedy."""
    return Reason(name, text, remedy.text, is_note, remedy.change)


def not_here(why: str) -> Remedy:
    """No setting helps."""
    return Remedy(f"{NOT_HERE} {why}")


def set_to(asked: Asked, now: dict[str, float] | None = None, **values: Any) -> Remedy:
    """Set settings to `values`.

    Args:
        asked: the settings as they are.
        now: the values in use of those that were "auto".
        **values: the new ones: "auto"; None for what is decided from the data; or a number.
    """
    old = {name: getattr(asked.settings, name) for name in values} | (now or {})
    words = [_words(name, old[name], new) for name, new in values.items()]
    if asked.is_known:
        return Remedy(" and ".join(words), values)
    return Remedy(" and ".join(" ".join(each.split()[:2]) for each in words if not each.startswith("keep")))


def _words(name: str, old: Any, new: Any) -> str:
    if new is True:
        return f"set {name}"
    if new is None:
        return f"leave {name} out"
    if new == "auto":
        return f"leave {name} at 'auto'" + ("" if isinstance(old, str) else f" (it was {number(old)})")
    if isinstance(new, str):
        return f"raise {name} from {number(old)} to '{new}'"
    if new == old:
        return f"keep {name} {number(new)}"
    is_known = isinstance(old, (int, float)) and math.isfinite(old)
    verb = "set" if not is_known else "raise" if new > old else "lower"
    return f"{verb} {name}" + (f" from {number(old)}" if is_known else "") + f" to {number(new)}"


def own_step_size(asked: Asked, step_size: float, factor: float) -> Remedy:
    """Let the pilot find ε; where it has done so, or cannot, ε times `factor`."""
    settings = asked.settings
    if math.isnan(step_size):
        return Remedy("lower step_size" if factor < 1 else "raise step_size")
    has_pilot = settings.sampler == "auto" or not SAMPLER_RULES[settings.sampler].step_size_hint
    if not asked.is_auto("step_size") and has_pilot:
        return set_to(asked, step_size="auto")
    values: dict[str, Any] = {"step_size": _rounded(factor * step_size)}
    if asked.friction is not None:  # left "auto" beside a number for ε it would be another
        values["friction"] = asked.friction
    if asked.is_auto("num_burnin_steps") and factor < 1:  # smaller steps, as many more of them
        values["max_steps"] = _rounded_up(settings.max_steps / factor)
    return set_to(asked, {"step_size": step_size, "friction": asked.friction or math.nan}, **values)


def principled_nbeta(asked: Asked, nbeta: float) -> Remedy | None:
    """Take nβ = n / ln n in place of a smaller one; None if nβ is not smaller."""
    if asked.n is None or asked.n < 2 or not nbeta < 0.99 * asked.n / math.log(asked.n):
        return None
    text = f"leave nbeta at n / ln n, {number(asked.n / math.log(asked.n))} (it was {number(nbeta)})"
    return Remedy(text, {"nbeta": None, "beta": None})


def stronger_pull(asked: Asked, localization: float, factor: float) -> Remedy:
    """γ times `factor`, or the γ that the pilot finds where a γ of 0 was asked for."""
    if math.isnan(localization):
        return Remedy("raise localization")
    if localization == 0:
        return set_to(asked, localization="auto")
    return pull_of(asked, localization, factor * localization)


def pull_of(asked: Asked, localization: float, wanted: float) -> Remedy:
    """The γ `wanted`."""
    return set_to(asked, {"localization": localization}, localization=_rounded(wanted))


def larger_batches(asked: Asked, factor: float) -> Remedy:
    """batch_size times at least `factor`, a power of two; all examples where there are not so many."""
    size = asked.settings.batch_size
    if not isinstance(size, int):
        return Remedy("raise batch_size")
    wanted = size * 2 ** math.ceil(math.log2(factor))
    if asked.num_examples is not None and wanted >= asked.num_examples:
        return set_to(asked, batch_size="full")
    return set_to(asked, batch_size=wanted)


def longer(asked: Asked, localization: float, factor: float, *, draws_only: bool = False) -> Remedy:
    """Steps times `factor`, at the same γ.

    Args:
        asked: the settings.
        localization: γ in use.
        factor: at least 2 is taken.
        draws_only: the burn-in was long enough.
    """
    settings, factor = asked.settings, max(factor, 2.0)
    values: dict[str, Any]
    if not asked.is_auto("num_burnin_steps"):
        names = ["num_draws"] if draws_only or settings.num_burnin_steps == 0 else ["num_burnin_steps", "num_draws"]
        values = {name: _rounded_up(factor * getattr(settings, name)) for name in names}
        return set_to(asked, None, **values)
    if settings.max_seconds is not None:
        return set_to(asked, max_seconds=None)
    values = {"max_steps": _rounded_up(factor * settings.max_steps)}
    if asked.is_auto("localization") and math.isfinite(localization):  # a longer chain would get a weaker γ
        values["localization"] = localization
    return set_to(asked, {"localization": localization}, **values)


def more_draws(asked: Asked, localization: float, factor: float) -> Remedy:
    """Draws times `factor`; where that are many, ε and γ of the pilot, then whole batches, then nothing."""
    if factor > _FEW_TIMES and not asked.is_auto("step_size") and asked.is_known:
        return own_step_size(asked, _given_step_size(asked), 4)
    if factor > _FEW_TIMES and not asked.is_auto("localization") and asked.is_known:
        return set_to(asked, {"localization": localization}, localization="auto")
    if factor <= _MOST_LONGER:
        return longer(asked, localization, factor, draws_only=True)
    if not asked.has_all_examples:
        return larger_batches(asked, 64)
    times = f"{short(factor)} times the draws" if math.isfinite(factor) else "no number of draws"
    return not_here(f"λ̂ is too near zero to be told from it: {times} would do")


def to_minimum(asked: Asked) -> Remedy:
    """Take w* to the nearest minimum; where that has been tried with many steps, nothing."""
    settings = asked.settings
    if not settings.minimize:
        return set_to(asked, minimize=True)
    if settings.minimize_steps < _MOST_MINIMIZE_STEPS:
        return set_to(asked, minimize_steps=_MOST_MINIMIZE_STEPS)
    return not_here(f"{number(settings.minimize_steps)} steps of minimize found no minimum of this data's loss near w*")


def hotter_at_w_star(asked: Asked, *, nbeta: float, localization: float, share: float, lost: float) -> Remedy | None:
    """The nβ and γ at which w* itself is close to a minimum: one that a smaller nβ makes too shallow to matter.

    On a quadratic loss λ̂ and its minimum depend on γ/nβ alone, and the drop of a descent is proportional to nβ. What
    chains lose at that nβ is more by the same factor; a larger γ/nβ then keeps them from leaving the basin.

    Args:
        asked: the settings.
        nbeta: nβ in use.
        localization: γ in use.
        share: the drop of the descent as a share of λ̂ from its end.
        lost: what chains at this minimum lose of the distance to a constant predictor; 0: not known.

    Returns:
        None where nothing is known of the settings, or no such nβ keeps the model.
    """
    factor = _CLOSE / share
    if not asked.is_known or not localization > 0 or not _LEAST_NBETA < factor < 1:
        return None
    tighter = max(1.0, 2 * lost / (factor * _KEPT))
    if tighter > _MOST_TIGHTER:
        return None
    values = {"nbeta": _rounded(factor * nbeta), "localization": _rounded(tighter * factor * localization)}
    return set_to(asked, {"nbeta": nbeta, "localization": localization}, **values)


def weaker_pull(asked: Asked, localization: float) -> Remedy:
    """A weaker γ: that of the pilot, at an ε of the pilot, in chains long enough for it."""
    settings = asked.settings
    if not asked.is_auto("localization"):
        return set_to(asked, {"localization": localization}, localization="auto")
    if not asked.is_auto("step_size"):
        return own_step_size(asked, _given_step_size(asked), 4)
    if asked.is_auto("num_burnin_steps") and settings.max_seconds is not None:
        return set_to(asked, max_seconds=None)
    if asked.is_auto("num_burnin_steps") and settings.max_steps < _MOST_STEPS:
        return set_to(asked, max_steps=_MOST_STEPS)
    return not_here("the loss is flatter than γ wherever chains of so many steps can go: λ̂ is that of this γ alone")


def _given_step_size(asked: Asked) -> float:
    return math.nan if asked.settings.step_size == "auto" else asked.settings.step_size


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _rounded_up(value: float) -> int:
    unit = 10 ** max(math.floor(math.log10(value)) - 1, 0)
    return math.ceil(value / unit - 1e-9) * unit
