"""`hf-llc curve`: λ̂ along a series of checkpoints."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from hf_llc.cli import console
from hf_llc.cli.arguments import add_like, add_settings, check_resume, like_fingerprint, settings_from
from hf_llc.cli.early import check_places
from hf_llc.cli.plain_module import check_data, check_factory
from hf_llc.cli.study import add_study_options, run_study
from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.observe_setting import OBSERVABLES
from hf_llc.studies import checkpoint_series
from hf_llc.studies.series_left import check_series
from hf_llc.studies.whole_settings import check_whole
from hf_llc.weights_setting import component_words

_DESCRIPTION = """Measure λ̂ of every checkpoint of a series, at settings that one of them decides. Repeat it to
continue. Exit code 3: a point is missing or bad."""


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "curve",
        help="λ̂ along a series of checkpoints",
        description=_DESCRIPTION,
        examples=(
            "hf-llc curve --model ID --revisions 'step*' --data ID --output runs/c",
            "hf-llc curve --checkpoints trainer_output --data ID --output runs/c",
        ),
    )
    series = parser.add_argument_group("series: one of")
    series.add_argument("--revisions", metavar="PATTERN", help="branches and tags of --model, e.g. 'step*'")
    series.add_argument("--checkpoints", metavar="DIR", help="folder of model folders (checkpoint-500 …)")
    series.add_argument("--weight-files", metavar="F", nargs="+", help="of a plain module, with --factory")
    series.add_argument("--factory", metavar="MODULE:NAME", help="returns (module, loss_fn) for --weight-files")
    series.add_argument("--components", metavar="NAMES", help="λ̂ of parts: heads, layers, names")
    add_settings(parser)
    options = add_study_options(parser, output="curve")
    add_like(options)
    options.add_argument(
        "--x-scale",
        metavar="linear|log",
        choices=["linear", "log"],
        default="linear",
        help="of the steps, in the picture",
    )
    options.add_argument(
        "--calibrate-on",
        metavar="WHERE",
        help="first, middle, last or a step (default: stiffest)",
    )
    series.add_argument("--steps", metavar="A=N", nargs="+", help="NAME=STEP where names hold no number")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Measure the curve and print it; return the exit code."""
    load, sample = settings_from(args)
    check_resume(args)
    _check_series(args, load)
    steps = _steps(args.steps or [])
    known = OBSERVABLES if args.factory is None else ()  # its module may register more
    check_places(load, sample, Path(args.output), resume=args.resume, observables=known)
    if args.components is not None:
        check_whole(sample, "components")
        component_words(args.components)
    console.hush(args.quiet)  # the factory of a series imports torch
    with contextlib.redirect_stdout(sys.stderr):
        local = None if args.revisions is not None else _local_series(args, load)
    if local is not None:
        check_series(local, steps=steps, calibrate_on=args.calibrate_on)

    def measured(**common: Any) -> Any:
        from hf_llc.studies import measure_component_curve, measure_curve

        if args.components is not None:
            common["components"] = args.components
        measure = (measure_curve if args.components is None else measure_component_curve).measure
        return measure(
            checkpoint_series.revisions(str(load.model), args.revisions) if local is None else local,
            load,
            sample,
            x_scale=args.x_scale,
            calibrate_on=args.calibrate_on,
            steps=steps,
            data_fingerprint=like_fingerprint(args),
            **common,
        )

    return run_study(args, "curve" if args.components is None else "component_curve", measured)


def _check_series(args: argparse.Namespace, load: LoadConfig) -> None:
    """Check that exactly one series is given, with the arguments that it needs and none that contradicts it.

    Raises:
        InputError: one is missing or too many.
    """
    given = [name for name in ("revisions", "checkpoints", "weight_files") if getattr(args, name) is not None]
    if len(given) != 1:
        what = " and ".join(f"--{name.replace('_', '-')}" for name in given) or "none"
        raise InputError("one series is needed", value=what, allowed="--revisions, --checkpoints or --weight-files")
    check_factory("--weight-files", args.weight_files, args.factory)
    if (load.model is None) != (args.revisions is None):
        raise InputError("--model and --revisions go together", remedy="give both, or another series")
    if load.revision is not None:
        raise InputError("revision is for one model", value=load.revision, remedy="give --revisions PATTERN")
    check_data(load)


def _local_series(args: argparse.Namespace, load: LoadConfig) -> list[checkpoint_series.Checkpoint]:
    if args.checkpoints is not None:
        return checkpoint_series.checkpoint_folders(args.checkpoints)
    return checkpoint_series.weight_files(args.weight_files, args.factory, allow_pickle=load.allow_pickle)


def _steps(given: list[str]) -> dict[str, int]:
    """NAME=STEP, each as a pair.

    Raises:
        InputError: one is something else, or a name is there twice.
    """
    pairs = [text.rpartition("=") for text in given]
    for text, (name, _, step) in zip(given, pairs, strict=True):
        if not (name and step.isdecimal()):
            raise InputError("--steps has the wrong form", value=text, allowed="NAME=STEP, e.g. epoch_init=0")
        if [each for each, _, _ in pairs].count(name) > 1:
            raise InputError("--steps names a checkpoint twice", value=name, remedy="leave one out")
    return {name: int(step) for name, _, step in pairs}
