"""What the `evaluate` metric cannot use is refused in one line, and nothing is ignored."""

from __future__ import annotations

from typing import Any

import evaluate
import numpy as np
import pytest
import torch

import hf_llc
from hf_llc.errors import InputError
from hf_llc.metrics import estimate_from_losses

LOSSES = 0.5 + np.random.default_rng(0).gamma(3.0, 0.01, size=(4, 60))
REFERENCES = [0.5] * 4
GOOD: dict[str, Any] = {"predictions": LOSSES, "references": REFERENCES, "nbeta": 100.0}


@pytest.fixture(scope="module")
def metric() -> evaluate.Metric:
    return evaluate.load(hf_llc.metric_path(), keep_in_memory=True)


def _paired_with_nan() -> np.ndarray:
    references = np.full(LOSSES.shape, 0.5)
    references[1, 3] = np.nan
    return references


BAD: list[tuple[dict[str, Any], str]] = [
    ({"burnin": "50"}, "burnin is not a number, got '50'; allowed: a whole number"),
    ({"burnin": 50.5}, "burnin is not a number, got 50.5"),
    ({"burnin": True}, "burnin is not a number, got True"),
    ({"burnin": None}, "burnin is not a number"),
    ({"num_steps_between_draws": "2"}, "num_steps_between_draws is not a number"),
    ({"trivial_loss": "1.0"}, "trivial_loss is not a number"),
    ({"nbeta": "100"}, "nbeta is not a number, got '100'"),
    ({"nbeta": torch.ones(2)}, "nbeta is not a number"),
    ({"nbeta": float("nan")}, "nbeta is not a number, got nan"),
    ({"nbeta": float("inf")}, "nbeta is not a number, got inf"),
    ({"burn_in": 5}, "no setting 'burn_in'; .*did you mean 'burnin'"),
    ({"references": None}, "references are missing"),
    ({"predictions": None}, "predictions are missing"),
    ({"references": 0.5}, "references are not numbers in a table, got 0.5"),
    ({"references": [0.5] * 3}, "there are not as many references as chains, got 3; allowed: 4"),
    ({"references": [[[0.5]]] * 4}, "references have the wrong form"),
    ({"references": [0.5, 0.5, 0.5, float("nan")]}, "a reference is not a finite number, got 'chain 3'"),
    ({"references": _paired_with_nan()}, "a reference is not a finite number, got 'chain 1'"),
    ({"references": [None] * 4}, "references are not numbers"),
    ({"references": ["0.5"] * 4}, "references are not numbers"),
    ({"predictions": []}, "predictions hold no chain"),
    ({"predictions": [[]] * 4}, "a chain has no draws, got 'chain 0'"),
    ({"predictions": [0.5, 0.6], "references": [0.5] * 2}, "not a table of losses.*give \\[losses\\]"),
    ({"predictions": LOSSES[:, :, None]}, "not a table of losses, got 'chain 0 of shape"),
    ({"predictions": [[[0.1], [0.2, 0.3]]], "references": [0.5]}, "predictions are not numbers in a table"),
    ({"predictions": [[0.1, None]], "references": [0.5]}, "predictions are not numbers in a table"),
    ({"predictions": [["0.1", "0.2"]], "references": [0.5]}, "predictions are not numbers in a table"),
    ({"predictions": "losses"}, "predictions are not numbers in a table, got 'losses'"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_one_line(metric: evaluate.Metric, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        metric.compute(**{**GOOD, **changes})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert metric.compute(**GOOD)["verdict"] == "trustworthy"  # what was refused has left nothing behind


def test_nothing_at_all_is_refused(metric: evaluate.Metric) -> None:
    with pytest.raises(InputError, match="predictions are missing"):
        metric.compute(nbeta=100.0)
    with pytest.raises(InputError, match="references are missing"):
        metric.add_batch(predictions=LOSSES)
    with pytest.raises(InputError, match="not a table"):
        metric.add(prediction=0.5, reference=0.5)


@pytest.mark.parametrize("name", ["burn_in", "n_beta", "localization", "num_chains"])
def test_unknown_names_at_loading_are_refused(name: str) -> None:
    """Their defaults would be taken without a word."""
    settings: dict[str, Any] = {name: 50}
    with pytest.raises(InputError, match=f"no setting '{name}'"):
        evaluate.load(hf_llc.metric_path(), **settings)


def test_numbers_of_every_library_are_numbers(metric: evaluate.Metric) -> None:
    plain = metric.compute(**GOOD, burnin=10)
    same = {"predictions": torch.tensor(LOSSES), "references": torch.tensor(REFERENCES).double()}
    assert metric.compute(**same, nbeta=torch.tensor(100.0), burnin=np.int64(10)) == plain
    rows = {"predictions": [torch.tensor(row, requires_grad=True) for row in LOSSES], "references": REFERENCES}
    assert metric.compute(**rows, nbeta=np.float64(100.0), burnin=torch.tensor(10)) == plain


def test_the_function_refuses_the_same() -> None:
    for changes, message in BAD:
        values = {**GOOD, **changes}
        losses, init_losses = values.pop("predictions"), values.pop("references")
        if "burn_in" not in values:
            with pytest.raises(InputError, match=message):
                estimate_from_losses(losses, init_losses, **values)
    broken = LOSSES.copy()
    broken[2, 7:] = np.nan  # a chain that diverged: its reference went with it
    references = np.where(np.isnan(broken), np.nan, 0.5)
    assert estimate_from_losses(broken, references, nbeta=100.0).verdict == "diverged"
