"""How much work each stage of a run takes, told before it begins, from the time of one gradient.

Work is counted in gradients of one example (`hf_llc.progress`). What a stage takes depends on what it finds, so each
has a least and a most.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch

from hf_llc.calibration.descent import can_descend, disk_of_descent, work_of_descent
from hf_llc.calibration.held_out import SHARE
from hf_llc.calibration.noise_spectrum import NUM_GRADIENTS, cost_within
from hf_llc.calibration.pilot import num_blocks, work_of_block
from hf_llc.config import SampleConfig
from hf_llc.numerals import span
from hf_llc.parallel.processes import Processes, chain_batches
from hf_llc.posterior.posterior import LOSS_COST, Posterior
from hf_llc.progress import watch
from hf_llc.ranges import SAID, Range, total
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.samplers import SAMPLERS
from hf_llc.workflow.continuations import few_chains
from hf_llc.workflow.foretold import Foretold
from hf_llc.workflow.memory_plan import plan_of
from hf_llc.workflow.peak_memory import passes_of, peaks, resident_bytes
from hf_llc.workflow.shortest_run import START, Work, advice, check_limit, shortest_run


class Foresee(Protocol):
    """The work of the chains, and of what comes with them and follows them, on this process."""

    def __call__(
        self, posterior: Posterior, sample: SampleConfig | ChainSettings, processes: Processes, /, *, checks: bool
    ) -> Work:
        """As `work_of_chains`."""
        ...


_CALIBRATE_GUESS = 1.75
"""Times the least that a pilot usually takes: some look at the spectrum of the noise, some have a control variate (1.1
to 2.3 on four models)."""

_CHAIN_GUESS = 1.6
"""Times the fewest steps that chains usually take: most are long enough then, some double them, and some begin again at
other settings (1.0, 1.2, 2.8 and 4.6 on four models)."""

_PILOT_BLOCKS = (2, 8, 40)
"""Blocks of twenty gradients in which a step size is found for samplers without momentum."""

_LONG = 3600.0
"""Seconds from which on a forecast says what would be shorter."""

_REWEIGHTED = 100
"""Parameters below which reweighted draws tell how λ̂ changes with γ, as a rule."""

_SLOW = 1.0
"""Seconds of one example's gradient from which on no whole minibatch is timed."""

_HEAT_GUESS = 0.75
"""Share of its largest cost that a spectrum takes as a rule: calibration lets the heat be a significant part of λ̂, and
some spectra end at their first sample."""

_OF_MANY = ("L_n(w*)", "descend", "measure heat")
_QUICK = 2.0
"""Seconds of a pass over many examples that the forecast spends on its speed."""


def forecast(
    posterior: Posterior,
    sample: SampleConfig,
    processes: Processes,
    *,
    batch_size: int,
    is_new: bool,
    foresee: Foresee,
) -> Foretold | None:
    """Time a gradient, tell how long each stage will take, and hand that to the watch. All processes call it.

    Nothing is timed where nobody sees it and no limit is to be kept: None.

    Args:
        posterior: losses and gradients around w*.
        sample: the settings asked for.
        processes: which share the chains out.
        batch_size: examples a step.
        is_new: nothing of this run is done yet; the limit of one that goes on is not refused.
        foresee: the work from the chains on.

    Raises:
        InputError: not even the shortest chains fit into `max_seconds`.
    """
    if not processes.main_does(lambda: watch().needs_forecast):
        return None
    seconds = processes.all_do(lambda: seconds_of_gradient(posterior, batch_size))
    each = seconds / batch_size * posterior.group.size
    posterior.loss_cost = processes.all_do(lambda: cost_of_losses(posterior, batch_size, seconds))
    work = work_before_chains(posterior, sample) | foresee(
        posterior, sample, processes, checks=sample.check_localization
    )
    work = _at_speed(work, processes.all_do(lambda: _speed_of_passes(posterior, seconds / batch_size)))
    watch().plan, watch().seconds_each = dict(work), each
    copies = 1 + SAMPLERS[sample.sampler].state_copies
    weights = posterior.num_parameters * posterior.dtype.itemsize
    state_bytes = sample.num_chains * copies * weights
    if "descend" in work and work["descend"].most * each > sample.save_seconds:
        state_bytes = max(state_bytes, disk_of_descent(weights))
    limit = _LONG if sample.max_seconds is None else sample.max_seconds
    is_long = total(work.values()).guess * each > limit
    foretold = Foretold(
        work=work,
        seconds_each=each,
        memory=processes.main_does(lambda: _memory(posterior, sample, processes)),
        state_bytes=state_bytes,
        advice=f"longer than {span(limit, limit)}; {advice(posterior, sample, work, each, limit)}" if is_long else "",
    )
    is_noted = not watch().is_forecast
    if is_noted and foretold.seconds.most >= SAID:
        for line in foretold.lines():
            watch().note(line)
    num_chains = len(processes.share(range(sample.num_chains)))
    shortest = shortest_run(sample, work["L_n(w*)"].least, num_chains=num_chains, group_size=posterior.group.size)
    if is_new:
        processes.main_does(lambda: check_limit(posterior, sample, work, shortest))
    watch().begin_work()
    watch().keep_time(shortest.after())
    if is_noted and is_long:
        watch().note(foretold.advice)
    return foretold


def _speed_of_passes(posterior: Posterior, each: float) -> float:
    """Time of an example's gradient in a pass over many, over that in a minibatch; 1 where that is not worth a look."""
    size = min(posterior.minibatches.micro_batch_size, posterior.num_examples)
    if posterior.group.size > 1 or size * each > _QUICK:
        return 1.0
    seconds_of_gradient(posterior, size)
    return min(seconds_of_gradient(posterior, size) / size / each, 1.0)


def cost_of_losses(posterior: Posterior, batch_size: int, seconds: float) -> float:
    """Time of an example's loss over that of its gradient.

    The backward pass to a part of the weights ends there, so that the forward pass may be most of a gradient: it is
    timed. Of all weights it is a third.

    Args:
        posterior: losses around w*.
        batch_size: examples of a minibatch.
        seconds: of a minibatch's gradient.
    """
    if posterior.group.size > 1 or posterior.problem.part is None:
        return LOSS_COST
    size = 1 if seconds > _SLOW else min(batch_size, posterior.num_examples)
    indices = torch.arange(size, device=posterior.device)
    each = _timed(posterior, lambda: posterior.anchor_losses(indices)) / size
    posterior.buffer.release()
    return min(each / (seconds / min(batch_size, posterior.num_examples)), 1.0)


def _at_speed(work: Work, speed: float) -> Work:
    """The work with stages that pass over many examples at once made shorter."""
    return {name: amount.times(speed if name in _OF_MANY else 1.0) for name, amount in work.items()}


def _memory(posterior: Posterior, sample: SampleConfig, processes: Processes) -> dict[str, int]:
    """Stage → bytes of the whole process at its peak, on a CPU; of a GPU's memory the stage's own."""
    sharing = 1 if posterior.device.type == "cuda" else processes.count
    if posterior.buffer.shard_spans() is not None:
        return {}
    assert isinstance(sample.batch_size, int)
    plan = plan_of(posterior, batch_size=sample.batch_size, processes=sharing)
    held = resident_bytes() if posterior.device.type == "cpu" else plan.anchor
    passes = passes_of(posterior, plan, sample.batch_size)
    found = peaks(plan, passes, sample, descends=can_descend(posterior))
    return {name: held + size for name, size in found.items()}


def _unused(number: int, gradient: torch.Tensor) -> None:
    """Takes a gradient of which only the time matters."""


def _timed(posterior: Posterior, work: Callable[[], object]) -> float:
    """Seconds of a pass of the model, until its device has finished."""
    begun = time.monotonic()
    work()
    if posterior.device.type == "cuda":
        torch.cuda.synchronize(posterior.device)
    return time.monotonic() - begun


def seconds_of_gradient(posterior: Posterior, batch_size: int) -> float:
    """Seconds of a minibatch's gradient at w*, as quickly as that can be told. A whole group calls it."""
    whole = min(batch_size, posterior.num_examples)

    def timed(size: int) -> float:
        indices = torch.arange(size, device=posterior.device)[None]
        if posterior.steps_in_backward(num_chains=1, batch_size=size):
            return _timed(posterior, lambda: posterior.gradient_in_backward(posterior.start(1), indices, _unused))
        return _timed(posterior, lambda: posterior.gradient(posterior.start(1), indices))

    first = timed(posterior.group.size)
    if posterior.group.max_of(first > _SLOW)[0]:  # a large model: more examples take as many times longer
        seconds = first * whole / posterior.group.size
    else:
        seconds = timed(whole)
        seconds = timed(whole) if posterior.group.max_of(seconds < 2.0)[0] else seconds
    posterior.buffer.release()
    return seconds


def work_before_chains(posterior: Posterior, sample: SampleConfig) -> Work:
    """Of all stages before the chains."""
    assert isinstance(sample.batch_size, int)
    batch, loss = sample.batch_size, posterior.loss_cost * posterior.num_examples
    work: Work = {"L_n(w*)": Range(loss, loss, loss)}
    if sample.minimize:
        one = (1 + 1 / SHARE) * sample.minimize_steps * batch + loss  # with the one that leaves a tenth out
        work["minimize"] = Range(one, one, 3 * one)
    if sample.step_size == "auto":
        if SAMPLERS[sample.sampler].has_friction:
            blocks = num_blocks(sample)
            once = blocks * work_of_block(1)
            most = START + 3 * blocks * work_of_block(2) + 2 * NUM_GRADIENTS + posterior.num_examples / batch
            found = Range(START + once, START + _CALIBRATE_GUESS * once, most)
        else:
            found = Range(*(11 + 20.0 * blocks for blocks in _PILOT_BLOCKS))
        work["calibrate"] = found.times(batch)
    if can_descend(posterior):
        work["descend"] = work_of_descent(sample, posterior)
    return _shared(work, posterior)


def work_of_chains(
    posterior: Posterior, sample: SampleConfig | ChainSettings, processes: Processes, *, checks: bool
) -> Work:
    """Of the chains and of what follows them; `checks`: other γ may be looked at."""
    assert isinstance(sample.batch_size, int)
    size = sample.chain_batch_size if isinstance(sample.chain_batch_size, int) else 1
    batches = processes.share(chain_batches(sample.num_chains, size))
    chains = sum(map(len, batches))
    kept = sample.num_draws * sample.num_steps_between_draws
    if isinstance(sample.num_burnin_steps, int):
        steps = Range(*[sample.num_burnin_steps + kept] * 3)
    else:
        least = min(2 * kept, sample.max_steps)
        steps = Range(least, min(_CHAIN_GUESS * least, sample.max_steps), sample.max_steps)
    one = 1.1 * sample.batch_size * chains
    each = posterior.anchor_gradients.per_gradient("control-variate")
    taken = {"plain": (1, 1, 1), "control-variate": (each, each, each)}.get(sample.gradient, (1, 1, each))
    full = posterior.loss_cost * posterior.num_examples / sample.num_steps_between_draws * chains
    full = full if sample.draw_loss == "full" else 0.0  # of L_n(w) at the draws
    costs = [one * times + full for times in taken]
    work: Work = {"sample": Range(*(step * cost for step, cost in zip(steps, costs, strict=True)))}
    if SAMPLERS[sample.sampler].measures_heat and sample.batch_size < posterior.num_examples:
        guess, most = (cost_within(int(sample.num_chains * many)) for many in steps[1:])
        work["measure heat"] = Range(0.0, _HEAT_GUESS * guess, float(most)).times(sample.batch_size)
    if checks:
        few = sum(len(batch) for batch in batches if batch[0] < few_chains(sample.num_chains, size)) / max(chains, 1)
        guess = 0.0 if posterior.num_parameters < _REWEIGHTED else few * steps.guess / 2 * costs[0]
        work["check γ"] = Range(0.0, guess, steps.most / 2 * costs[2])
    return _shared(work, posterior)


def _shared(work: Work, posterior: Posterior) -> Work:
    """The part of this process, if a group shares the examples of every batch."""
    size = posterior.group.size
    return {name: amount.times(1 / size) for name, amount in work.items()}
