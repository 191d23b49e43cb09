"""What `print(result)` and `hf-llc show` give: a short table, and one with all details."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hf_llc.numerals import with_error
from hf_llc.publishing.formatting import apart, for_encoding, shell_word, together, width
from hf_llc.publishing.headline import law_text, moved_text, part_text, remedies_of
from hf_llc.publishing.lines import SHORT, show_rows

if TYPE_CHECKING:
    from hf_llc.records.record import Record

_LABEL_WIDTH = 14
"""Columns of the labels."""


def render(result: Record, *, encoding: str | None = None) -> str:
    """Return all that there is to say of the result, as a table of at most 100 columns.

    Args:
        result: what to show.
        encoding: encoding of the reader (None: that of standard output). If it has no λ̂, β …, the text is plain ASCII.
    """
    rows = _head(result)
    for reason, remedy in zip(result.reasons, remedies_of(result.reasons), strict=True):
        text = f"{reason.name}: {reason.text}" + (f"\n→ {remedy}" if remedy else "")
        rows.append(("  note" if reason.is_note else "  because", text))
    return table(rows + show_rows(result), encoding=encoding)


def summary(result: Record, *, folder: str | Path | None = None, encoding: str | None = None) -> str:
    """Return the short table: λ̂ at its nβ and γ, the verdict, how λ̂ moves with γ, and what to do.

    Args:
        result: what to show.
        folder: where it is, for the line that says how to see the rest; None: that of the result, if it has one.
        encoding: as of `render`.
    """
    rows = _head(result)
    rows += [("  because", f"{reason.name}: {reason.text}") for reason in result.reasons if not reason.is_note]
    notes = [reason.name for reason in result.reasons if reason.is_note]
    rows += [("  note", "; ".join(notes))] if notes else []
    rows += show_rows(result, SHORT)
    rows += [("what to do", text) for text in _advice(result)]
    folder = result.folder if folder is None else folder
    more = "print(result.details())" if folder is None else f"hf-llc show {shell_word(str(folder))} --details"
    return table([*rows, ("details", more)], encoding=encoding)


def _head(result: Record) -> list[tuple[str, str]]:
    """The first rows: λ̂, how far minimize moved w*, and the verdict."""
    rows = [("λ̂", f"{with_error(result.llc, result.llc_se)}{part_text(result)}   at {law_text(result)}")]
    moved = moved_text(result)
    return [*rows, *([] if moved is None else [("", moved)]), ("verdict", result.verdict)]


def _advice(result: Record) -> list[str]:
    """What to do about the result, a line each."""
    if result.is_trustworthy:
        return ["compare λ̂ with others at this nβ and γ, on these data"]
    remedies = [
        remedy
        for reason, remedy in zip(result.reasons, remedies_of(result.reasons), strict=True)
        if remedy and not reason.is_note
    ]
    return remedies or ["nothing is known to help here; the details say what was seen"]


def table(rows: Iterable[tuple[str, str]], *, encoding: str | None = None) -> str:
    """Rows (label, text) as lines that fit the terminal, the text wrapped beside its label."""
    return "\n".join(
        line for label, text in rows for line in _wrapped(for_encoding(label, encoding), for_encoding(text, encoding))
    )


def _wrapped(label: str, text: str) -> list[str]:
    """The lines of one row: the label, and the text wrapped beside it."""
    lines = []
    for part in text.split("\n"):
        lines += textwrap.wrap(
            together(part), width() - _LABEL_WIDTH, break_on_hyphens=False, break_long_words=False
        ) or [""]
    # A combining mark, such as the hat of λ̂, is a character but takes no column.
    combining = sum(0x300 <= ord(char) < 0x370 for char in label)
    first = label.ljust(_LABEL_WIDTH + combining)
    return [(first if i == 0 else " " * _LABEL_WIDTH) + apart(line) for i, line in enumerate(lines)]
