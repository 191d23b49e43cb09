"""--like: an estimate takes over all that must be equal for its λ̂ to compare with another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from curve_factory import series
from worker import examples, network, squared_error

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.cli.entry_point import main
from hf_llc.config import SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.studies.calibration import Calibration
from hf_llc.studies.like import like
from hf_llc.studies.shared_settings import SHARED

ONE: dict[str, Any] = {
    "sampler": "baoab", "nbeta": 30.0, "localization": 5.0, "step_size": 1e-3, "friction": 0.3, "num_chains": 2,
    "num_draws": 12, "num_burnin_steps": 4, "batch_size": 20, "seed": 7, "gradient": "control-variate",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)


@pytest.mark.slow
def test_everything_but_the_model_is_taken_over() -> None:
    model = network()
    data = examples(model)
    one = LLCEvaluator(**ONE).compute(model, data=data, loss_fn=squared_error)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02)
    one.save("one")
    for source in (one, "one", Path("one/result.json")):
        other = LLCEvaluator(like=source).compute(model, data=data, loss_fn=squared_error)
        assert [getattr(other, name) for name in ONE] == list(ONE.values())
        assert other.llc != one.llc and other.data == one.data
    again = LLCEvaluator(like="one", seed=7, nbeta=30)  # what agrees may be said
    assert again.config == LLCEvaluator(like="one").config
    with pytest.raises(InputError, match=r"contradict those of one, got 'nbeta: 30.0 → 31.0; seed: 7 → 8'"):
        LLCEvaluator(like="one", nbeta=31.0, seed=8)
    with pytest.raises(InputError, match="beta"):
        LLCEvaluator(like="one", beta=1.0)
    with pytest.raises(InputError, match=r"not those of the run that like names.*fingerprint"):
        LLCEvaluator(like="one").compute(model, data=(data[0], data[1] + 1), loss_fn=squared_error)
    with pytest.raises(InputError, match="config and like"):
        LLCEvaluator(again.config, like="one")


def trainer_state(store: Any) -> str:
    checkpoint = Path("checkpoint-5")
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 5, "stateful_callbacks": store}))
    return str(checkpoint)


def test_what_a_callback_found_is_taken_over_from_a_checkpoint() -> None:
    """So `curve` and `estimate` measure as the training did (`tests/test_callback.py` has what a training writes)."""
    asked = SampleConfig(num_chains=2, num_draws=12, seed=7, max_steps=50)
    used = {name: ONE.get(name) for name in SHARED} | {"num_steps_between_draws": 1, "adapt_step_size": False}
    store = {"hf_llc": {"asked": as_dict(asked), "used": used}}
    evaluator = LLCEvaluator(like=trainer_state({"TrainerControl": {}, **store}))
    assert [getattr(evaluator.config, name) for name in ONE] == list(ONE.values())
    assert not evaluator.config.adapt_step_size and evaluator.config.num_steps_between_draws == 1


@pytest.mark.parametrize(
    ("store", "text"),
    [
        ({}, "no LLCCallback measured"),
        ({"hf_llc/a": {"asked": {}, "used": {}}, "hf_llc/b": {"asked": {}, "used": {}}}, "several LLCCallbacks"),
        ({"hf_llc": 3}, "the folder is not a checkpoint that a Trainer wrote"),
        ([], "the folder is not a checkpoint that a Trainer wrote"),
    ],
)
def test_a_checkpoint_without_one_callback_is_refused(store: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        like(trainer_state(store))


@pytest.mark.parametrize("source", ["nothing", 3])
def test_what_is_no_run_is_refused(source: Any) -> None:
    with pytest.raises(InputError, match="allowed"):
        like(source)


def test_a_calibration_gives_its_settings() -> None:
    Calibration(settings={**ONE, "num_burnin_steps": "auto"}, found=None, moved=None, cells=[], num_gradients=0).save(
        "c"
    )
    for source in ("c", "c/calibrated.yaml", "c/calibration.json"):
        assert LLCEvaluator(like=source).config.step_size == 1e-3
    with pytest.raises(InputError, match=r"step_size: 0.001 → 0.002"):
        LLCEvaluator(like="c", step_size=2e-3)


@pytest.mark.slow
def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--step-size", "1e-6", "--num-chains", "2", "--num-draws", "5", "--num-burnin-steps", "2"]
    assert main(["estimate", *base, "--nbeta", "50", "--max-examples", "20", "--output", "a", "--quiet"]) in (0, 3)
    assert main(["estimate", "--like", "a", "--output", "b", "--quiet"]) in (0, 3)
    one, two = (LLCResult.load(name) for name in ("a", "b"))
    assert (one.settings, one.llc, one.data) == (two.settings, two.llc, two.data)
    capsys.readouterr()
    assert main(["estimate", "--like", "a", "--nbeta", "40", "--max-length", "32", "--output", "c"]) == 2
    assert "max_length: 64 → 32" in capsys.readouterr().err and not Path("c").exists()
    assert main(["estimate", "--like", "a", "--nbeta", "40", "--output", "c"]) == 2
    assert "nbeta: 50.0 → 40.0" in capsys.readouterr().err and not Path("c").exists()
    assert main(["estimate", "--like", "a", "--max-examples", "10", "--output", "c"]) == 2
    assert main(["components", "--like", "a", "--components", "l0 attn", "--output", "d", "--quiet"]) in (0, 3)
    assert LLCResult.load("d/all").llc == one.llc and LLCResult.load("d/l0_attn").step_size == one.step_size
    assert main(["components", "--like", "a", "--components", "l0 attn", "--nbeta", "40", "--output", "e"]) == 2
    assert not Path("e").exists()


@pytest.mark.slow
def test_a_curve_like_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its points have the settings of that run; what contradicts, and other data, are refused before any work."""
    files = series(tmp_path, (2, 10))
    flags = ["--step-size", "2e-4", "--nbeta", "500", "--localization", "100", "--num-draws", "10"]
    base = ["curve", "--weight-files", *files, "--factory", "curve_factory:make", "--quiet"]
    assert main([*base, "--data", "data.jsonl", *flags, "--num-burnin-steps", "5", "--output", "one"]) in (0, 3)
    like_it = [*base, "--data", "data.jsonl", "--like", "one/step10"]
    assert main([*like_it, "--output", "two"]) in (0, 3)
    for name in ("step2", "step10"):
        one, two = (LLCResult.load(f"{folder}/{name}") for folder in ("one", "two"))
        assert (one.settings, one.llc, one.data) == (two.settings, two.llc, two.data)
    capsys.readouterr()
    assert main([*like_it, "--localization", "50", "--output", "three"]) == 2
    assert "localization: 100.0 → 50.0" in capsys.readouterr().err and not Path("three").exists()
    Path("other.jsonl").write_text("".join(Path("data.jsonl").read_text().splitlines(True)[:-1]))
    assert main([*base, "--data", "other.jsonl", "--like", "one/step10", "--output", "four"]) == 2
    assert not Path("four/curve.json").exists()


@pytest.mark.slow
def test_studies_like_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Influence, susceptibility and a profile take its settings and data, a profile all but γ; no other data."""
    given = ["--max-examples", "16", "--max-length", "16", "--num-chains", "2", "--num-draws", "24", "--quiet"]
    flags = ["--num-burnin-steps", "2", "--step-size", "1e-6", "--nbeta", "50", "--localization", "100", "--seed", "3"]
    assert main(["estimate", *given, *flags, "--output", "one"]) in (0, 3)
    one = LLCResult.load("one")
    like_it = ["--like", "one", "--quiet", "--output"]
    assert main(["influence", "--observe-examples", "4", *like_it, "influence"]) in (0, 3)
    found = LLCResult.load("influence/chains")
    assert (found.llc, found.data) == (one.llc, one.data)
    chi = ["susceptibility", "--components", "l0 attn", "--observe-examples", "2", *like_it, "chi"]
    assert main(chi) in (0, 3)
    assert LLCResult.load("chi/all").llc == one.llc and LLCResult.load("chi/l0_attn").step_size == one.step_size
    profile = [
        "profile",
        "--localizations",
        "200",
        "--hessian-probes",
        "2",
        "--hessian-iterations",
        "1",
        "--like",
        "one",
    ]
    assert main([*profile, "--max-steps", "60", "--quiet", "--output", "profile"]) in (0, 3)
    settings = json.loads(Path("profile/profile.json").read_text())["settings"]
    assert {name: settings[name] for name in ("nbeta", "seed", "num_chains", "localization")} == {
        "nbeta": 50, "seed": 3, "num_chains": 2, "localization": 200
    }  # fmt: skip
    assert main([*profile, "--nbetas", "20,30", "--max-steps", "60", "--quiet", "--output", "two"]) in (0, 3)
    assert {row["nbeta"] for row in json.loads(Path("two/profile.json").read_text())["rows"]} == {20, 30}
    for number, argv in enumerate((["influence"], chi[:3], profile[:3])):
        capsys.readouterr()
        assert main([*argv, "--like", "one", "--nbeta", "40", "--output", f"nbeta{number}"]) == 2
        assert "nbeta: 50.0 → 40.0" in capsys.readouterr().err and not Path(f"nbeta{number}").exists()
        other = Path("other.txt")
        other.write_text("other words\n\n" * 100)
        assert main([*argv, "--like", "one", "--data", str(other), "--output", f"data{number}"]) == 2
        assert "the run that like names" in capsys.readouterr().err and not Path(f"data{number}").exists()
