"""What an inpainting base is not shown of a texture: all of its islands, or some of them."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from texdiff.uv.gutter import fill


@dataclass(frozen=True, kw_only=True)
class Hiding:
    """How texels are hidden."""

    mode: Literal["layout", "complete"] = "complete"
    """layout: every covered texel; complete: those of some islands."""
    variants: int = 4
    """Choices of islands for each texture."""

    @property
    def count(self) -> int:
        """Ways in which a texture is hidden."""
        return self.variants if self.mode == "complete" else 1

    def hidden(self, covered: NDArray[np.bool_], variant: int) -> NDArray[np.bool_]:
        """Which of the `covered` texels [H, W] are hidden in a variant, counted from 0."""
        return covered if self.mode == "layout" else hide_islands(covered, variant)


def hide_islands(covered: NDArray[np.bool_], variant: int) -> NDArray[np.bool_]:
    """The texels of the islands, parts of `covered` [H, W] that hang together, that are hidden in a variant: a share of
    the covered area that is drawn uniformly, filled by islands in an order that is drawn as well, at least by one.

    Draws are keyed by `covered` and the variant alone.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(covered.astype(np.uint8), connectivity=8)
    digest = hashlib.blake2b(np.packbits(covered).tobytes() + f"{covered.shape} {variant}".encode(), digest_size=16)
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest.digest(), "little")))
    order = 1 + generator.permutation(count - 1)
    before = np.cumsum(stats[order, cv2.CC_STAT_AREA]) - stats[order, cv2.CC_STAT_AREA]
    chosen = np.zeros(count, bool)
    chosen[order[before < generator.random() * covered.sum()]] = True
    chosen[order[:1]] = True
    return chosen[labels]


def known_pixels(
    texture: NDArray[np.uint8], covered: NDArray[np.bool_], hidden: NDArray[np.bool_], background: str | int = "fill"
) -> NDArray[np.float32]:
    """What is left of a texture [H, W, 3], float32 in [-1, 1]: 0 where it is hidden, as diffusers' pipelines have it.

    With `background` "fill" the void is filled from the islands that are left, so that it tells nothing of the others,
    and is 0 where none is left; else it stays.
    """
    visible = covered & ~hidden
    known = fill(texture, visible) if background == "fill" and visible.any() else texture
    gone = hidden if background != "fill" or visible.any() else np.ones_like(hidden)
    return np.where(gone[..., None], np.float32(0), known.astype(np.float32) / np.float32(127.5) - 1)
