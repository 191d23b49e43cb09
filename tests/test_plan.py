"""The plan of a chain's bytes: what it counts, what follows from it, and how it is forced."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import SENTENCES, llama, tokenizer, vit

from hf_llc import LLCEvaluator
from hf_llc.backend.memory import _of_group, available_bytes
from hf_llc.cli.entry_point import main
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.result import LLCResult
from hf_llc.workflow.memory_forecast import plan_without_weights
from hf_llc.workflow.memory_plan import Plan, plan_of

CPU = torch.device("cpu")
QUICK = {"num_chains": 1, "num_draws": 21, "num_burnin_steps": 4, "step_size": 1e-7, "localization": 10.0, "seed": 1}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A bfloat16 decoder with tied weights, and its tokenizer, in a folder."""
    folder = tmp_path / "model"
    llama(tie=True).to(torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def data() -> Dataset:
    return Dataset.from_dict({"text": SENTENCES * 3})


def estimate(folder: Path, sampler: str = "sgld", **settings: object) -> LLCResult:
    evaluator = LLCEvaluator(**{**QUICK, "sampler": sampler, **settings})  # type: ignore[arg-type]
    return evaluator.compute(str(folder), data=data(), max_length=16, attn_implementation="eager", progress=False)


def a_plan(available: int) -> Plan:
    """1,000 parameters in float32 around a bfloat16 w*, 100 of them in the largest."""
    return Plan(1000, "cpu", 4000, 2000, 400, 600, "one example", available)


def test_a_plan_by_hand() -> None:
    plan = a_plan(100_000)
    assert [plan.whole(s) for s in ("sgld", "baoab", "psgld")] == [6600 + 12000, 6600 + 4000 + 8000, 6600 + 4000 + 4000]
    assert [plan.in_backward(s) for s in ("sgld", "baoab", "mala")] == [7000, 11000, None]
    assert not plan.step_in_backward("sgld")
    short = a_plan(18_000)
    assert short.step_in_backward("sgld") and not short.step_in_backward("sgnht") and not short.step_in_backward("mala")
    rows = {line.split("  ")[0]: line for line in short.render().splitlines()}
    assert rows["sgld"].endswith("step in backward") and rows["mala"].endswith("does not fit")
    assert "16 bits" in rows["anchor w*"] and rows["calibration"].split()[-1] == "localization"
    assert json.loads(json.dumps(short.as_dict()))["samplers"]["sgld"]["fits"]


def test_fake_tensors_count_what_real_ones_take(checkpoint: Path) -> None:
    """The plan from the config alone is that of the model that is loaded, activations included."""
    load = LoadConfig(model=str(checkpoint), max_length=16, attn_implementation="eager")
    plan = plan_without_weights(load, SampleConfig(batch_size=3))
    from hf_llc.loading.problem_loader import load_problem

    problem = load_problem(str(checkpoint), data(), load)
    with preserved(problem.model):
        real = plan_of(Posterior(problem, step_in_backward=True), batch_size=3)
    assert plan.num_parameters == real.num_parameters and plan.weights == real.weights == 4 * plan.num_parameters
    assert plan.anchor == real.anchor == 2 * plan.num_parameters
    assert plan.largest == real.largest == 3 * 320 * 16 * 4, "tied: two parts and their sum"
    assert plan.activations is not None and real.activations is not None
    assert plan.activations == pytest.approx(real.activations, rel=0.1)


def test_plans_of_other_tasks(tmp_path: Path) -> None:
    model, processor = vit()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    plan = plan_without_weights(LoadConfig(model=str(tmp_path)), SampleConfig())
    assert plan.activations is not None and plan.anchor == plan.weights
    fewer = plan_without_weights(LoadConfig(model=str(tmp_path)), SampleConfig(gradient_checkpointing=True))
    assert fewer.activations is not None and fewer.activations <= plan.activations


@pytest.mark.parametrize("sampler", ["sgld", "baoab"])
def test_where_memory_is_short_the_result_says_so(
    sampler: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_llc.workflow.run._LARGE", 1)
    monkeypatch.setattr("hf_llc.posterior.chain_buffer._FLAT_LIMIT", 0)
    rich = estimate(checkpoint, sampler)
    monkeypatch.setattr("hf_llc.workflow.memory_plan.available_bytes", lambda device, processes: 1)
    poor = estimate(checkpoint, sampler)
    forced = estimate(checkpoint, sampler, step_in_backward=True)
    refused = estimate(checkpoint, sampler, step_in_backward=False)
    assert (rich.step_in_backward, poor.step_in_backward) == (False, True)
    assert (forced.step_in_backward, refused.step_in_backward) == (True, False)
    assert rich.llc_per_chain == refused.llc_per_chain
    assert poor.llc_uncorrected == rich.llc_uncorrected == forced.llc_uncorrected
    notes = [[r.name for r in result.reasons] for result in (rich, poor, forced)]
    assert ["not measured" in names for names in notes] == [False, True, True]
    assert math.isnan(poor.accept_prob) and "not measured" in str(poor)
    assert LLCResult.from_dict(poor.to_dict()).step_in_backward


@pytest.mark.parametrize("batched", [1, 2])
def test_a_narrow_checkpoint_gives_the_draws_of_a_wide_one(
    batched: int, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"num_chains": 2, "chain_batch_size": batched}
    narrow = estimate(checkpoint, **settings)
    monkeypatch.setattr("hf_llc.loading.problem_loader.narrow_if_lossless", lambda model: None)
    wide = estimate(checkpoint, **settings)
    assert narrow.llc_per_chain == wide.llc_per_chain and narrow.init_loss == wide.init_loss
    assert narrow.dtype == "float32" and narrow.accept_prob == wide.accept_prob
    assert narrow.model == wide.model, "provenance is of the checkpoint"


def test_checkpointing_is_a_setting(checkpoint: Path) -> None:
    plain, twice = estimate(checkpoint), estimate(checkpoint, gradient_checkpointing=True)
    assert plain.llc_per_chain == twice.llc_per_chain
    assert twice.gradient_checkpointing and not plain.gradient_checkpointing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_in_backward": True, "sampler": "mala"}, "step_in_backward does not go with this sampler, got 'mala'"),
        ({"step_in_backward": True, "chain_batch_size": 2}, "step_in_backward .* chain_batch_size, got 2"),
        ({"step_in_backward": True, "gradient": "control-variate"}, "step_in_backward .* gradient"),
        ({"gradient_checkpointing": True, "compile": True}, "gradient_checkpointing .* compile"),
        ({"step_in_backward": "sometimes"}, "step_in_backward .*'sometimes'.*'auto'"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SampleConfig(**settings)


def test_doctor_prints_the_plan(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["doctor", "--model", str(checkpoint), "--max-length", "16"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert all(
        word in out for word in ("weights w", "16 bits", "16 tokens each", "sgld", "whole gradients", "available")
    )
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samplers"]["sgld"]["step_in_backward"] is False
    assert main([*command[:3], "--max-length", "1000"]) == 2
    assert "max_length is more than" in capsys.readouterr().err
    assert main(["doctor", "--model", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_available_memory(tmp_path: Path) -> None:
    assert 0 < available_bytes(CPU, processes=2) < available_bytes(CPU) * 0.6
    for name, text in (("max", "1000"), ("current", "700"), ("stat", "anon 5\ninactive_file 200")):
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    assert _of_group(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert _of_group(tmp_path) == _of_group(tmp_path / "nowhere") == 2**62
