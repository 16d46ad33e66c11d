"""Layout maps of datasets made by hand."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from texdiff.uv.layout.map_image import encode_map


def ramp(mask: np.ndarray) -> np.ndarray:
    """uint16 [H, W, 3]: column, row and their sum where the mask is true, no two texels alike; 0 elsewhere."""
    row, column = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]]
    return np.where(mask[..., None], np.stack([101 + column, 70 + 211 * row, 9 + row + column], -1), 0).astype(
        np.uint16
    )


def add_maps(folder: Path, column: str = "layout") -> Path:
    """Give each texture of a dataset in a folder a map in that column."""
    for metadata in folder.glob("*/metadata.jsonl"):
        rows = [json.loads(line) for line in metadata.read_text("utf-8").splitlines()]
        for row in rows:
            mask = np.asarray(Image.open(metadata.parent / row["mask_file_name"])) >= 128
            row[f"{column}_file_name"] = row["mask_file_name"].replace("masks/", f"{column}s/")
            path = metadata.parent / row[f"{column}_file_name"]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_map(ramp(mask)))
        metadata.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder
