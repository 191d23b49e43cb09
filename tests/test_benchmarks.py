"""benchmarks/: efficiency and scaling on tiny problems, the peers where they are installed, the accelerate configs."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from script_runner import ROOT
from tiny import llama

from hf_llc.errors import InputError
from hf_llc.problem import Problem
from hf_llc.records.trace import empty_trace, padded
from hf_llc.result import LLCResult

sys.path.insert(0, str(ROOT / "benchmarks"))
import efficiency
import known
import limits
import memory
import observed_step
import restricted_step
import running
import running_peers
import scaling
from models import Case, _token_losses
from running import Curve
from timing import quiet


@pytest.fixture
def network() -> known.Known:
    """The first network of the class on few inputs."""
    return next(known.deep_linear(1, n=2000, batch_size=100))


def language_model(seed: int = 1) -> Case:
    """A random decoder on random tokens: w* is not at a minimum."""
    ids = torch.randint(3, 320, (16, 12), generator=torch.Generator().manual_seed(0))
    problem = Problem(llama(seed=seed), {"input_ids": ids}, _token_losses, n=16 * 11, unit="nats per token")
    return Case("tiny", problem, 4, True)


def test_arrival_is_the_time_from_which_all_is_well() -> None:
    assert running.arrival(Curve([1, 2, 3, 4], [10.1, 12.0, 9.8, 10.2]), 10.0) == 3
    assert running.arrival(Curve([1, 2], [10.1, 9.9]), 10.0) == 1
    assert running.arrival(Curve([1, 2], [10.0, 12.0]), 10.0) is None
    assert running.arrival(Curve([1, 2], [10.0, math.nan]), 10.0) is None
    assert running.arrival(Curve([], []), 10.0) is None


def test_ladder_climbs() -> None:
    assert list(itertools.islice(running.ladder(), 6)) == [20, 23, 26, 30, 35, 40]  # 20 · 1.15ⁿ
    assert list(itertools.islice(running.ladder(first=1, ratio=1.01), 100)) == list(range(1, 101))  # by one at least


@pytest.mark.parametrize("burnt", [0.0, 0.5])
def test_running_estimates_are_means_of_what_is_kept(burnt: float) -> None:
    excess = np.random.default_rng(0).normal(5.0, 1.0, (3, 100))
    curve = running.running([0.1 * (i + 1) for i in range(100)], excess, burnt=burnt)
    assert curve.seconds[0] == pytest.approx(2.0) and curve.seconds[-1] == pytest.approx(10.0)
    steps = [round(10 * t) for t in curve.seconds]
    assert curve.llc == pytest.approx([excess[:, int(burnt * s) : s].mean() for s in steps])


def test_networks_have_one_coefficient() -> None:
    found = list(known.deep_linear(2, n=2000))
    assert [k.llc for k in found] == [184.5, 90.0] and all(k.llc_se == 0 for k in found)
    assert found[0].nbeta == pytest.approx(2000 / math.log(2000))


@pytest.mark.slow
def test_hf_llc_runs_and_leaves_the_model_as_found(network: known.Known) -> None:
    before = [p.clone() for p in network.problem.model.parameters()]
    found = (
        running.ours(network, seconds=0.3, chains=2, seed=0),
        running.ours(network, seconds=0.3, chains=2, seed=0, step_size=1e-6),
        running.defaults(network, seed=0),
    )
    for curve, note in zip(found, ("baoab, ε = ", "sgld, ε = 1e-06, plain", "± "), strict=True):
        assert curve.note.startswith(note) and math.isfinite(sum(curve.llc))
        assert len(curve.seconds) == len(curve.llc) and curve.seconds == sorted(curve.seconds)
    for curve in found[:2]:
        assert all(t <= 0.3 for t in curve.seconds[:-1]) and curve.seconds[-1] > 0.3 and curve.chains == 2
        assert curve.steps == next(itertools.islice(running.ladder(), len(curve.llc) - 1, None))
    assert len(found[2].llc) == 1 and found[2].llc[0] == pytest.approx(network.llc, rel=0.25)
    assert all(a.equal(b) for a, b in zip(before, network.problem.model.parameters(), strict=True))


def test_tuning_takes_the_first_to_arrive_or_else_the_nearest(network: known.Known) -> None:
    def contender(k: known.Known, seconds: float, chains: int, seed: int, step_size: float) -> Curve:
        return {
            1.0: Curve([1, 2], [0.0, math.nan]),
            2.0: Curve([1, 2], [k.llc, k.llc]),
            3.0: Curve([1, 2], [0.0, k.llc]),
            4.0: Curve([1, 2], [0.0, 0.5 * k.llc]),
        }[step_size]

    assert efficiency.tuned(network, contender, [1.0, 2.0, 3.0], 1.0, 2)[0] == 2.0
    assert efficiency.tuned(network, contender, [1.0, 4.0], 1.0, 2)[0] == 4.0
    assert len(efficiency.tuned(network, contender, [1.0, 4.0], 1.0, 2)[1]) == 2


def test_a_line_says_what_happened() -> None:
    assert efficiency.line({"failed": "ImportError: no"}) == "– ImportError: no"
    curve = {"seconds": [1.0], "note": "ε = 1"}
    row = {"arrivals": [2.0, None, 3.0], "errors": [0.01, math.nan, -0.02], "curves": [curve] * 3}
    assert "3.00 s  2/3" in efficiency.line(row) and "+1.0%, –, -2.0%" in efficiency.line(row)
    assert "not in 1.0 s" in efficiency.line({**row, "arrivals": [None] * 3})
    assert "diverged" in efficiency.line(
        {**row, "arrivals": [None], "curves": [{**curve, "note": "diverged at step 3"}]}
    )


@pytest.mark.slow
def test_efficiency_writes_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["efficiency.py", "--networks", "1", "--seconds", "0.2", "--seeds", "1", "--grid", "1", "--contenders"]
    names = ["hf_llc, running", "hf_llc SGLD, tuned"]
    monkeypatch.setattr(sys, "argv", [*command, *names, "--output", str(tmp_path)])
    assert efficiency.main() == 0
    (row,) = json.loads((tmp_path / "efficiency.json").read_text())["table"].values()
    out = capsys.readouterr().out
    assert list(row["contenders"]) == names and row["llc"] == 184.5
    for name, contender in row["contenders"].items():
        (curve,) = contender["curves"]
        assert contender["errors"] == [pytest.approx(curve["llc"][-1] / 184.5 - 1)]
        assert contender["arrivals"] == [running.arrival(Curve(curve["seconds"], curve["llc"]), 184.5)]
        assert f"  {name:<28}{efficiency.line(contender)}\n" in out
    assert (
        0.2 < row["contenders"][names[1]]["tuning_seconds"] < 60 and "tuning_seconds" not in row["contenders"][names[0]]
    )


def test_no_data_or_reference_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["efficiency.py", "--cases", "stories", "--data", str(tmp_path), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    assert efficiency.main() == 2
    assert "no such data" in capsys.readouterr().err
    with pytest.raises(InputError, match="no reference"):
        known.referred(language_model(), tmp_path, localization=10.0)


@pytest.mark.slow
def test_reference_belongs_to_a_point(tmp_path: Path) -> None:
    case = language_model()
    known.at_minimum(case, tmp_path, steps=20)
    moved = [p.clone() for p in case.problem.model.parameters()]
    known.make_reference(case, tmp_path, localization=100.0, steps=80, chains=2)
    again = language_model()
    known.at_minimum(again, tmp_path)  # from the folder
    assert all(a.equal(b) for a, b in zip(moved, again.problem.model.parameters(), strict=True))
    found = known.referred(again, tmp_path, localization=100.0)
    record = json.loads((tmp_path / "reference.json").read_text())
    assert (found.llc, found.llc_se) == (record["llc"], record["llc_se"]) and found.llc_se > 0
    assert record["settings"]["gradient"] == "control-variate"
    with pytest.raises(InputError, match="another point or γ"):
        known.referred(again, tmp_path, localization=50.0)
    with pytest.raises(InputError, match="another problem"):
        known.at_minimum(language_model(seed=2), tmp_path)
    assert known.referred(again, tmp_path, localization=50.0, given=(3.0, 0.1)).llc == 3.0


@pytest.mark.slow
def test_stories(data_folder, tmp_path: Path) -> None:
    case = known.stories(data_folder("stories260K").parent, tmp_path, max_examples=16, minimize_steps=2)
    assert case.num_parameters == 260_032 and case.problem.examples["input_ids"].shape == (16, 256)
    found = known.referred(case, tmp_path, localization=35_000.0, given=(1.0, 0.0))
    curve = running.ours(found, seconds=0.1, chains=1, seed=0, step_size=1e-8)
    assert math.isfinite(curve.llc[-1])


@pytest.mark.slow
def test_devinterp(network: known.Known) -> None:
    pytest.importorskip("devinterp")
    models = [network, known.Known(language_model(), 1.0, 0.0, 30.0, 10.0, "")]
    for each in models:
        with quiet():
            curve = running_peers.devinterp(each, seconds=60.0, draws=30, chains=2, seed=0, step_size=1e-7)
            blown = running_peers.devinterp(each, seconds=60.0, draws=30, chains=1, seed=0, step_size=1e6)
        assert (curve.steps, curve.chains) == (30, 2) and math.isfinite(curve.llc[-1])
        assert blown.note.startswith("diverged") and running.arrival(blown, each.llc) is None


@pytest.mark.slow
def test_canonical_interp(network: known.Known) -> None:
    """Its step is compiled whatever one asks: half a minute."""
    if importlib.util.find_spec("canonical_interp") is None:  # not importable as it stands on Python 3.11
        pytest.skip("canonical-interp is not installed")
    with quiet():
        few = running_peers.canonical(network, seconds=60.0, draws=25, chains=2, seed=0, step_size=1e-7, compiled=False)
        timed = running_peers.canonical(
            network, seconds=0.0, chains=2, seed=0, step_size=1e-7, burnin=5, compiled=False
        )
        words = known.Known(language_model(), 1.0, 0.0, 30.0, 10.0, "")
        other = running_peers.canonical(words, seconds=60.0, draws=25, chains=2, seed=0, step_size=1e-7, compiled=False)
    assert (few.steps, few.chains) == (25, 2) and math.isfinite(few.llc[-1])
    assert timed.steps >= 1 and few.seconds == sorted(few.seconds)
    assert other.steps == 25 and math.isfinite(other.llc[-1])


def test_a_bit_of_difference_is_seen() -> None:
    one = padded(empty_trace(2), 5)
    assert scaling.difference(one, padded(empty_trace(2), 5)) is None
    loss = one.loss.copy()
    loss[0, 0] = 1.0
    other = loss.copy()
    other[0, 0] = np.nextafter(1.0, 2.0)
    assert scaling.difference(replace(one, loss=loss), replace(one, loss=other)) == "loss"


def test_a_checkpoint_steps_around_its_own_weights(tmp_path: Path) -> None:
    llama(tie=True).to(torch.bfloat16).save_pretrained(tmp_path)
    found = memory.step_checkpoint(tmp_path, device="cpu", gradient_checkpointing=True)
    assert found["anchor"] == "torch.bfloat16" and found["parameters"] == sum(
        p.numel() for p in llama(tie=True).parameters()
    )
    model = llama(tie=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    ids = torch.randint(320, (4, memory.TOKENS), generator=torch.Generator().manual_seed(0))
    at_star = _token_losses(model, {"input_ids": ids}).detach()
    assert (at_star - found["losses"][0]).abs().min() < 1e-4 and all(map(math.isfinite, found["losses"]))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of this process
    assert found["peak_bytes"] == pytest.approx(peak, rel=0.05)
    assert found["bytes_a_parameter"] == found["peak_bytes"] / found["parameters"]


@pytest.mark.slow
def test_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process is this one, and the launcher starts the two."""
    launch = scaling.launch

    def launched(case: str, steps: int, count: int, folder: Path, **options: Any) -> float:
        if count > 1:
            return launch(case, steps, count, folder, **options)
        scaling.estimate(case, steps, folder, **options)
        return 0.0

    monkeypatch.setattr(scaling, "launch", launched)
    found = scaling.measure("linear", 6, rounds=1, counts=[1, 2], device="cpu", chains=3)
    assert found["traces_equal"], found["unequal"]
    assert all(row["rate"][0] > 0 for row in found["processes"].values())


@pytest.mark.slow
def test_scaling_of_the_embedded_model(tmp_path: Path) -> None:
    """What each process does, in this one: launching it is the same for all cases."""
    scaling.estimate("embedded", 2, tmp_path, device="cpu", chains=2)
    result = LLCResult.load(tmp_path)
    assert (result.num_chains, result.num_draws, result.localization) == (2, 2, 1.0)
    assert result.steps_per_second > 0


@pytest.mark.parametrize(
    ("name", "kind", "machines", "processes"),
    [
        ("one_gpu", "NO", 1, 1),
        ("eight_gpus", "MULTI_GPU", 1, 8),
        ("two_nodes", "MULTI_GPU", 2, 16),
        ("fsdp", "FSDP", 1, 8),
    ],
)
def test_accelerate_configs(name: str, kind: str, machines: int, processes: int) -> None:
    path = ROOT / "scripts" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert (config.distributed_type.value, config.num_machines, config.num_processes) == (kind, machines, processes)
    assert (config.mixed_precision, config.use_cpu) == ("no", False)
    assert config.fsdp_config == ({"fsdp_version": 2} if kind == "FSDP" else {})
    command = path.read_text(encoding="utf-8").splitlines()[0]
    assert command.startswith("# ") and f"accelerate launch --config_file scripts/accelerate/{name}.yaml" in command


def test_every_accelerate_config_is_tested() -> None:
    names = {path.stem for path in (ROOT / "scripts" / "accelerate").glob("*.yaml")}
    assert names == {"one_gpu", "eight_gpus", "two_nodes", "fsdp"}


def test_what_a_run_said_of_its_limit_is_read() -> None:
    err = "hf_llc:   all           about 9 min (4–33 min), 1.4 GiB; states of 4.0 GiB on disk\n"
    err += "hf_llc: descend: 80 s\nhf-llc: end"
    found = limits._read(err, "verdict       too few draws\n")
    assert found == {
        "verdict": "too few draws", "foretold": "about 9 min (4–33 min)", "foretold_gib": 1.4,
        "stages": {"descend": "80"}, "last": ["hf-llc: end"], "foretold_s": 540.0, "early_s": None, "is_cut": False,
    }  # fmt: skip
    assert limits._read("", "")["foretold"] is None
    row = {"model": "bert", "limit": None, "wall": 810.0, "overshoot": None, "code": 3, "peak_gib": 2.1, **found}
    assert "foretold 540 s (ratio 1.50) | memory 1.4 GiB, peak 2.10 (ratio 1.50) | too few draws" in limits.summary(row)
    early = limits._read(err + "hf_llc: the model has learnt nothing: x; the chains end early, about 1.5 min\n", "")
    assert early["early_s"] == 90.0
    assert "foretold 540 s | ended early, 90 s foretold" in limits.summary({**row, **early})
    cut = limits.summary({**row, "limit": 30.0, "overshoot": 0.05, "is_cut": True})
    assert "overshoot +5.0% | foretold 540 s |" in cut


def test_steps_of_components_and_looks_are_timed() -> None:
    def problem() -> Problem:
        model = llama()
        return restricted_step.problem_of(model, restricted_step.random_ids(model, tokens=8, count=8))

    assert restricted_step.seconds(problem(), "l0h1", batch=2, steps=1) > 0
    assert observed_step.look_seconds(problem(), 5) > 0
    if importlib.util.find_spec("devinterp") is None:
        assert restricted_step.peer_seconds(problem(), "l0h1", batch=2, steps=1) is None
