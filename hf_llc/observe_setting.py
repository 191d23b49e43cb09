"""The setting `observe`: what is recorded along the chains, as text or by name in Python."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hf_llc.errors import InputError

SAMPLED = "@data"
"""In place of a data set: the data that the chains are sampled on."""

OBSERVABLES = ("parameter_norms",)
"""What `hf_llc.observables` can record by name, before anybody registers more: known here without torch."""

_NAME = re.compile(r"\w[\w.-]{0,63}")


def checked_observe(
    observe: str | Mapping[str, Any] | None, *, setting: str = "observe"
) -> str | dict[str, Any] | None:
    """The setting in one spelling. Text that gives a name to data becomes a mapping. Refusals call it `setting`.

    Returns:
        A list of registered names, as it was given; or a mapping from names to `SAMPLED`, data, or a callable, where
        None stands for a registered name; or None.

    Raises:
        InputError: a name that cannot be one, one that stands twice, or nothing behind it.
    """
    if observe is None or (isinstance(observe, str) and "=" not in observe):
        return observe
    items = [_item(part) for part in _parts(observe)] if isinstance(observe, str) else list(observe.items())
    if not items:
        raise InputError(f"{setting} names nothing", value=observe, remedy="leave it out")
    found: dict[str, Any] = {}
    for name, value in items:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            allowed = "letters, digits, '_', '.' and '-', 64 at most"
            raise InputError(f"{setting} has a name that is not allowed", value=name, allowed=allowed)
        if name in found:
            raise InputError(f"{setting} gives two things the same name", value=name, remedy="give one another name")
        if isinstance(value, (str, os.PathLike)) and not str(value).strip():
            raise InputError(f"{setting} has no data after {name}=", value=str(value), remedy="write NAME=DATA:SPLIT")
        if isinstance(value, str) and value.endswith(":") and not os.path.exists(value):
            remedy = "write NAME=DATA:SPLIT, or leave out the colon"
            raise InputError(f"{setting} has no split after the colon of {name}", value=value, remedy=remedy)
        found[name] = value
    return found


def unknown_observable(name: str, known: Iterable[str]) -> InputError:
    """The refusal of a name that is none of the `known`."""
    remedy = "see hf_llc.observables.register"
    return InputError("observe names an unknown observable", value=name, allowed=", ".join(known), remedy=remedy)


def registered_names(observe: str | Mapping[str, Any] | None) -> list[str]:
    """The names in the setting that stand for registered observables."""
    if isinstance(observe, str):
        return [part.strip() for part in observe.split(",")]
    return [name for name, value in (observe or {}).items() if value is None]


def _parts(text: str) -> list[str]:
    """Cut at commas, but not within the brackets of a split."""
    return re.split(r",(?![^\[\]]*\])", text)


def _item(part: str) -> tuple[str, str | None]:
    name, is_data, value = part.partition("=")
    return name.strip(), value.strip() if is_data else None


def split_of(text: str) -> tuple[str, str | None]:
    """`hub/id:test[:10%]` → `hub/id` and `test[:10%]`; a path that is there stays whole."""
    if os.path.exists(text):
        return text, None
    folder, slash, last = text.rpartition("/")
    name, colon, split = last.partition(":")
    return f"{folder}{slash}{name}", split if colon else None


def observe_name(observe: str | Mapping[str, Any] | None) -> str | None:
    """What is observed, as text: names, and what stands behind them where that has a name."""
    if observe is None or isinstance(observe, str):
        return observe
    return ", ".join(name if value is None else f"{name}={_said(value)}" for name, value in observe.items())


def _said(value: Any) -> str:
    if isinstance(value, (tuple, list)) and all(isinstance(part, str) for part in value):
        value = ":".join(value)
    if isinstance(value, Mapping) and isinstance(value.get("data"), (str, os.PathLike)):
        value = f"{value['data']}:{value['split']}" if value.get("split") else value["data"]
    if isinstance(value, (str, os.PathLike)):
        text, split = split_of(os.fspath(value))
        text = os.path.basename(text.rstrip("/")) if os.path.exists(text) else text  # no path into a file
        return text if split is None else f"{text}:{split}"
    return f"<{getattr(value, '__qualname__', type(value).__name__)}>"
