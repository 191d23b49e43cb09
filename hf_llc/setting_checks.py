"""How a dataclass of settings describes its fields and checks their values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from hf_llc.errors import InputError

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
    """Refuse a value that its field's annotation does not allow, and a number that is not finite.

    Raises:
        InputError: there is such a value.
    """
    hints = get_type_hints(type(config))
    for item in fields(config):
        value, hint = getattr(config, item.name), hints[item.name]
        options = [hint] if get_origin(hint) is Literal else list(get_args(hint))
        choices = [c for option in options if get_origin(option) is Literal for c in get_args(option)]
        choices += ADDED_CHOICES.get(item.name, [])
        kinds = [option for option in options if isinstance(option, type)] or ([hint] if isinstance(hint, type) else [])
        if value is None and type(None) in options:
            continue
        if isinstance(value, str) and value in choices:
            continue
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
