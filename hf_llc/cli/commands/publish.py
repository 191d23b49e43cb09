"""`hf-llc publish`: a saved result onto a model's page, or into a local README."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from hf_llc.errors import InputError

_DONE, _FAILED = 0, 1


def add(commands: Any) -> None:
    """Register the command on `commands`, what `ArgumentParser.add_subparsers` returned."""
    publish = commands.add_parser(
        "publish",
        help="put a saved result on a model's card",
        allow_abbrev=False,
        description="Put a saved result on a model's card: λ̂ into its metadata, one section into its text, the "
        "result's files beside it, in one commit. All else on the card stays as it is; publishing again replaces.",
        epilog="exit codes: 0 published; 2 bad input, or a verdict that forbids it; 1 the Hub failed (the result stays "
        "on disk, and the message says how to try again).",
    )
    publish.add_argument("folder", metavar="DIR", help="folder of a result")
    publish.add_argument("--repo", metavar="OWNER/NAME", help="the model's repository; made if there is none")
    publish.add_argument("--card", metavar="PATH", help="instead of a repository: a local README, or the folder of one")
    publish.add_argument("--create-pr", action="store_true", help="open a pull request")
    publish.add_argument("--revision", metavar="NAME", help="branch to commit to (default: main)")
    publish.add_argument(
        "--private", action=argparse.BooleanOptionalAction, help="visibility of a repository that has to be made"
    )
    publish.add_argument("--benchmark-dataset", metavar="OWNER/NAME", help="enter λ̂ in .eval_results for it, too")
    publish.add_argument("--allow-untrusted", action="store_true", help="publish a bad verdict, as such")
    publish.add_argument("--dry-run", action="store_true", help="change nothing, print the difference")
    publish.set_defaults(run=run, parser=publish)


def run(args: argparse.Namespace) -> int:
    from hf_llc.publishing.formatting import for_encoding
    from hf_llc.publishing.hub import PublishError, publish, publish_to_folder
    from hf_llc.result import LLCResult

    if (args.repo is None) == (args.card is None):
        raise InputError("publish needs one place", allowed="--repo OWNER/NAME, or --card PATH")
    for_repo = {name: getattr(args, name) for name in ("create_pr", "revision", "private", "benchmark_dataset")}
    given = [name for name, value in for_repo.items() if value is not None and (name != "create_pr" or value)]
    if args.card is not None and given:
        raise InputError(f"{given[0]} is for a repository, not for a local card", remedy="leave it out")
    if not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    result = LLCResult.load(args.folder)
    options = {"allow_untrusted": args.allow_untrusted, "dry_run": args.dry_run}
    try:
        if args.card is not None:
            done, place = publish_to_folder(result, args.card, **options), args.card
        else:
            done = publish(result, args.repo, **options, **for_repo)
            place = done.url
    except PublishError as error:
        print(for_encoding(f"hf-llc: error: {error}", getattr(sys.stderr, "encoding", None)), file=sys.stderr)
        return _FAILED
    print(for_encoding((done.diff or "no difference") if args.dry_run else f"published  {place}"), flush=True)
    return _DONE
