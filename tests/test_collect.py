"""`hf-llc collect`: many results as a table that `datasets` loads, here and from the Hub."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet
import pytest
from test_result import SHOWN, make_result

from hf_llc.cli.entry_point import main
from hf_llc.publishing.collection import COLUMNS, found_in

if TYPE_CHECKING:
    from hub import Hub


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two finished runs, one that is not, a damaged one, and a folder that is none."""
    monkeypatch.chdir(tmp_path)
    make_result(**{**SHOWN, "trace": None}).save("runs/a")
    make_result(verdict="trustworthy", r_hat=math.nan, trace=None).save("runs/b")
    Path("runs/c").mkdir()
    Path("runs/c/run.json").write_text("{}")
    make_result(trace=None).save("runs/d")
    Path("runs/d/result.json").write_text(Path("runs/d/result.json").read_text().replace("500", "501", 1))
    Path("runs/other").mkdir()
    return tmp_path


def rows(path: str) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(path).to_pylist()


def test_a_table_of_finished_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "runs", "--output", "results.parquet"]) == 0
    out, err = capsys.readouterr()
    assert out.split() == ["table", "results.parquet:", "2", "runs,", "1", "of", "them", "trustworthy"]
    first, second = err.splitlines()
    assert first == "hf-llc: left out: runs/c: the run is not finished" and second.startswith("hf-llc: left out: ")
    assert "runs/d" in second
    one, two = rows("results.parquet")
    assert list(one) == list(COLUMNS) and (one["run"], two["run"]) == ("runs/a", "runs/b")
    asked = ("llc", "llc_se", "nbeta", "localization", "n", "sampler", "friction", "llc_per_chain", "wall_seconds")
    values = json.loads(Path("runs/a/result.json").read_text())
    assert {name: one[name] for name in asked} == {name: values[name] for name in asked}
    assert (one["model_id"], one["data_split"], one["minimized"]) == ("some/model", "validation", True)
    assert one["llc_at_twice_localization"] == values["llc"] + values["localization_sensitivity"]["doubled"]
    assert (one["verdict"], one["is_trustworthy"], two["is_trustworthy"]) == ("drifting", False, True)
    assert two["r_hat"] is None and one["reasons"].startswith("heat capacity: ")
    filled = {name for row in (one, two) for name, value in row.items() if value is not None}
    assert {"num_parameters", "dtype", "device", "task", "weights"} <= filled


def test_datasets_loads_it(runs: Path) -> None:
    import datasets

    assert main(["collect", "runs/a", "runs/b", "runs/a/", "--output", "x/y.parquet"]) == 0
    data = datasets.Dataset.from_parquet("x/y.parquet", cache_dir=str(runs / "cache"))
    assert len(data) == 2 and data["llc"][0] == pytest.approx(SHOWN["llc"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["runs/c", "--output", "o.parquet"], "there is no finished run"),
        (["runs/other", "--output", "o.parquet"], "there is no finished run"),
        (["nowhere", "--output", "o.parquet"], "no result there"),
        (["runs", "--output", "o.csv"], "call it NAME.parquet"),
        (["runs", "--output", "mine.parquet"], "did not write"),
        (["runs", "--output", "runs/a/result.json/x.parquet"], "cannot write to the output folder"),
        (["runs", "--output", "o.parquet", "--repo", "no id"], "not an id of the Hub"),
    ],
)
def test_refusals(runs: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.parquet").write_bytes(b"PAR1 mine PAR1")
    assert main(["collect", *argv]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1] and not Path("o.parquet").exists()
    assert Path("mine.parquet").read_bytes() == b"PAR1 mine PAR1"


def test_it_is_written_again(runs: Path) -> None:
    for names, count in ((["runs/a"], 1), (["runs"], 2)):
        assert main(["collect", *names, "--output", "o.parquet"]) == 0
        assert len(rows("o.parquet")) == count


def test_a_folder_stands_for_the_runs_in_it(runs: Path) -> None:
    assert [str(path) for path in found_in(["runs", "runs/b"])] == ["runs/a", "runs/b", "runs/c", "runs/d"]


def test_the_folder_of_a_study_is_no_run_under_way(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, file in (("curve", "curve.json"), ("cal", "calibration.json")):
        Path("runs", name).mkdir()
        Path("runs", name, "run.json").write_text("{}")
        Path("runs", name, file).write_text("{}")
    make_result(trace=None).save("runs/curve/step1")
    assert main(["collect", "runs", "--output", "results.parquet"]) == 0
    err = capsys.readouterr().err
    assert "runs/curve: its result is curve.json; give this folder itself to collect the runs in it\n" in err
    assert "runs/cal: its result is calibration.json\n" in err
    assert main(["collect", "runs/curve", "--output", "results.parquet"]) == 0
    assert [row["run"] for row in rows("results.parquet")] == ["runs/curve/step1"]


def test_no_network_is_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "runs", "--output", "results.parquet", "--repo", "me/results"]) == 2
    assert "offline mode is on; unset HF_HUB_OFFLINE" in capsys.readouterr().err


@pytest.mark.slow
def test_onto_the_hub(runs: Path, hub: Hub) -> None:
    command = ["collect", "runs", "--output", "o.parquet", "--repo", "me/results"]
    done = hub.fork(*command, user="me")
    assert done.code == 0 and "datasets/me/results" in done.out, done.err
    assert hub.read("me/results", "data/results.parquet", kind="dataset") == Path("o.parquet").read_bytes()
    assert b"data/results.parquet" in hub.read("me/results", "README.md", kind="dataset")
    done = hub.fork(*command, user=None)
    assert done.code == 2 and "the table was not uploaded; it is in o.parquet" in done.err.splitlines()[-1]
