"""Tables and lines in a terminal: they keep to its width, and to ASCII where it has no more."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from hf_llc.publishing.formatting import apart, for_encoding, together, width

_GAP = 2
"""Columns of the terminal between two columns of a table."""

_INDENT = 2
"""Columns by which the second line of a folded one is indented."""

_NO_BREAK = "\u00a0"


def columns(rows: Sequence[Sequence[str]], *, least: Sequence[int] | None = None, encoding: str | None = None) -> str:
    """A table whose first row is its head, its columns lined up.

    Where the terminal is too narrow, cells are wrapped between words, the widest first, a number and its error
    together. Where that does not do, each row is text, as `blocks` has it.

    Args:
        rows: the cells; every row has as many.
        least: columns of the terminal that each takes at least, where the table comes a row at a time.
        encoding: as of `for_encoding`.
    """
    cells = [[for_encoding(text, encoding) for text in row] for row in rows]
    words = [[_words(text) for text in row] for row in cells]
    across = list(zip(*words, strict=True))
    widths = [max(_length(" ".join(cell)) for cell in column) for column in across]
    widths = [max(*pair) for pair in zip(widths, least or [0] * len(widths), strict=True)]
    floors = [max(_length(word) for cell in column for word in cell or [""]) for column in across]
    too_wide = sum(widths) + _GAP * (len(widths) - 1) - width()
    while too_wide > 0:
        room = [(have, place) for place, (have, least) in enumerate(zip(widths, floors, strict=True)) if have > least]
        if not room:
            return blocks(rows, encoding=encoding)
        widths[max(room)[1]] -= 1
        too_wide -= 1
    return "\n".join(line for row in words for line in _lined_up(row, widths))


def folded(*texts: str, encoding: str | None = None) -> str:
    """The lines of the texts, each wrapped between words where it is wider than the terminal, and then indented."""
    lines = [line for text in texts for line in for_encoding(text, encoding).split("\n")]
    return "\n".join(part for line in lines for part in _fold(line))


def _words(text: str) -> list[str]:
    """The words of a cell; a number and its error are one."""
    return [apart(word) for word in together(text).split(" ")] if text else []


def _length(text: str) -> int:
    """Columns that a text takes: a combining mark, such as the hat of λ̂, takes none."""
    return sum(not 0x300 <= ord(char) < 0x370 for char in text)


def _lined_up(row: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """The lines of one row."""
    cells = [_wrapped(words, width) for words, width in zip(row, widths, strict=True)]
    height = max(map(len, cells))
    padded = [[*cell, *[""] * (height - len(cell))] for cell in cells]
    gap = " " * _GAP
    return [
        gap.join(text + " " * (width - _length(text)) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*padded, strict=True)
    ]


def _wrapped(words: Sequence[str], room: int) -> list[str]:
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if _length(longer) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def blocks(rows: Sequence[Sequence[str]], *, encoding: str | None = None) -> str:
    """Each row as `head: cell   head: cell …`, wrapped between cells; cells without a text are left out."""
    head, *rest = ([for_encoding(text, encoding) for text in row] for row in rows)
    parts = []
    for row in rest:
        pairs = [f"{name}: {text}" if name else text for name, text in zip(head, row, strict=True) if text]
        whole = [pair.replace(" ", _NO_BREAK) if len(pair) <= width() - _INDENT else pair for pair in pairs]
        parts += _fold("   ".join(whole))
    return "\n".join(parts)


def _fold(line: str) -> list[str]:
    parts = textwrap.wrap(
        together(line), width(), subsequent_indent=" " * _INDENT, break_long_words=False, break_on_hyphens=False
    )
    return [apart(part) for part in parts] or [""]
