"""The textures of a dataset that an evaluation compares with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from texdiff.data.layout_input import layout_input
from texdiff.data.record import Record, texels_of
from texdiff.data.records import read_records
from texdiff.uv.gutter import fill

_HELD_OUT = 32  # textures that prompts are taken from, and that are reconstructed, at most
_REFERENCES = 128  # textures of the dataset that new ones are compared with, at most
_ENOUGH = 32  # held-out textures; where there are fewer, training textures are added


@dataclass(frozen=True)
class Textures:
    """N textures with their void filled."""

    names: tuple[str, ...]  # of their records
    prompts: tuple[str, ...]
    images: NDArray[np.uint8]  # [N, R, R, 3]
    masks: NDArray[np.bool_]  # [N, R, R]
    densities: tuple[NDArray[np.float32] | None, ...]  # N times [R, R], the mesh's surface per texel where it is known
    layouts: Tensor | None = None  # [N, 3, R, R] maps of their meshes, where they are asked for

    def __len__(self) -> int:
        return len(self.names)

    def repeated(self, count: int) -> "Textures":
        """The first `count` of them, over and over again where there are fewer."""
        chosen = [number % len(self) for number in range(count)]
        return Textures(
            tuple(self.names[i] for i in chosen),
            tuple(self.prompts[i] for i in chosen),
            self.images[chosen],
            self.masks[chosen],
            tuple(self.densities[i] for i in chosen),
            None if self.layouts is None else self.layouts[chosen],
        )

    def with_images(self, images: NDArray[np.uint8]) -> "Textures":
        """The same with other images, [N, R, R, 3], whose void is filled by the same masks."""
        filled = [fill(image, mask) for image, mask in zip(images, self.masks, strict=True)]
        return replace(self, images=np.stack(filled))


def read_evaluation_textures(
    dataset: str, data: dict[str, Any], notes: list[str], maps: str = "none"
) -> tuple[Textures, Textures]:
    """Held-out textures, with the maps of their meshes that the run was trained with, and those that new ones are
    compared with; `data` is that section of the run's settings.

    Remarks for the reader are added to `notes`. Raises InputError where the dataset cannot be read.
    """
    image, mask, caption = (data[f"{kind}_column"] for kind in ("image", "mask", "caption"))
    layout_column = data["layout_column"] if maps == "position" else None
    held_out, train = (
        read_records(dataset, split, image, mask, caption, layout_column=layout_column)
        for split in ("validation", "train")
    )
    references = held_out
    if not held_out:
        notes.append("the dataset has no held-out textures: all metrics are on textures that the run was trained on")
        held_out = references = train
    elif len(held_out) < _ENOUGH:
        references = [*held_out, *train][:_REFERENCES]
        notes.append(
            f"{len(held_out)} held-out textures are few, so sets are compared with {len(references)} textures, "
            "training textures among them"
        )
    resolution = data["resolution"]
    return _read(held_out[:_HELD_OUT], resolution, maps), _read(references[:_REFERENCES], resolution)


def _read(records: Sequence[Record], resolution: int, maps: str = "none") -> Textures:
    images, masks, layouts = [], [], []
    for record in records:
        tensor, mask = record.model_input(resolution, "fill")
        images.append(texels_of(tensor))
        masks.append(mask)
        if (layout := layout_input(record, mask, maps)) is not None:
            layouts.append(layout)
    names, prompts = tuple(record.name for record in records), tuple(record.captions[0] for record in records)
    densities = tuple(None if record.surface is None else record.density(resolution) for record in records)
    return Textures(
        names, prompts, np.stack(images), np.stack(masks), densities, torch.cat(layouts) if layouts else None
    )
