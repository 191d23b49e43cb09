"""What a person sees while chains run: one bar on the main process, silent where nobody watches."""

from __future__ import annotations

import sys

import numpy as np
from tqdm.auto import tqdm

from hf_llc.chains.run_chains import Progress
from hf_llc.judging import statistics


class ProgressBar:
    """Chain-steps done by this process, with the running λ̂ and r̂ of its chains."""

    def __init__(self, *, enabled: bool, nbeta: float, num_burnin_steps: int) -> None:
        self.enabled = enabled and sys.stderr.isatty()
        self.nbeta, self.num_burnin_steps = nbeta, num_burnin_steps
        self.seen: dict[tuple[int, ...], np.ndarray] = {}
        self.bar: tqdm | None = None

    def start(self, total: int, done: int, label: str) -> None:
        """Begin a stage of `total` chain-steps of which `done` are behind."""
        self.close()
        if self.enabled:
            self.bar = tqdm(total=total, initial=done, desc=label, unit="step", file=sys.stderr)

    def update(self, progress: Progress) -> None:
        """Take in what a batch of chains did."""
        if self.bar is None:
            return
        trace = progress.trace
        excess = self.nbeta * (trace.loss - trace.init_loss)
        self.seen[tuple(progress.chains)] = excess
        self.bar.update(progress.new_steps * len(progress.chains))
        kept = [x[:, self.num_burnin_steps :] for x in self.seen.values() if x.shape[1] > self.num_burnin_steps]
        if kept:
            steps = min(x.shape[1] for x in kept)
            draws = np.concatenate([x[:, :steps] for x in kept])
            self.bar.set_postfix_str(f"λ̂ {draws.mean():.4g}, r̂ {statistics.r_hat(draws):.2f}", refresh=False)
        else:
            self.bar.set_postfix_str(f"burn-in, nβΔL {excess[:, -20:].mean():.4g}", refresh=False)

    def set_loss(self, step: int, loss: float) -> None:
        """Show the loss of a stage that is not a chain."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            self.bar.update(step - self.bar.n)

    def close(self) -> None:
        """End the stage."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
