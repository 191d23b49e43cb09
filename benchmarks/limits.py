"""Forecast against what happened: time by stage, peak memory, and by how much a run oversteps its max_seconds.

    python benchmarks/limits.py                                # all models, no limit where a run takes minutes
    python benchmarks/limits.py --models mlp bert smol --limits 30 120
    python benchmarks/limits.py --models smol --limits 120 --command "estimate --max-examples 64"

Each run is `hf-llc estimate` (or a plain module through `LLCEvaluator`) in a process of its own, with random weights
but for the embedded model and stories260K (the folder HF_LLC_DATA names it). Written down for each, as a line of JSON:
the limit, the wall time of the whole process with its imports, the overshoot, its time on the processor, the peak
of its memory as the system counts it beside that of the forecast, the forecast of the whole beside the time that each
stage of ten seconds or more took, the last line, the exit code and the load of the machine.

A line for a reader comes last: what was foretold, what happened, and the ratio of the two (1.5: it took half as long
again), for memory, and for time where nothing cut the run short. A model that has learnt nothing ends early: what was
left after L_n(w*), as it was foretold then, stands beside the forecast of the whole.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HF_LLC_DATA", ROOT.parent / "shared" / "data"))

_PLAIN = ("mlp-1k", "mlp", "cnn")
NAMES = ("embedded", *_PLAIN, "resnet", "bert", "gpt2-1m", "gpt2-12m", "stories", "smol")
"""In the order of their parameters, roughly; from 10³ to 1.3·10⁸."""


def make_language_model(folder: Path, config: Any, data: Path) -> list[str]:
    """A random model of this config with the embedded tokenizer; the arguments of its run."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hf_llc.embedded import model_path

    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path()).save_pretrained(folder)
    return ["--model", str(folder), "--data", str(data)]


def text_file(folder: Path) -> Path:
    """The embedded text, sixteen times."""
    from hf_llc.embedded import text_path

    path = folder / "text.txt"
    path.write_text(text_path().read_text(encoding="utf-8") * 16, encoding="utf-8")
    return path


def gpt2(width: int, layers: int, vocabulary: int) -> Callable[[Path], list[str]]:
    """A GPT-2-type language model."""

    def make(folder: Path) -> list[str]:
        from transformers import GPT2Config

        heads = max(width // 64, 1)
        config = GPT2Config(vocab_size=vocabulary, n_positions=256, n_embd=width, n_layer=layers, n_head=heads)
        return make_language_model(folder / "model", config, text_file(folder))

    return make


def smol(folder: Path) -> list[str]:
    """SmolLM2-135M's config."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    return [*make_language_model(folder / "model", config, text_file(folder)), "--max-length", "512"]


def bert(folder: Path) -> list[str]:
    """A classifier of MiniLM's size, on lines of the embedded text with made-up labels."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from hf_llc.embedded import model_path, text_path

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, pad_token_id=0
    )
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(folder / "model")
    text = text_path().read_text(encoding="utf-8")
    rows = [{"text": text[i : i + 150], "label": i % 2} for i in range(0, 300_000, 150) if text[i % len(text) :]]
    rows = [row if row["text"] else {**row, "text": text[:150]} for row in rows]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return ["--model", str(folder / "model"), "--data", str(folder / "data.jsonl"), "--task", "text-classification"]


def resnet(folder: Path) -> list[str]:
    """A network of ResNet-20's depths and widths on noise of CIFAR-10's shape."""
    import numpy as np
    from datasets import Dataset, Features, Image, Value
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[3, 3, 3], layer_type="basic")
    config.num_labels = 10
    ResNetForImageClassification(config).save_pretrained(folder / "model")
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(folder / "model")
    noise = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    rows = {"image": list(noise), "label": [i % 10 for i in range(len(noise))]}
    data = Dataset.from_dict(rows, features=Features({"image": Image(), "label": Value("int64")}))
    data.to_parquet(folder / "data.parquet")
    return ["--model", str(folder / "model"), "--data", str(folder / "data.parquet")]


def stories(folder: Path) -> list[str]:
    """The real model, on the text that it was trained to tell."""
    data = DATA / "tinystories_val" / "tinystories_val.txt"
    return ["--model", str(DATA / "stories260K"), "--data", str(data)]


FOLDERS: dict[str, Callable[[Path], list[str]]] = {
    "embedded": lambda folder: [],
    "resnet": resnet,
    "bert": bert,
    "gpt2-1m": gpt2(128, 4, 2000),
    "gpt2-12m": gpt2(256, 6, 30_000),
    "stories": stories,
    "smol": smol,
}


def plain(name: str, settings: dict[str, Any], output: str) -> int:
    """Run a plain module in this process; return the exit code that the command would."""
    import torch
    from torch import nn

    from hf_llc import LLCEvaluator
    from hf_llc.errors import InputError

    torch.manual_seed(0)
    inputs, labels = torch.randn(4000, 1, 28, 28), torch.randint(10, (4000,))
    if name == "cnn":
        layers: list[nn.Module] = []
        for a, b in ((1, 32), (32, 64)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))
    else:
        width = 100 if name == "mlp" else 1
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))

    def loss_fn(out: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(out, labels, reduction="none")

    try:
        result = LLCEvaluator(**settings).compute(
            model, data={"inputs": inputs, "labels": labels}, loss_fn=loss_fn, output=output
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(result)
    return 0 if result.is_trustworthy else 3


def one(name: str, limit: float | None, more: list[str], *, kept: Path | None) -> dict[str, Any]:
    """Run a model in a process of its own, and say how it went."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bound = [] if limit is None else ["--max-seconds", str(limit)]
        if name in _PLAIN:
            command = [__file__, "--plain", name, "--output", str(folder / "out"), *bound]
        else:
            given = [] if name == "embedded" else _made(name, folder)
            command = ["-m", "hf_llc", *(more or ["estimate"]), *given, "--output", str(folder / "out"), *bound]
        load, begun = os.getloadavg()[0], time.monotonic()
        with open(folder / "out.txt", "w") as out_file, open(folder / "err.txt", "w") as err_file:
            process = subprocess.Popen(
                [sys.executable, *command], stdout=out_file, stderr=err_file,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
            )  # fmt: skip
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begun
        out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out.txt", "err.txt"))
    if kept is not None:
        (kept / f"{name}-{limit}.txt").write_text(f"{err}\n----\n{out}", encoding="utf-8")
    return {
        "model": name, "limit": limit, "wall": wall, "overshoot": wall / limit - 1 if limit else None,
        "code": os.waitstatus_to_exitcode(status), "cpu": usage.ru_utime + usage.ru_stime,
        "peak_gib": usage.ru_maxrss / 2**20, "load": load, **_read(err, out),
    }  # fmt: skip


def _made(name: str, folder: Path) -> list[str]:
    """Make the model in a process of its own, whose memory does not count."""
    code = f"import limits, json, pathlib; print(json.dumps(limits.FOLDERS[{name!r}](pathlib.Path({str(folder)!r}))))"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _read(err: str, out: str) -> dict[str, Any]:
    """What a run said."""
    verdict = re.search(r"^verdict\s+(.*)$", out, re.MULTILINE)
    told = re.search(r"^hf_llc:   all\s+(.*?)(?:, ([\d.]+) GiB)?(?:;.*)?$", err, re.MULTILINE)
    stages = re.findall(r"^hf_llc: ([^:]+): (\d+) s", err, re.MULTILINE)
    return {
        "verdict": verdict and verdict[1], "foretold": told and told[1], "foretold_s": _foretold_seconds(err),
        "early_s": _early_seconds(err),
        "is_cut": "max_seconds" in out + err,
        "foretold_gib": float(told[2]) if told and told[2] else None, "stages": dict(stages),
        "last": err.splitlines()[-1:],
    }  # fmt: skip


_SECONDS = {"s": 1, "min": 60, "h": 3600}


def _foretold_seconds(err: str) -> float | None:
    """The guess of the forecast of a whole run."""
    return _seconds(re.search(r"^hf_llc:   all\s+about ([\d.]+) (s|min|h)\b", err, re.MULTILINE))


def _early_seconds(err: str) -> float | None:
    """What was left of a run that ends early, as it was foretold after L_n(w*)."""
    return _seconds(re.search(r"the chains end early, about ([\d.]+) (s|min|h)\b", err))


def _seconds(found: re.Match[str] | None) -> float | None:
    return float(found[1]) * _SECONDS[found[2]] if found else None


def summary(row: dict[str, Any]) -> str:
    """A run in a line: time and memory foretold, what happened, and the ratios."""
    said = [
        f"{row['model']:<9}",
        f"limit {row['limit']:g} s" if row["limit"] else "no limit",
        f"took {row['wall']:.0f} s",
    ]
    if row["overshoot"] is not None:
        said.append(f"overshoot {row['overshoot']:+.1%}")
    if row["foretold_s"]:
        ratio = f" (ratio {row['wall'] / row['foretold_s']:.2f})"
        is_whole = not row["is_cut"] and not row["early_s"] and row["code"] != 2
        said.append(f"foretold {row['foretold_s']:.0f} s{ratio if is_whole else ''}")
    if row["early_s"]:
        said.append(f"ended early, {row['early_s']:.0f} s foretold after L_n(w*)")
    if row["foretold_gib"]:
        ratio = row["peak_gib"] / row["foretold_gib"]
        said.append(f"memory {row['foretold_gib']:.1f} GiB, peak {row['peak_gib']:.2f} (ratio {ratio:.2f})")
    return " | ".join([*said, row["verdict"] or (row["last"] or [""])[-1][:80]])


def main() -> None:
    """Run what is asked for, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--limits", nargs="+", type=float, default=[30, 120])
    parser.add_argument("--command", default="", help="in place of `estimate`, with its options")
    parser.add_argument("--kept", type=Path, help="folder for what each run printed")
    parser.add_argument("--output", type=Path, default=Path("limits.jsonl"))
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    parser.add_argument("--max-seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        sys.exit(plain(args.plain, {"max_seconds": args.max_seconds}, str(args.output)))
    if args.kept is not None:
        args.kept.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        for limit in args.limits:
            row = one(name, limit or None, shlex.split(args.command), kept=args.kept)
            with open(args.output, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
            print(summary(row), flush=True)


if __name__ == "__main__":
    main()
