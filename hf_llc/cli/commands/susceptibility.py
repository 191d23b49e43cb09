"""`hf-llc susceptibility`: how components of a model answer to single tokens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_llc.cli.arguments import add_like, add_settings, check_resume, like_fingerprint, settings_from
from hf_llc.cli.early import check_places
from hf_llc.cli.study import add_level, add_study_options, run_study
from hf_llc.loading.names import check_observed
from hf_llc.observe_setting import checked_observe
from hf_llc.studies.observed_settings import susceptibility_settings
from hf_llc.weights_setting import component_words

_DESCRIPTION = """Measure which tokens a component serves: χ of each component (heads, layers, any weights) to each
token of the first --observe-examples examples of the data and of probes, with its error. Takes one run of all weights
and one of each component. Writes a page of coloured text, the table and a picture. Repeat it to continue. Exit code
3: too few draws."""


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "susceptibility",
        help="how components answer to single tokens",
        description=_DESCRIPTION,
        examples=("hf-llc susceptibility --model ID --data ID --components heads --output chi",),
    )
    group = parser.add_argument_group("susceptibility")
    group.add_argument(
        "--components", metavar="NAMES", required=True, help="heads, layers, partition, or names and globs"
    )
    group.add_argument("--probe", metavar="NAME=DATA:SPLIT", help="other data, separated by commas")
    add_level(group, default="token")
    group.add_argument("--control", action="store_true", help="the same at nβ ≈ 0 too: what blind noise shows")
    add_settings(parser)
    add_like(add_study_options(parser, output="table"))
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Measure susceptibilities and print a line a component; return the exit code."""
    load, sample = settings_from(args)
    check_resume(args)
    susceptibility_settings(sample, args.probe, level=args.level)
    check_places(load, sample, Path(args.output), resume=args.resume)
    component_words(args.components)
    check_observed(checked_observe(args.probe, setting="probe"), known=(), setting="probe")

    def measured(**common: Any) -> Any:
        from hf_llc.studies.measure_susceptibility import measure
        from hf_llc.workflow.opened_run import Given

        given = Given(data_fingerprint=like_fingerprint(args))
        asked = {"components": args.components, "probe": args.probe, "level": args.level, "control": args.control}
        return measure(load, sample, given, **asked, **common)

    return run_study(args, "susceptibility", measured)
