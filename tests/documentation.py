"""What the pages for users have in them that can be run, and how a test runs it: in this process, offline, in seconds.

What is put in place of what the pages say:

- every run is short (`SHORT`), and its step size and γ are given where a page leaves them to the pilot;
- pictures are blank: test_pictures.py and others look at them;
- a short run is believed (its verdict is "trustworthy"), for pages go on to publish what they measured;
- `my-model`, `my-data.txt` and the other names of the pages are tiny models and texts in the working folder
  (`furnish`), and `ID` in a command is one of them;
- a launcher's command is understood and its settings are checked; it is not launched.

What is not run at all stands in `NOT_RUN`, with the reason.
"""

from __future__ import annotations

import functools
import re
import shlex
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny

from hf_llc.config import LoadConfig, SampleConfig

ROOT = Path(__file__).parents[1]

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])

NOT_RUN = {
    "docs/extending.md": "tests/test_extending.py runs it, with its registrations undone after each section",
    "docs/paper.md": "tests/test_pipelines.py runs both ways of its section on evaluate",
    "make ": "it would set up an environment; that the target is there is checked",
    "git clone": "network",
    "python scripts/": "the tests of each script run its smoke preset; that script and flags are there is checked",
    "from devinterp": "devinterp is an extra that the tests do not need",
}
"""A page, or the beginning of a command or block → why it is not run here."""

SHORT: dict[str, Any] = {"num_chains": 2, "num_steps_between_draws": 1, "max_steps": 60}
SHORT |= {"num_burnin_steps": 4, "minimize_steps": 5, "observe_examples": 4, "observe_every": 1, "batch_size": 8}
"""At most so much."""

FEWER = {"1e2:1e6:9": "1e3:1e5:2", "1e3,1e4,1e5": "1e5", "100,1000": "1000"}
"""Words of commands in place of which fewer values of γ and nβ stand."""

MOST_EXAMPLES = 16

DRAWS = {"influence.md": 24, "susceptibilities.md": 24}
"""Pages whose commands need more than six draws a chain."""

LEFT_OPEN = {"profile.md": ("localization",)}
"""Pages whose commands refuse what is given in place of "auto"."""

GIVEN: dict[str, Any] = {"step_size": 1e-6, "localization": 300.0, "num_burnin_steps": 4}
"""In place of "auto"."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, what is in it, and where it begins."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", text, flags=re.M | re.S)
    return [Block(page, text[: each.start()].count("\n") + 1, each[1], each[2]) for each in found]


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block: lines joined at a backslash, comments and assignments left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [_without_assignments(each) for each in words if each]


def inline_commands(page: Path) -> list[list[str]]:
    """The words of each `hf-llc …` in the text itself, but for those that leave something out (…)."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = re.findall(r"`(hf-llc [^`…|]+)`", text)
    return [shlex.split(each, comments=True) for each in found]


def _without_assignments(words: list[str]) -> list[str]:
    return words[next((place for place, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), 0) :]


def why_not_run(page: Path, text: str) -> str | None:
    """The reason why a command or block is not run; None if it is."""
    name = str(page.relative_to(ROOT))
    return next((why for key, why in NOT_RUN.items() if key == name or text.startswith(key)), None)


def with_names(words: list[str]) -> list[str]:
    """A command with `ID` replaced by what is in the working folder, as a model or as data; and with fewer values."""
    models, data = {"--model", "--base-model"}, {"ID": "my-data.txt", "ID:test": "my-data.txt", **FEWER}
    kept = list(words)
    for place, word in enumerate(kept):
        if word == "ID" and kept[place - 1] in models:
            kept[place] = "my-model"
        elif word in data:
            kept[place] = data[word]
        else:
            kept[place] = word.replace("=hub/id:test", "=my-data.txt")
    return kept


@functools.cache
def _made(folder: Path) -> Path:
    """Tiny models and texts under the names of the pages."""
    for name, seed in (("my-model", 1), ("my-other-model", 2), ("roneneldan/TinyStories-1M", 1)):
        tiny.save_llama(folder / name, seed=seed, layers=1)
    for step in (100, 200):
        tiny.save_llama(folder / f"trainer_output/checkpoint-{step}", seed=step, layers=1)
    text = "\n\n".join(tiny.SENTENCES * 8)
    (folder / "my-data.txt").write_text(text, encoding="utf-8")
    (folder / "roneneldan/TinyStories").mkdir()
    (folder / "roneneldan/TinyStories/validation.txt").write_text(text, encoding="utf-8")
    return folder


def furnish(made: Path, place: Path) -> None:
    """The models, data and settings that the pages name, in the folder `place`."""
    shutil.copytree(_made(made), place, dirs_exist_ok=True)
    yaml = [block.text for page in PAGES for block in blocks(page) if block.language == "yaml"]
    (place / "run.yaml").write_text(yaml[0], encoding="utf-8")


def make_short(monkeypatch: pytest.MonkeyPatch, *, num_draws: int, left_open: Collection[str] = ()) -> None:
    """From here on every run is short and believed."""
    checked = SampleConfig.__post_init__

    def shortened(self: SampleConfig) -> None:
        names = [name for name in GIVEN if getattr(self, name) == "auto" and name not in left_open]
        for name in names:
            object.__setattr__(self, name, GIVEN[name])
        for name, most in {**SHORT, "num_draws": num_draws}.items():
            if isinstance(getattr(self, name), int) and getattr(self, name) > most:
                object.__setattr__(self, name, most)
        object.__setattr__(self, "check_localization", False)
        checked(self)

    def few(self: LoadConfig) -> None:
        object.__setattr__(self, "max_examples", min(self.max_examples or MOST_EXAMPLES, MOST_EXAMPLES))
        checked_load(self)

    checked_load = LoadConfig.__post_init__
    monkeypatch.setattr(LoadConfig, "__post_init__", few)
    monkeypatch.setattr(SampleConfig, "__post_init__", shortened)
    monkeypatch.setattr("hf_llc.judging.estimator.named", lambda reasons: "trustworthy")


def flags_of(script: Path) -> set[str]:
    """The flags that stand in a script, or in what the scripts share."""
    texts = [path.read_text(encoding="utf-8") for path in (script, script.with_name("experiment.py"))]
    return {flag for text in texts for flag in re.findall(r"--[a-z][\w-]*", text)}


def targets() -> Iterator[str]:
    """The targets of the Makefile."""
    yield from re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
