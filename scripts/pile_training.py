"""Data and training of `pile_attention_only.py`: windows of a Pile subset, two-layer attention-only models on them."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from experiment import Row
from safetensors import safe_open
from safetensors.torch import save_file

from hf_llc.backend.random_streams import BatchStream
from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.files import write_atomically, write_json
from hf_llc.loading.data_sources import batches, column, columns, open_data
from hf_llc.models import AttentionOnlyConfig, AttentionOnlyForCausalLM

Array = np.ndarray

HELD_OUT = 20
"""One document in so many is held out."""

SAVE_SECONDS = 60
"""An unfinished training goes to disk this often."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Models and their data; the defaults are the paper's.

    Attributes:
        data: Hub id or folder of documents; a Hub id is streamed.
        tokenizer: Hub id or folder; its first `vocab_size` tokens are kept.
        train_windows, validation_windows: at most this many windows of `context` tokens.
        seeds: how many models.
        steps: of AdamW, on `batch_size` windows each.
        mixed_precision: accelerate's word for it: no, bf16.
        curve: steps at which seed 0 is kept, beside the last.
    """

    data: str = "stanford-crfm/DSIR-filtered-pile-50M"
    subset: str | None = None
    tokenizer: str = "openai-community/gpt2"
    vocab_size: int = 5000
    hidden_size: int = 256
    num_heads: int = 8
    context: int = 1024
    train_windows: int = 5_000_000
    validation_windows: int = 10_000
    seeds: int = 10
    steps: int = 50_000
    batch_size: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    mixed_precision: str = "no"
    curve: tuple[int, ...] = (0, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)


def windows(settings: Training, tokenizer: Any, folder: Path) -> None:
    """Write train.npy and validation.npy, each `[window, position]`, unless they are there already.

    Documents come in a shuffled order and are read until there are enough windows. They are joined with nothing in
    between, since a cut vocabulary has no end token. One of `HELD_OUT` documents is for validation.

    Raises:
        InputError: no such data, no column of text, or not enough of it.
    """
    names = ("data", "subset", "tokenizer", "vocab_size", "context", "train_windows", "validation_windows")
    asked = {name: getattr(settings, name) for name in names}
    kept = folder / "windows.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) == asked:
        return
    is_local = Path(settings.data).exists()
    bound: dict[str, Any] = {} if is_local else {"streaming": True, "max_examples": 10**9, "split": "train"}
    data, _ = open_data(settings.data, LoadConfig(subset=settings.subset, **bound), sample_by="paragraph")
    text = column(columns(data), None, ("text", "contents", "content"), "input_column")
    kind = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    missing = {"validation": settings.validation_windows, "train": settings.train_windows}
    missing = {name: count * settings.context for name, count in missing.items() if count}
    pieces: dict[str, list[Array]] = {name: [np.zeros(0, dtype=kind)] for name in missing}
    documents = 0
    for rows in batches(data.shuffle(seed=0), 1000):
        encoded = tokenizer([row[text] or "" for row in rows], add_special_tokens=False, verbose=False)["input_ids"]
        for ids in encoded:
            name = "train" if documents % HELD_OUT else "validation"
            documents += 1
            if missing.get(name, 0) > 0:
                pieces[name].append(np.array(ids[: missing[name]], dtype=kind))
                missing[name] -= len(pieces[name][-1])
        if max(missing.values()) <= 0:
            break
    for name, parts in pieces.items():
        flat = np.concatenate(parts)
        cut = flat[: len(flat) // settings.context * settings.context].reshape(-1, settings.context)
        if len(cut) <= (settings.batch_size if name == "train" else 1):
            raise InputError(f"too little text for {name}", value=f"{len(cut)} windows", remedy="give more documents")
        write_atomically(folder / f"{name}.npy", lambda path, cut=cut: np.save(path, cut))
    write_json(kept, asked)


def make_model(settings: Training, seed: int) -> AttentionOnlyForCausalLM:
    """A model with weights of its own seed, of the size that TransformerLens gives them: sd 0.8 / √width."""
    config = AttentionOnlyConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        num_attention_heads=settings.num_heads,
        head_dim=settings.hidden_size // settings.num_heads,
        max_position_embeddings=settings.context,
        initializer_range=0.8 / math.sqrt(settings.hidden_size),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AttentionOnlyForCausalLM(config)


def train(settings: Training, seed: int, tokenizer: Any, folder: Path) -> Row:
    """Train one model and keep its last weights; of seed 0 also those at the steps of `curve`.

    Batches are a function of seed and step, so a killed training goes on from its last save to the same weights. The
    model is prepared without DDP: each process trains its own models.

    Returns:
        The last loss (nats per token), the number of parameters, and the curve: step, mean loss since the last entry.

    Raises:
        InputError: the loss is no longer finite.
    """
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    model: Any = accelerator.prepare_model(make_model(settings, seed), evaluation_mode=True)
    adam = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    optimizer = accelerator.prepare_optimizer(adam)
    data = np.load(folder / "train.npy", mmap_mode="r")
    order = BatchStream(seed, [0], num_examples=len(data), batch_size=settings.batch_size, device=torch.device("cpu"))
    here = folder / "models" / f"seed-{seed}"
    state = _TrainingState(here / "training.safetensors", settings, model, adam)
    step, curve = state.restore()
    keep = {settings.steps, *(settings.curve if seed == 0 else ())}
    marks, losses, saved = _marks(settings.steps), [], time.monotonic()
    while True:
        if step in keep:
            _keep(model, tokenizer, here / f"step-{step}")
        if step == settings.steps:
            break
        indices = order.in_turn(step)
        assert indices is not None
        ids = torch.from_numpy(data[np.sort(indices[0].numpy())].astype(np.int64)).to(accelerator.device)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
        step += 1
        if step in marks:
            curve.append([step, float(torch.stack(losses).mean())])
            losses = []
            if not math.isfinite(curve[-1][1]):
                raise InputError(f"the training of seed {seed} diverged by step {step}", remedy="lower learning_rate")
            if time.monotonic() - saved > SAVE_SECONDS:
                state.save(step, curve)
                saved = time.monotonic()
    accelerator.free_memory()
    state.path.unlink(missing_ok=True)
    return {"loss": curve[-1][1], "parameters": model.num_parameters(), "curve": curve}


def _marks(steps: int) -> set[int]:
    """Steps at which the loss is recorded: first evenly on a logarithmic axis, then every fiftieth of all steps."""
    even = max(1, steps // 50)
    early = {round(steps ** (i / 40)) for i in range(40) if steps ** (i / 40) < even}
    return early | {*range(even, steps, even), steps}


class _TrainingState:
    """Weights and moments of an unfinished training on disk."""

    def __init__(self, path: Path, settings: Training, model: torch.nn.Module, adam: torch.optim.AdamW) -> None:
        self.path, self.model, self.adam = path, model, adam
        known = asdict(settings)  # what else a subclass holds has no part in the training
        self.asked = json.dumps([[item.name, known[item.name]] for item in fields(Training) if item.name != "seeds"])

    def save(self, step: int, curve: list[list[float]]) -> None:
        tensors = {}
        for name, w in self.model.named_parameters():
            moments = self.adam.state[w]
            tensors |= {f"w.{name}": w.detach(), f"m.{name}": moments["exp_avg"], f"v.{name}": moments["exp_avg_sq"]}
        metadata = {"step": str(step), "curve": json.dumps(curve), "settings": self.asked}
        write_atomically(self.path, lambda path: save_file(tensors, path, metadata=metadata))

    def restore(self) -> tuple[int, list[list[float]]]:
        """Put a saved training of the same settings back; returns its step and its losses so far."""
        if not self.path.exists():
            return 0, []
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata()
            if metadata["settings"] != self.asked:
                return 0, []
            step = int(metadata["step"])
            for name, w in self.model.named_parameters():
                w.data.copy_(file.get_tensor(f"w.{name}"))
                m, v = (file.get_tensor(f"{part}.{name}").to(w.device) for part in "mv")
                self.adam.state[w] = {"step": torch.tensor(float(step)), "exp_avg": m, "exp_avg_sq": v}
        return step, json.loads(metadata["curve"])


def _keep(model: AttentionOnlyForCausalLM, tokenizer: Any, folder: Path) -> None:
    """Save model and tokenizer in transformers format, under a temporary name first.

    The model's own `save_pretrained` writes on the first process only, but every process has its own model.
    """
    half = folder.with_name(f".{folder.name}")
    shutil.rmtree(half, ignore_errors=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(half)
    weights = {name: w.contiguous() for name, w in model.state_dict().items()}
    save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(half)
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)
