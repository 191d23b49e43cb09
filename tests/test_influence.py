"""Influence functions and loss kernels: closed forms, true errors, verdicts, the command and its guide."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, load_dataset
from safetensors.numpy import load_file
from torch import nn

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.cli.arguments import parse, settings_from
from hf_llc.cli.entry_point import _parser, main
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.judging.covariances import covariances
from hf_llc.judging.influence import influence
from hf_llc.loading.other_column import values_beside
from hf_llc.loading.problem_loader import load_problem
from hf_llc.studies.influence_table import InfluenceTable
from hf_llc.studies.kernel_plot import placed, plot_kernel
from hf_llc.studies.measure_influence import measure

Array = np.ndarray

NBETA, GAMMA, NOISE = 40.0, 5.0, 0.5


def regression(n: int = 30, d: int = 3) -> tuple[Array, Array, Array, Array]:
    """x, residuals r at the minimum of L_n, and the posterior's mean (0) and covariance Σ; σ is NOISE."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((n, d)), rng.standard_normal(n)
    r = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    precision = NBETA * x.T @ x / n / NOISE**2 + GAMMA * np.eye(d)
    return x, r, np.zeros(d), np.linalg.inv(precision)


def kernel_of_regression() -> Array:
    """K_ij = (r_i r_j s_ij + ½ s_ij²)/σ⁴ with s_ij = x_iᵀΣx_j."""
    x, r, _, sigma = regression()
    s = x @ sigma @ x.T
    return (np.outer(r, r) * s + s**2 / 2) / NOISE**4


def mean_losses(extra: float, which: int) -> Array:
    """E[ℓ_j] exactly, with `extra` more weight on one example."""
    x, r, _, _ = regression()
    weights = np.ones(len(x))
    weights[which] += extra
    precision = NBETA / len(x) * (x.T * weights) @ x / NOISE**2 + GAMMA * np.eye(x.shape[1])
    sigma = np.linalg.inv(precision)
    mean = sigma @ (NBETA / len(x) * (x.T * weights) @ r / NOISE**2)
    return ((r - x @ mean) ** 2 + np.einsum("ia,ab,ib->i", x, sigma, x)) / (2 * NOISE**2)


def exact_losses(chains: int, draws: int) -> Array:
    x, r, mean, sigma = regression()
    u = np.random.default_rng(2).multivariate_normal(mean, sigma, size=(chains, draws))
    return (r - u @ x.T) ** 2 / (2 * NOISE**2)


def test_influence_is_the_change_with_an_example_s_weight() -> None:
    """Finite differences of the exact E[ℓ_j] against the closed form, then the estimate against that."""
    exact = -NBETA / 30 * kernel_of_regression()
    for which in (0, 7):
        change = (mean_losses(1e-4, which) - mean_losses(-1e-4, which)) / 2e-4
        np.testing.assert_allclose(change, exact[which], rtol=1e-5, atol=1e-8)
    losses = exact_losses(4, 5000)
    found = influence(losses, losses, nbeta=NBETA, n=30)
    z = (found.bif - exact) / found.bif_se
    assert np.abs(z).max() < 5 and 0.7 < z.std() < 1.3
    assert np.median(found.bif_se) < 0.05 * np.abs(exact).max()
    assert (np.diag(found.bif) < 0).all()  # more of an example lowers its own loss
    kernel = kernel_of_regression()
    scale = np.sqrt(np.diag(kernel))
    np.testing.assert_allclose(found.correlation, kernel / np.outer(scale, scale), atol=0.06)
    np.testing.assert_allclose(np.diag(found.correlation), 1, atol=1e-12)
    assert found.is_trustworthy and found.reliability > 0.95 and abs(found.agreement - found.agreement_expected) < 0.05


def test_quadratic_losses() -> None:
    """K_ij = (g_i + H_i m)ᵀΣ(g_j + H_j m) + ½ tr(H_i Σ H_j Σ), with m = −Σ nβ g away from a minimum."""
    rng = np.random.default_rng(3)
    g = rng.standard_normal((6, 4))
    roots = rng.standard_normal((6, 4, 4)) / 2
    h = roots @ roots.transpose(0, 2, 1)
    sigma = np.linalg.inv(NBETA * h.mean(0) + GAMMA * np.eye(4))
    mean = -sigma @ (NBETA * g.mean(0))
    slopes = g + h @ mean
    exact = slopes @ sigma @ slopes.T + 0.5 * np.einsum("iab,bc,jcd,da->ij", h, sigma, h, sigma)
    u = rng.multivariate_normal(mean, sigma, size=(4, 20_000))
    losses = u @ g.T + 0.5 * np.einsum("cta,iab,ctb->cti", u, h, u)
    found = covariances(losses, losses)
    assert np.abs((found.covariance - exact) / found.covariance_se).max() < 4.5
    assert np.allclose(found.covariance.mean(), np.cov(losses.mean(-1).ravel()), rtol=1e-3)  # mean_ij K_ij = Var(L)


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_errors_are_true(phi: float) -> None:
    """400 repeats of 4 × 200 AR(1) draws. With phi .9 a chain has ten effective draws, and ρ is not quite normal."""
    rng, mix = np.random.default_rng(0), np.random.default_rng(5).standard_normal((6, 6)) / 2
    noise = rng.standard_normal((400, 4, 200, 6))
    x = noise.copy()
    for t in range(1, 200):
        x[:, :, t] = phi * x[:, :, t - 1] + np.sqrt(1 - phi**2) * noise[:, :, t]
    x = x @ mix
    truth = (mix.T @ mix)[:3, 3:]
    scale = np.sqrt(np.diag(mix.T @ mix))
    rho = truth / np.outer(scale[:3], scale[3:])
    found = [covariances(one[..., :3], one[..., 3:]) for one in x]
    z = np.array([(it.covariance - truth) / it.covariance_se for it in found])
    assert 0.9 < z.std(axis=0).mean() < 1.1 and np.abs(z.mean(axis=0)).max() < 0.35
    z = np.array([(it.correlation - rho) / it.correlation_se for it in found])
    assert 0.9 < z.std(axis=0).mean() < (1.1 if phi < 0.9 else 1.13) and np.abs(z.mean(axis=0)).max() < 0.25


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = exact_losses(3, 60)
    whole = covariances(losses, losses[..., :5])
    monkeypatch.setattr("hf_llc.judging.covariances._TILE", 11)
    for name in ("covariance", "covariance_se", "correlation", "correlation_se"):
        np.testing.assert_allclose(getattr(covariances(losses, losses[..., :5]), name), getattr(whole, name), rtol=1e-9)


def test_noise_is_called_noise() -> None:
    rng = np.random.default_rng(4)
    found = influence(rng.standard_normal((4, 40, 12)), rng.standard_normal((4, 40, 9)), nbeta=10.0, n=30)
    assert found.verdict == "too few draws" and "times as many draws" in found.remedy and not found.is_trustworthy
    losses = exact_losses(4, 400)
    assert influence(losses, losses, nbeta=10.0, n=30, chains_verdict="drifting").verdict == "drifting"


def test_losses_that_do_not_vary_have_no_correlation() -> None:
    losses = exact_losses(2, 60)
    losses[..., 4] = 0.0
    found = influence(losses, losses, nbeta=10.0, n=30)
    assert np.isnan(found.correlation[4]).all() and (found.bif[4] == 0).all() and found.is_trustworthy


def test_a_chain_that_has_ended_is_refused() -> None:
    losses = np.where(np.arange(4)[:, None, None] == 2, np.nan, exact_losses(4, 60))
    with pytest.raises(InputError, match="not finite, got 'chain 2'"):
        influence(losses, losses, nbeta=10.0, n=30)


@pytest.mark.parametrize("draws", [0, 1, 11])
def test_too_few_records_for_an_error_are_too_few_draws(draws: int) -> None:
    losses = exact_losses(4, 60)[:, :draws]
    found = influence(losses, losses, nbeta=10.0, n=30)
    assert found.verdict == "too few draws" and not found.is_trustworthy
    assert f"12 records or more of each chain after burn-in ({draws} now)" in found.remedy
    assert np.isnan(found.bif).all() and found.bif.shape == (losses.shape[2], losses.shape[2])


def test_a_run_whose_records_all_lie_in_the_burn_in_says_so() -> None:
    found = linear_result(observe_every=1000, num_draws=20).influence()
    assert found.num_draws == 0 and found.verdict == "too few draws" and found.bif.shape == (30, 30)


def linear_result(**settings: Any) -> LLCResult:
    x, r, _, _ = regression()
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    data = (torch.tensor(x, dtype=torch.float32), torch.tensor(r, dtype=torch.float32)[:, None])
    law = {"nbeta": NBETA, "localization": GAMMA, "step_size": 2e-3, "batch_size": "full", "check_localization": False}
    runs = {"num_chains": 4, "chain_batch_size": 4, "num_draws": 800, "num_burnin_steps": 100, "sampler": "baoab"}
    evaluator = LLCEvaluator(**{**law, **runs, "observe": {"train": "@data"}, "observe_every": 8, **settings})
    return evaluator.compute(
        model, data, loss_fn=lambda out, y: ((out - y) ** 2).sum(-1) / (2 * NOISE**2), progress=False
    )


@pytest.mark.slow
def test_chains_give_the_closed_form() -> None:
    found = linear_result().influence()
    exact = -NBETA / 30 * kernel_of_regression()
    assert np.abs((found.bif - exact) / found.bif_se).max() < 5
    assert np.corrcoef(found.bif.ravel(), exact.ravel())[0, 1] > 0.95
    assert np.median(found.bif_se) < 0.1 * np.abs(exact).max()


@pytest.mark.slow
def test_heat_capacity_is_the_mean_of_the_loss_kernel() -> None:
    """mean_ij Cov(ℓ_i, ℓ_j) = Var(L), of the same draws with all examples observed: but for what K adds for ā."""
    result = linear_result(observe_every=1, num_draws=200)
    seen, trace = result.observations, result.trace
    assert seen is not None and trace is not None
    loss = NBETA * seen.values["train"][:, result.num_burnin_steps :].mean(-1, dtype=np.float64)
    assert loss.var() == pytest.approx(result.heat_capacity, rel=1e-5)
    kernel = NBETA**2 * result.influence().covariance.mean()
    assert kernel == pytest.approx(result.heat_capacity, rel=0.02)


def test_of_what_is_not_there() -> None:
    few = {"num_draws": 40, "num_burnin_steps": 4, "observe_every": 1}
    result = linear_result(**few)
    with pytest.raises(InputError, match=r"no losses of that name, got 'code'; allowed: train"):
        result.influence(queries="code")
    with pytest.raises(InputError, match="no losses were observed"):
        linear_result(observe=None, **few).influence()
    assert result.influence(sources="train").bif.shape == (30, 30)


def stories(path: Path) -> Path:
    """Two kinds of text, and the first row once more at the end."""
    rows = [*tiny.SENTENCES * 2, "zz yy xx ww vv uu " * 3, tiny.SENTENCES[0]]
    path.write_text("\n\n".join(rows), encoding="utf-8")
    return path


COMMAND = (
    *("--packing", "document", "--max-length", "12", "--num-chains", "3", "--num-draws", "60"),
    *("--num-burnin-steps", "6", "--step-size", "1e-4", "--localization", "100", "--batch-size", "4"),
    *("--observe-every", "2", "--quiet", "--no-check-localization"),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `hf-llc influence` on a tiny language model, with its model and data beside it."""
    folder = tmp_path_factory.mktemp("influence")
    tiny.save_llama(folder / "model")
    data = str(stories(folder / "data.txt"))
    code = main(["influence", "--model", str(folder / "model"), "--data", data, "--observe-examples", "18",
                 "--output", str(folder / "out"), "--top", "3", *COMMAND])  # fmt: skip
    assert code in (0, 3)
    return folder


@pytest.mark.slow
def test_the_command_s_files(measured: Path) -> None:
    out = measured / "out"
    values = json.loads((out / "influence.json").read_text(encoding="utf-8"))
    assert values["shape"] == [18, 18] and "negative: the source helps" in values["unit"] and values["verdict"]
    assert values["settings"]["observe"] == "sources=@data"
    matrices = load_file(out / "influence.safetensors")
    n, nbeta = values["settings"]["n"], values["settings"]["nbeta"]
    np.testing.assert_allclose(matrices["bif"], -nbeta / n * matrices["covariance"], rtol=1e-5)
    rows = load_dataset("parquet", data_files=str(out / "influence.parquet"), split="train")
    assert len(rows) == len(values["rows"]) and {"source_text", "query_text", "bif_se"} <= set(rows.column_names)
    first = next(row for row in values["rows"] if row["query"] == 0)
    assert (first["rank"], first["effect"], first["bif"] < 0) == (1, "helps", True) and "cat" in first["query_text"]
    page = (out / "influence.html").read_text(encoding="utf-8")
    assert page.count("<h2>") == 18 and "influence.png" in page
    assert (out / "influence.png").stat().st_size > 10_000 and (out / "kernel.png").stat().st_size > 10_000
    result = LLCResult.load(out / "chains")
    assert result.influence().bif.shape == (18, 18)


def test_a_duplicate_moves_like_itself(measured: Path) -> None:
    """The last row is the first one again."""
    matrices = load_file(measured / "out" / "influence.safetensors")
    assert matrices["correlation"][0, 17] > 0.9999 and matrices["bif"][0, 0] == pytest.approx(matrices["bif"][17, 0])
    others = np.delete(matrices["correlation"][0], [0, 8, 17])  # the sentences come twice
    assert others.max() < 0.99


@pytest.mark.slow
def test_goes_on_where_it_was(measured: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A finished run is read; by token is another run."""
    model, data = str(measured / "model"), str(measured / "data.txt")
    command = ["influence", "--model", model, "--data", data, "--observe-examples", "18",
               "--output", str(measured / "out"), "--top", "3", *COMMAND]  # fmt: skip
    files = [measured / "out" / name for name in ("influence.csv", "influence.safetensors", "chains/result.json")]
    before = [path.read_bytes() for path in files]
    assert main([*command, "--resume"]) in (0, 3)
    assert [path.read_bytes() for path in files] == before
    assert main([*command, "--level", "token"]) == 2
    assert "holds another run" in capfd.readouterr().err


@pytest.mark.slow
def test_by_token(measured: Path) -> None:
    data = str(measured / "data.txt")
    out = measured / "token"
    code = main(["influence", "--model", str(measured / "model"), "--data", data, "--queries", data, "--level", "token",
                 "--observe-examples", "3", "--output", str(out), "--top", "1", *COMMAND])  # fmt: skip
    assert code in (0, 3)
    values = json.loads((out / "influence.json").read_text(encoding="utf-8"))
    assert values["shape"] == [33, 33] and "⟦" in values["rows"][0]["source_text"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--level", "word"], "--level has no such choice, got 'word'; allowed: example, token"),
        (["--top", "0"], "top is out of range, got 0"),
        (["--top", "x"], "top has a value of the wrong kind"),
        (["--num-draws", "10"], "too short for errors of influence, got '10 steps'; allowed: 16 or more"),
        (["--observe", "parameter_norms"], "observe is decided by influence"),
        (["--queries", "no/such_file.txt"], "observe queries: "),
        (["--queries", ""], "--queries is empty"),
        (["--observe-examples", "1"], "observe_examples is out of range"),
        (["--observe-examples", "0.5"], "observe_examples has a value of the wrong kind"),
        (["--resume"], "nothing to resume there"),
        (["--resume", "--overwrite"], "resume and overwrite are both given"),
        (["--parameter-parallel", "2"], "parameter_parallel"),
        (["--output", "/proc/nowhere"], "cannot write to the output folder"),
        (["--color", "kind"], "no such column, got 'kind'"),
        (["--color", "text", "--level", "token"], "color is for the picture of the loss kernel, got 'text'"),
        (["--color", "text", "--packing", "packed"], "an example of these data is not a row with columns"),
        (["--quries", "x"], "did you mean --queries?"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], said: str, measured: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["influence", "--model", str(measured / "model"), "--data", str(measured / "data.txt"),
               "--output", str(tmp_path / "new"), *COMMAND, *more]  # fmt: skip
    assert main(command) == 2
    printed = capfd.readouterr()
    assert said in printed.err and len(printed.err.strip().splitlines()) == 1 and not printed.out
    assert not (tmp_path / "new").exists()


def test_the_loss_kernel_in_a_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds of examples lie apart; an installed UMAP gets the distances 1 − ρ."""
    kind = np.repeat([0, 1], 6)
    rho = np.where(kind[:, None] == kind, 0.6, -0.2)
    monkeypatch.setitem(sys.modules, "umap", None)
    places, how = placed(rho, seed=0)
    assert how == "PCA of ρ"
    np.testing.assert_allclose(np.abs(places[:, 0]), np.sqrt((1 + 5 * 0.6 + 6 * 0.2) / 12), rtol=1e-6)
    assert np.ptp(np.sign(places[:6, 0])) == 0 and (places[:6, 0] * places[6:, 0] < 0).all()
    asked: dict[str, Any] = {}

    class UMAP:
        def __init__(self, **settings: Any) -> None:
            asked.update(settings)

        def fit_transform(self, distance: Array) -> Array:
            asked["distance"] = distance
            return np.zeros((len(distance), 2), dtype=np.float32)

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    places, how = placed(rho, seed=7)
    assert how == "UMAP of 1 − ρ" and places.shape == (12, 2)
    assert (asked["metric"], asked["random_state"], asked["n_neighbors"]) == ("precomputed", 7, 11)
    np.testing.assert_allclose(asked["distance"], 1 - np.where(np.eye(12) > 0, 1.0, rho))
    assert placed(rho[:4, :4], seed=0)[1] == "PCA of ρ"  # too few for neighbours


@pytest.mark.parametrize(
    ("values", "legend"),
    [
        (["cat", "dog"] * 9, ["cat (9)", "dog (9)"]),
        (list(range(18)), None),
        ([f"kind {k}" for k in range(9)] * 2, [f"kind {k} (2)" for k in range(7)] + ["other (4)"]),
    ],
    ids=["texts", "numbers", "too many texts"],
)
def test_the_picture_of_a_kernel_is_coloured(
    values: list[Any], legend: list[str] | None, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr("hf_llc.publishing.picture.save_picture", lambda figure, path: figures.append(figure))
    found = LLCResult.load(measured / "out" / "chains").influence()
    table = SimpleNamespace(found=found, settings={"seed": 0}, headline="")
    plot_kernel(cast(InfluenceTable, table), "x.png", colour="kind", values=values)
    axes = figures[0].axes
    if legend is None:
        assert len(axes) == 2 and axes[1].get_ylabel() == "kind"
        assert axes[0].collections[0].get_array().tolist() == values
    else:
        assert [text.get_text() for text in axes[0].get_legend().get_texts()] == legend


def test_colours_are_read_from_the_rows(measured: Path, tmp_path: Path) -> None:
    """Each example gets its own row's value, a class by its name, also from a data set given as an object."""
    rows = {"text": [*tiny.SENTENCES, "zz yy xx ww"], "kind": [0] * len(tiny.SENTENCES) + [1]}
    data = Dataset.from_dict(rows).cast_column("kind", ClassLabel(names=["story", "noise"]))
    load = LoadConfig(packing="document", max_length=12)
    problem = load_problem(str(measured / "model"), data, load)
    assert values_beside(problem, data, load, "kind") == ["story"] * len(tiny.SENTENCES) + ["noise"]
    data.to_json(tmp_path / "data.jsonl")
    few = replace(load, max_examples=3)
    fewer = load_problem(str(measured / "model"), str(tmp_path / "data.jsonl"), few)
    assert values_beside(fewer, str(tmp_path / "data.jsonl"), few, "kind") == [0, 0, 0]
    with pytest.raises(InputError, match="the data do not have one row for each example"):
        values_beside(fewer, data, load, "kind")
    lists = data.add_column("list", [[1]] * len(data))
    with pytest.raises(InputError, match="the column list holds neither texts nor numbers, got 'list'"):
        values_beside(problem, lists, load, "list")


def test_a_matrix_too_large_is_refused(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_llc.studies.measure_influence._MOST", 100)
    data, sample = str(measured / "data.txt"), SampleConfig(observe_examples=11)
    load = LoadConfig(model=str(measured / "model"), data=data, packing="document")
    with pytest.raises(InputError, match="too large, got '11 × 11'; allowed: 10 × 10; lower observe_examples"):
        measure(load, sample, output=tmp_path / "new")


def test_the_guide_s_commands_are_understood() -> None:
    """Every `hf-llc` line of docs/influence.md parses, and its settings are allowed."""
    text = (Path(__file__).parents[1] / "docs" / "influence.md").read_text(encoding="utf-8")
    commands = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^hf-llc .*$", text, flags=re.MULTILINE)]
    assert [words[0] for words in commands].count("influence") >= 3
    for words in commands:
        load, sample = settings_from(parse(_parser(), words))
        assert load.data == "ID" and sample.observe_examples >= 2
