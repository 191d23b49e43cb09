"""λ̂ of a part of the weights: exact laws, the same draws by every way of stepping, and refusals in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.components.part_of import part_of
from hf_llc.config import SampleConfig
from hf_llc.errors import InputError
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.restriction import restricted
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem

NBETA, GAMMA = 40.0, 10.0


def half_squares(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return ((output - label) ** 2).sum(-1) / 2


def chain_of_layers() -> tuple[nn.Sequential, tuple[torch.Tensor, torch.Tensor]]:
    """A deep linear network 6 → 4 → 5 → 3 and data of which it is a minimum."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 2)
        x = torch.randn(200, 6, generator=generator)
        return model, (x, model(x))


def sampled(weights: Any, data: Any, model: nn.Module, **more: Any) -> LLCResult:
    settings: dict[str, Any] = {
        "sampler": "sgld",
        "step_size": 1e-3,
        "nbeta": NBETA,
        "localization": GAMMA,
        "num_chains": 2,
        "num_draws": 10,
        "num_burnin_steps": 10,
        "batch_size": 20,
        "check_localization": False,
        **more,
    }
    evaluator = LLCEvaluator(weights=weights, **settings)
    return evaluator.compute(model, data, loss_fn=half_squares, progress=False)


def exactly(weights: Any, data: Any, model: nn.Module) -> LLCResult:
    """Chains of a law that is Gaussian, long enough to tell the formulas below apart."""
    return sampled(
        weights, data, model, sampler="baoab", step_size=8e-3, friction=0.5, batch_size="full", num_chains=30,
        chain_batch_size=30, num_draws=400, num_burnin_steps=100, seed=1,
    )  # fmt: skip


def of_spectrum(h: torch.Tensor) -> float:
    """½ tr[nβH (nβH + γ)⁻¹]."""
    curvature = NBETA * torch.linalg.eigvalsh(h)
    return float((curvature / (curvature + GAMMA)).sum() / 2)


@pytest.mark.slow
def test_principal_submatrix_of_a_quadratic() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(5, 1, bias=False)
    x = torch.randn(200, 5, generator=generator) @ (torch.eye(5) + 0.9) / 4  # directions lean on one another
    y = model(x).detach()
    result = exactly({"weight": (0, slice(0, 2))}, (x, y), model)
    h = (x.T @ x / 200).double()
    inverse = torch.linalg.inv(NBETA * h + GAMMA * torch.eye(5))
    fault = float(torch.trace((NBETA * h @ inverse)[:2, :2]) / 2)  # the block of the inverse in place of the inverse
    assert result.ess > 1000
    assert abs(result.llc - of_spectrum(h[:2, :2])) < 4 * result.llc_se
    assert abs(result.llc - fault) > 10 * result.llc_se
    assert (result.num_parameters, result.num_parameters_total) == (2, 5)


@pytest.mark.slow
def test_one_layer_of_a_deep_linear_network() -> None:
    model, data = chain_of_layers()
    result = exactly("1.weight", data, model)
    v, _, u = (p.detach().double() for p in model.parameters())
    mu = torch.linalg.eigvalsh(u.T @ u)
    sigma = torch.linalg.eigvalsh(v @ (data[0].T @ data[0] / 200).double() @ v.T)
    curvature = NBETA * mu[:, None] * sigma
    exact = float((curvature / (curvature + GAMMA)).sum() / 2)
    assert result.ess > 1000
    assert abs(result.llc - exact) < 4 * result.llc_se
    assert abs(result.llc - exact) < 0.02 * exact


HALF = {"0.weight": True, "1.weight": slice(0, 2)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"step_in_backward": True},
        {"chain_batch_size": 2},
        {"gradient": "control-variate"},
        {"sampler": "mala"},
        {"sampler": "hmc", "batch_size": "full"},
        {"sampler": "psgld"},
        {"sampler": "rmsprop-sgld"},
        {"sampler": "sgnht"},
        {"sampler": "leimkuhler-matthews"},
        {"minimize": True, "minimize_steps": 5},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_every_way_of_stepping(more: dict[str, Any]) -> None:
    """The draws do not depend on how steps are taken; the model is left as it was, of its own class."""
    model, data = chain_of_layers()
    before = [p.clone() for p in model.parameters()]
    result = sampled(HALF, data, model, **more)
    same = {name: more[name] for name in more.keys() & {"sampler", "minimize", "minimize_steps", "gradient"}}
    plain = sampled(HALF, data, model, **same, **({"batch_size": "full"} if more.get("sampler") == "hmc" else {}))
    assert result.num_parameters == 24 + 8
    assert result.llc_per_chain == pytest.approx(plain.llc_per_chain, rel=1e-4)
    assert all(torch.equal(p, q) and p.requires_grad for p, q in zip(model.parameters(), before, strict=True))
    assert {type(m) for m in model.modules()} == {nn.Sequential, nn.Linear}


@pytest.mark.slow
def test_a_mask_and_the_names_of_its_tensors_give_the_same_draws() -> None:
    """A cut through no tensor is one of whole tensors: bit for bit, and `all` is what no setting gives."""
    model, data = chain_of_layers()
    whole = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    assert part_of(model, "all") is None
    runs = [sampled(weights, data, model) for weights in ("all", "*.weight", whole, "~2.weight+2*")]
    assert len({tuple(run.llc_per_chain) for run in runs}) == 1


@pytest.mark.slow
def test_calibrates_and_judges_with_the_part_alone() -> None:
    model, data = chain_of_layers()
    settings = {"num_chains": 1, "num_draws": 20, "max_steps": 50, "nbeta": NBETA, "check_localization": False}
    result = LLCEvaluator(weights=HALF, **settings).compute(model, data, loss_fn=half_squares, progress=False)
    assert result.calibration is not None and result.num_parameters == 32 and result.descent is not None


def test_nothing_is_stored_for_what_stays() -> None:
    """The state has |C| numbers, gradients too, and the backward pass stops below C."""
    model, data = chain_of_layers()
    problem = Problem(model, {"x": data[0], "y": data[1]}, lambda f, b: half_squares(f(b["x"]), b["y"]), n=200, unit="")
    part = part_of(model, {"2.weight": slice(0, 1)})
    asked: list[str] = []

    def note(name: str) -> Any:
        return lambda _, __, output: asked.append(name) if output.requires_grad else None

    for i in range(3):
        model[i].register_forward_hook(note(str(i)))
    with preserved(model), restricted(model, part):
        posterior = Posterior(problem)
        asked.clear()
        _, pieces = posterior.gradient(posterior.start(1), torch.tensor([[0, 1]]))
        assert sum(piece.numel() for piece in pieces) == posterior.start(1).numel() == 5
        assert [p.requires_grad for p in model.parameters()] == [False, False, False, True]
    assert asked == ["2"]


def test_the_gradient_is_that_of_the_whole_model_there() -> None:
    model, data = chain_of_layers()
    problem = Problem(
        model, {"x": data[0], "y": data[1] + 1}, lambda f, b: half_squares(f(b["x"]), b["y"]), n=9, unit=""
    )
    full = Posterior(problem)
    _, (whole,) = full.gradient(full.start(1), None)
    full.buffer.release()
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[3, 1] = mask[0, 2] = True
    with preserved(model), restricted(model, part_of(model, {"1.weight": mask})):
        part = Posterior(problem)
        _, (grad,) = part.gradient(part.start(1), None)
    assert torch.equal(grad[0], whole[0, 24:44].view(5, 4)[mask])


def test_tied_weights_move_together() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3, bias=False)
            self.two = nn.Linear(3, 3, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x))

    torch.manual_seed(0)
    model = Tied()
    with preserved(model), restricted(model, part_of(model, {"one.weight": slice(0, 1)})), torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(7.0)
        assert torch.equal(model.one.weight, model.two.weight) and (model.two.weight[0] == 7).all()
        assert (model.two.weight[1:] != 7).all()
        assert torch.allclose(model(torch.eye(3)), model.one.weight.T @ model.one.weight.T)
    with pytest.raises(InputError, match=r"two\.weight is the same tensor as one\.weight"):
        part_of(model, "two.weight")


def test_resumes_and_refuses_another_part(tmp_path: Path) -> None:
    model, data = chain_of_layers()
    settings = {"sampler": "sgld", "step_size": 1e-3, "num_chains": 1, "num_draws": 5, "num_burnin_steps": 5}

    def run(weights: Any) -> LLCResult:
        evaluator = LLCEvaluator(weights=weights, **settings)
        return evaluator.compute(model, data, loss_fn=half_squares, output=tmp_path / "run", progress=False)

    result = run("1.weight + 0.weight")
    assert result.weights == "1.weight+0.weight"
    assert run("1.weight+0.weight").llc == result.llc
    assert LLCResult.load(tmp_path / "run").weights == "1.weight+0.weight"
    for other in ("1.weight", "all", {"1.weight": True}):
        with pytest.raises(InputError, match="holds another run"):
            run(other)


@pytest.mark.slow
def test_says_what_was_sampled(tmp_path: Path) -> None:
    model, data = chain_of_layers()
    result = sampled("1.*", data, model)
    card = result.save(tmp_path / "run").joinpath("card.md").read_text(encoding="utf-8")
    assert " of 1.*   at nβ" in str(result).splitlines()[0]
    assert "**λ̂ of 1.\\* = " in card and "| Weights sampled | `1.*` |" in card and 'weights="1.*"' in card
    assert "20 of 59 parameters sampled" in card
    assert json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["weights"] == "1.*"
    assert result.metrics()["weights"] == "1.*"
    assert "weights" not in sampled("all", data, model).metrics()


def test_observables_see_whole_tensors() -> None:
    model, data = chain_of_layers()
    result = sampled(HALF, data, model, observe="parameter_norms", observe_every=5)
    assert result.observations is not None
    norms = result.observations.values["parameter_norms"]
    assert norms.shape == (2, 4, 3)
    assert norms[0, 0] == pytest.approx([float(p.detach().norm()) for p in model.parameters()], rel=1e-6)
    assert (norms[:, :, 2] == norms[0, 0, 2]).all() and norms[0, 3, 1] != norms[0, 0, 1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("3.weight", r"no such weights, got '3\.weight'.*did you mean '[012]\.weight'"),
        ("1", r"did you mean '1\.\*'"),
        ("0.weight,1.weight", r"join names with \+"),
        ("*.bias", r"no such weights, got '\*\.bias'; allowed: .*names of parameters and globs"),
        ("~all", "names no weight at all"),
        ("", "weights is empty"),
        ("0.weight+", "weights has a term without a name"),
        ("[", "no such weights"),
        (3, "weights has a value of the wrong kind, got 3"),
        (["0.weight"], "weights has a value of the wrong kind"),
        ({}, "names no weight at all"),
        ({"0.weight": False}, "names no weight at all"),
        ({"0.wieght": True}, r"no parameter of this name, got '0\.wieght'; did you mean '0\.weight'"),
        ({0: True}, "no parameter of this name, got 0"),
        ({"0.weight": torch.ones(4, 5, dtype=torch.bool)}, r"mask of 0\.weight does not fit.*\(4, 5\).*\(4, 6\)"),
        ({"0.weight": torch.ones(4, 6)}, r"mask of 0\.weight does not fit, got 'float32"),
        ({"0.weight": slice(9, 12)}, "names no weight at all"),
        ({"0.weight": 9}, r"the index of 0\.weight does not fit its shape, got 9"),
        ({"0.weight": "abc"}, r"the index of 0\.weight does not fit its shape, got 'abc'"),
        ({"0.weight": (slice(1), slice(1), slice(1))}, r"the index of 0\.weight does not fit its shape"),
        ({"0.weight": None}, r"the index of 0\.weight does not fit its shape"),
    ],
)
def test_refusals(weights: Any, message: str) -> None:
    model, data = chain_of_layers()
    with pytest.raises(InputError, match=message) as caught:
        sampled(weights, data, model)
    assert "\n" not in str(caught.value)


def test_refuses_what_it_cannot_cut() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.last = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.cell(x)[0][:, -1])

    model, x = Recurrent(), torch.randn(30, 4, 2)
    data = (x, model(x).detach())
    assert sampled("cell.weight_hh_l0", data, model, num_chains=1).num_parameters == 36
    with pytest.raises(InputError, match=r"weights cuts cell\.weight_hh_l0 of an LSTM; take whole tensors"):
        sampled({"cell.weight_hh_l0": slice(0, 3)}, data, model)
    whole_numbers = nn.Linear(2, 2)
    whole_numbers.register_parameter("count", nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False))
    with pytest.raises(InputError, match=r"cannot be sampled, got 'torch\.int64'"):
        part_of(whole_numbers, "count")


def test_cuts_of_sharded_tensors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = chain_of_layers()
    monkeypatch.setattr("hf_llc.posterior.restriction.is_sharded", lambda _: True)
    cut, whole = part_of(model, {"1.weight": slice(0, 1)}), part_of(model, "1.weight")
    with pytest.raises(InputError, match=r"cuts 1\.weight, which is sharded over processes; take whole tensors"):
        restricted(model, cut).__enter__()
    with preserved(model), restricted(model, whole):
        assert [p.requires_grad for p in model.parameters()] == [False, True, False]


def test_settings_take_masks_and_write_their_name() -> None:
    from hf_llc.config import as_dict

    mask = torch.tensor([True, False])
    one, two = SampleConfig(weights={"w": mask}), SampleConfig(weights={"w": ~mask})
    assert as_dict(one)["weights"] != as_dict(two)["weights"] and "masks of 1 tensors" in as_dict(one)["weights"]
    assert as_dict(one) == as_dict(LLCEvaluator(one).config)
    assert "weights" not in as_dict(SampleConfig())
    assert SampleConfig(weights=" l0  mlp + ~ l1").weights == "l0 mlp+~l1"
