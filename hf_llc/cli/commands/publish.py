"""`hf-llc publish`: a saved result onto a model's page, or into a local README."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from typing import Any

from hf_llc.cli import console
from hf_llc.cli.arguments import add_fields
from hf_llc.errors import InputError
from hf_llc.publishing.options import PublishOptions


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "publish",
        help="put a saved result on a model's card",
        description="Put a saved result on a model's card, in one commit: λ̂ into its metadata, one section into its "
        "text, and the result's files beside it. The rest of the card stays as it is. Publishing again replaces the "
        "section.",
        examples=(
            "hf-llc publish runs/a --repo me/my-model --dry-run",
            "hf-llc publish runs/a --repo me/my-model --create-pr",
            "hf-llc publish runs/a --card path/to/README.md",
        ),
        epilog="exit codes: 0 published; 2 bad input, or a verdict that forbids it; 1 the Hub failed (the result stays "
        "on disk, and the message says how to try again).",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of a result")
    parser.add_argument("--repo", metavar="OWNER/NAME", help="the model's repository; made if there is none")
    parser.add_argument("--card", metavar="PATH", help="instead of a repository: a local README, or the folder of one")
    add_fields(parser, PublishOptions)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Publish and print where, or print the difference; return the exit code."""
    from hf_llc.publishing.hub import PublishError, publish, publish_to_folder
    from hf_llc.result import LLCResult

    if (args.repo is None) == (args.card is None):
        raise InputError("publish needs one place", allowed="--repo OWNER/NAME, or --card PATH")
    given = vars(args)
    options = PublishOptions(**{item.name: given[item.name] for item in fields(PublishOptions) if item.name in given})
    if not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    result = LLCResult.load(args.folder)
    try:
        if args.card is not None:
            published, place = publish_to_folder(result, args.card, options), args.card
        else:
            published = publish(result, args.repo, options)
            place = published.url
    except PublishError as error:
        console.print_error(f"hf-llc: error: {error}")
        return console.FAULT
    console.print_text((published.diff or "no difference") if options.dry_run else f"published  {place}")
    return console.OK
