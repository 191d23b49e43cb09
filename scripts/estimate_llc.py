"""λ̂ of a model on data, on every process that a launcher starts: `hf-llc estimate` and its flags, no more.

One process, the embedded model and text:
    python scripts/estimate_llc.py --output runs/x

Two processes on a CPU (any number of chains; each process takes its share):
    torchrun --nproc-per-node 2 scripts/estimate_llc.py --config run.yaml --num-chains 3
    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 scripts/estimate_llc.py --config run.yaml

Every GPU that accelerate sees:
    accelerate launch scripts/estimate_llc.py --config run.yaml

The draws are those of one process, bit for bit on CPUs with the same number of threads (OMP_NUM_THREADS). The same line
after a kill goes on where it stopped. Launchers turn every exit code but 0 into their own (torchrun: 1); the verdict
stands in result.json.
"""

from __future__ import annotations

import sys

from hf_llc.cli import main

if __name__ == "__main__":
    sys.exit(main(["estimate", *sys.argv[1:]]))
