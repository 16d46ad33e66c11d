"""Textures on their meshes: features of renders, and seams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from texdiff.errors import InputError
from texdiff.evaluation.metrics.features import Extractor, features
from texdiff.evaluation.metrics.image import Images
from texdiff.evaluation.metrics.seams import SeamError, seam_error
from texdiff.render.renderer import MeshRenderer
from texdiff.uv.meshes.part import MeshUse
from texdiff.uv.seams.edges import MeshEdges

# Front and back, from above: the fewest that show nearly all of a mesh.
_VIEWS = ((35.0, 20.0), (215.0, 20.0))


@dataclass
class OnMeshes:
    """Of n textures on their meshes; n is smaller than the number of textures where some have no mesh."""

    numbers: list[int] = field(default_factory=list)  # [n] which textures
    features: list[NDArray[np.float64]] = field(default_factory=list)  # n times [D], the mean over a mesh's views
    seams: SeamError = field(default_factory=lambda: SeamError(np.zeros(0), np.zeros(0)))  # of all meshes together
    views: list[NDArray[np.uint8]] = field(default_factory=list)  # n times [H, W, 3], the first view


def on_meshes(
    names: Sequence[str], sets: Sequence[Images], uses: Mapping[str, MeshUse], extractor: Extractor, title: str
) -> list[OnMeshes]:
    """Several sets of N textures, uint8 [N, H, W, 3] with the void filled, put on the same N meshes in turn.

    Args:
        names: name of the record whose mesh texture i is put on.
        sets: as many results come back, in this order.
        uses: mesh and parts by the record's name; what has none there, or one without a surface, is left out.
        extractor: gives the features, and the size of the renders.
    """
    results = [OnMeshes() for _ in sets]
    stages: dict[str, tuple[MeshRenderer, MeshEdges] | None] = {}
    for number in tqdm(sorted(range(len(names)), key=lambda i: names[i]), desc=title, unit="mesh", leave=False):
        name = names[number]
        if name not in stages:
            stages = {name: _stage(uses[name], extractor.side) if name in uses else None}  # one at a time in memory
        if (stage := stages[name]) is None:
            continue
        views, edges = stage
        for result, textures in zip(results, sets, strict=True):
            drawn = views.draw(textures[number], uses[name].parts)
            result.numbers.append(number)
            result.features.append(features(drawn, extractor=extractor).mean(axis=0))
            result.seams += seam_error(edges, textures[number])
            result.views.append(drawn[0])
    return results


def _stage(use: MeshUse, side: int) -> tuple[MeshRenderer, MeshEdges] | None:
    try:
        return MeshRenderer(use.path, _VIEWS, side), MeshEdges(use.path, use.parts)
    except InputError:
        return None
