"""`hf-llc publish-metric`: the `llc` metric as a space of the Hub."""

from __future__ import annotations

import argparse
from typing import Any

from hf_llc.cli import console
from hf_llc.errors import InputError

_FILES = ["llc.py", "app.py", "README.md", "requirements.txt"]


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "publish-metric",
        help="upload the evaluate metric to the Hub",
        description="Upload the llc metric as a Space, "
        "from which evaluate.load('NAME/llc') loads it. Needs `hf auth login`.",
        examples=("hf-llc publish-metric --repo me/llc",),
    )
    parser.add_argument("--repo", metavar="NAME/llc", required=True, help="the space; it is made if it is not there")
    parser.add_argument("--private", action="store_true", help="make it private, if it is new")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Upload and print the address of the space; return the exit code."""
    print(publish_metric(args.repo, private=args.private), flush=True)
    return console.OK


def publish_metric(repo_id: str, *, private: bool = False) -> str:
    """Upload the metric's folder as a space, in one commit; return its address.

    Raises:
        InputError: evaluate would not find a metric of this name, or the Hub refuses.
    """
    from huggingface_hub import HfApi

    from hf_llc.metrics import metric_path
    from hf_llc.publishing.hub_answers import explain
    from hf_llc.publishing.options import check_repo_id

    if repo_id.count("/") != 1 or not repo_id.endswith("/llc"):
        raise InputError(
            "evaluate finds a metric by the name of its file", value=repo_id, allowed="NAME/llc", remedy="call it llc"
        )
    check_repo_id("repo", repo_id)
    api = HfApi()
    try:
        space = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=metric_path(),
            repo_type="space",
            allow_patterns=_FILES,
            commit_message="The llc metric of hf_llc",
        )
    except Exception as error:  # the client has no common type for no access, no network, no such user …
        raise InputError("the metric was not published", value=repo_id, remedy=explain(error)) from error
    return str(space)
