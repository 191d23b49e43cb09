"""Susceptibilities: closed forms, identities, true errors, the study and its command."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_worker
import tiny
import torch
from datasets import load_dataset
from forked import killed, run

from hf_llc.cli.entry_point import main
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.judging.covariances import mean_errors
from hf_llc.judging.susceptibility import susceptibility
from hf_llc.studies import measure_influence, measure_susceptibility, parts
from hf_llc.studies.susceptibility_plot import principal_components

Array = np.ndarray

NBETA, GAMMA, BLOCK = 40.0, 5.0, 3


def forms(count: int = 5, d: int = 6) -> Array:
    """H_xy of some tokens, `[token, d, d]`."""
    roots = np.random.default_rng(4).standard_normal((count, d, d)) / 2
    return roots @ roots.transpose(0, 2, 1)


def closed_form(h: Array, which: int, nbeta: float = NBETA) -> float:
    """−½ tr(H_CC S D_CC S) − ½ tr(H_CC S)·½[tr(D_CC S) − tr(DΣ)], C the first `BLOCK` weights."""
    mean, inside = h.mean(0), np.s_[:BLOCK, :BLOCK]
    difference = h[which] - mean
    s = np.linalg.inv(nbeta * mean[inside] + GAMMA * np.eye(BLOCK))
    sigma = np.linalg.inv(nbeta * mean + GAMMA * np.eye(len(mean)))
    covariance = np.trace(mean[inside] @ s @ difference[inside] @ s) / 2
    shift = (np.trace(difference[inside] @ s) - np.trace(difference @ sigma)) / 2
    return float(-covariance - np.trace(mean[inside] @ s) / 2 * shift)


def drawn_from(
    h: Array, nbeta: float, chains: int = 4, draws: int = 20_000, seed: int = 6
) -> tuple[Array, Array, Array]:
    """φ and Δ of exact draws at a minimum, of C and of all weights."""
    rng, mean = np.random.default_rng(seed), h.mean(0)
    d = len(mean)
    part = np.zeros((chains, draws, d))
    s = np.linalg.inv(nbeta * mean[:BLOCK, :BLOCK] + GAMMA * np.eye(BLOCK))
    part[..., :BLOCK] = rng.multivariate_normal(np.zeros(BLOCK), s, size=(chains, draws))
    whole = rng.multivariate_normal(np.zeros(d), np.linalg.inv(nbeta * mean + GAMMA * np.eye(d)), size=(chains, draws))
    of_part, of_whole = (np.einsum("cta,iab,ctb->cti", u, h, u) / 2 for u in (part, whole))
    phi = of_part.mean(-1)
    return phi, of_part - phi[..., None], of_whole - of_whole.mean(-1)[..., None]


@pytest.mark.parametrize("draws", [0, 1, 11])
def test_too_few_records_for_an_error_have_none(draws: int) -> None:
    """And no warning of numpy's, which would be an error here."""
    rng = np.random.default_rng(4)
    phi, component, full = rng.standard_normal((4, draws)), *rng.standard_normal((2, 4, draws, 7))
    found = susceptibility(phi, component, full)
    assert np.isnan(found.chi).all() and np.isnan(found.chi_se).all() and found.chi.shape == (7,)
    assert found.reliability == 0


@pytest.mark.parametrize("nbeta", [NBETA, 1e-9])
def test_the_closed_form_at_a_minimum(nbeta: float) -> None:
    """At nβ = 0 too, where it is that of a ball: the control is known, and is not zero."""
    h = forms()
    found = susceptibility(*drawn_from(h, nbeta))
    exact = np.array([closed_form(h, k, nbeta) for k in range(len(h))])
    z = (found.chi - exact) / found.chi_se
    assert np.abs(z).max() < 4 and np.median(found.chi_se) < 0.03 * np.abs(exact).max()
    assert abs(found.chi.sum()) < 1e-12  # the mean token answers not at all
    np.testing.assert_allclose(found.covariance + found.shift, found.chi)
    assert found.reliability > 0.95
    assert found.z.mean() == pytest.approx(0, abs=1e-12) and found.z.std() == pytest.approx(1)


def test_of_all_weights_only_the_covariance_is_left() -> None:
    phi, delta, _ = drawn_from(forms(), NBETA, draws=500)
    found = susceptibility(phi, delta, delta)
    for k in range(delta.shape[2]):
        assert found.chi[k] == pytest.approx(-np.cov(phi.ravel(), delta[..., k].ravel(), ddof=0)[0, 1], rel=1e-9)
    np.testing.assert_allclose(found.shift, 0, atol=1e-15)


def test_halves_agree_as_their_errors_say() -> None:
    """Or a little better: what errors of all tokens have in common is no disagreement about the pattern."""
    found = [susceptibility(*drawn_from(forms(30), NBETA, 4, 100, seed)) for seed in range(30)]
    seen, said = (1 - np.mean([getattr(it, name) for it in found]) for name in ("agreement", "agreement_expected"))
    assert 0.1 < said < 0.3 and 0.6 < seen / said < 1.1, (seen, said)


def test_noise_is_called_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4, 100)), rng.standard_normal((4, 100, 200)), rng.standard_normal((4, 100, 200))
    assert susceptibility(*noise).reliability < 0.5
    constant = susceptibility(np.ones((4, 48)), np.ones((4, 48, 5)), np.ones((4, 48, 5)))
    assert np.isnan(constant.z).all() and constant.reliability == 0


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_errors_are_true(phi: float) -> None:
    """400 repeats of 4 × 200 AR(1) draws of the weights."""
    h = forms()
    exact = np.array([closed_form(h, k) for k in range(len(h))])
    rng, mean = np.random.default_rng(8), h.mean(0)
    roots = [np.linalg.cholesky(np.linalg.inv(NBETA * mean[:k, :k] + GAMMA * np.eye(k))) for k in (BLOCK, len(mean))]
    z = []
    for _ in range(400):
        losses = []
        for root in roots:
            noise = rng.standard_normal((200, 4, len(root)))
            for t in range(1, 200):
                noise[t] = phi * noise[t - 1] + np.sqrt(1 - phi**2) * noise[t]
            u = np.zeros((4, 200, len(mean)))
            u[..., : len(root)] = noise.transpose(1, 0, 2) @ root.T
            losses.append(np.einsum("cta,iab,ctb->cti", u, h, u) / 2)
        energy = losses[0].mean(-1)
        found = susceptibility(energy, losses[0] - energy[..., None], losses[1] - losses[1].mean(-1)[..., None])
        z.append((found.chi - exact) / found.chi_se)
    assert 0.9 < np.array(z).std(axis=0).mean() < 1.1, np.array(z).std(axis=0)
    assert np.abs(np.mean(z, axis=0)).max() < 0.4


def test_mean_errors_are_those_of_the_mean() -> None:
    x = np.random.default_rng(1).standard_normal((200, 4, 60, 3))
    z = np.array([one.mean((0, 1)) / mean_errors(one) for one in x])
    assert 0.9 < z.std() < 1.1


@pytest.mark.slow
def test_chains_give_the_closed_form(tmp_path: Path) -> None:
    """Components of a linear regression with orthogonal columns, whose loss is a form in its weights."""
    from worker import squared_error

    from hf_llc.config import LoadConfig, SampleConfig
    from hf_llc.workflow.opened_run import Given

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 2, 4, generator=generator)
    model = Outer()
    given = Given(model=model, data=(x, torch.zeros(24, 2)), loss_fn=squared_error)
    sample = SampleConfig(
        nbeta=NBETA, localization=GAMMA, num_chains=6, num_draws=400, num_burnin_steps=50, observe_examples=24,
        batch_size="full", sampler="baoab", step_size=0.01, friction=0.6, observe_every=4, check_localization=False,
        chain_batch_size=6,
    )  # fmt: skip
    asked = {"components": "first", "level": "example", "control": True, "output": tmp_path / "chi", "progress": False}
    table = measure_susceptibility.measure(LoadConfig(), sample, given, **asked)
    rows = x.numpy().astype(np.float64)
    h = np.einsum("ija,ijb->iab", rows, rows)
    global BLOCK
    found = table.columns[0].found
    before, BLOCK = BLOCK, 2
    try:
        exact, ball = (np.array([closed_form(h, k, nbeta) for k in range(24)]) for nbeta in (NBETA, 1e-9))
    finally:
        BLOCK = before
    assert np.abs((found.chi - exact) / found.chi_se).max() < 4.5
    assert np.corrcoef(found.chi, exact)[0, 1] > 0.97
    control = table.columns[0].control
    assert control is not None and np.corrcoef(control, ball)[0, 1] > 0.9
    assert abs(found.chi.sum()) < 1e-6 * np.abs(found.chi).sum()


class Outer(torch.nn.Module):
    """x·(first, second), both at their minimum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.cat([self.first, self.second])


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chi")
    study_worker.susceptibilities(str(folder / "one"))
    return folder / "one"


@pytest.mark.slow
def test_goes_on_where_it_was(worked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = parts.estimate_model, [0]

    def breaks(*args: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return real(*args, **keywords)

    monkeypatch.setattr(parts, "estimate_model", breaks)
    with pytest.raises(KeyboardInterrupt):
        study_worker.susceptibilities(str(tmp_path / "b"))
    before = (tmp_path / "b" / "0.weight" / "result.json").read_bytes()
    study_worker.susceptibilities(str(tmp_path / "b"), resume=True)
    assert (tmp_path / "b" / "0.weight" / "result.json").read_bytes() == before
    assert_same(worked, tmp_path / "b")


@pytest.mark.slow
def test_ten_kills_change_nothing(worked: Path, tmp_path: Path) -> None:
    """Before the 5th, 13th, 21st … operation on files of one folder, each time further on the way."""
    for number in range(5, 85, 8):
        killed(study_worker.__file__, "susceptibilities", str(tmp_path / "b"), str(number))
    run(study_worker.__file__, "susceptibilities", str(tmp_path / "b"))
    assert_same(worked, tmp_path / "b")


@pytest.mark.slow
def test_two_processes_find_the_same(worked: Path, tmp_path: Path) -> None:
    run(study_worker.__file__, "susceptibilities", str(tmp_path / "two"), processes=2)
    assert_same(worked, tmp_path / "two")


def assert_same(one: Path, two: Path) -> None:
    tables = [load_dataset("parquet", data_files=str(folder / "susceptibility.parquet"), split="train", cache_dir=str(
        two / "cache" / folder.name)) for folder in (one, two)]  # fmt: skip
    assert len(tables[0]) == 15 and repr(tables[0].to_list()) == repr(tables[1].to_list())
    assert (one / "susceptibility.csv").read_bytes() == (two / "susceptibility.csv").read_bytes()


@pytest.mark.slow
def test_the_command_on_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.save_llama(tmp_path / "llama")
    (tmp_path / "text.txt").write_text("\n\n".join(tiny.SENTENCES * 2), encoding="utf-8")
    (tmp_path / "other.txt").write_text("\n\n".join(tiny.SENTENCES[::-1]), encoding="utf-8")
    command = ["susceptibility", "--model", str(folder), "--data", str(tmp_path / "text.txt"), "--max-length", "12"]
    command += ["--num-chains", "2", "--num-draws", "30", "--num-burnin-steps", "4", "--step-size", "1e-4"]
    command += ["--components", "heads", "--probe", f"other={tmp_path / 'other.txt'}", "--observe-examples", "3"]
    command += ["--packing", "document", "--output", str(tmp_path / "chi"), "--quiet"]
    assert main(command) in (0, 3)
    out = capsys.readouterr().out
    assert "l1h1" in out and "reliability" in out
    with open(tmp_path / "chi" / "susceptibility.csv", encoding="utf-8") as file:
        assert [row["component"] for row in csv.DictReader(file)] == ["l0h0", "l0h1", "l1h0", "l1h1"]
    about = json.loads((tmp_path / "chi" / "susceptibility.json").read_text(encoding="utf-8"))
    rows: Any = load_dataset(
        "parquet", data_files=str(tmp_path / "chi" / "susceptibility.parquet"), split="train", cache_dir=str(tmp_path)
    ).to_pandas()
    assert len(rows) == 4 * sum(about["tokens"].values()) and set(rows["probe"]) == {"train", "other"}
    ours = rows[(rows["component"] == "l0h0") & (rows["probe"] == "train")]
    assert abs(ours["chi"].sum()) < 1e-6 * ours["chi"].abs().sum()  # padding is no token
    assert " at" in set(rows["text"])
    page = (tmp_path / "chi" / "susceptibility.html").read_text(encoding="utf-8")
    data = json.loads(re.findall(r"application/json'>(.*?)</script>", page)[0])
    assert all("reliability" in each for each in data["judged"]) and page.count("id='judged'") == 1
    assert data["components"][3] == "l1h1" and len(data["z"][0]) == page.count("<span data-i")


SOME_TEXT = Path(__file__).parents[1] / "constraints.txt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--components", "l9h9"], "there is no l9"),
        (["--components", "haeds"], "no such weights"),
        (["--components", "all"], "no component is named"),
        (["--components", ""], "--components is empty"),
        (["--probe", "code"], "probe has no name"),
        (["--probe", "code="], "probe has no data after code="),
        (["--probe", "a b=x"], "probe has a name that is not allowed"),
        (
            ["--probe", f"train={SOME_TEXT}"],
            "probe has the same name as the data that the chains are sampled on",
        ),
        (["--probe", "code=/nowhere/x.txt"], "probe code: no such data file"),
        (["--level", "word"], "--level has no such choice, got 'word'"),
        (["--observe", "parameter_norms"], "observe is decided by susceptibility"),
        (["--weights", "l0"], "weights is for one estimate"),
        (["--minimize"], "minimize would give each component"),
        (["--parameter-parallel", "2"], "parameter_parallel is not for susceptibilities"),
        (["--num-draws", "3"], "the chains are too short for errors of susceptibility"),
        (["--resume"], "nothing to resume there"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)
    base = [] if "--components" in flags else ["--components", "heads"]
    base += ["--max-examples", "4", "--max-length", "16"]
    base += [] if "--num-draws" in flags else ["--num-draws", "30"]
    assert main(["susceptibility", *base, *flags, "--output", str(tmp_path / "p")]) == 2
    error = capfd.readouterr().err.strip()
    assert message in error and "\n" not in error, error
    assert not (tmp_path / "p" / "all" / "result.json").exists()


def test_a_classifier_has_no_tokens(tmp_path: Path) -> None:
    """The refusal names what the user gave, which is the level and not the setting that it decides."""
    for measure in (measure_susceptibility.measure, measure_influence.measure):
        asked: dict[str, Any] = {"components": "0.weight"} if measure is measure_susceptibility.measure else {}
        asked |= {"level": "token", "output": tmp_path / "x", "progress": False}
        with pytest.raises(InputError, match=r"level is token, but an example has one loss.*give the level example"):
            measure(LoadConfig(), SampleConfig(num_draws=30), study_worker.given(), **asked)
        assert not (tmp_path / "x" / "run.json").exists()


def test_principal_components() -> None:
    rng = np.random.default_rng(0)
    one, noise = rng.standard_normal(300), rng.standard_normal((300, 4)) / 20
    places, directions, shares = principal_components(np.outer(one, [1, -1, 1, 0]) + noise)
    assert shares[0] > 0.98 and abs(np.corrcoef(places[:, 0], one)[0, 1]) > 0.99
    np.testing.assert_allclose(np.abs(directions[0]), [3**-0.5] * 3 + [0], atol=0.02)
