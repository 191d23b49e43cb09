"""All chains of one estimate: shared out among the processes, run until flat, gathered in chain order."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from hf_llc.chains.chain_store import ChainStore
from hf_llc.chains.progress import ProgressBar, RunningEstimate
from hf_llc.chains.run_chains import Progress, run_chains
from hf_llc.observables import Observable
from hf_llc.observables.draw_store import DrawStore
from hf_llc.observables.observable import Observer
from hf_llc.parallel.processes import Processes, chain_batches
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.observations import Observations, join_observations
from hf_llc.records.trace import Trace, join_chains
from hf_llc.samplers import SAMPLERS, Kernel, make_kernel
from hf_llc.samplers.walk import Walk

Array = np.ndarray

_CONTINUATION = 2**20
"""Added to the chain numbers of the k-th continuation k times: noise of its own. No estimate has as many chains."""


class Sampling:
    """Runs chains at given settings and counts what that costs.

    Args:
        posterior: what is sampled.
        processes: among which chains are shared out.
        state: folder for the states of chains.
        show: draw a progress bar.
        is_long_enough: (settings, trace, burn-in steps, steps a draw) → whether the chains may stop; called after each
            doubling of the steps.
        r_hat: draws `[chain, draw]` → r̂, for the progress bar.
        observables: recorded along the chains, by name; those of `go_on` are not.
        seal: of the run, for its files (`hf_llc.seals`).

    Attributes:
        observations: what the observables saw along the chains of the last `until_flat`; None if there are none.
        num_gradients: gradient evaluations behind all traces returned so far.
        new_steps: chain-steps that this process has taken; those of an earlier run that was resumed do not count.
        seconds: time that they took.
    """

    def __init__(
        self,
        posterior: Posterior,
        *,
        processes: Processes,
        state: Path,
        show: bool,
        is_long_enough: Callable[[ChainSettings, Trace, int, int], bool],
        r_hat: Callable[[Array], float],
        observables: Mapping[str, Observable],
        seal: str = "",
    ) -> None:
        self.posterior, self.processes, self.state, self.show = posterior, processes, state, show
        self.seal = seal
        self.is_long_enough, self.r_hat, self.observables = is_long_enough, r_hat, observables
        self.observations: Observations | None = None
        self.num_gradients, self.new_steps, self.seconds = 0, 0, 0.0

    def until_flat(self, settings: ChainSettings, name: str) -> tuple[Trace, int, int]:
        """Run all chains for the steps that the settings give, or until they are long enough.

        If num_burnin_steps is None, the first half of the steps is dropped, and burn-in and draws are doubled until
        `is_long_enough`, `max_steps` or `max_seconds` ends it.

        Args:
            settings: of the chains.
            name: of the folder for the states of these chains.

        Returns:
            The trace of all chains, burn-in steps, steps a draw.
        """
        thinning, begun = settings.num_steps_between_draws, time.monotonic()
        chains = functools.partial(self._run_to, settings, self._store(name))
        if settings.num_burnin_steps is not None:
            burnin = settings.num_burnin_steps
            trace = chains(until=burnin + settings.num_draws * thinning, burnin=burnin)
        else:
            longest = settings.max_steps // (2 * settings.num_draws)
            while True:
                kept = settings.num_draws * thinning
                burnin = min(kept, settings.max_steps - kept)
                trace = chains(until=burnin + kept, burnin=burnin)
                if thinning >= longest or self._is_time_up(settings, begun):
                    break
                if self.is_long_enough(settings, trace, burnin, thinning):
                    break
                thinning = min(2 * thinning, longest)
        self.num_gradients += self._gradients_of(settings, trace)
        return trace, burnin, thinning

    def go_on(self, settings: ChainSettings, name: str, *, number: int, steps: int) -> Trace:
        """Continue all chains of `name` for `steps` steps at other settings.

        Args:
            settings: the other settings.
            name: of the folder with the states to begin at.
            number: of this continuation, from 1: each has noise and minibatches of its own.
            steps: of each chain.

        Returns:
            The trace of these steps.
        """
        store = self._store(f"{name}-{number}")
        origin = self._store(name)
        trace = self._run_to(settings, store, until=steps, burnin=steps // 2, origin=origin, number=number)
        self.num_gradients += self._gradients_of(settings, trace)
        return trace

    def end(self, name: str, chains: list[int]) -> Tensor:
        """The last weights of one batch of chains of `name`: this process's part of `[chain, parameter]`."""
        device, group = self.posterior.device, self.posterior.group
        spans = self.posterior.buffer.shard_spans
        w, _, _ = self._store(name).load(
            chains, device, group, lambda tensor: spans() if tensor == "w" else None, is_needed=True
        )
        assert w is not None
        return w.to(device)

    def _store(self, name: str) -> ChainStore:
        return ChainStore(self.state / name, seal=f"{self.seal}/{name}")

    def _is_time_up(self, settings: ChainSettings, begun: float) -> bool:
        """Whether another doubling would bring the run beyond `max_seconds`, by the main process's clock."""
        if settings.max_seconds is None:
            return False
        return 2 * self.processes.main_does(lambda: time.monotonic() - begun) > settings.max_seconds

    def _gradients_of(self, settings: ChainSettings, trace: Trace) -> int:
        """Gradient evaluations behind a trace: a gradient of a control variate may take two."""
        is_full = settings.batch_size == self.posterior.num_examples
        kernel = _kernel(settings)
        steps = np.isfinite(trace.loss).sum(axis=1)
        measured = (np.isfinite(trace.accept_prob) | np.isfinite(trace.heat)).sum(axis=1)
        counts = zip(steps.tolist(), measured.tolist(), strict=True)
        taken = sum(kernel.num_gradients(steps=s, measured=m, is_full=is_full) for s, m in counts)
        return taken if is_full else taken * self.posterior.anchor_gradients.per_gradient(settings.gradient)

    def _run_to(
        self,
        settings: ChainSettings,
        store: ChainStore,
        *,
        until: int,
        burnin: int,
        origin: ChainStore | None = None,
        number: int = 0,
    ) -> Trace:
        """The trace of all chains up to step `until`, on every process; each runs its share of the chains."""
        law = Law(nbeta=settings.nbeta, localization=settings.localization)
        batches = self.processes.share(chain_batches(settings.num_chains, settings.chain_batch_size))
        bar = ProgressBar(until * sum(map(len, batches)), "sample", enabled=self.show)
        running = RunningEstimate(nbeta=settings.nbeta, num_burnin_steps=burnin, r_hat=self.r_hat)
        stream = {"seed": settings.seed, "batch_size": settings.batch_size, "gradient": settings.gradient}
        begun = time.monotonic()

        def report(progress: Progress) -> None:
            new_steps = progress.new_steps * len(progress.chains)
            self.new_steps += new_steps
            bar.advance(new_steps, lambda: running.text(progress))

        def run_batch(chains: list[int]) -> tuple[int, Trace, Observations | None]:
            numbers = [chain + number * _CONTINUATION for chain in chains]
            observer = self._observer(settings, store, chains) if origin is None else None
            trace = run_chains(
                lambda: Walk(self.posterior, law, numbers, **stream),
                _kernel(settings),
                chains,
                until=until,
                store=store,
                origin=origin,
                observer=observer,
                save_seconds=settings.save_seconds,
                report=report,
            )
            return chains[0], trace, None if observer is None else observer.observations(until)

        finished = self.processes.all_do(lambda: [run_batch(chains) for chains in batches], is_long=True)
        bar.close()
        self.seconds += time.monotonic() - begun
        gathered = sorted(self.processes.gather(finished), key=lambda item: item[0])
        if origin is None:
            parts = [part for _, _, part in gathered if part is not None]
            self.observations = join_observations(parts) if parts else None
        return join_chains([trace for _, trace, _ in gathered])

    def _observer(self, settings: ChainSettings, store: ChainStore, chains: list[int]) -> Observer | None:
        if not self.observables or not self.posterior.group.leads:
            return None
        return Observer(
            self.observables,
            every=settings.observe_every,
            store=DrawStore(store.folder, seal=store.seal),
            chains=chains,
        )


def _kernel(settings: ChainSettings) -> Kernel:
    names = SAMPLERS[settings.sampler].settings
    return make_kernel(settings.sampler, settings.step_size, **{name: getattr(settings, name) for name in names})
