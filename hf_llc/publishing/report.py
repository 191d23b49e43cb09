"""The small table that `print(result)` and `hf-llc show` give."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hf_llc.numerals import with_error
from hf_llc.publishing.formatting import WIDTH, for_encoding
from hf_llc.publishing.headline import law_text, moved_text, part_text, remedies_of
from hf_llc.publishing.lines import show_rows

if TYPE_CHECKING:
    from hf_llc.records.record import Record

_LABEL_WIDTH = 14
"""Columns of the labels."""


def render(result: Record, *, encoding: str | None = None) -> str:
    """Return the result as a table of at most 100 columns, without a line feed at its end.

    Args:
        result: what to show.
        encoding: encoding of the reader (None: that of standard output). If it has no λ̂, β …, the text is plain ASCII.
    """
    rows = [("λ̂", f"{with_error(result.llc, result.llc_se)}{part_text(result)}   at {law_text(result)}")]
    moved = moved_text(result)
    rows += [] if moved is None else [("", moved)]
    rows += [("verdict", result.verdict)]
    for reason, remedy in zip(result.reasons, remedies_of(result.reasons), strict=True):
        text = f"{reason.name}: {reason.text}" + (f"\n→ {remedy}" if remedy else "")
        rows.append(("  note" if reason.is_note else "  because", text))
    return table(rows + show_rows(result), encoding=encoding)


def table(rows: Iterable[tuple[str, str]], *, encoding: str | None = None) -> str:
    """Rows (label, text) as lines of at most 100 columns, the text wrapped beside its label."""
    return "\n".join(
        line for label, text in rows for line in _wrapped(for_encoding(label, encoding), for_encoding(text, encoding))
    )


def _wrapped(label: str, text: str) -> list[str]:
    """The lines of one row: the label, and the text wrapped beside it."""
    lines = []
    for part in text.split("\n"):
        lines += textwrap.wrap(part, WIDTH - _LABEL_WIDTH, break_on_hyphens=False) or [""]
    # A combining mark, such as the hat of λ̂, is a character but takes no column.
    combining = sum(0x300 <= ord(char) < 0x370 for char in label)
    first = label.ljust(_LABEL_WIDTH + combining)
    return [(first if i == 0 else " " * _LABEL_WIDTH) + line for i, line in enumerate(lines)]
