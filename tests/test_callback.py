"""λ̂ along training: what is logged, and that training does not notice."""

from __future__ import annotations

import doctest
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
import train_worker
import transformers
from forked import ROOT, run
from safetensors.torch import load_file
from worker import examples, network, squared_error

from hf_llc import LLCCallback, LLCEvaluator, LLCResult, SampleConfig
from hf_llc.callback import random_numbers_kept, tracked
from hf_llc.errors import InputError
from hf_llc.studies.shared_settings import keep_settings, kept_settings, with_settings

TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


class Seen(transformers.TrainerCallback):
    """A tracker, as report_to adds them."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))


def without_llc(log: list[dict[str, float]]) -> list[dict[str, float]]:
    """The log but for what the callback added and for times."""
    return [{k: v for k, v in entry.items() if k not in TIMES} for entry in log if "llc_trustworthy" not in entry]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> transformers.Trainer:
    """Training without the callback."""
    return train_worker.run(tmp_path_factory.mktemp("bare"), None)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("every", "steps"), [("epoch", [8, 16]), (5, [5, 10, 15]), ("save", [8, 16])])
def test_training_does_not_notice(
    bare: transformers.Trainer, tmp_path: Path, every: str | int, steps: list[int]
) -> None:
    """Dropout in every step, shuffled data: losses and weights equal bit for bit, and λ̂ where it was asked for."""
    seen = train_worker.run(tmp_path, every, save_strategy="epoch" if every == "save" else "no")
    trainer, callback = seen
    assert callback is not None and list(callback.results) == steps
    assert without_llc(trainer.state.log_history) == without_llc(bare.state.log_history)
    expected = bare.model.state_dict()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    found = [entry for entry in trainer.state.log_history if "llc_trustworthy" in entry]
    assert [entry["step"] for entry in found] == steps
    for entry, result in zip(found, callback.results.values(), strict=True):
        assert entry["llc"] == result.llc and entry["llc_se"] == result.llc_se
        assert entry["llc_trustworthy"] == float(result.is_trustworthy)
        assert entry["llc_init_loss"] == result.init_loss
    assert callback.results[steps[0]].llc != callback.results[steps[-1]].llc


@pytest.mark.slow
def test_trackers_get_it(tmp_path: Path) -> None:
    trainer, seen = train_worker.trainer(tmp_path, max_steps=4), Seen()
    trainer.add_callback(seen)  # before the callback, as those of report_to are
    callback = LLCCallback(trainer, every=2, data=train_worker.TEXTS, **train_worker.SETTINGS)
    trainer.add_callback(callback)
    trainer.train()
    found = [entry for entry in seen.logs if "llc" in entry]
    assert list(callback.results) == [2, 4]
    for entry, result in zip(found, callback.results.values(), strict=True):
        assert all(isinstance(value, (int, float)) for value in entry.values())
        assert (entry["llc"], entry["llc_se"], entry["llc_init_loss"]) == (result.llc, result.llc_se, result.init_loss)


@pytest.mark.slow
def test_one_training_has_one_law_also_when_it_is_resumed(tmp_path: Path) -> None:
    """γ, nβ, ε and friction are found once; a training resumed after that measurement goes on with them."""
    settings: dict[str, Any] = {
        "num_draws": 15,
        "max_steps": 60,
        "batch_size": 4,
        "max_length": 16,
        "check_localization": False,
    }

    def trained(resume: Path | None) -> LLCCallback:
        trainer = train_worker.trainer(tmp_path, max_steps=9, save_strategy="steps", save_steps=3)
        callback = LLCCallback(trainer, every="save", data=train_worker.TEXTS, **settings)
        trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return callback

    def law(result: LLCResult) -> list[Any]:
        names = ("nbeta", "localization", "step_size", "friction", "gradient", "batch_size", "num_burnin_steps")
        return [getattr(result, name) for name in names]

    first = trained(None)
    assert list(first.results) == [3, 6, 9] and first.results[3].calibration is not None
    for step in (6, 9):
        later = first.results[step]
        assert law(later) == law(first.results[3]) and later.calibration is None
        assert later.num_gradients < first.results[3].num_gradients
        assert later.num_gradients <= later.num_chains * 61 * 2  # a control variate doubles the cost of a step
    logged = [entry for entry in first.trainer.state.log_history if "llc_localization" in entry]
    assert {entry["llc_localization"] for entry in logged} == {first.results[3].localization}
    assert {entry["llc_nbeta"] for entry in logged} == {first.results[3].nbeta}
    resumed = trained(tmp_path / "trainer" / "checkpoint-3")
    assert {step: law(result) for step, result in resumed.results.items()} == {
        step: law(first.results[step]) for step in (6, 9)
    }
    assert [resumed.results[step].llc for step in (6, 9)] == [first.results[step].llc for step in (6, 9)]


@pytest.mark.slow
def test_what_is_kept_is_for_the_settings_asked_and_no_more() -> None:
    model, asked = network(), SampleConfig(num_chains=2, num_draws=40, localization=7.0)
    store: dict[str, Any] = {}
    common: dict[str, Any] = {"num_chains": 2, "num_draws": 40, "num_burnin_steps": 0}
    bad, good = (
        LLCEvaluator(step_size=step, **common).compute(model, data=examples(model), loss_fn=squared_error)
        for step in (10.0, 1e-3)
    )
    good = good.replace(verdict="trustworthy")
    assert not keep_settings(asked, bad, store, "x") and store == {}  # nothing is known of w* yet
    assert keep_settings(asked, good, store, "x") and not keep_settings(asked, good, store, "x")
    store = json.loads(json.dumps(store))
    assert with_settings(asked, kept_settings(asked, store, "x")).step_size == 1e-3
    assert kept_settings(replace(asked, localization=8.0), store, "x") == {}
    damages: list[Any] = [None, [], {"asked": 1}, {"asked": store["x"]["asked"], "used": 3}]
    for damaged in damages:
        assert kept_settings(asked, {"x": damaged}, "x") == {}
    assert keep_settings(asked, bad, store, "x")
    again = with_settings(asked, kept_settings(asked, store, "x"))
    assert again.step_size == "auto" and again.localization == bad.localization and again.nbeta == bad.nbeta


def test_numbers_for_trackers() -> None:
    model = network()
    common: dict[str, Any] = {"num_chains": 2, "num_draws": 40, "num_burnin_steps": 0}
    good = LLCEvaluator(step_size=1e-3, **common).compute(model, data=examples(model), loss_fn=squared_error)
    bad = LLCEvaluator(step_size=10.0, **common).compute(model, data=examples(model), loss_fn=squared_error)
    cost = {"llc_nbeta": good.nbeta, "llc_gradients": good.num_gradients, "llc_seconds": good.wall_seconds}
    assert tracked(good) == {
        "llc": good.llc, "llc_se": good.llc_se, "llc_init_loss": good.init_loss, **cost,
        "llc_localization": good.localization, "llc_trustworthy": float(good.verdict == "trustworthy"),
    }  # fmt: skip
    assert bad.verdict == "diverged"
    assert tracked(bad).keys().isdisjoint(("llc", "llc_se")) and tracked(bad)["llc_trustworthy"] == 0


def test_random_numbers_are_kept_whatever_a_loss_draws() -> None:
    def state() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    with random_numbers_kept():
        _ = random.random(), np.random.rand(), torch.rand(3)
        assert state() != before
    assert state() == before


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> transformers.Trainer:
    """A Trainer that does not train."""
    return train_worker.trainer(tmp_path_factory.mktemp("idle"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every is out of range"),
        ({"every": "step"}, "every is out of range"),
        ({"every": True}, "every is out of range"),
        ({"every": "save"}, "this Trainer saves nothing"),
        ({"num_chains": 0}, "num_chains"),
        ({"num_chain": 2}, "unknown setting 'num_chain' in LLCCallback; did you mean 'num_chains'"),
        ({"splitt": "train"}, "did you mean 'split'"),
        ({"output": "runs/x"}, "unknown setting 'output'"),
        ({"data_parallel": 2}, "data_parallel is not for a callback"),
        ({"data": "nowhere.jsonl"}, "no such data file"),
        ({"data": {"text": []}}, "empty"),
        ({"label_column": "score"}, "no such column, got 'score'"),
        ({"batch_size": 10**6}, "batch_size is larger than the data"),
        ({"name": " "}, "the callback's name is not a word"),
    ],
)
def test_refused_before_training(idle: transformers.Trainer, settings: dict[str, Any], message: str) -> None:
    """What can be known is not found out after an epoch."""
    before = torch.get_rng_state()
    with pytest.raises(InputError, match=message):
        LLCCallback(idle, **{"data": train_worker.TEXTS, **settings})
    assert torch.equal(torch.get_rng_state(), before) and all(p.requires_grad for p in idle.model.parameters())


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda model: model.to(torch.bfloat16), "bfloat16"),
    (lambda model: model.classifier.weight.data.fill_(float("nan")), "NaN or infinite, got 'classifier.weight'"),
])  # fmt: skip
def test_models_that_cannot_be_measured_are_refused_before_training(tmp_path: Path, spoil: Any, message: str) -> None:
    trainer = train_worker.trainer(tmp_path)
    spoil(trainer.model)
    with pytest.raises(InputError, match=message):
        LLCCallback(trainer, data=train_worker.TEXTS)


class Broken(Exception):
    """A fault with arguments of its own, which pickle cannot make again."""

    def __init__(self, response: object, *, code: int) -> None:
        super().__init__(f"code {code}")


FAULTS = [
    InputError("a weight is NaN or infinite", value="w"),
    RuntimeError("a fault that nobody foresaw"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to …"),
    Broken(None, code=3),
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_is_a_warning_and_training_goes_on(
    bare: transformers.Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Exception,
) -> None:
    """The fault comes after the chains, when weights, modes and gradients are those of the measurement."""

    def judge(*_: Any) -> Any:
        raise fault

    monkeypatch.setattr("hf_llc.workflow.run.Run.judge", judge)
    trainer, callback = train_worker.run(tmp_path, "epoch")
    assert callback is not None and callback.results == {}
    assert without_llc(trainer.state.log_history) == without_llc(bare.state.log_history)
    expected = bare.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())
    found = [entry for entry in trainer.state.log_history if "llc_trustworthy" in entry]
    assert [(entry["step"], entry["llc_trustworthy"]) for entry in found] == [(8, 0.0), (16, 0.0)]
    assert all(np.isnan(entry["llc"]) for entry in found)
    (record,) = [each for each in caplog.records if each.name == "hf_llc.callback"]  # once, though it failed twice
    assert record.levelname == "WARNING" and "could not be measured at step 8" in record.getMessage()
    assert str(fault)[:40] in record.getMessage() and "\n" not in record.getMessage()
    is_foreseen = isinstance(fault, (InputError, MemoryError)) or "memory" in str(fault)
    assert (record.exc_info is None) == is_foreseen


def test_weights_that_become_nan_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = train_worker.trainer(tmp_path, max_steps=4, learning_rate=1e38)
    trainer.add_callback(LLCCallback(trainer, every=2, data=train_worker.TEXTS, **train_worker.SETTINGS))
    trainer.train()
    assert trainer.state.global_step == 4
    assert [np.isnan(entry["llc"]) for entry in trainer.state.log_history if "llc" in entry] == [True, True]
    assert "a weight is NaN or infinite" in caplog.text


@pytest.mark.slow
def test_a_bad_verdict_comes_with_what_to_do_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = train_worker.trainer(tmp_path, max_steps=4)
    trainer.add_callback(LLCCallback(trainer, every=2, data=train_worker.TEXTS, **train_worker.SETTINGS))
    trainer.train()
    assert [entry["llc_trustworthy"] for entry in trainer.state.log_history if "llc" in entry] == [0, 0]
    (text,) = [each.getMessage() for each in caplog.records if each.name == "hf_llc.callback"]
    assert "llc is not to be trusted at step 2: not a minimum → not here, because the model has learnt nothing" in text


@pytest.mark.slow
def test_training_can_be_interrupted_while_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_llc.workflow.run.Run.judge", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_worker.run(tmp_path, "epoch")


@pytest.mark.slow
def test_a_part_of_the_weights(tmp_path: Path) -> None:
    """λ̂ of a head along training, which goes on with all weights as they were."""
    trainer = train_worker.trainer(tmp_path, max_steps=2)
    settings = {**train_worker.SETTINGS, "num_draws": 3, "check_localization": False}
    callback = LLCCallback(trainer, every=1, data=train_worker.TEXTS, weights="l0h1", **settings)
    trainer.add_callback(callback)
    trainer.train()
    assert [result.weights for result in callback.results.values()] == ["l0h1", "l0h1"]
    assert all(p.requires_grad for p in trainer.model.parameters())
    with pytest.raises(InputError, match="there is no l7"):
        LLCCallback(trainer, data=train_worker.TEXTS, weights="l7", name="other")


@pytest.mark.slow
def test_two_callbacks_have_names(tmp_path: Path) -> None:
    trainer = train_worker.trainer(tmp_path, max_steps=2)
    for name, count in (("train", 8), ("val", 6)):
        data = train_worker.TEXTS.select(range(count))
        trainer.add_callback(LLCCallback(trainer, every=np.int64(2), data=data, name=name, **train_worker.SETTINGS))
    with pytest.raises(InputError, match=r"has an LLCCallback of that name, got 'val'; give each a name"):
        LLCCallback(trainer, data=train_worker.TEXTS, name="val")
    trainer.train()
    found = {key for entry in trainer.state.log_history for key in entry if key.startswith("llc")}
    kinds = ("llc", "llc_se", "llc_init_loss", "llc_trustworthy", "llc_nbeta", "llc_localization", "llc_gradients")
    assert found == {f"{kind}/{name}" for kind in (*kinds, "llc_seconds") for name in ("train", "val")}
    kept = trainer.state.stateful_callbacks  # each goes on with its own nβ: their data differ in size
    assert kept["hf_llc/train"]["used"]["nbeta"] != kept["hf_llc/val"]["used"]["nbeta"]


def test_sharded_weights_are_refused(tmp_path: Path) -> None:
    trainer = train_worker.trainer(tmp_path)
    trainer.is_fsdp_enabled = True
    with pytest.raises(InputError, match=r"shards its weights.*FSDP.*hf-llc curve"):
        LLCCallback(trainer, data=train_worker.TEXTS)


@pytest.mark.slow
def test_example_for_an_accelerate_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The docstring's loop runs and logs at each epoch."""
    accelerator = accelerate.Accelerator(cpu=True)
    logged: dict[int, dict[str, float]] = {}
    monkeypatch.setattr(accelerator, "log", lambda values, step: logged.update({step: values}))
    model = network()
    inputs, labels = examples(model)
    pairs = inputs, labels + 0.5  # else w* would not move
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*pairs), batch_size=50)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    names = dict(locals(), LLCEvaluator=LLCEvaluator, tracked=tracked, squared_error=squared_error)
    text = LLCCallback.__doc__
    assert text is not None
    test = doctest.DocTestParser().get_doctest(text, names, "loop", None, 0)
    assert doctest.DocTestRunner().run(test).failed == 0
    found = LLCEvaluator(num_chains=2, num_draws=50).compute(
        accelerator.unwrap_model(model), data=pairs, loss_fn=squared_error
    )
    assert list(logged) == [0, 1]
    first, second, expected = (
        {key: value for key, value in values.items() if key != "llc_seconds"}
        for values in (logged[0], logged[1], tracked(found))
    )
    assert second == expected != first


def _train(output: Path, every: str | None, *more: str) -> dict[str, Any]:
    run(ROOT / "tests" / "train_worker.py", str(output), json.dumps(every), *more, processes=2)
    return json.loads((output / "record.json").read_text())


@pytest.mark.slow
def test_two_processes_do_not_notice_either(tmp_path: Path) -> None:
    """DistributedDataParallel on two processes: the same losses and weights, the chains on both."""
    bare = _train(tmp_path / "bare", None)
    measured = _train(tmp_path / "measured", "epoch")
    assert (bare["num_processes"], measured["num_processes"]) == (2, 2)
    assert measured["wrapped"] == "DistributedDataParallel"
    assert without_llc(measured["log"]) == without_llc(bare["log"])
    assert [value[1] for value in measured["llc"].values()] == [2, 2]
    assert [entry["llc"] for entry in measured["log"] if "llc" in entry] == [v[0] for v in measured["llc"].values()]
    one, two = (
        load_file(tmp_path / "bare" / "weights.safetensors"),
        load_file(tmp_path / "measured/weights.safetensors"),
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_fault_of_one_process_is_one_of_both(tmp_path: Path) -> None:
    """The chains of the second process fail in the first measurement: none waits for the other, and both train on."""
    bare = _train(tmp_path / "bare", None)
    measured = _train(tmp_path / "measured", "epoch", "fault")
    assert without_llc(measured["log"]) == without_llc(bare["log"])
    found = [entry["llc"] for entry in measured["log"] if "llc" in entry]
    assert len(found) == 2 and np.isnan(found[0]) and np.isfinite(found[1])
