"""How numbers and names are written for people, in the terminal and in Markdown."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import sys
import unicodedata

_WIDEST, _NARROWEST = 100, 30
"""Columns of a table in the terminal, at most and at least."""

_ASCII = {
    "λ̂": "llc", "r̂": "r_hat", "±": "+-", "·": "*", "×": "x", "−": "-", "–": "-", "→": "->", "…": "...", "β": "beta",
    "γ": "gamma", "ε": "epsilon", "‖": "|", "²": "^2", "ŵ": "w_min", "√": "sqrt", "≤": "<=", "≥": ">=", "Δ": "d",
    "∇": "grad ", "λ": "lambda", "≈": "~", "∞": "inf",
    "κ": "kappa", "χ": "chi", "ρ": "rho", "σ": "sigma", "Σ": "sum ", "½": "1/2", "ℓ": "l", "⟦": "[[", "⟧": "]]",
}  # fmt: skip


_NO_SIGN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that stand for nothing by themselves."""


def for_encoding(text: str, encoding: str | None = None) -> str:
    """Return `text`, or its nearest ASCII if `encoding` (None: that of standard output) is not a Unicode one."""
    name = encoding if encoding is not None else getattr(sys.stdout, "encoding", None)
    if (name or "ascii").lower().replace("_", "-").startswith("utf"):
        return text
    for symbol, plain in _ASCII.items():
        text = text.replace(symbol, plain)
    return text.encode("ascii", "replace").decode("ascii")


def width() -> int:
    """Columns of a table: those of the terminal that it is printed to, or that COLUMNS says; 100 at most."""
    is_known = os.environ.get("COLUMNS", "").isdigit() or (sys.stdout is not None and sys.stdout.isatty())
    found = shutil.get_terminal_size().columns if is_known else _WIDEST
    return min(max(found, _NARROWEST), _WIDEST)


def together(text: str) -> str:
    """Text whose lines are not broken within a number: between it and its error, or the letter that names it."""
    text = text.replace(" ± ", "\u00a0±\u00a0").replace(" +- ", "\u00a0+-\u00a0")
    return re.sub(r"(?<!\w)(nβ|γ|ε|κ|n|nbeta|gamma|epsilon) (?=[−\d-])", "\\1\u00a0", text)


def apart(text: str) -> str:
    """Undo `together`."""
    return text.replace("\u00a0", " ")


def for_stderr(text: str) -> str:
    """Return `text`, or its nearest ASCII if standard error cannot show it."""
    return for_encoding(text, getattr(sys.stderr, "encoding", None) or "ascii")


def duration(seconds: float) -> str:
    """Seconds, minutes and seconds, or hours and minutes; a dash if not finite."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def counted(unit: str) -> str:
    """What n counts, from the unit of the losses: `nats per token` → `tokens`; `examples` if the unit does not say."""
    match = re.search(r" per (\w+)", unit)
    return "examples" if match is None else match[1] + "s"


def plain(text: object) -> str:
    """Text on one line: a space for every character that is no sign of its own (line ends, escapes, direction marks).

    Names come from files and from the Hub. A line end in one would let it write lines of its own into a card.
    """
    return "".join(" " if unicodedata.category(char) in _NO_SIGN else char for char in str(text))


def inert(text: object) -> str:
    """Text on one line in which no HTML begins."""
    return plain(text).replace("<", "\\<")


def code(text: object) -> str:
    """A Markdown code span."""
    return f"`{plain(text).replace('`', '')}`"


def shell_word(text: str) -> str:
    """Text as one word of a command for bash, on one line."""
    if plain(text) == text:
        return shlex.quote(text)
    return f"$'{''.join(map(_shell_character, text))}'"


def _shell_character(char: str) -> str:
    if char in "\\'":
        return "\\" + char
    if unicodedata.category(char) not in _NO_SIGN:
        return char
    data = char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "replace")
    return "".join(f"\\x{byte:02x}" for byte in data)


def escaped(text: str) -> str:
    """Text on one line, whose stars, bars, angle brackets and backticks Markdown must not interpret."""
    text = plain(text)
    for symbol in "\\*_|<`":
        text = text.replace(symbol, "\\" + symbol)
    return text
