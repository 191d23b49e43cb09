"""The experiments on images: what they share, and both scripts run by one process and by two."""

from __future__ import annotations

import dataclasses
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
    base = {"learning_rate": 0.1, "batch_size": 64, "momentum": 0.0, "weight_decay": 0.0}
    sweep = resnet_presets.Sweep("learning_rate", tuple(values), base, 1e-6)
    rows = []
    for job in sweep.jobs(len(next(iter(values.values())))):
        value = values[job["learning_rate"]][job["seed"]]
        point = {"step": 1, "llc": value, "test_accuracy": 0.5, "train_loss": 1.0}
        diverged = None if np.isfinite(value) else "training, by step 1"
        curve = [point] if diverged is None else []
        rows.append({**job, **point, "verdict": "drifting", "curve": curve, "diverged": diverged})
    return sweep, rows


def test_the_resnets_claim_has_the_papers_sign_and_lists_what_diverged() -> None:
    falling = sweep_rows({0.01: [9.0, 8.0, 8.5], 0.1: [5.0, 6.0, 5.5], 1.0: [2.0, 3.0, float("nan")]})
    said = resnet_figure.claim([falling])
    assert said.startswith("Seen: λ̂ falls with learning rate")
    assert "1 of 9 runs diverged" in said
    assert "learning rate 1, batch size 64, momentum 0, L2 0, seed 2: training, by step 1" in said
    rising = sweep_rows({0.01: [2.0, 3.0], 0.1: [5.0, 6.0], 1.0: [8.0, 9.0]})
    assert resnet_figure.claim([rising]).startswith("Not seen (the opposite)")
    for row in rising[1][:2]:
        row["verdict"] = "not a minimum"
    said = resnet_figure.claim([rising])
    assert "0.01: –" in said
    assert "4 runs; 2 left out, of 0.01, whose verdicts are “not a minimum”" in said
    lines = resnet_figure.table([falling])
    assert len(lines) == 9
    assert sum(line["llc"] is None and line["diverged"] is not None for line in lines) == 1


def test_a_training_run_that_diverges_is_a_row_that_says_so() -> None:
    settings = dataclasses.replace(resnet_cifar10.PRESETS["smoke"], steps=3, measured=(3,))
    job = {"learning_rate": 1e38, "batch_size": 20, "momentum": 0.0, "weight_decay": 0.0, "seed": 0}
    job["step_size"] = 1e-6
    row = resnet_cifar10.Work(settings)(job)
    assert row["diverged"] == "training, by step 3"
    assert row["curve"] == []


def test_the_papers_sweeps_share_their_base_runs() -> None:
    paper = resnet_cifar10.PRESETS["paper"]
    jobs = [tuple(sorted(job.items())) for sweep in paper.sweeps for job in sweep.jobs(1)]
    assert {sweep.name for sweep in paper.sweeps} == set(resnet_cifar10.TRAINING)
    assert len(jobs) == 2 * (5 + 7 + 6) + 10
    # With and without momentum the base is in the sweeps of learning rate and batch size; L2 is swept at an ε of its
    # own. Both ends of momentum's sweep are in those of the batch size.
    assert len(set(jobs)) == len(jobs) - 2 - 2


@pytest.mark.slow
@pytest.mark.parametrize(("script", "count"), [("mnist_entropy_sgd", 4), ("resnet_cifar10", 6)])
def test_a_script_gives_the_same_rows_by_one_process_and_by_two(tmp_path: Path, script: str, count: int) -> None:
    assert len(smoke_on_one_and_two(script, tmp_path)) == count
