"""`hf-llc show`: print a saved result."""

from __future__ import annotations

import argparse
from typing import Any

from hf_llc.cli import console


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "show",
        help="print a saved result",
        description="Print a short report of a saved result. The exit code is that of its verdict.",
        examples=("hf-llc show runs/a", "hf-llc show runs/a --details", "hf-llc show runs/a --json"),
    )
    parser.add_argument("folder", metavar="DIR", help="folder of a result, or its result.json")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print it as JSON")
    how.add_argument("--details", action="store_true", help="print every line: diagnostics, settings, cost …")
    how.add_argument("--explain", action="store_true", help="the same, and below it what each line means")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Print the result; return the exit code."""
    from hf_llc.publishing.report import render, summary
    from hf_llc.publishing.result_folder import load
    from hf_llc.result import LLCResult

    damaged: list[str] = []
    result = load(LLCResult, args.folder, damaged=damaged)
    if args.json:
        console.print_json(result.to_dict())
    else:
        console.print_text(render(result) if args.details or args.explain else summary(result, folder=args.folder))
    if args.explain:
        from hf_llc.publishing.explained import explained

        console.print_text(f"\n{explained(result)}")
    for line in damaged:  # the result is whole without its trace, and is shown
        console.end(console.BAD_INPUT, f"error: {line}")
    return console.BAD_INPUT if damaged else console.verdict_code(result.is_trustworthy)
