"""What the commands share that fill a folder with many estimates and print a table of them."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

from hf_llc.cli import console
from hf_llc.cli.arguments import add_run_options, kinds_of
from hf_llc.config import SampleConfig
from hf_llc.errors import InputError, OutOfTime


def add_study_options(parser: argparse.ArgumentParser, *, output: str) -> Any:
    """Add the options of such a command: where it writes, and whether it goes on there; returns their group.

    Args:
        parser: of the command.
        output: what the folder is of, e.g. "table".
    """
    options = add_run_options(parser, output=f"the {output}")
    options.add_argument("--output", metavar="DIR", required=True, help=f"folder of the {output}")
    options.add_argument("--resume", action="store_true", help=f"insist on a {output} to go on with")
    options.add_argument("--overwrite", action="store_true", help="do everything again")
    return options


def add_level(group: Any, *, default: str) -> None:
    """Add the option that says whether losses are recorded by example or by token."""
    levels = kinds_of(get_type_hints(SampleConfig)["observe_loss"])[1]
    said = "|".join(sorted(levels, key=lambda level: level != default))
    group.add_argument("--level", metavar=said, choices=levels, default=default, help=f"(default: {default})")


def run_study(args: argparse.Namespace, name: str, measure: Callable[..., Any]) -> int:
    """Run `measure` and print its table; return the exit code. The folder that a refused run has made is removed.

    Args:
        args: of the command; `output`, `resume`, `overwrite`, `quiet`, `json` and `begun` are read.
        name: of the files: `name`.csv, `name`.json, `name`.png.
        measure: called with output, resume, overwrite, progress, begun and report; returns a table with
            `is_trustworthy`.
    """
    output = Path(args.output)
    args.run_folder = output
    console.hush(args.quiet)
    is_new = not output.exists()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the table alone
            table = measure(
                output=output,
                resume=args.resume,
                overwrite=args.overwrite,
                progress=not args.quiet,
                begun=args.begun,
                report=lambda line: None if args.quiet or not console.is_main() else console.print_error(line),
            )
    except OutOfTime:
        raise  # what it has found is there to go on with
    except InputError:
        if is_new and console.is_main():
            console.remove_empty(output)
        raise
    if not console.is_main():
        return console.OK  # a launcher stops all processes when one fails: the main one must get to print
    if args.json:
        print((output / f"{name}.json").read_text(encoding="utf-8"), end="", flush=True)
    else:
        console.print_text(str(table))
        if not args.quiet:
            console.print_text(f"files    {output}/{name}.csv, {name}.json\npicture  {output}/{name}.png")
    return console.verdict_code(table.is_trustworthy)
