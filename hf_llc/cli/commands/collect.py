"""`hf-llc collect`: many results as one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_llc.cli import console
from hf_llc.errors import InputError

_DESCRIPTION = """Write a parquet file with one row for each finished run: λ̂, its error and verdict, its settings,
model and data. datasets.load_dataset("parquet", data_files=FILE) reads it. A folder that is not a run stands for the
runs in it. Runs that are unfinished or damaged are left out, with a line for each."""


def add(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "collect",
        help="many results as one table (parquet)",
        description=_DESCRIPTION,
        examples=(
            "hf-llc collect runs --output results.parquet",
            "hf-llc collect runs/a runs/b --output results.parquet --repo me/llc-results",
        ),
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", help="folders of results, or folders of such folders")
    parser.add_argument("--output", metavar="FILE", required=True, help="the table, NAME.parquet")
    parser.add_argument("--repo", metavar="OWNER/NAME", help="a data set of the Hub to put it into, too")
    parser.add_argument("--private", action="store_true", help="make that private, if it is new")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Collect, write and say what was left out; return the exit code."""
    from hf_llc.publishing.collection import collected, upload, write
    from hf_llc.publishing.options import check_repo_id

    path = Path(args.output)
    if path.suffix != ".parquet":
        raise InputError("the table is a parquet file", value=args.output, remedy="call it NAME.parquet")
    if args.repo is not None:
        check_repo_id("repo", args.repo)
    rows, left_out = collected(args.folders)
    for line in left_out:
        console.print_error(f"hf-llc: left out: {line}")
    write(rows, path)
    good = sum(row["is_trustworthy"] for row in rows)
    console.print_text(f"table    {path}: {len(rows)} run{'s' * (len(rows) != 1)}, {good} of them trustworthy")
    if args.repo is not None:
        console.print_text(f"data set {upload(path, args.repo, private=args.private)}")
    return console.OK
