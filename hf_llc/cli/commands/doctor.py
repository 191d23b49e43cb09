"""`hf-llc doctor`: what is installed, what works on this machine, and whether a model fits its memory."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from hf_llc.cli import console
from hf_llc.cli.arguments import add_settings, settings_from
from hf_llc.loading.device_names import check_device_name
from hf_llc.loading.names import check_names

_PLANNED = (
    *("model", "revision", "task", "max_length", "dtype", "device", "attn_implementation", "trust_remote_code"),
    *("batch_size", "micro_batch_size", "gradient_checkpointing"),
)
"""Settings on which the memory of a chain depends."""


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "doctor",
        help="say what is installed, what works here, and whether a model fits",
        description="Say what is installed and what works here. With --model: the bytes that its chains need, by "
        "sampler, whether they fit this machine's memory, and how steps would then be taken; no weights are loaded.",
        examples=("hf-llc doctor", "hf-llc doctor --model ID --dtype float32 --batch-size 8"),
    )
    add_settings(parser, only=_PLANNED)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=run, parser=parser, config=None)


def run(args: argparse.Namespace) -> int:
    """Print the checks, or the memory plan of a model; return the exit code."""
    load, sample = settings_from(args)
    check_device_name(load.device)
    if load.model is not None:
        check_names(load)
        console.hush(True)
        with contextlib.redirect_stdout(sys.stderr):
            from hf_llc.workflow.memory_forecast import forecast_without_weights
            from hf_llc.workflow.peak_memory import render_peaks

            plan, stages = forecast_without_weights(load, sample)
        if args.json:
            console.print_json({**plan.as_dict(), "stages": stages})
        else:
            console.print_text(f"{plan.render()}\n\n{render_peaks(stages)}")
        return console.OK
    from hf_llc.cli.doctor_checks import examine, render

    checks = examine()
    if args.json:
        console.print_json([vars(check) for check in checks])
    else:
        console.print_text(render(checks))
    return console.OK if all(check.ok or check.is_optional for check in checks) else console.FAULT
