"""Results: what is saved is what is loaded, what is printed says all, and the picture can always be drawn."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hf_llc.errors import InputError
from hf_llc.judging.estimator import estimate
from hf_llc.numerals import with_error
from hf_llc.publishing.card_section import render_section
from hf_llc.publishing.formatting import counted
from hf_llc.publishing.headline import curve_text, law_text
from hf_llc.publishing.report import render, summary
from hf_llc.publishing.trace_plot import moving_mean, plot_trace
from hf_llc.records.findings import Reason
from hf_llc.records.trace import Trace
from hf_llc.result import LLCResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

NBETA = 500.0


def make_trace(chains: int = 4, steps: int = 600, *, llc: float = 12.0, seed: int = 0) -> Trace:
    """Chains that fall into a flat trace at `llc`, with noisy minibatches and acceptance at every 20th step."""
    noise = np.random.default_rng(seed)
    init = 2.0 + 0.05 * noise.standard_normal((chains, steps))
    arrived = 1 - np.exp(-np.arange(steps) / max(steps / 12, 1))
    loss = init + llc / NBETA * arrived + 0.01 * noise.standard_normal((chains, steps))
    sparse = np.full((chains, steps), np.nan)
    accept, distance, dot = sparse.copy(), sparse.copy(), sparse.copy()
    shape = accept[:, ::20].shape
    accept[:, ::20] = np.clip(0.93 + 0.03 * noise.standard_normal(shape), 0, 1)
    distance[:, ::20] = 0.3 + 0.01 * noise.standard_normal(shape)
    dot[:, ::20] = 10 + noise.standard_normal(shape)
    return Trace(loss=loss, init_loss=init, accept_prob=accept, sq_distance=distance, grad_dot=dot)


def make_result(source: Trace | None = None, **changes: Any) -> LLCResult:
    """The estimate from `source` with settings around it."""
    trace = make_trace() if source is None else source
    steps = trace.shape[1]
    burnin = steps // 2
    with np.errstate(all="ignore"):
        found = estimate(
            trace,
            nbeta=NBETA,
            init_loss=2.0,
            localization=100.0,
            step_size=1e-4,
            is_exact=False,
            num_burnin_steps=burnin,
            num_steps_between_draws=1,
            trivial_loss=5.5,
        )
    values: dict[str, Any] = {
        **vars(found),
        "trivial_loss": 5.5,
        "unit": "nats per token",
        "n": 12345,
        "nbeta": NBETA,
        "localization": 100.0,
        "friction": None,
        "gradient": "plain",
        "sampler": "sgld",
        "step_size": 1e-4,
        "num_chains": trace.shape[0],
        "num_draws": steps - burnin,
        "num_steps_between_draws": 1,
        "num_burnin_steps": burnin,
        "batch_size": 32,
        "chain_batch_size": 1,
        "seed": 0,
        "mixed_precision": "no",
        "num_gradients": 2460,
        "wall_seconds": 12.3,
        "steps_per_second": 195.0,
        "peak_memory_bytes": 300 * 2**20,
        "num_parameters": 260032,
        "num_parameters_total": 260032,
        "task": "text-generation",
        "mode": "eval",
        "dtype": "float32",
        "device": "cpu",
        "num_processes": 1,
        "model": {"id": "some/model", "revision": "0" * 40},
        "data": {"id": "some/data", "split": "validation", "fingerprint": "f" * 16},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "minimize": {"steps": 2000, "loss_before": 2.1, "loss_after": 2.0, "distance": 3.2, "relative_distance": 0.1},
        "calibration": {"step_size": 1e-4, "num_gradients": 60},
        "trace": trace,
    }
    return LLCResult.from_flat(**{**values, **changes})


def test_dictionary_round_trip() -> None:
    result = make_result()
    assert LLCResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


SAVED = sorted((Path(__file__).parents[1] / "model_cards").glob("*/llc/result.json"))


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.parts[-3])
def test_a_stored_file_is_read(path: Path) -> None:
    """Every flat name has the file's value, and what is written again is the file."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved.pop("seal", None)  # of the folder, not of the result
    result = LLCResult.load(path)
    assert saved["schema_version"] == 2 and len(saved) > 55
    new = {"descent": None, "weights": "all", "batch_order": "random", "draw_loss": "batch",
           "num_leapfrog_steps": 10, "compile": False}  # of later versions  # fmt: skip
    reasons = [{"change": {}, **reason} for reason in saved["reasons"]]
    assert result.to_dict() == {**new, **saved, "reasons": reasons}
    simple = {name: value for name, value in saved.items() if isinstance(value, (int, float, str, bool))}
    assert {name: getattr(result, name) for name in simple} == simple
    assert [reason.name for reason in result.reasons] == [reason["name"] for reason in saved["reasons"]]


def test_there_are_stored_files() -> None:
    assert len(SAVED) == 4


def test_a_flat_name_is_that_of_one_part() -> None:
    """62 names, each in one part, none of which can be set; `replace` changes a copy."""
    result = make_result()
    parts = (result.estimate, result.settings, result.cost, result.subject)
    names = [item.name for part in parts for item in fields(part)]
    assert len(names) == len(set(names)) == len(result.to_dict()) - 1
    assert all(getattr(result, name) is getattr(part, name) for part in parts for name in vars(part))
    with pytest.raises(AttributeError):
        result.llc = 3.0
    other = result.replace(llc=3.0, seed=7, trace=None)
    assert (other.llc, other.estimate.llc, other.settings.seed, other.trace) == (3.0, 3.0, 7, None)
    assert (result.llc, result.seed) != (3.0, 7) and result.trace is not None
    assert other.subject == result.subject and other != result
    with pytest.raises(TypeError, match="no 'lcc'"):
        result.replace(lcc=3.0)


def test_save_and_load(tmp_path: Path) -> None:
    result = make_result()
    result.save(tmp_path / "run")
    names = ["card.md", "result.json", "trace.png", "trace.safetensors"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == names
    for place in (tmp_path / "run", tmp_path / "run" / "result.json"):
        loaded = LLCResult.load(place)
        assert loaded == result
        assert loaded.trace is not None
        assert result.trace is not None
        for name in vars(result.trace):
            np.testing.assert_array_equal(getattr(loaded.trace, name), getattr(result.trace, name))


def test_nan_becomes_null_and_comes_back(tmp_path: Path) -> None:
    result = make_result(llc=math.nan, llc_per_chain=[1.0, math.nan], trace=None)
    result.save(tmp_path)
    assert "NaN" not in (tmp_path / "result.json").read_text()
    loaded = LLCResult.load(tmp_path)
    assert math.isnan(loaded.llc)
    assert math.isnan(loaded.llc_per_chain[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a result file"),
        ("[1]", "not a result file"),
        ("null", "not a result file"),
        ('{"schema_version": 99}', "schema_version, got 99"),
        ('{"schema_version": 1}', "schema_version, got 1"),
    ],
)
def test_damaged_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match=message):
        LLCResult.load(tmp_path)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (12.3456, 0.5678, "12.35 ± 0.57"),
        (1234.5, 12.3, "1234 ± 12"),
        (-0.0314, 0.0996, "−0.03 ± 0.10"),
        (-0.5, 0.0996, "−0.50 ± 0.10"),
        (123456.0, 2345.0, "123500 ± 2300"),
        (2.5e-5, 1e-6, "(2.50 ± 0.10)·10^-5"),
        (3.21e8, 1.5e7, "(3.21 ± 0.15)·10^8"),
        (math.nan, 1.0, "not a number"),
        (1.5, math.nan, "1.5 (standard error unknown)"),
        (1.5, 0.0, "1.5 ± 0"),
    ],
)
def test_error_has_two_digits(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


@pytest.mark.parametrize(
    ("unit", "things"),
    [
        ("nats per token", "tokens"),
        ("nats per example (Gaussian, σ = 1)", "examples"),
        ("mean squared error", "examples"),
    ],
)
def test_what_n_counts(unit: str, things: str) -> None:
    assert counted(unit) == things


SHOWN = {
    "llc": 12.3456, "llc_se": 0.5678, "llc_per_chain": [11.25, 13.75, 12.5, 14.0], "llc_uncorrected": 12.3456,
    "llc_plain": 11.111, "llc_plain_se": 2.222, "verdict": "drifting", "init_loss": 1.9, "mean_loss": 2.7,
    "trivial_loss": 5.5, "r_hat": 1.023, "ess": 345.6, "accept_prob": 0.912, "step_size_bias": 0.0321,
    "plateau": {"drift": 0.715, "drift_se": 0.22, "p_value": 0.0035}, "kinetic_temperature": 1.0875,
    "localization_sensitivity": {"halved": 1.5, "halved_se": 0.3, "doubled": -2.5, "doubled_se": 0.4},
    "heat_capacity": 7.5, "heat_capacity_se": 0.25, "n": 12345, "nbeta": 512.5, "localization": 99.5,
    "step_size": 2.5e-5, "sampler": "baoab", "friction": 0.35, "gradient": "control-variate", "batch_size": 1024,
    "seed": 7, "num_chains": 4, "num_draws": 300, "num_steps_between_draws": 5, "num_burnin_steps": 1500,
    "num_gradients": 24_680, "wall_seconds": 3725.0, "steps_per_second": 195.5, "peak_memory_bytes": 300 * 2**20,
    "num_parameters": 1000, "num_parameters_total": 2000, "mode": "train", "dtype": "float64", "device": "cuda:1",
    "num_processes": 4, "data_parallel": 2, "trace": None,
    "minimize": {"steps": 2000, "loss_before": 2.1, "loss_after": 1.9, "distance": 3.2, "relative_distance": 0.125},
    "model": {"id": "some/model", "revision": "0123456789abcdef" * 2 + "01234567"},
    "data": {"id": "some/data", "split": "validation", "fingerprint": "f" * 16},
}  # fmt: skip
"""A value of its own for each number of the table, so that none can stand in another's place."""


def test_noise_and_repetitions_are_not_printed() -> None:
    """A variance whose error is above λ̂, and the WBIC where it is the free energy, stay in the JSON only."""
    noisy = make_result(llc=-73.0, heat_capacity=900.0, heat_capacity_se=7300.0)
    assert "variance of nβL 9" not in render(noisy, encoding="utf-8") and "Variance" not in render_section(noisy)
    below = make_result(llc=-28.0, heat_capacity=-8.0, heat_capacity_se=27.0, reasons=[])
    assert "variance of nβL" not in render(below, encoding="utf-8") and "Variance" not in render_section(below)
    assert noisy.to_dict()["heat_capacity"] == 900
    n = 1000
    same = make_result(n=n, nbeta=n / math.log(n))
    assert "E[L_n]" not in render(same, encoding="utf-8")
    assert "E[L_n]" in render(same.replace(nbeta=50.0), encoding="utf-8")


@pytest.mark.parametrize(
    ("minimize", "is_said"),
    [
        ({"distance": 1.0, "relative_distance": 0.18, "loss_before": 1.633, "loss_after": 1.185}, True),
        ({"distance": 1.0, "relative_distance": 0.001, "loss_before": 1.0, "loss_after": 0.9}, True),
        ({"distance": 1.0, "relative_distance": 0.02, "loss_before": 1.0, "loss_after": 1.0}, True),
        ({"distance": 1.0, "relative_distance": 0.005, "loss_before": 1.0, "loss_after": 0.995}, False),
        (None, False),
    ],
)
def test_minimize_that_made_another_model_is_said_first(minimize: dict[str, float] | None, is_said: bool) -> None:
    result = make_result(minimize=minimize)
    second, card = render(result, encoding="utf-8").splitlines()[1], render_section(result)
    assert ("of a point" in second) == is_said == ("of a point" in card.split("Verdict:")[0])


@pytest.mark.parametrize(
    ("doubled", "error", "said"),
    [
        (-2.5, 0.4, "γ 99.5; −20 % at 2γ"),
        (0.03, 0.01, "γ 99.5; no change at 2γ"),
        (-0.2, 0.5, "γ 99.5; no change beyond ±5 % at 2γ"),
        (-5.0, 6.0, "γ 99.5; change at 2γ not known"),
        (9.0, 40.0, "γ 99.5; change at 2γ not known"),
        (-2.5, math.nan, "γ 99.5; −20 % at 2γ"),
        (math.nan, math.nan, "γ 99.5"),
    ],
)
def test_a_share_smaller_than_its_error_is_not_said(doubled: float, error: float, said: str) -> None:
    """In report, card and picture alike, and of the last point of a curve."""
    change = {"halved": math.nan, "halved_se": math.nan, "doubled": doubled, "doubled_se": error}
    result = make_result(**SHOWN | {"localization_sensitivity": change})
    assert law_text(result).endswith(said)
    last = {"step": 1, "llc": result.llc, "loss": 1.0, "doubled": doubled, "doubled_se": error}
    ends = curve_text({"points": [{"step": 0, "llc": 1.0, "loss": 1.0}, last]}).rpartition("1 → 1")[2]
    assert ends == said.replace("γ 99.5", "", 1) + (" for the last" if ";" in said else "")


@pytest.mark.parametrize(
    ("drop", "error", "said"),
    [
        (3.0, 0.1, "15.35 ± 0.16: a descent from w* lowers nβL by 3"),
        (3.0, 1.25, "15.3 ± 1.3: a descent from w* lowers nβL by 3.0 ± 1.2"),
        (0.5, 2.0, "as from w*: a descent lowers nβL by no more than its error, 2"),
        (-0.5, 0.25, "as from w*: a descent lowers nβL by no more than its error, 0.25"),
    ],
)
def test_a_drop_smaller_than_its_error_corrects_nothing(drop: float, error: float, said: str) -> None:
    result = make_result(llc=12.35, llc_se=0.125, descent={"loss_drop": drop, "loss_drop_se": error})
    assert said in render(result, encoding="utf-8") and said in render_section(result)


def test_print_says_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number beside its own label. n L_n(w*) + λ̂ ln n = 12345·1.9 + 12.3456 ln 12345 = 23,571.8; n E[L_n] =
    12345·(1.9 + 12.3456/512.5) = 23,752.9."""
    monkeypatch.setenv("COLUMNS", "120")  # a narrower terminal has more lines
    reasons = [
        Reason("drifting", "λ̂ has moved", "raise num_burnin_steps"),
        Reason("one chain", "only one", is_note=True),
    ]
    result = make_result(reasons=reasons, **SHOWN)
    text = render(result, encoding="utf-8")
    assert [" ".join(line.split()) for line in text.splitlines()] == [
        "λ̂ 12.35 ± 0.57 at nβ 512.5, γ 99.5; −20 % at 2γ",
        "λ̂ of a point 0.12 ‖w*‖ away from the model given, 0.2 nats lower on this data",
        "verdict drifting",
        "because drifting: λ̂ has moved",
        "→ 1. raise num_burnin_steps",
        "note one chain: only one",
        "by chain 11.25, 13.75, 12.5, 14",
        "plain 11.1 ± 2.2 (from L_n(w*), not paired)",
        "mixing r̂ 1.023 ESS 345.6 acceptance 0.912",
        "drift 0.71 ± 0.22 between the halves of the draws (p = 0.0035)",
        "bias finite step 0.032",
        "γ λ̂ changes by +1.50 ± 0.30 at γ/2, −2.50 ± 0.40 at 2γ",
        "heat variance of nβL 7.50 ± 0.25 kinetic temperature 1.087",
        "loss mean 2.7 at w* 1.9 trivial predictor 5.5 (nats per token)",
        "posterior nβ 512.5 γ 99.5 n 12,345 (tokens)",
        "sampler baoab, friction 0.35, control-variate gradients ε 2.5e-5 (auto) batch 1,024 seed",
        "7",
        "chains 4 × 300 draws × 5 steps, after 1,500 steps of burn-in",
        "evidence n L_n(w*) + λ̂ ln n 23,572 nats n E[L_n] 23,753 nats",
        "minimize steps 2,000 loss before 2.1 loss after 1.9 distance 3.2 relative distance",
        "0.125",
        "cost 24,680 gradients 1 h 2 min 195.5 steps/s 300 MiB",
        "model some/model revision 0123456789ab 1,000 of 2,000 parameters sampled",
        "data some/data split validation fingerprint ffffffffffffffff",
        "run text-generation cuda:1, float64, train mode, 4 processes in groups of 2",
    ]
    assert result.details() in (text, render(result, encoding="ascii"))


def test_what_was_not_measured_is_left_out() -> None:
    """Samplers with momentum measure no acceptance, others no kinetic temperature; a module has a class, and no id."""
    model = {"in_memory": True, "class": "Sequential", "fingerprint": "f" * 16, "num_examples": 2000}
    result = make_result(accept_prob=math.nan, kinetic_temperature=math.nan, model=model, reasons=[])
    text = " ".join(render(result, encoding="utf-8").split())
    assert "acceptance" not in text and "temperature" not in text and "acceptance" not in render_section(result)
    assert f"model Sequential in memory fingerprint {'f' * 16} num examples 2,000" in text


def test_print_is_short() -> None:
    """λ̂ at its nβ and γ, the verdict, how λ̂ moves with γ, what to do; every line of it stands in the details too."""
    lines = [" ".join(line.split()) for line in summary(make_result(**SHOWN), encoding="utf-8").splitlines()]
    assert lines[0] == "λ̂ 12.35 ± 0.57 at nβ 512.5, γ 99.5; −20 % at 2γ"
    rest = [line for line in lines if line.split()[0] in ("γ", "mixing", "of", "what", "details")]
    assert rest[-5:] == [
        "γ λ̂ changes by +1.50 ± 0.30 at γ/2, −2.50 ± 0.40 at 2γ",
        "mixing r̂ 1.023 ESS 345.6",
        "of some/model on some/data, n 12,345",
        *lines[-2:],
    ]
    assert lines[-1] == "details print(result.details())" and len(lines) <= 12


def test_print_says_what_to_do() -> None:
    two = [Reason("drifting", "it has moved", "raise num_burnin_steps"), Reason("too few draws", "only 7", "draw more"),
           Reason("time was up", "at 7", "give more", is_note=True)]  # fmt: skip
    lines = [" ".join(line.split()) for line in summary(make_result(verdict="drifting", reasons=two)).splitlines()]
    assert [line for line in lines if line.startswith(("because", "note", "what"))] == [
        "because drifting: it has moved",
        "because too few draws: only 7",
        "note time was up",
        "what to do 1. raise num_burnin_steps",
        "what to do 2. draw more",
    ]
    bare = summary(make_result(verdict="stuck", reasons=[Reason("stuck", "it did not move", "")]))
    assert "nothing is known to help here" in bare
    assert "compare λ̂ with others at this nβ and γ" in summary(make_result(), encoding="utf-8")


def test_print_of_other_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heat that was taken off, an extrapolation, nothing measured, many chains, and long reasons wrapped."""
    monkeypatch.setenv("COLUMNS", "120")  # a narrower terminal has more lines

    def line(label: str, **changes: Any) -> str:
        lines = render(make_result(**{**SHOWN, **changes}), encoding="utf-8").splitlines()
        return " ".join(next(each for each in lines if each.startswith(label)).split()[1:])

    assert line("bias", llc_uncorrected=13.0, step_size_bias=0.6544) == "heat of gradient noise 0.65, taken off"
    extrapolated = {"llc_extrapolated": 12.125, "llc_extrapolated_se": 0.75}
    assert line("bias", **extrapolated) == "finite step 0.032 extrapolated to ε = 0: λ̂ = 12.12 ± 0.75"
    assert line("γ", localization_sensitivity={}) == "λ̂ changes by – (not measured)"
    assert line("mixing", r_hat=math.nan, accept_prob=math.nan) == "r̂ – ESS 345.6"
    assert line(
        "sampler", calibration=None, friction=None, gradient="plain", sampler="sgld", mixed_precision="bf16"
    ) == ("sgld ε 2.5e-5 batch 1,024 seed 7, bf16")
    assert line("by chain", llc_per_chain=[float(i) for i in range(11)]) == "chain 0, 1, 2, 3, 4, 5, 6, 7, … (3 more)"
    assert line("model", num_parameters_total=1000) == "some/model revision 0123456789ab 1,000 parameters"
    assert line("run", num_processes=1, data_parallel=1) == "text-generation cuda:1, float64, train mode"
    long = [Reason("drifting", "λ̂ has moved by a lot " * 12, "raise num_burnin_steps")]
    lines = render(make_result(**{**SHOWN, "reasons": long}), encoding="utf-8").splitlines()
    assert sum("by a lot" in each for each in lines) == 4 and max(map(len, lines)) <= 101  # the hat takes no column


def test_print_survives_missing_numbers() -> None:
    bare = make_result(
        llc=math.nan,
        llc_se=math.nan,
        r_hat=math.nan,
        trivial_loss=None,
        plateau={},
        localization_sensitivity={},
        minimize=None,
        model={},
        data={},
        trace=None,
        llc_per_chain=[math.nan] * 100,
    )
    lines = [" ".join(line.split()) for line in render(bare, encoding="utf-8").splitlines()]
    assert lines[:2] == ["λ̂ not a number at nβ 500, γ 100", "verdict trustworthy"]
    for line in (
        "by chain –, –, –, –, –, –, –, –, … (92 more)",
        "drift – (not measured)",
        "γ λ̂ changes by – (not measured)",
        "model without a name 260,032 parameters",
        "data without a name",
    ):
        assert line in lines
    assert not any(line.startswith("minimize") or "trivial" in line for line in lines)


# The picture


def panels(figure: Figure) -> tuple[Axes, Axes, Axes | None]:
    """Losses, running λ̂, and acceptance if it was measured."""
    upper, lower, *right = figure.axes
    return upper, lower, right[0] if right else None


def lines_of(axes: Axes, *, width: float) -> list[Line2D]:
    """Curves of one line width, in the order of the chains: 0.5 faint, 1.3 smooth, 1 running."""
    return [line for line in axes.lines if line.get_linewidth() == width and line.get_color() != "black"]


def levels(axes: Axes) -> list[tuple[float, str]]:
    """Horizontal lines with their labels."""
    return [
        (line.get_ydata()[0], line.get_label()) for line in axes.lines
        if line.get_color() == "black" and len(set(line.get_ydata())) == 1
    ]  # fmt: skip


def bands(axes: Axes) -> list[tuple[float, float, float, float]]:
    """Shaded rectangles as x0, x1, y0, y1; what runs over the whole width or height is 0 … 1 there."""
    corners = [patch.get_path().transformed(patch.get_patch_transform()).vertices for patch in axes.patches]
    return [(*v[:, 0][[0, 2]], *v[:, 1][[0, 2]]) for v in corners]


STEP = "step   (4 × 300 draws after 300 steps of burn-in; n 12,345 tokens)"
"""The caption of the picture of `make_result`."""


@pytest.mark.slow
def test_picture(tmp_path: Path, drawn: list[Figure]) -> None:
    """What each curve shows, recomputed here from the trace."""
    result = make_result()
    trace = result.trace
    assert trace is not None
    plot_trace(result, tmp_path / "picture.tmp")
    assert (tmp_path / "picture.tmp").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    upper, lower, right = panels(drawn[0])
    excess = trace.loss - trace.init_loss
    faint, smooth, running = lines_of(upper, width=0.5), lines_of(upper, width=1.3), lines_of(lower, width=1)
    assert len(faint) == len(smooth) == len(running) == 4
    for chain in range(4):
        assert faint[chain].get_color() == smooth[chain].get_color() == running[chain].get_color()
        for line in (faint[chain], smooth[chain]):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(600))
        np.testing.assert_allclose(faint[chain].get_ydata(), 2.0 + excess[chain])
        for step in (0, 5, 11, 400, 599):  # over 600/50 steps, fewer at the start
            expected = 2.0 + excess[chain, max(0, step - 11) : step + 1].mean()
            assert smooth[chain].get_ydata()[step] == pytest.approx(expected)
        np.testing.assert_array_equal(running[chain].get_xdata(), np.arange(300, 600))
        for place in (0, 99, 299):
            expected = NBETA * excess[chain, 300 : 301 + place].mean()
            assert running[chain].get_ydata()[place] == pytest.approx(expected)
        assert running[chain].get_ydata()[-1] == pytest.approx(result.llc_per_chain[chain])
    assert len({line.get_color() for line in running}) == 4
    assert levels(upper) == [(2.0, "$L_n(w^*)$ = 2")] and [level for level, _ in levels(lower)] == [result.llc]
    assert bands(upper) == [(-0.5, 299.5, 0, 1)]
    assert bands(lower) == [(-0.5, 299.5, 0, 1)]
    (band,) = [patch.get_paths()[0].get_extents() for patch in lower.collections]
    after = (299.5, result.llc - result.llc_se, 599.5, result.llc + result.llc_se)  # not over the burn-in
    assert (band.x0, band.y0, band.x1, band.y1) == pytest.approx(after)
    (level,) = [line for line in lower.lines if line.get_color() == "black"]
    assert list(level.get_xdata()) == [299.5, 599.5]
    assert right is not None
    (points,) = right.lines
    np.testing.assert_array_equal(points.get_xdata(), np.arange(0, 600, 20))
    np.testing.assert_allclose(points.get_ydata(), trace.accept_prob[:, ::20].mean(axis=0))
    assert right.get_ylim() == (0, 1.05) and right.get_position().y1 < lower.get_position().y0  # a panel of its own
    labels = (upper.get_ylabel(), lower.get_ylabel(), right.get_xlabel(), right.get_ylabel())
    assert labels == ("$L_n(w^*)$ + change of loss\n(nats per token)", "running λ̂", STEP, "acceptance")
    assert drawn[0].get_suptitle().splitlines() == [
        "λ̂ = 12.03 ± 0.14 at nβ 500, γ 100; no change beyond ±3 % at 2γ   trustworthy",
        "λ̂ of a point 0.1 ‖w*‖ away from the model given, 0.1 nats lower on this data",
    ]
    assert [text.get_text() for text in upper.get_legend().get_texts()] == [
        "chains (moving mean)", "$L_n(w^*)$ = 2", "burn-in",
    ]  # fmt: skip


@pytest.mark.slow
def test_title_keeps_a_number_and_its_error_on_one_line(tmp_path: Path, drawn: list[Figure]) -> None:
    text = "x" * 76 + " λ̂ is 14.7 ± 1.5 from w*"  # a fold at 90 letters would part them
    plot_trace(make_result(reasons=[Reason("not a minimum", text, "set minimize")]), tmp_path / "picture.png")
    assert any("14.7 ± 1.5" in line for line in drawn[0].get_suptitle().splitlines())


@pytest.mark.slow
def test_picture_takes_the_heat_off(tmp_path: Path, drawn: list[Figure]) -> None:
    """Each chain's own heat: its curve ends at the λ̂ that the report gives for it."""
    result = make_result()
    cooled = [value - heat for value, heat in zip(result.llc_per_chain, (0.5, 1.5, 2.5, 3.5), strict=True)]
    changes = {"llc": result.llc - 2.0, "llc_per_chain": cooled, "trivial_loss": 2.03}
    plot_trace(make_result(**changes), tmp_path / "picture.png")
    upper, lower, _ = panels(drawn[0])
    ends = [line.get_ydata()[-1] for line in lines_of(lower, width=1)]
    assert ends == pytest.approx(cooled)
    assert np.mean(ends) == pytest.approx(result.llc - 2.0)
    assert levels(upper) == [(2.0, "$L_n(w^*)$ = 2"), (2.03, "trivial = 2.03")]  # near the chains: drawn


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chains", "steps", "faint", "points"), [(1, 2, 1, 2), (1, 30, 1, 30), (12, 50, 12, 50), (100, 50, 0, 50),
                                             (2, 9000, 2, 3000)]
)  # fmt: skip
def test_picture_of_few_and_many(
    chains: int, steps: int, faint: int, points: int, tmp_path: Path, drawn: list[Figure]
) -> None:
    """At most 4,000 points a curve, the last step among them; faint curves of twelve chains at most."""
    result = make_result(make_trace(chains, steps))
    plot_trace(result, tmp_path / "picture.png")
    upper, lower, _ = panels(drawn[0])
    assert [len(lines_of(upper, width=width)) for width in (0.5, 1.3)] == [faint, chains]
    for line in [*lines_of(upper, width=0.5), *lines_of(upper, width=1.3)]:
        assert len(line.get_xdata()) == points and line.get_xdata()[-1] == steps - 1
    ends = [line.get_ydata()[-1] for line in lines_of(lower, width=1)]
    assert ends == pytest.approx(result.llc_per_chain)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["nan tail", "all nan", "huge", "infinite", "equal", "no acceptance"])
def test_picture_of_a_bad_run(tmp_path: Path, fault: str, drawn: list[Figure]) -> None:
    """A cross where a chain stopped, a logarithmic axis where it rose by decades, limits that hold the rest."""
    trace = make_trace(3, 200)
    crosses: list[tuple[str, int]] = []
    if fault == "nan tail":
        trace.loss[1, 120:] = np.nan
        crosses = [("#d55e00", 119)]
    elif fault == "all nan":
        trace.loss[:] = np.nan
    elif fault == "huge":
        trace.loss[0] *= np.logspace(0, 30, 200)
    elif fault == "infinite":
        trace.loss[2, 150:] = np.inf
        crosses = [("#009e73", 149)]
    elif fault == "equal":
        trace.loss[:] = trace.init_loss[:] = 2.0
    else:
        trace.accept_prob[:] = np.nan
    plot_trace(make_result(trace), tmp_path / "picture.png")
    upper, lower, right = panels(drawn[0])
    marked = [(line.get_color(), list(line.get_xdata())) for line in upper.lines if line.get_marker() == "x"]
    assert marked == [(colour, [step]) for colour, step in crosses]
    assert (right is None) == (fault == "no acceptance")
    assert upper.get_yscale() == ("log" if fault == "huge" else "linear")
    values = (2.0 + trace.loss - trace.init_loss).ravel()
    low, high = upper.get_ylim()
    assert low < min(values[np.isfinite(values)], default=2.0) <= max(values[np.isfinite(values)], default=2.0) < high
    assert high < 1e33 and all(math.isfinite(x) for x in lower.get_ylim())


def test_picture_needs_a_trace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trace"):
        plot_trace(make_result(trace=None), tmp_path / "x.png")


def test_moving_mean_steps_over_gaps() -> None:
    mean = moving_mean(np.array([[1.0, np.nan, 3.0, 5.0]]), 2)
    np.testing.assert_array_equal(mean, [[1.0, np.nan, 3.0, 4.0]])
