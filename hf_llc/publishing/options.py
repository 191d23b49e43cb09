"""`PublishOptions`: how a result is published. The one source for `push_to_hub`'s keywords and the command's flags."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_llc.errors import InputError

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """Keywords of `LLCResult.push_to_hub`, and flags of `hf-llc publish`."""

    create_pr: bool = _option(False, "open a pull request instead of a commit")
    revision: str | None = _option(None, "branch to commit to, or refs/pr/N; none: the main branch")
    private: bool | None = _option(None, "visibility of a repository that has to be made")
    benchmark_dataset: str | None = _option(None, "id of a benchmark data set: also enter λ̂ in .eval_results for it")
    allow_untrusted: bool = _option(False, "publish an estimate although its verdict is bad; the card says so")
    dry_run: bool = _option(False, "change nothing, and show the changes")

    def __post_init__(self) -> None:
        """Check what can be checked without the Hub.

        Raises:
            InputError: an option is not what it should be, or two exclude each other.
        """
        if self.benchmark_dataset is not None:
            check_repo_id("benchmark_dataset", self.benchmark_dataset)
        if self.create_pr and self.revision not in (None, "main"):
            raise InputError("create_pr and revision exclude each other", value=self.revision, remedy="give one")

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {item.name: values[item.name] for item in fields(self) if values[item.name] != item.default}

    def command(self, folder: Path, repo_id: str) -> str:
        """The command line that publishes the result in `folder` with these options."""
        words = ["hf-llc", "publish", str(folder), "--repo", repo_id]
        for name, value in self.given().items():
            flag = name.replace("_", "-")
            words += [f"--{flag}"] if value is True else [f"--no-{flag}"] if value is False else [f"--{flag}", value]
        return shlex.join(words)


def check_repo_id(name: str, value: str) -> None:
    """Check that `value` has the form owner/name.

    Raises:
        InputError: it has not.
    """
    if not _REPO_ID.fullmatch(value):
        raise InputError(f"{name} is not an id of the Hub", value=value, allowed="owner/name")
