"""All chains of one estimate, on all processes: shared out, run until flat, gathered in chain order."""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path

import numpy as np

from hf_llc import diagnostics
from hf_llc.chains import ChainStore, Progress, join_chains, run_chains
from hf_llc.config import SampleConfig
from hf_llc.distributed import Processes, chain_batches
from hf_llc.estimate import llc_draws
from hf_llc.kernels import make_kernel
from hf_llc.posterior import Posterior
from hf_llc.progress import ProgressBar
from hf_llc.result import Trace
from hf_llc.walk import Walk


class Sampling:
    """Runs chains at given settings and counts what that costs.

    Attributes:
        num_gradients: gradient evaluations of all chains in all traces returned so far.
        new_steps: chain-steps that this process took in this call (a resumed run counts its own part).
        seconds: time that they took.
    """

    def __init__(self, sample: SampleConfig, *, processes: Processes, state: Path, show: bool) -> None:
        assert sample.nbeta is not None and isinstance(sample.batch_size, int)
        self.sample, self.processes, self.state, self.show = sample, processes, state, show
        self.nbeta, self.batch_size = sample.nbeta, sample.batch_size
        self.num_gradients, self.new_steps, self.seconds = 0, 0, 0.0

    def until_flat(self, posterior: Posterior, step_size: float, *, attempt: int) -> tuple[Trace, int, int]:
        """Trace of all chains, burn-in steps, steps a draw.

        With burn-in "auto" the first half of the steps is dropped and the run is doubled, burn-in and draws alike,
        until the draws are flat or `max_steps` is reached.
        """
        sample, thinning = self.sample, self.sample.num_steps_between_draws
        store = ChainStore(self.state / f"step-size-{attempt}")
        run_to = functools.partial(self._run_to, posterior, step_size, store)
        if sample.num_burnin_steps != "auto":
            burnin = sample.num_burnin_steps
            trace = run_to(burnin + sample.num_draws * thinning, burnin)
        else:
            longest = sample.max_steps // (2 * sample.num_draws)
            while True:
                kept = sample.num_draws * thinning
                burnin = min(kept, sample.max_steps - kept)
                trace = run_to(burnin + kept, burnin)
                if thinning >= longest or self._is_over(trace, burnin, thinning, step_size):
                    break
                thinning = min(2 * thinning, longest)
        self.num_gradients += self._gradients_of(trace, is_full=self.batch_size == posterior.num_examples)
        return trace, burnin, thinning

    def _is_over(self, trace: Trace, burnin: int, thinning: int, step_size: float) -> bool:
        """The draws are flat and many enough, or more steps within the budget would not mend what is wrong.

        They do not where a chain broke, where w* is not at a minimum, and where the draws drift while flat directions,
        which relax in 2/(εγ) steps, need over a quarter of the budget: `estimate` then says which γ would do.
        """
        draws = llc_draws(
            trace.loss, trace.init_loss, nbeta=self.nbeta, num_burnin_steps=burnin, num_steps_between_draws=thinning
        )
        llc, error = float(draws.mean()), diagnostics.standard_error(draws)
        if not math.isfinite(llc):
            return True
        dip = diagnostics.deepest_dip(self.nbeta * (trace.loss - trace.init_loss))
        if diagnostics.is_dipping(dip, llc, float(draws.std())):
            return True
        is_flat = not diagnostics.is_drifting(diagnostics.drift(draws), llc, error)
        if not is_flat and step_size * self.sample.localization * self.sample.max_steps < 8:
            return True
        return is_flat and diagnostics.ess(draws) >= 10 * len(draws) and diagnostics.r_hat(draws) <= 1.1

    def _gradients_of(self, trace: Trace, *, is_full: bool) -> int:
        """Gradient evaluations of all chains: what the kernel takes, twice that with a control variate."""
        kernel = make_kernel(self.sample.sampler, 1.0, self.sample)
        steps, measured = int(np.isfinite(trace.loss).sum()), int(np.isfinite(trace.accept_prob).sum())
        taken = kernel.num_gradients(steps=steps, measured=measured, is_full=is_full)
        return 2 * taken if self.sample.gradient == "control-variate" and not is_full else taken

    def _run_to(self, posterior: Posterior, step_size: float, store: ChainStore, until: int, burnin: int) -> Trace:
        """All chains up to step `until`; this process runs its share and every process gets the whole trace."""
        sample = self.sample
        mine = self.processes.share(chain_batches(sample.num_chains, sample.chain_batch_size))
        bar = ProgressBar(enabled=self.show, nbeta=self.nbeta, num_burnin_steps=burnin)
        bar.start(until * sum(map(len, mine)), 0, "sample")
        begun, finished = time.monotonic(), []

        def report(progress: Progress) -> None:
            self.new_steps += progress.new_steps * len(progress.chains)
            bar.update(progress)

        for chains in mine:

            def make_walk(chains: list[int] = chains) -> Walk:
                return Walk(posterior, chains, seed=sample.seed, batch_size=self.batch_size, gradient=sample.gradient)

            trace = run_chains(
                make_walk,
                make_kernel(sample.sampler, step_size, sample),
                chains,
                until=until,
                store=store,
                save_seconds=sample.save_seconds,
                report=report,
            )
            finished.append((chains[0], trace))
        bar.close()
        self.seconds += time.monotonic() - begun
        gathered = sorted(self.processes.gather(finished), key=lambda item: item[0])
        return join_chains([trace for _, trace in gathered])
