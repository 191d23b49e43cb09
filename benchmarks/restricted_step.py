"""What a step of one component costs, as a share of a step of the whole model: the backward pass stops below it.

    python benchmarks/restricted_step.py --model ID_OR_FOLDER [--components 'l*,embed,norms'] [--tokens 128] [--batch 8]
    python benchmarks/restricted_step.py --model ID_OR_FOLDER --text FILE     # what it was trained on, as users would

The two take turns, so that other work on the machine slows both; the median of the ratios is printed. Where devinterp 2
is installed its steps take turns with ours, and its time over ours is printed too. Times are of the processor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_llc.backend.torch_modes import own_modes
from hf_llc.components.listed import components_named
from hf_llc.components.part_of import part_of
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.restriction import restricted
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.samplers import make_kernel
from hf_llc.samplers.walk import Walk


def random_ids(model: Any, *, tokens: int, count: int) -> torch.Tensor:
    """`[window, token]`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, model.config.vocab_size, (count, tokens), generator=generator)


def text_ids(model: str, path: str, *, tokens: int, count: int) -> torch.Tensor:
    """The first windows of a text, `[window, token]`."""
    text = Path(path).read_text(encoding="utf-8")[: 20 * tokens * count]
    ids = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")["input_ids"][0]
    return ids[: tokens * count].reshape(count, tokens)


def problem_of(model: Any, ids: torch.Tensor) -> Problem:
    """These tokens `[window, token]` and the language model's loss."""

    def losses(forward: Any, examples: Any) -> torch.Tensor:
        logits = forward(input_ids=examples["input_ids"]).logits[:, :-1]
        each = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), examples["input_ids"][:, 1:].flatten(), reduction="none"
        )
        return each.view(len(logits), -1).mean(1)

    return Problem(model, {"input_ids": ids}, losses, n=ids.numel(), unit="nats per token")


def seconds(problem: Problem, weights: str, *, batch: int, steps: int) -> float:
    """Of one step of SGLD of these weights."""
    problem.part = part_of(problem.model, weights)
    with own_modes(), preserved(problem.model), restricted(problem.model, problem.part), torch.no_grad():
        posterior = Posterior(problem)
        walk = Walk(posterior, Law(nbeta=100.0, localization=100.0), [0], seed=0, batch_size=batch)
        kernel = make_kernel("sgld", step_size=1e-7)
        begun = time.process_time()
        for step in range(steps):
            kernel.step(walk, walk.batches.indices(step), step=step, measure=False)
        return (time.process_time() - begun) / steps


def peer_seconds(problem: Problem, weights: str, *, batch: int, steps: int) -> float | None:
    """Of one step of devinterp's SGLD, the difference of two runs; None if it is not installed, or has no such part."""
    try:
        from devinterp.optim import SGMCMC
        from devinterp.slt.lm_loss import make_evaluate_fn
        from devinterp.slt.sampler import sample_single_chain
        from devinterp.slt.weight_restrictions import create_param_masks

        masks = create_param_masks(problem.model, "full" if weights == "all" else weights)
    except (ImportError, ValueError):
        return None
    if not masks:
        return None
    rows = [{"input_ids": row} for row in problem.examples["input_ids"]]
    law = {"lr": 1e-7, "nbeta": 100.0, "localization": 100.0}
    times = []
    for count in (2, 2 + steps):
        begun = time.process_time()
        sample_single_chain(
            problem.model, rows, make_evaluate_fn(), masks, num_draws=count, batch_size=batch, seed=0,
            sampling_method=SGMCMC.sgld, sampling_method_kwargs=law,
        )  # fmt: skip
        times.append(time.process_time() - begun)
    return (times[1] - times[0]) / steps


def main() -> None:
    """Print a line a component, and all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--components", default="l*,embed,norms")
    parser.add_argument("--text", metavar="FILE", help="instead of random tokens")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="timed together")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    size = {"tokens": args.tokens, "count": 4 * args.batch}
    ids = text_ids(args.model, args.text, **size) if args.text else random_ids(model, **size)
    problem = problem_of(model, ids)
    shares: dict[str, dict[str, float]] = {}
    for name in components_named(model, args.components):
        ratios: dict[str, list[float]] = {"of a step of all weights": [], "devinterp's step over ours": []}
        for _ in range(args.rounds):
            whole, part = (seconds(problem, weights, batch=args.batch, steps=args.steps) for weights in ("all", name))
            ratios["of a step of all weights"].append(part / whole)
            peer = peer_seconds(problem, name, batch=args.batch, steps=args.steps)
            if peer is not None:
                ratios["devinterp's step over ours"].append(peer / part)
        shares[name] = {what: statistics.median(found) for what, found in ratios.items() if found}
        print(f"{name:12}", ", ".join(f"{value:.2f} {what}" for what, value in shares[name].items()), flush=True)
    print(json.dumps(shares))


if __name__ == "__main__":
    main()
