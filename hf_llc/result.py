"""`LLCResult`: a record that can be saved, loaded, printed and published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hf_llc.errors import InputError
from hf_llc.files import write_atomically, write_json
from hf_llc.records.record import SCHEMA_VERSION, Record
from hf_llc.records.trace import Trace

if TYPE_CHECKING:
    from hf_llc.publishing.hub import Published

__all__ = ["SCHEMA_VERSION", "LLCResult", "Trace"]


class LLCResult(Record):
    """λ̂(w*) ± its standard error, the verdict on it, and its settings: see `Record` for what it holds."""

    def save(self, folder: str | Path) -> Path:
        """Write result.json, card.md, trace.safetensors and trace.png into `folder`; returns the folder."""
        from hf_llc.publishing.card_section import render_section

        folder = Path(folder)
        if self.trace is not None:
            from hf_llc.publishing.trace_plot import plot_trace

            self.trace.save(folder / "trace.safetensors")
            write_atomically(folder / "trace.png", lambda temporary: plot_trace(self, temporary))
        section = render_section(self)
        write_atomically(folder / "card.md", lambda temporary: temporary.write_text(section, encoding="utf-8"))
        write_json(folder / "result.json", self.to_dict())  # last: its presence says that the rest is there
        self.folder = folder
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        create_pr: bool = False,
        revision: str | None = None,
        private: bool | None = None,
        allow_untrusted: bool = False,
        dry_run: bool = False,
        benchmark_dataset: str | None = None,
    ) -> Published:
        """Put the result on the model's card and its files beside it, in one commit; see `publishing.hub.publish`."""
        from hf_llc.publishing.hub import publish

        return publish(
            self,
            repo_id,
            create_pr=create_pr,
            revision=revision,
            private=private,
            allow_untrusted=allow_untrusted,
            dry_run=dry_run,
            benchmark_dataset=benchmark_dataset,
        )

    @classmethod
    def load(cls, folder: str | Path) -> LLCResult:
        """Read a folder written by `save` (or its result.json alone).

        Raises:
            InputError: no result there, or a file that is not one.
        """
        path = Path(folder)
        path = path / "result.json" if path.is_dir() else path
        if not path.exists():
            raise InputError("no result there", value=str(folder), allowed="a folder with result.json, or that file")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError("not a result file", value=str(path), remedy="estimate again") from error
        if not isinstance(values, dict):
            raise InputError("not a result file", value=str(path), remedy="estimate again")
        result = cls.from_dict(values)
        trace = path.with_name("trace.safetensors")
        result.trace = Trace.load(trace) if trace.exists() else None
        result.folder = path.parent
        return result

    def __str__(self) -> str:
        from hf_llc.publishing.report import render

        return render(self)
