"""hf-llc compare: what does not compare is refused, and the error of a difference is true."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from curve_factory import series
from PIL import Image
from test_curve import command
from worker import examples, network, squared_error

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.cli.entry_point import main
from hf_llc.errors import InputError
from hf_llc.judging.paired import Measured, difference
from hf_llc.studies.comparison import compare, results_in

SETTINGS: dict[str, Any] = {
    "nbeta": 30.0, "localization": 500.0, "step_size": 2e-4, "num_chains": 3, "num_draws": 200, "num_burnin_steps": 50,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)


@pytest.fixture(scope="module")
def pair() -> list[LLCResult]:
    """Two models on the same data with the same noise."""
    model, found = network(), []
    data = examples(model)
    for shift in (0.0, 0.005):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(shift)
        found.append(LLCEvaluator(**SETTINGS).compute(model, data=data, loss_fn=squared_error))
    return found


def chains(rng: np.random.Generator, shared: float, curvature: float, common: np.ndarray) -> np.ndarray:
    """nβL = a x²/2 of four autocorrelated chains whose noise is in part `common`; the mean is a/2."""
    own = rng.standard_normal(common.shape)
    noise = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
    x, states = rng.standard_normal(common.shape[0]), []
    for t in range(common.shape[1]):
        x = 0.8 * x + 0.6 * noise[:, t]
        states.append(x)
    return curvature * np.stack(states, axis=1) ** 2 / 2


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.7, 0.99])
def test_the_error_of_a_difference_is_true(shared: float) -> None:
    """Over 200 repeats z has sd 0.9 to 1.1; shared noise makes the error smaller by what it should."""
    rng, zs, errors = np.random.default_rng(1), [], []
    for _ in range(200):
        common = rng.standard_normal((4, 600))
        draws = [chains(rng, shared, a, common) for a in (2.0, 3.0)]
        one, other = (Measured(float(x.mean()), 0.0, x, ("same",)) for x in draws)
        change, error, is_paired = difference(one, other)
        assert is_paired
        zs.append((change - 0.5) / error)
        errors.append(error)
    assert 0.9 < np.std(zs) < 1.1 and abs(np.mean(zs)) < 4 / math.sqrt(200)
    separate = math.sqrt((2.0**2 + 3.0**2) / 2 * (1 + 0.64) / (1 - 0.64) / 2400)
    assert np.mean(errors) == pytest.approx(separate * {0.0: 1.0, 0.7: 0.72, 0.99: 0.31}[shared], rel=0.1)


def test_other_noise_or_no_draws_is_not_paired() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 100))
    one = Measured(1.0, 0.3, x, ("a",))
    assert difference(one, one) == (0.0, 0.0, True)
    for other in (Measured(2.0, 0.4, x + 1, ("b",)), Measured(2.0, 0.4, None, ("a",))):
        assert difference(one, other) == (1.0, pytest.approx(0.5), False)


def test_errors_beside_those_of_sampling_are_kept() -> None:
    x = np.random.default_rng(0).standard_normal((2, 400))
    _, error, _ = difference(Measured(0.0, 3.0, x, ()), Measured(1.0, 4.0, x + 1e-9 * x**2, ()))
    assert error == pytest.approx(5.0, rel=0.01)


@pytest.mark.slow
@pytest.mark.pictures
def test_table_files_and_picture(pair: list[LLCResult], capsys: pytest.CaptureFixture[str]) -> None:
    for name, result in zip("ab", pair, strict=True):
        result.save(name)
    assert main(["compare", "a", "b", "--output", "out"]) in (0, 3)
    text = capsys.readouterr().out
    assert text.startswith("at nβ 30, γ 500, on local data") and "paired: the runs shared" in text
    first, second = csv.DictReader(Path("out/compare.csv").read_text().splitlines())
    assert float(first["llc"]) == pair[0].llc and float(first["change"]) == 0
    assert float(second["change"]) == pytest.approx(pair[1].llc - pair[0].llc)
    assert float(second["change_se"]) < 0.7 * math.hypot(pair[0].llc_se, pair[1].llc_se)
    values = json.loads(Path("out/compare.json").read_text())
    assert [row["name"] for row in values["rows"]] == ["a", "b"] and values["remarks"] == []
    with Image.open("out/compare.png") as image:
        assert image.width == 1008
    assert main(["compare", "a", "a"]) == 2 and main(["compare", "a"]) == 2 and main(["compare", "a", "none"]) == 2


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"nbeta": 31.0}, "nβ 30 of a, 31 of b"),
        ({"localization": 501.0}, "γ 500 of a, 501 of b"),
        ({"data": {"id": None, "fingerprint": "other"}}, "data fingerprint"),
        ({"unit": "nats per token"}, "unit of the loss"),
        ({"trivial_loss": 77.0}, "loss of a constant predictor"),
        ({"task": "text-generation"}, "task"),
    ],
)
def test_what_does_not_compare_is_refused(pair: list[LLCResult], changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=f"cannot be compared.*{what}.*--like a"):
        compare([pair[0], pair[1].replace(**changes)], ["a", "b"])


@pytest.mark.parametrize(
    "changes", [{"mode": "train"}, {"dtype": "float64"}, {"seed": 3}, {"minimize": {"distance": 1.0}}]
)
def test_other_differences_are_named(pair: list[LLCResult], changes: dict[str, Any]) -> None:
    found = compare([pair[0], pair[1].replace(**changes)], ["a", "b"])
    assert len(found.remarks) == 1 and next(iter(changes)) in found.remarks[0] and found.remarks[0] in str(found)
    assert found.rows[1].is_paired == ("seed" not in changes)


@pytest.mark.slow
def test_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its checkpoints in order, with the errors that the curve itself prints."""
    more = ["--step-size", "2e-4", "--num-draws", "100"]
    main(command(series(tmp_path, (2, 10)), "--quiet", *more))
    printed = capsys.readouterr().out
    found = compare(*results_in(["out"]))
    points = json.loads(Path("out/curve.json").read_text())["points"]
    assert [row.name for row in found.rows] == ["step2", "step10"]
    assert points[1]["change_se"] == found.rows[1].change_se and points[1]["change"] == found.rows[1].change
    (headline,) = [line for line in printed.splitlines() if line.startswith("λ̂ at")]
    assert "a change of" in headline and "nβ 500, γ 100" in headline
