"""How a figure becomes a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_llc.files import check_room

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROOM = 2**23
"""Bytes that fonts and pixels take at most. Where they are short, matplotlib's C++ prints tracebacks and goes on."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, for files alone: pyplot would keep it, and ask for a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_picture(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG that says that it is ours (`hf_llc.our_files`).

    Raises:
        MemoryError: there is too little memory to draw.
    """
    check_room(_ROOM)
    figure.savefig(path, format="png", metadata={"Software": "hf_llc"})
