"""A column of the data that no task reads, beside the examples: to colour them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.data_sources import column, materialize, open_data
from hf_llc.loading.tensor_data import is_tensors
from hf_llc.problem import Problem


def values_beside(problem: Problem, data: Any, config: LoadConfig, name: str) -> Sequence[str | float]:
    """The value of each example in a column: a number, or a text.

    Args:
        problem: what was loaded from the same data.
        data: as they were given.
        config: as for the problem.
        name: of the column.

    Raises:
        InputError: an example is not one row, there is no such column, or it holds neither texts nor numbers.
    """
    if data is None or is_tensors(data) or problem.provenance["data"].get("packing") == "packed":
        raise InputError(
            "an example of these data is not a row with columns", value=name, remedy="leave color out, or set packing"
        )
    rows = materialize(open_data(data, config, sample_by="paragraph")[0], config)
    values = list(rows[column(rows, name, (), "color")])
    if len(values) != problem.num_examples:
        raise InputError(
            "the data do not have one row for each example", value=f"{len(values):,} and {problem.num_examples:,}",
            remedy="leave color out",
        )  # fmt: skip
    names = getattr(rows.features[name], "names", None)  # of a ClassLabel
    named = [names[value] if names and isinstance(value, int) and value >= 0 else value for value in values]
    found = ["none" if value is None else value for value in named]
    if strange := [value for value in found if not isinstance(value, (str, int, float))]:
        raise InputError(f"the column {name} holds neither texts nor numbers", value=type(strange[0]).__name__)
    return found
