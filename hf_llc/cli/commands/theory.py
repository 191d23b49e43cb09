"""`hf-llc theory`: exact learning coefficients."""

from __future__ import annotations

import argparse
import json
from typing import Any

from hf_llc.cli import console
from hf_llc.cli.arguments import convert
from hf_llc.errors import InputError


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers, its one model `dln` under it."""
    theory = commands.add_parser("theory", help="exact learning coefficients", examples=["hf-llc theory dln --help"])
    kinds = theory.add_subparsers(title="models", metavar="{dln}", required=True)
    dln = kinds.add_parser(
        "dln",
        help="deep linear network",
        description="Print the learning coefficient λ and the multiplicity m of the deep linear network "
        "y = W_M … W_1 x (Aoyagi 2024), over all weights with the same product. With --layer-ranks, print them also at "
        "weights whose layers have these ranks.",
        examples=("hf-llc theory dln --widths 48,17,13,14 --rank 8",),
    )
    dln.add_argument("--widths", metavar="H0,…,HM", required=True, help="widths, inputs first: 48,17,13,14")
    dln.add_argument("--rank", metavar="R", help="rank of the product (default: the smallest layer rank)")
    dln.add_argument("--layer-ranks", metavar="R1,…,RM", help="rank of each layer at w*, otherwise in general position")
    dln.add_argument("--json", action="store_true", help="print it as JSON")
    dln.set_defaults(run=run, parser=dln)


def run(args: argparse.Namespace) -> int:
    """Print λ and its multiplicity; return the exit code."""
    from hf_llc.theory import deep_linear, deep_linear_local

    widths = _whole_numbers("--widths", args.widths)
    ranks = None if args.layer_ranks is None else _whole_numbers("--layer-ranks", args.layer_ranks)
    if args.rank is None and ranks is None:
        raise InputError("the rank is missing", remedy="give --rank, or --layer-ranks")
    local = None if ranks is None else deep_linear_local(widths, ranks)
    rank = min(ranks or [0]) if args.rank is None else convert("--rank", args.rank, int)
    if ranks is not None and rank != min(ranks):
        raise InputError(
            "the product of these layers has another rank",
            value=rank,
            allowed=str(min(ranks)),
            remedy="leave out --rank",
        )
    everywhere = deep_linear(widths, rank)
    values: dict[str, Any] = {
        "widths": widths,
        "rank": rank,
        "learning_coefficient": float(everywhere.learning_coefficient),
        "multiplicity": everywhere.multiplicity,
    }
    lines = [f"global   λ = {everywhere.learning_coefficient}   multiplicity {everywhere.multiplicity}"]
    if local is not None:
        values["local"] = {
            "layer_ranks": ranks,
            "lower": float(local.lower),
            "upper": float(local.upper),
            "multiplicity": local.multiplicity,
        }
        bounds = f"λ = {local.lower}" if local.is_exact else f"{local.lower} ≤ λ ≤ {local.upper} (no closed form)"
        multiplicity = "" if local.multiplicity is None else f"   multiplicity {local.multiplicity}"
        lines.append(f"local    {bounds}{multiplicity}")
    console.print_text(json.dumps(values) if args.json else "\n".join(lines))
    return console.OK


def _whole_numbers(name: str, text: str) -> list[int]:
    return [convert(name, word.strip(), int) for word in text.split(",")]
