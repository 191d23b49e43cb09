"""`hf-llc calibrate`: the settings that an estimate would choose, how they are found, and λ̂ around them."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from hf_llc.cli import console
from hf_llc.cli.arguments import add_run_options, add_settings, settings_from
from hf_llc.cli.early import check_places

_DESCRIPTION = """Choose settings as estimate does, and show how. Then measure λ̂ in short runs with ε and γ from a
quarter to four times the chosen ones. Writes calibration.json, calibration.png and calibrated.yaml, which estimate
and curve take as --config. Exit code 3 means that at no settings a chain stays near w* and above its loss."""


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "calibrate",
        help="choose settings, and show λ̂ around them",
        description=_DESCRIPTION,
        examples=(
            "hf-llc calibrate --model ID --data ID --output runs/cal",
            "hf-llc estimate --model ID --data ID --config runs/cal/calibrated.yaml",
        ),
    )
    add_settings(parser)
    options = add_run_options(parser, output="the calibration")
    options.add_argument("--output", metavar="DIR", help="default: runs/calibrate-MODEL-DATA-HASH")
    options.add_argument("--no-grid", action="store_true", help="no short runs around the settings chosen")
    options.add_argument("--overwrite", action="store_true", help="do everything again")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Choose settings and print them; return the exit code."""
    load, sample = settings_from(args)
    default = console.default_output(load, sample)
    output = default.with_name(f"calibrate-{default.name}") if args.output is None else Path(args.output)
    check_places(load, sample, output)
    args.run_folder = output
    console.hush(args.quiet)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the tables alone
        from hf_llc.studies.calibration import JSON_FILE
        from hf_llc.studies.calibration_report import render
        from hf_llc.studies.explore_settings import explore

        calibration = explore(
            load,
            sample,
            output=output,
            grid=not args.no_grid,
            overwrite=args.overwrite,
            progress=not args.quiet,
            begun=args.begun,
        )
    if not console.is_main():
        return console.OK  # a launcher stops all processes when one fails: the main one must get to print
    if args.json:
        print((output / JSON_FILE).read_text(encoding="utf-8"), end="", flush=True)
    else:
        console.print_text(render(calibration))
        if not args.quiet:
            console.print_text(f"\nfiles    {output}/calibration.json, calibrated.yaml")
            if calibration.cells:
                console.print_text(f"picture  {output}/calibration.png")
    return console.verdict_code(calibration.is_fit)
