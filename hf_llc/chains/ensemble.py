"""All chains of one estimate: shared out among the processes, run until flat, gathered in chain order."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from hf_llc import numerals
from hf_llc.chains.chain_store import ChainStore
from hf_llc.chains.cost import gradients_behind, kernel_of, law_of, work_of_step
from hf_llc.chains.run_chains import Progress, run_chains
from hf_llc.chains.running_estimate import RunningEstimate
from hf_llc.chains.stretch import Stretch
from hf_llc.clock import TimeIsUp
from hf_llc.observables import Observable
from hf_llc.observables.draw_store import DrawStore
from hf_llc.observables.observable import Observer
from hf_llc.parallel.processes import Processes, chain_batches
from hf_llc.posterior.posterior import Posterior
from hf_llc.progress import watch
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.observations import Observations, join_observations
from hf_llc.records.trace import Trace, first_steps, join_chains
from hf_llc.samplers.walk import Walk

Array = np.ndarray

_FEWEST = 4
"""Steps of each chain from which on anything can be said of them."""

_FIRST_LOOK = 60
"""Steps of each chain of which half can tell how far they have climbed from w*."""

_FASTER = "or give shorter or fewer examples in a batch, fewer chains, a smaller part of the weights"

_CONTINUATION = 2**20
"""Added to the chain numbers of the k-th continuation k times: noise of its own. No estimate has as many chains."""


class Sampling:
    """Runs chains at given settings and counts what that costs.

    Args:
        posterior: what is sampled.
        processes: among which chains are shared out.
        state: folder for the states of chains.
        is_long_enough: (settings, trace, burn-in steps, steps a draw) → whether the chains may stop; called after each
            doubling of the steps.
        describe: draws `[chain, step]` and their heat → a text, for those who watch.
        observables: recorded along the chains, by name; those of `go_on` are not.
        seal: of the run, for its files (`hf_llc.seals`).

    Attributes:
        is_in_vain: (settings, trace, burn-in steps) → whether no number of steps would help; asked once, after a
            quarter of the fewest. None: there is no such look.
        observations: what the observables saw along the chains of the last `until_flat`; None if there are none.
        cut_at: steps at which the time was up for the chains of the last `until_flat`; None: it was not.
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
        is_long_enough: Callable[[ChainSettings, Trace, int, int], bool],
        describe: Callable[[Array, float], str],
        observables: Mapping[str, Observable],
        seal: str = "",
    ) -> None:
        self.posterior, self.processes, self.state = posterior, processes, state
        self.seal = seal
        self.is_long_enough, self.describe, self.observables = is_long_enough, describe, observables
        self.is_in_vain: Callable[[ChainSettings, Trace, int], bool] | None = None
        self.observations: Observations | None = None
        self.cut_at: int | None = None
        self.num_gradients, self.new_steps, self.seconds = 0, 0, 0.0

    def until_flat(self, settings: ChainSettings, name: str) -> tuple[Trace, int, int]:
        """Run all chains for the steps that the settings give, or until they are long enough.

        If num_burnin_steps is None, the first half of the steps is dropped, and burn-in and draws are doubled until
        `is_long_enough`, `max_steps` or the time for sampling ends it. When the time is up, chains end where they are.

        Args:
            settings: of the chains.
            name: of the folder for the states of these chains.

        Returns:
            The trace of all chains, burn-in steps, steps a draw.
        """
        with watch().stage("sample"):
            return self._until_flat(settings, name)

    def _until_flat(self, settings: ChainSettings, name: str) -> tuple[Trace, int, int]:
        """`until_flat` within its stage."""
        thinning, begun = settings.num_steps_between_draws, time.monotonic()
        stretch = functools.partial(Stretch, title=_title(settings, name))
        chains = functools.partial(self._run_to, settings, self._store(name))
        if settings.num_burnin_steps is not None:
            burnin = settings.num_burnin_steps
            until = burnin + settings.num_draws * thinning
            trace = chains(stretch(until=until, burnin=burnin))
            is_cut = trace.shape[1] < until
        elif (first := self._in_vain(settings, name)) is not None:
            trace, until, is_cut = first, first.shape[1], False
            burnin, thinning = until // 2, 1
        else:
            longest = settings.max_steps // (2 * settings.num_draws)
            while True:
                kept = settings.num_draws * thinning
                burnin = min(kept, settings.max_steps - kept)
                until = burnin + kept
                trace = chains(stretch(until=until, burnin=burnin))
                is_cut = trace.shape[1] < until
                if is_cut or thinning >= longest or self.is_long_enough(settings, trace, burnin, thinning):
                    break
                is_cut = self._is_time_up(begun)
                if is_cut:
                    break
                thinning = min(2 * thinning, longest)
        self.cut_at = trace.shape[1] if is_cut else None
        if trace.shape[1] < until:
            burnin = min(burnin, trace.shape[1] // 2)
            thinning = max((trace.shape[1] - burnin) // settings.num_draws, 1)
        self.num_gradients += gradients_behind(self.posterior, settings, trace)
        return trace, burnin, thinning

    def _in_vain(self, settings: ChainSettings, name: str) -> Trace | None:
        """The first steps of the chains, if these tell that no number of steps would help; else None."""
        fewest = min(2 * settings.num_draws * settings.num_steps_between_draws, settings.max_steps)
        steps = max(fewest // 4, _FIRST_LOOK)
        if self.is_in_vain is None or steps >= fewest:
            return None
        stretch = Stretch(until=steps, burnin=steps // 2, title=_title(settings, name))
        trace = self._run_to(settings, self._store(name), stretch)
        return trace if trace.shape[1] == steps and self.is_in_vain(settings, trace, steps // 2) else None

    def go_on(
        self,
        settings: ChainSettings,
        name: str,
        *,
        number: int,
        steps: int,
        into: str | None = None,
        stage: str = "check γ",
        among: range | None = None,
    ) -> Trace:
        """Continue chains of `name` for `steps` steps at other settings.

        Args:
            settings: the other settings.
            name: of the folder with the states to begin at.
            number: of this continuation, from 1: each has noise and minibatches of its own.
            steps: of each chain.
            into: name of the folder for their states; None: `name`-`number`.
            stage: of the watch, by whose end they stop.
            among: numbers of the chains, whole batches of them; None: all.

        Returns:
            The trace of these steps; of fewer if the time was up.
        """
        title = f"γ = {numerals.number(settings.localization)}"
        beyond = {"origin": self._store(name), "number": number, "stage": stage, "among": among}
        stretch = Stretch(until=steps, burnin=steps // 2, title=title, **beyond)
        trace = self._run_to(settings, self._store(into or f"{name}-{number}"), stretch)
        self.num_gradients += gradients_behind(self.posterior, settings, trace)
        return trace

    def end_of_first(self, settings: ChainSettings, name: str) -> Tensor:
        """The last weights of the first chain of `name`: this process's part of `[1, parameter]`."""
        chains = chain_batches(settings.num_chains, settings.chain_batch_size)[0]
        device, group = self.posterior.device, self.posterior.group
        spans = self.posterior.buffer.shard_spans
        w, _, _ = self._store(name).load(
            chains, device, group, lambda tensor: spans() if tensor == "w" else None, is_needed=True
        )
        assert w is not None
        return w[:1].to(device)

    def _store(self, name: str) -> ChainStore:
        return ChainStore(self.state / name, seal=f"{self.seal}/{name}")

    def _is_time_up(self, begun: float) -> bool:
        """Whether the time left would not bring a quarter more steps, by the main process's clock."""
        if watch().max_seconds is None:
            return False
        now, end = time.monotonic(), watch().ends_at("sample")
        return self.processes.main_does(lambda: end - now < (now - begun) / 4)

    def _run_to(self, settings: ChainSettings, store: ChainStore, stretch: Stretch) -> Trace:
        """The trace of the chains to the end of a stretch, on every process; each runs its share.

        Raises:
            OutOfTime: the time was up before every chain had four steps.
        """
        law = law_of(settings)
        batches, origin = self._batches(settings, stretch.among), stretch.origin
        watched = {"num_burnin_steps": stretch.burnin, "describe": self.describe, "title": stretch.title}
        running = RunningEstimate(nbeta=settings.nbeta, **watched)
        names = ("seed", "batch_size", "gradient", "batch_order", "full_loss_every")
        stream = {name: getattr(settings, name) for name in names}
        begun = time.monotonic()

        def report(progress: Progress) -> None:
            new_steps = progress.new_steps * len(progress.chains)
            self.new_steps += new_steps
            running.take(progress)
            watch().say(running.text)

        self._know_mean(settings, stretch.stage)

        def run_batch(chains: list[int], ends_at: float) -> tuple[int, Trace, Observer | None]:
            numbers = [chain + stretch.number * _CONTINUATION for chain in chains]
            observer = self._observer(settings, store, chains) if origin is None else None
            trace = run_chains(
                lambda: Walk(self.posterior, law, numbers, **stream),
                kernel_of(settings),
                chains,
                until=stretch.until,
                store=store,
                origin=origin,
                observer=observer,
                save_seconds=settings.save_seconds,
                ends_at=ends_at,
                report=report,
            )
            return chains[0], trace, observer

        def run_all() -> list[tuple[int, Trace, Observer | None]]:
            ends_at = watch().ends_at(stretch.stage)  # each batch gets its share of the time that is left
            return [run_batch(chains, _share(ends_at, len(batches) - k)) for k, chains in enumerate(batches)]

        with watch().stage(stretch.stage, self.work_of(settings, stretch.until, among=stretch.among)):
            finished = self.processes.all_do(run_all, is_long=True)
        self.seconds += time.monotonic() - begun
        steps = min(self.processes.gather([trace.shape[1] for _, trace, _ in finished]))
        if steps < min(_FEWEST, stretch.until) and origin is None:
            raise watch().out_of_time(stretch.stage, f"when the chains had {steps} steps", _FASTER)
        seen = [(first, first_steps(trace, steps), watched and watched.observations(steps))
                for first, trace, watched in finished]  # fmt: skip
        gathered = sorted(self.processes.gather(seen), key=lambda item: item[0])
        if origin is None:
            parts = [part for _, _, part in gathered if part is not None]
            self.observations = join_observations(parts) if parts else None
        return join_chains([trace for _, trace, _ in gathered])

    def _know_mean(self, settings: ChainSettings, stage: str) -> None:
        """Compute ∇L_n(w*) for a control variate now: in the middle of a step nothing may end it.

        Raises:
            OutOfTime: it takes longer than there is time.
        """
        if settings.gradient != "control-variate" or settings.batch_size == self.posterior.num_examples:
            return
        try:
            with watch().until(stage):
                _ = self.posterior.anchor_gradients.mean
        except TimeIsUp:
            remedy = "or give gradient plain, or fewer examples"
            raise watch().out_of_time(stage, "in the gradient of all examples at w*", remedy) from None

    def work_of(self, settings: ChainSettings, steps: int, *, among: range | None = None) -> float:
        """Work of so many steps of each chain (of those `among`) of this process, in gradients of one example."""
        return steps * sum(map(len, self._batches(settings, among))) * work_of_step(self.posterior, settings)

    def _batches(self, settings: ChainSettings, among: range | None) -> list[list[int]]:
        """The batches of chains that this process runs, all or those `among` these numbers; always the same ones."""
        batches = self.processes.share(chain_batches(settings.num_chains, settings.chain_batch_size))
        return [batch for batch in batches if among is None or batch[0] in among]

    def _observer(self, settings: ChainSettings, store: ChainStore, chains: list[int]) -> Observer | None:
        if not self.observables or not self.posterior.group.leads:
            return None
        return Observer(
            self.observables,
            every=settings.observe_every,
            store=DrawStore(store.folder, seal=store.seal),
            chains=chains,
        )


def _share(ends_at: float, num_batches: int) -> float:
    """When a batch of chains must end, if `num_batches` share the time until `ends_at`."""
    now = time.monotonic()
    return now + (ends_at - now) / num_batches


def _title(settings: ChainSettings, name: str) -> str:
    """What chains run for: "attempt 2, γ = 39" for those of attempt-1."""
    kind, _, tried = name.partition("-")
    if kind != "attempt" or tried == "0":
        return ""
    return f"attempt {int(tried) + 1}, γ = {numerals.number(settings.localization)}"
