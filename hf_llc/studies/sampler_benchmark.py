"""A sampler's λ̂ on targets whose λ̂ is known (`hf_llc.studies.known_targets`), one row a target."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.numerals import minus, number, with_error
from hf_llc.publishing.formatting import width
from hf_llc.publishing.tables import blocks, columns
from hf_llc.result import LLCResult
from hf_llc.samplers import SAMPLERS, make_kernel
from hf_llc.studies.known_targets import TARGETS, Target
from hf_llc.workflow.estimate_model import estimate_problem

MAX_Z = 4.0
"""Largest |z| of a right answer. A normal z exceeds it once in 16,000 times."""

_CHAINS, _DRAWS, _GRADIENTS = 8, 200, 4000


@dataclass(frozen=True)
class Row:
    """A sampler's λ̂ on one target, beside the known value.

    Attributes:
        known_by: source of `exact`.
        exact: the known E[λ̂].
        exact_se: standard error of `exact`; 0 if it is not from a run.
        error: λ̂/exact − 1.
        z: λ̂ − exact in combined standard errors.
        gradients: gradient evaluations, calibration included.
        seconds: wall time.
        settings: ε, friction, kind of gradient, batch size, chains and steps.
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
        """True if λ̂ is within four combined standard errors of `exact` and no chain diverged."""
        return abs(self.z) <= MAX_Z and self.verdict != "diverged"


def settings(target: Target, asked: SampleConfig) -> SampleConfig:
    """The settings for a target: eight chains in one batch, 4,000 gradients each, the first half burn-in.

    A step of "hmc" takes `num_leapfrog_steps` gradients, so it makes fewer steps.
    """
    is_exact, gradients_per_step = False, 1
    if asked.sampler != "auto":
        is_exact = SAMPLERS[asked.sampler].is_exact
        kernel = make_kernel(asked.sampler, 1.0, num_leapfrog_steps=asked.num_leapfrog_steps)
        gradients_per_step = kernel.num_gradients(steps=1, measured=0, is_full=is_exact)
    steps = _GRADIENTS // gradients_per_step
    return SampleConfig(
        sampler=asked.sampler,
        step_size=asked.step_size,
        seed=asked.seed,
        batch_size="full" if is_exact else target.batch_size,  # a Metropolis test is exact only for full batches
        localization=target.localization,
        num_chains=_CHAINS,
        chain_batch_size=_CHAINS,
        num_burnin_steps=steps // 2,
        num_draws=_DRAWS,
        num_steps_between_draws=steps // 2 // _DRAWS,
        max_steps=steps,  # the pilot takes a tenth of them
        check_localization=False,
    )


def measure(asked: SampleConfig, names: Sequence[str] = tuple(TARGETS)) -> Iterator[Row]:
    """Estimate λ̂ of each target, and show how far that is; yields a row as soon as it is finished.

    Args:
        asked: sampler, step_size and seed; everything else is set by `settings`.
        names: names of targets.

    Raises:
        InputError: no such target.
    """
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        raise InputError("no such target", value=unknown[0], allowed=", ".join(TARGETS))
    for name in names:
        begun = time.monotonic()
        target = TARGETS[name]()
        result = estimate_problem(target.problem, settings(target, asked), title=name)
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


_HEAD = ("target", "known by", "exact", "λ̂", "error", "z", "gradients", "verdict")
_WIDTHS = (12, 11, 12, 15, 6, 5, 9, 16)


def text_of(row: Row, *, is_first: bool = True) -> str:
    """The row as a line of a table, below its head if it is the first; as a block of lines if that is too wide."""
    exact = with_error(row.exact, row.exact_se) if row.exact_se > 0 else number(row.exact)
    cells = (
        row.target, row.known_by, exact, with_error(row.llc, row.llc_se), minus(f"{row.error:.1%}"),
        minus(f"{row.z:.1f}"), number(row.gradients), row.verdict,
    )  # fmt: skip
    if sum(_WIDTHS) + 2 * (len(_WIDTHS) - 1) > width():
        return blocks([_HEAD, cells])
    lines = columns([_HEAD, cells], least=_WIDTHS).splitlines()
    return "\n".join(lines if is_first else lines[1:])


def as_dict(row: Row) -> dict[str, Any]:
    """The row for JSON."""
    return asdict(row) | {"is_right": row.is_right}
