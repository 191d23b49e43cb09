"""Makes the embedded model, its tokenizer and its text from a plain text file.

    OMP_NUM_THREADS=1 python scripts/train_embedded.py --text input.txt

The text the package was built from is Tiny Shakespeare, 1.1 MB of Shakespeare's plays, public domain
(https://github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt). Every 15th block of about 2,000 characters is
kept apart, as the text that comes with the package. Training ends on that text alone: λ̂ is defined at a minimum of the
loss on the very data that it is measured on, and weights that have not seen a text are no minimum there.

One core of a 2-core x86 machine: about 6 minutes. Expect 2.404 nats a token on the training text and 2.004 on the
text of the package. The same seed, thread count and torch give the same files.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hf_llc.loading.tasks.losses import entropy
from hf_llc.models import AttentionOnlyConfig, AttentionOnlyForCausalLM
from hf_llc.models.attention_only import AttentionLayer

BLOCK = 2000
"""Characters a block at least; a block ends where a speech does."""

EVERY = 15
"""One block in so many is kept for the package."""

SETTLING_RATE = 1e-3
"""Highest learning rate of the end of the training, on the package's text; it has a quarter of the steps."""

Squares = dict[Tensor, Tensor]
"""The summed squared gradient of each parameter."""

Slices = Sequence[tuple[Tensor, int]]
"""Parameters and the axis along which each is sliced."""


def parse() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="plain text, paragraphs parted by blank lines")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "hf_llc" / "embedded")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=64, help="windows a step")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="at its highest; it falls to zero")
    parser.add_argument("--vocabulary", type=int, default=320)
    parser.add_argument("--hidden", type=int, default=48)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--context", type=int, default=64, help="tokens a window")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def split(text: str) -> tuple[str, str]:
    """Training text and the package's text."""
    blocks = [""]
    for speech in text.rstrip("\n").split("\n\n"):
        if len(blocks[-1]) >= BLOCK:
            blocks.append("")
        blocks[-1] += speech + "\n\n"
    own = blocks[EVERY - 1 :: EVERY]
    del blocks[EVERY - 1 :: EVERY]
    return "".join(blocks), "".join(own)


def make_tokenizer(text: str, *, size: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `size` tokens learnt from the text; it has no special tokens and can write any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=context, clean_up_tokenization_spaces=False
    )


def cut(tokenizer: PreTrainedTokenizerFast, text: str, *, length: int) -> Tensor:
    """Token ids in windows, `[window, position]`; what does not fill the last one is left out."""
    ids = tokenizer(text, verbose=False)["input_ids"]
    return torch.tensor(ids[: len(ids) // length * length]).view(-1, length)


def train(model: AttentionOnlyForCausalLM, ids: Tensor, args: argparse.Namespace) -> None:
    """Adam on windows at random places; the learning rate warms up over 100 steps and falls to zero along a cosine.

    No weight decay: w* is to be a minimum of the loss alone.

    Args:
        model: changed in place.
        ids: the training text, `[token]`.
        args: steps, batch, learning rate, context and seed.
    """
    generator = torch.Generator().manual_seed(args.seed)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    offsets = torch.arange(args.context)
    for step in range(args.steps):
        scale = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        optimizer.param_groups[0]["lr"] = args.learning_rate * scale
        starts = torch.randint(len(ids) - args.context + 1, (args.batch, 1), generator=generator)
        batch = ids[starts + offsets]
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 500 == 0 or step + 1 == args.steps:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)


def balance(model: AttentionOnlyForCausalLM, windows: Tensor) -> None:
    """Rescale the weights, with the same logits, so that curvatures are as equal as possible.

    Adam leaves a few very steep directions. They bound the step size of SGLD, while λ̂ waits for the flat ones. Two
    rescalings leave the logits as they are. LayerNorm removes the scale of the residual stream, so everything that
    writes to it may be multiplied by one factor: the embeddings get unit variance. And where two weights are multiplied
    with each other (query and key, value and output, a gain or position and the weights that read it), one may be
    multiplied by what the other is divided by.

    Args:
        model: changed in place.
        windows: text on which curvature is measured, `[window, position]`.
    """
    layers = [layer for layer in model.layers if isinstance(layer, AttentionLayer)]
    scale = 1 / float(model.embed.weight.data.std())
    for written in [model.embed.weight, *(p for layer in layers for p in layer.output.parameters())]:
        written.data *= scale
    squares: Squares = {p: torch.zeros_like(p) for p in model.parameters()}
    for part in windows.split(8):  # the squared gradient stands for the Hessian's diagonal
        model.zero_grad()
        model(part, labels=part).loss.backward()
        for parameter, total in squares.items():
            assert parameter.grad is not None
            total += parameter.grad.square()
    model.zero_grad()
    read = [part.weight for layer in layers for part in (layer.query, layer.key, layer.value)]
    gains = [p for layer in layers for p in layer.norm.parameters()]
    _even(squares, [(p, 0) for p in gains] + [(model.position.weight, 1)], [(p, 1) for p in read])
    for layer in layers:
        _even(squares, [(p, 0) for p in layer.query.parameters()], [(p, 0) for p in layer.key.parameters()])
        _even(squares, [(p, 0) for p in layer.value.parameters()], [(layer.output.weight, 1)])
    _even(squares, [(p, 0) for p in model.norm.parameters()], [(model.unembed.weight, 1)])


def _even(squares: Squares, left: Slices, right: Slices) -> None:
    """Multiply each slice of `left` by c and divide that slice of `right` by c, so that their squared gradients agree.

    A parameter c times as large has a gradient c times as small: c⁴ = (squares of left) / (squares of right).

    Args:
        squares: the squared gradients; kept true of the new scales.
        left, right: parameters, each with the axis along which it is sliced.
    """
    mine, other = (
        sum(squares[p].movedim(axis, -1).reshape(-1, p.shape[axis]).sum(0) for p, axis in side)
        for side in (left, right)
    )
    factor = (mine / other) ** 0.25
    for side, times in ((left, factor), (right, 1 / factor)):
        for parameter, axis in side:
            parameter.data.movedim(axis, -1).mul_(times)
            squares[parameter].movedim(axis, -1).div_(times.square())


@torch.no_grad()
def mean_loss(model: AttentionOnlyForCausalLM, windows: Tensor) -> float:
    """Nats a predicted token over all windows `[window, position]`."""
    total = sum(float(model(part, labels=part).loss) * len(part) for part in windows.split(256))
    return total / len(windows)


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: en
---
# The embedded model of hf_llc

A two-layer attention-only transformer for trying `hf-llc estimate` without network. It is no use for anything else.

- {parameters:,} parameters: {hidden} wide, {heads} heads a layer, context {context}; byte-level BPE of
  {vocabulary} tokens
- trained by `scripts/train_embedded.py`: Adam, {steps:,} steps of {batch} windows, learning rate {learning_rate:g}
  falling to 0, seed {seed}; then rescaled, with the same logits, so that SGLD can take larger steps
- on {tokens:,} tokens of Tiny Shakespeare (public domain): all but every 15th block of about 2,000 characters
- then {settling_steps:,} steps on those blocks, `text.txt`, alone: {tokens_own:,} tokens in {windows_own:,} windows. λ̂
  is measured on this text, so the weights are to be near a minimum of its loss

| text | loss, nats a token | best constant predictor |
| --- | --- | --- |
| training | {train:.4f} | {train_constant:.4f} |
| `text.txt` | {own:.4f} | {own_constant:.4f} |
"""


def main() -> None:
    """Train and write."""
    args = parse()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    shown, own = split(args.text.read_text(encoding="utf-8"))
    tokenizer = make_tokenizer(shown, size=args.vocabulary, context=args.context)
    windows, windows_own = (cut(tokenizer, text, length=args.context) for text in (shown, own))
    config = AttentionOnlyConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        num_attention_heads=args.heads,
        head_dim=args.hidden // args.heads,
        max_position_embeddings=args.context,
    )
    model = AttentionOnlyForCausalLM(config)
    train(model, windows.flatten(), args)
    balance(model.eval(), windows[:512])
    settling = {**vars(args), "steps": args.steps // 4, "learning_rate": SETTLING_RATE}
    train(model.train(), windows_own.flatten(), argparse.Namespace(**settling))
    model.eval()
    folder = args.output / "model"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (args.output / "text.txt").write_text(own, encoding="utf-8")
    card = CARD.format(
        **vars(args),
        settling_steps=settling["steps"],
        parameters=model.num_parameters(),
        tokens=windows.numel(),
        tokens_own=windows_own.numel(),
        windows_own=len(windows_own),
        train=mean_loss(model, windows),
        train_constant=entropy(windows[:, 1:]),
        own=mean_loss(model, windows_own),
        own_constant=entropy(windows_own[:, 1:]),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
