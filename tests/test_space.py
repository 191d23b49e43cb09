"""spaces/llc: the page's function, with gradio itself left out."""

from __future__ import annotations

import runpy
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hf_llc import LLCEvaluator

FOLDER = Path(__file__).parents[1] / "spaces" / "llc"


class Refused(Exception):
    """In place of `gradio.Error`."""

    def __init__(self, message: str, *, duration: float | None) -> None:
        super().__init__(message)


@pytest.fixture
def estimate(monkeypatch: pytest.MonkeyPatch) -> Any:
    gradio = ModuleType("gradio")
    gradio.Error, gradio.Blocks = Refused, object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    return runpy.run_path(str(FOLDER / "app.py"))["estimate"]


@pytest.mark.slow
def test_the_model_of_the_package(estimate: Any) -> None:
    few = {"num_chains": 2, "num_draws": 8, "num_burnin_steps": 4, "step_size": 1e-6, "localization": 100.0}
    estimate.__globals__["LLCEvaluator"] = partial(LLCEvaluator, **few, check_localization=False)
    verdict, picture, card, report = estimate("", " ", "", 32.0, 0.5, False)
    assert verdict.startswith("### ") and " → " in verdict
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert card.startswith("## Local learning coefficient") and "λ̂" in report


@pytest.mark.parametrize("name", ["/etc/hostname", "../other", ".", "a/b/c", "tests"])
@pytest.mark.parametrize("field", [0, 1])
def test_the_disk_of_the_space_is_not_read(
    name: str, field: int, estimate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER.parents[1])
    ids = ["", ""]
    ids[field] = name
    with pytest.raises(Refused, match="is not an id on the Hub"):
        estimate(*ids, "", 32.0, 0.02, False)


def test_a_bad_split_is_a_message_for_people(estimate: Any) -> None:
    with pytest.raises(Refused, match="split"):
        estimate("", "", "no-such-split", 32.0, 0.02, False)
