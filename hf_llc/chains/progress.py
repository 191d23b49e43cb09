"""What a person sees while chains run: one bar on the main process, silent if stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from tqdm.auto import tqdm

from hf_llc.chains.run_chains import Progress

Array = np.ndarray


class ProgressBar:
    """Steps done of a stage, with a short text behind them."""

    def __init__(self, total: int, label: str, *, enabled: bool) -> None:
        is_shown = enabled and sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=label, unit="step", file=sys.stderr) if is_shown else None

    def advance(self, steps: int, text: Callable[[], str]) -> None:
        """Add steps. `text` is called only if the bar is shown."""
        if self.bar is not None:
            self.bar.update(steps)
            self.bar.set_postfix_str(text(), refresh=False)

    def set_loss(self, step: int, loss: float) -> None:
        """Show that a stage which is not a chain has come to `step`, and its loss there."""
        if self.bar is not None:
            self.advance(step - self.bar.n, lambda: f"loss {loss:.4g}")

    def close(self) -> None:
        """End the stage."""
        if self.bar is not None:
            self.bar.close()


class RunningEstimate:
    """λ̂ and r̂ of the chains of this process so far.

    Args:
        nbeta: inverse temperature times n.
        num_burnin_steps: steps dropped at the start.
        r_hat: draws `[chain, draw]` → r̂.
    """

    def __init__(self, *, nbeta: float, num_burnin_steps: int, r_hat: Callable[[Array], float]) -> None:
        self.nbeta, self.num_burnin_steps, self.r_hat = nbeta, num_burnin_steps, r_hat
        self.excess: dict[tuple[int, ...], Array] = {}

    def text(self, progress: Progress) -> str:
        """Take in what a batch of chains has done and say where λ̂ stands."""
        excess = self.nbeta * (progress.trace.loss - progress.trace.init_loss)
        self.excess[tuple(progress.chains)] = excess
        kept = [x[:, self.num_burnin_steps :] for x in self.excess.values() if x.shape[1] > self.num_burnin_steps]
        if not kept:
            return f"burn-in, nβΔL {excess[:, -20:].mean():.4g}"
        steps = min(x.shape[1] for x in kept)
        draws = np.concatenate([x[:, :steps] for x in kept])
        return f"λ̂ {draws.mean():.4g}, r̂ {self.r_hat(draws):.2f}"
