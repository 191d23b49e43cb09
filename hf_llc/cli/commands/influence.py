"""`hf-llc influence`: which examples or tokens help and harm which."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_llc.cli.arguments import add_like, add_settings, check_resume, convert, like_fingerprint, settings_from
from hf_llc.cli.early import check_places
from hf_llc.cli.study import add_level, add_study_options, run_study
from hf_llc.loading.names import check_observed
from hf_llc.observe_setting import checked_observe
from hf_llc.studies.observed_settings import influence_settings

_DESCRIPTION = """Measure which of the first --observe-examples examples of the data help or harm which queries. The
measure is the Bayesian influence −(nβ/n)·Cov(ℓ_i, ℓ_j) along the chains of one estimate, with its error; negative
means that i helps j. Without --queries the examples are their own queries (the loss kernel). Writes a page
(influence.html), the table, the matrices, a picture and the chains. Repeat it to continue. Exit code 3: too few
draws."""


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "influence",
        help="which examples help and harm which",
        description=_DESCRIPTION,
        examples=("hf-llc influence --model ID --data ID --queries ID:test --output runs/bif",),
    )
    group = parser.add_argument_group("influence")
    group.add_argument("--queries", metavar="DATA:SPLIT", help="Hub id, folder or file; none: the examples themselves")
    add_level(group, default="example")
    group.add_argument("--top", metavar="N", default="5", help="helpers and harmers of each query (default: 5)")
    group.add_argument("--color", metavar="COLUMN", help="of the data, for the picture of the loss kernel")
    add_settings(parser)
    add_like(add_study_options(parser, output="table"))
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Measure influence and print the strongest pairs; return the exit code."""
    load, sample = settings_from(args)
    check_resume(args)
    check_places(load, sample, Path(args.output), resume=args.resume)
    asked = {"queries": args.queries, "level": args.level, "top": convert("top", args.top, int), "color": args.color}
    influence_settings(sample, **asked)
    if args.queries is not None:
        check_observed(checked_observe({"queries": args.queries}))

    def measured(**common: Any) -> Any:
        from hf_llc.studies.measure_influence import measure
        from hf_llc.workflow.opened_run import Given

        return measure(load, sample, Given(data_fingerprint=like_fingerprint(args)), **asked, **common)

    return run_study(args, "influence", measured)
