"""Figure L.1 of arXiv 2308.12108: λ̂ of two-layer attention-only language models, each trained from its own seed.

    python scripts/pile_attention_only.py                                                    # --preset cpu
    python scripts/pile_attention_only.py --data DIR --tokenizer DIR                         # the same, without network
    accelerate launch scripts/pile_attention_only.py --preset paper --curve
    torchrun --nproc-per-node 2 scripts/pile_attention_only.py --preset smoke
    python scripts/pile_attention_only.py --model attn-only-2l

Models are trained by AdamW at a constant rate, on windows of the joined documents of a Pile subset, in the first tokens
of GPT-2's tokenizer. λ̂ is estimated on held-out documents (every 20th) in two ways: with the paper's settings
(nβ = 21.7, γ = 100, ε = 0.001, no burn-in), and with hf_llc's (nβ = tokens / ln tokens, calibrated ε, from the nearest
minimum of the held-out loss). `--curve` adds λ̂ along the training of seed 0. `--model` trains nothing and estimates one
model: a TransformerLens name, an id or a folder.

OUTPUT/models/seed-K/step-N has every model in transformers format; OUTPUT/estimates has every estimate, for `hf-llc
publish`. Trainings are shared out over processes, and so are the chains of each estimate. A killed run goes on;
`--plot-only` draws the figure again from rows.jsonl.

- `cpu`: 103,808 parameters, 3 seeds, 800 steps on 64 tokens of a vocabulary of 512.
- `paper`: 3,355,016 parameters, 10 seeds, 50,000 steps of 100 windows of 1,024 tokens, which `--seeds`, `--steps`,
  `--num-chains` and `--ways` cut short.

Expected of `cpu` on 2,491 documents of the Pile (`--data`): the mean of λ̂, its standard deviation over seeds as a share
of the mean, and the 95 % interval of that share.

    seeds   the paper's settings                          hf_llc's settings
    3       44.64   1.8 %  0.9 … 11.4   left the basin     1229   2.7 %  1.4 … 16.7   trustworthy

Means agree within 3 % in both ways, and three seeds are too few to say more: the interval's end is above 10 %. With the
paper's settings λ̂ could hardly differ: nβ is so small and γ so weak that from training step 30 on all chains end at 5.6
to 5.9 nats, above the 5.12 of a constant predictor. λ̂ is then nβ times what there was to lose, and grows as the loss
falls: 5.5, 14.4, 16.8, 32.1, 45.0 at steps 0, 30, 100, 300, 800, where the held-out loss is 6.55, 5.25, 4.87, 4.17,
3.76. hf_llc's λ̂ is that of the minimum that 3,000 steps find near each model, two thirds of the model's length away
(loss 2.74 rather than 3.78), at γ = 10,000: 1.2 % of the parameters. From a point at which only 400 steps had been
taken (loss 3.23) λ̂ is 564, and its verdict says that this is no minimum: a descent falls by another 130.

Time: `cpu` 37 minutes of a core that others used too, three quarters of it for hf_llc's λ̂. `paper` has not been run in
full. On an H200 with six other jobs, on the local documents, in bfloat16, 600 steps took 50 seconds a seed (70 minutes
for all steps) and ended at 3.378 and 3.367 nats for seeds 0 and 1. After 60 steps of seed 0, at 5.1 nats, one chain
with the paper's settings gave 89.8 ± 4.9 in 46 seconds, out of the basin at 9.3 nats.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from dry_run import Cost, counted, print_plan
from experiment import Experiment, Row, from_hub, parse, start
from pile_figure import NUMBERS, WAYS, claim, draw
from pile_training import Training, make_model, train, windows
from transformers import AutoTokenizer

from hf_llc import LLCEvaluator
from hf_llc.config import SampleConfig
from hf_llc.embedded import model_path, text_path
from hf_llc.errors import InputError
from hf_llc.loading.hub_errors import public_name
from hf_llc.models import cut_tokenizer
from hf_llc.parallel.processes import process_state
from hf_llc.problem import auto_batch_size

PAPER = SampleConfig(
    nbeta=21.7, localization=100.0, step_size=1e-3, num_chains=20, num_draws=200, num_burnin_steps=0, batch_size=100
)
"""As the paper has it. nβ = 21.7 is 100 / ln 100, of batches of 100 rather than of the data."""


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    """What the rows depend on; the defaults are the paper's.

    Attributes:
        paper, ours: the two ways in which λ̂ is estimated. In ours γ is 0.4 of nβ, as in the cpu preset, where the
            trace is flat and seeds' verdicts are good; at the paper's size that is untested.
    """

    paper: SampleConfig = PAPER
    ours: SampleConfig = SampleConfig(sampler="sgld", minimize=True, localization=2.5e5, batch_size=100)


PRESETS = {
    "smoke": Settings(
        data=str(text_path()),
        tokenizer=str(model_path()),
        vocab_size=300,
        hidden_size=16,
        num_heads=2,
        context=16,
        train_windows=400,
        validation_windows=60,
        seeds=2,
        steps=20,
        batch_size=8,
        curve=(0, 10),
        paper=replace(PAPER, num_chains=3, num_draws=10, batch_size=8),
        ours=SampleConfig(
            minimize=True, minimize_steps=10, localization=1000.0, num_chains=3, num_draws=10, num_burnin_steps=5
        ),
    ),
    "cpu": Settings(
        vocab_size=512,
        hidden_size=64,
        num_heads=4,
        context=64,
        train_windows=30_000,
        validation_windows=5000,
        seeds=3,
        steps=800,
        batch_size=32,
        curve=(0, 30, 100, 300),
        paper=replace(PAPER, num_chains=4, batch_size=32),
        ours=SampleConfig(minimize=True, minimize_steps=3000, localization=1e4, num_chains=2, max_steps=800),
    ),
    "paper": Settings(),
}


def flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this script alone."""
    parser.add_argument("--data", metavar="ID", help="Hub id or folder of documents")
    parser.add_argument("--subset", metavar="NAME", help="configuration of the data set")
    parser.add_argument("--tokenizer", metavar="ID", help="Hub id or folder of GPT-2's tokenizer")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many models")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps")
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], help="of the training")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="of estimating λ̂")
    parser.add_argument("--num-chains", type=int, metavar="N", help="chains of each estimate")
    parser.add_argument("--curve", action="store_true", help="λ̂ along the training of seed 0, too")
    parser.add_argument("--model", metavar="NAME", help="estimate this model only: TransformerLens name, id or folder")


def estimate(job: Row, settings: Settings, model: Any, folder: Path, *, overwrite: bool) -> Row:
    """λ̂ of one model on the held-out windows in one of the two ways."""
    data = Dataset.from_dict({"input_ids": np.load(folder / "validation.npy")})
    output = folder / "estimates" / f"{job['model'].replace('/', '-')}-{job['settings']}"
    evaluator = LLCEvaluator(getattr(settings, job["settings"]))
    result = evaluator.compute(model, data=data, output=output, overwrite=overwrite)
    moved = {} if result.minimize is None else result.minimize
    found = {name: value for name, value in result.metrics().items() if name != "seed"}  # a row has the training's
    return {
        **found,
        "llc_per_chain": result.llc_per_chain,
        "trivial_loss": result.trivial_loss,
        "gain": moved.get("gain"),
        "relative_distance": moved.get("relative_distance"),
        "num_gradients": result.num_gradients,
        "num_parameters": result.num_parameters,
    }


def open_transformer_lens(name: str) -> Any:
    """A model that TransformerLens names and keeps in its own format, with its tokenizer; None for an id or a folder.

    TransformerLens itself would unpickle the weights, which can run code; here they are read as weights only.

    Raises:
        InputError: TransformerLens has no such model in its own format.
    """
    if "/" in name or Path(name).exists():
        return None
    import huggingface_hub
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import get_official_model_name, get_pretrained_model_config

    try:
        repo = get_official_model_name(name)
    except ValueError:
        repo = ""
    if not repo.startswith("NeelNanda/"):
        raise InputError(
            "TransformerLens has no model of this name in its own format",
            value=name,
            allowed="such as attn-only-2l; an id, owner/name; or a folder",
        )
    huggingface_hub.utils.logging.set_verbosity_error()  # it would tell of each of its five attempts
    state = process_state()
    with state.local_main_process_first():

        def download() -> str:
            files = huggingface_hub.HfApi().list_repo_files(repo)
            return huggingface_hub.hf_hub_download(repo, next(file for file in files if file.endswith("final.pth")))

        weights = torch.load(from_hub("model", repo, download), map_location="cpu", weights_only=True)
        hooked = HookedTransformer(get_pretrained_model_config(name, device=state.device))
    keep = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}
    hooked.load_and_process_state_dict(weights, **keep)
    return hooked.eval()


def jobs(settings: Settings, ways: Sequence[str], *, curve: bool) -> tuple[list[Row], list[Row]]:
    """Trainings, and estimates of what they leave."""
    trainings: list[Row] = [{"stage": "train", "seed": seed} for seed in range(settings.seeds)]
    points = [("ours", seed, settings.steps) for seed in range(settings.seeds)]
    points += [("paper", seed, settings.steps) for seed in range(settings.seeds)]
    points += [("paper", 0, step) for step in settings.curve if curve and step < settings.steps]
    estimates: list[Row] = [
        {"stage": "llc", "model": f"seed-{seed}/step-{step}", "seed": seed, "step": step, "settings": way}
        for way, seed, step in points
        if way in ways
    ]
    return trainings, estimates


def planned(settings: Settings, args: argparse.Namespace) -> list[Row]:
    """The jobs that the flags ask for."""
    if args.model is None:
        trainings, estimates = jobs(settings, args.ways, curve=args.curve)
        return trainings + estimates
    return [{"stage": "llc", "model": Path(args.model).name, "settings": way} for way in args.ways]


def cost_of(settings: Settings) -> Callable[[Row], Cost]:
    """Job → training, or the chains and the loss of all windows; of hf_llc's settings at most."""
    ids = torch.zeros(1, settings.context, dtype=torch.int64)
    each = counted(make_model(settings, 0), lambda out: out.logits.sum(), ids)

    def cost(job: Row) -> Cost:
        if job["stage"] == "train":
            return Cost(settings.steps, each * settings.steps * settings.batch_size, least=0.01)
        sample: SampleConfig = getattr(settings, job["settings"])
        gradients = sample.num_chains * sample.steps_allowed + sample.minimize * sample.minimize_steps
        batch = sample.batch_size if isinstance(sample.batch_size, int) else auto_batch_size(settings.context)
        return Cost(gradients, each * (gradients * batch + settings.validation_windows / 3), least=0.005)

    return cost


def _tokenizer(name: str) -> Any:
    return from_hub("tokenizer", name, lambda: AutoTokenizer.from_pretrained(name))


def main() -> None:
    """Text, trainings, estimates, figure."""
    args = parse(__doc__, PRESETS, more=flags)
    transformers.utils.logging.disable_progress_bar()
    given = ("data", "subset", "tokenizer", "seeds", "steps", "mixed_precision")
    settings = replace(PRESETS[args.preset], **{k: getattr(args, k) for k in given if getattr(args, k) is not None})
    if args.num_chains is not None:
        fewer = {way: replace(getattr(settings, way), num_chains=args.num_chains) for way in WAYS}
        settings = replace(settings, **fewer)
    folder = args.output if args.model is None else args.output / Path(args.model).name
    known = {**asdict(settings), "model": args.model}
    known |= {name: public_name(known[name]) for name in ("data", "tokenizer", "model")}  # no path into the file
    del known["seeds"]  # more seeds, more rows
    if args.dry_run:
        print_plan(planned(settings, args), known, cost_of(settings), rate=args.operations_a_second)
        return
    # before the folder is begun: without a network there is none
    model = None if args.model is None or args.plot_only else open_transformer_lens(args.model)
    experiment = Experiment(folder, known, overwrite=args.overwrite, plot_only=args.plot_only)
    rows = experiment.rows() if args.plot_only else _run(experiment, settings, args, model)
    found = [row for row in rows if row["stage"] == "llc"]
    experiment.finish(draw(rows), [{k: row.get(k) for k in NUMBERS} for row in found], claim(rows))


def _run(experiment: Experiment, settings: Settings, args: argparse.Namespace, model: Any) -> list[Row]:
    """What is not done yet; all rows. `model` is the one that TransformerLens names."""
    folder, processes = experiment.folder, experiment.processes
    if args.overwrite:
        processes.main_does(lambda: shutil.rmtree(folder / "models", ignore_errors=True))
    if args.model is None:
        tokenizer = cut_tokenizer(_tokenizer(settings.tokenizer), settings.vocab_size)
        processes.main_does(lambda: windows(settings, tokenizer, folder))
        trainings, estimates = jobs(settings, args.ways, curve=args.curve)
        done = experiment.run(trainings, lambda job: train(settings, job["seed"], tokenizer, folder))
        opened = {job["model"]: str(folder / "models" / job["model"]) for job in estimates}
    else:
        settings = replace(settings, train_windows=0)
        tokenizer = _tokenizer(args.model) if model is None else model.tokenizer
        processes.main_does(lambda: windows(settings, tokenizer, folder))
        name, done = Path(args.model).name, []
        estimates = [{"stage": "llc", "model": name, "seed": None, "step": None, "settings": way} for way in args.ways]
        opened = {name: args.model if model is None else model}

    def work(job: Row) -> Row:
        return estimate(job, settings, opened[job["model"]], folder, overwrite=args.overwrite)

    return done + experiment.run(estimates, work, together=True)


if __name__ == "__main__":
    start(main)
