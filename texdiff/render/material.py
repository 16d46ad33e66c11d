"""How a material is drawn: base colour, texture, transparency and cut-outs."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from texdiff.render.sampling import Float, Footprint, Level, mip_levels, nearest, sample
from texdiff.uv.meshes.part import Material

_SEEN_THROUGH = 0.5  # opacity below which a surface is left out


class RenderMaterial:
    """The material that is exported too, so that a mesh is drawn here as a viewer draws its GLB."""

    def __init__(self, material: Material) -> None:
        pbr = material.to_pbr()
        colour = np.full(4, 255) if pbr.baseColorFactor is None else np.asarray(pbr.baseColorFactor)
        self.wrap = material.wrap
        self.factor = colour[:3].astype(np.float32) / 255  # in linear light, as glTF has it
        self.transparent = pbr.alphaMode in ("BLEND", "MASK") and colour[3] / 255 < _SEEN_THROUGH
        self._image: Image.Image | None = pbr.baseColorTexture
        self._cutoff = pbr.alphaCutoff if pbr.alphaMode == "MASK" and pbr.alphaCutoff is not None else _SEEN_THROUGH
        self.alpha: NDArray[np.uint8] | None = None  # [H, W] of the image, where it cuts out
        if pbr.alphaMode in ("BLEND", "MASK") and self._image is not None and "A" in self._image.getbands():
            self.alpha = np.asarray(self._image.getchannel("A"))

    @cached_property
    def _levels(self) -> list[Level]:
        assert self._image is not None
        return mip_levels(np.asarray(self._image.convert("RGB")))

    def colours(self, at: Footprint) -> Float:
        """Base colours, float32 [N, 3] in linear light."""
        if self._image is None:
            return np.broadcast_to(self.factor, (len(at.uv), 3))
        return np.asarray(self.factor * sample(self._levels, at, self.wrap), np.float32)

    def opaque(self, uv: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the surface is there, [N], or cut out by its image's alpha."""
        assert self.alpha is not None
        return nearest(self.alpha, uv, self.wrap) >= self._cutoff * 255
