"""`hf-llc benchmark`: a sampler on targets whose λ̂ is known."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_type_hints

from hf_llc.cli import console
from hf_llc.cli.arguments import convert
from hf_llc.config import SampleConfig, from_mapping
from hf_llc.errors import InputError
from hf_llc.files import check_writable, write_json
from hf_llc.our_files import refuse_others
from hf_llc.sampler_rules import SAMPLER_RULES

_DESCRIPTION = """Run a sampler on targets whose λ̂ is known: quadratic, normal crossings, reduced rank, a deep linear
network, a regression with noisy labels, a tanh and a ReLU network. λ̂ should agree with the exact value within its
standard error. Exit code 3 means that it is off by more than four standard errors somewhere, or that a chain
diverged."""


_FILE = "benchmark.json"

TARGETS = (
    *("quadratic", "crossing-2-2", "crossing-2-4", "quartic", "reduced-rank", "deep-linear", "noisy-labels", "tanh"),
    "relu",
)
"""Names of `hf_llc.studies.known_targets.TARGETS`: they are checked before torch is imported."""


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "benchmark",
        help="a sampler on targets whose λ̂ is known",
        description=_DESCRIPTION,
        examples=("hf-llc benchmark --sampler sgld --targets quadratic",),
    )
    parser.add_argument("--sampler", metavar="NAME", default="auto", help="as in estimate (default: auto)")
    parser.add_argument("--step-size", metavar="X|auto", default="auto", help="ε on every target (default: auto)")
    parser.add_argument("--seed", metavar="N", default="0", help="seed of noise and batch order (default: 0)")
    parser.add_argument("--targets", metavar="NAME", nargs="+", choices=TARGETS, help="only these (default: all)")
    parser.add_argument("--output", metavar="DIR", help="write benchmark.json there")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Measure the sampler on each target and print a line for each; return the exit code."""
    hints = get_type_hints(SampleConfig)
    given = {name: convert(name, getattr(args, name), hints[name]) for name in ("sampler", "step_size", "seed")}
    if given["sampler"] != "auto" and SAMPLER_RULES[given["sampler"]].needs_full_batch:
        given["batch_size"] = "full"  # the benchmark sets it anyway, and SampleConfig refuses such a sampler without it
    asked = from_mapping(SampleConfig, given, source="the settings")
    targets = args.targets or TARGETS
    if len(set(targets)) < len(targets):
        raise InputError("--targets names a target twice", value=" ".join(targets), remedy="leave one out")
    if args.output is not None:
        refuse_others(check_writable(args.output), [_FILE])
    console.hush(False)
    from hf_llc.studies import sampler_benchmark

    rows = []
    for row in sampler_benchmark.measure(asked, targets):
        if not args.json:
            console.print_text(sampler_benchmark.text_of(row, is_first=not rows))
        rows.append(row)
    report = {"asked": given, "rows": [sampler_benchmark.as_dict(row) for row in rows]}
    if args.output is not None:
        refuse_others(Path(args.output), [_FILE])
        write_json(Path(args.output) / _FILE, report)
    if args.json:
        console.print_json(report)
    return console.verdict_code(all(row.is_right for row in rows))
