"""The study's datasets: atlases of real meshes at 256 x 256 texels, their void painted over, or as it was."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.mask_study.conditions import BANDS, FLAT
from texdiff.data.prepare import prepare_dataset
from texdiff.data.record import Record, texels_of
from texdiff.data.records import read_records
from texdiff.diffusion.draws import keyed_generator
from texdiff.uv.gutter import fill
from texdiff.uv.measures import measure
from texdiff.uv.void import flat_void

SIDE = 256
HELD_OUT = 0.33
THIN = 1 / 3

Image8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def prepare(meshes: Path, folder: Path) -> None:
    """FOLDER/prepared, the dataset that all others are made of, where it is not there yet."""
    if not (folder / "prepared/train/metadata.jsonl").exists():
        captions = next((path for path in [meshes / "captions.jsonl"] if path.exists()), None)
        print(
            prepare_dataset(
                [str(meshes)], folder / "prepared", captions=captions, validation_fraction=HELD_OUT, workers=1
            )
        )


@cache
def atlases(folder: Path, split: str) -> list[tuple[Record, Image8, Mask]]:
    """Record, texture as found and mask of everything in FOLDER/prepared."""
    found = []
    for record in read_records(str(folder / "prepared"), split):
        image, mask = record.model_input(SIDE, "keep")
        found.append((record, texels_of(image), mask))
    return found


def chosen(folder: Path, split: str, band: str) -> list[int]:
    """Numbers of the split's atlases that belong to a band."""
    low, high = BANDS[band]
    masks = [mask for _, _, mask in atlases(folder, split)]
    numbers = [number for number, mask in enumerate(masks) if low <= mask.mean() < high]
    if band == "flat":
        return [n for n in numbers if flat_void(atlases(folder, split)[n][1], masks[n])]
    if band != "thin":
        return numbers
    lost = [float(measure(texture, mask)["latent_lost_area"]) for _, texture, mask in atlases(folder, split)]
    most = sorted(numbers, key=lambda number: -lost[number])[: round(THIN * len(numbers))]
    return sorted(most)


def painted(folder: Path, split: str, number: int, void: str) -> Image8:
    """An atlas with another void, uint8 [256, 256, 3]; its covered texels stay."""
    _, texture, mask = atlases(folder, split)[number]
    if void == "found":
        return texture
    if void in FLAT:
        behind: Image8 = np.broadcast_to(np.array(FLAT[void], np.uint8), texture.shape)
    else:
        seed = keyed_generator(0, void, split, number).initial_seed() % 2**63
        rng = np.random.default_rng(seed)
        if void == "noise":
            behind = rng.integers(0, 256, texture.shape, np.uint8)
        else:
            everything = atlases(folder, split)
            other = (number + int(rng.integers(1, len(everything)))) % len(everything)
            behind = fill(*everything[other][1:])
    return np.where(mask[..., None], texture, behind)


def dataset(folder: Path, void: str, band: str, split: str) -> Path:
    """A dataset of one split, as `train`, in the layout of `texdiff prepare`; made where it is not there yet."""
    place = folder / "datasets" / f"{void}-{band}-{split}"
    if place.exists():
        return place
    aside = place.with_name(f".{place.name}")
    shutil.rmtree(aside, ignore_errors=True)
    for kind in ("textures", "masks"):
        (aside / "train" / kind).mkdir(parents=True)
    rows = []
    for number in chosen(folder, split, band):
        record, _, mask = atlases(folder, split)[number]
        name = f"{Path(record.name).stem}.png"
        Image.fromarray(painted(folder, split, number, void)).save(aside / "train/textures" / name)
        Image.fromarray(mask.astype(np.uint8) * 255).save(aside / "train/masks" / name)
        row = {"file_name": f"textures/{name}", "mask_file_name": f"masks/{name}", "text": record.captions[0]}
        rows.append(row | {"coverage": float(mask.mean())})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (aside / "train/metadata.jsonl").write_text(lines, "utf-8")
    aside.rename(place)
    return place
