"""`hf-llc components`: a table of components at one nβ and γ, resumed, refused and drawn."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from datasets import load_dataset
from torch import nn

from hf_llc.cli.entry_point import main
from hf_llc.components.listed import check_partition, components_named
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.studies import parts
from hf_llc.studies.component_plot import plot_components
from hf_llc.studies.component_table import ComponentTable, Row
from hf_llc.studies.measure_components import measure
from hf_llc.workflow.opened_run import Given

SETTINGS: dict[str, Any] = {
    "sampler": "sgld",
    "step_size": 1e-3,
    "nbeta": 40.0,
    "localization": 10.0,
    "num_chains": 1,
    "num_draws": 5,
    "num_burnin_steps": 2,
    "batch_size": 20,
    "check_localization": False,
}


def half_squares(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return ((output - label) ** 2).sum(-1) / 2


def given() -> Given:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2))
    x = torch.randn(60, 4)
    return Given(model=model, data=(x, model(x).detach()), loss_fn=half_squares)


def measured(folder: Path, components: str = "0.weight,1.*", **more: Any) -> ComponentTable:
    names = ("is_partition", "resume", "overwrite", "report", "calibrates_each")
    keywords = {name: more.pop(name) for name in names if name in more}
    sample = SampleConfig(**{**SETTINGS, **more})
    return measure(LoadConfig(), sample, given(), components=components, output=folder, progress=False, **keywords)


@pytest.mark.slow
@pytest.mark.pictures
def test_table_picture_and_folders(tmp_path: Path) -> None:
    lines: list[str] = []
    table = measured(tmp_path / "c", is_partition=True, report=lines.append)
    assert [row.component for row in table.rows] == ["0.weight", "1.weight", "1.bias"]
    assert [row.num_parameters for row in table.rows] == [12, 6, 2] and table.whole.num_parameters == 20
    assert table.is_partition and table.coupling is not None
    excess = sum(row.llc for row in table.rows) - table.whole.llc
    assert table.coupling[0] == pytest.approx(excess) and f"Σ λ̂_C − λ̂ = {excess:.0f}"[:10] in str(table)
    assert len(lines) == 4 and lines[1].endswith("(2 of 4)")
    with open(tmp_path / "c" / "components.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["llc"]) for row in rows] == [row.llc for row in (*table.rows, table.whole)]
    loaded = load_dataset("parquet", data_files=str(tmp_path / "c" / "components.parquet"), split="train")
    assert loaded["component"][:] == [row["component"] for row in rows]
    assert loaded["llc"][:] == [row.llc for row in (*table.rows, table.whole)]
    values = json.loads((tmp_path / "c" / "components.json").read_text(encoding="utf-8"))
    assert values["coupling"] == pytest.approx(excess) and values["settings"]["nbeta"] == 40.0
    assert (tmp_path / "c" / "components.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "c" / "1.bias" / "result.json").read_text(encoding="utf-8"))["weights"] == "1.bias"


@pytest.mark.slow
def test_each_component_is_its_own_estimate(tmp_path: Path) -> None:
    """The same draws as `LLCEvaluator(weights=…)`, which for the whole are those of no setting."""
    from hf_llc import LLCEvaluator

    table, it = measured(tmp_path / "c", "0.weight+1.bias,~0.weight"), given()
    for row in (*table.rows, table.whole):
        evaluator = LLCEvaluator(weights=row.component, **SETTINGS)
        assert row.llc == evaluator.compute(it.model, it.data, loss_fn=half_squares, progress=False).llc
    assert not table.is_partition and table.coupling is None


@pytest.mark.slow
def test_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is finished is read; a fault in the middle loses nothing."""
    whole = measured(tmp_path / "a")
    real, calls = parts.estimate_model, [0]

    def breaks(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(parts, "estimate_model", breaks)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "b")
    before = (tmp_path / "b" / "0.weight" / "result.json").read_bytes()
    again = measured(tmp_path / "b", resume=True)
    assert repr(again) == repr(whole)
    assert (tmp_path / "b" / "0.weight" / "result.json").read_bytes() == before
    with pytest.raises(InputError, match="holds another run"):
        measured(tmp_path / "b", "0.weight")
    assert measured(tmp_path / "b", "0.weight", overwrite=True).rows[0].llc == whole.rows[0].llc


@pytest.mark.slow
def test_settings_left_open_are_those_of_the_whole(tmp_path: Path) -> None:
    more = {"step_size": "auto", "localization": "auto", "max_steps": 60, "num_burnin_steps": "auto", "sampler": "auto"}
    shared = measured(tmp_path / "a", "1.bias", **more)
    assert shared.rows[0].step_size == shared.whole.step_size
    each = measured(tmp_path / "b", "1.bias", calibrates_each=True, **more)
    assert each.rows[0].step_size != each.whole.step_size == shared.whole.step_size
    folders = [tmp_path / which / name / "result.json" for which in "ab" for name in ("all", "1.bias")]
    laws = {json.loads(path.read_text(encoding="utf-8"))["localization"] for path in folders}
    assert len(laws) == 1


def test_words_and_globs() -> None:
    model = tiny.llama(tie=True)
    assert components_named(model, "heads") == ["l0h0", "l0h1", "l1h0", "l1h1"]
    assert components_named(model, "layers") == ["l0", "l1"]
    assert components_named(model, "partition") == ["embed", "l0g0", "l0 mlp", "l1g0", "l1 mlp", "norms"]
    assert components_named(model, " l* mlp , embed,l0  mlp") == ["l0 mlp", "l1 mlp", "embed"]
    assert components_named(model, "*.q_proj.weight") == [f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)]
    assert components_named(model, "l0+l1,~embed") == ["l0+l1", "~embed"]
    assert check_partition(model, components_named(model, "partition"), is_asked=True)
    assert not check_partition(model, components_named(model, "heads"), is_asked=False)
    assert check_partition(model, ["~embed", "embed"], is_asked=True)


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ("l0,l0h1", r"l0h1 overlaps l0, got 'model\.layers\.0\.self_attn\.q_proj\.weight'"),
        ("l0,l1", r"the components leave out \d tensors, got 'model\.embed_tokens\.weight'"),
        ("heads,embed", "the components leave out"),
        ("l2", r"there is no l2"),
        ("l0h7", "l0 has 2 heads, got 'l0h7'; allowed: 0 … 1"),
        ("unembed", "unembed is tied to embed"),
        ("haeds", "no such weights, got 'haeds'"),
        ("all", "no component is named"),
        ("l0,,l1", "has a term without a name, got 'l0,,l1'"),
    ],
)
def test_bad_components_are_refused_in_a_line(components: str, message: str) -> None:
    model = tiny.llama(tie=True)
    with pytest.raises(InputError, match=message) as caught:
        check_partition(model, components_named(model, components), is_asked=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"weights": "0.weight"}, "weights is for one estimate, got '0.weight'"),
        ({"minimize": True}, r"minimize would give each component its own w\*"),
        ({"parameter_parallel": 2}, "parameter_parallel is not for components"),
        ({"resume": True}, "nothing to resume there"),
        ({"components": "2.weight"}, r"no such weights, got '2\.weight'"),
    ],
)
def test_refusals_leave_nothing(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        measured(tmp_path / "c", **more)
    assert not (tmp_path / "c" / "all").exists() and not (tmp_path / "c" / "run.json").exists()


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.save_llama(tmp_path / "llama")
    (tmp_path / "text.txt").write_text("\n".join(tiny.SENTENCES), encoding="utf-8")
    command = ["components", "--model", str(folder), "--data", str(tmp_path / "text.txt"), "--max-length", "16"]
    command += ["--num-chains", "1", "--num-draws", "3", "--num-burnin-steps", "1", "--step-size", "1e-5"]
    command += ["--no-check-localization", "--output", str(tmp_path / "out")]
    assert main([*command, "--components", "l0h*,l0 mlp"]) in (0, 3)
    said = capsys.readouterr()
    assert "l0h1" in said.out and "components.png" in said.out and "Traceback" not in said.err
    assert (tmp_path / "out" / "l0_mlp" / "result.json").exists()
    assert main([*command, "--components", "l0h*,l0 mlp", "--json", "--quiet", "--resume"]) in (0, 3)
    assert [row["component"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["l0h0", "l0h1", "l0 mlp"]
    for words, message in (
        (["--components", "l9"], "there is no l9"),
        (["--components", "l0", "--partition"], "leave out"),
        ([], "--components"),
        (["--components", "l0", "--weights", "l1"], "weights is for one estimate"),
    ):
        output = str(tmp_path / "none")
        assert main([*command[:-1], output, *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not Path(output).exists()


def table_of(names: list[str]) -> ComponentTable:
    rows = [Row(name, 10, 1.0 + i / 3, 0.1, 0.2, 1.0, 1e-3, 1.0, 50.0, "trustworthy") for i, name in enumerate(names)]
    rows[0] = replace(rows[0], llc=math.nan, llc_se=math.nan, verdict="diverged")
    return ComponentTable(
        rows, replace(rows[-1], component="all"), False, {"nbeta": 1.0, "localization": 2.0}, "", {}, {}
    )


@pytest.mark.parametrize(
    "names",
    [
        ["l0h0"],
        [f"l{i}h{j}" for i in range(3) for j in range(8)],
        [*(f"l{i}g{j}" for i in range(5) for j in range(4)), *(f"l{i} mlp" for i in range(5)), "embed"],
        ["l0e0", "l0h3", "l7h31", "a.very.long.name.of.a.parameter.that.fills.the.line.weight"],
        ["l0", "l1"],
    ],
    ids=len,
)
@pytest.mark.pictures
def test_pictures_of_all_kinds(names: list[str], tmp_path: Path) -> None:
    plot_components(table_of(names), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5000
