"""Forecast against what happened: time by stage, peak memory, and by how much a run oversteps its max_seconds.

    python benchmarks/limits.py                                # all models, no limit where a run takes minutes
    python benchmarks/limits.py --models mlp bert smol --limits 30 120
    python benchmarks/limits.py --models smol --limits 120 --command "estimate --max-examples 64"
    python benchmarks/limits.py --models mlp cnn resnet gpt2-1m --limits 0 --steps 300

Each run is `hf-llc estimate` (or a plain module through `LLCEvaluator`) in a process of its own, with random weights
but for the embedded model and stories260K (the folder HF_LLC_DATA names it). With `--steps` random weights are trained
before by so many steps of Adam: a model that has learnt something takes other stages than one that has not. Written
down for each, as a line of JSON: the limit, the wall time of the whole process with its imports (of a plain module that
of the call of `compute`), the overshoot, its time on the processor, the peak of its memory as the system counts it
beside that of the forecast, the forecast of the whole beside the time that each stage of ten seconds or more took, the
last line, the exit code and the load of the machine.

A line for a reader comes last: what was foretold, what happened, and the ratio of the two (1.5: it took half as long
again), for memory, and for time where nothing cut the run short. A model that has learnt nothing ends early: what was
left after L_n(w*), as it was foretold then, stands beside the forecast of the whole.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from limits_models import NAMES, PLAIN, plain

ROOT = Path(__file__).resolve().parents[1]


def one(name: str, limit: float | None, more: list[str], *, steps: int, kept: Path | None) -> dict[str, Any]:
    """Run a model, trained for so many steps, in a process of its own, and say how it went."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bound = [] if limit is None else ["--max-seconds", str(limit)]
        given = [] if name == "embedded" else _made(name, folder, steps)
        if name in PLAIN:
            command = [__file__, "--plain", *given, "--output", str(folder / "out"), *bound]
        else:
            command = ["-m", "hf_llc", *(more or ["estimate"]), *given, "--output", str(folder / "out"), *bound]
        load, begun = os.getloadavg()[0], time.monotonic()
        with open(folder / "out.txt", "w") as out_file, open(folder / "err.txt", "w") as err_file:
            process = subprocess.Popen(
                [sys.executable, *command], stdout=out_file, stderr=err_file,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
            )  # fmt: skip
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begun
        out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out.txt", "err.txt"))
    if kept is not None:
        (kept / f"{name}-{limit}.txt").write_text(f"{err}\n----\n{out}", encoding="utf-8")
    computed = re.search(r"^compute took ([\d.]+) s$", out, re.MULTILINE)
    wall = float(computed[1]) if computed else wall
    return {
        "model": name, "limit": limit, "wall": wall, "overshoot": wall / limit - 1 if limit else None,
        "code": os.waitstatus_to_exitcode(status), "cpu": usage.ru_utime + usage.ru_stime,
        "peak_gib": usage.ru_maxrss / 2**20, "load": load, **_read(err, out),
    }  # fmt: skip


def _made(name: str, folder: Path, steps: int) -> list[str]:
    """Make the model in a process of its own, whose memory does not count."""
    code = "import json, pathlib, limits_models\n"
    code += f"print(json.dumps(limits_models.made({name!r}, pathlib.Path({str(folder)!r}), {steps})))"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _read(err: str, out: str) -> dict[str, Any]:
    """What a run said."""
    verdict = re.search(r"^verdict\s+(.*)$", out, re.MULTILINE)
    told = re.search(r"^hf_llc:   all\s+(.*?)(?:, [\d.]+ GiB)?(?:;.*)?$", err, re.MULTILINE)
    stages = re.findall(r"^hf_llc: ([^:]+): (\d+) s", err, re.MULTILINE)
    return {
        "verdict": verdict and verdict[1], "foretold": told and told[1], "foretold_s": _foretold_seconds(err),
        "early_s": _early_seconds(err),
        "is_cut": "max_seconds" in out + err,
        "foretold_gib": _foretold_gib(err), "stages": dict(stages),
        "last": err.splitlines()[-1:],
    }  # fmt: skip


_SECONDS = {"s": 1, "min": 60, "h": 3600}


def _foretold_seconds(err: str) -> float | None:
    """The guess of the forecast of a whole run."""
    return _seconds(re.search(r"^hf_llc:   all\s+about ([\d.]+) (s|min|h)\b", err, re.MULTILINE))


def _foretold_gib(err: str) -> float | None:
    """The memory of the largest stage; a model that has learnt nothing has no descent, as it is told."""
    rooms = dict(re.findall(r"^hf_llc:   (\S.*?)  .*, ([\d.]+) GiB", err, re.MULTILINE))
    if "the model has learnt nothing" in err:
        rooms = {name: room for name, room in rooms.items() if name not in ("descend", "all")}
    return max(map(float, rooms.values()), default=None)


def _early_seconds(err: str) -> float | None:
    """What was left of a run that ends early, as it was foretold after L_n(w*)."""
    return _seconds(re.search(r"the chains end early, about ([\d.]+) (s|min|h)\b", err))


def _seconds(found: re.Match[str] | None) -> float | None:
    return float(found[1]) * _SECONDS[found[2]] if found else None


def summary(row: dict[str, Any]) -> str:
    """A run in a line: time and memory foretold, what happened, and the ratios."""
    said = [
        f"{row['model']:<9}",
        f"limit {row['limit']:g} s" if row["limit"] else "no limit",
        f"took {row['wall']:.0f} s",
    ]
    if row["overshoot"] is not None:
        said.append(f"overshoot {row['overshoot']:+.1%}")
    if row["foretold_s"]:
        ratio = f" (ratio {row['wall'] / row['foretold_s']:.2f})"
        is_whole = not row["is_cut"] and not row["early_s"] and row["code"] != 2
        said.append(f"foretold {row['foretold_s']:.0f} s{ratio if is_whole else ''}")
    if row["early_s"]:
        said.append(f"ended early, {row['early_s']:.0f} s foretold after L_n(w*)")
    if row["foretold_gib"]:
        ratio = row["peak_gib"] / row["foretold_gib"]
        said.append(f"memory {row['foretold_gib']:.1f} GiB, peak {row['peak_gib']:.2f} (ratio {ratio:.2f})")
    return " | ".join([*said, row["verdict"] or (row["last"] or [""])[-1][:80]])


def main() -> None:
    """Run what is asked for, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--limits", nargs="+", type=float, default=[30, 120])
    parser.add_argument("--command", default="", help="in place of `estimate`, with its options")
    parser.add_argument("--steps", type=int, default=0, help="of training before, for models with random weights")
    parser.add_argument("--kept", type=Path, help="folder for what each run printed")
    parser.add_argument("--output", type=Path, default=Path("limits.jsonl"))
    parser.add_argument("--plain", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--max-seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        name, weights = args.plain
        sys.exit(plain(name, weights, {"max_seconds": args.max_seconds}, str(args.output)))
    if args.kept is not None:
        args.kept.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        for limit in args.limits:
            row = one(name, limit or None, shlex.split(args.command), steps=args.steps, kept=args.kept)
            with open(args.output, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
            print(summary(row), flush=True)


if __name__ == "__main__":
    main()
