"""What a built wheel holds: every module, the files that they read, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel that is built from a copy of the sources, without a network."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "hf_llc", source / "hf_llc", ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(built), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = built.glob("hf_llc-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_every_file_of_the_package_is_in_it(names: set[str]) -> None:
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_llc").rglob("*") if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == {x for x in sources if "__pycache__" not in x}


def test_types_and_data_are_in_it(names: set[str]) -> None:
    assert {"hf_llc/py.typed", "hf_llc/embedded/text.txt", "hf_llc/metrics/llc/README.md"} <= names
