"""Every block of code and every command of README, CONTRIBUTING and the guides runs (see documentation.py for how)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import documentation
import pytest
from documentation import NOT_RUN, PAGES, ROOT, blocks, commands, inline_commands, why_not_run, with_names
from hub import Hub

from hf_llc.cli import console
from hf_llc.cli.arguments import parse, settings_from
from hf_llc.cli.entry_point import _parser, main

PAGES_WITH_CODE = [page for page in PAGES if any(block.language in ("python", "bash") for block in blocks(page))]

SLOW = {"curves.md", "influence.md", "profile.md", "susceptibilities.md"}
"""Pages whose commands measure several models, components or kinds of draws."""

LAUNCHERS = ("torchrun", "accelerate")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny models and texts are made, once."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def place(
    made: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """A working folder with all that the pages name, a Hub where `me` may write, and short runs."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    documentation.furnish(made, tmp_path)
    page = request.node.callspec.params["page"]
    draws, left_open = documentation.DRAWS.get(page.name, 6), documentation.LEFT_OPEN.get(page.name, ())
    documentation.make_short(monkeypatch, num_draws=draws, left_open=left_open)
    hub.put("me/my-model", tmp_path / "my-model", tags=["step1", "step2"])
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setenv("HF_TOKEN", hub.token("me"))
    monkeypatch.setattr(console, "hush", lambda quiet: None)
    return tmp_path


def understood(words: list[str]) -> None:
    """The command parses, and its settings are allowed."""
    args = parse(_parser(), words)
    if hasattr(args, "config"):
        settings_from(args)


def run_command(words: list[str]) -> None:
    """Run a command of a page; exit code 0, or 3 for a verdict."""
    if words[0] in LAUNCHERS:
        place = words.index("scripts/estimate_llc.py")
        understood(["estimate", *words[place + 1 :]])
        return
    assert words[0] == "hf-llc", f"no such program: {words[0]}"
    assert main(with_names(words[1:])) in (0, 3), " ".join(words)


def pages_with_code() -> list[Any]:
    """One case a page."""
    marks = {page: [pytest.mark.slow] if page.name in SLOW else [] for page in PAGES_WITH_CODE}
    return [pytest.param(page, id=page.name, marks=each) for page, each in marks.items()]


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with_code())
def test_the_page_runs(page: Path, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        try:
            if block.language == "python" and why_not_run(page, block.text) is None:
                exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
            for words in commands(block) if block.language == "bash" else []:
                if why_not_run(page, " ".join(words)) is None:
                    run_command(words)
        except BaseException as error:
            error.add_note(f"{block.where}\n{capfd.readouterr().err[-2000:]}")
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_are_understood(page: Path, place: Path) -> None:
    for words in inline_commands(page):
        if len(words) > 2 or words[1] == "doctor":
            understood(with_names(words[1:]))
        else:
            assert f'add_parser(\n        "{words[1]}"' in _sources(), words


def _sources() -> str:
    folder = ROOT / "hf_llc" / "cli" / "commands"
    return "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))


def test_what_is_not_run_is_there() -> None:
    """Targets of make, scripts and their flags; and no reason is left over."""
    used = set()
    for page in PAGES:
        for block in blocks(page):
            for words in commands(block) if block.language == "bash" else []:
                used |= {key for key in NOT_RUN if " ".join(words).startswith(key)}
                if words[0] == "make":
                    assert words[1] in documentation.targets(), f"{block.where}: make {words[1]}"
                if words[0] == "python":
                    flags = {word for word in words if word.startswith("--")}
                    assert flags <= documentation.flags_of(ROOT / words[1]), f"{block.where}: {words}"
            used |= {key for key in NOT_RUN if block.language == "python" and block.text.startswith(key)}
        used |= {key for key in NOT_RUN if key == str(page.relative_to(ROOT))}
    assert used == set(NOT_RUN)
