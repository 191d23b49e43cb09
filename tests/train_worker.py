"""A small training run as a program of its own, with λ̂ along it or without, for one process or several.

python train_worker.py OUTPUT '{"every": "epoch"}'    (or null: without)
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from safetensors.torch import save_file
from tiny import SENTENCES, bert, tokenizer

from hf_llc.callback import LLCCallback
from hf_llc.chains import ensemble

SETTINGS: dict[str, Any] = {
    "num_draws": 15,
    "num_burnin_steps": 5,
    "batch_size": 4,
    "step_size": 1e-5,
    "max_length": 16,
    "seed": 1,
}
"""A budget that takes no time; the verdicts are what they are."""

TEXTS = datasets.Dataset.from_dict({"text": SENTENCES * 2, "label": [0, 1] * 8})


def trainer(output: Path, **more: Any) -> transformers.Trainer:
    """Two epochs of a BERT with dropout: training draws random numbers at every step, and the data are shuffled."""
    encode = tokenizer()
    rows = [
        {**encode(row["text"], truncation=True, max_length=16, padding="max_length"), "label": row["label"]}
        for row in TEXTS
    ]
    arguments: dict[str, Any] = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-3,
    }
    return transformers.Trainer(
        model=bert("BertForSequenceClassification", num_labels=2, hidden_dropout_prob=0.2),
        args=transformers.TrainingArguments(
            str(output / "trainer"), use_cpu=True, disable_tqdm=True, report_to=[], seed=3, **{**arguments, **more}
        ),
        train_dataset=rows,
        processing_class=encode,
    )


def run(output: Path, every: str | int | None, **more: Any) -> tuple[transformers.Trainer, LLCCallback | None]:
    """Train, with the callback unless `every` is None."""
    run = trainer(output, **more)
    callback = None if every is None else LLCCallback(run, every=every, data=TEXTS, **SETTINGS)
    if callback is not None:
        run.add_callback(callback)
    run.train()
    return run, callback


def main() -> None:
    """Train; the main process writes the log and the weights."""
    output, every = Path(sys.argv[1]), json.loads(sys.argv[2])
    if sys.argv[3:] == ["fault"] and os.environ["RANK"] == "1":
        fail_once()
    run_, callback = run(output, every)
    if run_.accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        results = {} if callback is None else callback.results
        record = {
            "num_processes": run_.accelerator.num_processes,
            "wrapped": type(run_.model_wrapped).__name__,
            "log": run_.state.log_history,
            "llc": {step: (result.llc, result.num_processes) for step, result in results.items()},
        }
        (output / "record.json").write_text(json.dumps(record))
        save_file({k: v.contiguous() for k, v in run_.model.state_dict().items()}, output / "weights.safetensors")


def fail_once() -> None:
    """Let this process's first chain fail."""
    real = ensemble.run_chains

    def failing(*_: Any, **__: Any) -> Any:
        ensemble.run_chains = real
        raise RuntimeError("planted")

    ensemble.run_chains = failing


def leave() -> None:
    """End the process group before the exit, during which gloo's threads now and then abort the process."""
    gc.collect()  # what holds the group: the wrapped model
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
    leave()
