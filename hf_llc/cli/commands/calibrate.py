"""`hf-llc calibrate`: the settings that an estimate would choose, how it finds them, and λ̂ around them."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from hf_llc.cli.arguments import add_settings, settings_from

_DESCRIPTION = """Choose step size, friction, kind of gradient and localization as estimate does, and show how; then λ̂
of short runs with ε and γ from a quarter to four times the chosen ones. Writes calibration.json, calibration.png and
calibrated.yaml, which estimate and curve take as --config: one calibration serves a series of checkpoints. Exit code 3
if no settings were found at which a chain stays near w* and above its loss (the files are written)."""


def add(commands: Any) -> None:
    """Register the command on argparse's subparsers."""
    parser = commands.add_parser(
        "calibrate", help="choose settings, and show λ̂ around them", allow_abbrev=False, description=_DESCRIPTION
    )
    add_settings(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--config", metavar="FILE", help="YAML file of settings, `name: value`; flags override it")
    run.add_argument("--output", metavar="DIR", help="folder of the files (default: runs/calibrate-MODEL-DATA-HASH)")
    run.add_argument("--no-grid", action="store_true", help="choose settings only; no short runs around them")
    run.add_argument("--overwrite", action="store_true", help="do all again")
    run.add_argument("--json", action="store_true", help="print calibration.json, and nothing else, on stdout")
    run.add_argument("--quiet", action="store_true", help="no progress bars and no remarks")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace, folder: list[Path]) -> int:
    from hf_llc.cli import console

    load, sample = settings_from(args)
    default = console.default_output(load, sample)
    output = default.with_name(f"calibrate-{default.name}") if args.output is None else Path(args.output)
    folder.append(output)
    console.hush(args.quiet)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the tables alone
        from hf_llc.studies.calibration import JSON_FILE
        from hf_llc.studies.calibration_report import render
        from hf_llc.studies.explore_settings import explore

        found = explore(
            load, sample, output=output, grid=not args.no_grid, overwrite=args.overwrite, progress=not args.quiet
        )
    if not console.is_main():
        return console.OK  # a launcher stops all processes when one fails: the main one must get to print
    if args.json:
        print((output / JSON_FILE).read_text(encoding="utf-8"), end="", flush=True)
    else:
        from hf_llc.publishing.formatting import for_encoding

        print(for_encoding(render(found)), flush=True)
        if not args.quiet:
            print(f"\nfiles    {output}/calibration.json, calibrated.yaml", flush=True)
            if found.cells:
                print(f"picture  {output}/calibration.png", flush=True)
    return console.OK if found.is_fit else console.BAD_VERDICT
