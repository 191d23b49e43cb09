"""The runs that tests/folder_torture.py disturbs, and what must be equal in two folders of the same run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from test_calibrate_command import SMALL as TINY_TEXT
from test_components_command import measured as components
from worker import SETTINGS, examples, network, squared_error

from hf_llc import LLCEvaluator
from hf_llc.cli.entry_point import main as command_line

SMALL = {**SETTINGS, "num_draws": 60, "num_burnin_steps": 40, "save_seconds": 0.0, "chain_batch_size": 1}
FIXED = {**SMALL, "nbeta": 500.0, "localization": 100.0}
MINIMIZING = {**SMALL, "minimize": True, "minimize_steps": 60}
KINDS: dict[str, dict[str, Any]] = {
    "chains": SMALL,
    "minimize": MINIMIZING,
    "γ checks": {**FIXED, "check_localization": True, "extrapolate": True, "observe": "parameter_norms"},
    "auto": {**SMALL, "step_size": "auto", "num_burnin_steps": "auto", "max_steps": 400},
    "two ranks": {**MINIMIZING, "observe": "parameter_norms"},
    "data-parallel 2": {**SMALL, "data_parallel": 2},
    "curve": {},
    "calibrate": {},
    "components": {},
}
PROCESSES = {"two ranks": 2, "data-parallel 2": 2}
ESTIMATES = list(KINDS)[:6]
ENDS = ("result.json", "curve.json", "calibration.json", "components.json")

_CLOCKS = ("wall_seconds", "steps_per_second", "peak_memory_bytes", "seal")
_IDS = ("id", "digest", "seal")


def estimate(kind: str, output: Path, *, overwrite: bool = False) -> int:
    """λ̂ of the small network, or another command, into a folder; returns the exit code of a command."""
    torch.set_num_threads(1)
    if kind in ESTIMATES:
        model, data = network(), examples(network())
        if KINDS[kind].get("minimize"):  # so that there is something to do
            model[0].weight.data += 0.05  # type: ignore[index]
        evaluator = LLCEvaluator(**KINDS[kind])
        result = evaluator.compute(model, data=data, loss_fn=squared_error, output=output, overwrite=overwrite)
        print("returned", json.dumps(result.llc_per_chain))
        return 0
    if kind == "components":
        components(output, save_seconds=0.0, num_draws=20, num_chains=2, chain_batch_size=1, overwrite=overwrite)
        return 0
    more = ["--quiet", "--output", str(output), *(["--overwrite"] if overwrite else [])]
    if kind == "calibrate":
        return command_line(["calibrate", *TINY_TEXT, *more])
    place = Path(os.environ["SERIES"])
    flags = [w for name, x in FIXED.items() for w in (f"--{name.replace('_', '-')}", str(x)) if name != "save_seconds"]
    files = sorted(map(str, place.glob("*.safetensors")))
    given = ["--factory", "curve_factory:make", "--weight-files", *files, "--data", f"{place}/data.jsonl"]
    return command_line(["curve", *given, *flags, *more])


def returned(text: str) -> list[list[float]]:
    """λ̂ of every chain, as each process returned it."""
    lines = [line.removeprefix("returned ") for line in text.splitlines() if line.startswith("returned ")]
    return [json.loads(line) for line in lines]


def contents(folder: Path) -> dict[str, Any]:
    """All files of a folder by name, without clocks and the ids of runs. What is hidden is there by its name alone."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith("."):
            found[name] = "hidden"
        elif path.is_file() and "/." not in f"/{name}":
            found[name] = _told(path)
    return found


def _told(path: Path) -> Any:
    if path.name == "card.md":  # it tells the seconds
        return [line for line in path.read_text(encoding="utf-8").splitlines() if " s on " not in line]
    if path.suffix != ".json":
        return path.read_bytes()
    values = json.loads(path.read_text(encoding="utf-8"))
    left_out = _IDS if path.name == "run.json" else _CLOCKS
    return {name: value for name, value in values.items() if name not in left_out}


def differences(one: dict[str, Any], other: dict[str, Any], *, but: tuple[str, ...] = ()) -> list[str]:
    """Names of files that differ, or are in one alone; `but`: last parts of names that may."""
    names = sorted({*one, *other})
    return [name for name in names if one.get(name) != other.get(name) and not name.endswith(but or "\0")]
