"""A factory for `hf-llc curve --weight-files`, and a series of weights and data to go with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import save_file
from torch import nn
from worker import examples, network, squared_error

from hf_llc.cli.entry_point import main


def make() -> tuple[nn.Module, Any]:
    """The network of `worker`, its weights unset, and its loss."""
    model = network()
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    return model, squared_error


def wrong() -> nn.Module:
    """A factory that forgets the loss."""
    return network()


def broken() -> None:
    """A factory that fails, as any code may."""
    raise ValueError("no width")


def series(folder: Path, steps: tuple[int, ...] = (2, 10, 100)) -> list[str]:
    """Weights at w* scaled by 1, 2 …, each with noise-free labels of the last, and the data as a file."""
    model = network()
    x, y = examples(model)
    data = datasets.Dataset.from_dict({"x": x.tolist(), "y": y.tolist()})
    data.to_json(folder / "data.jsonl")
    files = []
    for place, step in enumerate(steps):
        shift = 0.02 * (len(steps) - 1 - place)
        weights = {k: v + shift * torch.ones_like(v) for k, v in model.state_dict().items()}
        files.append(str(folder / f"step{step}.safetensors"))
        save_file(weights, files[-1])
    return files


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
