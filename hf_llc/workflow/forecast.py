"""How much work each stage of a run takes, told before it begins, from the time of one gradient.

Work is counted in gradients of one example (`hf_llc.progress`). What a stage takes depends on what it finds, so each
has a least and a most.
"""

from __future__ import annotations

import time

import torch

from hf_llc.calibration.descent import can_descend, work_of_descent
from hf_llc.calibration.noise_spectrum import NUM_GRADIENTS
from hf_llc.calibration.pilot import num_blocks, work_of_block
from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.numerals import short, span
from hf_llc.parallel.processes import Processes, chain_batches
from hf_llc.posterior.posterior import LOSS_COST, Posterior
from hf_llc.progress import watch
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.samplers import SAMPLERS

Work = dict[str, tuple[float, float]]
"""Stage → the least and the most that it takes, in gradients of one example on this process."""

_START = 21
"""Gradients that find the curvature at w*."""

_SHORTEST = _START + 20
"""Gradients of the shortest calibration."""

_PILOT_BLOCKS = (2, 40)
"""Blocks of twenty gradients in which a step size is found for samplers without momentum."""

_FEWEST, _FIRST = 4, 12
"""Steps of each chain without which there is no estimate, and gradients that its first step takes besides."""

_LONG = 3600.0
"""Seconds from which on a forecast says what would be shorter."""

_MUCH_DISK = 2**28

_SAID = 60.0
"""A shorter run needs no forecast."""


def forecast(posterior: Posterior, sample: SampleConfig, processes: Processes, *, batch_size: int) -> None:
    """Time a gradient, tell how long each stage will take, and hand that to the watch. All processes call it.

    Nothing is timed where nobody sees it and no limit is to be kept.

    Raises:
        InputError: not even the shortest chains fit into `max_seconds`.
    """
    if not processes.main_does(lambda: watch().needs_forecast):
        return
    seconds = processes.all_do(lambda: seconds_of_gradient(posterior, batch_size))
    each = seconds / batch_size * posterior.group.size
    work = work_before_chains(posterior, sample) | work_of_chains(
        posterior, sample, processes, checks=sample.check_localization
    )
    watch().plan, watch().seconds_each = work, each
    copies = 1 + SAMPLERS[sample.sampler].state_copies
    state_bytes = sample.num_chains * copies * posterior.num_parameters * posterior.dtype.itemsize
    for line in told(work, each, state_bytes):
        watch().note(line)
    processes.main_does(lambda: check_limit(posterior, sample, work))
    limit = _LONG if sample.max_seconds is None else sample.max_seconds
    if seconds_of(work, each)[0] > limit:
        watch().note(f"longer than {span(limit, limit)}; {advice(posterior, sample, work, each, limit)}")


def expect_chains(posterior: Posterior, settings: ChainSettings, processes: Processes) -> None:
    """Put chains with these settings, and what follows them, into the plan of the watch, if there was a forecast."""
    if watch().needs_forecast:
        watch().plan |= work_of_chains(posterior, settings, processes, checks="check γ" in watch().plan)


def seconds_of_gradient(posterior: Posterior, batch_size: int) -> float:
    """Seconds of a minibatch's gradient at w*: of a second one, unless the first takes long. A whole group calls it."""
    size = min(batch_size, posterior.num_examples)
    indices = torch.arange(size, device=posterior.device)[None]
    in_backward = posterior.steps_in_backward(num_chains=1, batch_size=size)

    def timed() -> float:
        begun = time.monotonic()
        if in_backward:
            posterior.gradient_in_backward(posterior.start(1), indices, lambda number, gradient: None)
        else:
            posterior.gradient(posterior.start(1), indices)
        if posterior.device.type == "cuda":
            torch.cuda.synchronize(posterior.device)
        return time.monotonic() - begun

    seconds = timed()
    is_quick = posterior.group.max_of(seconds < 2.0)[0]
    seconds = timed() if is_quick else seconds
    posterior.buffer.release()
    return seconds


def work_before_chains(posterior: Posterior, sample: SampleConfig) -> Work:
    """Of all stages before the chains."""
    assert isinstance(sample.batch_size, int)
    batch, loss = sample.batch_size, LOSS_COST * posterior.num_examples
    work: Work = {"L_n(w*)": (loss, loss)}
    if sample.minimize:
        work["minimize"] = sample.minimize_steps * batch + loss, 3 * (sample.minimize_steps * batch + loss)
    if sample.step_size == "auto":
        if SAMPLERS[sample.sampler].has_friction:
            blocks = num_blocks(sample)
            least, most = _START + blocks * work_of_block(1), _START + 3 * blocks * work_of_block(2)
            most += 2 * NUM_GRADIENTS + posterior.num_examples / batch
        else:
            least, most = (11 + 20.0 * blocks for blocks in _PILOT_BLOCKS)
        work["calibrate"] = least * batch, most * batch
    if can_descend(posterior):
        work["descend"] = work_of_descent(sample, posterior)
    return _shared(work, posterior)


def work_of_chains(
    posterior: Posterior, sample: SampleConfig | ChainSettings, processes: Processes, *, checks: bool
) -> Work:
    """Of the chains and of what follows them; `checks`: other γ may be looked at."""
    assert isinstance(sample.batch_size, int)
    size = sample.chain_batch_size if isinstance(sample.chain_batch_size, int) else 1
    chains = sum(map(len, processes.share(chain_batches(sample.num_chains, size))))
    kept = sample.num_draws * sample.num_steps_between_draws
    if isinstance(sample.num_burnin_steps, int):
        least = most = sample.num_burnin_steps + kept
    else:
        least, most = min(2 * kept, sample.max_steps), sample.max_steps
    one = 1.1 * sample.batch_size * chains
    twice = {"plain": (1, 1), "control-variate": (2, 2)}.get(sample.gradient, (1, 2))
    full = LOSS_COST * posterior.num_examples / sample.num_steps_between_draws * chains
    full = full if sample.draw_loss == "full" else 0.0  # of L_n(w) at the draws
    work: Work = {"sample": (least * (one * twice[0] + full), most * (one * twice[1] + full))}
    work["measure heat"] = 0.0, float(NUM_GRADIENTS * sample.batch_size)
    if checks:
        work["check γ"] = 0.0, most / 2 * (one * twice[1] + full)
    return _shared(work, posterior)


def _shared(work: Work, posterior: Posterior) -> Work:
    """The part of this process, if a group shares the examples of every batch."""
    size = posterior.group.size
    return {name: (least / size, most / size) for name, (least, most) in work.items()}


def seconds_of(work: Work, each: float) -> tuple[float, float]:
    """The least and the most seconds of all stages, at `each` seconds a gradient of one example."""
    least, most = (each * sum(column) for column in zip(*work.values(), strict=True))
    return least, most


def told(work: Work, each: float, state_bytes: int) -> list[str]:
    """The forecast in lines, one a stage and one for all; empty for a short run."""
    least, most = seconds_of(work, each)
    if most < _SAID:
        return []
    lines = [f"  {name:<14}{_said(each * low, each * high)}" for name, (low, high) in work.items()]
    disk = f"; states of {state_bytes / 2**30:.1f} GiB on disk" if state_bytes > _MUCH_DISK else ""
    return ["forecast, from the time of one gradient:", *lines, f"  {'all':<14}{span(least, most)}{disk}"]


def _said(least: float, most: float) -> str:
    text = span(least, most)
    return f"up to {text.rpartition('–')[2].removeprefix('about ')}" if least == 0 else text


def advice(posterior: Posterior, sample: SampleConfig, work: Work, each: float, limit: float) -> str:
    """What would bring a run below `limit` seconds, in a line."""
    assert isinstance(sample.batch_size, int)
    batch = sample.batch_size
    whole = {name: each * work[name][0] for name in ("L_n(w*)", "descend") if name in work}
    rest = seconds_of(work, each)[0] - sum(whole.values())
    ways = []
    if sum(whole.values()) > limit / 2:
        fits = int(posterior.num_examples * limit / 2 / sum(whole.values()))
        ways.append(f"max_examples {max(fits, 1):,}")
    if rest > limit / 2:
        takes = f"a batch of {batch} examples takes {short(each * batch)} s"
        ways.append(f"{takes}: shorter ones, fewer chains, a part of the weights, or a GPU")
    return "; ".join(ways)


def check_limit(posterior: Posterior, sample: SampleConfig, work: Work) -> None:
    """Refuse a limit within which not even the shortest chains fit, before it is spent.

    Raises:
        InputError: `max_seconds` is too short.
    """
    limit, each = watch().max_seconds, watch().seconds_each
    if limit is None:
        return
    assert isinstance(sample.batch_size, int)
    batch = sample.batch_size
    calibration = _SHORTEST * batch if "calibrate" in work else 0.0
    least = work["L_n(w*)"][0] + calibration + (_FEWEST + _FIRST) * sample.num_chains * batch
    if each * least > watch().ends_at("sample") - time.monotonic():
        raise InputError(
            f"max_seconds is too short: L_n(w*), calibration and {_FEWEST} steps of each chain alone take "
            f"{span(each * least, each * least)}",
            value=limit,
            remedy=advice(posterior, sample, work, each, limit),
        )
