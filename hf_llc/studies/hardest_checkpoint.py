"""Which checkpoint decides the settings of a series: the stiffest of first, middle and last, whose ε suits the others.

ε is bounded by the largest curvature of the loss. An untrained network, whose loss is that of a constant predictor or
more, is near no minimum: the γ that holds chains there would hold all others too firmly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from hf_llc.backend.torch_modes import own_modes
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError, OutOfTime
from hf_llc.numerals import short
from hf_llc.parallel.processes import Processes, alone
from hf_llc.posterior.curvature import Curvature
from hf_llc.posterior.restriction import restricted
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.progress import Watch, watch, watching
from hf_llc.publishing.formatting import for_stderr
from hf_llc.ranges import Range
from hf_llc.studies.checkpoint_series import Checkpoint
from hf_llc.studies.series_left import SeriesLeft
from hf_llc.workflow.open_posterior import open_posterior
from hf_llc.workflow.opened_run import Given, in_time, loaded

_ITERATIONS = 10
"""Of power iteration: enough to tell checkpoints apart."""

_SHARE = 0.1
"""Share of `max_seconds` that the choice may take."""

_UNTRAINED = 0.95
"""Of a constant predictor's loss: a model above that has learned next to nothing."""

GivenOf = Callable[[Checkpoint], tuple[LoadConfig, Given]]
"""What a checkpoint is loaded by."""


def hardest(
    series: SeriesLeft[Any],
    sample: SampleConfig,
    given_of: GivenOf,
    *,
    kept: dict[str, Problem],
    processes: Processes,
    progress: bool,
    max_seconds: float | None,
) -> tuple[str, str]:
    """The word of the checkpoint to calibrate on, and why. All processes call it; the main one decides.

    The last one where the steps of chains are given, or where there is no time to look. Once the first is looked at, it
    is known how long the others take.

    Args:
        series: the checkpoints.
        sample: how to sample.
        given_of: how a checkpoint is loaded.
        kept: the problem of the stiffest so far is left here, under its name, for who measures it next.
        processes: which share the work later.
        progress: show what is done.
        max_seconds: for the whole series; None: no limit.
    """
    if sample.step_size != "auto" or sample.parameter_parallel > 1:
        return "last", ""
    limit = None if max_seconds is None else _SHARE * max_seconds
    words = {series.meant_by(word): word for word in ("first", "middle", "last")}
    found: dict[str, float] = {}

    def curvature(name: str) -> float:
        load, given = given_of(series.named(name))
        with watch().stage(_stage(name)):
            value, problem = processes.all_do(lambda: in_time(lambda: _curvature(load, sample, given)))
        is_stiffest = math.isfinite(value) and not any(other >= value for other in found.values())
        if is_stiffest and processes.count == 1:  # of several each has a device of its own, not that of this problem
            kept.clear()
            kept[name] = problem
        return value

    is_shown = progress and processes.is_main
    with own_modes(), watching(Watch(show=is_shown, max_seconds=max_seconds, limit=limit, spell=for_stderr)):
        for name, word in words.items():
            try:
                found[word] = curvature(name)
                work = watch().ended[_stage(name)]
                watch().plan = {_stage(other): Range(*[work] * 3) for other, word in words.items() if word not in found}
            except OutOfTime:
                return "last", "there was no time to compare the first, the middle and the last"
            except InputError:  # said when it is measured
                continue
    found = processes.main_does(lambda: found)
    known = {word: value for word, value in found.items() if math.isfinite(value)}
    if len(known) < 2:
        return next(iter(known), "last"), ""
    word = max(known, key=lambda each: known[each])
    values = ", ".join(
        f"{each} {short(value)}" if each in known else f"{each} untrained" for each, value in found.items()
    )
    return word, f"the largest curvature of nβL ({values})"


def _stage(name: str) -> str:
    return f"look at {name}"


def _curvature(load: LoadConfig, sample: SampleConfig, given: Given) -> tuple[float, Problem]:
    """The largest curvature of nβL at w* on some examples, NaN for an untrained model; and what was loaded."""
    with alone():
        problem, decided = loaded(load, sample, given)
        with preserved(problem.model), restricted(problem.model, problem.part):
            assert isinstance(decided.batch_size, int) and decided.nbeta is not None
            posterior = open_posterior(problem, decided, Processes(), batch_size=decided.batch_size)
            size = min(decided.batch_size, posterior.num_examples)
            rows = torch.linspace(0, posterior.num_examples - 1, size).long().to(posterior.device)[None]
            w = posterior.start(1)
            loss = float(posterior.gradient(w, rows)[0])
            if problem.trivial_loss is not None and not loss < _UNTRAINED * problem.trivial_loss:
                return math.nan, problem
            return Curvature(posterior, nbeta=decided.nbeta).refresh(w, rows, iterations=_ITERATIONS), problem
