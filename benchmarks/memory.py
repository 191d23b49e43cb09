"""Peak bytes a parameter of an SGLD step, above the loaded model's process: hf_llc, its floor and its peers.

    python benchmarks/memory.py [--parameters 50000000] [--output memory.json]

Each contender steps a stack of square linear layers (almost no activations) in a process of its own; the figure is the
growth of the process's peak resident memory from after imports to after the steps, the model's own 4 bytes a
parameter included. About a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from step import CONTENDERS, _quiet
from torch import nn

NAMES = ["forward + backward", "hf_llc, 1 chain", "devinterp optimizer", "canonical-interp, 1 chain"]


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Peak(threading.Thread):
    """Watches the resident memory, since the peak that the system keeps would count the imports too."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_bytes = self.bytes = resident()
        self.over = False

    def run(self) -> None:
        while not self.over:
            self.bytes = max(self.bytes, resident())
            time.sleep(0.002)


def one(name: str, parameters: int) -> float:
    """Bytes a parameter of this contender, measured in this process."""
    from models import Case, _squared_losses

    from hf_llc.posterior import preserved
    from hf_llc.problem import Problem

    width, depth = 1000, max(1, round(parameters / 1e6))
    small = nn.Linear(10, 10)  # loads what a first step loads
    torch.autograd.grad(small(torch.randn(2, 10)).sum(), list(small.parameters()))
    watch = Peak()
    watch.start()
    model = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(depth)]).eval()
    x = torch.randn(8, width)
    case = Case("memory", Problem(model, {"inputs": x, "labels": x}, _squared_losses, n=8, unit=""), 4, False)
    with preserved(model), _quiet():
        CONTENDERS[name](case)(3)
    watch.over = True
    watch.join()
    return (watch.bytes - watch.start_bytes) / case.num_parameters


def main() -> None:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=50_000_000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only is not None:
        print(one(args.only, args.parameters))
        return
    table: dict[str, float] = {}
    for name in NAMES:
        command = [sys.executable, __file__, "--only", name, "--parameters", str(args.parameters)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        table[name] = float(done.stdout) if done.returncode == 0 else math.nan
        print(
            f"{name:<30}{table[name]:8.1f} bytes a parameter"
            if done.returncode == 0
            else f"{name:<30}  – {done.stderr.strip().splitlines()[-1][:60]}",
            flush=True,
        )
    if args.output is not None:
        args.output.write_text(json.dumps({"parameters": args.parameters, "bytes_a_parameter": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
