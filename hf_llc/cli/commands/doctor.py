"""`hf-llc doctor`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from hf_llc.cli import console
from hf_llc.cli.arguments import settings_from

_PLANNED = (
    *("model", "revision", "task", "max_length", "dtype", "device", "attn_implementation", "trust_remote_code"),
    *("batch_size", "micro_batch_size", "gradient_checkpointing"),
)
"""Settings on which the memory of a chain depends."""


def _doctor(args: argparse.Namespace, _: list[Path]) -> int:
    from hf_llc.publishing.formatting import for_encoding

    load, sample = settings_from(args)
    if load.model is not None:
        console.hush(True)
        with contextlib.redirect_stdout(sys.stderr):
            from hf_llc.workflow.memory_forecast import plan_without_weights

            plan = plan_without_weights(load, sample)
        print(json.dumps(plan.as_dict(), indent=2) if args.json else for_encoding(plan.render()), flush=True)
        return console.OK
    from hf_llc.cli.doctor_checks import examine, render

    checks = examine()
    print(
        json.dumps([vars(check) for check in checks], indent=2) if args.json else for_encoding(render(checks)),
        flush=True,
    )
    return console.OK if all(check.ok or check.is_optional for check in checks) else console.FAULT
