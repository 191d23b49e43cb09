"""Pictures of every kind: what the model gets of them, and the row of a picture that cannot be used."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from PIL import Image, ImageCms
from test_loading import cross_entropy, refused

from hf_llc.config import LoadConfig
from hf_llc.loading.problem_loader import load_problem

GENERATOR = np.random.default_rng(0)
GREY = [GENERATOR.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(3)]
COLOUR = [GENERATOR.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(3)]
LABELS = [0, 1, 2]


def table(images: list[Any], **columns: Any) -> Dataset:
    return Dataset.from_dict({"image": images, "label": LABELS, **columns})


def pixels_of(data: Any, *, channels: int = 3, **settings: Any) -> torch.Tensor:
    """What a ViT is given."""
    model, processor = tiny.vit(channels)
    return load_problem(model, data, LoadConfig(**settings), tokenizer=processor).examples["pixel_values"]


def inputs_of(data: Any, *, channels: int = 3) -> torch.Tensor:
    """What a plain module is given."""
    module = torch.nn.Sequential(torch.nn.Conv2d(channels, 2, 8), torch.nn.Flatten(), torch.nn.Linear(2, 3))
    return load_problem(module, data, LoadConfig(), loss_fn=cross_entropy).examples["inputs"]


def palette(values: np.ndarray) -> Image.Image:
    """A picture whose indices say nothing of its colours: a fixed palette in reverse."""
    image = Image.fromarray(255 - values)
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([255 - i for i in range(256) for _ in range(3)])
    return image


def with_alpha(values: np.ndarray, mode: str) -> Image.Image:
    image = Image.fromarray(values).convert(mode)
    image.putalpha(Image.fromarray(GREY[0]))
    return image


def pa(values: np.ndarray) -> Image.Image:
    image = Image.frombytes("P", (8, 8), palette(values).tobytes())
    image.putpalette([255 - i for i in range(256) for _ in range(3)])
    return image.convert("PA")


DEEP: dict[str, Callable[[np.ndarray], Any]] = {
    "L": Image.fromarray,
    "I;16": lambda x: Image.fromarray(x.astype(np.uint16) * 257),
    "I;16B": lambda x: Image.frombytes("I;16B", (8, 8), (x.astype(np.uint16) * 257).astype(">u2").tobytes()),
    "I, 8 bits": lambda x: Image.fromarray(x.astype(np.int32)),
    "I, 16 bits": lambda x: Image.fromarray(x.astype(np.int32) * 257),
    "F, to 1": lambda x: Image.fromarray(x.astype(np.float32) / np.float32(255)),
    "F, to 255": lambda x: Image.fromarray(x.astype(np.float32)),
    "F, 16 bits": lambda x: Image.fromarray(x.astype(np.float32) * 257),
    "P": palette,
    "PA": pa,
    "LA": lambda x: with_alpha(x, "L"),
    "RGB": lambda x: Image.fromarray(x).convert("RGB"),
    "RGBA": lambda x: with_alpha(x, "RGB"),
    "uint8": lambda x: x,
    "uint8, one channel": lambda x: x[:, :, None],
    "uint8, channel first": lambda x: np.repeat(x[None], 3, 0),
    "uint16": lambda x: x.astype(np.uint16) * 257,
    "int64": lambda x: x.astype(np.int64),
    "float64": lambda x: x / 255,
    "lists": lambda x: x.tolist(),
}
"""The same grey picture."""


@pytest.mark.parametrize("kind", DEEP)
def test_one_picture_in_every_kind(kind: str) -> None:
    """8 bits, 16 bits, palette, alpha, arrays: the model and the module are given the same."""
    data = table([DEEP[kind](x) for x in GREY])
    expected = torch.tensor(np.array(GREY), dtype=torch.float32)[:, None] / 255
    for channels in (1, 3):
        torch.testing.assert_close(
            pixels_of(data, channels=channels), expected.repeat(1, channels, 1, 1) * 2 - 1, rtol=0, atol=1e-5
        )
        if kind != "float64":  # floats are what a plain module takes as they are
            found = inputs_of(data, channels=channels)
            assert torch.equal(found, expected.repeat(1, channels, 1, 1)) or "F" in kind
            torch.testing.assert_close(found, expected.repeat(1, channels, 1, 1), rtol=0, atol=1e-6)


COLOURED: dict[str, Callable[[np.ndarray], Any]] = {
    "RGB": Image.fromarray,
    "RGBA": lambda x: with_alpha(x, "RGB"),
    "CMYK": lambda x: Image.fromarray(x).convert("CMYK"),
    "array": lambda x: x,
    "channel first": lambda x: x.transpose(2, 0, 1),
    "uint16 array": lambda x: x.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("kind", COLOURED)
def test_colours(kind: str) -> None:
    data = table([COLOURED[kind](x) for x in COLOUR])
    expected = torch.tensor(np.array(COLOUR), dtype=torch.float32).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(pixels_of(data), expected * 2 - 1, rtol=0, atol=1e-5)
    torch.testing.assert_close(inputs_of(data), expected, rtol=0, atol=1e-6)
    grey = torch.tensor(np.array([np.asarray(Image.fromarray(x).convert("L")) for x in COLOUR]))
    torch.testing.assert_close(inputs_of(data, channels=1)[:, 0], grey / 255, rtol=0, atol=1e-6)


def test_modes_that_round_colours() -> None:
    """YCbCr, HSV and LAB hold colours in other coordinates, of 8 bits: equal up to their rounding."""
    smooth = [np.full((8, 8, 3), c, dtype=np.uint8) for c in ((200, 30, 40), (90, 90, 90), (60, 120, 200))]
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    kinds: list[Callable[[Image.Image], Any]] = [
        lambda x: x.convert("YCbCr"),
        lambda x: ImageCms.profileToProfile(x, srgb, lab, outputMode="LAB"),
    ]
    expected = torch.tensor(np.array(smooth), dtype=torch.float32).permute(0, 3, 1, 2) / 255
    for kind in kinds:
        found = inputs_of(table([kind(Image.fromarray(x)) for x in smooth]))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    rows = [{"image": Image.fromarray(x).convert("HSV"), "label": i} for i, x in enumerate(smooth)]
    torch.testing.assert_close(inputs_of(rows), expected, rtol=0, atol=0.02)
    columns = {"image": [row["image"] for row in rows], "label": LABELS}
    torch.testing.assert_close(pixels_of(columns), expected * 2 - 1, rtol=0, atol=0.04)


def test_one_bit() -> None:
    bits = [x > 127 for x in GREY]
    for images in ([Image.fromarray(x) for x in bits], [x.tolist() for x in bits]):
        assert torch.equal(inputs_of(table(images), channels=1)[:, 0], torch.tensor(np.array(bits)).float())


def test_alpha_is_for_modules_of_four_channels() -> None:
    rgba = [with_alpha(x, "RGB") for x in COLOUR]
    found = inputs_of(table(rgba), channels=4)
    assert torch.equal(found, torch.tensor(np.array([np.asarray(x) for x in rgba])).permute(0, 3, 1, 2) / 255)
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 2, 8), torch.nn.Flatten(), torch.nn.Linear(2, 3))
    refused("takes pictures with alpha, got 'column image, row 0: mode RGB'", module,
            table([Image.fromarray(x) for x in COLOUR]), loss_fn=cross_entropy)  # fmt: skip


def test_a_dark_picture_has_the_scale_of_its_column() -> None:
    """A picture of 32-bit integers that is nearly black is not taken for one of 8 bits beside bright ones."""
    dark = [GREY[0].astype(np.int32) // 2, GREY[1].astype(np.int32) * 257, GREY[2].astype(np.int32)]
    found = inputs_of(table([Image.fromarray(x) for x in dark]), channels=1)
    torch.testing.assert_close(found[:, 0], torch.tensor(np.array(dark)).float() / 65535)


def test_pictures_stand_upright(tmp_path: Path) -> None:
    """EXIF orientation is carried out, from files and from rows."""
    image = Image.fromarray(COLOUR[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        image.save(tmp_path / label / "x.png", exif=exif)
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    expected = torch.tensor(upright.copy()).permute(2, 0, 1) / 255
    assert torch.equal(inputs_of(tmp_path)[0], expected)
    with Image.open(tmp_path / "a" / "x.png") as one, Image.open(tmp_path / "b" / "x.png") as other:
        assert torch.equal(inputs_of([{"image": one, "label": 0}, {"image": other, "label": 1}])[1], expected)


def test_pictures_in_memory_are_stored_as_they_are_seen() -> None:
    """One that was opened from bytes is not compressed again, and keeps its orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(COLOUR[0]).save(buffer, "JPEG", quality=40, exif=exif)
    rows = [{"image": Image.open(io.BytesIO(buffer.getvalue())), "label": i} for i in range(2)]
    seen = Image.open(io.BytesIO(buffer.getvalue())).transpose(Image.Transpose.ROTATE_270)
    expected = torch.tensor(np.asarray(seen).copy()).permute(2, 0, 1) / 255
    assert torch.equal(inputs_of(rows)[1], expected)
    columns = {"image": [Image.open(io.BytesIO(buffer.getvalue())) for _ in range(2)], "label": [0, 1]}
    torch.testing.assert_close(pixels_of(columns)[0], expected * 2 - 1)


def test_floats_may_overshoot_white_by_rounding() -> None:
    over = [x.astype(np.float32) / 254.99 for x in GREY]
    found = inputs_of(table([Image.fromarray(x) for x in over]), channels=1)
    torch.testing.assert_close(found[:, 0], torch.tensor(np.array(over)))
    refused("a picture has no scale", tiny.vit()[0], table([Image.fromarray(x * np.float32(1.2)) for x in over]),
            tokenizer=tiny.vit()[1])  # fmt: skip


def test_what_was_read_is_said() -> None:
    model, processor = tiny.vit()
    data = table([DEEP["I;16"](GREY[0]), palette(GREY[1]), Image.fromarray(GREY[2])])
    problem = load_problem(model, data, LoadConfig(), tokenizer=processor)
    assert problem.provenance["data"]["pictures"] == "uint16 over 65,535; P as RGB"
    plain = load_problem(model, table([Image.fromarray(x) for x in GREY]), LoadConfig(), tokenizer=processor)
    assert "pictures" not in plain.provenance["data"]


def test_floats_called_pixel_values_are_as_they_are() -> None:
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(pixels_of({"pixel_values": x, "label": LABELS}), x)
    model, _ = tiny.vit()
    assert torch.equal(load_problem(model, (x, torch.tensor(LABELS)), LoadConfig()).examples["pixel_values"], x)
    whole = {"pixel_values": (x > 0).to(torch.uint8), "label": LABELS}
    refused("no image processor comes with the model.*in floats", model, whole)


def _bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_bytes_without_the_feature_of_images(tmp_path: Path) -> None:
    """What `datasets` stores, read by others: dictionaries of bytes and path, or bytes."""
    files = [_bytes(Image.fromarray(x)) for x in COLOUR]
    expected = inputs_of(table([Image.fromarray(x) for x in COLOUR]))
    for column in (files, [{"bytes": x, "path": None} for x in files]):
        assert torch.equal(inputs_of(table(column)), expected)
    stream = table([Image.fromarray(x) for x in COLOUR]).to_iterable_dataset()
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 8), torch.nn.Flatten(), torch.nn.Linear(2, 3))
    streamed = load_problem(module, stream, LoadConfig(max_examples=3), loss_fn=cross_entropy)
    assert torch.equal(streamed.examples["inputs"], expected)


def _encoded(*values: Any) -> Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = [{"bytes": x, "path": None} if isinstance(x, bytes) else x for x in values]
    return Dataset.from_dict({"image": rows, "label": list(range(len(rows)))}, features=features)


GOOD = _bytes(Image.fromarray(COLOUR[0]))
BAD: dict[str, tuple[Any, str]] = {
    "truncated": (_encoded(GOOD, GOOD[:60], GOOD), "a picture cannot be read.*row 1"),
    "not a picture": (_encoded(GOOD, GOOD, b"<html>"), "a picture cannot be read.*row 2"),
    "empty": (_encoded(GOOD, GOOD, b""), "a picture cannot be read.*row 2"),
    "missing file": (_encoded(GOOD, {"bytes": None, "path": "/no/x.png"}, GOOD), "a picture cannot be read.*row 1"),
    "none": (_encoded(GOOD, None, GOOD), "a row holds no picture.*row 1"),
    "negative": (table([Image.fromarray(x.astype(np.float32) - 9) for x in GREY]), "a picture has no scale.*row 0"),
    "NaN": (table([Image.fromarray(x * np.float32(np.nan if i else 1)) for i, x in enumerate(GREY)]), "scale.*row 1"),
    "too bright": (table([Image.fromarray(x.astype(np.int32) * 99999) for x in GREY]), "a picture has no scale.*row 0"),
    "nine channels": (table([np.zeros((9, 8, 9), dtype=np.uint8)] * 3), "an array is not a picture.*row 0"),
    "no pixels": (table([np.zeros((0, 8), dtype=np.uint8)] * 3), "an array is not a picture.*row 0"),
    "ragged": (table([[[1, 2], [3]]] * 3), "an array is not a picture.*row 0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_pictures_name_their_row(kind: str) -> None:
    data, match = BAD[kind]
    model, processor = tiny.vit()
    refused(match, model, data, tokenizer=processor)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 8), torch.nn.Flatten(), torch.nn.Linear(2, 3))
    refused(match, module, data, loss_fn=cross_entropy)
    if kind in ("truncated", "none"):
        refused(match, module, data.to_iterable_dataset(), loss_fn=cross_entropy, max_examples=3)


def test_mixed_sizes_name_their_row() -> None:
    sizes = [Image.new("RGB", size) for size in ((8, 8), (8, 8), (9, 8))]
    model, processor = tiny.vit()
    assert pixels_of(table(sizes)).shape == (3, 3, 8, 8)  # the processor resizes
    processor.do_resize = False
    refused("differ in size after the image processor.*row 2", model, table(sizes), tokenizer=processor)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 8), torch.nn.Flatten(), torch.nn.Linear(2, 3))
    refused("images differ in size.*row 2", module, table(sizes), loss_fn=cross_entropy)
    refused("the image processor fails.*row 0", model, table(sizes), tokenizer=tiny.tokenizer())
