"""Runs an experiment's script as its users do: on one process, or on several under torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def run_script(name: str, output: Path, *arguments: str, processes: int = 1) -> tuple[list[dict[str, Any]], str]:
    """Run scripts/NAME.py into `output`; the rows that it left, without their times, and what it printed.

    Under torchrun each printed line begins with its process, [default0]: and so on.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [sys.executable]
    if processes > 1:
        torchrun = str(Path(sys.executable).parent / "torchrun")
        launcher = [torchrun, "--nproc-per-node", str(processes), "--master-port", port, "--tee", "3"]
    command = [*launcher, str(ROOT / "scripts" / f"{name}.py"), "--output", str(output), *arguments]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (output / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row.pop("seconds")
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True)), done.stdout


def smoke_on_one_and_two(name: str, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The smoke preset on one process and on two: the same rows, each process its share, and all files there."""
    arguments = ("--preset", "smoke", *arguments)
    one, _ = run_script(name, folder / "one", *arguments)
    two, printed = run_script(name, folder / "two", *arguments, processes=2)
    assert one == two
    lines = printed.splitlines()
    done = [sum(line.startswith(f"[default{rank}]:") and ", seconds " in line for line in lines) for rank in range(2)]
    assert sum(done) == len(one) and abs(done[0] - done[1]) <= 1, f"jobs done by each process: {done}"
    for file in ("figure.png", "figure.csv", "claim.txt"):
        assert (folder / "one" / file).stat().st_size > 0 and (folder / "two" / file).stat().st_size > 0
    again, printed = run_script(name, folder / "one", *arguments)
    assert again == one and ", seconds " not in printed, "a finished run was done again"
    return one
