"""One sampler on every target whose λ̂ is known (`hf_llc.studies.known_targets`)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.judging.estimator import EXACT
from hf_llc.publishing.formatting import number, with_error
from hf_llc.result import LLCResult
from hf_llc.studies.known_targets import TARGETS, Target
from hf_llc.workflow.estimate_model import solve
from hf_llc.workflow.settings import settled

MAX_Z = 4.0
"""A right answer with a true error fails once in 16,000."""

_CHAINS, _DRAWS, _GRADIENTS = 8, 200, 4000


@dataclass(frozen=True)
class Row:
    """What a sampler gave on a target.

    Attributes:
        error: λ̂/exact − 1.
        z: λ̂ − exact in combined standard errors.
        gradients: evaluations, those of the calibration included.
        settings: ε, friction, kind of gradient, batch, chains and steps.
    """

    target: str
    known_by: str
    exact: float
    exact_se: float
    llc: float
    llc_se: float
    error: float
    z: float
    gradients: int
    verdict: str
    seconds: float
    settings: dict[str, Any]

    @property
    def is_right(self) -> bool:
        """Within four standard errors, and no chain diverged."""
        return abs(self.z) <= MAX_Z and self.verdict != "diverged"


def settings(target: Target, asked: SampleConfig) -> SampleConfig:
    """How a target is sampled: eight chains together, 4,000 steps each, the first half dropped; 400 steps of hmc.

    Samplers with a Metropolis test, which is exact for full batches only, get all examples in every step.
    """
    leaps = asked.num_leapfrog_steps if asked.sampler == "hmc" else 1
    steps = _GRADIENTS // leaps
    return SampleConfig(
        sampler=asked.sampler,
        step_size=asked.step_size,
        seed=asked.seed,
        batch_size="full" if asked.sampler in EXACT else target.batch_size,
        localization=target.localization,
        num_chains=_CHAINS,
        chain_batch_size=_CHAINS,
        num_burnin_steps=steps // 2,
        num_draws=_DRAWS,
        num_steps_between_draws=steps // 2 // _DRAWS,
        max_steps=steps,  # of which the pilot takes a tenth
        check_localization=False,
    )


def measure(asked: SampleConfig, names: Sequence[str] = tuple(TARGETS)) -> Iterator[Row]:
    """One row a target, as soon as it is there.

    Args:
        asked: sampler, step_size and seed.
        names: of targets.

    Raises:
        InputError: no such target.
    """
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        raise InputError("no such target", value=unknown[0], allowed=", ".join(TARGETS))
    for name in names:
        begun = time.monotonic()
        target = TARGETS[name]()
        result = solve(target.problem, settled(settings(target, asked), target.problem))
        yield _row(name, target, result, time.monotonic() - begun)


def _row(name: str, target: Target, result: LLCResult, seconds: float) -> Row:
    steps = result.num_burnin_steps + result.num_draws * result.num_steps_between_draws
    return Row(
        target=name,
        known_by=target.known_by,
        exact=target.exact,
        exact_se=target.exact_se,
        llc=result.llc,
        llc_se=result.llc_se,
        error=result.llc / target.exact - 1,
        z=(result.llc - target.exact) / math.hypot(result.llc_se, target.exact_se),
        gradients=result.num_gradients,
        verdict=result.verdict,
        seconds=seconds,
        settings={
            "sampler": result.sampler, "step_size": result.step_size, "friction": result.friction,
            "gradient": result.gradient, "batch_size": result.batch_size, "num_chains": result.num_chains,
            "num_steps": steps, "nbeta": result.nbeta, "localization": result.localization,
        },
    )  # fmt: skip


HEAD = f"{'target':<13} {'known by':<11} {'exact':>15} {'λ̂':>16} {'error':>8} {'z':>6} {'gradients':>10}  verdict"


def line(row: Row) -> str:
    """The row as a line of the table."""
    exact = with_error(row.exact, row.exact_se) if row.exact_se > 0 else f"{row.exact:.4g}"
    return (
        f"{row.target:<13} {row.known_by:<11} {exact:>15} {with_error(row.llc, row.llc_se):>15} {row.error:8.1%} "
        f"{row.z:6.1f} {number(row.gradients):>10}  {row.verdict}"
    )


def as_dict(row: Row) -> dict[str, Any]:
    """The row for JSON."""
    return asdict(row) | {"is_right": row.is_right}
