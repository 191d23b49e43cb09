"""Token ids of a document of any length: piece by piece, with a look at the clock between two pieces.

A tokenizer takes a document as a whole: 300 MB in a quarter of an hour, with two hundred bytes of memory a character.
Pieces begin at the start of a line. Each is tokenized with the end of the piece before it, whose tokens are then taken
off, so that the tokens are those of the whole document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hf_llc.progress import watch

_LONG = 2**20
"""Characters up to which a document is tokenized as a whole."""

_PIECE, _CONTEXT = 2**18, 2**10
"""Characters of a piece, and of what comes before it."""


def ids_of(texts: list[str], tokenizer: Any, *, most: int | None = None) -> list[Any]:
    """Token ids of each text, without special tokens.

    Args:
        texts: the documents.
        tokenizer: a tokenizer of transformers.
        most: a long document may end once it has so many; None: it is read to its end.

    Raises:
        TimeIsUp: between two pieces (`Watch.until`).
    """
    is_long = [len(text) > _LONG and getattr(tokenizer, "is_fast", False) for text in texts]
    if not any(is_long):
        return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [
        _joined(text, tokenizer, most) if long else ids_of([text], tokenizer)[0]
        for text, long in zip(texts, is_long, strict=True)
    ]


def _joined(text: str, tokenizer: Any, most: int | None) -> np.ndarray:
    """Token ids of a long text."""
    parts, total = [], 0
    for part in _parts(text, tokenizer):
        watch().check()
        parts.append(part)
        total += len(part)
        if most is not None and total >= most:
            break
    return np.concatenate(parts)


def _parts(text: str, tokenizer: Any) -> Iterator[np.ndarray]:
    """Token ids of one piece after the other. A cut within a token is moved to a later line."""
    begin = 0
    while begin < len(text):
        end = begin + _PIECE
        while True:
            end = _line_start(text, end)
            first = max(begin - _CONTEXT, 0)
            last = min(end + _CONTEXT, len(text))  # what follows may change the last tokens
            found = tokenizer(text[first:last], add_special_tokens=False, verbose=False, return_offsets_mapping=True)
            ids, places = np.array(found["input_ids"], dtype=np.int64), np.array(found["offset_mapping"]) + first
            if end == len(text) or (places[:, 0] == end).any():
                break
        kept = (places[:, 0] >= begin) & (places[:, 0] < end)
        yield ids[kept]
        begin = end


def _line_start(text: str, at: int) -> int:
    """The first place after `at` where a line with a letter begins behind one that is not blank; else the end."""
    while 0 < (at := text.find("\n", at) + 1) < len(text):
        if not text[at].isspace() and not text[max(at - 2, 0)].isspace():
            return at
    return len(text)
