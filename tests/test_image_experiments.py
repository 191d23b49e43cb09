"""The experiments on images: what they share, and both scripts run by one process and by two."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from script_runner import ROOT, smoke_on_one_and_two
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(ROOT / "scripts"))
import mnist_entropy_sgd
import mnist_figure
import resnet_cifar10
import resnet_figure
import resnet_presets
from classifiers import MADE_UP, Images, evaluated, judged, llc, load_images, minibatches

from hf_llc import LLCEvaluator
from hf_llc.errors import InputError

SAMPLING = {"num_chains": 2, "num_draws": 12, "num_burnin_steps": 3, "batch_size": 16, "step_size": 1e-5}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p(label) of each image."""
    return F.cross_entropy(logits, labels, reduction="none")


def test_the_networks_have_the_papers_parameter_counts() -> None:
    def count(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    assert count(mnist_entropy_sgd.network(1024, seed=0)) == 1_863_690
    assert count(resnet_cifar10.network()) == 11_181_642
    assert count(resnet_cifar10.network(stem="cifar")) == 11_173_962


def test_the_resnet_begins_with_logits_of_zero_and_the_same_weights_for_a_seed() -> None:
    model, again = (resnet_cifar10.network(4, seed=3) for _ in range(2))
    assert torch.equal(model(torch.rand(2, 3, 32, 32)).logits, torch.zeros(2, 10))
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.momentum, m.eps) for m in norms} == {(0.1, 1e-5)}


@pytest.mark.slow
def test_llc_is_what_the_evaluator_says_and_leaves_the_network_as_found() -> None:
    images = load_images(MADE_UP, "train", shape=(3, 32, 32), max_examples=40).halved()
    model = resnet_cifar10.network(4, seed=0).train()
    nn.init.normal_(model.classifier[-1].weight, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = llc(model, images, SAMPLING)
    assert found.trace is not None
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> Tensor:
            return self.model(pixels).logits

    result = LLCEvaluator(**SAMPLING).compute(Logits(), data=(images.pixels, images.labels), loss_fn=cross_entropy)
    assert result.trace is not None
    np.testing.assert_array_equal(found.trace.loss, result.trace.loss)
    assert found.llc == result.llc


def test_with_batch_statistics_eval_mode_gives_what_training_mode_gives() -> None:
    model = resnet_cifar10.network(4, seed=0)
    nn.init.normal_(model.classifier[-1].weight)
    pixels = torch.rand(20, 3, 16, 16)
    frozen = model.eval()(pixels).logits
    with torch.no_grad():
        trained = resnet_cifar10.network(4, seed=0)
        trained.load_state_dict(model.state_dict())
        expected = trained.train()(pixels).logits
        with resnet_cifar10.BatchStatistics(model):
            torch.testing.assert_close(model(pixels).logits, expected)
        assert torch.equal(model(pixels).logits, frozen)
    assert not torch.allclose(frozen, expected)


def test_minibatches_use_each_image_once_an_epoch_in_an_order_of_the_seed() -> None:
    images = Images(torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10))
    stream, again = (minibatches(images, 4, seed=1) for _ in range(2))
    epochs = [[next(stream)[1] for _ in range(2)] for _ in range(3)]
    assert all(len(torch.cat(epoch).unique()) == 8 for epoch in epochs)
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    assert torch.equal(next(again)[1], epochs[0][0])
    with pytest.raises(InputError, match="batch_size"):
        next(minibatches(images, 11, seed=0))


def test_evaluated_is_the_mean_over_all_images_in_eval_mode() -> None:
    images = load_images(MADE_UP, "train", shape=(1, 4, 4), max_examples=1300)  # more than one part
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 10), nn.Dropout(0.5))
    loss, accuracy = evaluated(model.train(), images)
    logits = model.eval()(images.pixels).detach()
    assert loss == pytest.approx(float(F.cross_entropy(logits, images.labels)), rel=1e-5)
    assert accuracy == pytest.approx(float((logits.argmax(1) == images.labels).double().mean()))


@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_images_of_a_data_set(data_folder: Callable[[str], Path], name: str, shape: tuple[int, ...]) -> None:
    images = load_images(str(data_folder(name)), "test", shape=shape, max_examples=50)
    assert images.pixels.shape == (50, *shape)
    assert 0 <= float(images.pixels.min()) < 0.1
    assert 0.9 < float(images.pixels.max()) <= 1
    assert set(images.labels.tolist()) <= set(range(10))
    with pytest.raises(InputError, match="another shape"):
        load_images(str(data_folder(name)), "test", shape=(1, 8, 8), max_examples=5)


def network_row(optimizer: str, seed: int, points: list[tuple[float, float]]) -> dict[str, Any]:
    curve = [{"train_loss": loss, "llc": value} for loss, value in points]
    return {"optimizer": optimizer, "seed": seed, **curve[-1], "curve": curve}


def test_at_equal_loss_interpolates_sgds_curve_over_the_logarithm() -> None:
    rows = [
        network_row("sgd", 0, [(1.0, 10.0), (0.01, 30.0)]),
        network_row("entropy-sgd", 0, [(0.1, 25.0)]),
        network_row("sgd", 1, [(1.0, 10.0), (0.5, 30.0)]),
        network_row("entropy-sgd", 1, [(0.1, 25.0)]),  # SGD never came so far
    ]
    assert mnist_figure.at_equal_loss(rows) == [(25.0, pytest.approx(20.0))]


def test_a_claim_is_seen_only_with_its_sign_and_significance() -> None:
    assert [judged(1, 0.01), judged(-1, 0.01), judged(1, 0.2), judged(1, float("nan"))] == [
        "Seen",
        "Not seen (the opposite)",
        "Cannot tell",
        "Cannot tell",
    ]
    seeds = range(4)
    low = [network_row("entropy-sgd", s, [(0.1, 20.0 + s)]) for s in seeds]
    high = [network_row("sgd", s, [(1.0, 35.0 + s), (0.01, 35.5 + 1.5 * s)]) for s in seeds]
    assert mnist_entropy_sgd.claim([*low, *high]).count("Seen:") == 2
    swapped = [{**row, "llc": -row["llc"], "curve": [{**p, "llc": -p["llc"]} for p in row["curve"]]} for row in low]
    below = [{**row, "llc": -row["llc"], "curve": [{**p, "llc": -p["llc"]} for p in row["curve"]]} for row in high]
    assert mnist_entropy_sgd.claim([*swapped, *below]).count("Not seen (the opposite):") == 2


def sweep_rows(values: dict[float, list[float]]) -> tuple[Any, list[dict[str, Any]]]:
    """A sweep over the learning rate with these λ̂, NaN for a run that diverged."""
    base = {"learning_rate": 0.1, "batch_size": 64, "momentum": 0.0, "l2": 0.0}
    sweep = resnet_presets.Sweep("learning_rate", tuple(values), base, 1, 1, 10, 1e-6)
    rows = []
    for job in sweep.jobs(len(next(iter(values.values())))):
        value = values[job["learning_rate"]][job["seed"]]
        point = {"step": 1, "llc": value, "test_accuracy": 0.5 - value / 100, "train_loss": 1.0}
        diverged = None if np.isfinite(value) else "training, by step 1"
        curve = [point] if diverged is None else []
        rows.append({**job, **point, "verdict": "drifting", "curve": curve, "diverged": diverged})
    return sweep, rows


def test_the_resnets_claim_has_the_papers_sign_and_lists_what_diverged() -> None:
    falling = sweep_rows({0.01: [9.0, 8.0, 8.5], 0.1: [5.0, 6.0, 5.5], 1.0: [2.0, 3.0, float("nan")]})
    said = resnet_figure.claim([falling])
    assert said.startswith("Seen: λ̂ falls with learning rate")
    assert "1 of 9 runs diverged" in said
    assert "Seen: the lower λ̂, the higher the test accuracy (ρ = -1.00" in said
    assert "8 of the kept are “drifting”" in said and "trustworthy ones alone: 0, no trend" in said
    assert "learning rate 1, batch size 64, momentum 0, L2 0, seed 2: training, by step 1" in said
    rising = sweep_rows({0.01: [2.0, 3.0], 0.1: [5.0, 6.0], 1.0: [8.0, 9.0]})
    assert resnet_figure.claim([rising]).startswith("Not seen (the opposite)")
    for row in rising[1][:2]:
        row["verdict"] = "not a minimum"
    said = resnet_figure.claim([rising])
    assert "0.01: –" in said
    assert "4 runs; 2 left out, of 0.01, whose verdicts are “not a minimum”: with them ρ = 0.96" in said
    for row in rising[1]:
        row["verdict"], row["test_accuracy"] = "trustworthy", row["llc"] / 10
    said = resnet_figure.claim([rising])
    assert "of the kept" not in said and "left out, of" not in said
    assert "Not seen (the opposite): the lower λ̂, the higher the test accuracy" in said
    lines = resnet_figure.table([falling])
    assert len(lines) == 9
    assert sum(line["llc"] is None and line["diverged"] is not None for line in lines) == 1


def test_a_training_run_that_diverges_is_a_row_that_says_so() -> None:
    settings = resnet_cifar10.PRESETS["smoke"]
    job = {"learning_rate": 1e38, "batch_size": 20, "momentum": 0.0, "l2": 0.0, "seed": 0}
    job |= {"steps": 3, "every": 3, "chain_steps": 8, "step_size": 1e-6}
    row = resnet_cifar10.Work(settings)(job)
    assert row["diverged"] == "training, by step 3"
    assert row["curve"] == []


def test_the_penalty_is_alpha_times_the_squared_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient is 2αw: one step without a loss multiplies w by 1 − 2α·lr."""
    settings, kept = resnet_cifar10.PRESETS["smoke"], []
    monkeypatch.setattr(resnet_cifar10, "gradient_of", lambda accelerator, model, optimizer, batches: lambda: None)

    def measured(work: Any, model: nn.Module, job: dict[str, Any]) -> dict[str, Any]:
        kept.append([w.detach().clone() for w in model.parameters()])
        return {"train_loss": 1.0, "llc": 1.0}

    monkeypatch.setattr(resnet_cifar10.Work, "_measured", measured)
    job = {"learning_rate": 0.5, "batch_size": 20, "momentum": 0.0, "l2": 0.1, "seed": 0}
    for parameter in (model := resnet_cifar10.network(4, seed=0)).parameters():
        parameter.grad = torch.zeros_like(parameter)
    monkeypatch.setattr(resnet_cifar10, "network", lambda *args, **kwargs: model)
    before = [w.detach().clone() for w in model.parameters()]
    resnet_cifar10.Work(settings)({**job, "steps": 1, "every": 1, "chain_steps": 8, "step_size": 1e-6})
    for one, other in zip(before, kept[0], strict=True):
        torch.testing.assert_close(other, (1 - 2 * 0.1 * 0.5) * one)


PAPERS_SWEEPS = {
    # varied, momentum: values, rate, batch, steps, λ̂ every, chain, ε
    ("learning_rate", 0.0): ((0.005, 0.01, 0.05, 0.1, 0.2), None, 512, 30_000, 1000, 3000, 2e-7),
    ("learning_rate", 0.9): ((0.005, 0.01, 0.05, 0.1, 0.2), None, 512, 30_000, 1000, 3000, 2e-7),
    ("batch_size", 0.0): ((16, 32, 64, 128, 256, 512, 1024), 0.01, None, 100_000, 2500, 2500, 2e-7),
    ("batch_size", 0.9): ((16, 32, 64, 128, 256, 512, 1024), 0.01, None, 100_000, 2500, 2500, 2e-7),
    ("momentum", None): ((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), 0.05, 512, 20_000, 1000, 3000, 2e-7),
    ("l2", 0.9): ((0.0, 0.01, 0.025, 0.05, 0.075, 0.1), 0.0005, 512, 15_000, 500, 2000, 5e-8),
    ("l2", 0.0): ((0.0, 0.01, 0.025, 0.05, 0.075, 0.1), 0.001, 512, 50_000, 1000, 2000, 5e-8),
}


def test_the_papers_sweeps_cell_by_cell() -> None:
    """arXiv 2308.12108, appendix K.1 and K.2."""
    paper = resnet_cifar10.PRESETS["paper"]
    assert (paper.n, paper.seeds, paper.stem, paper.halved, paper.kept) == (50_000, 5, "imagenet", False, 0.1)
    found = {}
    for sweep in paper.sweeps:
        jobs = sweep.jobs(paper.seeds)
        assert len(jobs) == 5 * len(sweep.values)

        def held(name: str, jobs: list[dict[str, Any]] = jobs) -> Any:
            values = {job[name] for job in jobs}
            return values.pop() if len(values) == 1 else None

        assert sweep.name == "l2" or held("l2") == 0.0
        names = ("learning_rate", "batch_size", "steps", "every", "chain_steps", "step_size")
        found[sweep.name, held("momentum")] = (sweep.values, *map(held, names))
        sample = paper.sample(jobs[0])
        assert (sample["batch_size"], sample["localization"], sample["num_chains"]) == (2048, 1.0, 1)
        assert sample["num_draws"] * 10 == sample["num_draws"] + sample["num_burnin_steps"] == sweep.chain_steps
        assert "nbeta" not in sample  # n / ln n
    assert found == PAPERS_SWEEPS


@pytest.mark.slow
@pytest.mark.parametrize(("script", "count"), [("mnist_entropy_sgd", 4), ("resnet_cifar10", 6)])
def test_a_script_gives_the_same_rows_by_one_process_and_by_two(tmp_path: Path, script: str, count: int) -> None:
    assert len(smoke_on_one_and_two(script, tmp_path)) == count
