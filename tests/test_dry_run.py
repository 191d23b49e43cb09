"""`--dry-run` of every experiment: jobs and costs as JSON lines, without data, network or a folder."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from script_runner import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import pile_attention_only
from dry_run import counted, dense

from hf_llc.errors import InputError

JOBS = {  # of the paper's preset
    "compression": 10,
    "dln_benchmark": 6 * 100 * 2 * 2 + 3,
    "dln_theory": 5 * 6 + 3 * 2 + 24 * 40,
    "mala_vs_sgld": 7 * 5 * 2,
    "mnist_entropy_sgd": 80 * 2,
    "pile_attention_only": 10 * 3,
    "rescaling_invariance": (3 + 3) * 17 * 5,
    "resnet_cifar10": 5 * (5 + 7 + 10 + 5 + 7 + 6 + 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize("name", JOBS)
def test_a_dry_run_prints_jobs_and_costs(
    name: str, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_data(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a dry run reads no data")

    monkeypatch.setattr(datasets, "load_dataset", no_data)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.chdir(tmp_path)
    command = ["--preset", preset, "--dry-run", "--operations-a-second", "1e12"]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *command])
    runpy.run_path(os.fspath(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    *lines, total = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert total["jobs"] == len(lines) and (preset != "paper" or len(lines) == JOBS[name])
    assert total["gradients"] == sum(line["gradients"] for line in lines) > 0
    assert total["seconds"] == pytest.approx(total["operations"] / 1e12, rel=1e-2, abs=1e-3 * len(lines))
    assert total["operations"] > 100 * total["gradients"]
    assert not list(tmp_path.iterdir())


def test_operations_are_those_that_torch_counts() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(7, 5, bias=False), torch.nn.ReLU(), torch.nn.Linear(5, 3, bias=False))
    inputs = torch.rand(4, 7, requires_grad=True)  # so that the first layer too has both products of its backward pass
    assert counted(model, torch.sum, inputs) == dense(7 * 5 + 5 * 3, 1)


def test_a_model_of_the_hub_without_a_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no folder is begun."""
    pytest.importorskip("transformer_lens")
    import huggingface_hub

    def unreachable(*args: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    command = ["pile_attention_only.py", "--model", "attn-only-2l", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(InputError, match=r"Hub cannot be reached.*Attn_Only_2L512W"):
        pile_attention_only.main()
    assert not list(tmp_path.iterdir())
