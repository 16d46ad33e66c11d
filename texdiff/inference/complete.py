"""Draw what an atlas lacks, with an inpainting base: all of it, or parts beside others that stay as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from texdiff.errors import InputError
from texdiff.inference.img2img import scale_image
from texdiff.inference.target import RetextureTarget
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.hiding import known_pixels
from texdiff.uv.image import ImageError, open_image, read_image
from texdiff.uv.resize import resize

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from texdiff.inference.sampler import Sampling


@dataclass(frozen=True, kw_only=True)
class PartialAtlas:
    """An atlas of which texels are missing."""

    texture: NDArray[np.uint8]  # [H, W, 3], anything where they are
    covered: NDArray[np.bool_]  # [H, W], texels whose centre is mapped; all without a mesh
    missing: NDArray[np.bool_]  # [H, W], what is drawn

    def complete(
        self,
        pipeline: "DiffusionPipeline",
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: "Sampling",
    ) -> list[NDArray[np.uint8]]:
        """The atlas with what is missing drawn for each prompt and its seed, at the pipeline's own size, uint8
        [H, W, 3] each; other texels stay the same."""
        from texdiff.inference.sampler import own_size, sample_batch
        from texdiff.models.inpainting import inpainting_inputs

        inputs = inpainting_inputs(pipeline, *self.shown(own_size(pipeline)))
        drawn = sample_batch(pipeline, prompts, seeds, *sampling, **inputs)
        size = (self.texture.shape[0], self.texture.shape[1])
        return [np.where(self.missing[..., None], scale_image(one, size), self.texture) for one in drawn]

    def shown(self, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What is known of it at (height, width), float32 [h, w, 3] in [-1, 1] as in training, and where it is not
        although the UV map uses it, [h, w]."""
        visible = self.covered & ~self.missing
        _, covered = resize(self.texture, self.covered, size)
        texture, left = np.zeros((*size, 3), np.uint8), np.zeros(size, bool)
        if visible.any():
            texture, left = resize(self.texture, visible, size)
        hidden = covered & ~left
        return known_pixels(texture, covered, hidden), hidden


def read_partial(path: Path, target: RetextureTarget | None) -> PartialAtlas:
    """The atlas in a file, whose transparent texels are missing, where a mesh is given those that its UV map touches.

    Raises InputError where it cannot be read, or lacks nothing.
    """
    try:
        texture = read_image(path)
    except (ImageError, OSError) as error:
        raise InputError(f"--complete {path}: {error}") from None
    image = open_image(path)
    if image is None or "A" not in image.mode:
        raise InputError(f"--complete {path}: has no transparent texels; make what is missing transparent")
    size = (texture.shape[0], texture.shape[1])
    covered, touched = _used(target, size)
    missing = touched & (np.asarray(image.getchannel("A")) < 128)
    if not missing.any():
        where = "" if target is None else ", where the mesh's UV map uses it"
        raise InputError(f"--complete {path}: no texel is transparent{where}, so nothing is missing")
    return PartialAtlas(texture=texture, covered=covered, missing=missing)


def nothing_known(target: RetextureTarget | None, size: tuple[int, int]) -> PartialAtlas:
    """An atlas of (height, width) that lacks everything."""
    covered, _ = _used(target, size)
    return PartialAtlas(texture=np.zeros((*size, 3), np.uint8), covered=covered, missing=np.ones(size, bool))


def _used(target: RetextureTarget | None, size: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The texels whose centre is mapped, and those that are touched at all, [H, W] each."""
    if target is None:
        return np.ones(size, bool), np.ones(size, bool)
    covered, touched = (coverage_mask(target.triangles, size, mode=mode) for mode in ("center", "conservative"))
    return covered if covered.any() else touched, touched
