"""What `make docs` adds to the pages under docs/: a hook of mkdocs, named in mkdocs.yml.

README, CONTRIBUTING and CHANGELOG become pages, with their links led to the site. The command line and the settings are
tables made from the parsers and the dataclasses themselves, so they cannot go stale. Nothing here needs torch.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from mkdocs.structure.files import File, Files

from hf_llc.cli.arguments import CONFIGS
from hf_llc.cli.console import EXIT_CODES
from hf_llc.cli.entry_point import _parser
from hf_llc.cli.help_screen import SETTINGS, groups_of

ROOT = Path(__file__).parents[1]

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository's root → their pages."""


class _Star(InlineProcessor):
    """w* is a symbol, and no beginning of emphasis."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:
        return self.md.htmlStash.store(m[0]), m.start(0), m.end(0)


class Symbols(Extension):
    """Symbols of this field that look like markup."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(_Star(r"\bw\*", md), "w-star", 185)


def on_config(config: Any) -> Any:
    """Let pages and docstrings say w*; a page that the navigation does not name stands last among the guides."""
    config.markdown_extensions.append(Symbols())
    named = {*PAGES.values(), *re.findall(r"[\w/-]+\.md", str(config.nav))}
    here = {str(path.relative_to(config.docs_dir)) for path in Path(config.docs_dir).rglob("*.md")}
    guides = next(group["Guides"] for group in config.nav if "Guides" in group)
    guides += sorted(here - named)
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        head = "---\nhide: [navigation]\n---\n" if page == "index.md" else ""
        files.append(File.generated(config, page, content=head + led_to_the_site(text)))
    files.append(File.generated(config, "CITATION.cff", content=(ROOT / "CITATION.cff").read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Lead links to the pages of the root's files, fill in what is generated, and leave out what needs a script."""
    made = {"settings": settings_page, "commands": commands_page}
    for name, make in made.items():
        mark = f"<!-- generated: {name} -->"
        markdown = markdown.replace(mark, make()) if mark in markdown else markdown
    markdown = re.sub(r"```mermaid\n.*?```\n", "", markdown, flags=re.DOTALL)  # drawn by a script of another host
    for name, target in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({target}")
    return markdown


def led_to_the_site(text: str) -> str:
    """A text of the root with its links as those of a page in docs/."""
    for name, target in PAGES.items():
        text = text.replace(f"]({name}", f"]({target}")
    return text.replace("](docs/", "](")


def settings_page() -> str:
    """A table of all settings for each purpose: name, default, what it is."""
    known = {item.name: (config.__name__, item) for config in CONFIGS for item in fields(config)}
    parts = []
    for title, names in groups_of(SETTINGS):
        rows = [(f"`{name}`", _default(known[name][1].default), known[name][1].metadata["help"]) for name in names]
        owners = " and ".join(sorted({f"`{known[name][0]}`" for name in names}))
        head = f"## {title[0].upper()}{title[1:]}\n\nOf {owners}.\n\n"
        parts.append(head + table(("Setting", "Default", "What it is"), rows))
    return "\n\n".join(parts)


def _default(value: Any) -> str:
    return "none" if value is None else f"`{value!r}`"


def commands_page() -> str:
    """Each command: what it does, its own arguments, its examples."""
    parser = _parser()
    parts = [f"## hf-llc {name}\n\n{_command(each)}" for name, each in _subparsers(parser).items()]
    summary = table(("Command", "What it does"), [(_link(name), line) for name, line in _lines(parser)])
    return "\n\n".join([summary, EXIT_CODES.replace("\n", " "), *parts])


def _link(name: str) -> str:
    return f"[`{name}`](#hf-llc-{name})"


def _choices(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[Any] | None:
    return next((each for each in parser._actions if isinstance(each, argparse._SubParsersAction)), None)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = _choices(parser)
    return {} if found is None else dict(found.choices)


def _lines(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    found = _choices(parser)
    return [] if found is None else [(each.dest, each.help or "") for each in found._choices_actions]


def _command(parser: argparse.ArgumentParser) -> str:
    for each in _subparsers(parser).values():  # theory dln
        return f"`{each.prog}`. {_command(each)}"
    actions = [action for action in parser._actions if action.dest not in ("help", "help_all")]
    own = [action for action in actions if action.dest not in SETTINGS and action.help != argparse.SUPPRESS]
    rows = [(_flags(action), (action.help or "").replace("%%", "%")) for action in own]
    parts = [(parser.description or "").strip(), table(("Argument", "What it is"), rows) if rows else ""]
    if len(own) < len(actions):
        every = "All" if len(actions) - len(own) == len(SETTINGS) else f"{len(actions) - len(own)} of the"
        parts.append(f"{every} [settings](settings.md) are flags of it.")
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog.strip()}\n```")
    return "\n\n".join(part for part in parts if part)


def _flags(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
    value = action.metavar if action.option_strings and action.nargs != 0 else None
    return f"{names} `{value}`" if isinstance(value, str) else names


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table. A bar in a cell is escaped, and what looks like markup is kept as it is."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*" if "`" not in text else "*")
