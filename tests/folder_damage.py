"""What disks, users and other programs do to a folder of a run, for tests/folder_torture.py: one change at a time."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


def damage(folder: Path, other: Path, chance: random.Random, what: str, name: str = "*") -> str:
    """Change one file of a folder.

    Args:
        folder: of a run.
        other: folder of another run of the same kind.
        chance: chooses the file, and where it is changed.
        what: a name in `CHANGES`, "swap" or "folders".
        name: pattern of the file.

    Returns:
        What was done to which file.
    """
    if what == "folders":
        return _exchanged_folders(folder, chance)
    files = sorted(path for path in folder.rglob(name) if path.is_file() and path.name != "lock")
    if what in ("swap", "nan"):  # states, if there are any
        files = [path for path in files if path.suffix == ".safetensors"] or files
    path = chance.choice(files)
    where = path.relative_to(folder)
    if what == "swap":
        alike = [each for each in files if each != path and each.suffix == path.suffix] or files
        second = chance.choice(alike)
        data = path.read_bytes()
        path.write_bytes(second.read_bytes())
        second.write_bytes(data)
        return f"swap {where} and {second.relative_to(folder)}"
    if what == "foreign":
        alike = [each for each in other.rglob("*") if each.is_file() and _generic(each) == _generic(path)]
        path.write_bytes(chance.choice(alike).read_bytes() if alike else b"foreign")
        return f"foreign {where}{'' if alike else ' (none there)'}"
    CHANGES[what](path, chance)
    return f"{what} {where}"


def _exchanged_folders(folder: Path, chance: random.Random) -> str:
    """Two folders within the folder (points of a curve, states of attempts) take each other's names."""
    inner = sorted(path for path in folder.rglob("*") if path.is_dir() and path.name != ".hf_llc")
    pairs = [(a, b) for a in inner for b in inner if a < b and a.parent == b.parent]
    if not pairs:
        return "folders (no two)"
    one, two = chance.choice(pairs)
    one.rename(folder / "between")
    two.rename(one)
    (folder / "between").rename(two)
    return f"folders {one.relative_to(folder)} and {two.relative_to(folder)}"


def _generic(path: Path) -> str:
    """The name without numbers."""
    return re.sub(r"\d+", "#", path.name)


def _flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"x")
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _nan(path: Path, chance: random.Random) -> None:
    """Well-formed tensors with the same metadata, one of them NaN; text with a number for another."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
            metadata = file.metadata()
    except (SafetensorError, OSError):
        text = path.read_bytes().decode("utf-8", "replace")
        path.write_text(re.sub(r"\d\.\d", "7.5", text, count=1) + " ", encoding="utf-8")
        return
    name = chance.choice(sorted(name for name, x in tensors.items() if x.is_floating_point()))
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, path, metadata=metadata)


def _edit(path: Path, chance: random.Random) -> None:
    """JSON with one value of another kind, or without a key; other bytes with some in another order."""
    data = path.read_bytes()
    try:
        values = json.loads(data)
        key = chance.choice([key for key in values if key != "seal"])
    except (ValueError, IndexError, TypeError):
        middle = len(data) // 2
        path.write_bytes(data[middle:] + data[:middle])
        return
    if chance.random() < 0.3:
        del values[key]
    else:
        values[key] = chance.choice([None, "x", -1, 1e300, [], {}, [[1]], {"a": {"b": 3}}, True, 10**30])
    if chance.random() < 0.5:
        values.pop("seal", None)
    path.write_text(json.dumps(values), encoding="utf-8")


def _folder(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, _: random.Random) -> None:
    """A link to a place where there is nothing."""
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


CHANGES: dict[str, Callable[[Path, random.Random], object]] = {
    "flip": _flip,
    "cut": lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path, _: path.write_bytes(b""),
    "remove": lambda path, _: path.unlink(),
    "zeros": lambda path, _: path.write_bytes(bytes(path.stat().st_size)),
    "grow": lambda path, _: path.write_bytes(path.read_bytes() + b"x"),
    "copy": lambda path, chance: (
        shutil.copy(chance.choice(sorted(path.parent.glob("*.*"))), path.with_name("copied"))
        and path.with_name("copied").replace(path)
    ),
    "nan": _nan,
    "edit": _edit,
    "folder": _folder,
    "link": _link,
}

WAYS = (*CHANGES, "swap", "foreign", "folders")
"""Every way."""
