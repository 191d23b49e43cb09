"""`hf-llc components`: λ̂ of heads, layers and other parts of a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_llc.cli.arguments import add_like, add_settings, check_resume, like_fingerprint, settings_from
from hf_llc.cli.early import check_places
from hf_llc.cli.study import add_study_options, run_study
from hf_llc.studies.whole_settings import check_whole
from hf_llc.weights_setting import component_words

_DESCRIPTION = """Measure λ̂ of each component of a model (heads, layers, any weights by name) at the same nβ and γ.
The whole model decides the settings. Repeat it to continue. Writes components.csv, .parquet, .json, .png and one
folder for each component. Exit code 3: a λ̂ is not trustworthy."""


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "components",
        help="λ̂ of heads, layers and other parts",
        description=_DESCRIPTION,
        examples=("hf-llc components --model ID --data ID --components heads --output runs/h",),
    )
    group = parser.add_argument_group("components")
    group.add_argument(
        "--components", metavar="NAMES", required=True,
        help="heads, layers, partition, or names and globs: 'l*h*,l* mlp'",
    )  # fmt: skip
    group.add_argument("--partition", action="store_true", help="refuse overlaps, and weights left out")
    group.add_argument(
        "--calibrate-each",
        action="store_true",
        help="find step size and burn-in for each",
    )
    add_settings(parser)
    add_like(add_study_options(parser, output="table"))
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Measure the components and print the table; return the exit code."""
    load, sample = settings_from(args)
    check_resume(args)
    check_whole(sample, "components")
    check_places(load, sample, Path(args.output), resume=args.resume)
    component_words(args.components)

    def measured(**common: Any) -> Any:
        from hf_llc.studies.measure_components import measure
        from hf_llc.workflow.opened_run import Given

        given = Given(data_fingerprint=like_fingerprint(args))
        asked = {"is_partition": args.partition, "calibrates_each": args.calibrate_each}
        return measure(load, sample, given, components=args.components, **asked, **common)

    return run_study(args, "components", measured)
