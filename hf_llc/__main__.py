"""`python -m hf_llc`: the same as `hf-llc`."""

from __future__ import annotations

import sys

from hf_llc.cli.entry_point import run

if __name__ == "__main__":
    sys.exit(run())
