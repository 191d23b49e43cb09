"""`hf-llc doctor`: what is installed, what works on this machine, and what an estimate of a model would take."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from hf_llc.cli import console
from hf_llc.cli.arguments import add_like, add_settings, settings_from
from hf_llc.cli.plain_module import add_plain_module, check_plain_module, given
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.loading.device_names import check_device_name
from hf_llc.loading.names import check_data_given, check_names
from hf_llc.weights_setting import WHOLE


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "doctor",
        help="say what is installed, what works here, and what an estimate would take",
        description="Say what is installed and what works here. With --model, also say how many bytes its chains need "
        "with each sampler, whether they fit into this machine's memory, and how steps would be taken; no weights are "
        "loaded. With --data and other flags of an estimate, forecast the time and memory of each of its stages, from "
        "the time of one gradient.",
        examples=(
            "hf-llc doctor",
            "hf-llc doctor --model ID --dtype float32 --batch-size 8",
            "hf-llc doctor --model ID --data ID --minimize",
        ),
    )
    add_settings(parser)
    add_plain_module(parser)
    options = parser.add_argument_group("settings and output")
    options.add_argument("--config", metavar="FILE", help="YAML file of settings; flags override it")
    add_like(options)
    options.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Print the checks, the memory plan of a model, or the forecast of an estimate; return the exit code."""
    load, sample = settings_from(args)
    check_plain_module(args, load)
    check_device_name(load.device)
    if load.data is not None:
        return _forecast(args, load, sample)
    if load.model is not None:
        return _plan(args, load, sample)
    from hf_llc.cli.doctor_checks import examine, render

    checks = examine()
    if args.json:
        console.print_json([vars(check) for check in checks])
    else:
        console.print_text(render(checks))
    return console.OK if all(check.ok or check.is_optional for check in checks) else console.FAULT


def _plan(args: argparse.Namespace, load: LoadConfig, sample: SampleConfig) -> int:
    """The memory of a model's chains, from its config alone."""
    check_names(load)
    if sample.weights != WHOLE:
        raise InputError("without data all weights are counted", value=sample.weights, remedy="give --data as well")
    console.hush(False)
    with contextlib.redirect_stdout(sys.stderr):
        from hf_llc.progress import Watch, watching
        from hf_llc.publishing.formatting import for_stderr
        from hf_llc.workflow.memory_forecast import forecast_without_weights
        from hf_llc.workflow.peak_memory import render_peaks

        with watching(Watch(show=True, spell=for_stderr, begun=args.begun)) as watch, watch.stage("read the config"):
            plan, stages = forecast_without_weights(load, sample)
    if args.json:
        console.print_json({**plan.as_dict(), "stages": stages})
    else:
        console.print_text(f"{plan.render()}\n\n{render_peaks(stages)}\n\nwith --data: the time of each stage")
    return console.OK


def _forecast(args: argparse.Namespace, load: LoadConfig, sample: SampleConfig) -> int:
    """Time and memory of an estimate's stages."""
    if args.weight_file is None:
        if load.model is None:
            raise InputError("no model given", remedy="give --model")
        check_names(load)
        check_data_given(load.model, load.data)
    console.hush(False)
    with contextlib.redirect_stdout(sys.stderr):
        from hf_llc.workflow.estimate_model import foretell

        plan, foretold = foretell(load, sample, given(args, load), begun=args.begun)
    if args.json:
        console.print_json({**plan.as_dict(), **foretold.as_dict()})
    else:
        lines = [plan.render(), "", *foretold.lines(), *filter(None, [foretold.advice])]
        console.print_text("\n".join(lines))
    return console.OK
