"""What it costs to look at losses along a chain, as a share of a step: M examples, every s steps, batches of b.

    python benchmarks/observed_step.py --model ID_OR_FOLDER [--tokens 128] [--batch 8] [--rounds 9]

A look is a forward pass over M examples, a step a forward and backward pass over b: by the rule M/(3·b·s) of a step.
Looks and steps take turns, times are of the processor, and medians of their ratios are printed beside the rule.
"""

from __future__ import annotations

import argparse
import statistics
import time

from restricted_step import problem_of, random_ids, seconds
from transformers import AutoModelForCausalLM

from hf_llc.backend.torch_modes import own_modes
from hf_llc.observables.probe import Probe
from hf_llc.problem import Problem


def look_seconds(problem: Problem, count: int) -> float:
    """Of one look at so many examples."""
    with own_modes():
        probe = Probe(problem, level="example", count=count)
        probe.start(problem.model)
        begun = time.process_time()
        probe(problem.model)
        return time.process_time() - begun


def main() -> None:
    """Print a line for each M and s."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--examples", type=int, nargs="+", default=[8, 32, 128], help="M")
    parser.add_argument("--every", type=int, nargs="+", default=[1, 8, 20], help="s")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    problem = problem_of(model, random_ids(model, tokens=args.tokens, count=4 * max(args.examples)))
    for count in args.examples:
        ratios = []
        for _ in range(args.rounds):
            step = seconds(problem, "all", batch=args.batch, steps=5)
            ratios.append(look_seconds(problem, count) / step)
        for every in args.every:
            share, rule = statistics.median(ratios) / every, count / (3 * args.batch * every)
            print(f"M {count:4}  s {every:3}  extra share of a step {share:.3f}  rule {rule:.3f}", flush=True)


if __name__ == "__main__":
    main()
