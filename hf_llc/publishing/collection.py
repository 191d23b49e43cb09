"""Many results as one table: a parquet file with a row a run, which `datasets` loads, here or on the Hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hf_llc.errors import InputError
from hf_llc.files import check_writable, write_atomically
from hf_llc.our_files import is_ours, our_names
from hf_llc.publishing.formatting import plain
from hf_llc.publishing.hub_answers import explain
from hf_llc.publishing.options import check_repo_id
from hf_llc.publishing.result_folder import RESULT, load
from hf_llc.records.record import Record

REMOTE = "data/results.parquet"
"""Name of the file in a repository: `datasets.load_dataset(ID)` finds it there."""

_NAMES = (RESULT, "run.json")
"""One of them is in the folder of every run."""

_README = """---
tags: [hf_llc, local-learning-coefficient]
configs:
- config_name: default
  data_files: data/results.parquet
---
# Local learning coefficients

One row a run of hf_llc: λ̂ (`llc`) with its standard error and verdict, and the settings, model and data to which it
belongs. Compare only rows with equal `data_fingerprint`, `nbeta` and `localization`.
"""


def found_in(folders: Iterable[str | Path]) -> list[Path]:
    """The folders of runs: each one given, or, where it holds no result, the runs in it; each once, in order."""
    paths: dict[Path, Path] = {}
    for folder in map(Path, folders):
        for path in ([] if (folder / RESULT).exists() else _inside(folder)) or [folder]:
            paths.setdefault(path.resolve(), path)
    return list(paths.values())


def _inside(folder: Path) -> list[Path]:
    return sorted({path.parent for name in _NAMES for path in folder.glob(f"*/{name}")})


def collected(folders: Sequence[str | Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of all finished runs in these folders, and a line for each folder that has none.

    Raises:
        InputError: no folder has one.
    """
    rows, left_out = [], []
    for path in found_in(folders):
        try:
            rows.append(_row(str(path), load(Record, path)))
        except InputError as error:
            has_begun = (path / "run.json").exists() and not (path / RESULT).exists()
            left_out.append(f"{path}: {_what_it_is(path)}" if has_begun else str(error))
    if not rows:
        raise InputError("there is no finished run", value=", ".join(map(str, folders)), remedy="; ".join(left_out[:3]))
    return rows, left_out


def _what_it_is(folder: Path) -> str:
    """What a folder with run.json and without a result holds: a run under way, or a study (a curve, say) of many."""
    study = next((name for name in our_names() if name.endswith(".json") and (folder / name).exists()), None)
    if study is None:
        return "the run is not finished"
    return f"its result is {study}" + ("; give this folder itself to collect the runs in it" * bool(_inside(folder)))


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows as a parquet file, atomically.

    Raises:
        InputError: its folder cannot be written to, or a file that is not a table of ours has its name.
    """
    import pyarrow
    from pyarrow import parquet

    check_writable(path.parent)
    if path.exists() and not is_ours(path, like="influence.parquet"):
        raise InputError("there is a file that hf_llc did not write", value=str(path), remedy="give another name")
    types = {"string": pyarrow.string(), "double": pyarrow.float64(), "int": pyarrow.int64(), "bool": pyarrow.bool_()}
    types["list"] = pyarrow.list_(pyarrow.float64())
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()], metadata={"made_by": "hf_llc"})
    table = pyarrow.Table.from_pylist(list(rows), schema=schema)
    write_atomically(path, lambda temporary: parquet.write_table(table, temporary))


def upload(path: Path, repo_id: str, *, private: bool = False) -> str:
    """Put the file into a data set of the Hub, which is made if it is not there; return its address.

    Raises:
        InputError: the id is none, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_repo_id("repo", repo_id)
    api = HfApi(library_name="hf_llc")
    try:
        made = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        added = [CommitOperationAdd(REMOTE, path)]
        if not api.file_exists(repo_id, "README.md", repo_type="dataset"):
            added.append(CommitOperationAdd("README.md", _README.encode()))
        api.create_commit(repo_id, added, repo_type="dataset", commit_message="Local learning coefficients of hf_llc")
    except Exception as error:  # the client has no common type for no access, no network, no such user …
        raise InputError(
            f"the table was not uploaded; it is in {path}",
            value=repo_id,
            remedy=explain(error),
        ) from error
    return str(made)


COLUMNS = {
    "run": "string", "llc": "double", "llc_se": "double", "verdict": "string", "is_trustworthy": "bool",
    "reasons": "string", "llc_per_chain": "list", "r_hat": "double", "ess": "double", "accept_prob": "double",
    "llc_at_half_localization": "double", "llc_at_twice_localization": "double",
    "init_loss": "double", "mean_loss": "double", "trivial_loss": "double", "unit": "string", "n": "int",
    "nbeta": "double", "localization": "double", "sampler": "string", "step_size": "double", "friction": "double",
    "gradient": "string", "num_chains": "int", "num_draws": "int", "num_steps_between_draws": "int",
    "num_burnin_steps": "int", "batch_size": "int", "seed": "int", "minimized": "bool", "weights": "string",
    "task": "string", "dtype": "string", "device": "string", "num_parameters": "int", "num_parameters_total": "int",
    "model_id": "string", "model_revision": "string", "model_fingerprint": "string", "data_id": "string",
    "data_subset": "string", "data_split": "string", "data_revision": "string", "data_fingerprint": "string",
    "num_gradients": "int", "wall_seconds": "double", "hf_llc": "string",
}  # fmt: skip
"""The columns and their kinds."""


def _row(run: str, result: Record) -> dict[str, Any]:
    """One run as a row; what it has not is null."""
    change = {name: result.localization_sensitivity.get(name) for name in ("halved", "doubled")}
    names = ("id", "revision", "subset", "split", "fingerprint")
    values = {
        **result.to_dict(),
        **result.metrics(),
        **{f"model_{name}": result.model.get(name) for name in names},
        **{f"data_{name}": result.data.get(name) for name in names},
        "run": run,
        "is_trustworthy": result.is_trustworthy,
        "reasons": "; ".join(f"{reason.name}: {reason.text}" for reason in result.reasons),
        "llc_at_half_localization": None if change["halved"] is None else result.llc + change["halved"],
        "llc_at_twice_localization": None if change["doubled"] is None else result.llc + change["doubled"],
        "hf_llc": result.versions.get("hf_llc"),
    }
    texts = {name for name, kind in COLUMNS.items() if kind == "string"}
    row = {name: values.get(name) for name in COLUMNS}
    return {name: plain(value) if name in texts and value is not None else value for name, value in row.items()}
