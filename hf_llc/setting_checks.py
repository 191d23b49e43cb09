"""How a dataclass of settings describes its fields and checks their values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from hf_llc.errors import InputError
from hf_llc.files import plain_value

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ADDED_CHOICES: dict[str, list[str]] = {}
"""Choices beyond a field's Literal, by the name of the field."""


def add_choice(setting: str, value: str) -> None:
    """Let a setting take one more value. Registries call this for the tasks and samplers that users add.

    Args:
        setting: name of a field with choices, such as "task".
        value: the new choice.
    """
    ADDED_CHOICES.setdefault(setting, []).append(value)


def setting(default: Any, text: str) -> Any:
    """A field of settings.

    Args:
        default: its default value.
        text: its help on the command line.
    """
    return field(default=default, metadata={"help": text})


def check_kinds(config: DataclassInstance) -> None:
    """Make values plain; refuse one that its field's annotation does not allow, and a number that is not finite.

    Raises:
        InputError: there is such a value.
    """
    hints = get_type_hints(type(config))
    for item in fields(config):
        value, hint = plain_value(getattr(config, item.name)), hints[item.name]
        object.__setattr__(config, item.name, value)  # the dataclass is frozen for its users
        options = [hint] if get_origin(hint) is Literal else list(get_args(hint))
        choices = [c for option in options if get_origin(option) is Literal for c in get_args(option)]
        choices += ADDED_CHOICES.get(item.name, [])
        plain = [get_origin(option) or option for option in options or [hint]]  # dict[str, Any] → dict
        kinds = [kind for kind in plain if isinstance(kind, type)]
        if value is None and type(None) in options:
            continue
        if isinstance(value, str) and value in choices:
            continue
        if isinstance(value, str) and not value.strip():
            raise InputError(f"{item.name} is empty", value=value, remedy="leave it out; is a shell variable unset?")
        if isinstance(value, bool):  # a bool is an int, but True is not a number of chains
            is_allowed = bool in kinds
        elif isinstance(value, int):
            is_allowed = int in kinds or float in kinds
        else:
            is_allowed = any(isinstance(value, kind) for kind in kinds)
        if not is_allowed:
            allowed = [repr(c) for c in choices] + [kind.__name__ for kind in kinds if kind is not type(None)]
            raise InputError(f"{item.name} has a value of the wrong kind", value=value, allowed=", ".join(allowed))
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{item.name} is not a finite number", value=value, allowed="a finite number")


_COUNTS = ("num_chains", "num_draws", "num_steps_between_draws", "num_leapfrog_steps", "minimize_steps", "max_steps")
_SIZES = ("observe_every", "observe_examples", "batch_size", "micro_batch_size", "data_parallel", "parameter_parallel")
_STRENGTHS = ("friction", "localization", "nbeta", "beta")

_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys((*_COUNTS, *_SIZES), (lambda value: value >= 1, "1 or more")),
    "chain_batch_size": (lambda value: value >= 1, "'auto', or 1 or more"),
    **dict.fromkeys(("num_burnin_steps", "localization"), (lambda value: value >= 0, "'auto', or 0 or more")),
    "save_seconds": (lambda value: value >= 0, "0 or more"),
    **dict.fromkeys(("step_size", "friction"), (lambda value: value > 0, "'auto', or a number above 0")),
    **dict.fromkeys(("target_se", "max_seconds", "nbeta", "beta"), (lambda value: value > 0, "a number above 0")),
    "seed": (lambda value: 0 <= value < 2**63, "0 … 2^63 − 1"),
    **dict.fromkeys(("max_examples", "max_length", "observe_examples"), (lambda value: value >= 2, "2 or more")),
}
"""The numbers that a setting takes, as a condition and in words."""

MOST = 10**9
"""Of whatever is counted: a year of steps at 30 a second."""

_LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(
        (*_COUNTS, *_SIZES, "chain_batch_size", "num_burnin_steps", "max_examples", "max_length"),
        (lambda value: value <= MOST, "at most 10^9"),
    ),
    # float32 holds the products of these
    **dict.fromkeys(_STRENGTHS, (lambda value: value == 0 or 1e-18 <= value <= 1e18, "1e-18 … 1e18")),
    "step_size": (lambda value: 1e-30 <= value <= 1e18, "1e-30 … 1e18"),
}
"""How far a number may go that is in the range, in the same way."""

_REMEDIES = {"step_size": "try 1e-6", "target_se": "0.05 is 5 % of λ̂"}


def check_ranges(config: DataclassInstance) -> None:
    """Refuse a number that its setting does not take; "auto" and the like are checked by `check_kinds`.

    Raises:
        InputError: there is such a number.
    """
    for item in fields(config):
        name, value = item.name, getattr(config, item.name)
        if isinstance(value, (int, float)):
            for table in (_RANGES, _LIMITS):
                is_allowed, allowed = table.get(name, (lambda _: True, ""))
                require(is_allowed(value), name, value, allowed, _REMEDIES.get(name, ""))


def require(is_allowed: bool, name: str, value: object, allowed: str, remedy: str = "") -> None:
    """Refuse the value of a setting unless `is_allowed`.

    Raises:
        InputError: it is refused.
    """
    if not is_allowed:
        raise InputError(f"{name} is out of range", value=value, allowed=allowed, remedy=remedy)


def unknown_setting(key: str, known: list[str], *, source: str, owner: str | None) -> InputError:
    """The refusal of an unknown setting.

    Args:
        key: its name.
        known: the names of the settings that `source` may have.
        source: where it stands.
        owner: what has a setting of this name; None: nothing.
    """
    near = difflib.get_close_matches(key, known, n=1)
    if owner is not None:
        allowed, remedy = "", f"it is a setting of {owner}"
    elif near:
        allowed, remedy = "", f"did you mean {near[0]!r}?"
    else:
        allowed, remedy = ", ".join(known), ""
    return InputError(f"unknown setting {key!r} in {source}", allowed=allowed, remedy=remedy)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names and values of the settings that differ, as `name: old → new`."""
    keys = list(dict.fromkeys([*old, *new]))
    return [f"{k}: {old.get(k)!r} → {new.get(k)!r}" for k in keys if old.get(k) != new.get(k)]
