"""`Segment`: a stretch of the weights of some chains, with all that an update of it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """A stretch of k parameters, short enough for the cache. All tensors are views.

    Noise is drawn in chunks of fixed size, gradients come in pieces (one a parameter, or one for a small model). A
    segment lies in one chunk and in one piece.

    Attributes:
        w: positions, `[chain, k]`.
        anchor: w* in the model's own type, `[k]`.
        noise: standard normal noise of this step, where it was asked for, `[chain, k]`.
        piece: number of the gradient piece.
        inner: place in the piece.
        chunk: number of the noise chunk.
        outer: place in the chunk.
        start: index of its first parameter among all, those held by other processes included.
    """

    w: Tensor
    anchor: Tensor
    noise: Tensor
    piece: int
    inner: slice
    chunk: int
    outer: slice
    start: int

    @property
    def w_star(self) -> Tensor:
        """w* in the type of w, `[k]`; a temporary copy if the model keeps its weights in a smaller type."""
        return self.anchor if self.anchor.dtype == self.w.dtype else self.anchor.to(self.w.dtype)

    def of(self, pieces: Sequence[Tensor]) -> Tensor:
        """The segment of a gradient, or of a state cut by `Walk.pieces_of`, `[chain, k]`."""
        return self.of_piece(pieces[self.piece])

    def of_piece(self, piece: Tensor) -> Tensor:
        """The segment of its own piece, `[chain, k]`."""
        return piece if piece.shape == self.w.shape else piece[:, self.inner]


Update = Callable[[Segment, Tensor], Tensor | None]
"""Moves `segment.w` in place, given ∇L_B `[chain, k]` on it; may return a float64 `[chain]` for `sweep` to add up."""
