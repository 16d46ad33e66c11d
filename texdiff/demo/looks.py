"""Looks: what an object is painted with, in words and in pixels, as a function of places on the object.

    look = random_look(rng, "table")         # a red wooden table with white legs
    describe(look, "table")                  # "red planks table with white legs"
    atlas = paint_look(look, mesh, 256, rng)

A colour that has a place on the object meets itself at every seam, and only a model that knows the mesh can draw it.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from texdiff.demo.palette import COLOURS, RAINBOW
from texdiff.demo.patterns import Pattern, caption, paint, random_pattern
from texdiff.demo.shapes import Mesh
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.layout.position import SCALE, position_map

Floats = NDArray[np.float32]

PARTS = {
    "table": {"legs": range(6, 99)},
    "lamp": {"shade": range(2), "foot": range(3, 6)},
    "barrel": {"lids": range(1, 3)},
}
"""Parts that have a name, as islands of the shapes that have them."""
PLACES = ("top", "bottom", "front", "back", "left side", "right side", "edges", "bands")
"""Places on any object: +y is up, and +z its front, as in glTF."""
NUMBERS = ("one", "two", "three")


@dataclass(frozen=True, kw_only=True)
class Look:
    """A pattern, and another in one place of the object.

    `place` is one of PLACES or of the shape's PARTS, or "" for a single pattern; `limit`, 0 to 1, where it begins;
    `count` how many bands.
    """

    pattern: Pattern
    accent: Pattern | None = None
    place: str = ""
    limit: float = 0.5
    count: int = 1


def random_look(rng: np.random.Generator, shape: str) -> Look:
    """A look of the kind that `nano` is trained on: a third has one colour, the others two."""
    pattern = random_pattern(rng)
    if rng.random() < 1 / 3:
        return Look(pattern=pattern)
    places = [*PLACES, *PARTS.get(shape, ()), *PARTS.get(shape, ())]
    others = [colour for colour in COLOURS if colour != pattern.colour]
    accent = replace(pattern, colour=others[rng.integers(len(others))])
    if rng.random() < 0.25:
        accent = replace(accent, material=random_pattern(rng).material)
    place = places[rng.integers(len(places))]
    count = int(rng.integers(1, len(NUMBERS) + 1)) if place == "bands" else 1
    return Look(pattern=pattern, accent=accent, place=place, limit=float(rng.uniform()), count=count)


def rainbow_look(rng: np.random.Generator, shape: str) -> Look:
    """A look of the kind kept from `nano`'s training, for fine-tuning to teach: every colour, by height."""
    return Look(pattern=replace(random_pattern(rng), colour="rainbow"))


def describe(look: Look, shape: str) -> str:
    """The look in words: "large red brick crate with a white top", "blue metal barrel with two yellow bands"."""
    whole = f"{caption(look.pattern)} {shape}"
    if look.accent is None:
        return whole
    words = look.accent.colour
    if look.accent.material != look.pattern.material:
        words += f" {look.accent.material}"
    if look.place == "bands":
        return f"{whole} with {NUMBERS[look.count - 1]} {words} band{'s' if look.count > 1 else ''}"
    if look.place.endswith("s"):  # edges, legs, lids
        return f"{whole} with {words} {look.place}"
    return f"{whole} with {'an' if words[0] in 'aeiou' else 'a'} {words} {look.place}"


def paint_look(look: Look, mesh: Mesh, size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Floats]:
    """Paint the look on the islands of `mesh`, y up.

    Returns the atlas, uint8 RGB [size, size, 3], black where no island is, and the position map that it was painted by,
    float32 [size, size, 3] (see ``position_map``).
    """
    corners = mesh.vertices[mesh.faces]
    positions = position_map(mesh.uv[mesh.faces], corners, (size, size))
    islands = island_map(mesh, size)
    across, down = _unrolled(mesh, positions, islands, size)
    seed = int(rng.integers(1 << 32))  # the same geometry in both colours

    def painted(pattern: Pattern) -> Floats:
        return _at(paint(pattern, size, np.random.default_rng(seed)), across, down)

    if look.pattern.colour == "rainbow":
        image = np.zeros((size, size, 3), np.float32)
        along = _in_box(positions)[..., 1:2] * (len(RAINBOW) - 1)
        for number, colour in enumerate(RAINBOW):
            image += painted(replace(look.pattern, colour=colour)) * np.clip(1 - np.abs(along - number), 0, 1)
    else:
        image = painted(look.pattern)
    if look.accent is not None:
        image = image + (painted(look.accent) - image) * accent_share(look, positions, islands)[..., None]
    covered = positions.any(axis=2, keepdims=True)
    return np.where(covered, np.rint(image), 0).astype(np.uint8), positions


def island_map(mesh: Mesh, size: int) -> NDArray[np.int_]:
    """The number of the island on each texel, [size, size]; -1 where there is none."""
    islands = np.full((size, size), -1)
    for island in range(int(mesh.island.max()) + 1):
        islands[coverage_mask(mesh.uv[mesh.faces[mesh.island == island]], (size, size))] = island
    return islands


def accent_share(look: Look, positions: Floats, islands: NDArray[np.int_]) -> Floats:
    """How much of the accent each texel has, float32 [H, W] in [0, 1], by its position and its island [H, W]."""
    x, y, z = np.moveaxis(_in_box(positions), 2, 0)
    begin = 0.35 + 0.35 * look.limit
    if look.place == "bands":
        inside = np.abs((y * (look.count + 1)) - np.clip(np.rint(y * (look.count + 1)), 1, look.count))
        inside = (0.18 + 0.12 * look.limit - inside) / (look.count + 1)
    elif look.place == "edges":
        inside = np.sort(np.abs(np.stack([x, y, z]) * 2 - 1), axis=0)[1] - (0.76 + 0.12 * look.limit)
    elif look.place in PLACES:
        along = {"top": y, "bottom": 1 - y, "front": z, "back": 1 - z, "left side": 1 - x, "right side": x}
        inside = along[look.place] - begin
    else:
        numbers = next(parts[look.place] for parts in PARTS.values() if look.place in parts)
        inside = np.where(np.isin(islands, list(numbers)), np.float32(1), np.float32(-1))
    return np.clip(inside / 0.012 + 0.5, 0, 1).astype(np.float32)


def _in_box(positions: Floats) -> Floats:
    """Where in the object's box each covered texel lies, 0 to 1 along each of its sides; float32 [H, W, 3]."""
    covered = positions.any(axis=2)
    if not covered.any():
        return positions
    low, high = positions[covered].min(axis=0), positions[covered].max(axis=0)
    return ((positions - low) / np.maximum(high - low, 1e-6)).astype(np.float32)


def _unrolled(mesh: Mesh, positions: Floats, islands: NDArray[np.int_], size: int) -> tuple[Floats, Floats]:
    """Where in a picture each texel looks, in texels, [H, W] to the right and down: at the scale of the UV map, by its
    place on the object alone. Flat islands see it along an axis, upright; others wrapped around y.
    """
    corners = mesh.vertices[mesh.faces]
    low, high = corners.reshape(-1, 3).min(axis=0), corners.reshape(-1, 3).max(axis=0)
    points = (positions - 0.5) * ((high - low).max() / SCALE)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat = mesh.uv[mesh.faces] @ np.diag([size, size])
    (ax, ay), (bx, by) = (flat[:, i].T - flat[:, 0].T for i in (1, 2))
    density = float(np.sqrt(np.abs(ax * by - ay * bx).sum() / np.linalg.norm(cross, axis=1).sum()))  # texels per unit
    across, down = np.zeros((2, *islands.shape), np.float32)
    for island in range(int(mesh.island.max()) + 1):
        here = islands == island
        p, normals = points[here], cross[mesh.island == island]
        mean = normals.sum(axis=0)
        if np.linalg.norm(mean) > 0.999 * np.linalg.norm(normals, axis=1).sum():
            axis = int(np.abs(mean).argmax())
            right, up = {0: (2, 1), 1: (0, 2), 2: (0, 1)}[axis]
            across[here], down[here] = p[:, right] * density, -p[:, up] * density
        else:
            radius = np.hypot(p[:, 0], p[:, 2])
            turn = np.abs(np.arctan2(p[:, 0], p[:, 2]))  # mirrored at front and back, where it meets itself
            across[here] = turn * (float(radius.mean()) * density if len(p) else 0.0)
            down[here] = -(p[:, 1] + 0.6 * radius) * density
    return across, down


def _at(picture: NDArray[np.uint8], across: Floats, down: Floats) -> Floats:
    """The picture, going on mirrored at its borders, at these places; float32 [H, W, 3]."""
    middle = np.float32(picture.shape[0] / 2)
    places = across + middle, down + middle
    return cv2.remap(picture, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT).astype(np.float32)
