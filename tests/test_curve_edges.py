"""Curves of checkpoints of which some are broken, or are none, or have no step."""

from __future__ import annotations

import csv
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from curve_factory import series
from safetensors.torch import load_file, save_file
from test_curve import FLAGS
from worker import examples, network, squared_error

from hf_llc.cli.entry_point import main
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.progress import Watch
from hf_llc.publishing.result_folder import read_curve
from hf_llc.ranges import Range
from hf_llc.result import LLCResult
from hf_llc.studies import measure_curve
from hf_llc.studies.checkpoint_series import Checkpoint, checkpoint_folders
from hf_llc.studies.series_left import SeriesLeft, faults_of
from hf_llc.workflow import opened_run
from hf_llc.workflow.folder_lock import FolderLock

FAST = [*FLAGS, "--step-size", "1e-3", "--num-draws", "20", "--num-burnin-steps", "5", "--no-check-localization"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)


def run(files: list[str], *more: str) -> int:
    data = str(Path(files[0]).parent / "data.jsonl")
    given = ["--weight-files", *files, "--factory", "curve_factory:make", "--data", data, "--output", "out"]
    return main(["curve", *given, *FAST, *more])


def spoil(file: str, kind: str) -> None:
    path = Path(file)
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "a pointer of git-lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "other shapes":
        save_file({name: x[:1].clone() for name, x in load_file(path).items()}, path)
    else:
        assert kind == "NaN"
        save_file({name: x * torch.nan for name, x in load_file(path).items()}, path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cut off", "a pointer of git-lfs", "empty", "other shapes", "NaN"])
@pytest.mark.parametrize("place", [0, 2], ids=["first", "last"])
def test_one_broken_checkpoint_does_not_cost_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, place: int
) -> None:
    """Not even the last one, on which the others would be calibrated."""
    files = series(tmp_path)
    spoil(files[place], kind)
    assert run(files) == 3
    broken, whole = Path(files[place]).stem, [Path(file).stem for i, file in enumerate(files) if i != place]
    out, err = capsys.readouterr()
    values = json.loads(Path("out/curve.json").read_text())
    assert [point["name"] for point in values["points"]] == whole and list(values["failed"]) == [broken]
    assert values["calibrated_on"] == whole[-1]
    assert f"{broken}: not measured: " in err and f"not measured: {broken}: " in out and "Traceback" not in err
    assert str(tmp_path) not in values["failed"][broken]
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*/result.json")}
    assert run(files) == 3  # again: nothing is measured twice
    assert {path: path.stat().st_mtime_ns for path in Path("out").glob("*/result.json")} == before


@pytest.mark.slow
def test_all_are_looked_at_before_the_first_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = series(tmp_path)
    spoil(files[0], "cut off")
    run(files)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert lines[0].startswith("step2: not measured") and len(lines) == 3


def test_too_few_whole_ones_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = series(tmp_path)
    spoil(files[1], "empty")
    capsys.readouterr()
    assert run(files[1:]) == 2
    err = capsys.readouterr().err
    assert "a curve needs two checkpoints or more" in err and "step10: the weights file is damaged" in err
    assert len(err.splitlines()) == 1
    assert not Path("out").exists()


def test_bad_data_is_no_fault_of_the_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = series(tmp_path, (1, 2, 3, 4, 5))
    (tmp_path / "data.jsonl").write_text('{"x": [1.0, 2.0]}\n')
    capsys.readouterr()
    assert run(files) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not Path("out").exists()


@pytest.mark.slow
def test_positions_never_pass_for_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = series(tmp_path, (1, 2))
    named = [str(Path(file).rename(tmp_path / f"{name}.safetensors")) for file, name in zip(files, "ab", strict=True)]
    run(named, "--quiet")
    values = json.loads(Path("out/curve.json").read_text())
    assert values["axis"] == "position" and [point["step"] for point in values["points"]] == [0, 1]
    assert capsys.readouterr().out.splitlines()[0].split()[0] == "position"
    (header, *_) = csv.reader(Path("out/curve.csv").read_text(encoding="utf-8").splitlines())
    assert header[:2] == ["position", "name"]
    curve = read_curve(next(Path("out").rglob("result.json")).parent)
    assert curve is not None and curve["axis"] == "position"


@pytest.mark.slow
def test_a_checkpoint_without_a_step_is_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = series(tmp_path, (1, 2, 3))
    last = str(Path(files[2]).rename(tmp_path / "final.safetensors"))
    run([*files[:2], last])
    out, err = capsys.readouterr()
    assert "final: skipped: no step in its name" in err and "skipped: final: no step in its name" in out
    values = json.loads(Path("out/curve.json").read_text())
    assert [point["step"] for point in values["points"]] == [1, 2] and values["axis"] == "step"
    assert values["skipped"] == {"final": "no step in its name"}


def test_folders_that_are_no_checkpoints_are_named(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10", "final", "runs", ".cache"):
        (tmp_path / "all" / name).mkdir(parents=True)
        if name not in ("runs", ".cache"):
            (tmp_path / "all" / name / "config.json").write_text("{}")
    said: list[str] = []
    left = SeriesLeft(checkpoint_folders(tmp_path / "all"), said.append)
    left.skip_without_steps()
    assert [each.name for each in left.left] == ["checkpoint-9", "checkpoint-10"]
    assert said == []  # all may still be refused, in one line
    left.add("checkpoint-10", cast("LLCResult", SimpleNamespace(verdict="trustworthy")))
    assert said[:2] == ["runs: skipped: no config.json", "final: skipped: no step in its name"] and len(said) == 3
    with pytest.raises(InputError, match="two checkpoints or more"):
        SeriesLeft([Checkpoint("a", {}), Checkpoint("b", {}, skipped="why not")], lambda line: None)


SPOILED: dict[str, tuple[dict[str, str], str]] = {
    "s1": ({"model.safetensors.index.json": '{"weight_map": {"a": "x.safetensors"}}', "y.safetensors": ""}, "missing"),
    "s2": ({"adapter_config.json": "{}"}, "the checkpoint holds an adapter"),
    "s3": ({"pytorch_model.bin": "x"}, "pickled weights only"),
    "s4": ({"config.json": "{", "model.safetensors": "x"}, "config.json is damaged"),
    "s5": ({}, "the model folder has no weights"),
    "s6": ({"model.safetensors": "version https://git-lfs"}, "git lfs pull"),
    "s7": ({"model.safetensors": "x"}, "the weights file is damaged"),
}


def test_folders_whose_weights_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (files, _) in SPOILED.items():
        (tmp_path / "all" / name).mkdir(parents=True)
        for file, text in {"config.json": '{"model_type": "gpt2"}', **files}.items():
            (tmp_path / "all" / name / file).write_text(text)
    (tmp_path / "rows.txt").write_text("text")
    argv = [
        "curve",
        "--checkpoints",
        str(tmp_path / "all"),
        "--data",
        str(tmp_path / "rows.txt"),
        "--task",
        "text-generation",
    ]
    assert main([*argv, "--output", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("hf-llc: error: a curve needs two checkpoints") and "s1: files of weights are missing" in line
    )
    faults = faults_of(checkpoint_folders(tmp_path / "all"), LoadConfig(task="text-generation"))
    for name, (_, why) in SPOILED.items():
        assert why in faults[name], faults


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a series of two checkpoints and the curve of them."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(series(folder, (2, 10)), "--quiet") in (0, 3)
    return folder


def exchange(curve: Path) -> None:
    (curve / "step2").rename(curve / "other")
    (curve / "step10").rename(curve / "step2")
    (curve / "other").rename(curve / "step10")


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "result": lambda curve: (curve / "step2" / "result.json").write_bytes(b""),
    "trace": lambda curve: (curve / "step2" / "trace.safetensors").unlink(),
    "record": lambda curve: (curve / "step2" / "run.json").write_text("{}"),
    "folder for a file": lambda curve: [
        (curve / "step2" / "run.json").unlink(),
        (curve / "step2" / "run.json").mkdir(),
    ],
    "file for a folder": lambda curve: [(curve / "step2").rename(curve / "gone"), (curve / "step2").touch()],
    "exchanged": exchange,
    "at work": lambda curve: FolderLock(curve / "step2").acquire(),
    "at work on the curve": lambda curve: FolderLock(curve).acquire(),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_point_is_no_broken_checkpoint(
    damage: Callable[[Path], Any], measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The curve is refused in one line, and stays: it would otherwise be replaced by one without that point."""
    shutil.copytree(measured, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "out")
    before = (tmp_path / "out" / "curve.json").read_bytes()
    assert run([str(tmp_path / "step2.safetensors"), str(tmp_path / "step10.safetensors")], "--quiet") == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "'out" in err
    assert (tmp_path / "out" / "curve.json").read_bytes() == before


def test_a_damaged_point_is_refused_before_the_others_are_measured(measured: Path, tmp_path: Path) -> None:
    shutil.copytree(measured, tmp_path, dirs_exist_ok=True)
    (tmp_path / "out" / "step10" / "result.json").unlink()  # the one that is measured first
    (tmp_path / "out" / "step2" / "trace.safetensors").unlink()
    assert run([str(tmp_path / "step2.safetensors"), str(tmp_path / "step10.safetensors")], "--quiet") == 2
    assert not (tmp_path / "out" / "step10" / "result.json").exists()


def named_checkpoints(*scales: float) -> dict[str, Any]:
    """The network of `worker` with weights times each scale; 0: untrained. And the data that scale 1 fits."""
    data = examples(network())

    def opened(scale: float) -> Any:
        model = network()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        return model, squared_error

    series = [Checkpoint(f"step{k}", {}, functools.partial(opened, scale)) for k, scale in enumerate(scales)]
    return {"checkpoints": series, "dataset": data, "progress": False}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scales", "hardest"),
    [
        ((0.0, 1.0, 0.9), "step1"),  # untrained: its γ would be for a network that is near no minimum
        ((1.0, 0.9, 0.8), "step0"),
        ((0.0, 0.0, 1.0), "step2"),
        ((0.0, 0.0, 0.0), "step2"),
        ((0.9, 1.0, 0.8, 1.0, 0.85), "step0"),
    ],
)
def test_the_stiffest_of_three_decides(scales: tuple[float, ...], hardest: str, tmp_path: Path) -> None:
    """That of the largest weights here; an untrained network never decides."""
    said: list[str] = []
    sample = SampleConfig(num_chains=2, num_draws=10, max_steps=40, batch_size=20, check_localization=False)
    curve = measure_curve.measure(load=LoadConfig(), sample=sample, report=said.append, output=tmp_path / "out",
                                  **named_checkpoints(*scales))  # fmt: skip
    assert curve.calibrated_on == hardest
    if scales[-1] and scales[1]:
        assert said[0].startswith(f"{hardest} decides the settings: the largest curvature of nβL (first ")


@pytest.mark.slow
def test_the_checkpoint_that_decides_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three are looked at, two are loaded again; λ̂ is as where the one that decides is named."""
    sample = SampleConfig(num_chains=2, num_draws=10, max_steps=40, batch_size=20, check_localization=False)
    loads: list[Any] = []
    load = opened_run.load_problem
    monkeypatch.setattr(opened_run, "load_problem", lambda *args, **given: loads.append(args) or load(*args, **given))
    plans: list[dict[str, Any]] = []
    stage = Watch.stage
    monkeypatch.setattr(Watch, "stage", lambda self, *given: plans.append(dict(self.plan)) or stage(self, *given))
    curves = []
    for word in (None, "step1"):
        asked: dict[str, Any] = {"output": tmp_path / str(word), "calibrate_on": word}
        curves.append(
            measure_curve.measure(load=LoadConfig(), sample=sample, **asked, **named_checkpoints(0.9, 1, 0.8))
        )
    assert len(loads) == 5 + 3
    assert [point.llc for point in curves[0].points] == [point.llc for point in curves[1].points]
    looks = [plan for plan in plans if plan and all(name.startswith("look at") for name in plan)]
    assert list(dict.fromkeys(map(tuple, looks))) == [("look at step1", "look at step2"), ("look at step2",)]
    assert all(work == Range(240, 240, 240) for plan in looks for work in plan.values()), "twelve gradients of twenty"


@pytest.mark.slow
def test_a_point_goes_on_to_the_error_asked_for(tmp_path: Path) -> None:
    """As an estimate by itself does, from the steps of the checkpoint that decided; given steps stay."""
    common = {"num_chains": 2, "num_draws": 20, "batch_size": 20, "check_localization": False, "target_se": 0.0915}
    cases: list[tuple[Any, list[int]]] = [("auto", [320, 640]), (40, [40, 40])]
    for steps, burnin in cases:
        sample = SampleConfig(max_steps=2000, num_burnin_steps=steps, step_size=2e-3, localization=20.0, **common)
        folder = tmp_path / str(steps)
        measure_curve.measure(load=LoadConfig(), sample=sample, output=folder, calibrate_on="step0",
                              **named_checkpoints(0.9, 1.0))  # fmt: skip
        found = [LLCResult.load(folder / f"step{k}") for k in range(2)]
        assert [result.num_burnin_steps for result in found] == burnin
        assert len({(result.step_size, result.localization) for result in found}) == 1


@pytest.mark.parametrize(
    ("names", "given", "places"),
    [
        (("epoch_1", "epoch_2", "epoch_init"), {"epoch_init": 0}, {"epoch_init": 0, "epoch_1": 1, "epoch_2": 2}),
        (("a", "b"), {"a": 7, "b": 3}, {"b": 3, "a": 7}),
        (("v2-final", "v2-step5", "v2-step9"), {"v2-final": 12}, {"v2-step5": 5, "v2-step9": 9, "v2-final": 12}),
        (("epoch_1", "init", "final"), {"init": 0}, {"init": 0, "epoch_1": 1}),
    ],
)
def test_steps_place_what_names_do_not(names: tuple[str, ...], given: dict[str, int], places: dict[str, int]) -> None:
    left = SeriesLeft([Checkpoint(name, {}) for name in names], print, steps=given)
    left.skip_without_steps()
    assert left.places() == (places, "step") and [each.name for each in left.left] == list(places)
    assert left.meant_by("first") == next(iter(places)) and left.meant_by(str(max(places.values()))) == list(places)[-1]


@pytest.mark.parametrize(
    ("names", "given", "what"),
    [
        (("epoch_1", "epoch_2"), {"epoch_3": 0}, "steps names something that is not a checkpoint"),
        (("epoch_1", "epoch_2", "init"), {"init": 2}, "steps must tell checkpoints apart"),
        (("a", "b", "c"), {"a": 1}, "a curve needs two checkpoints|steps must tell"),
    ],
)
def test_steps_that_place_nothing_are_refused(names: tuple[str, ...], given: dict[str, int], what: str) -> None:
    with pytest.raises(InputError, match=what):
        SeriesLeft([Checkpoint(name, {}) for name in names], print, steps=given).skip_without_steps()


@pytest.mark.slow
def test_a_weights_file_alone_is_a_point_of_its_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name, `estimate` measures what `curve` does, the same bits."""
    files = series(tmp_path, (1, 2))
    run(files, "--quiet")
    given = ["--factory", "curve_factory:make", "--data", str(tmp_path / "data.jsonl"), *FAST, "--quiet"]
    assert main(["estimate", "--weight-file", files[0], *given, "--output", "one"]) in (0, 3)
    assert LLCResult.load("one").llc == LLCResult.load(f"out/{Path(files[0]).stem}").llc
    capsys.readouterr()
    for more, what in (
        (["--weight-file", files[0], "--data", "x"], "--weight-file and --factory go together"),
        (["--weight-file", files[0], *given, "--model", "x"], "two models"),
        (["--weight-file", files[0], "--factory", "curve_factory:make"], "no data given"),
        (["--weight-file", "nowhere.safetensors", *given], "no such weights file"),
        (["--weight-file", str(tmp_path / "data.jsonl"), *given], "not in safetensors format"),
        (["--weight-file", files[0], *given[2:], "--factory", "curve_factory:nothing"], "no such factory"),
    ):
        assert main(["estimate", *more, "--output", "two"]) == 2
        err = capsys.readouterr().err
        assert what in err and len(err.splitlines()) == 1 and not Path("two").exists()
