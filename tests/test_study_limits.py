"""`max_seconds` of a command that makes many estimates bounds the whole. The clock is one that only passes move."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from worker import examples, network, squared_error

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.progress import Watch, watching
from hf_llc.studies import (
    explore_settings,
    measure_component_curve,
    measure_components,
    measure_curve,
    measure_influence,
    measure_profile,
    measure_susceptibility,
)
from hf_llc.studies.checkpoint_series import Checkpoint
from hf_llc.workflow.estimate_model import estimate_model
from hf_llc.workflow.opened_run import Given, opened_run
from hf_llc.workflow.run_folder import RunFolder

PASS, LIMIT = 0.1, 60.0
"""Seconds of a forward pass, and of all that a command may take."""


class Clock:
    """A clock that stands still between passes of the model."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


class Slow(nn.Sequential):
    """The network of `worker`, with passes that take `PASS` by the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(*network().children())
        self.clock = clock

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.clock.now += PASS
        return super().forward(input)


def given(clock: Clock) -> Given:
    return Given(model=Slow(clock), data=examples(network()), loss_fn=squared_error)


def checkpoints(clock: Clock, count: int) -> dict[str, Any]:
    """A series of them, and the data."""

    def opened(scale: float) -> tuple[nn.Module, Any]:
        model = Slow(clock)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        return model, squared_error

    series = [Checkpoint(f"step{k}", {}, functools.partial(opened, 1 - 0.01 * k)) for k in range(1, count + 1)]
    return {"checkpoints": series, "dataset": examples(network())}


def explore(clock: Clock, sample: SampleConfig, output: Path, **_: Any) -> None:
    """`explore_settings.explore`, of a model given as an object."""
    watch = Watch(max_seconds=sample.max_seconds)
    with watching(watch), opened_run(LoadConfig(), sample, RunFolder(output), given(clock)) as run:
        assert run is not None
        assert explore_settings.calibrate_run(run, grid=True).cells


Study = Callable[..., Any]
STUDIES: dict[str, Study] = {
    "curve": lambda clock, sample, **to: measure_curve.measure(
        load=LoadConfig(), sample=sample, **checkpoints(clock, 4), **to
    ),
    "component curve": lambda clock, sample, **to: measure_component_curve.measure(
        load=LoadConfig(), sample=sample, components="0.weight", **checkpoints(clock, 2), **to
    ),
    "components": lambda clock, sample, **to: measure_components.measure(
        LoadConfig(), sample, given(clock), components="0.weight,2.*", **to
    ),
    "influence": lambda clock, sample, **to: measure_influence.measure(
        LoadConfig(), replace(sample, observe_examples=5), given(clock), **to
    ),
    "profile": lambda clock, sample, **to: measure_profile.measure(
        LoadConfig(), sample, given(clock), localizations=[5.0, 50.0, 500.0], **to
    ),
    "susceptibility": lambda clock, sample, **to: measure_susceptibility.measure(
        LoadConfig(), replace(sample, observe_examples=5), given(clock), components="2.*", level="example", **to
    ),
    "calibrate": explore,
}


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_a_limit_bounds_a_study(study: str, clock: Clock, tmp_path: Path) -> None:
    """It ends within a tenth of it, with what it has found or the word that this is too little."""
    sample = SampleConfig(batch_size=20, num_draws=50, max_steps=2000, target_se=1e-9, max_seconds=LIMIT)
    with contextlib.suppress(InputError):
        STUDIES[study](clock, sample, output=tmp_path / "out", progress=False, begun=clock.now)
    assert 0.4 * LIMIT < clock.now - 1000.0 <= 1.1 * LIMIT + 2 * PASS


@pytest.mark.slow
def test_a_vector_of_the_hessian_ends_midway(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A product takes a pass an example, 4 s, and each vector 24 of them; λ_Q is then not known."""
    sample = SampleConfig(batch_size=20, num_draws=50, max_steps=2000, max_seconds=LIMIT, micro_batch_size=1)
    sample = replace(sample, step_size=1e-4, num_burnin_steps=4, num_draws=8, batch_size=1)
    profile = STUDIES["profile"](clock, sample, output=tmp_path / "out", progress=True, begun=clock.now)
    assert "time was up: 0 of " in capsys.readouterr().err
    assert clock.now - 1000.0 <= 1.1 * LIMIT + 2 * PASS
    assert profile.rows and math.isnan(profile.rows[0].llc_quadratic)


SHORT = [("influence", 16.0), ("influence", 24.0), ("influence", 40.0), ("susceptibility", 44.0)]
"""Limits within which chains take a few steps, and records are none or too few for an error."""


@pytest.mark.slow
@pytest.mark.parametrize(("study", "limit"), SHORT)
def test_the_shortest_run_of_a_study_ends_with_its_files(
    study: str, limit: float, clock: Clock, tmp_path: Path
) -> None:
    sample = SampleConfig(batch_size=20, num_draws=50, max_steps=2000, target_se=1e-9, max_seconds=limit)
    table = STUDIES[study](clock, sample, output=tmp_path / "out", progress=False, begun=clock.now)
    assert clock.now - 1000.0 <= 1.1 * limit + 2 * PASS
    assert not table.is_trustworthy and (tmp_path / "out" / f"{study}.json").exists()
    assert "too few draws" in str(table)


def test_a_limit_too_short_for_a_part_is_said_with_its_share(clock: Clock, tmp_path: Path) -> None:
    sample = SampleConfig(batch_size=20, num_draws=50, max_steps=2000, target_se=1e-9, max_seconds=20.0)
    with pytest.raises(InputError, match=r"leave \d s for them, got '20 s for all of it \(all: [\d.]+ s\)'"):
        STUDIES["components"](clock, sample, output=tmp_path / "out", progress=False, begun=clock.now)


@pytest.mark.parametrize("limit", [20.0, 30.0, 45.0])
def test_a_pilot_that_was_thrown_out_climbs_the_ladder_within_its_share(
    limit: float, clock: Clock, tmp_path: Path
) -> None:
    """What is begun when the time is up is a look at curvature and noise, of eight passes."""
    sample, watch = SampleConfig(batch_size=20, max_steps=2000), Watch(max_seconds=limit)
    opened = opened_run(LoadConfig(), sample, RunFolder(tmp_path), given(clock))
    with watching(watch), opened as run:
        assert run is not None
        run.prepare()
        assert clock.now - watch.ends_at("calibrate") <= 10 * PASS


@pytest.mark.parametrize("study", ["curve", "component curve"])
def test_a_series_without_time_for_its_first_estimate_says_that(study: str, clock: Clock, tmp_path: Path) -> None:
    """And not that checkpoints which cannot be measured leave no curve."""
    sample = SampleConfig(batch_size=20, num_draws=50, max_steps=2000, target_se=1e-9, max_seconds=22.0)
    with pytest.raises(InputError, match=r"^(max_seconds is too short|no draws)"):
        STUDIES[study](clock, sample, output=tmp_path / "out", progress=False, begun=clock.now)


@pytest.mark.slow
def test_a_finished_run_is_read_whatever_the_limit(clock: Clock, tmp_path: Path) -> None:
    """Loading alone takes longer than its limit did, on a machine that is busy by now."""
    sample = SampleConfig(batch_size=20, num_draws=50, max_steps=2000, target_se=1e-9, max_seconds=30.0)
    asked: Any = {"output": tmp_path / "out", "progress": False}
    first = estimate_model(LoadConfig(), sample, given(clock), **asked)
    again = estimate_model(LoadConfig(), sample, given(clock), begun=clock.now - 60.0, **asked)
    assert again.llc == first.llc
