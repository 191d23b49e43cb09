"""The whole recipe on a small network with a known minimum."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from worker import SETTINGS, examples, network, squared_error

import hf_llc
from hf_llc import LLCEvaluator, LLCResult
from hf_llc.errors import InputError


def compute(
    output: Path | None = None,
    *,
    model: nn.Module | None = None,
    data: object = None,
    resume=None,
    overwrite: bool = False,
    **settings: object,
) -> LLCResult:
    model = network() if model is None else model
    return LLCEvaluator(**{**SETTINGS, **settings}).compute(
        model,
        data=examples(model) if data is None else data,
        loss_fn=squared_error,
        output=output,
        resume=resume,
        overwrite=overwrite,
    )


@pytest.mark.slow
def test_defaults_on_a_regular_model() -> None:
    """Linear regression at its least-squares fit: λ̂ = ½ Σ nβh_i/(nβh_i + γ), a little above for ε > 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator)
    y = x @ torch.randn(5, 1, generator=generator) + torch.randn(400, 1, generator=generator)
    model = nn.Linear(5, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    result = LLCEvaluator(localization=1.0, batch_size="full").compute(model, data=(x, y), loss_fn=squared_error)
    curvature = torch.linalg.eigvalsh(x.T @ x / 400).numpy() * result.nbeta
    truth = float((0.5 * curvature / (curvature + 1)).sum())
    assert result.nbeta == pytest.approx(400 / np.log(400))
    assert result.is_trustworthy, result.reasons
    assert abs(result.llc - result.step_size_bias - truth) < 4 * result.llc_se
    assert result.step_size_bias < 0.1 * truth + result.llc_se


@pytest.mark.slow
def test_result_says_how_it_was_made() -> None:
    result = compute()
    assert (result.num_chains, result.num_draws, result.num_burnin_steps, result.batch_size) == (3, 60, 40, 20)
    assert (result.n, result.mode, result.num_parameters) == (203, "eval", 6 * 8 + 8 + 8 * 2 + 2)
    assert result.nbeta == pytest.approx(203 / np.log(203))
    assert result.trace is not None and result.trace.shape == (3, 100)
    assert result.descent is not None
    assert result.num_gradients == 3 * 100 + 3 * 5 + result.descent["num_gradients"]
    assert result.init_loss == pytest.approx(0, abs=1e-6)
    assert (result.versions["torch"], result.versions["hf_llc"]) == (torch.__version__, hf_llc.__version__)


@pytest.mark.slow
def test_a_fixed_step_has_no_calibration_and_auto_has_one() -> None:
    assert compute().calibration is None
    model = network()
    inputs, labels = examples(model)
    names, values = zip(*model.named_parameters(), strict=True)

    def loss(*weights: torch.Tensor) -> torch.Tensor:
        outputs = torch.func.functional_call(model, dict(zip(names, weights, strict=True)), (inputs,))
        return squared_error(outputs, labels).mean()

    blocks = torch.autograd.functional.hessian(loss, tuple(value.detach() for value in values))
    hessian = torch.cat([torch.cat([b.flatten(v.dim()).flatten(0, v.dim() - 1) for b in row], dim=1)
                         for row, v in zip(blocks, values, strict=True)])  # fmt: skip
    exact = 203 / np.log(203) * float(torch.linalg.eigvalsh(hessian)[-1]) + 5.0
    found = compute(step_size="auto", sampler="sgld")
    overdamped = found.calibration
    assert overdamped is not None
    assert overdamped["curvature"] == pytest.approx(exact, rel=0.2)  # of minibatches
    steps, accepted = zip(*overdamped["path"], strict=True)
    assert steps == pytest.approx([2.0**-i / overdamped["curvature"] for i in range(len(steps))])
    assert accepted[-1] >= 0.9 > max(accepted[:-1], default=0)
    assert found.step_size == float(f"{steps[-1]:.2g}")
    found = compute(step_size="auto")
    assert found.sampler == "baoab" and found.friction is not None and found.calibration is not None
    assert exact * 0.8 < found.calibration["curvature"] < 2 * exact  # the largest along the pilot
    assert found.step_size == float(f"{0.25 / found.calibration['curvature']:.3g}")


@pytest.mark.slow
def test_minimize_finds_a_minimum_and_leaves_the_model_alone() -> None:
    model = network()
    data = examples(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)
    before = [p.clone() for p in model.parameters()]
    raw = compute(model=model, data=data, step_size="auto")
    moved = compute(model=model, data=data, step_size="auto", minimize=True, minimize_steps=1000)
    assert raw.verdict == "not a minimum"
    assert moved.minimize is not None and moved.minimize["loss_after"] < 0.1 * moved.minimize["loss_before"]
    assert moved.minimize["distance"] > 0 and moved.init_loss == pytest.approx(moved.minimize["loss_after"], rel=1e-4)
    assert moved.llc > 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


class Branching(nn.Module):
    """A linear map that asks for a number on the way, which vmap does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return y if y.sum().item() < 1e9 else -y


@pytest.mark.slow
def test_a_module_that_cannot_be_batched_runs_one_by_one() -> None:
    with pytest.warns(UserWarning, match="chains run one by one"):
        batched = compute(model=Branching(), data=examples(network()), chain_batch_size=3)
    one_by_one = compute(model=Branching(), data=examples(network()))
    assert batched.chain_batch_size == 1 and batched.llc_per_chain == one_by_one.llc_per_chain


@pytest.mark.slow
def test_paired_draws_spread_less_where_labels_are_noisy() -> None:
    model = network()
    x, y = examples(model)
    noisy = y + 5 * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    result = compute(data=(x, noisy), model=model, batch_size=5, step_size=1e-4)
    assert result.llc_se < 0.5 * result.llc_plain_se


@pytest.mark.slow
def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = compute(tmp_path / "run")
    stamp = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    again = compute(tmp_path / "run")
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == stamp
    assert again.to_dict() == first.to_dict()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "card.md",
        "result.json",
        "run.json",
        "trace.png",
        "trace.safetensors",
    ]


@pytest.mark.slow
def test_another_run_in_the_folder_is_refused_and_named(tmp_path: Path) -> None:
    compute(tmp_path / "run")
    with pytest.raises(InputError, match=r"localization: 5\.0 → 7\.0"):
        compute(tmp_path / "run", localization=7.0)
    other = network()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(InputError, match="fingerprint"):
        compute(tmp_path / "run", model=other)
    assert compute(tmp_path / "run", localization=7.0, overwrite=True).localization == 7.0


@pytest.mark.slow
def test_resume_wants_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        compute(tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="resume needs an output folder"):
        compute(resume=True)
    compute(tmp_path / "run")
    with pytest.raises(InputError, match="holds this run already"):
        compute(tmp_path / "run", resume=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_chains": 0}, "num_chains"),
        ({"step_size": -1.0}, "step_size"),
        ({"step_size": "fast"}, "step_size"),
        ({"nbeta": 10.0, "beta": 0.1}, "nbeta and beta"),
        ({"batch_size": 1000}, "batch_size is larger than the data"),
        ({"localisation": 1.0}, "did you mean 'localization'"),
        ({"localization": float("nan")}, "not a finite number"),
        ({"num_burnin_steps": "auto", "num_draws": 6000}, "max_steps"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        compute(**settings)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_at_the_start_is_refused() -> None:
    model = network()
    x, y = examples(model)
    y[7] = 1e30  # finite, but not its square
    with pytest.raises(InputError, match=r"loss at w\* is not finite.*example 7"):
        compute(model=model, data=(x, y))


@pytest.mark.parametrize(("dtype", "is_refused"), [(torch.float32, True), (torch.float64, False)])
def test_weights_too_large_for_float32_are_refused(dtype: torch.dtype, is_refused: bool) -> None:
    """Of weights near 10⁵ a step of 0.02 is lost in rounding to multiples of 0.008: λ̂ came out a fifth too high."""
    model = nn.Linear(4, 4, bias=False).to(dtype)
    nn.init.constant_(model.weight, 1e5)
    x = torch.eye(4, dtype=dtype).repeat(8, 1)
    evaluator = LLCEvaluator(nbeta=4e3, num_draws=8, max_steps=20, num_chains=1, check_localization=False)
    given = {"data": (x, x @ model.weight.detach().T), "loss_fn": squared_error}
    if is_refused:
        with pytest.raises(InputError, match=r"rounding of float32: 16 of 16 weights .* use float64"):
            evaluator.compute(model, **given)
    else:
        assert np.isfinite(evaluator.compute(model, **given).llc)


def test_divergence_has_its_name(tmp_path: Path) -> None:
    result = compute(tmp_path / "run", step_size=10.0)
    assert result.verdict == "diverged" and "step_size" in result.reasons[0].remedy
    values = json.loads((tmp_path / "run" / "result.json").read_text())
    assert values["llc"] is None and values["verdict"] == "diverged"
    assert LLCResult.load(tmp_path / "run").verdict == "diverged"


@pytest.mark.slow
def test_mala_and_sgld_agree(tmp_path: Path) -> None:
    """Two samplers, one law: within four combined standard errors and the stated step-size bias."""
    common = {
        "num_chains": 8,
        "num_draws": 1500,
        "num_burnin_steps": 500,
        "chain_batch_size": 8,
        "batch_size": "full",
        "step_size": 2e-3,
        "localization": 20.0,
    }
    sgld, mala = compute(**common), compute(sampler="mala", **common)
    error = np.hypot(sgld.llc_se, mala.llc_se)
    assert abs(sgld.llc - sgld.step_size_bias - mala.llc) < 4 * error
    assert error < 0.1 * mala.llc
