"""The help of a command: one screen with what people use, grouped by purpose; all settings with --help-all."""

from __future__ import annotations

import argparse
import copy
import difflib
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError

SETTINGS = [item.name for config in (LoadConfig, SampleConfig) for item in fields(config)]
"""Names of all settings, in the order of their dataclasses."""

PURPOSES: dict[str, tuple[str, ...]] = {
    "model and data": ("model", "data", "split", "revision", "subset", "data_revision", "max_examples"),
    "how the data are read": (
        *("task", "input_column", "second_input_column", "label_column", "tokenizer", "max_length", "packing"),
        *("loss_normalization", "streaming"),
    ),
    "which weights, at which nβ and γ": (
        *("weights", "minimize", "minimize_steps", "nbeta", "beta", "localization", "check_localization"),
        *("extrapolate", "draw_loss"),
    ),
    "how long": (
        *("num_chains", "target_se", "max_seconds", "max_steps", "num_draws", "num_burnin_steps"),
        *("num_steps_between_draws", "save_seconds"),
    ),
    "how it is sampled": (
        *("seed", "sampler", "step_size", "friction", "adapt_step_size", "gradient", "num_leapfrog_steps"),
        *("batch_size", "batch_order"),
    ),
    "recorded along the chains": ("observe", "observe_examples", "observe_loss", "observe_every"),
    "memory, speed and devices": (
        *("dtype", "device", "mixed_precision", "micro_batch_size", "chain_batch_size", "compile"),
        *("step_in_backward", "gradient_checkpointing", "data_parallel", "parameter_parallel", "attn_implementation"),
    ),
    "what is run and read from elsewhere": ("trust_remote_code", "allow_pickle"),
}
"""Title of a group of settings in the help → the settings of it. Those that stand nowhere come last, by themselves."""

COMMON = {
    "model": "Hub id or folder (default: the embedded tiny model)",
    "data": "Hub id, folder or file (default: the embedded text)",
    "split": "split of the data, e.g. validation or test[:10%%]",
    "max_examples": "use at most this many examples",
    "weights": "a part alone: l3h5, 'l3 mlp', l2, embed, a+b, ~a",
    "minimize": "first move w* to the nearest minimum",
    "nbeta": "nβ, inverse temperature times n (default: n / ln n)",
    "localization": "γ, the pull to w* (default: auto)",
    "num_chains": "independent chains (default: 4)",
    "target_se": "until the error is this share of λ̂ (default: 0.05)",
    "max_seconds": "stop by then, and judge the draws so far",
    "like": "take over the settings of this result, to compare",
}
"""Arguments that people use → what the one screen says of them."""

_SELDOM = {name for name in SETTINGS if name not in COMMON} | {"resume", "preset", "x_scale"}
"""Arguments that the one screen leaves to --help-all."""

_NARROWEST = 24
"""Columns, below which words would be cut."""


def groups_of(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The titles under which these settings stand in the help, each with its settings."""
    placed = {name for group in PURPOSES.values() for name in group}
    every = [*PURPOSES.items(), ("other settings", tuple(name for name in SETTINGS if name not in placed))]
    found = [(title, [name for name in group if name in names]) for title, group in every]
    return [(title, group) for title, group in found if group]


class Parser(argparse.ArgumentParser):
    """An argument parser whose help fits a screen, and whose errors are one line, without the usage.

    Args:
        examples: commands at the end of the help.
        **options: of `ArgumentParser`.
    """

    def __init__(self, *, examples: Sequence[str] = (), **options: Any) -> None:
        fixed = {"formatter_class": _Formatter, "add_help": False, "allow_abbrev": False}
        super().__init__(**{**options, **fixed})
        self.examples = examples
        self.add_argument("-h", "--help", action=_Help, nargs=0, help=argparse.SUPPRESS)
        self.add_argument("--help-all", action=_Help, nargs=0, help=argparse.SUPPRESS)

    def format_help(self, *, everything: bool = False) -> str:
        """The help text: with what is common, or with every setting."""
        formatter = self._get_formatter()
        formatter.add_usage(self._usage(), [], [])
        formatter.add_text(self.description)
        for group in self._action_groups:
            formatter.start_section(group.title)
            shown = [action if everything else _short(action) for action in group._group_actions]
            formatter.add_arguments([action for action in shown if action is not None])
            formatter.end_section()
        rest = sum(_short(action) is None for action in self._actions)
        if rest and not everything:
            formatter.add_text(f"{rest} more: {self.prog} --help-all")
        if self.examples:
            formatter.add_text("examples:\n" + "\n".join(f"  {line}" for line in self.examples))
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _usage(self) -> str:
        """The command with what it needs, and [options]."""
        needed = [action for action in self._actions if not action.option_strings or action.required]
        words = [
            " ".join([*action.option_strings[:1], str(action.metavar)])
            + (" ..." if action.nargs in (argparse.ONE_OR_MORE, argparse.PARSER) else "")
            for action in sorted(needed, key=lambda action: bool(action.option_strings))
        ]
        return " ".join([self.prog, *words, "[options]"])

    def _print_message(self, message: str, file: Any = None) -> None:
        from hf_llc.publishing.formatting import for_encoding

        file = sys.stderr if file is None else file
        file.write(for_encoding(message, getattr(file, "encoding", None)))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a word that is none of those allowed; name the nearest one."""
        if action.choices is None or value in action.choices:
            return
        words = [str(word) for word in action.choices]
        what = "unknown command" if action.nargs == argparse.PARSER else f"{_name(action)} has no such choice"
        near = nearest(str(value), words + ["--help", "--version"])
        remedy = f"did you mean {near}?" if near else f"see {self.prog} --help"
        raise InputError(what, value=value, allowed="" if near else ", ".join(words), remedy=remedy)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print.

        Raises:
            InputError: always.
        """
        raise InputError(message, remedy=f"see {self.prog} --help")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that this one may have been meant to be."""
    plain = {re.sub(r"[^a-z0-9]", "", each.lower()): each for each in known}
    near = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", word.lower()), plain, n=1)
    return plain[near[0]] if near else None


def _name(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)


def _short(action: argparse.Action) -> argparse.Action | None:
    """The argument as the one screen shows it; None: it does not."""
    if action.dest in _SELDOM:
        return None
    if action.dest not in COMMON:
        return action
    short = copy.copy(action)
    short.help = COMMON[action.dest]
    short.option_strings = action.option_strings[:1]  # --no-minimize is in --help-all
    return short


class _Help(argparse.Action):
    """Print the help and end."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        assert isinstance(parser, Parser)
        parser._print_message(parser.format_help(everything=rest[-1] == "--help-all"), sys.stdout)
        parser.exit()


class _Formatter(argparse.HelpFormatter):
    """Wraps paragraphs and leaves lines that are set in, such as examples, as they are."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=26, **options)
        self._width = max(self._width, _NARROWEST)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for is_set_in, part in itertools.groupby(text.split("\n"), lambda line: line.startswith(" ")):
            paragraph = list(part)
            lines += paragraph if is_set_in else textwrap.wrap(" ".join(paragraph), width)
        return "\n".join(indent + line for line in lines)
