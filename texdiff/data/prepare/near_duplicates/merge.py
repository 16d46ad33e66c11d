"""The same texture once more, at another size or compressed anew: told by its look, and counted once.

Looks to compare are found by the mean colours of their quadrants, 12 numbers, in a tree: these differ by no more than
the looks do, so none is missed. Those near one texture are found when it is its turn: of all pairs there may be very
many, where thousands are nearly of one colour.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from texdiff.data.prepare.build_stage import TextureEntry
from texdiff.data.prepare.near_duplicates.look import ALL_OVER, SIDE, read_look, same_texture

_LOOKS = 4096  # that are kept in memory, 16 KB each


def merge_near_duplicates(entries: Sequence[TextureEntry]) -> list[TextureEntry]:
    """The entries, in their order. Of those that are kept and show the same texture, the largest stays, with meshes,
    captions, licences and authors of all; the others are set aside."""
    kept = [number for number, entry in enumerate(entries) if entry.reason is None]
    order: list[tuple[int, str, int]] = []
    means = np.empty((len(kept), 12), np.float32)
    for place, number in enumerate(kept):
        stored = entries[number].stored()
        properties = stored["properties"]
        order.append((-properties["source_width"] * properties["source_height"], entries[number].content, place))
        quadrants = read_look(stored["look"])[..., :3].reshape(2, SIDE // 2, 2, SIDE // 2, 3)
        means[place] = quadrants.mean(axis=(1, 3)).ravel()
    tree = cKDTree(means)

    @lru_cache(maxsize=_LOOKS)
    def look(place: int) -> NDArray[np.float32]:
        return read_look(entries[kept[place]].stored()["look"])

    found = list(entries)
    stays: dict[int, list[int]] = {}  # of textures that stay, by place, those that are the same
    for _, _, place in sorted(order):
        # A quadrant's mean over n cells differs by d where its cells' squares differ by n d^2 at least, in sum.
        near = tree.query_ball_point(means[place], ALL_OVER * 12**0.5)
        looks_like = sorted((other for other in near if other in stays), key=lambda at: entries[kept[at]].content)
        same = next((other for other in looks_like if same_texture(look(place), look(other))), None)
        if same is None:
            stays[place] = []
        else:
            stays[same].append(place)
    for place, others in stays.items():
        if others:
            first = entries[kept[place]]
            all_assets = [*first.assets, *(asset for other in sorted(others) for asset in entries[kept[other]].assets)]
            found[kept[place]] = replace(first, assets=tuple(dict.fromkeys(all_assets)))
            for other in others:
                reason = f"shows the same texture as another ({first.asset_id})"
                found[kept[other]] = replace(entries[kept[other]], reason=reason, same_as=first.asset_id)
    return found
