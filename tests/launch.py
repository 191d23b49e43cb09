"""Launches programs under one process or several, and compares what they leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import forked
import numpy as np
from forked import ROOT, environment, port

from hf_llc.records.trace import Trace
from hf_llc.result import LLCResult

BIN = Path(sys.executable).parent


def torchrun(count: int) -> list[str]:
    """The launcher's command line."""
    return [str(BIN / "torchrun"), "--nproc-per-node", str(count), "--master-port", port()]


def accelerate(count: int) -> list[str]:
    return [
        "env",
        "ACCELERATE_USE_CPU=true",
        str(BIN / "accelerate"),
        "launch",
        "--multi_gpu",
        "--num_processes",
        str(count),
        "--main_process_port",
        port(),
    ]


def workers(launcher: list[str] | int, output: Path, settings: list[dict[str, object]]) -> list[LLCResult]:
    """One launch for all these settings, one after the other; a number: so many forked processes."""
    _work(launcher, output, settings)
    return [LLCResult.load(output / str(number)) for number in range(len(settings))]


def worker(launcher: list[str] | int, output: Path, **settings: object) -> LLCResult:
    _work(launcher, output, settings)
    return LLCResult.load(output)


def _work(launcher: list[str] | int, output: Path, settings: object) -> None:
    if isinstance(launcher, int):
        forked.run(ROOT / "tests" / "worker.py", str(output), json.dumps(settings), processes=launcher)
        return
    command = [*launcher, str(ROOT / "tests" / "worker.py"), str(output), json.dumps(settings)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def assert_equal(one: LLCResult, other: LLCResult) -> None:
    assert one.trace is not None and other.trace is not None
    for item in fields(Trace):
        np.testing.assert_array_equal(getattr(one.trace, item.name), getattr(other.trace, item.name), item.name)
    assert (one.llc, one.llc_se, one.verdict) == (other.llc, other.llc_se, other.verdict)


def newest(folder: Path) -> float:
    """When something was last put into the folder; 0 if nothing was."""
    return max((path.stat().st_mtime for path in folder.rglob("*") if path.is_file()), default=0.0)
