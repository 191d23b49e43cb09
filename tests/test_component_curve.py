"""`hf-llc curve --components`: λ̂ of components at every checkpoint, at one nβ and γ, resumed, refused and drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from curve_factory import make, series
from datasets import load_dataset
from PIL import Image

from hf_llc.cli.entry_point import main
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.our_files import is_ours
from hf_llc.result import LLCResult
from hf_llc.studies import measure_components, parts
from hf_llc.studies.checkpoint_series import Checkpoint, weight_files
from hf_llc.studies.component_curve import COMPONENT_CURVE_FILES, ComponentCurve
from hf_llc.studies.component_curve_plot import plot_component_curve
from hf_llc.studies.component_table import ComponentTable, Row
from hf_llc.studies.measure_component_curve import measure
from hf_llc.workflow.opened_run import Given

SETTINGS: dict[str, Any] = {
    "sampler": "sgld",
    "step_size": 1e-4,
    "localization": 100.0,
    "nbeta": 500.0,
    "num_chains": 2,
    "num_draws": 12,
    "num_burnin_steps": 4,
    "batch_size": 20,
    "check_localization": False,
}


def points(folder: Path, steps: tuple[int, ...] = (2, 10, 100)) -> tuple[list[Checkpoint], LoadConfig]:
    return weight_files(series(folder, steps), make), LoadConfig(data=str(folder / "data.jsonl"))


def measured(
    folder: Path, checkpoints: list[Checkpoint], load: LoadConfig, *, components: str = "0.*,2.weight", **more: Any
) -> ComponentCurve:
    names = ("resume", "overwrite", "report", "calibrate_on")
    keywords = {name: more.pop(name) for name in names if name in more}
    sample = SampleConfig(**{**SETTINGS, **more})
    return measure(checkpoints, load, sample, components=components, output=folder, progress=False, **keywords)


@pytest.mark.slow
def test_each_checkpoint_is_a_table_at_the_settings_of_one(tmp_path: Path) -> None:
    """Each λ̂ is, bit for bit, that of a table of its own; what is "auto" is decided on the last checkpoint."""
    checkpoints, load = points(tmp_path)
    lines: list[str] = []
    auto = {"step_size": "auto", "sampler": "auto", "num_draws": 12, "num_burnin_steps": 8}
    curve = measured(tmp_path / "out", checkpoints, load, report=lines.append, **auto)
    assert curve.steps == [2, 10, 100] and curve.calibrated_on == "step100"
    assert curve.components == ["0.weight", "0.bias", "2.weight", "all"]
    folders = [tmp_path / "out" / name for name in curve.tables]
    results = [LLCResult.load(path.parent) for folder in folders for path in sorted(folder.glob("*/result.json"))]
    assert len(results) == 12
    for name in ("step_size", "nbeta", "localization", "friction"):
        assert len({getattr(result, name) for result in results}) == 1, name
    checkpoint, shared = checkpoints[0], {name: getattr(results[0], name) for name in ("step_size", "friction")}
    assert checkpoint.open is not None
    model, loss_fn = checkpoint.open()
    alone = measure_components.measure(
        load,
        SampleConfig(**{**SETTINGS, **auto, **shared, "sampler": results[0].sampler, "gradient": results[0].gradient}),
        Given(model=model, loss_fn=loss_fn),
        components="0.*,2.weight",
        output=tmp_path / "alone",
        progress=False,
    )
    assert [row.llc for row in alone.rows] == [row.llc for row in curve.tables["step2"].rows]
    assert lines[-1].startswith("step10: ") and any(line.startswith("step2, 0.bias: ") for line in lines)


@pytest.mark.slow
def test_files_and_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, load = points(tmp_path)
    whole = measured(tmp_path / "a", checkpoints, load)
    real, calls = parts.estimate_model, [0]

    def breaks(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == 7:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "estimate_model", breaks)
        with pytest.raises(KeyboardInterrupt):
            measured(tmp_path / "b", checkpoints, load)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").glob("*/*/result.json")}
    again = measured(tmp_path / "b", checkpoints, load, resume=True)
    assert repr(again) == repr(whole) and len(stamps) == 6
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    rows = list(csv.DictReader((tmp_path / "b" / "component_curve.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["step"], row["component"]) for row in rows[:4]] == [
        ("2", "0.weight"), ("2", "0.bias"), ("2", "2.weight"), ("2", "all"),
    ]  # fmt: skip
    values = json.loads((tmp_path / "b" / "component_curve.json").read_text(encoding="utf-8"))
    assert [point["llc"] for point in values["points"]] == [float(row["llc"]) for row in rows]
    data = load_dataset("parquet", data_files=str(tmp_path / "b" / "component_curve.parquet"), split="train")
    assert data["llc"][:] == [point["llc"] for point in values["points"]]
    assert all(is_ours(tmp_path / "b" / name) for name in COMPONENT_CURVE_FILES)
    with pytest.raises(InputError, match="holds another run"):
        measured(tmp_path / "b", checkpoints, load, components="0.bias")
    (tmp_path / "b" / "step2" / "components.csv").write_text("mine")
    with pytest.raises(InputError, match=r"components\.csv, which hf_llc did not write"):
        measured(tmp_path / "b", checkpoints, load)


@pytest.mark.slow
def test_a_checkpoint_that_breaks_is_left_out(tmp_path: Path) -> None:
    checkpoints, load = points(tmp_path)
    (tmp_path / "step10.safetensors").write_bytes(b"no weights")
    curve = measured(tmp_path / "out", checkpoints, load)
    assert list(curve.tables) == ["step2", "step100"] and list(curve.failed) == ["step10"]
    assert not curve.is_trustworthy and "not measured: step10: " in str(curve)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"weights": "0.bias"}, "weights is for one estimate"),
        ({"minimize": True}, r"minimize would give each component its own w\*"),
        ({"components": "1.weight"}, r"no such weights, got '1\.weight'"),
        ({"components": "all"}, "no component is named"),
        ({"calibrate_on": "step7"}, "calibrate_on is not a checkpoint of the curve"),
        ({"resume": True}, "nothing to resume there"),
    ],
)
def test_refused_in_a_line(more: dict[str, Any], match: str, tmp_path: Path) -> None:
    checkpoints, load = points(tmp_path)
    with pytest.raises(InputError, match=match) as caught:
        measured(tmp_path / "out", checkpoints, load, **more)
    assert "\n" not in str(caught.value) and not list((tmp_path / "out").glob("*/*"))


@pytest.mark.slow
@pytest.mark.pictures
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)
    files = series(tmp_path, (2, 10))
    flags = ["--num-chains", "1", "--num-draws", "8", "--num-burnin-steps", "2", "--localization", "100"]
    command = ["curve", "--weight-files", *files, "--factory", "curve_factory:make", "--data", "data.jsonl"]
    command += [*flags, "--step-size", "1e-4", "--no-check-localization"]
    assert main([*command, "--output", "out", "--components", "0.*", "--x-scale", "log"]) == 3
    said = capsys.readouterr().out
    assert said.splitlines()[0].split()[:2] == ["component", "weights"] and "picture  out/component_curve.png" in said
    with Image.open("out/component_curve.png") as image:
        assert image.size[0] >= 1008
    for words in (["--components", "heads"], ["--components", "0.*", "--weights", "0.bias"]):
        assert main([*command, "--output", "none", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1 and not Path("none").exists()


@pytest.mark.slow
def test_heads_of_a_language_model_and_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 2):
        tiny.save_llama(tmp_path / "run" / f"checkpoint-{seed}", seed=seed)
    (tmp_path / "text.txt").write_text("\n".join(tiny.SENTENCES), encoding="utf-8")
    from hf_llc.studies.checkpoint_series import checkpoint_folders

    load = LoadConfig(data=str(tmp_path / "text.txt"), max_length=16)
    more = {"step_size": 1e-6, "num_chains": 1, "num_draws": 3, "num_burnin_steps": 1, "batch_size": 4}
    curve = measured(tmp_path / "out", checkpoint_folders(tmp_path / "run"), load, components="heads", **more)
    assert curve.components == ["l0h0", "l0h1", "l1h0", "l1h1", "all"] and curve.steps == [1, 2]


@pytest.mark.slow
@pytest.mark.pictures
def test_pictures_of_all_kinds(tmp_path: Path) -> None:
    def table(names: list[str], shift: float) -> ComponentTable:
        rows = [
            Row(name, 10, i + shift, 0.1, 0.2, 1.0, 1e-3, 1.0, 50.0, "trustworthy" if i % 3 else "diverged")
            for i, name in enumerate([*names, "all"])
        ]
        return ComponentTable(rows[:-1], rows[-1], False, {"nbeta": 1.0, "localization": 2.0}, "", {}, {})

    for names in (
        ["embed"],
        [f"l{i}h{j}" for i in range(3) for j in range(20)],
        ["l0", "l1", "l0 mlp", "l1 mlp", "l0e1", "norms", "a.weight+b"],
    ):
        tables = {name: table(names, shift) for shift, name in enumerate(("step0", "step10", "step100"))}
        curve = ComponentCurve(tables, [0, 10, 100], {"nbeta": 1.0, "localization": 2.0}, "step10")
        plot_component_curve(curve, tmp_path / "x.png", x_scale="log")
        assert "3 of 3: diverged" in str(curve)
        assert (tmp_path / "x.png").stat().st_size > 10_000
