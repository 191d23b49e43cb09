"""Files that git-lfs, a full disk or an editor has left damaged: named, exit code 2, and the rest is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_result import make_result, make_trace

from hf_llc.cli.entry_point import main
from hf_llc.errors import InputError
from hf_llc.result import LLCResult
from hf_llc.seals import load_sealed_json, run_of, save_sealed_json
from hf_llc.studies.calibration import Calibration
from hf_llc.studies.profile_table import Profile

pytestmark = pytest.mark.pictures

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    result = make_result()
    result.trace = make_trace()
    return result.save(tmp_path / "run")


def unsealed(folder: Path, **changes: Any) -> None:
    """As an older version wrote it, changed."""
    values = json.loads((folder / "result.json").read_text())
    values.pop("seal", None)
    (folder / "result.json").write_text(json.dumps({**values, **changes}))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"pointer": POINTER.encode(), "cut off": data[: len(data) // 2], "empty": b""}[how])


@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize("how", ["pointer", "cut off", "empty"])
def test_a_result_is_shown_without_its_trace(
    folder: Path, how: str, is_sealed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if not is_sealed:
        unsealed(folder)
    damage(folder / "trace.safetensors", how)
    assert main(["show", "run"]) == 2
    out, err = capsys.readouterr()
    assert "12.03 ± 0.14" in out and err.count("\n") == 1 and "run/trace.safetensors" in err
    assert ("git lfs pull" in err) == (how == "pointer")
    assert main(["show", "run", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["llc"] == make_result().llc
    with pytest.raises(InputError, match="trace"):
        LLCResult.load(folder)
    assert main(["publish", "run", "--card", "."]) == 2
    assert "trace.safetensors" in capsys.readouterr().err and not Path("README.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pointer", "cut off", "empty"])
def test_a_damaged_result_is_named(folder: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage(folder / "result.json", how)
    assert main(["show", "run"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "run/result.json" in err and ("git lfs pull" in err) == (how == "pointer")


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_picture_that_is_a_pointer_is_not_published(
    folder: Path, is_sealed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if not is_sealed:
        unsealed(folder)
    damage(folder / "trace.png", "pointer")
    assert main(["show", "run"]) == 0  # it does not need the picture
    assert main(["publish", "run", "--card", "."]) == 2
    assert "trace.png" in capsys.readouterr().err and not Path("README.md").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"descent": {}},
        {"descent": {"loss_drop": "much"}},
        {"minimize": {"distance": 0.1, "steps": 10**400}},
        {"data": {"id": "d", "split": ["train"]}},
        {"data": {"id": {"a": 1}}},
        {"model": {"id": 7}},
        {"n": "many"},
        {"nbeta": -1},
        {"llc_per_chain": {}},
        {"reasons": [{"name": 1}]},
    ],
    ids=str,
)
def test_wrong_types_are_one_line(folder: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    unsealed(folder, **changes)
    for argv in (["show", "run"], ["publish", "run", "--card", "."]):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and f"wrong {next(iter(changes))}" in err and "run/result.json" in err, err


STUDIES = {
    "profile": Profile([], 0.1, 1.0, {}, {}, {"n": 5}, {}, {}),
    "calibration": Calibration(settings={"step_size": 1.0}, found=None, moved=None, cells=[], num_gradients=3),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"schema_version": 99}, "is of another version of hf_llc"),
        ({"schema_version": None}, "is of another version of hf_llc"),
        ({"settings": None, "rows": 3, "cells": 3}, "is damaged"),
        ({"more": 1}, "is damaged"),
    ],
)
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_of_another_version_is_named(name: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    study, path = STUDIES[name], tmp_path / f"{name}.json"
    study.save(tmp_path)
    values, files = load_sealed_json(path, name, "")
    save_sealed_json(path, {**values, **change}, run=run_of(tmp_path), files=list(files or ()))
    if not message:
        assert type(study).load(tmp_path) == study
        return
    with pytest.raises(InputError, match=f"the {name} {message}, got '{path}'; use overwrite"):
        type(study).load(tmp_path)


def test_a_study_without_one_of_its_files_is_named(tmp_path: Path) -> None:
    STUDIES["profile"].save(tmp_path)
    (tmp_path / "profile.csv").write_text("other")
    with pytest.raises(InputError, match=r"damaged.*profile\.csv"):
        Profile.load(tmp_path)
