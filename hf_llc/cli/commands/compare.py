"""`hf-llc compare`: λ̂ of several runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_llc.cli import console
from hf_llc.files import check_writable, write_atomically
from hf_llc.our_files import refuse_others
from hf_llc.studies.checkpoint_series import result_folders

_DESCRIPTION = """Show λ̂ of several results, or of the checkpoints of a curve, side by side, with the changes from
the first and their errors. Runs that differ in nβ, γ, data or loss cannot be compared and are refused; other
differences are named. Exit code 3 means that a λ̂ is not trustworthy."""

_FILES = ("compare.png", "compare.csv", "compare.json")


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "compare",
        help="λ̂ of several runs side by side",
        description=_DESCRIPTION,
        examples=("hf-llc compare runs/a runs/b", "hf-llc compare runs/curve --output runs/compared"),
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", help="folders of results, or of a curve")
    parser.add_argument("--output", metavar="DIR", help="write compare.csv, compare.json and compare.png there")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print; return the exit code."""
    if args.output is not None:
        refuse_others(check_writable(args.output), _FILES)
    result_folders(args.folders)  # before numpy and scipy are imported
    from hf_llc.studies.comparison import compare, results_in
    from hf_llc.studies.comparison_plot import plot_comparison

    found = compare(*results_in(args.folders))
    if args.output is not None:
        folder = Path(args.output)
        refuse_others(folder, _FILES)
        write_atomically(folder / "compare.png", lambda path: plot_comparison(found, path))
        found.save(folder)
    if args.json:
        console.print_json(found.to_dict())
    else:
        console.print_text(str(found))
        if args.output is not None:
            console.print_text(f"files    {args.output}/compare.csv, compare.json\npicture  {args.output}/compare.png")
    return console.verdict_code(found.is_trustworthy)
