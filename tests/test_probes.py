"""Losses of fixed examples along the chains: what they are, where they are kept, and that they change no draw."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from worker import SETTINGS, examples, network, squared_error

from hf_llc import LLCEvaluator, LLCResult
from hf_llc.chains import run_chains
from hf_llc.config import SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.judging.susceptibility import susceptibility
from hf_llc.observables.probe import Probe
from hf_llc.observe_setting import checked_observe, observe_name, split_of
from hf_llc.publishing.xarray_export import named_arrays
from hf_llc.studies.measure_susceptibility import _contrasts
from hf_llc.workflow.observed import check_records_fit

FEW: dict[str, Any] = {**SETTINGS, "sampler": "sgld", "num_burnin_steps": 6, "num_draws": 12, "observe_every": 3}


def others() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(9, 6, generator=torch.Generator().manual_seed(5)), torch.zeros(9, 2)


def estimate(output: Path | None = None, **settings: Any) -> LLCResult:
    model = network()
    evaluator = LLCEvaluator(**{**FEW, **settings})
    return evaluator.compute(model, examples(model), loss_fn=squared_error, output=output, progress=False)


def language(output: Path | None = None, **settings: Any) -> LLCResult:
    model = tiny.llama()
    data = Dataset.from_dict({"text": tiny.SENTENCES * 3})
    few = {"num_chains": 2, "num_draws": 4, "num_burnin_steps": 2, "step_size": 1e-5, "localization": 10.0}
    evaluator = LLCEvaluator(**{**few, "check_localization": False, "observe_every": 2, **settings})
    keywords: dict[str, Any] = {"tokenizer": tiny.tokenizer(), "max_length": 8, "output": output, "progress": False}
    return evaluator.compute(model, data, **keywords)


def test_losses_are_those_of_the_examples_above_w_star() -> None:
    """A full-batch chain's own loss is the mean of its examples' losses."""
    result = estimate(observe={"train": "@data", "far": others()}, observe_examples=203, batch_size="full")
    seen, trace = result.observations, result.trace
    assert seen is not None and trace is not None
    assert seen.values["train"].shape == (3, 6, 203) and seen.values["far"].shape == (3, 6, 9)
    rise = trace.loss[:, ::3] - trace.init_loss[:, ::3]
    np.testing.assert_allclose(seen.values["train"].mean(-1), rise, rtol=1e-4, atol=1e-7)
    x, y = others()
    expected = squared_error(network()(x), y).detach()
    np.testing.assert_allclose(seen.init["far"], expected, rtol=1e-5)
    assert (seen.values["far"][:, 0] == 0).all() and (seen.values["far"][:, 1:] != 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"chain_batch_size": 3}, {"step_in_backward": True}])
def test_no_draw_changes(settings: dict[str, Any]) -> None:
    seen, plain = estimate(observe={"far": others()}, **settings), estimate(**settings)
    assert seen.trace is not None and plain.trace is not None
    np.testing.assert_array_equal(seen.trace.loss, plain.trace.loss)
    assert seen.llc == plain.llc


@pytest.mark.slow
def test_by_token_and_by_example_agree_and_are_kept(tmp_path: Path) -> None:
    probes = {"train": "@data", "other": Dataset.from_dict({"text": tiny.SENTENCES[::-1] * 2})}
    by_token = language(tmp_path, observe=probes, observe_loss="token", observe_examples=5)
    by_example = language(observe=probes, observe_examples=5)
    loaded = LLCResult.load(tmp_path).observations
    assert by_token.observations is not None and by_example.observations is not None and loaded is not None
    for name in probes:
        tokens = by_token.observations.values[name]
        assert tokens.shape == (2, 3, 5, 7)
        np.testing.assert_allclose(tokens.sum(-1), by_example.observations.values[name], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(loaded.values[name], tokens)
        np.testing.assert_array_equal(loaded.init[name], by_token.observations.init[name])
        assert loaded.inputs[name].shape == (5, 8)
    own = by_example.observations.init["train"].mean() / 7
    assert own == pytest.approx(by_example.init_loss, rel=0.3)  # nats a token, of other windows


class _Kill(Exception):
    pass


@pytest.mark.slow
def test_resumed_bit_for_bit_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimate(tmp_path / "whole", observe={"far": others()})
    real, calls = run_chains.ChainStore.save, []

    def dying(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise _Kill
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(run_chains.ChainStore, "save", dying)
        patch.setattr("hf_llc.parallel.pacing._FLUSH_STEPS", 5)
        with pytest.raises(_Kill):
            estimate(tmp_path / "cut", observe={"far": others()}, save_seconds=0.0)
    with pytest.raises(InputError, match="holds another run"):  # the same name, other examples
        estimate(tmp_path / "cut", observe={"far": (others()[0] + 1, others()[1])}, save_seconds=0.0)
    resumed = estimate(tmp_path / "cut", observe={"far": others()}, save_seconds=0.0)
    assert whole.observations is not None and resumed.observations is not None
    np.testing.assert_array_equal(whole.observations.values["far"], resumed.observations.values["far"])
    asked = json.loads((tmp_path / "cut" / "run.json").read_text(encoding="utf-8"))["asked"]
    assert asked["observe"] == "far=<tuple>" and len(asked["observed"]["far"]) > 10


def test_minimize_moves_the_reference() -> None:
    def shift(model: Any) -> torch.Tensor:
        return model[0].bias

    model = network()
    x, y = examples(model)
    settings: dict[str, Any] = {"minimize": True, "minimize_steps": 20, "batch_size": "full"}
    evaluator = LLCEvaluator(**{**FEW, **settings, "observe": {"far": others(), "bias": shift}})
    result = evaluator.compute(model, (x, y + 0.3), loss_fn=squared_error, progress=False)
    assert result.minimize is not None and result.minimize["distance"] > 0.01
    assert result.observations is not None and (result.observations.values["far"][:, 0] == 0).all()
    assert result.observations.values["bias"].shape == (3, 6, 8)


def test_text_and_python_are_one_setting() -> None:
    text = checked_observe("norms, code=hub/id:test[:5,10], train = @data")
    assert text == {"norms": None, "code": "hub/id:test[:5,10]", "train": "@data"}
    assert observe_name(text) == "norms, code=hub/id:test[:5,10], train=@data"
    assert checked_observe("parameter_norms") == "parameter_norms" and checked_observe(None) is None
    assert split_of("hub/id:test[:10%]") == ("hub/id", "test[:10%]") and split_of("a/b") == ("a/b", None)
    assert observe_name({"x": ("hub/id", "test")}) == "x=hub/id:test"
    assert observe_name({"x": {"data": "hub/id", "split": "test"}}) == "x=hub/id:test"
    assert observe_name({"x": str(Path(__file__))}) == "x=test_probes.py"  # no path into a file
    assert not {"observe_loss", "observe_examples"} & as_dict(SampleConfig()).keys()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"observe": "a=@data,a=@data"}, "gives two things the same name, got 'a'"),
        ({"observe": "a b=@data"}, "a name that is not allowed, got 'a b'"),
        ({"observe": "a="}, "no data after a="),
        ({"observe": "norms,a=@data"}, "unknown observable, got 'norms'"),
        ({"observe": {}}, "names nothing"),
        ({"observe": {3: "@data"}}, "that is not allowed, got 3"),
        ({"observe": {"a": 3}}, "observe a: "),
        ({"observe": {"a": ("x", "y", "z")}}, r"observe a is not data, got \('x', 'y', 'z'\)"),
        ({"observe": {"a": {"data": "x", "spilt": "y"}}}, "unknown setting, got 'spilt'"),
        ({"observe": "a=no/such_file.txt"}, "observe a: "),
        ({"observe": {"a": others()}, "observe_loss": "token"}, "an example has one loss"),
        ({"observe": "a=@data", "observe_loss": "tokens"}, "observe_loss has a value of the wrong kind"),
        ({"observe": "a=@data", "observe_examples": 1}, "observe_examples is out of range, got 1"),
        ({"observe": "a=@data", "observe_every": 0}, "observe_every is out of range, got 0"),
        ({"observe": {"a": (others()[0][:, :3], others()[1])}}, "observe a: "),
        ({"observe": {"a": lambda model: "x"}}, "not return a tensor of real numbers"),
        ({"observe": 3}, "wrong kind"),
    ],
)
def test_bad_input_is_one_line_before_any_chain(
    settings: dict[str, Any], match: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_chains, "take_step", lambda *args: pytest.fail("refused too late"))
    with pytest.raises(InputError, match=match) as caught:
        estimate(tmp_path / "x", **settings)
    assert "\n" not in str(caught.value)


def test_what_will_not_fit_is_refused(tmp_path: Path) -> None:
    from hf_llc.config import LoadConfig
    from hf_llc.loading.problem_loader import load_problem

    model = network()
    problem = load_problem(model, examples(model), LoadConfig(), loss_fn=squared_error)
    probe = Probe(problem, level="example", count=50)
    probe.start(model)
    sample = SampleConfig(num_chains=4, num_draws=100, num_burnin_steps=100, observe_every=2)
    sizes = {"sample": sample, "folder": tmp_path / "new", "processes": 1}
    assert check_records_fit({"a": probe}, model, **sizes) == 4 * 50 * 100 * 4
    with pytest.raises(InputError, match=r"too large for the disk, got '2 × 7\.451e-5 GiB'.*raise observe_every"):
        check_records_fit({"a": probe}, model, **sizes, free=lambda folder: 4 * 80_000 - 1)
    with pytest.raises(InputError, match="too large for the memory"):
        check_records_fit({"a": probe}, model, **{**sizes, "processes": 10**9})


@pytest.mark.slow
def test_tree_with_devinterp_s_names(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    result = language(observe={"code": "@data"}, observe_loss="token", observe_examples=5)
    tree = result.to_xarray()
    assert tree["loss_code"].dims == ("chain", "draw", "batch_code", "token_pos")
    assert tree["sampling_loss"].dims == ("chain", "draw", "batch", "token_pos") and tree.attrs["completed"] == 1
    assert tree["input_ids_code"].dims == ("batch_code", "token") and tree["init_loss"].dims == ("chain", "token_pos")
    assert result.observations is not None
    kept = result.observations.values["code"][:, 1:] + result.observations.init["code"]
    np.testing.assert_array_equal(tree["loss_code"], kept)
    pytest.importorskip("zarr")
    read = xarray.open_datatree(result.to_zarr(tmp_path / "x.zarr"), engine="zarr", consolidated=False)
    np.testing.assert_array_equal(read["loss_code"], kept)
    assert read.attrs["metadata"]["config"]["sampler"]["nbeta"] == result.nbeta
    with pytest.raises(InputError, match="zarr store exists already"):
        result.to_zarr(tmp_path / "x.zarr")


def test_arrays_of_the_tree_without_xarray() -> None:
    """Records after burn-in, absolute; the minibatch's loss before the same step; NaN where a row has no such token."""
    rng = np.random.default_rng(0)
    values = {"token": rng.random((2, 4, 5, 3)), "example": rng.random((2, 4, 6)), "norm": rng.random((2, 4))}
    init = {"token": rng.random((5, 3)), "example": rng.random(6)}
    seen = SimpleNamespace(values=values, init=init, inputs={}, steps=np.array([0, 3, 6, 9]))
    loss = rng.random((2, 12))
    trace = SimpleNamespace(loss=loss, shape=loss.shape)
    result = SimpleNamespace(trace=trace, observations=seen, num_burnin_steps=6, init_loss=0.5)
    named, steps, of = named_arrays(cast(LLCResult, result))
    assert steps.tolist() == [6, 9] and of == "all data" and (named["init_loss"][1] == 0.5).all()
    np.testing.assert_array_equal(named["loss_token"][1], values["token"][:, 2:] + init["token"])
    example = named["loss_example"][1]
    np.testing.assert_array_equal(example[..., 0], values["example"][:, 2:] + init["example"])
    assert np.isnan(example[..., 1:]).all() and example.shape == (2, 2, 6, 3)
    np.testing.assert_array_equal(named["norm"][1], values["norm"][:, 2:])
    np.testing.assert_array_equal(named["sampling_loss"][1], np.repeat(loss[:, [6, 9], None, None], 3, axis=3))


def exported(sampling_task: str | None = None, **settings: Any) -> tuple[dict[str, Any], LLCResult, str]:
    probes = {"train": "@data", "other": Dataset.from_dict({"text": tiny.SENTENCES[::-1] * 2})}
    result = language(
        observe=probes, observe_loss="token", observe_examples=5, num_draws=24, observe_every=1, **settings
    )
    named, _, of = named_arrays(result, sampling_task=sampling_task)
    return {name: values for name, (_, values) in named.items()}, result, of


@pytest.mark.slow
def test_devinterp_s_susceptibilities_of_what_is_exported_are_ours() -> None:
    """Its formula, by hand: E[φ L] − E[φ ℓ] − E[φ](E_F L − E_F ℓ), φ = L − mean of `init_loss`."""
    (part, ours, of), (full, whole, _) = exported(weights="l0h1"), exported()
    assert of == "train"
    phi = part["loss_train"].mean(axis=(2, 3)) - part["init_loss"].mean()
    parts = [(phi[..., None, None] * part[name]).mean(axis=(0, 1)) for name in ("loss_train", "loss_other")]
    shift = full["loss_train"].mean() - full["loss_other"].mean(axis=(0, 1))
    theirs = parts[0].mean() - parts[1] - phi.mean() * shift
    chosen = {name: np.ones((5, 7), dtype=bool) for name in ("train", "other")}
    phi_ours, delta = _contrasts(ours, chosen)
    found = susceptibility(phi_ours, delta, _contrasts(whole, chosen)[1])
    np.testing.assert_allclose(found.chi[35:], theirs.ravel(), atol=1e-5 * np.abs(theirs).max() + 1e-12)
    assert part["init_loss"].mean() != ours.init_loss


@pytest.mark.slow
def test_what_init_loss_is_of() -> None:
    named, result, of = exported("other")
    assert result.observations is not None and of == "other"
    assert (named["init_loss"] == result.observations.init["other"].mean()).all()
    plain = estimate(observe={"far": others()})
    named_plain, _, of = named_arrays(plain)
    assert of == "all data" and (named_plain["init_loss"][1] == plain.init_loss).all()
    with pytest.raises(InputError, match="no losses of that name were observed, got 'near'; allowed: far"):
        named_arrays(plain, sampling_task="near")


@pytest.mark.slow
def test_the_guide_s_python_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    guide = Path(__file__).parents[1] / "docs" / "influence.md"
    block = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    exec(compile(block, str(guide), "exec"), {})


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(InputError, match=r"xarray is not installed; pip install 'hf_llc\[xarray\]'"):
        estimate(num_draws=4, num_burnin_steps=0, num_chains=1).to_xarray()
