"""λ̂ on every process that a launcher starts: the chains are shared out, the numbers are those of one process.

    torchrun --nproc-per-node 2 scripts/estimate_llc.py --num-chains 4 --output runs/two
    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 scripts/estimate_llc.py --num-chains 4
    torchrun --nproc-per-node 4 scripts/estimate_llc.py --data-parallel 2         # two processes a chain: its minibatch
    torchrun --nproc-per-node 4 scripts/estimate_llc.py --parameter-parallel 2    # the same, and its weights (FSDP2)

Takes the flags of `hf-llc estimate` (`--help` lists them). Only the main process prints and writes. A launcher ends
with an exit code of its own when a process ends with one that is not 0, as for a bad verdict (3): read `verdict` in
result.json.
"""

from __future__ import annotations

import sys

from hf_llc.cli.entry_point import main

if __name__ == "__main__":
    sys.exit(main(["estimate", *sys.argv[1:]]))
