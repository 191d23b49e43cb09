"""Flags and YAML keys made from the settings' dataclasses: the same names, checks and messages as in Python."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping
from dataclasses import Field, fields, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from hf_llc.cli.help_screen import groups_of, nearest
from hf_llc.config import LoadConfig, SampleConfig, from_mapping
from hf_llc.errors import InputError
from hf_llc.presets import PRESETS, preset

if TYPE_CHECKING:
    from hf_llc.studies.like import Like

CONFIGS: tuple[type, ...] = (LoadConfig, SampleConfig)
"""The dataclasses of all settings."""

_TRUE, _FALSE, _NONE = ("true", "yes", "on"), ("false", "no", "off"), ("", "~", "null", "none")


def kinds_of(hint: Any) -> tuple[list[type], list[str]]:
    """Return the types, and the words of its Literals, that a setting annotated with `hint` takes."""
    options = [hint] if get_origin(hint) is Literal or isinstance(hint, type) else list(get_args(hint))
    words = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
    return [option for option in options if isinstance(option, type)], words


def convert(name: str, text: str, hint: Any) -> Any:
    """Read `text` as the value of setting `name`: one of its words, none, true or false, a number, or a string.

    Args:
        name: for the message.
        text: from a flag or a YAML file.
        hint: the setting's annotation.

    Raises:
        InputError: the setting takes no such value.
    """
    kinds, words = kinds_of(hint)
    if text in words:
        return text
    if NoneType in kinds and text.lower() in (_NONE if str not in kinds else _NONE[:3]):
        return None
    if str in kinds:
        return text
    if bool in kinds and text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    number = _number(text)
    if number is not None and int in kinds and number == number // 1:
        return int(number)
    if number is not None and float in kinds:
        return float(number)
    named = {int: "a whole number", float: "a number", bool: "true or false"}
    allowed = [repr(word) for word in words] + [named[kind] for kind in kinds if kind in named]
    raise InputError(f"{name} has a value of the wrong kind", value=text, allowed=", ".join(allowed))


def _number(text: str) -> int | float | None:
    """Read a finite number, also one with the commas that reports write: 12,000; return None if it is none."""
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if abs(number) < float("inf") else None
    return None


def add_settings(parser: argparse.ArgumentParser, *, only: Collection[str] | None = None) -> None:
    """Add one flag for each setting, or for those named, grouped by purpose."""
    known = {item.name: (item, hint) for config in CONFIGS for item, hint in _typed(config)}
    for title, names in groups_of([name for name in known if only is None or name in only]):
        group = parser.add_argument_group(title)
        for name in names:
            _add_flag(group, *known[name])
    if only is None:
        group = parser.add_argument_group("presets")
        group.add_argument("--preset", metavar="|".join(PRESETS), help="sampling settings of published work")


def add_fields(parser: Any, config: type) -> None:
    """Add one flag for each field of a dataclass, with the field's help and default."""
    for item, hint in _typed(config):
        _add_flag(parser, item, hint)


def _typed(config: type) -> list[tuple[Field[Any], Any]]:
    """The fields of a dataclass, each with its annotation."""
    hints = get_type_hints(config)
    return [(item, hints[item.name]) for item in fields(config)]


def add_run_options(parser: argparse.ArgumentParser, *, output: str) -> Any:
    """Add the options of a long run: --config, --json (prints `output`) and --quiet; return their group for more."""
    group = parser.add_argument_group("run and output")
    group.add_argument("--config", metavar="FILE", help="YAML file of settings; flags override it")
    group.add_argument("--json", action="store_true", help=f"print {output} as JSON, and nothing else")
    group.add_argument("--quiet", action="store_true", help="no progress bars and no messages")
    return group


def check_resume(args: argparse.Namespace) -> None:
    """Refuse --resume together with --overwrite.

    Raises:
        InputError: both are given.
    """
    if args.resume and args.overwrite:
        raise InputError("resume and overwrite are both given", remedy="give one")


def _add_flag(group: Any, item: Field[Any], hint: Any) -> None:
    """Add the flag of one field. A flag that is not given leaves no attribute on the parsed arguments."""
    kinds, words = kinds_of(hint)
    text = item.metadata["help"]
    if item.default is not None:
        text += f" (default: {str(item.default).lower() if kinds == [bool] else item.default})"
    options: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    flag = _flag_of(item)
    if bool in kinds and set(kinds) <= {bool, NoneType} and not words:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        return
    names = {int: "N", float: "X", str: "NAME", bool: "true|false"}
    metavar = "|".join([names[kind] for kind in kinds if kind in names] + words)
    group.add_argument(flag, metavar=metavar, **options)


def _flag_of(item: Field[Any]) -> str:
    return "--" + item.name.replace("_", "-")


def _switches() -> dict[str, list[str]]:
    """The flags of settings that are true, false or a word → what may follow them. Alone they mean true."""
    typed = [(item, *kinds_of(hint)) for config in CONFIGS for item, hint in _typed(config)]
    return {_flag_of(item): [*words, *_TRUE, *_FALSE] for item, kinds, words in typed if kinds == [bool] and words}


def _with_values(argv: list[str]) -> list[str]:
    """The words of a command line, with each switch and its value in one: --compile, --no-compile, --compile auto."""
    switches = _switches()
    joined: list[str] = []
    for word in argv:
        before = joined[-1] if joined else ""
        if word in switches.get(before, ()):
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    off = {"--no-" + flag.removeprefix("--"): f"{flag}=false" for flag in switches}
    return [f"{word}=true" if word in switches else off.get(word, word) for word in joined]


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse the command line; the message about an unknown flag names the nearest known one.

    Raises:
        InputError: a flag or a value is not what it should be.
    """
    for i, word in enumerate(argv):  # `--model "$MODEL"` where there is no MODEL would be the embedded model
        name, _, value = word.partition("=")
        if not word.strip() or (name.startswith("--") and name != word and not value.strip()):
            flag = name if word.strip() else next((w for w in argv[i - 1 : i] if w.startswith("-")), "an argument")
            raise InputError(f"{flag} is empty", value=value, remedy="leave it out; is a shell variable unset?")
    joined: list[str] = []
    for word in _with_values(argv):  # argparse would read `--step-size -1e-6` as two flags
        if joined and joined[-1].startswith("--") and word.startswith("-") and _number(word) is not None:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    args, unknown = parser.parse_known_args(joined)
    if unknown:
        first = unknown[0]
        command = getattr(args, "parser", parser)
        given = first.split("=")[0]
        near = nearest(given, [flag for action in command._actions for flag in action.option_strings])
        if near == given:
            remedy = f"write it after {command.prog}"
        else:
            remedy = f"did you mean {near}?" if near and given.startswith("-") else f"see {command.prog} --help"
        raise InputError(f"unknown argument {first}", remedy=remedy)
    return args


def read_yaml(path: str | Path) -> dict[str, str | None]:
    """Read a flat YAML file; the values stay texts, for `convert` (YAML itself reads `1e-6` as text, `no` as false).

    Raises:
        InputError: the file cannot be read, is not YAML, or is not flat.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except OSError as error:
        raise InputError(
            "cannot read the config file", value=str(path), remedy=f"the system says: {error.strerror}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1})"
        raise InputError(
            f"the config file is not YAML{where}", value=str(path), remedy="write one `name: value` on each line"
        ) from error
    if root is None or (isinstance(root, yaml.ScalarNode) and not root.value):
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise InputError(
            "the config file is not a list of settings", value=str(path), remedy="write `name: value` lines"
        )
    values: dict[str, str | None] = {}
    for key, value in root.value:
        name, line = str(key.value), key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            shown = text[value.start_mark.index : value.end_mark.index]
            raise InputError(
                f"{name[:40]} in {path} (line {line}) is not a single value", value=shown, allowed="a word or a number"
            )
        is_quoted = value.style in ("'", '"')
        if not value.value.strip() and (is_quoted or name in ("model", "data")):
            raise InputError(
                f"{name} in {path} (line {line}) is empty",
                value=value.value,
                remedy="leave it out, or write null for none; is a variable unset?",
            )
        if name in values:
            raise InputError(f"{name} stands twice in {path}, again in line {line}", remedy="leave one of them")
        values[name] = value.value
    return values


def settings_from(args: argparse.Namespace, *, own: Collection[str] = ()) -> tuple[LoadConfig, SampleConfig]:
    """Return the settings of `--config`, overridden by the flags that are given.

    Args:
        args: of the command.
        own: settings that the command decides itself: they are not taken over from what `--like` names.

    Raises:
        InputError: a key is unknown, or a value is not allowed.
    """
    texts: Mapping[str, Any] = {} if args.config is None else read_yaml(args.config)
    known = {item.name: config for config in CONFIGS for item in fields(config)}
    for key in texts:
        if key not in known:
            near = nearest(key, known)
            raise InputError(
                f"unknown setting {key!r} in {args.config}",
                remedy=f"did you mean {near!r}?" if near else "see hf-llc estimate --help-all for the names",
            )
    name = getattr(args, "preset", None)
    chosen = {} if name is None else preset(name)
    configs, other = [], _like(args, own)
    for config in CONFIGS:
        hints = get_type_hints(config)
        values: dict[str, Any] = dict(chosen) if config is SampleConfig else {}
        for item in fields(config):
            text = getattr(args, item.name, texts.get(item.name))
            if text is not None:
                values[item.name] = text if isinstance(text, bool) else convert(item.name, text, hints[item.name])
        if other is not None:
            values = other.with_load(values) if config is LoadConfig else other.with_sample(values)
        configs.append(from_mapping(config, values, source="the settings"))
    return configs[0], configs[1]


def add_like(group: Any, *, law: str = "nβ, γ, ε") -> None:
    """Add --like, for `settings_from`; `law`: what it takes over of the law of the chains and of their steps."""
    group.add_argument(
        "--like",
        metavar="DIR",
        help=f"take over {law}, sampler, chains, draws, seed and data of this result or calibration, or of the "
        "callback of this checkpoint, so that the two compare; a setting that contradicts is refused",
    )


def like_fingerprint(args: argparse.Namespace) -> str | None:
    """Of the data of what --like names; None: any data will do."""
    return None if args.like is None else args.like.data_fingerprint


def _like(args: argparse.Namespace, own: Collection[str]) -> Like | None:
    """Read what --like names, without the settings in `own`; `args.like` is that from then on."""
    if getattr(args, "like", None) is None:
        return None
    from hf_llc.studies.like import like

    found = like(args.like)
    args.like = replace(found, sample={name: value for name, value in found.sample.items() if name not in own})
    return args.like
