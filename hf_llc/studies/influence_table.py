"""`InfluenceTable`: which examples (or tokens) help and harm which, as data and as files."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from hf_llc.files import write_atomically, write_csv, write_parquet
from hf_llc.judging.influence import UNIT, Influence
from hf_llc.numerals import number, short, with_error
from hf_llc.publishing.tables import columns, folded
from hf_llc.records.arrays import save_arrays
from hf_llc.seals import run_of, save_sealed_json

SCHEMA_VERSION = 1

PICTURE, KERNEL, REPORT, PARQUET, MATRIX, CSV, JSON = INFLUENCE_FILES = (
    *("influence.png", "kernel.png", "influence.html", "influence.parquet", "influence.safetensors", "influence.csv"),
    "influence.json",
)
"""Files of the folder. influence.json is written last; kernel.png is of a loss kernel alone."""

_SHOWN = 12
_WIDTH = 48


@dataclass(frozen=True)
class Row:
    """One of the strongest helpers (or harmers) of a query.

    Attributes:
        query: number of the example, or of the token in the order of examples.
        rank: 1 for the strongest.
        effect: "helps" (BIF below zero) or "harms".
        source: number of the example or token.
        bif: nats, see `UNIT`.
        rho: the correlation of the two losses.
        query_text: the query, if it is text.
        source_text: the source.
    """

    query: int
    rank: int
    effect: str
    source: int
    bif: float
    bif_se: float
    rho: float
    rho_se: float
    query_text: str
    source_text: str


@dataclass(frozen=True)
class InfluenceTable:
    """The strongest pairs, and what the whole matrix is worth.

    Attributes:
        rows: of all queries in order.
        found: the matrices, and their verdict.
        level: "example" or "token".
        settings: n and the sampling settings.
        llc: λ̂ of the same chains, its error and the verdict on it.
        model: provenance of the model.
        data: provenance of the sources.
    """

    rows: list[Row]
    found: Influence
    level: str
    settings: dict[str, Any]
    llc: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]

    @property
    def is_trustworthy(self) -> bool:
        """True if the matrix is signal."""
        return self.found.is_trustworthy

    @property
    def is_kernel(self) -> bool:
        """True if the sources, examples each, are their own queries."""
        return self.level == "example" and "queries=" not in str(self.settings["observe"])

    @property
    def headline(self) -> str:
        """What was measured, and the verdict with what is missing."""
        found = self.found
        sources, queries = found.bif.shape
        said = found.verdict
        if np.isfinite(found.agreement):
            said += f": reliability {short(found.reliability)}, halves agree {short(found.agreement)}"
            said += f" (errors say {short(found.agreement_expected)})"
        missing = f"; missing: {found.remedy}" if found.remedy else ""
        return f"{sources} sources, {queries} queries, by {self.level}; {said}{missing}"

    def to_dict(self) -> dict[str, Any]:
        """The table in plain numbers, strings, lists and dictionaries; the matrices are in influence.safetensors."""
        names = ("agreement", "agreement_expected", "reliability", "num_draws", "verdict", "remedy")
        about = {name: getattr(self.found, name) for name in names}
        values = {"level": self.level, "unit": UNIT, "formula": "bif = -(nbeta / n) * covariance", **about}
        values |= {"shape": list(self.found.bif.shape), "settings": self.settings, "llc": self.llc}
        rows = [asdict(row) for row in self.rows]
        return {"schema_version": SCHEMA_VERSION, **values, "model": self.model, "data": self.data, "rows": rows}

    def save(self, folder: str | Path) -> Path:
        """Write the matrices, the table as parquet, HTML and CSV, and influence.json, sealed with those."""
        folder = Path(folder)
        self._save_matrices(folder / MATRIX)
        rows = [list(asdict(row).values()) for row in self.rows]
        write_parquet(folder / PARQUET, _names(), rows, unit=UNIT)
        write_atomically(folder / REPORT, lambda path: path.write_text(render_html(self), encoding="utf-8"))
        write_csv(folder / CSV, _names(), rows)
        files = [name for name in INFLUENCE_FILES[:-1] if (folder / name).exists()]
        save_sealed_json(folder / JSON, self.to_dict(), run=run_of(folder), files=files)
        return folder

    def _save_matrices(self, path: Path) -> None:
        names = ("bif", "bif_se", "covariance", "correlation", "correlation_se")
        matrices = {name: getattr(self.found, name).astype(np.float32) for name in names}
        save_arrays(path, matrices, metadata={"unit": f"bif = -(nbeta / n) * covariance, in {UNIT}"})

    def __str__(self) -> str:
        table = [("query", "", "source", "BIF", "ρ", "text of the source")]
        for row in [row for row in self.rows if row.rank == 1][:_SHOWN]:
            values = _said(row.bif, row.bif_se), _said(row.rho, row.rho_se)
            table.append((str(row.query), row.effect, str(row.source), *values, _one_line(row.source_text)))
        law = f"nβ {number(self.settings['nbeta'])}, γ {number(self.settings['localization'])}"
        return f"{columns(table)}\n{folded(self.headline, f'BIF in {UNIT}, at {law}')}"


def strongest(found: Influence, sources: Sequence[str], queries: Sequence[str], *, top: int) -> list[Row]:
    """The `top` helpers and harmers of each query, the strongest first."""
    return [row for query in range(found.bif.shape[1]) for row in _of_query(found, sources, queries, query, top)]


def _of_query(found: Influence, sources: Sequence[str], queries: Sequence[str], query: int, top: int) -> Iterator[Row]:
    order = np.argsort(found.bif[:, query], kind="stable")
    helping, harming = order[:top], order[::-1][:top]
    for effect, chosen, sign in (("helps", helping, -1), ("harms", harming, 1)):
        for rank, source in enumerate((i for i in chosen if sign * found.bif[i, query] > 0), start=1):
            at = int(source), query
            yield Row(
                query=query,
                rank=rank,
                effect=effect,
                source=int(source),
                bif=float(found.bif[at]),
                bif_se=float(found.bif_se[at]),
                rho=float(found.correlation[at]),
                rho_se=float(found.correlation_se[at]),
                query_text=queries[query],
                source_text=sources[at[0]],
            )


def _names() -> list[str]:
    return [item.name for item in fields(Row)]


def _said(value: float, error: float) -> str:
    """A value with its error; ρ of an example with itself has none."""
    return with_error(value, error) if error > 1e-6 * abs(value) else short(value)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"


def render_html(table: InfluenceTable) -> str:
    """The table as a page that needs nothing else."""
    parts = [
        "<!doctype html><!-- hf_llc influence --><meta charset='utf-8'><title>Influence</title>",
        "<style>body{font:14px sans-serif;margin:2em auto;max-width:70em}td,th{padding:2px 8px;text-align:left;"
        "vertical-align:top}.helps{background:#e3f2fd}.harms{background:#fff3e0}blockquote{white-space:pre-wrap;"
        "background:#f4f4f4;padding:.6em}img{max-width:100%}</style>",
        f"<h1>Influence</h1><p>{html.escape(table.headline)}</p><p>BIF in {html.escape(UNIT)}. λ̂ of these chains: "
        f"{html.escape(with_error(table.llc['llc'], table.llc['llc_se']))} ({html.escape(table.llc['verdict'])}), at "
        f"nβ {number(table.settings['nbeta'])} and γ {number(table.settings['localization'])}.</p>",
        f"<img src='{PICTURE}' alt='the matrix of ρ'>",
        *([f"<img src='{KERNEL}' alt='the examples in a plane'>"] if table.is_kernel else []),
    ]
    for query, group in itertools.groupby(table.rows, key=lambda row: row.query):
        rows = list(group)
        parts.append(f"<h2>Query {query}</h2><blockquote>{html.escape(rows[0].query_text)}</blockquote>")
        parts.append("<table><tr><th></th><th>source</th><th>BIF</th><th>ρ</th><th>text</th></tr>")
        parts += [
            f"<tr class='{row.effect}'><td>{row.effect}</td><td>{row.source}</td>"
            f"<td>{html.escape(_said(row.bif, row.bif_se))}</td>"
            f"<td>{html.escape(_said(row.rho, row.rho_se))}</td><td>{html.escape(row.source_text)}</td></tr>"
            for row in rows
        ]
        parts.append("</table>")
    return "\n".join(parts) + "\n"
