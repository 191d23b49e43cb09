"""`hf-llc estimate`: λ̂ of a model on data."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_llc.cli import console
from hf_llc.cli.arguments import add_like, add_run_options, add_settings, check_resume, settings_from
from hf_llc.cli.early import check_places
from hf_llc.cli.plain_module import add_plain_module, check_plain_module, given
from hf_llc.observe_setting import OBSERVABLES


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "estimate",
        help="estimate λ̂ of a model on data",
        description="Estimate λ̂ of a model on data. With no arguments, it takes the embedded "
        "tiny model and text, and needs no network.",
        epilog=console.EXIT_CODES,
        examples=(
            "hf-llc estimate",
            "hf-llc estimate --model ID --data ID --split test --output runs/a",
            "hf-llc estimate --config run.yaml --num-chains 8",
            "hf-llc estimate --model ID --data ID --weights 'l3 mlp+l4h*'",
        ),
    )
    add_settings(parser)
    add_plain_module(parser)
    options = add_run_options(parser, output="the result")
    options.add_argument(
        "--output",
        metavar="DIR",
        help="folder of the result, where a killed command continues (default: runs/MODEL-DATA-HASH)",
    )
    add_like(options)
    options.add_argument("--resume", action="store_true", help="insist on a run to go on with")
    options.add_argument("--overwrite", action="store_true", help="discard what is in the output folder")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Estimate and print; return the exit code."""
    console.hush(args.quiet)
    load, sample = settings_from(args)
    check_resume(args)
    check_plain_module(args, load)
    named = load if args.weight_file is None else replace(load, model=args.weight_file)
    output = console.default_output(named, sample) if args.output is None else Path(args.output)
    known = OBSERVABLES if args.factory is None else ()  # its module may register more
    check_places(load, sample, output, resume=args.resume, observables=known)
    args.run_folder = output
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result alone
        from hf_llc import evaluator

        result = evaluator.estimate_model(
            load,
            sample,
            given(args, load),
            output=output,
            resume=True if args.resume else None,
            overwrite=args.overwrite,
            progress=not args.quiet,
            begun=args.begun,
        )
    if not console.is_main():
        return console.OK  # a launcher stops all processes when one fails: the main one must get to print
    if args.json:
        console.print_json(result.to_dict())
        return console.verdict_code(result.is_trustworthy)
    from hf_llc.publishing.report import summary, table

    console.print_text(summary(result, folder=output))
    if not args.quiet:
        files = [("files", f"{output}/result.json, trace.safetensors"), ("picture", f"{output}/trace.png")]
        console.print_text(table(files))
    return console.verdict_code(result.is_trustworthy)
