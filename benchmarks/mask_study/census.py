"""What voids real atlases have: those of the study, and the held-out ones of games that `benchmarks.nano` collects."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.mask_study.datasets import SIDE, Image8, Mask, atlases
from texdiff.render.void import common_colours
from texdiff.uv.image import read_image, read_mask
from texdiff.uv.measures import measure
from texdiff.uv.void import MIN_VOID, flat_void

LITTLE = 5.0  # levels of contrast below which a void is nearly one colour


def count(pairs: list[tuple[Image8, Mask]]) -> dict[str, Any]:
    """Of atlases with a void worth the name: how many, and which shares of them have a void of exactly one colour, one
    that varies little, and one that is flat by `flat_void`; with the common colours of the last."""
    pairs = [(texture, mask) for texture, mask in pairs if (~mask).mean() >= MIN_VOID]
    measures = [measure(texture, mask) for texture, mask in pairs]
    voids = [flat_void(texture, mask) for texture, mask in pairs]
    shares = {
        "constant": np.mean([bool(one["void_constant"]) for one in measures]),
        "little contrast": np.mean([float(one["void_contrast"]) < LITTLE for one in measures]),
        "flat": np.mean([void is not None for void in voids]),
    }
    colours = {"#{:02x}{:02x}{:02x}".format(*c): round(share, 4) for c, share in common_colours(voids).items()}
    return {"atlases": len(pairs)} | {name: float(share) for name, share in shares.items()} | {"colours": colours}


def census(folder: Path, collected: Path | None) -> dict[str, dict[str, Any]]:
    """By kind; the games' only where FOLDER of `benchmarks.nano.collect` is given."""
    found = {"furniture": count([(t, m) for split in ("train", "validation") for _, t, m in atlases(folder, split)])}
    by_kind: dict[str, list[tuple[Image8, Mask]]] = defaultdict(list)
    index = json.loads((collected / "heldout/index.json").read_text("utf-8")) if collected else []
    for row in index:
        original = (collected or folder) / "unpacked" / row["package"] / row["path"]
        # Where a mask was guessed, it was by what is flat; only those of meshes say what is void.
        if row["mask"] == "mesh" and row["kind"] != "furniture" and original.is_file():
            texture = cv2.resize(read_image(original), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            mask = read_mask((collected or folder) / "heldout" / row["file"].replace(".png", ".mask.png")) >= 128
            by_kind[row["kind"]].append((np.asarray(texture, np.uint8), mask))
    return found | {kind: count(pairs) for kind, pairs in sorted(by_kind.items())}
