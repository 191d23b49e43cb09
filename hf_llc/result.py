"""`LLCResult`: a record that can be saved, loaded, printed and published."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_llc.errors import InputError
from hf_llc.records.record import SCHEMA_VERSION, Record
from hf_llc.records.trace import Trace

if TYPE_CHECKING:
    from hf_llc.judging.influence import Influence
    from hf_llc.publishing.hub import Published

__all__ = ["SCHEMA_VERSION", "LLCResult", "Trace"]


class LLCResult(Record):
    """λ̂(w*) ± its standard error, the verdict on it, and its settings: see `Record` for what it holds."""

    def save(self, folder: str | Path) -> Path:
        """Write result.json, card.md, trace.safetensors and trace.png into `folder`; return the folder."""
        from hf_llc.publishing.result_folder import save

        return save(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> LLCResult:
        """Read a folder written by `save` (or its result.json alone).

        Raises:
            InputError: there is no result, or a file that is not one.
        """
        from hf_llc.publishing.result_folder import load

        return load(cls, folder)

    def influence(self, sources: str | None = None, queries: str | None = None) -> Influence:
        """Bayesian influence of observed examples on others, with standard errors and a verdict.

        Args:
            sources: name of the losses ℓ_i, in `observe`; None: the first.
            queries: name of the losses ℓ_j; None: the last. With one name it is the loss kernel of these examples.

        By token, `[example, position]` becomes one row of quantities.

        Raises:
            InputError: there are no such losses, or a chain has ended.
        """
        from hf_llc.judging.influence import influence

        seen = self.observations
        names = [] if seen is None else list(seen.init)
        if seen is None or not names:
            raise InputError("no losses were observed", remedy='give observe={"train": "@data"}')
        chosen = [names[0] if sources is None else sources, names[-1] if queries is None else queries]
        for name in chosen:
            if name not in names:
                raise InputError("no losses of that name", value=name, allowed=", ".join(names))
        kept = seen.steps >= self.num_burnin_steps
        losses = [seen.values[name][:, kept] for name in chosen]  # [chain, record, example] or [.., example, position]
        one, two = (x.reshape(*x.shape[:2], math.prod(x.shape[2:])) for x in losses)
        return influence(one, two, nbeta=self.nbeta, n=self.n, chains_verdict=self.verdict)

    def to_xarray(self, *, sampling_task: str | None = None) -> Any:
        """Trace and observations as an `xarray.DataTree`, with devinterp's names (extra `hf_llc[xarray]`).

        Args:
            sampling_task: name, in `observe`, of examples of the data that the chains are sampled on. `init_loss` is
                their mean loss at w*, as devinterp's susceptibilities need it. None: "train" or "sources", if
                observed; otherwise `init_loss` is L_n(w*) of all data.

        Raises:
            InputError: xarray is not installed, the trace was not kept, or nothing of that name was observed.
        """
        from hf_llc.publishing.xarray_export import to_xarray

        return to_xarray(self, sampling_task=sampling_task)

    def to_zarr(self, path: str | Path, *, sampling_task: str | None = None) -> Path:
        """Write the tree of `to_xarray` to a new zarr store at `path`; return the path.

        Args:
            path: of the store.
            sampling_task: see `to_xarray`.

        Raises:
            InputError: xarray or zarr is not installed, the trace was not kept, or something is at `path`.
        """
        from hf_llc.publishing.xarray_export import to_zarr

        return to_zarr(self, path, sampling_task=sampling_task)

    def push_to_hub(self, repo_id: str, **options: Any) -> Published:
        """Put λ̂ on a model's card and the result's files beside it, in one commit.

        Args:
            repo_id: the model's repository, `owner/name`; it is made if there is none.
            options: fields of `hf_llc.publishing.options.PublishOptions`: create_pr, revision, private,
                benchmark_dataset, allow_untrusted, dry_run.

        Raises:
            InputError: the verdict is bad, an option is not what it should be, or the README cannot be edited.
            PublishError: the Hub did not take it; nothing was committed, and the result is on disk.
        """
        from hf_llc.publishing.hub import publish
        from hf_llc.publishing.options import PublishOptions

        return publish(self, repo_id, PublishOptions(**options))

    def details(self) -> str:
        """Return the whole report as a table. `print(result)` prints the short one."""
        from hf_llc.publishing.report import render

        return render(self)

    def __str__(self) -> str:
        from hf_llc.publishing.report import summary

        return summary(self)
