"""A run's folder: what is on disk is this run's and whole, or it is refused in one line (tests/folder_torture.py)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worker import SETTINGS, examples, network, squared_error

from hf_llc import LLCEvaluator
from hf_llc.calibration import minimize as minimizer
from hf_llc.chains.chain_store import ChainStore
from hf_llc.errors import InputError
from hf_llc.posterior.kept_losses import KeptLosses
from hf_llc.result import LLCResult
from hf_llc.workflow import estimate_model, run, run_folder, run_record
from hf_llc.workflow.folder_lock import FolderLock

SHORT = {**SETTINGS, "num_chains": 2, "num_draws": 30, "num_burnin_steps": 30, "chain_batch_size": 1}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and no file of the run is put right on its way."""


def compute(output: Path, *, model: nn.Module | None = None, loss_fn: Any = squared_error, **settings: Any) -> Any:
    where = {name: settings.pop(name) for name in ("overwrite", "resume") if name in settings}
    model = network() if model is None else model
    data = examples(network())
    return LLCEvaluator(**{**SHORT, **settings}).compute(model, data=data, loss_fn=loss_fn, output=output, **where)


def llc_of(result: Any) -> tuple[float, list[float]]:
    return result.llc, result.llc_per_chain


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    compute(folder)
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed when its chains had ended, and before its result was written."""
    return killed_before_its_result(tmp_path_factory.mktemp("begun") / "run")


def killed_before_its_result(folder: Path) -> Path:
    """The folder of a run whose chains had ended when it was killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate_model, "save", killed)
        with pytest.raises(Killed):
            compute(folder)
    return folder


def killed(*_: Any, **__: Any) -> Any:
    raise Killed


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "run"))


def states(folder: Path) -> list[Path]:
    return sorted(folder.rglob("chains-*.safetensors"))


def one_line(error: BaseException) -> bool:
    return "\n" not in str(error)


# F1: kills in --overwrite


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "kind", "at"),
    [
        *(("whole", "unlink", at) for at in range(3)),
        *((old, "write", at) for old in ("whole", "begun") for at in range(2)),
        ("begun", "unlink", 0),
        ("begun", "write", 2),
    ],
)
def test_a_kill_while_overwriting_never_mixes_runs(
    old: str, kind: str, at: int, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes at the at-th removal or write; then the same command without overwrite ends as if undisturbed."""
    folder, calls = copy_of(request.getfixturevalue(old), tmp_path), 0
    victim, name = (Path, "unlink") if kind == "unlink" else (run_record, "write_json")
    original = getattr(victim, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        if calls == at:
            raise Killed
        calls += 1
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(victim, name, counted)
        try:
            compute(folder, overwrite=True, localization=9.0)
        except Killed:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))["asked"]
        else:
            record = {"localization": 9.0}
    again = compute(folder, localization=record["localization"])
    assert llc_of(again) == llc_of(compute(tmp_path / "fresh", localization=record["localization"]))
    assert not list(folder.glob(".*"))


def test_an_old_result_is_not_shown_for_a_run_that_has_begun_anew(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "sweep", killed)
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(Killed):
            compute(folder, overwrite=True, localization=9.0)
    with pytest.raises(InputError, match="of another run than its folder"):
        LLCResult.load(folder)


# F2: files that are not ours


@pytest.mark.parametrize("name", ["result.json", "card.md", "trace.png", "trace.safetensors", "run.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_are_refused_and_stay(name: str, overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"mine": 1}')
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "notes").write_text("mine")
    with pytest.raises(InputError, match=f"{name}, which hf_llc did not write"):
        compute(tmp_path, overwrite=overwrite)
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted([name, "notes", "state"])


@pytest.mark.slow
def test_a_state_folder_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "chains.txt").write_text("mine")
    compute(tmp_path)
    compute(tmp_path, overwrite=True)
    assert (tmp_path / "state" / "chains.txt").read_text() == "mine"


# F3: another model or loss


def doubled(outputs: Tensor, labels: Tensor) -> Tensor:
    return ((outputs - labels) ** 2).sum(-1)


doubled.__qualname__ = squared_error.__qualname__


def gelu() -> nn.Module:
    model = network()
    model[1] = nn.GELU()  # type: ignore[index]
    return model


def frozen() -> nn.Module:
    model = network()
    model[0].weight.requires_grad_(False)  # type: ignore[index]
    return model


class Scaled(nn.Sequential):
    """As the network, but for what a hash of its weights cannot see."""

    def forward(self, input: Tensor) -> Tensor:
        return 1.01 * super().forward(input)


Scaled.__qualname__ = "Sequential"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"loss_fn": doubled}, "another run .*the model or loss_fn: other losses"),
        ({"model": Scaled(*network().children())}, "another run .*other losses"),
        ({"model": gelu()}, "another run .*fingerprint"),
        ({"model": frozen()}, "another run .*fingerprint"),
        ({"model": network().double()}, "another run .*fingerprint"),
    ],
    ids=["loss", "forward", "activation", "frozen", "type"],
)
@pytest.mark.parametrize("folder", ["whole", "begun"])
def test_another_model_or_loss_is_another_run(
    folder: str, changes: dict[str, Any], match: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if changes.get("model") is not None and next(changes["model"].parameters()).dtype == torch.float64:
        changes = {**changes, "loss_fn": lambda outputs, labels: squared_error(outputs.float(), labels)}
        changes["model"][0].register_forward_pre_hook(lambda _, args: (args[0].double(),))
    with pytest.raises(InputError, match=match) as caught:
        compute(copy_of(request.getfixturevalue(folder), tmp_path), **changes)
    assert one_line(caught.value)


def test_the_model_is_left_as_found_by_the_comparison(whole: Path, tmp_path: Path) -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    compute(copy_of(whole, tmp_path), model=model)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


# F6: two runs at once


def test_the_second_run_in_a_folder_is_refused(begun: Path, tmp_path: Path) -> None:
    folder = copy_of(begun, tmp_path)
    other = FolderLock(folder)
    other.acquire()
    options: dict[str, Any]
    for options in ({}, {"overwrite": True}, {"resume": True}, {"localization": 9.0}):
        with pytest.raises(InputError, match="another run is at work in the output folder"):
            compute(folder, **options)
    other.release()
    compute(folder)
    assert not (folder / ".hf_llc").exists()


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    first.path.unlink()
    second.acquire()  # as the first: nobody else can find its file
    first.release()  # which leaves the second's file
    with pytest.raises(InputError, match="another run is at work"):
        FolderLock(tmp_path).acquire()
    second.release()
    assert not list(tmp_path.iterdir())


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        compute(tmp_path / "a" / "b", resume=True)
    assert not (tmp_path / "a").exists()


# F7: states that are not as they were written


def flip(path: Path, at: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def swap(folder: Path) -> None:
    one, other = states(folder)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def rewrite(folder: Path) -> None:
    """A well-formed state with NaN for weights."""
    path = states(folder)[0]
    store = ChainStore(path.parent)
    from safetensors.torch import load_file, save_file

    saved = load_file(path)
    saved["w"] = torch.full_like(saved["w"], torch.nan)
    save_file(saved, store.path([0]))


def alien_decision(folder: Path) -> None:
    (states(folder)[0].parents[1] / "calibration.json").write_text('{"step_size": 1}')


def changed_decision(folder: Path) -> None:
    path = next(folder.rglob("descent-*.json"))
    read = json.loads(path.read_text(encoding="utf-8"))
    read["value"][next(iter(read["value"]))] = 7.5
    path.write_text(json.dumps(read), encoding="utf-8")


STATES: dict[str, Callable[[Path], Any]] = {
    "one bit of the weights": lambda folder: flip(states(folder)[0]),
    "one bit of the header": lambda folder: flip(states(folder)[0], 20),
    "shortened": lambda folder: states(folder)[0].write_bytes(states(folder)[0].read_bytes()[:-8]),
    "empty": lambda folder: states(folder)[0].write_bytes(b""),
    "swapped": swap,
    "NaN": rewrite,
    "a decision from elsewhere": alien_decision,
    "a number of a decision": changed_decision,
    "a decision that is no JSON": lambda folder: (states(folder)[0].parents[1] / "batching.json").write_text("{"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", STATES.values(), ids=STATES.keys())
def test_a_changed_state_is_refused(
    change: Callable[[Path], Any], begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(begun, tmp_path)
    change(folder)
    monkeypatch.setattr(run, "forecast", killed)  # it is refused before any work, and before anything is said of it
    with pytest.raises(InputError, match=r"a saved state is damaged, or of another run.*; use overwrite") as caught:
        compute(folder)
    assert one_line(caught.value)
    monkeypatch.undo()
    compute(folder, overwrite=True)


def test_a_state_that_is_gone_is_made_again(begun: Path, whole: Path, tmp_path: Path) -> None:
    folder = copy_of(begun, tmp_path)
    states(folder)[0].unlink()
    (folder / ".card.md.abcdefgh.md").touch()
    assert llc_of(compute(folder)) == llc_of(LLCResult.load(whole))
    assert not list(folder.glob(".*"))


def test_a_changed_record_is_refused(begun: Path, tmp_path: Path) -> None:
    folder = copy_of(begun, tmp_path)
    text = (folder / "run.json").read_text(encoding="utf-8")
    for changed in (text.replace('"localization": 5.0', '"localization": 9.0'), text[:-20], "", "[]"):
        (folder / "run.json").write_text(changed, encoding="utf-8")
        with pytest.raises(InputError, match="the run's record is damaged"):
            compute(folder, localization=9.0)


# finished folders


RESULTS: dict[str, Callable[[Path], Any]] = {
    "λ̂": lambda folder: edit(folder, '"llc": ', '"llc": 1'),
    "no JSON": lambda folder: edit(folder, "{", ""),
    "trace flipped": lambda folder: flip(folder / "trace.safetensors"),
    "trace gone": lambda folder: (folder / "trace.safetensors").unlink(),
    "trace of nothing": lambda folder: (folder / "trace.safetensors").write_bytes(b""),
    "result is a folder": lambda folder: [(folder / "result.json").unlink(), (folder / "result.json").mkdir()],
    "nested": lambda folder: (folder / "result.json").write_text("[" * 100_000),
}


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "result.json").read_text(encoding="utf-8")
    assert old in text
    (folder / "result.json").write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize("change", RESULTS.values(), ids=RESULTS.keys())
def test_a_changed_result_is_refused(change: Callable[[Path], Any], whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path)
    change(folder)
    with pytest.raises(InputError) as caught:
        LLCResult.load(folder)
    assert one_line(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("llc", "a"), ("llc", [1]), ("n", 0), ("n", -1), ("n", 10**400), ("n", 1.5), ("n", True), ("nbeta", 0)),
        *(("llc_per_chain", "abc"), ("llc_per_chain", ["x"]), ("reasons", [1]), ("reasons", [{"nome": "x"}])),
        *(("plateau", []), ("localization_sensitivity", {"halved": 1}), ("model", "x"), ("versions", {"torch": 3})),
        *(("verdict", None), ("minimize", {"distance": "far"}), ("calibration", 3), ("seed", None), ("device", {})),
    ],
)
def test_wrong_types_in_a_result_without_a_seal_are_refused(name: str, value: Any, whole: Path, tmp_path: Path) -> None:
    values = json.loads((whole / "result.json").read_text(encoding="utf-8"))
    del values["seal"]
    (tmp_path / "result.json").write_text(json.dumps({**values, name: value}))
    with pytest.raises(InputError, match=f"damaged: a wrong {name}") as caught:
        LLCResult.load(tmp_path)
    assert one_line(caught.value) and "result.json" in str(caught.value)


# folders of an older form


def test_a_finished_folder_of_the_older_form_is_shown_and_not_gone_on_with(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path)
    values = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    del values["seal"]
    (folder / "result.json").write_text(json.dumps(values))
    old = json.loads((folder / "run.json").read_text(encoding="utf-8"))["asked"]
    (folder / "run.json").write_text(json.dumps(old))
    assert llc_of(LLCResult.load(folder)) == llc_of(LLCResult.load(whole))
    with pytest.raises(InputError, match="of another version of hf_llc"):
        compute(folder)
    compute(folder, overwrite=True)


def test_a_result_is_not_saved_into_the_folder_of_another_run(whole: Path, begun: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="that of another run"):
        LLCResult.load(whole).save(copy_of(begun, tmp_path))


# minimize


@pytest.mark.slow
def test_finished_attempts_of_the_minimizer_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L_n is at its minimum, so that no attempt lowers it; the kill comes after the third."""
    steps: list[int] = []
    gradient = minimizer.Posterior.gradient

    def counted(posterior: Any, *arguments: Any) -> Any:
        steps.append(1)
        return gradient(posterior, *arguments)

    settings: dict[str, Any] = {"minimize": True, "minimize_steps": 20, "save_seconds": 0.0}
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "close", lambda _: None)
        patch.setattr(estimate_model, "save", killed)
        with pytest.raises(Killed):
            compute(tmp_path / "run", **settings)
    monkeypatch.setattr("hf_llc.workflow.forecast.seconds_of_gradient", lambda posterior, size: 0.01)
    monkeypatch.setattr(minimizer.Posterior, "gradient", counted)
    again = compute(tmp_path / "run", **settings)
    assert again.minimize["num_gradients"] == 60 and len(steps) == 0
    assert again.minimize["learning_rate"] == 0.0


def test_an_unfinished_run_goes_on_with_another_limit_and_a_finished_one_does_not(tmp_path: Path) -> None:
    folder = run_folder.RunFolder(tmp_path / "run")
    folder.begin({"seed": 1, "max_seconds": 30.0, "save_seconds": 20.0}, overwrite=False)
    again = run_folder.RunFolder(tmp_path / "run")
    again.check({"seed": 1, "max_seconds": 300.0, "save_seconds": 1.0}, resume=None, overwrite=False)
    with pytest.raises(InputError, match=r"another run \(seed"):
        again.check({"seed": 2, "max_seconds": 300.0, "save_seconds": 20.0}, resume=None, overwrite=False)


def test_a_run_that_has_ended_says_that_its_chains_are_gone(tmp_path: Path) -> None:
    compute(tmp_path, max_seconds=1e5)
    with pytest.raises(InputError, match=r"this run, which has ended \(max_seconds: .* → .*\): its chains are gone"):
        compute(tmp_path, max_seconds=2e5)
    with pytest.raises(InputError, match=r"another run \(max_seconds: .*; seed: 0 → 1\)"):
        compute(tmp_path, max_seconds=2e5, seed=1)


# L_n(w*)


@pytest.mark.slow
def test_a_kill_within_the_losses_at_w_star_does_not_begin_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """203 examples in passes of 10; the kill comes after the eighth. The resumed run has the other 13, and the bits."""
    settings: dict[str, Any] = {"micro_batch_size": 10, "save_seconds": 0.0}
    passes: list[int] = []
    write = KeptLosses.write

    def counted(kept: KeptLosses, parts: Any, *, is_last: bool) -> None:
        passes.append(len(parts))
        write(kept, parts, is_last=is_last)
        if len(passes) == 8:
            raise Killed

    monkeypatch.setattr(KeptLosses, "write", counted)
    with pytest.raises(Killed):
        compute(tmp_path / "run", **settings)
    assert (tmp_path / "run" / "run.json").exists()
    again = compute(tmp_path / "run", **settings)
    assert len(passes) == 8 + 13
    assert llc_of(again) == llc_of(compute(tmp_path / "whole", **settings))


def test_a_loss_that_is_not_finite_leaves_no_folder_behind(tmp_path: Path) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return squared_error(outputs, labels) / (labels[:, 0] != labels[:, 0].max()).float().clamp_max(1)

    x, y = examples(network())
    y = torch.cat([y, y[:1] + 100])
    with pytest.raises(InputError, match="not finite"):
        LLCEvaluator(**SETTINGS).compute(  # type: ignore[arg-type]
            network(), data=(torch.cat([x, x[:1]]), y), loss_fn=loss, output=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()
