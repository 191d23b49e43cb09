"""Is this checkout's step slower than another's? Both checkouts take turns of a fraction of a second.

    git worktree add ../before COMMIT
    python benchmarks/step_against.py ../before [--cases relu linear gpt2 attention-only] [--turns 30] [--seconds 0.5]

benchmarks/step.py compares contenders within one run. Between two runs, minutes apart, a shared machine may change its
speed by a third. Here each checkout's hf_llc runs in a process of its own, and one waits while the other steps. The
table has the median over the turns of new / old, with the interval that holds the median at 95 % (by its order
statistics), for every contender of step.py that is ours.

Time: 7 contenders × turns × 2 × seconds a case: 3.5 minutes a case by default.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORKER = """
import json, sys
root = sys.argv[1]
sys.path[:0] = [root, root + "/benchmarks"]
import logging, torch, step
logging.disable(logging.WARNING)
torch.set_num_threads(1)
(case,) = step.cases([sys.argv[2]], "cpu")
mine = [name for name in step.CONTENDERS if "devinterp" not in name and "canonical" not in name]
sink, sys.stdout = sys.stdout, sys.stderr
print(json.dumps(mine), file=sink, flush=True)
runner, name = None, None
for line in sys.stdin:
    order = json.loads(line)
    if order["name"] != name:
        name = order["name"]
        runner = step.CONTENDERS[name](case)
        runner(2)
        print(runner(3), file=sink, flush=True)
        continue
    print(runner(order["steps"]), file=sink, flush=True)
"""


class Side:
    """One checkout, in its own process; its steps wait for orders."""

    def __init__(self, root: Path, case: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, str(root), case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=root,
        )
        self.names: list[str] = self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a checkout's process ended: run its benchmarks/step.py to see why")
        return json.loads(line)

    def run(self, name: str, steps: int) -> float:
        """Seconds a chain-step; the first order for a contender builds it and times three steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"name": name, "steps": steps}) + "\n")
        self.process.stdin.flush()
        return self._read()


def median_with_interval(values: list[float]) -> tuple[float, float, float]:
    """The median and the order statistics that hold it at about 95 % (binomial, normal approximation)."""
    ordered, count = sorted(values), len(values)
    reach = 0.98 * math.sqrt(count)
    low, high = max(0, math.floor(count / 2 - reach)), min(count - 1, math.ceil(count / 2 + reach) - 1)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return middle, ordered[low], ordered[high]


def compare(new: Side, old: Side, name: str, *, turns: int, seconds: float) -> list[float]:
    """new / old of each turn; who goes first alternates."""
    chains = 8 if "8 chains" in name else 1
    once = min(new.run(name, 0), old.run(name, 0))
    steps = max(1, math.ceil(seconds / (once * chains)))
    ratios = []
    for turn in range(turns):
        first, second = (new, old) if turn % 2 else (old, new)
        one, two = first.run(name, steps), second.run(name, steps)
        ratios.append(one / two if turn % 2 else two / one)
    return ratios


def main() -> None:
    """Print the table, a case at a time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("other", type=Path, help="the root of the other checkout")
    known = ["relu", "linear", "gpt2", "attention-only"]
    parser.add_argument("--cases", nargs="+", default=known, choices=known)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.5, help="a turn of one checkout")
    args = parser.parse_args()
    for case in args.cases:
        new, old = Side(ROOT, case), Side(args.other.resolve(), case)
        print(f"\n{case}: new / old", flush=True)
        for name in new.names:
            if name in old.names:
                ratios = compare(new, old, name, turns=args.turns, seconds=args.seconds)
                middle, low, high = median_with_interval(ratios)
                print(f"  {name:<38}{middle:8.3f}   [{low:.3f}, {high:.3f}]", flush=True)
        new.process.kill()
        old.process.kill()


if __name__ == "__main__":
    main()
