"""`hf-llc estimate`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from hf_llc.cli import console
from hf_llc.cli.arguments import settings_from
from hf_llc.cli.commands.show import _print_result
from hf_llc.errors import InputError


def _estimate(args: argparse.Namespace, folder: list[Path]) -> int:
    load, sample = settings_from(args)
    if args.resume and args.overwrite:
        raise InputError("resume and overwrite are both given", remedy="give one")
    output = console.default_output(load, sample) if args.output is None else Path(args.output)
    folder.append(output)
    console.hush(args.quiet)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result alone
        from hf_llc import evaluator

        resume = True if args.resume else None
        result = evaluator.estimate(
            load, sample, output=output, resume=resume, overwrite=args.overwrite, progress=not args.quiet
        )
    if not console.is_main():
        return console.OK  # a launcher stops all processes when one fails: the main one must get to print
    _print_result(result, as_json=args.json)
    if not args.json and not args.quiet:
        print(f"files    {output}/result.json, trace.safetensors")
        print(f"picture  {output}/trace.png", flush=True)
    return console.OK if result.is_trustworthy else console.BAD_VERDICT
