"""Remedies: their text is that of their settings, none contradicts another, and the first one leads somewhere."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_diagnostics import ar1, relaxing, trace_of
from torch import Tensor, nn
from worker import squared_error

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.config import SampleConfig
from hf_llc.judging.estimator import estimate
from hf_llc.judging.remedies import Asked
from hf_llc.publishing.card_section import render_section
from hf_llc.publishing.report import render
from hf_llc.records.findings import NOT_HERE, Estimate, Reason

Example = tuple[nn.Module, tuple[Tensor, Tensor], Callable[[Tensor, Tensor], Tensor]]

QUICK: dict[str, Any] = {"num_chains": 4, "chain_batch_size": 4, "num_draws": 50, "max_steps": 400}


def follow(settings: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The settings with a remedy carried out."""
    return {name: value for name, value in {**settings, **change}.items() if value is not None}


def walk(example: Example, settings: dict[str, Any], *, most: int = 3) -> list[LLCResult]:
    """Estimate and follow the first remedy, until a result is trustworthy or says that no setting helps."""
    model, data, loss_fn = example
    results: list[LLCResult] = []
    for _ in range(most + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(LLCEvaluator(**settings).compute(model, data=data, loss_fn=loss_fn, progress=False))
        if results[-1].is_trustworthy or not results[-1].reasons[0].change:
            break
        settings = follow(settings, results[-1].reasons[0].change)
    return results


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def regression(noise: float = 0.5, *, shift: float = 0.0, outliers: bool = False) -> Example:
    """Linear least squares, at its minimum but for `shift`; with `outliers` two examples have all the noise."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(200, 5, generator=generator), torch.randn(5, 2, generator=generator)
    errors = noise * torch.randn(200, 2, generator=generator)
    if outliers:
        errors = torch.zeros(200, 2)
        errors[0], errors[1] = noise, -noise
    y, model = x @ w + errors, nn.Linear(5, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T + shift)
    return model, (x, y), squared_error


def classifier(steps: int, *, flipped: float = 0.0, width: int = 6, rate: float = 0.05) -> Example:
    """A tanh network of three classes after some steps of Adam."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 4, generator=generator)
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).long() + (x[:, 2] > 0.7).long()
    is_flipped = torch.rand(100, generator=generator) < flipped
    y = torch.where(is_flipped, torch.randint(0, 3, (100,), generator=generator), y)
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).mean().backward()
        optimizer.step()
    return model, (x, y), cross_entropy


class Slack(nn.Module):
    """Three weights that the loss holds, and a number that it hardly does, or not at all."""

    def __init__(self, stiffness: float, held: float = 1.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(20))
        self.stiffness, self.held = stiffness, held

    def forward(self, x: Tensor) -> Tensor:
        a = self.a if self.held else 1 + 0 * self.a
        return (x * a).sum(-1, keepdim=True) + self.stiffness * (self.b**2).sum()


def slack(stiffness: float = 1e-3, held: float = 1.0) -> Example:
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    return Slack(stiffness, held), (x, x.sum(-1, keepdim=True) + (0 if held else 1)), squared_error


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "settings", "ends_well"),
    [
        pytest.param(regression, {"step_size": 1.0}, True, id="step size too large"),
        pytest.param(regression, {"step_size": 1e-7}, True, id="step size too small", marks=SLOW),
        pytest.param(slack, {"localization": 1e-3}, True, id="localization too weak", marks=SLOW),
        pytest.param(
            regression, {"num_draws": 8, "num_burnin_steps": 10, "step_size": 1e-3}, True, id="too few draws"
        ),
        pytest.param(regression, {"num_chains": 1, "num_draws": 10, "max_steps": 25}, True, id="one chain"),
        pytest.param(lambda: regression(shift=0.3), {}, True, id="not a minimum", marks=SLOW),
        pytest.param(
            lambda: regression(3.0), {"batch_size": 1, "sampler": "sgld", "step_size": 0.01}, True,
            id="noisy batches", marks=SLOW,
        ),
        pytest.param(
            lambda: classifier(300, flipped=0.2), {"step_size": 30.0, "sampler": "sgld", "localization": 1.0}, None,
            id="diverging", marks=SLOW,
        ),
        pytest.param(lambda: regression(20.0, outliers=True), {"batch_size": 4}, True, id="heavy tails", marks=SLOW),
        pytest.param(
            lambda: classifier(3000, width=12), {"localization": 1.0}, True, id="loss near zero", marks=SLOW
        ),
        pytest.param(lambda: classifier(500, flipped=0.1), {"nbeta": 0.5}, None, id="nbeta too small", marks=SLOW),
        pytest.param(lambda: classifier(0), {}, False, id="not trained"),
        pytest.param(lambda: slack(0.0, held=0.0), {}, False, id="weights without effect", marks=SLOW),
    ],
)  # fmt: skip
def test_the_first_remedy_leads_somewhere(
    make: Callable[[], Example], settings: dict[str, Any], ends_well: bool | None
) -> None:
    """To a trustworthy λ̂ or to a plain "not here", in three steps at most."""
    *_, last = walk(make(), {**QUICK, **settings})
    is_hopeless = not last.is_trustworthy and last.reasons[0].remedy.startswith(NOT_HERE)
    assert last.is_trustworthy or is_hopeless, (last.verdict, last.reasons)
    assert ends_well is None or last.is_trustworthy == ends_well


# Each verdict by itself, from traces


ALL_AUTO = SampleConfig(sampler="baoab", nbeta=100.0, batch_size=32)


def found(excess: np.ndarray, asked: SampleConfig | None = ALL_AUTO, *, n: int = 647, **more: Any) -> Estimate:
    """The estimate of a trace of this excess, with nβ = n / ln n."""
    given = {"localization": 1.0, "step_size": 1e-3, "is_exact": False, **more}
    trace = given.pop("trace", None)
    return estimate(
        trace_of(excess) if trace is None else trace, nbeta=100.0, init_loss=1.0,
        num_burnin_steps=excess.shape[1] // 2, num_steps_between_draws=1,
        asked=None if asked is None else Asked(asked, n, 4096, 0.2), **given,
    )  # fmt: skip


GOOD = relaxing(level=50, time=20)
DROP = {"loss_drop": 20.0, "loss_drop_se": 0.0}


def broken(excess: np.ndarray, value: float) -> np.ndarray:
    excess = excess.copy()
    excess[2, 500:] = value
    return excess


def heated(heat: float) -> Any:
    trace = trace_of(GOOD)
    trace.heat = np.full_like(GOOD, heat)
    return trace


def asked(**changes: Any) -> SampleConfig:
    return SampleConfig(**{"sampler": "baoab", "nbeta": 100.0, "batch_size": 32, **changes})


def given_step(**changes: Any) -> SampleConfig:
    return asked(sampler="sgld", step_size=1e-3, **changes)


@pytest.mark.parametrize(
    ("estimated", "verdict", "change", "text"),
    [
        (lambda: found(broken(GOOD, math.nan), given_step()), "diverged", {"step_size": "auto"},
         "leave step_size at 'auto' (it was 0.001)"),
        (lambda: found(broken(GOOD, math.nan)), "diverged", {"localization": 10.0}, "raise localization from 1 to 10"),
        (lambda: found(GOOD, trivial_loss=1.7), "left the basin", {"localization": 4.4},
         "raise localization from 1 to 4.4"),
        (lambda: found(GOOD, n=2000, trivial_loss=1.7), "left the basin", {"nbeta": None, "beta": None},
         "leave nbeta at n / ln n, 263.1 (it was 100)"),
        (lambda: found(GOOD, given_step(), trivial_loss=1.7), "left the basin", {"step_size": "auto"},
         "leave step_size at 'auto' (it was 0.001)"),
        (lambda: found(GOOD, trivial_loss=0.9), "not a minimum", {},
         f"{NOT_HERE} the model has learnt nothing of this data: use data that it was trained on"),
        (lambda: found(GOOD, trace=heated(40.0)), "gradient noise dominates", {"batch_size": 256},
         "raise batch_size from 32 to 256"),
        (lambda: found(GOOD, asked(batch_size=1000), trace=heated(40.0)), "gradient noise dominates",
         {"batch_size": "full"}, "raise batch_size from 1,000 to 'full'"),
        (lambda: found(GOOD, descent=DROP), "not a minimum", {"minimize": True},
             "set minimize; or keep w*, and lower nbeta from 100 to 18 and lower localization from 1 to 0.18"),
        (lambda: found(GOOD, asked(minimize=True), descent=DROP), "not a minimum", {"minimize_steps": 8000},
         "raise minimize_steps from 2,000 to 8,000"),
        (lambda: found(GOOD, asked(minimize=True, minimize_steps=9000), descent=DROP), "not a minimum", {},
         f"{NOT_HERE} 9,000 steps of minimize found no minimum of this data's loss near w*"),
        (lambda: found(relaxing(level=50, time=600), localization=1e3), "drifting",
         {"max_steps": 8000, "localization": 1e3}, "raise max_steps from 2,000 to 8,000 and keep localization 1,000"),
        (lambda: found(relaxing(level=50, time=600)), "drifting", {"localization": 12.0},
         "raise localization from 1 to 12"),
        (lambda: found(GOOD, step_size=1e-3, trace=trace_of(GOOD, accept=0.3)), "step size too large",
         {"step_size": 5e-4, "friction": 0.2, "max_steps": 4000},
         "lower step_size from 0.001 to 0.0005 and keep friction 0.2 and raise max_steps from 2,000 to 4,000"),
    ],
)  # fmt: skip
def test_remedies_as_settings_and_as_text(
    estimated: Callable[[], Estimate], verdict: str, change: dict[str, Any], text: str
) -> None:
    estimate = estimated()
    first = estimate.reasons[0]
    assert (estimate.verdict, first.name, first.change, first.remedy) == (verdict, verdict, change, text)
    SampleConfig(**follow({"sampler": "baoab"}, change))  # settings that there are


HALF = {"halved": 50.0, "halved_se": 1.0, "doubled": -25.0, "doubled_se": 1.0}


@pytest.mark.parametrize(
    ("localization", "trivial_loss", "change"),
    [
        ("auto", 2.5, {"max_steps": 8000}),
        (2e3, None, {"localization": "auto"}),
        (2e3, 101.0, {"localization": "auto"}),  # chains lose 0.5 % of the way: far too strong
        (2e3, 11.0, {"localization": 400.0}),  # 5 %: where λ̂ ∝ 1/γ, a fifth of γ loses 25 %
        (2e3, 3.5, {}),  # 20 %: less γ would destroy the model
    ],
)
def test_a_localization_that_makes_up_the_estimate_is_weakened_as_far_as_the_model_lasts(
    localization: Any, trivial_loss: float | None, change: dict[str, Any]
) -> None:
    """Or "left the basin" and "localization dominates" send a user to and fro."""
    given = asked(localization=localization)
    estimate = found(GOOD, given, localization=2e3, trivial_loss=trivial_loss, localization_check=HALF)
    assert (estimate.verdict, estimate.reasons[0].change) == ("localization dominates", change)
    assert estimate.reasons[0].remedy.startswith(NOT_HERE) == (not change)


def test_reasons_stand_in_the_order_of_the_verdicts_and_no_remedy_contradicts_an_earlier_one() -> None:
    """Drift, disagreement and few draws ask for one setting: the first says what."""
    excess = relaxing(level=50, time=600) + np.array([0, 0, 30, 60])[:, None]
    estimate = found(excess, given_step(num_burnin_steps=400), localization=1e3, trivial_loss=1.6, descent=DROP)
    reasons = [reason for reason in estimate.reasons if not reason.is_note]
    assert [reason.name for reason in reasons] == [
        "left the basin",
        "not a minimum",
        "chains disagree",
        "too few draws",
    ]
    names = [name for reason in estimate.reasons for name in reason.change]
    assert len(names) == len(set(names)) and reasons[0].change == {"step_size": "auto"}
    assert [bool(reason.remedy) for reason in reasons] == [bool(reason.change) for reason in reasons]
    assert [bool(reason.remedy) for reason in reasons] == [True, True, True, False]  # more draws: said already
    check = {"halved": 50.0, "halved_se": 1.0, "doubled": -25.0, "doubled_se": 1.0}
    both = found(GOOD, trace=trace_of(GOOD, accept=0.3), localization_check=check)
    assert [reason.name for reason in both.reasons][:2] == ["step size too large", "localization dominates"]
    hopeless = found(excess, localization=1e3, trivial_loss=0.9)
    assert [bool(reason.remedy) for reason in hopeless.reasons] == [True] + [False] * (len(hopeless.reasons) - 1)


def test_a_bare_trace_names_settings_without_values() -> None:
    for excess in (broken(GOOD, math.nan), relaxing(level=50, time=600), 0.1 * ar1(0.9, chains=4, draws=400)):
        estimate = found(excess, None, localization=math.nan, step_size=math.nan)
        first = estimate.reasons[0]
        assert first.change == {} and first.remedy and not any(char.isdecimal() for char in first.remedy)


def test_report_and_card_number_the_remedies() -> None:
    from test_result import make_result

    reasons = [
        Reason("drifting", "λ̂ has moved", "raise max_steps from 10 to 20", change={"max_steps": 20}),
        Reason("chains disagree", "r̂ is 2"),
        Reason("too few draws", "9", "raise batch_size from 1 to 2", change={"batch_size": 2}),
        Reason("one chain", "only one", "raise num_chains from 1 to 4", True, {"num_chains": 4}),
    ]
    result = make_result(reasons=reasons, verdict="drifting")
    text = render(result, encoding="utf-8")
    assert "→ 1. raise max_steps" in text and "→ 2. raise batch_size" in text and "→ raise num_chains" in text
    card = render_section(result)
    assert "Remedy: 1. raise max" in card and "Remedy: 2. raise batch" in card and "Remedy: raise num" in card
    assert LLCResult.from_dict(result.to_dict()).reasons == reasons
