"""The shortest run that says anything: what its stages take, and which limits leave no room for it.

It reads all losses at w*, ends calibration after its first look, and takes four steps of each chain.
"""

from __future__ import annotations

from typing import NamedTuple

from hf_llc.config import SampleConfig
from hf_llc.errors import LimitTooShort
from hf_llc.numerals import duration, short, span
from hf_llc.posterior.posterior import Posterior
from hf_llc.progress import watch
from hf_llc.ranges import Range, total

Work = dict[str, Range]
"""Stage → what it takes, in gradients of one example on this process."""

START = 21
"""Gradients that find the curvature at w*."""

_SHORTEST = START + 20
"""Gradients of the shortest calibration."""

_FEWEST, _FIRST = 4, 12
"""Steps of each chain without which there is no estimate, and gradients that its first step takes besides."""

_HOPELESS = 1.25
"""Times the limit that the shortest run must take to be refused: the time of one gradient may be wrong by as much."""


class Shortest(NamedTuple):
    """The stages of the shortest run, in gradients of one example on this process.

    Attributes:
        losses: L_n(w*).
        again: the same where minimization ends; 0 without one.
        calibrate: until settings are chosen; 0 if they are given.
        sample: the fewest steps of each chain.
    """

    losses: float
    again: float
    calibrate: float
    sample: float

    def after(self) -> dict[str, float]:
        """Stage of `clock.ENDS` → what those after it take."""
        before = {"L_n(w*)": self.again + self.calibrate, "minimize": self.again + self.calibrate}
        stages = (*before, "calibrate", "descend", "descended")
        return {name: before.get(name, 0.0) + self.sample for name in stages}


def shortest_run(sample: SampleConfig, losses: float, *, num_chains: int, group_size: int = 1) -> Shortest:
    """The shortest run with these settings.

    Args:
        sample: the settings asked for.
        losses: what L_n(w*) takes.
        num_chains: that this process runs.
        group_size: processes that share the examples of every batch.
    """
    assert isinstance(sample.batch_size, int)
    share = sample.batch_size / group_size
    return Shortest(
        losses=losses,
        again=losses if sample.minimize else 0.0,
        calibrate=_SHORTEST * share if sample.step_size == "auto" else 0.0,
        sample=(_FEWEST + _FIRST) * num_chains * share,
    )


def advice(posterior: Posterior, sample: SampleConfig, work: Work, each: float, limit: float) -> str:
    """What would bring a run below `limit` seconds, in a line."""
    assert isinstance(sample.batch_size, int)
    batch = sample.batch_size
    whole = {name: each * work[name].least for name in ("L_n(w*)", "descend") if name in work}
    rest = each * total(work.values()).least - sum(whole.values())
    ways = []
    if sum(whole.values()) > limit / 2:
        fits = int(posterior.num_examples * limit / 2 / sum(whole.values()))
        ways.append(f"max_examples {max(fits, 1):,}")
    if rest > limit / 2:
        takes = f"a batch of {batch} examples takes {short(each * batch)} s"
        ways.append(f"{takes}; shorter examples, fewer chains, a part of the weights or a GPU need less")
    return "; ".join(ways)


def check_limit(posterior: Posterior, sample: SampleConfig, work: Work, shortest: Shortest) -> None:
    """Refuse a limit that the shortest run oversteps by a quarter, before it is spent.

    The forecast may be wrong by so much; within it the run says how far it came.

    Raises:
        LimitTooShort: for the shortest run.
    """
    limit, needed, left = watch().max_seconds, watch().seconds_each * sum(shortest), watch().seconds_until("sample")
    if limit is not None and needed > _HOPELESS * left:
        raise LimitTooShort(
            f"max_seconds is too short: L_n(w*), calibration and {_FEWEST} steps of each chain alone take "
            f"{span(needed, needed)}, and loading and the end of the run leave {duration(max(left, 0.0))} for them",
            value=watch().limit_said,
            remedy=advice(posterior, sample, work, watch().seconds_each, limit),
        )
