"""The site builds without a warning, and needs no network to be read (skipped where mkdocs is not installed)."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from hf_llc.config import LoadConfig, SampleConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings_handlers")):
        pytest.skip("mkdocs is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_the_navigation_names_pages_that_are_there() -> None:
    named = re.findall(r"[\w/-]+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    made = {"index.md", "contributing.md", "changelog.md"}
    assert len(named) == len(set(named)) > 25
    assert [name for name in named if name not in made and not (ROOT / "docs" / name).exists()] == []


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"?(https?:)?//", text)
        assert not loaded, page


def test_the_reference_has_every_setting_and_command(site: Path) -> None:
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    for item in (*fields(LoadConfig), *fields(SampleConfig)):
        assert f"<code>{item.name}</code>" in settings, item.name
    commands = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    assert all(f'id="hf-llc-{name}"' in commands for name in ("estimate", "curve", "publish", "influence", "theory"))
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert all(f'id="hf_llc.{name}"' in api for name in ("evaluator.LLCEvaluator.compute", "callback.LLCCallback"))
    assert "<code>w*</code>" in api or "w*" in api
