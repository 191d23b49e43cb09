"""Launches programs under one process or several, and compares what they leave behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np

from hf_llc.records.trace import Trace
from hf_llc.result import LLCResult

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def environment() -> dict[str, str]:
    here = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), str(ROOT / "tests")] + ([here] if here else [])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def torchrun(count: int, *, logs: Path | None = None) -> list[str]:
    """The launcher's command line; with `logs`, `printed` of that folder is what each process printed."""
    more = [] if logs is None else ["--log-dir", str(logs), "--tee", "3"]
    return [str(BIN / "torchrun"), "--nproc-per-node", str(count), "--master-port", port(), *more]


def printed(logs: Path) -> list[str]:
    """What each process of a run under torchrun printed, from its own file: torchrun's own print can tear a line."""
    files = sorted(logs.glob("*/attempt_0/*/stdout.log"), key=lambda file: int(file.parent.name))
    return [file.read_text(encoding="utf-8") for file in files]


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


def workers(launcher: list[str], output: Path, settings: list[dict[str, object]]) -> list[LLCResult]:
    """One launch for all these settings, one after the other."""
    _work(launcher, output, settings)
    return [LLCResult.load(output / str(number)) for number in range(len(settings))]


def worker(launcher: list[str], output: Path, **settings: object) -> LLCResult:
    _work(launcher, output, settings)
    return LLCResult.load(output)


def _work(launcher: list[str], output: Path, settings: object) -> None:
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
