"""`hf-llc completion`: a script that lets a shell complete commands, flags and choices."""

from __future__ import annotations

import argparse
from typing import Any

from hf_llc.cli import console
from hf_llc.errors import InputError

SCRIPTS = {
    "bash": """\
_hf_llc() {
  COMPREPLY=($(compgen -W "$(hf-llc completion --line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)" -- "$2"))
}
complete -o default -F _hf_llc hf-llc
""",
    "zsh": """\
#compdef hf-llc
_hf_llc() {
  local -a found
  found=(${(f)"$(hf-llc completion --line "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
  if (( $#found )); then compadd -- $found; else _files; fi
}
compdef _hf_llc hf-llc
""",
    "fish": """\
complete -c hf-llc -a '(hf-llc completion --line (commandline -cp | string collect) 2>/dev/null)'
""",
}
"""What each shell runs: it asks this command for the words that may come next. Where there are none it offers files."""


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "completion",
        help="let a shell complete commands and flags",
        description="Print a script for the shell; it completes commands, flags, their choices, and files.",
        examples=(
            'eval "$(hf-llc completion bash)"              # in ~/.bashrc',
            'eval "$(hf-llc completion zsh)"               # in ~/.zshrc, after compinit',
            "hf-llc completion fish | source               # in config.fish",
        ),
    )
    parser.add_argument("shell", metavar="SHELL", nargs="?", choices=list(SCRIPTS), help="bash, zsh or fish")
    parser.add_argument("--line", metavar="TEXT", help="print the words that may follow this command line instead")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Print the script, or the words; return the exit code."""
    if (args.shell is None) == (args.line is None):
        raise InputError("completion is for one shell", allowed=", ".join(SCRIPTS))
    console.print_text("\n".join(words_after(args.root, args.line)) if args.shell is None else SCRIPTS[args.shell])
    return console.OK


def words_after(parser: argparse.ArgumentParser, line: str) -> list[str]:
    """The words that may stand last on a command line whose last word has begun; none where a file may stand.

    Args:
        parser: of the program.
        line: what is typed so far, the program's name first; a blank at its end begins a new word.
    """
    *before, begun = line.lstrip().split(" ")[1:] or [""]
    for word in before:
        parser = next((a.choices[word] for a in parser._actions if _is_commands(a) and word in a.choices), parser)  # type: ignore[index]
    last = next((a for a in parser._actions if before and before[-1] in a.option_strings and a.nargs != 0), None)
    if last is not None:
        found = list(last.choices or _choices_of(str(last.metavar)))
    elif begun.startswith("-"):
        found = [flag for action in parser._actions for flag in action.option_strings]
    else:
        found = [str(word) for action in parser._actions if not action.option_strings for word in action.choices or ()]
    return [word for word in found if word.startswith(begun)]


def _is_commands(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)


def _choices_of(metavar: str) -> list[str]:
    """The words among the kinds of value that a setting takes: "NAME|auto" has one."""
    return [word for word in metavar.split("|") if "|" in metavar and not word.isupper()]
