"""docs/paper.md: every number of the paper's experiments beside the one in our `paper` presets, cell by cell."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
from script_runner import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import dln_benchmark
import dln_theory
import mala_vs_sgld
import mnist_entropy_sgd
import pile_attention_only
import rescaling_invariance
import resnet_presets

from hf_llc.config import SampleConfig
from hf_llc.models.deep_linear import SIZES

RESNET = resnet_presets.PRESETS["paper"]
MNIST = mnist_entropy_sgd.PRESETS["paper"]
PILE = pile_attention_only.PRESETS["paper"]
RESCALING = rescaling_invariance.PRESETS["paper"]


def said(*values: Any) -> str:
    """Numbers as the table has them."""
    return ", ".join(f"{value:g}" if isinstance(value, (int, float)) else str(value) for value in values)


def _size(name: str) -> Callable[[], str]:
    row = SIZES[name]
    return lambda: said(*row.layers, *row.widths, row.step_size, row.num_steps, row.n)


def _sweep(number: int) -> Callable[[], str]:
    sweep = resnet_presets.PAPER_SWEEPS[number]
    held = [value for name, value in sweep.base.items() if name not in (sweep.name, "l2")]
    return lambda: said(*held, sweep.steps, sweep.every, sweep.chain_steps, sweep.step_size)


def _values(number: int) -> Callable[[], str]:
    return lambda: said(*resnet_presets.PAPER_SWEEPS[number].values)


TABLE: dict[str, tuple[str, str, Callable[[], str]]] = {
    # item: where, the paper, ours
    "nβ": ("hf_llc/config.py:SampleConfig", "n / ln n", lambda: "n / ln n" if SampleConfig().nbeta is None else "?"),
    "minibatches": ("hf_llc/config.py:SampleConfig", "in-turn", lambda: SampleConfig().batch_order),
    "headline": ("hf_llc/config.py:SampleConfig", "L_B − L_n(w*)", lambda: "paired"),
    **{
        f"table 1, {name}": ("hf_llc/models/deep_linear.py:SIZES", paper, _size(name))
        for name, paper in {
            "1k": "2, 5, 5, 50, 5e-07, 10000, 100000",
            "10k": "2, 10, 5, 100, 5e-07, 10000, 100000",
            "100k": "2, 10, 50, 500, 1e-07, 50000, 1e+06",
            "1M": "5, 20, 100, 1000, 5e-08, 50000, 1e+06",
            "10M": "2, 20, 500, 2000, 2e-08, 50000, 1e+06",
            "100M": "2, 40, 500, 3000, 2e-08, 50000, 1e+06",
        }.items()
    },
    "table 1, batch": ("scripts/dln_benchmark.py:BATCH", "500", lambda: said(dln_benchmark.BATCH)),
    "table 1, kept": (
        "scripts/dln_benchmark.py:settings",
        "0.1",
        lambda: said(
            dln_benchmark.settings("paper", "1k", 1.0).num_draws
            / dln_benchmark.settings("paper", "1k", 1.0).steps_allowed
        ),
    ),
    "trained w*, steps": (
        "scripts/dln_benchmark.py:PRESETS",
        "50000",
        lambda: said(dln_benchmark.PRESETS["paper"]["trained_steps"]),
    ),
    "Figure I.1, hidden layers": (
        "scripts/dln_theory.py:HIDDEN",
        "2, 800",
        lambda: said(min(dln_theory.HIDDEN), max(dln_theory.HIDDEN)),
    ),
    "Figure I.1, widths": ("scripts/dln_theory.py:WIDTHS", "100, 2000", lambda: said(*dln_theory.WIDTHS)),
    "K.1, learning rates": ("scripts/resnet_presets.py:RATES", "0.005, 0.01, 0.05, 0.1, 0.2", _values(0)),
    "K.1, learning rate": ("scripts/resnet_presets.py:PAPER_SWEEPS", "512, 0, 30000, 1000, 3000, 2e-07", _sweep(0)),
    "K.1, batch sizes": ("scripts/resnet_presets.py:SIZES", "16, 32, 64, 128, 256, 512, 1024", _values(1)),
    "K.1, batch size": ("scripts/resnet_presets.py:PAPER_SWEEPS", "0.01, 0, 100000, 2500, 2500, 2e-07", _sweep(1)),
    "K.1, momenta": ("scripts/resnet_presets.py:MOMENTA", "0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9", _values(2)),
    "K.1, momentum": ("scripts/resnet_presets.py:PAPER_SWEEPS", "0.05, 512, 20000, 1000, 3000, 2e-07", _sweep(2)),
    "K.1, learning rate, momentum": (
        "scripts/resnet_presets.py:PAPER_SWEEPS",
        "512, 0.9, 30000, 1000, 3000, 2e-07",
        _sweep(3),
    ),
    "K.1, batch size, momentum": (
        "scripts/resnet_presets.py:PAPER_SWEEPS",
        "0.01, 0.9, 100000, 2500, 2500, 2e-07",
        _sweep(4),
    ),
    "K.2, α": ("scripts/resnet_presets.py:PENALTIES", "0, 0.01, 0.025, 0.05, 0.075, 0.1", _values(5)),
    "K.2, momentum": ("scripts/resnet_presets.py:PAPER_SWEEPS", "0.0005, 512, 0.9, 15000, 500, 2000, 5e-08", _sweep(5)),
    "K.2, no momentum": (
        "scripts/resnet_presets.py:PAPER_SWEEPS",
        "0.001, 512, 0, 50000, 1000, 2000, 5e-08",
        _sweep(6),
    ),
    "K, seeds, kept, batch, γ": (
        "scripts/resnet_presets.py:Settings",
        "5, 0.1, 2048, 1",
        lambda: said(RESNET.seeds, RESNET.kept, RESNET.sampling["batch_size"], RESNET.sampling["localization"]),
    ),
    "L.1, nβ, γ, ε, chains, draws, batch": (
        "scripts/pile_attention_only.py:PAPER",
        "21.7, 100, 0.001, 20, 200, 100",
        lambda: said(
            *(PILE.paper.nbeta, PILE.paper.localization, PILE.paper.step_size),
            *(PILE.paper.num_chains, PILE.paper.num_draws, PILE.paper.batch_size),
        ),
    ),
    "L.1, seeds, steps": ("scripts/pile_training.py:Training", "10, 50000", lambda: said(PILE.seeds, PILE.steps)),
    "M.1, widths": ("scripts/mala_vs_sgld.py:WIDTHS", "10, 20, 20, 10", lambda: said(*mala_vs_sgld.WIDTHS)),
    "M.1, n": (
        "scripts/mala_vs_sgld.py:PRESETS",
        "100, 316, 1000, 3162, 10000, 31623, 100000",
        lambda: said(*mala_vs_sgld.PRESETS["paper"].runs),
    ),
    "M.1, ε, batch, steps, runs": (
        "scripts/mala_vs_sgld.py:PRESETS",
        "1e-05, 32, 10000, 5",
        lambda: said(
            *(mala_vs_sgld.STEP_SIZE, mala_vs_sgld.BATCH_SIZE, mala_vs_sgld.PRESETS["paper"].num_steps),
            *set(mala_vs_sgld.PRESETS["paper"].runs.values()),
        ),
    ),
    "N.1, width, batch, rate, epochs, repetitions": (
        "scripts/mnist_entropy_sgd.py:Settings",
        "1024, 512, 0.01, 200, 80",
        lambda: said(MNIST.width, MNIST.batch_size, MNIST.learning_rate, MNIST.epochs, MNIST.repetitions),
    ),
    "N.1, chains, steps, ε, γ, batch": (
        "scripts/mnist_entropy_sgd.py:Settings",
        "4, 400, 1e-05, 100, 512",
        lambda: said(
            *(MNIST.sampling[name] for name in ("num_chains", "num_draws", "step_size", "localization", "batch_size"))
        ),
    ),
    "O.1, n, steps, batch, ε": (
        "scripts/rescaling_invariance.py:PRESETS",
        "10000, 10000, 500, 1e-05",
        lambda: said(RESCALING.n, RESCALING.num_steps, rescaling_invariance.BATCH_SIZE, rescaling_invariance.STEP_SIZE),
    ),
    "O.1, networks, α, runs": (
        "scripts/rescaling_invariance.py:PRESETS",
        "3, 17, 5",
        lambda: said(
            len(RESCALING.sweeps[0].networks), len(RESCALING.sweeps[0].log10_alphas), RESCALING.sweeps[0].runs
        ),
    ),
}


def _lines() -> dict[str, list[str]]:
    """The rows of the document's table by item: where, the paper, ours, why they differ."""
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    table = text.split("| Item |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip().strip("`") for cell in line.strip().strip("|").split("|")] for line in table]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize("item", TABLE)
def test_the_table_has_the_papers_number_and_ours(item: str) -> None:
    where, paper, ours = TABLE[item]
    shown = _lines()[item]
    assert shown[:3] == [where, paper, ours()]
    assert (paper == ours()) == (shown[3] == ""), "a row that differs has a reason, others need none"
    file, name = where.split(":")
    assert (ROOT / file).exists()
    module = file.removesuffix(".py").replace("/", ".").removeprefix("scripts.")
    assert hasattr(importlib.import_module(module), name)


def test_the_table_has_no_other_rows() -> None:
    assert list(_lines()) == list(TABLE)
