"""One chain's weights split over processes by FSDP2: the steps of one process with a whole model, to rounding."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import ROOT, Program, environment, port, run
from launch import BIN, assert_equal
from tiny import SENTENCES, llama, tokenizer
from torch import nn

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.parallel.group import Group
from hf_llc.parallel.placement import arrange_processes, place_for_loading
from hf_llc.parallel.processes import launched_for_fsdp
from hf_llc.parallel.shard_spans import overlaps
from hf_llc.posterior.weights import sampled_parameters
from hf_llc.result import LLCResult

CASES: dict[str, dict[str, object]] = {
    "sgld, two chains, two measured steps": {"sampler": "sgld", "num_chains": 2, "num_burnin_steps": 20},
    "baoab with all that it can have": {
        "sampler": "baoab", "gradient": "control-variate", "adapt_step_size": True, "num_burnin_steps": 40,
        "micro_batch_size": 2,
    },
    "leimkuhler-matthews": {"sampler": "leimkuhler-matthews", "batch_size": 3},
    "psgld": {"sampler": "psgld"},
    "rmsprop-sgld": {"sampler": "rmsprop-sgld"},
    "sgnht": {"sampler": "sgnht"},
    "mala": {"sampler": "mala", "batch_size": "full"},
    "hmc": {"sampler": "hmc", "batch_size": "full", "num_leapfrog_steps": 3},
}  # fmt: skip

LAUNCHES: dict[tuple[int, int], list[str]] = {
    (2, 2): list(CASES),
    (4, 4): ["baoab with all that it can have", "leimkuhler-matthews", "rmsprop-sgld", "mala"],
    (4, 2): ["sgld, two chains, two measured steps"],
}
"""Processes, and how many of them hold one chain's weights → cases. Four shares cut each tensor elsewhere, and three
examples leave one process without. Two groups are two only where there are two chains."""

WORKER = ROOT / "tests" / "shard_worker.py"


def estimates(processes: int, output: Path, cases: list[dict[str, object]], size: int) -> list[LLCResult]:
    """All these settings in one launch of the small transformer, its weights split over `size` processes."""
    run(WORKER, str(output), json.dumps(cases), str(size), processes=processes)
    return [LLCResult.load(output / str(number)) for number in range(len(cases))]


def assert_close(one: LLCResult, other: LLCResult, case: str) -> None:
    """Equal to rounding in every number of the trace."""
    assert one.trace is not None and other.trace is not None
    for name, tolerance in (("loss", 1e-4), ("init_loss", 1e-6), ("accept_prob", 1e-3), ("sq_distance", 1e-4),
                            ("grad_dot", 1e-3), ("heat", 1e-2), ("kinetic_temperature", 1e-4),
                            ("step_size", 1e-4)):  # fmt: skip
        a, b = (getattr(result.trace, name) for result in (one, other))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-9, err_msg=f"{case}: {name}")
    assert one.num_parameters == other.num_parameters


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "size"), LAUNCHES)
def test_split_weights_take_the_steps_of_whole_ones(processes: int, size: int, tmp_path: Path) -> None:
    """Every sampler on two processes; four processes in one group and in two; odd sizes, tied and frozen weights."""
    names = LAUNCHES[processes, size]
    cases = [CASES[name] for name in names]
    whole = estimates(1, tmp_path / "whole", cases, 1)
    split = estimates(processes, tmp_path / "split", cases, size)
    for name, one, result in zip(names, whole, split, strict=True):
        assert (result.num_processes, result.parameter_parallel) == (processes, size)
        assert_close(one, result, name)


@pytest.mark.slow
def test_calibrated_together(tmp_path: Path) -> None:
    """The pilot finds the same step size, friction and γ when the processes hold half of the weights each."""
    cases: list[dict[str, object]] = [{"step_size": "auto", "localization": "auto", "max_steps": 400}]
    one, two = estimates(1, tmp_path / "a", cases, 1) + estimates(2, tmp_path / "b", cases, 2)
    for name in ("step_size", "friction", "localization"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=2e-2), name
    assert one.gradient == two.gradient


LONG: list[dict[str, object]] = [
    {"sampler": "baoab", "adapt_step_size": True, "num_burnin_steps": 80, "num_draws": 60, "save_seconds": 0.1}
]


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    """kill -9 while chains run: the state, put together by one process, goes back to both, and the trace is whole."""
    output = tmp_path / "killed"
    program = Program(WORKER, str(output), json.dumps(LONG), "2", processes=2)
    while not list(output.rglob("chains-*.safetensors")) and program.is_running:
        time.sleep(0.02)
    time.sleep(0.5)
    assert program.is_running, "the run was over, or broke, before it could be killed"
    program.kill()
    assert list(output.rglob("chains-*.safetensors"))
    killed, whole = (estimates(2, folder, LONG, 2)[0] for folder in (output, tmp_path / "whole"))
    assert_equal(whole, killed)


@pytest.mark.slow
def test_a_model_by_name_under_accelerate(tmp_path: Path) -> None:
    """The FSDP file of scripts/accelerate splits a folder's language model, its tied embedding too."""
    llama(tie=True).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES * 8), encoding="utf-8")
    arguments = [
        str(ROOT / "scripts" / "estimate_llc.py"), "--model", str(tmp_path / "model"),
        "--data", str(tmp_path / "text.txt"), "--max-length", "16", "--batch-size", "5", "--num-chains", "2",
        "--num-draws", "6", "--num-burnin-steps", "4", "--step-size", "1e-4", "--localization", "10",
    ]  # fmt: skip
    launcher = [
        str(BIN / "accelerate"), "launch", "--config_file", str(ROOT / "scripts" / "accelerate" / "fsdp.yaml"),
        "--num_processes", "2", "--main_process_port", port(),
    ]  # fmt: skip
    environ = {**environment(), "ACCELERATE_USE_CPU": "true"}
    command = [*launcher, *arguments, "--output", str(tmp_path / "two")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert (tmp_path / "two" / "result.json").exists(), done.stderr[-3000:]
    Program(*arguments, "--output", str(tmp_path / "one")).end()
    one, two = LLCResult.load(tmp_path / "one"), LLCResult.load(tmp_path / "two")
    assert (two.num_processes, two.parameter_parallel, two.model) == (2, 2, one.model)
    assert_close(one, two, "llama")


_REFUSALS = """
import os, sys, torch, shard_worker
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from hf_llc import LLCEvaluator
from hf_llc.parallel.processes import process_state
from hf_llc.errors import InputError

process_state()
def of_blocks():
    model = shard_worker.network()
    return fully_shard(model.blocks[0], mesh=init_device_mesh("cpu", (2,))) and model
def of_two_axes():
    return fully_shard(shard_worker.network(), mesh=init_device_mesh("cpu", (1, 2), mesh_dim_names=("a", "b")))
def of_columns():
    return fully_shard(
        nn.Linear(4, 4, bias=False), mesh=init_device_mesh("cpu", (2,)),
        shard_placement_fn=lambda p: torch.distributed.tensor.Shard(1))
split = shard_worker.split(shard_worker.network(), 2)
for make, settings in ((of_blocks, {}), (of_two_axes, {}), (of_columns, {}), (lambda: split, {"compile": True}),
                       (lambda: split, {"minimize": True}), (shard_worker.network, {"parameter_parallel": 2})):
    try:
        LLCEvaluator(**{**shard_worker.SETTINGS, **settings}).compute(
            make(), data=shard_worker.examples(), loss_fn=shard_worker.next_words)
    except InputError as error:
        with open(f"{sys.argv[1]}/said-{os.environ['RANK']}", "a") as file:
            file.write(f"{error}\\n")
"""


@pytest.mark.slow
def test_what_cannot_be_done_is_refused_on_every_process(tmp_path: Path) -> None:
    script = tmp_path / "refusals.py"
    script.write_text(_REFUSALS, encoding="utf-8")
    run(script, str(tmp_path), processes=2)
    said = (
        "not split'; allowed", "on DeviceMesh", r"split as \(_?S", "parameter_parallel does not go with this compile",
        "does not go with this minimize", "parameter_parallel splits only models that hf_llc loads",
    )  # fmt: skip
    for rank in range(2):
        lines = (tmp_path / f"said-{rank}").read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(said)
        for line, what in zip(lines, said, strict=True):
            assert re.search(what, line), line


def test_settings_that_do_not_go_together() -> None:
    for name, value in (("data_parallel", 2), ("chain_batch_size", 2), ("compile", True), ("minimize", True)):
        with pytest.raises(InputError, match=f"parameter_parallel does not go with this {name}"):
            SampleConfig(**{"parameter_parallel": 2, name: value})
    with pytest.raises(InputError, match="parameter_parallel does not divide the 1 processes"):
        arrange_processes(SampleConfig(parameter_parallel=2))
    with pytest.raises(InputError, match="parameter_parallel splits only models that hf_llc loads"):
        arrange_processes(SampleConfig(parameter_parallel=2), nn.Linear(2, 2))
    with pytest.raises(InputError, match="device names one device, but parameter_parallel uses those of all"):
        place_for_loading(LoadConfig(device="cuda:0"), SampleConfig(parameter_parallel=2))


def test_the_launcher_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not launched_for_fsdp()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"fsdp_version is not 2.*1.*allowed: 2"):
        launched_for_fsdp()
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert launched_for_fsdp()


def test_a_model_on_several_devices_is_refused() -> None:
    """As `device_map` spreads it in one process."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(InputError, match=r"several devices, got 'cpu, meta'.*parameter_parallel"):
        sampled_parameters(model)


def test_stretches_are_cut_and_joined() -> None:
    """Columns of the spans put one after the other, in windows of any width."""
    spans, whole = [(3, 7), (10, 10), (12, 20)], torch.arange(20)
    own = torch.cat([whole[begin:end] for begin, end in spans])
    for width in (1, 3, 5, 12):
        seen = torch.full((12,), -1)
        for start in range(0, 12, width):
            for inside, outside in overlaps(spans, start, start + width):
                seen[start:][inside] = whole[outside]
        assert torch.equal(seen, own)
    assert torch.equal(Group().to_leader(whole, [[(0, 20)]]), whole)
