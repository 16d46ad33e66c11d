"""Atlases that are larger than what the denoiser sees: encoded in overlapping tiles, and read in windows.

An encoder's normalisation and attention look at all that they are given, so a tile is as large as the windows that the
latents are cut to: what the denoiser sees of them is then closest to what encoding each window by itself would give.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from texdiff.data.cache.encoders import PIXELS, AtlasSize, Encoders, ahead, prepare_texture
from texdiff.data.cache.encodings import Array, CachedEncodings, Cells, Texture, is_packed
from texdiff.data.cache.settings import DataSettings
from texdiff.data.cache.store import Arrays
from texdiff.data.record import Record
from texdiff.diffusion.crops import evening_weights, window_at, window_chances
from texdiff.uv.layout.map_image import encode_map, read_map

OVERLAP = 8
"""Latent cells that neighbouring tiles share at least; a quarter of a tile where that is less. More changes next to
nothing (docs/crops.md)."""
_WAITING = 32 * PIXELS  # of atlases that are prepared before they are asked for: half a gigabyte

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From pixels [B, 3, T, T] to mean and standard deviation [B, C, t, t] of the posterior."""


def atlas_sizes(data: DataSettings, factor: int) -> tuple[AtlasSize, ...]:
    """Those that the settings ask for, `factor` pixels being the side of a latent cell; none where there are no windows
    but textures brought to one size."""
    if data.source_resolution is None:
        return ()
    unit = math.lcm(8, factor)  # of masks, 8 texels are a byte
    most = data.source_resolution // unit * unit
    return tuple(AtlasSize(data.resolution, most, scale, unit) for scale in data.scales)


def encode_atlases(
    atlases: Sequence[tuple[Record, AtlasSize]],
    encoders: Encoders,
    device: torch.device,
    *,
    resolution: int,
    background: str | int,
) -> Iterator[dict[str, NDArray[Any]]]:
    """The entry of each atlas in its order, as `encode_textures` gives them, in tiles of `resolution` pixels.

    Raises InputError as `prepare_texture` does.
    """
    tile = resolution // encoders.latent_factor
    at_once = 1 if device.type == "cpu" else max(1, PIXELS // resolution**2)
    waiting = min((_WAITING // size.most**2 for _, size in atlases), default=1)
    for pixels, entry in ahead(lambda atlas: prepare_texture(*atlas, background), atlases, waiting):
        mean, std = encode_tiles(pixels, encoders.encode_images, encoders.latent_factor, tile, at_once)
        yield {"mean": mean.numpy(), "std": std.numpy(), **entry}


def encode_tiles(pixels: Tensor, encode: Encode, factor: int, tile: int, at_once: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation float32 [C, h, h] of the posterior of pixels [3, H, H], from tiles of `tile` latent
    cells, of `factor` pixels each, `at_once` of them a pass.

    Tiles are spread evenly, so all of them have the same size. Where they overlap, what they say is blended linearly:
    cells at a tile's edge, where the encoder sees the least around them, count least.
    """
    cells = pixels.shape[1] // factor
    overlap = min(OVERLAP, tile // 4)
    starts = tile_starts(cells, tile, overlap)
    rows = torch.arange(tile) + 0.5
    ramp = rows.minimum(tile - rows).clamp(max=max(overlap, 1))
    weight, total = ramp[:, None] * ramp, torch.zeros(cells, cells)
    corners, sums = [(top, left) for top in starts for left in starts], [torch.zeros(0)] * 2
    for first in range(0, len(corners), at_once):
        some = corners[first : first + at_once]
        parts = [pixels[:, factor * y : factor * (y + tile), factor * x : factor * (x + tile)] for y, x in some]
        moments = [moment.float().cpu() for moment in encode(torch.stack(parts))]
        if len(corners) == 1:
            return moments[0][0], moments[1][0]
        if first == 0:
            sums = [torch.zeros(moment.shape[1], cells, cells) for moment in moments]
        for row, (top, left) in enumerate(some):
            place = slice(top, top + tile), slice(left, left + tile)
            total[place] += weight
            for into, moment in zip(sums, moments, strict=True):
                into[:, *place] += weight * moment[row]
    return sums[0] / total, sums[1] / total


def tile_starts(cells: int, tile: int, overlap: int) -> list[int]:
    """The first cells of tiles that cover `cells` evenly, neighbours sharing at least `overlap`."""
    count = max(1, math.ceil((cells - overlap) / (tile - overlap)))
    return [round(number * (cells - tile) / max(1, count - 1)) for number in range(count)]


def window_entry(cells: Cells, side: int, min_coverage: float) -> Arrays:
    """Of an atlas's latent cells, n along a side, and windows of `side` cells:

    chances float32 [m, m] of each window (`texdiff.diffusion.crops`); even float32 [1, n, n], what evens out how often
    cells are shown; covered float32 [1, n, n], the cells' own; expected float64 [3], what a visit shows on average of
    the weights of target and outside and of the covered share, evened out, in cells.
    """
    counts = torch.from_numpy((cells.target[0] > 0) | (cells.covered[0] > 0))
    chances, frequency = window_chances(counts, side, min_coverage)
    even = evening_weights(frequency, counts, torch.from_numpy(cells.target[0]))
    expected = [(frequency * even * torch.from_numpy(part[0])).sum().item() for part in cells]
    return {
        "chances": chances.float().numpy(),
        "even": even.float().numpy()[None],
        "covered": cells.covered,
        "expected": np.array(expected, np.float64),
    }


@dataclass(frozen=True, kw_only=True)
class WindowEncodings(CachedEncodings):
    """Atlases of which every visit gets a window of `side` latent cells; their masks' entries have what `window_entry`
    gives, and their layout maps' what `map_entry` gives, in tiles of `tile` pixels."""

    side: int
    tile: int

    def textures(self, indices: Sequence[int], places: Array | None = None) -> list[Texture]:
        """The windows at `places` [B, 2] in [0, 1), or in the middle of what there is."""
        places = np.full((len(indices), 2), 0.5) if places is None else places
        return [self._window(index, place) for index, place in zip(indices, places, strict=True)]

    def _window(self, index: int, place: Array) -> Texture:
        entry = self.texture_store.get(int(self.texture_places[index]))
        kept = self.mask_store.get(int(self.mask_places[index]))
        top, left = window_at(torch.from_numpy(kept["chances"].copy()), torch.from_numpy(place))
        size = len(entry["mask"])
        factor = size // entry["mean"].shape[1]
        y, x, pixels = factor * top, factor * left, factor * self.side
        part = slice(None), slice(top, top + self.side), slice(left, left + self.side)
        target, outside, covered = self._cells(index, entry)
        even = kept["even"][part]
        mask = entry["mask"][y : y + pixels]
        if is_packed(entry["mask"]):
            mask = np.packbits(np.unpackbits(mask, axis=1)[:, x : x + pixels], axis=1)
        else:
            mask = mask[:, x : x + pixels]
        layout = None
        if self.layout_store is not None and self.layout_places is not None:
            tiles = self.layout_store.get(int(self.layout_places[index]))
            layout = read_part(tiles, size, self.tile, y, x, pixels)
        return Texture(
            mean=entry["mean"][part],
            std=entry["std"][part],
            mask=mask,
            cells=Cells(target[part] * even, outside[part] * even, covered[part]),
            layout=layout,
            even=even,
            window=(size, y, x),
        )

    def _cells(self, index: int, entry: Arrays) -> Cells:
        kept = self.mask_store.get(int(self.mask_places[index]))
        return self._weights(kept, kept["covered"])


def map_entry(values: NDArray[np.uint16], tile: int) -> Arrays:
    """A map, uint16 [R, R, 3], in PNGs of `tile` pixels a side, row by row: layout uint8, all of them one after the
    other, and ends int64, where each begins and the last ends."""
    places = range(0, len(values), tile)
    parts = [encode_map(values[y : y + tile, x : x + tile]) for y in places for x in places]
    ends = np.cumsum([0, *map(len, parts)])
    return {"layout": np.frombuffer(b"".join(parts), np.uint8), "ends": ends}


def read_part(entry: Arrays, size: int, tile: int, top: int, left: int, side: int) -> NDArray[np.uint16]:
    """`side` pixels each way from row `top` and column `left` of a map of `size` pixels, uint16 [side, side, 3]."""
    found = np.zeros((side, side, 3), np.uint16)
    along = -(-size // tile)
    pairs = list(pairwise(entry["ends"].tolist()))
    for row in range(top // tile, (top + side - 1) // tile + 1):
        for column in range(left // tile, (left + side - 1) // tile + 1):
            begin, end = pairs[row * along + column]
            part = read_map(entry["layout"][begin:end].tobytes())
            y, x = row * tile - top, column * tile - left  # of its first pixel in what is asked for
            into = found[max(y, 0) : y + tile, max(x, 0) : x + tile]
            into[:] = part[max(-y, 0) :, max(-x, 0) :][: into.shape[0], : into.shape[1]]
    return found
