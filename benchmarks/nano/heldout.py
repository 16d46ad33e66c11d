"""The held-out atlases: 256 x 256 texels, void filled, with the mask of what a mesh wears."""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks.nano.game_meshes import Wearers
from benchmarks.nano.pictures import held_out, thumbnail
from texdiff.errors import InputError
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.gutter import fill
from texdiff.uv.meshes.atlases import read_atlases

if TYPE_CHECKING:
    from benchmarks.nano.collect import Found, Source

SIDE = 256
TRUE, GUESSED = "mesh", "no flat void"
"""Where a mask is from: the triangles of the meshes, or all texels that are no part of a flat area."""
VOID_SHARE = 0.004
"""Least share of a picture that one flat area has to have in order to be taken for void."""
DIFFERENT = 0.03
"""Least mean difference of two atlases' thumbnails, of the range: of one skin in many colours only some are taken."""


def not_flat(picture: np.ndarray) -> np.ndarray:
    """Bool [H, W] of uint8 [H, W, 3]: outside every large area of one colour (neighbours within two levels)."""
    height, width = picture.shape[:2]
    flat = np.ones((height, width), bool)
    for axis in (0, 1):
        near = np.abs(np.diff(picture.astype(np.int16), axis=axis)).max(2) <= 2
        pad = [(0, 0), (0, 0)]
        pad[axis] = (1, 1)
        near = np.pad(near, pad, constant_values=True)
        flat &= near.take(range(1, near.shape[axis]), axis) & near.take(range(near.shape[axis] - 1), axis)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(flat.astype(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] > VOID_SHARE * height * width
    large[0] = False
    # An area's own border texels see a neighbour of another colour, so they are missing from it.
    return cv2.dilate(large[labels].astype(np.uint8), np.ones((3, 3), np.uint8)) == 0


def square(picture: np.ndarray) -> np.ndarray:
    """uint8 [256, 256, 3], by areas."""
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def masked(picture: np.ndarray, triangles: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, str] | None:
    """(picture with its void filled, mask bool [256, 256], where the mask is from); None where too little is left."""
    if triangles is not None and len(triangles):
        mask, origin = coverage_mask(triangles, (SIDE, SIDE)), TRUE
    else:
        whole = cv2.resize(not_flat(picture).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        mask, origin = whole > 0.999, GUESSED
    if mask.mean() < 0.05:
        return None
    return fill(square(picture), mask), mask, origin


def furniture(folder: Path, enough: int) -> list[tuple[np.ndarray, str, np.ndarray]]:
    """(picture, name, triangles) of meshes' atlases of the quarter for evaluation, each once; mesh files by chance."""
    found: dict[bytes, tuple[np.ndarray, str, np.ndarray]] = {}
    for path in sorted(folder.rglob("*.obj"), key=lambda p: hashlib.sha256(p.name.encode()).digest()):
        if len(found) >= enough:
            break
        try:
            atlases = read_atlases(path).atlases
        except InputError:
            continue
        for atlas in atlases:
            if min(atlas.texture.shape[:2]) >= 128 and held_out(np.ascontiguousarray(atlas.texture)):
                found.setdefault(atlas.texture.tobytes(), (atlas.texture, f"{path.stem}-{atlas.name}", atlas.triangles))
    return list(found.values())


def atlases(
    candidates: Iterable["Found"], meshes: dict[str, str], folder: Path
) -> Iterator[tuple["Source", str, np.ndarray, np.ndarray]]:
    """(source, name, picture, triangles [F, 3, 2]) of every candidate, furniture's by its own meshes."""
    wearers: dict[str, Wearers] = {}
    for row in dict.fromkeys(c.source for c in candidates if c.source.kind == "furniture"):
        for picture, name, triangles in furniture(folder / "unpacked" / row.package, 3 * row.limit):
            yield row, name, picture, triangles
    for one in candidates:
        package = one.source.package
        if one.source.kind == "furniture":
            continue
        if package not in wearers:
            places = sorted({package, meshes.get(package, package)})
            wearers[package] = Wearers([folder / "unpacked" / place for place in places])
        picture = one.read()
        if picture is not None:
            yield one.source, one.name, picture, wearers[package].of(one.path)


def write_heldout(candidates: list["Found"], meshes: dict[str, str], folder: Path) -> list["Source"]:
    """The held-out sets into folder/heldout; returns the source of each atlas.

    Args:
        candidates: in the order in which they are tried, until a source has as many as its limit.
        meshes: the package whose meshes wear a package's textures, where that is another one.
        folder: as collect.py fills it.
    """
    place = folder / "heldout"
    shutil.rmtree(place, ignore_errors=True)
    records: list[dict[str, str | float]] = []
    seen: list[np.ndarray] = []
    counts: Counter[Source] = Counter()
    for source, name, picture, triangles in tqdm(atlases(candidates, meshes, folder), "held out", disable=None):
        small = thumbnail(picture)
        if counts[source] >= source.limit or any(np.abs(small - s).mean() < DIFFERENT for s in seen):
            continue
        result = masked(picture, triangles)
        if result is None:
            continue
        filled, mask, origin = result
        seen.append(small)
        counts[source] += 1
        kind = source.kind.replace(" ", "-")
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(Path(name).parts[-2:]).rsplit(".", 1)[0])[-60:]
        stem = f"{stem}-{counts[source]}"
        (place / kind).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / kind / f"{stem}.png"), filled[..., ::-1])
        cv2.imwrite(str(place / kind / f"{stem}.mask.png"), mask.astype(np.uint8) * 255)
        where = {"file": f"{kind}/{stem}.png", "kind": kind, "package": source.package, "path": name}
        records.append({**where, "mask": origin, "covered": round(float(mask.mean()), 4)})
    (place / "index.json").write_text(json.dumps(records, indent=1), "utf-8")
    return list(counts.elements())
