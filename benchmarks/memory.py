"""Peak bytes a parameter of an SGLD step, above the loaded model's process: hf_llc, its floor and its peers.

    python benchmarks/memory.py [--parameters 100000000] [--output memory.json]
    python benchmarks/memory.py --language-model 0.5B|1.5B|7B [--device cuda] [--gradient-checkpointing]

Each contender steps a stack of square linear layers (almost no activations) in its own process. The number is the
growth of the process's peak resident memory from after the imports to after the steps. It includes the model's own 4
bytes a parameter (2 with a bfloat16 w*) and tens of MB that the allocator keeps. Time: about two minutes.

With --language-model, a random bfloat16 checkpoint of a decoder of that size is written to a temporary folder, loaded
as hf_llc loads it, and stepped three times on 256 tokens inside the backward pass, in float32. The number is the peak
of the whole process, imports and loading included. 1.5B needs 14 GiB of memory and 3 GiB of disk, 7B a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from step import CONTENDERS
from timing import EPS, GAMMA, NBETA, quiet
from torch import nn

NAMES = {
    "forward + backward": ("forward + backward", False),
    "hf_llc, 1 chain": ("hf_llc, 1 chain", False),
    "hf_llc, bf16 w*": ("hf_llc, 1 chain", True),
    "hf_llc, in backward": ("hf_llc, 1 chain, in backward", False),
    "hf_llc, in backward, bf16 w*": ("hf_llc, 1 chain, in backward", True),
    "devinterp optimizer": ("devinterp optimizer", False),
    "canonical-interp, 1 chain": ("canonical-interp, 1 chain", False),
}
"""What is printed: which contender of step.py, and whether its model comes from a bfloat16 checkpoint."""

SIZES: dict[str, dict[str, Any]] = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
}
"""Qwen2's, of 494, 1,544 and 7,071 million parameters with tied embeddings."""

TOKENS = 256


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

    from hf_llc.loading.loaded_weights import narrow_if_lossless
    from hf_llc.posterior.weights import preserved
    from hf_llc.problem import Problem

    contender, is_narrow = NAMES[name]
    width, depth = 1000, max(1, round(parameters / 1e6))
    small = nn.Linear(10, 10)  # loads what a first step loads
    torch.autograd.grad(small(torch.randn(2, 10)).sum(), list(small.parameters()))
    watch = Peak()
    watch.start()
    model = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(depth)]).eval()
    if is_narrow:
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float()
        narrow_if_lossless(model)
    x = torch.randn(8, width)
    case = Case("memory", Problem(model, {"inputs": x, "labels": x}, _squared_losses, n=8, unit=""), 4, False)
    with preserved(model), quiet():
        CONTENDERS[contender](case)(3)
    watch.over = True
    watch.join()
    return (watch.bytes - watch.start_bytes) / case.num_parameters


def write_checkpoint(size: str, folder: Path, device: str) -> None:
    """A random decoder of that size, made in bfloat16."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**SIZES[size], num_key_value_heads=2, vocab_size=151_936, tie_word_embeddings=True)
    torch.manual_seed(0)
    with torch.device(device):
        Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def step_checkpoint(folder: Path, *, device: str, gradient_checkpointing: bool) -> dict[str, Any]:
    """Three SGLD steps of a checkpoint, loaded as by id or folder; peak bytes and seconds a step."""
    from models import _token_losses

    from hf_llc.config import LoadConfig
    from hf_llc.loading.loaded_weights import narrow_if_lossless
    from hf_llc.loading.model_sources import open_model
    from hf_llc.posterior.law import Law
    from hf_llc.posterior.posterior import Posterior
    from hf_llc.posterior.weights import preserved
    from hf_llc.problem import Problem
    from hf_llc.samplers import make_kernel
    from hf_llc.samplers.walk import Walk

    model, _, _ = open_model(str(folder), LoadConfig(device=device), None)
    narrow_if_lossless(model)
    ids = torch.randint(model.config.vocab_size, (4, TOKENS), generator=torch.Generator().manual_seed(0))
    problem = Problem(model, {"input_ids": ids}, _token_losses, n=ids.numel(), unit="nats per token")
    with preserved(model):
        posterior = Posterior(
            problem,
            micro_batch_size=1,
            step_in_backward=True,
            gradient_checkpointing=gradient_checkpointing,
        )
        walk = Walk(posterior, Law(nbeta=NBETA, localization=GAMMA), [0], seed=0, batch_size=1)
        assert walk.steps_in_backward
        kernel, times, losses = make_kernel("sgld", EPS), [], []
        for step in range(3):
            begun = time.perf_counter()
            losses.append(float(kernel.step(walk, walk.batches.indices(step), step=step, measure=step == 0).loss))
            times.append(time.perf_counter() - begun)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = 1024 * next(
            int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
        )
    return {
        "parameters": posterior.num_parameters,
        "anchor": str(next(iter(posterior.buffer.anchor)).dtype),
        "peak_bytes": peak,
        "bytes_a_parameter": peak / posterior.num_parameters,
        "seconds_a_step": min(times),
        "losses": losses,
    }


def measured(arguments: list[str]) -> Any:
    """What this script prints as its last line in a process of its own; why not, if it fails."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:60]


def language_model(size: str, more: list[str]) -> dict[str, Any]:
    """Write a checkpoint, step it, say what that took."""
    with tempfile.TemporaryDirectory() as folder:
        for action in ("--write", "--step"):
            found = measured([action, folder, "--language-model", size, *more])
            if isinstance(found, str):
                raise SystemExit(f"{size}: {found}")
    print(
        f"{size}: {found['parameters']:,} parameters, w* in {found['anchor']}, {TOKENS} tokens a step: peak "
        f"{found['peak_bytes'] / 2**30:.2f} GiB ({found['bytes_a_parameter']:.2f} bytes a parameter), "
        f"{found['seconds_a_step']:.1f} s a step"
    )
    return found


def main() -> None:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--language-model", choices=SIZES, help="step a checkpoint of that size instead")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the language model")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="in the language model")
    for name in ("--only", "--write", "--step"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only is not None:
        print(one(args.only, args.parameters))
        return
    if args.write is not None:
        write_checkpoint(args.language_model, Path(args.write), args.device)
        print("true")
        return
    if args.step is not None:
        found = step_checkpoint(Path(args.step), device=args.device, gradient_checkpointing=args.gradient_checkpointing)
        print(json.dumps(found))
        return
    if args.language_model is not None:
        more = ["--device", args.device, *(["--gradient-checkpointing"] if args.gradient_checkpointing else [])]
        table: dict[str, Any] = {args.language_model: language_model(args.language_model, more)}
    else:
        values: dict[str, float] = {}
        for name in NAMES:
            found = measured(["--only", name, "--parameters", str(args.parameters)])
            values[name] = math.nan if isinstance(found, str) else found
            text = f"  – {found}" if isinstance(found, str) else f"{found:8.1f} bytes a parameter"
            print(f"{name:<30}{text}", flush=True)
        table = {"parameters": args.parameters, "bytes_a_parameter": values}
    if args.output is not None:
        args.output.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
