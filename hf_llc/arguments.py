"""Flags and YAML keys, both made from the fields of the settings' dataclasses."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError

_GROUPS = {"model and data": LoadConfig, "sampling": SampleConfig}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_NONE = ("none", "null", "~", "")


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are `InputError`s: one line, and a guess at what was meant."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise InputError(message, remedy=f"see {self.prog} --help")

    def parse_all(self, argv: list[str]) -> argparse.Namespace:
        """Parse `argv`; an unknown flag is refused with the nearest known one.

        Raises:
            InputError: an unknown flag or command, or a flag without its value.
        """
        parsed, extra = self.parse_known_args(argv)
        if extra:
            flag = next((x for x in extra if x.startswith("-")), extra[0]).split("=")[0]
            near = difflib.get_close_matches(flag, getattr(parsed, "flags", ()), n=1)
            remedy = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
            raise InputError(f"unknown argument {flag}", remedy=remedy)
        return parsed


def add_settings(parser: argparse.ArgumentParser) -> None:
    """One flag a field, in the groups "model and data" and "sampling". A flag not given leaves no trace."""
    for title, cls in _GROUPS.items():
        group, hints = parser.add_argument_group(title), get_type_hints(cls)
        for item in fields(cls):
            text = item.metadata["help"].replace("%", "%%")
            if item.default is not None:
                text += f" (default: {str(item.default).lower() if hints[item.name] is bool else item.default})"
            flag = "--" + item.name.replace("_", "-")
            if hints[item.name] is bool:
                action = argparse.BooleanOptionalAction
                group.add_argument(flag, dest=item.name, action=action, default=argparse.SUPPRESS, help=text)
            else:
                metavar = _metavar(hints[item.name])
                group.add_argument(flag, dest=item.name, metavar=metavar, default=argparse.SUPPRESS, help=text)


def read_settings(parsed: Mapping[str, Any], yaml_file: str | None) -> tuple[LoadConfig, SampleConfig, str | None]:
    """The settings of the YAML file, overridden by those of the command line, and the file's `output`.

    Raises:
        InputError: an unreadable file, an unknown key, or a value that a setting does not take.
    """
    values: dict[str, Any] = {} if yaml_file is None else read_yaml(yaml_file)
    output = values.pop("output", None)
    made = []
    for cls in _GROUPS.values():
        hints = get_type_hints(cls)
        both = {**values, **parsed}
        made.append(cls(**{name: converted(hints[name], both[name]) for name in hints if name in both}))
    return made[0], made[1], output


def read_yaml(path: str) -> dict[str, str]:
    """Flat `key: value` pairs, every value as the text that stands there, so that it is read as a flag's would be.

    YAML's own reading would make `mixed_precision: no` false and `step_size: 1e-6` a string.

    Raises:
        InputError: no such file, not YAML, not flat, a key that is unknown or there twice.
    """
    import yaml

    try:
        node = yaml.compose(Path(path).read_text(encoding="utf-8"), yaml.BaseLoader)
    except OSError as error:
        raise InputError(
            "cannot read the config file", value=path, remedy=f"the system says: {error.strerror}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("the config file is not YAML", value=path, remedy=f"{error}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise InputError("the config file is not a list of `key: value` lines", value=path)
    values: dict[str, str] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            raise InputError(f"line {key.start_mark.line + 1} of {path} is not a flat `key: value`")
        if key.value in values:
            raise InputError(f"{key.value!r} is given twice in {path}", remedy="keep one")
        values[key.value] = value.value
    _check_known(values, path)
    return values


def setting_names() -> list[str]:
    """All settings, in the order of the help page."""
    return [item.name for cls in _GROUPS.values() for item in fields(cls)]


def converted(hint: Any, value: Any) -> Any:
    """A text as what its field takes; what fits nothing is left as it is, for the config to refuse."""
    if not isinstance(value, str):
        return value
    kinds, choices = _options(hint)
    if value in choices:
        return value
    if type(None) in kinds and value.lower() in _NONE:
        return None
    if bool in kinds and value.lower() in _TRUE + _FALSE:
        return value.lower() in _TRUE
    for kind in (int, float):
        if kind in kinds:
            try:
                number = float(value)
                # 1e4 is a whole number too; text beyond a float's 53 bits goes through int.
                return int(value) if kind is int and "e" not in value.lower() else _whole(number, kind)
            except (ValueError, OverflowError):
                continue
    return value


def _whole(number: float, kind: type) -> int | float:
    if kind is float:
        return number
    if not number.is_integer():
        raise ValueError(number)
    return int(number)


def _check_known(keys: Iterable[str], source: str) -> None:
    known = [*setting_names(), "output"]
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
            raise InputError(
                f"unknown key {key!r} in {source}",
                allowed="" if near else ", ".join(known),
                remedy=f"did you mean {near[0]!r}?" if near else "",
            )


def _options(hint: Any) -> tuple[list[Any], list[str]]:
    """The types and the literal values that a hint admits."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    return [part for part in parts if get_origin(part) is not Literal], choices


def _metavar(hint: Any) -> str:
    kinds, choices = _options(hint)
    names = {int: "INT", float: "FLOAT", str: "TEXT"}
    return "|".join([*(names[kind] for kind in kinds if kind in names), *choices])
