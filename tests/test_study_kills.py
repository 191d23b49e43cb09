"""Components and influence: killed ten times between any two files they are, bit for bit, what they are undisturbed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import study_worker
from forked import run
from safetensors.numpy import load_file

STUDIES: dict[str, Callable[..., Any]] = {"components": study_worker.components, "influences": study_worker.influences}
FILES = {
    "components": ("components.csv", "components.parquet"),
    "influences": ("influence.csv", "influence.safetensors", "influence.parquet"),
}


class _Kill(BaseException):
    pass


@pytest.fixture(scope="module", params=STUDIES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a study, and its folder, undisturbed."""
    folder = tmp_path_factory.mktemp(request.param)
    STUDIES[request.param](str(folder))
    return request.param, folder


def assert_same(name: str, one: Path, two: Path) -> None:
    for file in FILES[name]:
        if file.endswith("safetensors"):
            matrices = [load_file(folder / file) for folder in (one, two)]
            assert matrices[0].keys() == matrices[1].keys()
            assert all((matrices[0][key] == matrices[1][key]).all() for key in matrices[0]), file
        else:
            assert (one / file).read_bytes() == (two / file).read_bytes(), file


@pytest.mark.slow
def test_ten_kills(whole: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each before some file gets its name: a chain's state, a result, a table."""
    name, folder = whole
    moments, real = random.Random(0), os.replace
    for _ in range(10):
        left = [moments.randint(2, 9)]

        def replaces(*args: Any, left: list[int] = left, **keywords: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise _Kill
            real(*args, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replaces)
            patch.setattr("hf_llc.parallel.pacing._FLUSH_STEPS", 5)
            with pytest.raises(_Kill):
                STUDIES[name](str(tmp_path / "killed"), save_seconds=0.0)
    assert (tmp_path / "killed" / "run.json").exists()
    STUDIES[name](str(tmp_path / "killed"), save_seconds=0.0)
    assert_same(name, folder, tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_find_the_same(whole: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = whole
    run(study_worker.__file__, name, str(tmp_path / "two"), processes=2)
    assert_same(name, folder, tmp_path / "two")
