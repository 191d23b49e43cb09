"""Error of λ̂ against wall time, beside devinterp and canonical-interp: seconds until it is within 5 % and stays there.

    python benchmarks/efficiency.py                              # three deep linear networks of known λ
    python benchmarks/efficiency.py --cases stories --seconds 900 --reference   # a long run first, kept as JSON
    python benchmarks/efficiency.py --cases stories --chains 4 --seconds 600 --grid 0.25 0.35
    python benchmarks/efficiency.py --cases linear --networks 1 --seconds 10 --grid 0.5 1

`linear`: the first networks of the paper's 1k class whose λ is known, n = 10⁵, γ = 1 and batches of 500, as the paper
has them. `stories`: stories260K at the minimum of its loss on TinyStories' validation text, against a long run of
hf_llc at a quarter of its step size. All contenders sample the same posterior on one process:

  hf_llc                     its defaults: one estimate, when its own rule says that it is enough
  hf_llc, running            its own sampler, the calibration on the clock, running estimates
  hf_llc SGLD, tuned         the peers' algorithm by hf_llc's code
  devinterp, defaults        lr 0.01, 4 chains of 200 draws, batches of 32, no burn-in
  devinterp, tuned           as many chains, the later half of the steps so far
  canonical-interp, defaults learning rate 1, 8 chains, 100 draws after 100 burnt
  canonical-interp, tuned    as devinterp, compiled where it compiles (not language models)

"tuned": the step size is the best of a grid in units of 1/κ, where κ is the curvature that hf_llc finds at w* (SGLD is
stable below 4/κ). Each grid point has its own run of the same length with another seed, and is compared with the known
answer: the one that arrives first, or else ends nearest, is taken. Neither these runs nor the search for κ count, which
favours whoever is tuned, since a user does not know the answer. hf_llc's own calibration counts. Loading packages does
not. Nothing is dropped: a run that diverges says so. Of several seeds the table has the median, the file each.

A gradient of `stories` takes 0.22 s on one thread of a busy two-core machine, so each contender needs many minutes, and
the reference some 25,000 gradients.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from known import STORIES_LOCALIZATION, Known, deep_linear, make_reference, on_device, referred, stories
from running import Curve, arrival, defaults, ours
from running_peers import CANONICAL, DEVINTERP, canonical, devinterp
from timing import quiet

from hf_llc.backend.versions import package_versions
from hf_llc.errors import InputError
from hf_llc.files import finite, write_json
from hf_llc.posterior.curvature import Curvature
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved

Contender = Callable[[Known, float, int, int], Curve]
"""(problem, seconds, chains, seed) → its running estimates."""
AtStep = Callable[[Known, float, int, int, float], Curve]
"""The same at a step size."""

TUNED: dict[str, AtStep] = {
    "hf_llc SGLD, tuned": lambda k, s, c, seed, e: ours(k, seconds=s, chains=c, seed=seed, step_size=e),
    "devinterp, tuned": lambda k, s, c, seed, e: devinterp(k, seconds=s, chains=c, seed=seed, step_size=e),
    "canonical-interp, tuned": lambda k, s, c, seed, e: canonical(
        k, seconds=s, chains=c, seed=seed, step_size=e, compiled=not k.case.is_language_model
    ),
}
PLAIN: dict[str, Contender] = {
    "hf_llc": lambda k, s, c, seed: defaults(k, seed=seed),
    "hf_llc, running": lambda k, s, c, seed: ours(k, seconds=s, chains=c, seed=seed),
    "devinterp, defaults": lambda k, s, c, seed: devinterp(k, seconds=s, seed=seed, burnt=0.0, **DEVINTERP),
    "canonical-interp, defaults": lambda k, s, c, seed: canonical(k, seconds=s, seed=seed, compiled=True, **CANONICAL),
}
ORDER = [
    "hf_llc", "hf_llc, running", "hf_llc SGLD, tuned", "devinterp, defaults", "devinterp, tuned",
    "canonical-interp, defaults", "canonical-interp, tuned",
]  # fmt: skip


def curvature(known: Known) -> float:
    """κ of the energy at w*, on the first batch."""
    with preserved(known.problem.model):
        posterior = Posterior(known.problem)
        size = min(known.case.batch_size, posterior.num_examples)
        indices = torch.arange(size, device=posterior.device)[None]
        kappa = Curvature(posterior, nbeta=known.nbeta).refresh(posterior.start(1), indices, iterations=20)
        return kappa + known.localization


def tuned(
    known: Known, contender: AtStep, steps: Sequence[float], seconds: float, chains: int
) -> tuple[float, list[Any]]:
    """The step size of the grid that arrives first, or else ends nearest; and arrival and error of each."""
    tried: list[Any] = []
    for step_size in steps:
        curve = contender(known, seconds, chains, 1000, step_size)
        reached = arrival(curve, known.llc)
        end = curve.llc[-1] / known.llc - 1 if curve.llc else math.nan
        tried.append({"step_size": step_size, "seconds": reached, "error": end})

    def rank(row: dict[str, Any]) -> tuple[bool, float, float]:
        off = abs(row["error"]) if math.isfinite(row["error"]) else math.inf
        return row["seconds"] is None, row["seconds"] or 0.0, off

    return min(tried, key=rank)["step_size"], tried


def measure(
    known: Known, names: Sequence[str], *, seconds: float, chains: int, seeds: int, grid: Sequence[float]
) -> dict[str, Any]:
    """What each contender did on one problem, or why it could not.

    Args:
        known: the problem.
        names: of the contenders.
        seconds: that each has.
        chains: of all but those at their own defaults.
        seeds: runs of each.
        grid: step sizes in units of 1/κ.
    """
    kappa = curvature(known)
    found: dict[str, Any] = {}
    for name in names:
        begun = time.perf_counter()
        try:
            with quiet():
                if name in TUNED:
                    at, tried = tuned(known, TUNED[name], [g / kappa for g in grid], seconds, chains)
                    tuning = time.perf_counter() - begun
                    curves = [TUNED[name](known, seconds, chains, seed, at) for seed in range(seeds)]
                    row: dict[str, Any] = {"step_size": at, "tuning_seconds": tuning, "tried": tried}
                else:
                    row, curves = {}, [PLAIN[name](known, seconds, chains, seed) for seed in range(seeds)]
        except Exception as error:
            text = str(error).strip().splitlines()
            found[name] = {"failed": f"{type(error).__name__}: {text[0][:80] if text else ''}"}
        else:
            row["arrivals"] = [arrival(curve, known.llc) for curve in curves]
            row["errors"] = [curve.llc[-1] / known.llc - 1 if curve.llc else math.nan for curve in curves]
            found[name] = {**row, "curves": [asdict(curve) for curve in curves]}
        print(f"  {name:<28}{line(found[name])}", flush=True)
    return found


def line(row: dict[str, Any]) -> str:
    """A contender's line of the table."""
    if "failed" in row:
        return f"– {row['failed']}"
    times = [math.inf if t is None else t for t in row["arrivals"]]
    median = statistics.median_low(sorted(times))
    most = max(curve["seconds"][-1] if curve["seconds"] else 0.0 for curve in row["curves"])
    note = row["curves"][0]["note"]
    missed = "diverged" if note.startswith("diverged") else f"not in {most:.1f} s"
    reached = f"{median:.2f} s" if math.isfinite(median) else missed
    number = sum(map(math.isfinite, times))
    errors = ", ".join("–" if not math.isfinite(e) else f"{e:+.1%}" for e in row["errors"])
    tuning = f"; tuning {row['tuning_seconds']:.0f} s not counted" if "tuning_seconds" in row else ""
    return f"{reached:>14}  {number}/{len(times)}  error at the end {errors}  ({note}{tuning})"


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """The peers' warnings are not about us."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def problems(args: argparse.Namespace) -> Iterator[Known]:
    """The problems that were asked for, references made where asked.

    Raises:
        InputError: no data, or no reference.
    """
    if "linear" in args.cases:
        yield from deep_linear(args.networks)
    if "stories" in args.cases:
        folder = args.output / "stories"
        case = stories(args.data, folder, device=args.device)
        if args.reference:
            make_reference(case, folder, localization=STORIES_LOCALIZATION, steps=args.reference_steps)
        given = None if args.llc is None else (args.llc, args.se)
        yield referred(case, folder, localization=STORIES_LOCALIZATION, given=given)


def peers() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for name in ("devinterp", "canonical-interp"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=["linear", "stories"], default=["linear"])
    parser.add_argument("--networks", type=int, default=3, help="deep linear networks")
    parser.add_argument("--contenders", nargs="+", choices=ORDER, default=ORDER, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=30.0, help="wall time of each contender on each problem")
    parser.add_argument("--chains", type=int, default=2, help="of all but those at their own defaults")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--grid", nargs="+", type=float, default=[0.125, 0.25, 0.5, 1.0, 2.0], help="ε in 1/κ")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HF_LLC_DATA", "data")), metavar="DIR")
    parser.add_argument("--output", type=Path, default=Path("runs/efficiency"), metavar="DIR")
    parser.add_argument("--reference", action="store_true", help="make the reference of `stories` first")
    parser.add_argument("--reference-steps", type=int, default=3000, help="of each of its four chains")
    parser.add_argument("--llc", type=float, help="the reference of `stories`, instead of one made here")
    parser.add_argument("--se", type=float, default=0.0)
    return parser.parse_args()


def main() -> int:
    """Print the table; write it with all curves as JSON."""
    args = parse()
    torch.set_num_threads(args.threads)
    about = {**package_versions(), **peers()}
    kept = ("hf_llc", "devinterp", "canonical-interp", "torch", "python")
    shown = ", ".join(f"{name} {about[name]}" for name in kept if name in about)
    print(f"{shown}; {args.threads} thread(s), {args.device}; {args.seconds:g} s each, seconds until within 5 %")
    table = {}
    try:
        with hushed():
            for known in problems(args):
                print(f"\n{known.case.name}: {known.case.num_parameters:,} parameters, ", end="")
                print(f"λ = {known.llc:.5g} ± {known.llc_se:.2g} ({known.source})", flush=True)
                found = measure(
                    on_device(known, args.device), args.contenders,
                    seconds=args.seconds, chains=args.chains, seeds=args.seeds, grid=args.grid,
                )  # fmt: skip
                table[known.case.name] = {"llc": known.llc, "llc_se": known.llc_se, "contenders": found}
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    record = {"versions": about, "settings": settings, "table": table}
    write_json(args.output / "efficiency.json", json.loads(json.dumps(finite(record))))
    print(f"\nwritten: {args.output / 'efficiency.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
