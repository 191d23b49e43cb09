"""`hf-llc` and `python -m hf_llc`."""

from __future__ import annotations

import sys


def run() -> int:
    """The command line; Ctrl-C while it is being imported ends like Ctrl-C at any other time, without a traceback."""
    try:
        from hf_llc.cli.entry_point import run as run_command
    except KeyboardInterrupt:
        print("hf-llc: interrupted: nothing had begun, nothing is on disk", file=sys.stderr)
        return 130
    return run_command()


if __name__ == "__main__":
    sys.exit(run())
