"""`hf-llc profile`: λ̂ over scales γ, beside λ of the Hessian at w*."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_llc.cli.arguments import add_like, add_settings, check_resume, convert, like_fingerprint, settings_from
from hf_llc.cli.early import check_places
from hf_llc.cli.study import add_study_options, run_study
from hf_llc.errors import InputError
from hf_llc.studies.profile_settings import MOST, HessianSettings, profile_settings

_DESCRIPTION = """Measure λ̂ at many γ, from one ladder of chains down from the strongest, and compare it with λ_Q(γ)
= ½ Σ h/(h + γ/nβ) of the Hessian at w*. Where they agree, the loss is quadratic; where λ̂ is smaller, singular. Costs
three estimates at most. Repeat it to continue. Exit code 3: a bad verdict."""


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "profile",
        help="λ̂ over scales γ, beside λ of the Hessian",
        description=_DESCRIPTION,
        examples=("hf-llc profile --model ID --data ID --localizations 1e2:1e6:9 --output runs/p",),
    )
    group = parser.add_argument_group("profile")
    group.add_argument(
        "--localizations", metavar="FROM:TO:COUNT", required=True,
        help="γ in equal ratios, e.g. 1e2:1e6:9; or numbers separated by commas",
    )  # fmt: skip
    group.add_argument("--nbetas", metavar="FROM:TO:COUNT", help="nβ, a profile for each (default: one, n / ln n)")
    group.add_argument("--hessian-probes", metavar="N", default="8", help="random vectors (default: 8)")
    group.add_argument("--hessian-iterations", metavar="N", default="40", help="products a vector (default: 40)")
    group.add_argument("--hessian-examples", metavar="N", help="examples of each (default: by cost)")
    add_settings(parser)
    add_like(add_study_options(parser, output="profile"), law="nβ, ε")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Measure the profile and print it; return the exit code."""
    own = ("localization",) if args.nbetas is None else ("localization", "nbeta")
    load, sample = settings_from(args, own=own)
    check_resume(args)
    localizations = values_of("localizations", args.localizations)
    nbetas = None if args.nbetas is None else values_of("nbetas", args.nbetas)
    names = ("probes", "iterations", "examples")
    asked = {name: getattr(args, f"hessian_{name}") for name in names}
    sizes = {name: convert(f"hessian_{name}", text, int) for name, text in asked.items() if text is not None}
    hessian = HessianSettings(**sizes)
    profile_settings(sample, localizations, nbetas)
    check_places(load, sample, Path(args.output), resume=args.resume)

    def measured(**common: Any) -> Any:
        from hf_llc.studies.measure_profile import measure
        from hf_llc.workflow.opened_run import Given

        given = Given(data_fingerprint=like_fingerprint(args))
        return measure(load, sample, given, localizations=localizations, nbetas=nbetas, hessian=hessian, **common)

    return run_study(args, "profile", measured)


def values_of(name: str, text: str) -> list[float]:
    """The numbers of `FROM:TO:COUNT`, in equal ratios, or of a list.

    Raises:
        InputError: the text is neither.
    """
    if ":" not in text:
        return [convert(name, word.strip(), float) for word in text.split(",")]
    parts = text.split(":")
    if len(parts) != 3:
        raise InputError(f"{name} is not a range", value=text, allowed="FROM:TO:COUNT, e.g. 1e2:1e6:9")
    low, high = (convert(name, part.strip(), float) for part in parts[:2])
    count = convert(name, parts[2].strip(), int)
    if not 0 < low < high or not 2 <= count <= MOST:
        allowed = f"0 < FROM < TO, and COUNT 2 … {MOST}"
        raise InputError(f"{name} is not a range", value=text, allowed=allowed)
    ratio = (high / low) ** (1 / (count - 1))
    return [float(f"{low * ratio**k:.6g}") for k in range(count)]
