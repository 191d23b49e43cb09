"""`hf-llc estimate`: λ̂ of a model on data."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_llc.cli import console
from hf_llc.cli.arguments import add_like, add_run_options, add_settings, check_resume, like_fingerprint, settings_from
from hf_llc.cli.early import check_places
from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.observe_setting import OBSERVABLES

if TYPE_CHECKING:
    from hf_llc.workflow.opened_run import Given


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "estimate",
        help="estimate λ̂ of a model on data",
        description="Estimate λ̂ of a model on data; with no arguments, of the embedded "
        "tiny model on the embedded text, without network.",
        epilog=console.EXIT_CODES,
        examples=(
            "hf-llc estimate",
            "hf-llc estimate --model ID --data ID --split test --output runs/a",
            "hf-llc estimate --config run.yaml --num-chains 8",
            "hf-llc estimate --model ID --data ID --weights 'l3 mlp+l4h*'",
        ),
    )
    add_settings(parser)
    plain = parser.add_argument_group("a plain module")
    plain.add_argument("--weight-file", metavar="F", help="its weights, in place of --model")
    plain.add_argument("--factory", metavar="MODULE:NAME", help="returns (module, loss_fn) for --weight-file")
    options = add_run_options(parser, output="the result")
    options.add_argument(
        "--output",
        metavar="DIR",
        help="folder of the result, in which the same command goes on (default: runs/MODEL-DATA-HASH)",
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
    _check_weight_file(args, load)
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
            _given(args, load),
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


def _check_weight_file(args: argparse.Namespace, load: LoadConfig) -> None:
    """Check that a file of weights comes with what builds its module, with data, and with no other model.

    Raises:
        InputError: it does not.
    """
    if (args.weight_file is None) != (args.factory is None):
        raise InputError("--weight-file and --factory go together", remedy="give both")
    if args.weight_file is None:
        return
    if load.model is not None or load.revision is not None:
        raise InputError("--model and --weight-file are two models", remedy="give one of them")
    if load.data is None:
        raise InputError("no data given", remedy="give --data: a Hub id, a folder or a file")


def _given(args: argparse.Namespace, load: LoadConfig) -> Given:
    """What is given as objects: a plain module and its loss, and what --like says of the data."""
    from hf_llc.studies.checkpoint_series import weight_files
    from hf_llc.workflow.opened_run import Given

    fingerprint = like_fingerprint(args)
    if args.weight_file is None:
        return Given(data_fingerprint=fingerprint)
    (file,) = weight_files([args.weight_file], args.factory, allow_pickle=load.allow_pickle)
    assert file.open is not None
    model, loss_fn = file.open()
    return Given(model=model, loss_fn=loss_fn, data_fingerprint=fingerprint)
