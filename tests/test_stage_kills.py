"""A kill within any stage of an estimate: the same command gives the same bits, and takes again next to nothing."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from targets import power_problem, shifted_problem
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from worker import examples, network, squared_error

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.posterior.kept_sum import KeptSum
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.stage_files import KeptTensors, StageFolder
from hf_llc.posterior.weights import preserved
from hf_llc.progress import watch
from hf_llc.result import LLCResult
from hf_llc.workflow.estimate_model import estimate_model
from hf_llc.workflow.opened_run import Given

SMALL = {
    "num_chains": 2, "num_draws": 10, "max_steps": 80, "chain_batch_size": 1, "micro_batch_size": 20,
    "check_localization": False,
}  # fmt: skip


@dataclass
class Case:
    """A run.

    Attributes:
        given: makes what it is about.
        settings: of it.
        stages: which it has, and the passes of the model that a kill may cost in each, beyond the one under way.
    """

    given: Callable[[], Given]
    settings: dict[str, Any]
    stages: dict[str, int]


def trained() -> Given:
    """A network near its minimum."""
    model = network()
    with torch.no_grad():
        model[0].weight += 0.02  # type: ignore[operator]
    return Given(model=model, data=examples(network()), loss_fn=squared_error)


def noisy() -> Given:
    """Much gradient noise, much of which γ holds."""
    h = torch.cat([torch.full((20,), 2.0), torch.full((60,), 0.002)])
    return Given(problem=shifted_problem(h, num_examples=200, spread=1.0))


def walled() -> Given:
    """A flat place between walls, whose γ comes from above."""
    return Given(problem=power_problem(torch.full((6,), 1e8), power=8))


CASES = {
    "network": Case(
        trained,
        {"minimize": True, "minimize_steps": 60, "batch_size": 20, "step_size": 1e-3, "localization": 5.0},
        {"L_n(w*)": 0, "minimize": 0, "descend": 1, "sample": 0},
    ),
    "noise": Case(
        noisy, {"nbeta": 25.0, "batch_size": 4, "gradient": "plain"}, {"calibrate": 5, "descend": 2, "measure heat": 5}
    ),
    "control variate": Case(
        noisy, {"nbeta": 25.0, "batch_size": 4, "gradient": "control-variate"}, {"calibrate": 5, "sample": 2}
    ),
    "walls": Case(walled, {"nbeta": 100.0, "batch_size": 4}, {"calibrate": 2}),
    "SGLD": Case(trained, {"sampler": "sgld", "batch_size": 20}, {"calibrate": 2}),
}


class Kill(BaseException):
    """As sudden as SIGKILL: nothing of ours catches it."""


@contextlib.contextmanager
def passes(kill_in: str = "", kill_at: int = 0) -> Iterator[list[str]]:
    """Within, every pass of the whole model writes down its stage; a kill comes before that of this number in one."""
    seen: list[str] = []

    def before(module: nn.Module, inputs: Any) -> None:
        stage = watch()._stage
        if isinstance(module, nn.Linear | nn.Tanh) or stage is None or stage.name.startswith("load"):
            return
        if stage.name == kill_in and seen.count(kill_in) == kill_at:
            raise Kill
        seen.append(stage.name)

    with register_module_forward_pre_hook(before):
        yield seen


def estimate(name: str, folder: Path, *, save_seconds: float = 1e9) -> LLCResult:
    given = CASES[name].given()
    model = given.model or given.problem.model  # type: ignore[union-attr]
    with preserved(model):
        sample = SampleConfig(**{**SMALL, **CASES[name].settings}, save_seconds=save_seconds)
        return estimate_model(LoadConfig(), sample, given, output=folder, progress=False)


@functools.cache
def whole(name: str, folder: Path) -> tuple[list[str], LLCResult]:
    """The stages of all passes of an undisturbed run, and its result."""
    with passes() as seen:
        return seen, estimate(name, folder)


def bits(result: LLCResult) -> str:
    """All that must be the same; a pilot that was thrown out has NaN in its path."""
    return repr([result.llc_per_chain, result.num_gradients, result.calibration, result.minimize, result.verdict])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage"),
    [
        pytest.param(name, stage, marks=[] if name == "network" else pytest.mark.slow)
        for name, case in CASES.items()
        for stage in case.stages
    ],
)
def test_a_kill_costs_one_step(
    name: str, stage: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With save_seconds 0 all is saved that a stage has found: the rest of the run takes the rest of the passes."""
    monkeypatch.setattr("hf_llc.parallel.pacing._FLUSH_STEPS", 1)
    monkeypatch.setattr("os.fsync", lambda file: None)  # no power fails here
    monkeypatch.setattr("hf_llc.posterior.kept_losses._WORTH", 0.0)
    seen, truth = whole(name, folders / name)
    numbers = [number for number, each in enumerate(seen) if each == stage]
    place = int(len(numbers) * (0.4 if stage == "L_n(w*)" else 0.8))  # w* is another one after minimize
    with passes(stage, place), pytest.raises(Kill):
        estimate(name, tmp_path, save_seconds=0.0)
    with passes() as after:
        found = estimate(name, tmp_path)
    assert bits(found) == bits(truth)
    assert len(after) <= len(seen) - numbers[place] + CASES[name].stages[stage]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [False, True])
def test_gradients_at_w_star_go_on_where_they_were(rows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of ten forward passes, or the gradients of 200 examples: a kill costs the pass under way."""
    problem = noisy().problem
    assert problem is not None
    monkeypatch.setattr("hf_llc.posterior.anchor_gradients._LONG", 1 if rows else 16)

    def mean(kill_at: int = -1) -> tuple[torch.Tensor, int]:
        posterior, taken = Posterior(problem, micro_batch_size=20), 0
        anchor = posterior.anchor_gradients
        assert anchor.are_kept == rows
        posterior.kept_sum = KeptSum(StageFolder(tmp_path / "sum", "sum", 0.0))
        anchor.kept = KeptTensors(posterior.group, posterior.device, StageFolder(tmp_path / "anchor", "anchor", 0.0))

        def before(module: nn.Module, inputs: Any) -> None:
            nonlocal taken
            if taken == kill_at:
                raise Kill
            taken += 1

        with register_module_forward_pre_hook(before):
            return torch.cat(anchor.mean, dim=1), taken

    whole = 200 if rows else 10
    truth = torch.cat(Posterior(problem, micro_batch_size=20).anchor_gradients.mean, dim=1)
    with pytest.raises(Kill):
        mean(kill_at=whole - 3)
    if not rows:  # a sum at another w is another sum
        posterior = Posterior(problem, micro_batch_size=20)
        elsewhere = posterior.gradient(posterior.start(1) + 1, None)[1][0]
        posterior.kept_sum = KeptSum(StageFolder(tmp_path / "sum", "sum", 1e9))
        assert torch.equal(posterior.gradient(posterior.start(1) + 1, None)[1][0], elsewhere)
        posterior.buffer.release()
    for left in (3, 0):
        found, taken = mean()
        assert torch.equal(found, truth) and taken == left
