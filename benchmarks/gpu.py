"""What only a GPU shows: memory bandwidth of a step beside a device copy, a hundred chains together beside a loop.

    python benchmarks/gpu.py [--parameters 1000000000] [--output gpu.json]

The step is SGLD's update alone, on a given gradient: it reads weights, gradient and w* (bfloat16) and writes the
weights, 14 bytes a parameter. The chains are those of step.py's ReLU network. Needs a GPU with Triton. Time: under a
minute.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from models import cases
from step import forward_backward, ours
from timing import quiet

from hf_llc.backend.random_streams import NoiseStream
from hf_llc.backend.versions import package_versions
from hf_llc.posterior.weights import preserved

MANY = 100


def milliseconds(work: Any, times: int = 20) -> float:
    """Median time of `work` over `times` calls, by the device's own clock."""
    work()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(times)]
    for begun, over in marks:
        begun.record()
        work()
        over.record()
    torch.cuda.synchronize()
    return sorted(begun.elapsed_time(over) for begun, over in marks)[times // 2]


def bandwidth(parameters: int) -> dict[str, float]:
    """Terabytes a second of a copy, of the step in one launch, and of the same step by torch's operations."""
    device = torch.device("cuda")
    stream = NoiseStream(0, [0], device)
    w, grad = torch.zeros(1, parameters, device=device), torch.randn(1, parameters, device=device)
    anchor = torch.zeros(parameters, dtype=torch.bfloat16, device=device)
    noise = torch.empty_like(w)

    def fused() -> None:
        stream.philox.diffuse(w, grad, anchor, step=1, start=0, pull=1e-6, push=1e-6, spread=1e-6)

    def unfused() -> None:
        stream.philox.fill(noise, step=1, start=0)
        w.lerp_(anchor.float()[None], 1e-6)
        w.add_(grad, alpha=-1e-6)
        w.add_(noise, alpha=1e-6)

    def generator() -> None:
        noise.normal_(generator=stream.generator)

    rate = parameters / 1e9
    found = {"copy": 8 * rate / milliseconds(lambda: noise.copy_(grad))}
    for name, work in (("step", fused), ("step by torch's operations", unfused)):
        found[name] = 14 * rate / milliseconds(work)
    for name, work in (("noise", lambda: stream.philox.fill(noise, step=1, start=0)), ("torch's noise", generator)):
        found[name] = 4 * rate / milliseconds(work)
    return found


def many() -> dict[str, float]:
    """Microseconds a chain-step of the ReLU network: a loop over chains, and a hundred of them together."""
    (case,) = cases(["relu"], "cuda")
    found = {}
    with preserved(case.problem.model), quiet():
        runners = {"forward + backward": forward_backward(case), "a loop": ours(case, chains=1)}
        runners[f"{MANY} together"] = ours(case, chains=MANY)
        for name, run in runners.items():
            run(20)
            found[name] = 1e6 * min(run(300) for _ in range(3))
    return found


def main() -> None:
    """Print both tables; write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=10**9)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU here")
    name = torch.cuda.get_device_name()
    rates, chains = bandwidth(args.parameters), many()
    print(f"{name}, {args.parameters:,} parameters")
    for what, rate in rates.items():
        print(f"  {what:<30}{rate:8.2f} TB/s {rate / rates['copy']:7.2f} of a copy's")
    print("10-20-20-10 ReLU network, a chain-step")
    for what, time in chains.items():
        print(f"  {what:<30}{time:8.1f} µs {time / chains['forward + backward']:7.3f} × forward + backward")
    if args.output is not None:
        record = {"versions": package_versions(), "device": name, "terabytes_a_second": rates, "microseconds": chains}
        args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
