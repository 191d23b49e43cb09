"""λ̂ while its chains run, for those who watch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hf_llc.chains.run_chains import Progress
from hf_llc.numerals import number
from hf_llc.records.trace import Trace

Array = np.ndarray


class RunningEstimate:
    """What the chains of this process say so far, in words.

    Args:
        nbeta: inverse temperature times n.
        num_burnin_steps: steps dropped at the start.
        describe: draws `[chain, step]` and the heat of gradient noise in them (NaN: not measured) → a text.
        title: in front of every text.
    """

    def __init__(
        self, *, nbeta: float, num_burnin_steps: int, describe: Callable[[Array, float], str], title: str = ""
    ) -> None:
        self.nbeta, self.num_burnin_steps, self.describe, self.title = nbeta, num_burnin_steps, describe, title
        self._seen: dict[tuple[int, ...], Trace] = {}

    def take(self, progress: Progress) -> None:
        """Take in what a batch of chains has done."""
        self._seen[tuple(progress.chains)] = progress.trace

    @np.errstate(over="ignore", invalid="ignore")  # the last finite loss of a diverging chain times nβ
    def text(self) -> str:
        """Where λ̂ stands, of the chains that are through their burn-in."""
        burnin = self.num_burnin_steps
        seen = [(self.nbeta * (trace.loss - trace.init_loss), trace.heat) for trace in self._seen.values()]
        kept = [(x[:, burnin:], heat[:, burnin:]) for x, heat in seen if x.shape[1] > burnin]
        if not kept:
            latest = seen[-1][0]
            said = f"burn-in, nβΔL {number(float(latest[:, -20:].mean()))}"
        else:
            steps = min(x.shape[1] for x, _ in kept)
            draws = np.concatenate([x[:, :steps] for x, _ in kept])
            heat = np.concatenate([heat[:, :steps] for _, heat in kept])
            measured = heat[np.isfinite(heat)]
            said = self.describe(draws, float(measured.mean()) if measured.size else np.nan)
        return f"{self.title}: {said}" if self.title else said
