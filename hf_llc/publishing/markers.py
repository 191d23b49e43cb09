"""Where the section of hf_llc stands in a README: between markers, outside front matter, code and comments."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hf_llc.errors import InputError
from hf_llc.publishing.front_matter import newline_of, split_readme

BEGIN = "<!-- hf_llc:begin (made by hf-llc publish, which overwrites what stands up to the end marker) -->"
END = "<!-- hf_llc:end -->"
_BEGIN, _END = re.compile(r" {0,3}<!-- hf_llc:begin\b.*-->\s*"), re.compile(r" {0,3}<!-- hf_llc:end\b.*-->\s*")
_FOREIGN_BEGIN = re.compile(r"<!-*\s*hf_llc[\s:_-]*begin", re.IGNORECASE)
_CODE = re.compile(r"^(?: {4}|\t).*|(`+).*?\1")
_FENCE = re.compile(r"\s*(?:[>*+-]\s+|\d+[.)]\s+)*(`{3,}(?=[^`]*$)|~{3,})(.*)", re.DOTALL)
_COMMENT = re.compile(r" {0,3}<!--")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")


@dataclass(frozen=True)
class _Places:
    """Positions in a README.

    Attributes:
        sections: start and end of each section of ours, markers included.
        end: where a new section may go.
    """

    sections: list[tuple[int, int]]
    end: int


def with_section(readme: str, section: str) -> str:
    """Replace the first section and take out any further one; if there is none, add one at the end."""
    newline = newline_of(readme)
    text = (f"{BEGIN}\n{section}\n{END}\n").replace("\n", newline)
    places = _places(readme)
    if not places.sections:
        before, after = readme[: places.end], readme[places.end :]
        lines = before[-4:].replace("\r\n", "\n")
        gap = "" if not before or lines.endswith("\n\n") else newline if lines.endswith("\n") else newline * 2
        return before + gap + text + (newline if after else "") + after
    merged = readme
    for start, end in reversed(places.sections[1:]):
        merged = merged[:start] + merged[end:]
    start, end = places.sections[0]
    if end == len(readme) and not readme.endswith(("\n", "\r")):
        text = text.removesuffix(newline)
    return merged[:start] + text + merged[end:]


def _places(readme: str) -> _Places:
    """Find the markers outside the front matter, code fences and comments that span lines.

    If a code fence or a comment is never closed, a new section goes before it: after it, it would not be read.

    Raises:
        InputError: a begin marker has no end marker, so that it is not known how much to replace.
    """
    parts = split_readme(readme)
    position = 0 if parts is None else len(parts.start) + len(parts.block)
    sections: list[tuple[int, int]] = []
    fence, opened, begun = "", 0, None
    in_comment = False
    for match in _LINE.finditer(readme, position):
        line, start = match[0], match.start()
        if begun is not None:
            if _END.fullmatch(line):
                sections.append((begun, match.end()))
                begun = None
            elif _BEGIN.fullmatch(line):
                break
        elif fence:
            closing = _FENCE.fullmatch(line)
            if closing and closing[1].startswith(fence) and not closing[2].strip():
                fence = ""
        elif in_comment:
            in_comment = "-->" not in line
        elif _BEGIN.fullmatch(line):
            begun = start
        elif _FOREIGN_BEGIN.search(_CODE.sub("", line)):
            raise InputError(
                f"README.md has a begin marker of hf_llc in another form (line {readme.count(chr(10), 0, start) + 1})",
                value=line.strip(),
                allowed=BEGIN,
                remedy="write it so, on a line of its own, or delete it with its section",
            )
        elif opening := _FENCE.fullmatch(line):
            fence, opened = opening[1], start
        elif _COMMENT.match(line) and "-->" not in line:
            in_comment, opened = True, start
    if begun is not None:
        line = readme.count("\n", 0, begun) + 1
        raise InputError(
            f"README.md has a begin marker of hf_llc without its end marker (line {line})",
            remedy=f"put {END} on a line of its own where the section ends, or delete the begin marker",
        )
    return _Places(sections, opened if fence or in_comment else len(readme))
