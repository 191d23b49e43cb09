"""Columns of pictures: read row by row, and brought to the channels and the scale that a model expects.

What a picture is: a PIL image of any mode, or numbers `[height, width]`, `[height, width, channel]` or
`[channel, height, width]`. It stands upright (EXIF), colours of a palette are looked up, and alpha is dropped, as
transformers' pipelines do. Where its numbers do not say their scale (PIL's I and F, wide integers, floats), the whole
column has one: the least of 1 (floats only), 255 and 65535 that no value exceeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageCms

from hf_llc.errors import InputError, reason_of
from hf_llc.loading.rows import numbers_in, place
from hf_llc.numerals import number

PICTURE_COLUMNS = ("image", "img")
"""Usual names of a column of pictures, as floats too."""

IMAGE_COLUMNS = (*PICTURE_COLUMNS, "pixel_values")
"""Usual names of a column of pictures or of model inputs."""

GREY, COLOUR, ALPHA = "L", "RGB", "RGBA"
"""What a model expects: 1, 3 or 4 channels."""

_TOPS = {"u": (255.0, 65535.0), "i": (255.0, 65535.0), "b": (1.0,), "f": (1.0, 255.0, 65535.0)}
"""White, by the kind of numbers."""

_OVERSHOOT, _LEAST_BYTE = 1.0001, 8.0
"""What rounding may add to white; and floats up to here are neither in 0 … 1 nor plainly in 0 … 255."""

_GREYS = ("1", "L", "LA", "La", "I", "F")
_Result = TypeVar("_Result")


def numbers_of(data: Dataset, name: str) -> np.ndarray:
    """A numeric column, `[example, …]`.

    Raises:
        InputError: the column holds text, gaps, or rows of different shapes.
    """
    rows = data[name][:]
    try:
        values = np.asarray(rows)
    except ValueError:
        values = np.empty(0, dtype=object)
    if values.dtype.kind not in "biuf":
        raise InputError(
            "the column does not hold numbers of one shape",
            value=name,
            allowed=_first_odd(rows),
            remedy="choose columns with input_column and label_column, or convert it",
        )
    return values


def _first_odd(rows: Any) -> str:
    """The first row that is no array of numbers like the first row; empty if there is none."""
    first = None
    for i, row in enumerate(rows):
        try:
            array = np.asarray(row)
        except ValueError:
            return f"row {i} holds lists of different lengths"
        if row is None or array.dtype.kind not in "biuf":
            return f"row {i} holds no number" if row is None else f"row {i} holds {type(row).__name__}"
        first = array.shape if first is None else first
        if array.shape != first:
            return f"row {i} has shape {array.shape}, row 0 {first}"
    return ""


def holds_pictures(data: Dataset, name: str, *, floats: bool) -> bool:
    """Whether a column holds pictures rather than what a model takes as it is.

    Args:
        data: the rows.
        name: the column.
        floats: floats in a column that is called a picture's are one; otherwise the model takes them as they are.
    """
    feature: Any = data.features[name]
    if _is_encoded(feature):
        return True
    dtype, depth = numbers_in(feature)
    if depth < 2:
        return False
    return dtype.startswith(("int", "uint", "bool")) or (
        dtype.startswith("float") and floats and name in PICTURE_COLUMNS
    )


def _is_encoded(feature: Any) -> bool:
    """Whether a feature is pictures in files or bytes; `datasets` writes the latter as a dictionary, or as binary."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, ImageFeature) or (isinstance(feature, Value) and feature.dtype == "binary")


class _Brighter(Exception):
    """A picture exceeds the scale that those before it seemed to have."""


class Scale:
    """White in a column, by the kind of its pictures; it rises as brighter ones are met.

    Attributes:
        seen: modes and types of the pictures so far, for the result.
    """

    def __init__(self) -> None:
        self._tops: dict[str, float] = {}
        self.seen: dict[str, str] = {}

    def unit(self, values: np.ndarray, kind: str, where: str) -> np.ndarray:
        """Numbers in 0 … 1, float32.

        Raises:
            InputError: a number is negative, NaN or beyond every scale.
        """
        known = {"uint8": 255.0, "uint16": 65535.0}.get(kind)
        least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        tops = (known,) if known is not None else _TOPS[values.dtype.kind]
        top = next((t for t in tops if most <= t * _OVERSHOOT), None)
        is_between = values.dtype.kind == "f" and top == 255.0 and most < _LEAST_BYTE
        if not least >= 0 or top is None or is_between:
            raise InputError(
                "a picture has no scale",
                value=f"{where}: {number(least)} … {number(most)}",
                allowed="0 … 1 (floats), 0 … 255 or 0 … 65535",
                remedy="scale it, or call a column of model inputs pixel_values",
            )
        before = self._tops.setdefault(kind, top)
        if top > before:
            self._tops[kind] = top
            raise _Brighter
        if kind != "uint8":
            self.seen[kind] = f"{kind} over {number(before)}"
        return values.astype(np.float32) / np.float32(before)


def in_one_scale(work: Callable[[Scale], _Result]) -> tuple[_Result, str | None]:
    """What `work` gives with one scale for the whole column, and how pictures were read, for the result.

    `work` begins again where a picture turns out brighter than those before it let expect.
    """
    scale = Scale()
    while True:
        try:
            result = work(scale)
            return result, "; ".join(scale.seen.values()) or None
        except _Brighter:
            scale.seen.clear()


def pictures(data: Dataset, name: str) -> Iterator[Any]:
    """The pictures of a column: PIL images, upright, or arrays.

    Raises:
        InputError: the first row that holds none.
    """
    rows = data.select_columns([name])
    feature: Any = rows.features[name]
    if not _is_encoded(feature):
        rows = rows.with_format("numpy", dtype=np.dtype(numbers_in(feature)[0]))
    elif not (isinstance(feature, ImageFeature) and feature.decode):
        rows = rows.cast_column(name, ImageFeature())
    stream: Iterator[Any] = iter(rows)
    for i in range(len(rows)):
        try:
            row: Any = next(stream)
            picture = row[name]  # `datasets` has carried out its orientation
        except Exception as error:  # PIL and its plugins have no common type for a damaged file
            raise InputError(
                f"a picture cannot be read: {reason_of(error)}",
                value=place(name, i),
                remedy="drop or mend such rows",
            ) from error
        if picture is None or not isinstance(picture, (Image.Image, np.ndarray)):
            raise InputError("a row holds no picture", value=place(name, i), remedy="drop such rows")
        yield picture


def converted(picture: Any, mode: str, scale: Scale, where: str) -> np.ndarray:
    """A picture's numbers in 0 … 1, float32: `[height, width]` in mode GREY, else `[height, width, channel]`.

    Args:
        picture: a PIL image or an array.
        mode: GREY, COLOUR or ALPHA.
        scale: of the column.
        where: it stands, for the refusal.

    Raises:
        InputError: it cannot be brought to this mode or scale.
    """
    if isinstance(picture, np.ndarray):
        values = scale.unit(_channels_last(picture, where), str(picture.dtype), where)
    elif picture.mode.startswith("I;16"):
        values = scale.unit(np.asarray(picture).astype(np.uint16), "uint16", where)
    elif picture.mode in ("I", "F"):
        values = scale.unit(np.asarray(picture), picture.mode, where)
    else:
        if picture.mode not in ("L", "RGB"):
            scale.seen[picture.mode] = f"{picture.mode} as {mode}"
        return scale.unit(np.asarray(_as_mode(picture, mode, where)), "uint8", where)
    channels = 1 if values.ndim == 2 else values.shape[2]
    if channels == {GREY: 1, COLOUR: 3, ALPHA: 4}[mode]:
        return values
    if channels == 1 and mode == COLOUR:
        return np.repeat(values[:, :, None], 3, axis=2)
    return scale.unit(np.asarray(_as_mode(_eight_bit(values), mode, where)), "uint8", where)


def in_eight_bits(picture: Any, mode: str, scale: Scale, where: str) -> Image.Image:
    """A picture as a PIL image of 8 bits, for image processors; see `converted`."""
    if isinstance(picture, Image.Image) and picture.mode in ("L", "RGB"):
        return _as_mode(picture, mode, where)
    return _eight_bit(converted(picture, mode, scale, where))


def _eight_bit(values: np.ndarray) -> Image.Image:
    """Numbers in 0 … 1 as a PIL image."""
    return Image.fromarray(np.round(values * np.float32(255)).astype(np.uint8))


def _as_mode(picture: Image.Image, mode: str, where: str) -> Image.Image:
    """A picture of 8 bits in another mode."""
    if picture.mode == mode:
        return picture
    if mode == ALPHA and "A" not in picture.mode.upper():
        raise InputError("the model takes pictures with alpha", value=f"{where}: mode {picture.mode}", allowed="RGBA")
    try:
        if picture.mode == "LAB":
            lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            rgb = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
            assert rgb is not None
            return rgb.convert(mode)
        has_alpha = picture.mode == "PA" or (picture.mode == "P" and "transparency" in picture.info)
        step = "RGBA" if has_alpha else {"La": "LA", "RGBa": "RGBA"}.get(picture.mode)  # PIL has no direct way
        return (picture if step is None else picture.convert(step)).convert(mode)
    except (ValueError, OSError, AssertionError) as error:
        raise InputError(
            f"a picture cannot be converted: {error}", value=f"{where}: mode {picture.mode}", allowed="RGB or L"
        ) from error


def is_grey(picture: Any, where: str) -> bool:
    """Whether a picture has no colours."""
    if isinstance(picture, np.ndarray):
        return _channels_last(picture, where).shape[2:] in ((), (2,))
    return picture.mode in _GREYS or picture.mode.startswith("I;16")


def _channels_last(values: np.ndarray, where: str) -> np.ndarray:
    """`[height, width]`, or `[height, width, channel]` with 2 channels or more (2 and 4: the last is alpha).

    Raises:
        InputError: the array is no picture.
    """
    if values.ndim == 3 and values.shape[2] not in (1, 2, 3, 4) and values.shape[0] in (1, 2, 3, 4):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    is_picture = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (2, 3, 4))
    if not is_picture or values.dtype.kind not in "biuf" or values.size == 0:
        raise InputError(
            "an array is not a picture",
            value=f"{where}: shape {values.shape}",
            allowed="[height, width], [height, width, channel] or [channel, height, width]",
        )
    return values
