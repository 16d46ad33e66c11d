"""How a material is drawn: its base colour, its picture, and what of it can be seen through."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from texdiff.render.sampling import Float, Footprint, Level, mip_levels, nearest, sample
from texdiff.uv.meshes.part import Material

_SEEN_THROUGH = 0.5  # opacity below which a surface is drawn as if it were not there


class Look:
    """A material as `load_scene` gives it to an export, so a mesh looks here as its GLB does in a viewer."""

    def __init__(self, material: Material) -> None:
        look = material.look()
        colour = np.full(4, 255) if look.baseColorFactor is None else np.asarray(look.baseColorFactor)
        self.wrap = material.wrap
        self.factor = colour[:3].astype(np.float32) / 255  # in linear light, as glTF has it
        self.glass = look.alphaMode in ("BLEND", "MASK") and colour[3] / 255 < _SEEN_THROUGH
        self._picture: Image.Image | None = look.baseColorTexture
        self._cutoff = look.alphaCutoff if look.alphaMode == "MASK" and look.alphaCutoff is not None else _SEEN_THROUGH
        self.alpha: NDArray[np.uint8] | None = None  # [H, W] of the picture, where it cuts out
        if look.alphaMode in ("BLEND", "MASK") and self._picture is not None and "A" in self._picture.getbands():
            self.alpha = np.asarray(self._picture.getchannel("A"))

    @cached_property
    def _levels(self) -> list[Level]:
        assert self._picture is not None
        return mip_levels(np.asarray(self._picture.convert("RGB")))

    def colours(self, at: Footprint) -> Float:
        """Base colours, float32 [N, 3] in linear light."""
        if self._picture is None:
            return np.broadcast_to(self.factor, (len(at.uv), 3))
        return np.asarray(self.factor * sample(self._levels, at, self.wrap), np.float32)

    def opaque(self, uv: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the surface is there, [N], or cut out by its picture's alpha."""
        assert self.alpha is not None
        return nearest(self.alpha, uv, self.wrap) >= self._cutoff * 255
