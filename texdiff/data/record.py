"""A record of a dataset: a texture with its mask and captions, and how it becomes the model's input."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from texdiff.data.image_source import Source
from texdiff.data.mask_weights import empty_mask, mask_weights
from texdiff.errors import InputError
from texdiff.uv.gutter import fill
from texdiff.uv.image import ImageError, read_image, read_mask
from texdiff.uv.layout.map_image import read_map, sample_map
from texdiff.uv.resize import resize_weighted
from texdiff.uv.texel_area import from_grey16, read_area_file, resize_texel_area


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One texture of a dataset. Its files are read when asked for, never before."""

    name: str
    image: Source
    mask: Source
    captions: tuple[str, ...]
    coverage: float | None = None
    """Covered share of the texture where the dataset says it, 0-1."""
    surface: Source | None = None
    """Where the dataset has it: a 16-bit image of how much of the mesh's surface each texel covers."""
    source: int = 0
    """Which entry of data.dataset it is of."""
    repeats: int = 1
    """Its visits beside those of the source's other textures."""
    regularisation: bool = False
    """Whether its source marks it as an image of what the model is not to forget."""
    layout: Source | None = None
    """Where it was asked for: a map in UV space, such as where on the mesh each texel lies."""

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Texture uint8 [H, W, 3] and mask bool [H, W], what weighs anything. Raises InputError, naming the record."""
        texture, weights = self.read_weighted()
        return texture, weights > 0

    def read_weighted(self) -> tuple[np.ndarray, np.ndarray]:
        """Texture uint8 [H, W, 3] and the weights of its texels in 255ths, uint8 [H, W]: see `mask_weights`.

        Raises InputError, naming the record.
        """
        texture = _decode(self.image(), f"{self.name}: the texture")
        weights = self.read_weights()
        if texture.shape[:2] != weights.shape:
            raise InputError(
                f"{self.name}: texture is {texture.shape[1]}x{texture.shape[0]} but mask is "
                f"{weights.shape[1]}x{weights.shape[0]} pixels; give them the same size"
            )
        return texture, weights

    def read_mask(self) -> np.ndarray:
        """Mask bool [H, W]: what weighs anything."""
        return self.read_weights() > 0

    def read_weights(self) -> np.ndarray:
        """The weights of the texels in 255ths, uint8 [H, W], without reading the texture."""
        grey = self.read_grey()
        weights = mask_weights(grey)
        if not weights.any():
            raise InputError(f"{self.name}: {empty_mask(grey)}; there is nothing to learn from it")
        return weights

    def read_grey(self) -> np.ndarray:
        """The mask as its file has it, uint8 [H, W]."""
        return _decode(self.mask(), f"{self.name}: the mask", read_mask)

    def density(self, resolution: int) -> np.ndarray:
        """Surface of the mesh per texel, float32 [R, R], averaged over the covered part of each texel at that
        resolution; with mean 1 over the mask there, and 0 outside of it.

        Raises InputError where the record has no surface file, or one that can't be used.
        """
        if self.surface is None:
            raise InputError(f"{self.name}: has no surface file; prepare the dataset again from the meshes")
        mask, content = self.read_mask(), self.surface()
        try:
            grey = read_area_file(content, mask.shape)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None
        density, covered = resize_texel_area(from_grey16(grey), mask, (resolution, resolution))
        total = density.sum(dtype=np.float64)
        if not total > 0:
            raise InputError(
                f"{self.name}: the surface file is 0 wherever the mask is white at {resolution}x{resolution}; prepare "
                "the dataset again from the meshes"
            )
        return density * np.float32(covered.sum() / total)

    def layout_map(self, resolution: int) -> np.ndarray:
        """The layout map, uint16 [R, R, 3], of which 65535 is 1: its own values, at the centres of the texels.

        Raises InputError for a map that can't be read.
        """
        assert self.layout is not None
        values = _decode(self.layout(), f"{self.name}: the layout map", read_map)
        return sample_map(values, (resolution, resolution))

    def model_input(self, resolution: int, background: str | int) -> tuple[Tensor, np.ndarray]:
        """Image float32 [3, R, R] in [-1, 1] as the VAE gets it, and mask bool [R, R].

        UV space is a square whatever the image's sides, so a texture that is not square is brought to one.
        `background` is what the void is filled with: "fill", "keep" or a grey of 0-255.
        """
        image, weights = self.fit(*self.read_weighted(), resolution, background)
        return image, weights > 0

    def fit(
        self, texture: np.ndarray, weights: np.ndarray, resolution: int, background: str | int
    ) -> tuple[Tensor, np.ndarray]:
        """`model_input` of what `read_weighted` gave, with the mask as weights in 255ths, uint8 [R, R]."""
        size = (resolution, resolution)
        image, small = resize_weighted(texture, weights, size)
        covered = small > 0
        if not covered.any():
            raise InputError(
                f"{self.name}: nothing is left of its mask at {resolution}x{resolution}; its islands are thinner than "
                "a pixel there, so raise data.resolution or take it out of the dataset"
            )
        if background == "fill":
            image = fill(image, covered)
        elif background == "keep":
            shrinks = texture.shape[0] * texture.shape[1] > resolution**2
            kind = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            image = np.asarray(cv2.resize(texture, size, interpolation=kind), np.uint8)
        else:
            image = np.where(covered[..., None], image, np.uint8(background))
        tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 127.5 - 1
        return tensor, small


def texels_of(image: Tensor) -> NDArray[np.uint8]:
    """What the model's input [3, R, R] in [-1, 1] is made of: uint8 [R, R, 3]."""
    return np.asarray(((image.permute(1, 2, 0).numpy() + 1) * 127.5).round(), np.uint8)


def _decode(data: bytes, what: str, decode: Callable[[bytes], np.ndarray] = read_image) -> np.ndarray:
    try:
        return decode(data)
    except ImageError as error:
        raise InputError(f"{what} {error}; replace the file or take it out of the dataset") from None
