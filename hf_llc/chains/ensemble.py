"""All chains of one estimate, on all processes: shared out, run until flat, gathered in chain order."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from hf_llc.chains.chain_store import ChainStore
from hf_llc.chains.progress import ProgressBar, RunningEstimate
from hf_llc.chains.run_chains import Progress, run_chains
from hf_llc.config import SampleConfig
from hf_llc.parallel.processes import Processes, chain_batches
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.records.trace import Trace, join_chains
from hf_llc.samplers import Kernel, make_kernel
from hf_llc.samplers.walk import Walk

Array = np.ndarray

_CONTINUATION = 2**20
"""Added to chain numbers for the noise of a continuation: no estimate has as many chains."""


class Sampling:
    """Runs chains at given settings and counts what that costs.

    Args:
        posterior: what is sampled.
        processes: among which chains are shared out.
        state: folder for the chains' states.
        show: draw a progress bar on the main process.
        is_long_enough: asked after each doubling with (settings, trace, burn-in steps, steps a draw).
        r_hat: draws `[chain, draw]` → r̂, for the progress bar.

    Attributes:
        num_gradients: gradient evaluations of all chains in all traces returned so far.
        new_steps: chain-steps that this process took in this call (a resumed run counts its own part).
        seconds: time that they took.
    """

    def __init__(
        self,
        posterior: Posterior,
        *,
        processes: Processes,
        state: Path,
        show: bool,
        is_long_enough: Callable[[SampleConfig, Trace, int, int], bool],
        r_hat: Callable[[Array], float],
    ) -> None:
        self.posterior, self.processes, self.state, self.show = posterior, processes, state, show
        self.is_long_enough, self.r_hat = is_long_enough, r_hat
        self.num_gradients, self.new_steps, self.seconds = 0, 0, 0.0

    def until_flat(self, sample: SampleConfig, name: str) -> tuple[Trace, int, int]:
        """Trace of all chains, burn-in steps, steps a draw.

        With burn-in "auto" the first half of the steps is dropped and the run is doubled, burn-in and draws alike,
        until the draws are flat and the standard error is as asked, or `max_steps` or `max_seconds` is reached.

        Args:
            sample: settings, none of them "auto" but the burn-in.
            name: of the folder that keeps the chains' states.
        """
        thinning, begun = sample.num_steps_between_draws, time.monotonic()
        chains = functools.partial(self._run_to, sample, ChainStore(self.state / name))
        if sample.num_burnin_steps != "auto":
            burnin = sample.num_burnin_steps
            trace = chains(until=burnin + sample.num_draws * thinning, burnin=burnin)
        else:
            longest = sample.max_steps // (2 * sample.num_draws)
            while True:
                kept = sample.num_draws * thinning
                burnin = min(kept, sample.max_steps - kept)
                trace = chains(until=burnin + kept, burnin=burnin)
                if thinning >= longest or self._is_time_up(sample, begun):
                    break
                if self.is_long_enough(sample, trace, burnin, thinning):
                    break
                thinning = min(2 * thinning, longest)
        self.num_gradients += self._gradients_of(sample, trace)
        return trace, burnin, thinning

    def go_on(self, sample: SampleConfig, name: str, *, number: int, steps: int) -> Trace:
        """`steps` more of all chains at other settings, from where those of `name` ended.

        Args:
            sample: the other settings.
            name: of the folder with the chains to go on from.
            number: of this continuation: each has noise and batches of its own.
            steps: of each chain.
        """
        store = ChainStore(self.state / f"{name}-{number}")
        origin = ChainStore(self.state / name)
        trace = self._run_to(sample, store, until=steps, burnin=steps // 2, origin=origin, number=number)
        self.num_gradients += self._gradients_of(sample, trace)
        return trace

    def end(self, name: str, chains: list[int]) -> Tensor:
        """Where these chains, one batch of them, ended: this process's part of `[chain, parameter]`."""
        device, group = self.posterior.device, self.posterior.group
        w, _, _ = ChainStore(self.state / name).load(
            chains, device, group, lambda tensor: self.posterior.split() if tensor == "w" else None
        )
        assert w is not None
        return w.to(device)

    def _is_time_up(self, sample: SampleConfig, begun: float) -> bool:
        """Whether another doubling would go beyond `max_seconds`; the main process's clock decides."""
        if sample.max_seconds is None:
            return False
        return 2 * self.processes.main_does(lambda: time.monotonic() - begun) > sample.max_seconds

    def _gradients_of(self, sample: SampleConfig, trace: Trace) -> int:
        """Gradient evaluations of all chains: as many gradients as the kernel takes, of one or two evaluations each."""
        is_full = sample.batch_size == self.posterior.num_examples
        kernel = _kernel(sample)
        steps = np.isfinite(trace.loss).sum(axis=1)
        measured = (np.isfinite(trace.accept_prob) | np.isfinite(trace.heat)).sum(axis=1)
        counts = zip(steps.tolist(), measured.tolist(), strict=True)
        taken = sum(kernel.num_gradients(steps=s, measured=m, is_full=is_full) for s, m in counts)
        return taken if is_full else taken * self.posterior.init_gradients.per_gradient(sample.gradient)

    def _run_to(
        self,
        sample: SampleConfig,
        store: ChainStore,
        *,
        until: int,
        burnin: int,
        origin: ChainStore | None = None,
        number: int = 0,
    ) -> Trace:
        """All chains up to step `until`; this process runs its share and every process gets the whole trace."""
        assert sample.nbeta is not None and isinstance(sample.batch_size, int) and sample.localization != "auto"
        assert sample.chain_batch_size != "auto"
        size = sample.batch_size
        law = Law(nbeta=sample.nbeta, localization=sample.localization)
        mine = self.processes.share(chain_batches(sample.num_chains, sample.chain_batch_size))
        bar = ProgressBar(until * sum(map(len, mine)), "sample", enabled=self.show)
        running = RunningEstimate(nbeta=sample.nbeta, num_burnin_steps=burnin, r_hat=self.r_hat)
        begun, finished = time.monotonic(), []

        def report(progress: Progress) -> None:
            new_steps = progress.new_steps * len(progress.chains)
            self.new_steps += new_steps
            bar.advance(new_steps, lambda: running.text(progress))

        for chains in mine:

            def make_walk(chains: list[int] = chains) -> Walk:
                own = [chain + number * _CONTINUATION for chain in chains]
                return Walk(self.posterior, law, own, seed=sample.seed, batch_size=size, gradient=sample.gradient)

            trace = run_chains(
                make_walk,
                _kernel(sample),
                chains,
                until=until,
                store=store,
                origin=origin,
                save_seconds=sample.save_seconds,
                report=report,
            )
            finished.append((chains[0], trace))
        bar.close()
        self.seconds += time.monotonic() - begun
        gathered = sorted(self.processes.gather(finished), key=lambda item: item[0])
        return join_chains([trace for _, trace in gathered])


def _kernel(sample: SampleConfig) -> Kernel:
    assert sample.step_size != "auto"
    return make_kernel(
        sample.sampler,
        sample.step_size,
        friction=sample.friction,
        adapt_step_size=sample.adapt_step_size,
        num_leapfrog_steps=sample.num_leapfrog_steps,
        freeze_after=sample.freeze_after,
    )
