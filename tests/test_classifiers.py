"""Classifiers in transformers format, trained here in seconds, estimated as a user would: by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset, Features, Image, Value

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.cli.entry_point import main
from hf_llc.config import LoadConfig
from hf_llc.loading.problem_loader import load_problem


def _train(model: Any, processor: Any, data: Dataset, steps: int) -> float:
    """Adam with full batches on the very loss that is estimated afterwards; returns the loss at the end."""
    problem = load_problem(model, data, LoadConfig(), tokenizer=processor)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = problem.losses(model, problem.examples).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def _labels(kinds: np.ndarray, classes: int, rng: np.random.Generator) -> list[int]:
    """The kinds, one in ten wrong: inputs alike disagree, so the minimum is not at infinity."""
    return np.where(rng.random(len(kinds)) < 0.1, (kinds + 1) % classes, kinds).tolist()


def _texts() -> tuple[Dataset, int]:
    """Twelve sentences, fifty times each, and the number of logits differences that the labels can fix: 12."""
    rows = [
        (f"the {animal} {verb} {place}", kind)
        for kind, animal in enumerate(("cat", "dog"))
        for verb in ("sat on", "looked at", "slept in")
        for place in ("the mat", "the box")
    ]
    texts, kinds = zip(*(rows * 50), strict=True)
    labels = _labels(np.array(kinds), 2, np.random.default_rng(0))
    return Dataset.from_dict({"text": texts, "label": labels}), 12


def _images() -> tuple[Dataset, int]:
    """Six pictures of 8 × 8 pixels with a bright band, a hundred times each; 6 × 2 logit differences."""
    pixels, kinds = np.full((6, 8, 8, 3), 60, dtype=np.uint8), np.arange(6) % 3
    for i, band in enumerate(kinds):
        pixels[i, 2 * band : 2 * band + 3] += 80 + 20 * (i // 3)
    labels = _labels(np.tile(kinds, 100), 3, np.random.default_rng(1))
    features = Features({"image": Image(), "label": Value("int64")})
    return Dataset.from_dict({"image": list(np.tile(pixels, (100, 1, 1, 1))), "label": labels}, features=features), 12


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "sequence"])
def test_classifier_by_the_command_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Code 0, the same as JSON, and λ̂ below half the number of logit differences on which the loss depends.

    The loss is a function of that many numbers alone, with a regular minimum in them, so λ is half their rank at most.
    """
    folder = tmp_path / "model"
    if kind == "image":
        (model, processor), (data, most) = tiny.vit(), _images()
    else:
        model, processor = tiny.bert("BertForSequenceClassification"), tiny.tokenizer(template=True)
        data, most = _texts()
    loss = _train(model, processor, data, 150)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    data.to_parquet(str(tmp_path / "rows.parquet"))
    argv = ["estimate", "--model", str(folder), "--data", str(tmp_path / "rows.parquet")]
    argv += ["--minimize", "--minimize-steps", "500", "--output", str(tmp_path / "run"), "--json"]
    capsys.readouterr()
    code = main(argv)
    values = json.loads(capsys.readouterr().out)
    result = LLCResult.load(tmp_path / "run")
    print(result)
    assert (code, result.verdict) == (0, "trustworthy")
    assert result.llc > 3 * result.llc_se and result.llc - 3 * result.llc_se < most / 2
    assert result.task == ("image-classification" if kind == "image" else "text-classification")
    assert result.init_loss <= loss < 0.7 * (result.trivial_loss or 0)
    assert values["llc"] == result.llc and values["data"]["num_examples"] == 600


def _destroyed(kind: str) -> dict[str, Any]:
    """What `LLCEvaluator.compute` takes: a model that has learnt its data, of one task."""
    if kind == "causal-lm":
        return {"max_examples": 64, "max_length": 32}  # the model and text of the package
    if kind == "regression":
        x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        model = torch.nn.Linear(3, 2)
        y = model(x).detach() + 0.1
        return {"model_or_pipeline": model, "data": (x, y), "loss_fn": lambda o, t: ((o - t) ** 2).sum(-1)}
    is_image = kind == "image-classification"
    model, processor = (
        tiny.vit() if is_image else (tiny.bert("BertForSequenceClassification"), tiny.tokenizer(template=True))
    )
    data, _ = _images() if is_image else _texts()
    data = data.select(range(0, 600, 10))
    _train(model, processor, data, 20)
    return {"model_or_pipeline": model, "data": data, "tokenizer": processor}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal-lm", "text-classification", "image-classification", "regression"])
def test_a_destroyed_model_is_not_trustworthy(kind: str) -> None:
    """nβ = 2 and γ = 0.3 are no posterior of this model: chains forget all that it has learnt, in a flat trace."""
    hot = LLCEvaluator(
        sampler="baoab", nbeta=2.0, localization=0.3, step_size=0.05, friction=1.0, num_chains=2, num_draws=60,
        num_burnin_steps=60, batch_size=8, check_localization=False,
    )  # fmt: skip
    result = hot.compute(**_destroyed(kind), progress=False)
    assert result.trivial_loss is not None and result.init_loss < result.trivial_loss
    assert result.verdict == "left the basin" and "the model is destroyed" in result.reasons[0].text
    assert result.reasons[0].change == {"nbeta": None, "beta": None}
