"""The plan of a chain's bytes: what it counts, what follows from it, and how it is forced."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from tiny import SENTENCES, llama, tokenizer, vit

from hf_llc import LLCEvaluator
from hf_llc.backend.memory import _of_group, available_bytes
from hf_llc.cli.entry_point import main
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.posterior.minibatches import auto_micro_batch_size, logits_per_token
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
    assert json.loads(json.dumps(short.as_dict()))["samplers"]["sgld"] == {
        "state": 0, "whole": 18_600, "in_backward": 7000, "step_in_backward": True, "fits": True,
    }  # fmt: skip


def test_the_table_of_a_plan() -> None:
    """2²⁸ parameters: 1 GiB in float32, w* half of that, a gradient of ¼, activations of 2; 7 of 8 GiB may be used."""
    gib = 2**30
    plan = Plan(2**28, "cpu", gib, gib // 2, gib // 4, 2 * gib, "two examples", 8 * gib)
    assert [" ".join(line.split()) for line in plan.render().splitlines() if line] == [
        "weights w 1.00 GiB 268,435,456 parameters",
        "anchor w* 0.50 GiB 16 bits",
        "gradients 1.00 GiB whole; 0.25 GiB (largest parameter) inside backward",
        "activations 2.00 GiB two examples",
        "available 8.00 GiB cpu",
        "sampler state whole in backward mode",
        "sgld 0.00 MiB 6.50 GiB 3.75 GiB whole gradients",
        "leimkuhler-matthews 0.00 MiB 5.50 GiB 3.75 GiB whole gradients",
        "psgld 1.00 GiB 5.50 GiB 4.75 GiB whole gradients",
        "rmsprop-sgld 1.00 GiB 5.50 GiB 4.75 GiB whole gradients",
        "baoab 1.00 GiB 6.50 GiB 4.75 GiB whole gradients",
        "sgnht 1.00 GiB 5.50 GiB 4.75 GiB whole gradients",
        "mala 0.00 MiB 8.50 GiB – whole gradients, does not fit",
        "hmc 0.00 MiB 11.50 GiB – whole gradients, does not fit",
        "calibration 13.50 GiB does not fit: give step_size and localization",
    ]
    less = Plan(2**28, "cpu", gib, gib, gib // 4, None, "unknown", 5 * gib).render().splitlines()
    assert less[1].split()[-2:] == ["as", "chains"] and "not known" in less[3]
    assert [line.split()[-3:] for line in less if line.startswith("sgld")] == [["step", "in", "backward"]]


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
    """With checkpointing a layer of an image classifier keeps its input alone: 4 patches and a class token of 16."""
    found = {}
    for layers in (3, 4):
        model, processor = vit(layers=layers)
        model.save_pretrained(tmp_path / str(layers))
        processor.save_pretrained(tmp_path / str(layers))
        for is_checkpointed in (False, True):
            plan = plan_without_weights(
                LoadConfig(model=str(tmp_path / str(layers))),
                SampleConfig(batch_size=2, gradient_checkpointing=is_checkpointed),
            )
            assert plan.num_parameters == sum(p.numel() for p in model.parameters())
            assert plan.anchor == plan.weights == 4 * plan.num_parameters and plan.activations is not None
            found[layers, is_checkpointed] = plan.activations
    assert found[4, True] - found[3, True] == 2 * 5 * 16 * 4
    assert found[4, False] - found[3, False] > 10 * 2 * 5 * 16 * 4
    assert found[4, True] < 0.5 * found[4, False]


def test_the_plan_of_two_towers_has_the_size_of_its_pictures(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 8, "patch_size": 4, "num_channels": 1}
    settings = transformers.CLIPConfig(text_config={**small, "vocab_size": 40}, vision_config=vision, num_labels=3)
    transformers.CLIPForImageClassification(settings).save_pretrained(tmp_path)
    assert plan_without_weights(LoadConfig(model=str(tmp_path)), SampleConfig(batch_size=2)).activations is not None


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["sgld", "baoab"])
def test_where_memory_is_short_the_result_says_so(
    sampler: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_llc.workflow.open_posterior._LARGE", 1)
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_doctor_prints_the_plan(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["doctor", "--model", str(checkpoint), "--max-length", "16"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    count = sum(p.numel() for p in llama(tie=True).parameters())
    assert (found["num_parameters"], found["weights"], found["anchor"]) == (count, 4 * count, 2 * count)
    assert found["largest"] == 3 * 4 * 320 * 16  # the tied embedding, its two uses and their sum
    whole = 6 * count + found["activations"] + 3 * 4 * count
    assert (found["samplers"]["sgld"]["whole"], found["samplers"]["sgld"]["step_in_backward"]) == (whole, False)
    rows = {line[:14].strip(): line[14:].split() for line in out.splitlines()}
    assert rows["weights w"] == [f"{4 * count / 2**20:.2f}", "MiB", f"{count:,}", "parameters"]
    assert rows["anchor w*"] == [f"{2 * count / 2**20:.2f}", "MiB", "16", "bits"]
    assert rows["activations"][:2] == [f"{found['activations'] / 2**20:.2f}", "MiB"]
    assert rows["activations"][-3:] == ["16", "tokens", "each"]
    assert main([*command[:3], "--max-length", "1000"]) == 2
    assert "max_length is more than" in capsys.readouterr().err
    assert main(["doctor", "--model", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_doctor_foretells_an_estimate(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `estimate` says before it begins, from the same flags; nothing is sampled or written."""
    monkeypatch.setattr("hf_llc.workflow.forecast.seconds_of_gradient", lambda posterior, size: 2.0 * size)
    monkeypatch.setattr("hf_llc.workflow.forecast.SAID", 0.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("word " * 400)
    flags = ["--model", str(checkpoint), "--data", "text.txt", "--max-length", "16", "--batch-size", "2", "--minimize"]
    assert main(["doctor", *flags]) == 0
    out = capsys.readouterr().out
    table = out[out.index("forecast, from") :].splitlines()
    names = ["L_n(w*)", "minimize", "calibrate", "descend", "sample", "measure heat", "check γ", "all"]
    assert [line[:16].strip() for line in table[1:-1]] == names and "GiB" in table[-2]
    assert table[-1].startswith("longer than about 60 min; ")
    assert "weights w" in out and not (tmp_path / "runs").exists()
    assert main(["doctor", *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    least, guess, most = found["stages"]["sample"]["seconds"]
    assert 0 < least <= guess <= most and found["stages"]["sample"]["bytes"] > 0
    assert found["all"]["seconds"][0] == pytest.approx(sum(each["seconds"][0] for each in found["stages"].values()))
    monkeypatch.setattr(
        "hf_llc.workflow.run.Run.measure_anchor", lambda run: pytest.fail("only the forecast is wanted")
    )
    assert main(["doctor", *flags, "--max-seconds", "20"]) == 2
    assert "max_seconds is too short" in capsys.readouterr().err
    assert main(["doctor", "--data", "text.txt"]) == 2
    assert "no model given" in capsys.readouterr().err


def test_available_memory(tmp_path: Path) -> None:
    assert 0 < available_bytes(CPU, processes=2) < available_bytes(CPU) * 0.6
    for name, text in (("max", "1000"), ("current", "700"), ("stat", "anon 5\ninactive_file 200")):
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    assert _of_group(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert _of_group(tmp_path) == _of_group(tmp_path / "nowhere") == 2**62


def test_a_forward_pass_has_a_bounded_number_of_logits() -> None:
    """A large vocabulary has fewer examples in a pass, never fewer than one; other models are as before."""
    assert auto_micro_batch_size(512) == auto_micro_batch_size(512, 512) == 32
    assert auto_micro_batch_size(512, 49_152) == 5
    assert auto_micro_batch_size(8192, 10**6) == 1
    assert auto_micro_batch_size(1, 10**6) == 1024


def test_logits_are_those_of_the_layer_that_predicts_tokens() -> None:
    assert logits_per_token(torch.nn.Linear(3, 7)) == 1
    config = transformers.GPT2Config(vocab_size=97, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    assert logits_per_token(transformers.GPT2LMHeadModel(config)) == 97
    assert logits_per_token(transformers.GPT2ForSequenceClassification(config)) == 1
