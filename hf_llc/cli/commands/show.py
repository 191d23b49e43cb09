"""`hf-llc show`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from hf_llc.cli import console

if TYPE_CHECKING:
    from hf_llc.result import LLCResult


def _show(args: argparse.Namespace, _: list[Path]) -> int:
    from hf_llc.result import LLCResult

    result = LLCResult.load(args.folder)
    _print_result(result, as_json=args.json)
    return console.OK if result.is_trustworthy else console.BAD_VERDICT


def _print_result(result: LLCResult, *, as_json: bool) -> None:
    if as_json:
        values = json.loads(json.dumps(result.to_dict()), parse_constant=lambda _: None)  # JSON has no NaN
        print(json.dumps(values, indent=2), flush=True)
    else:
        print(result, flush=True)
