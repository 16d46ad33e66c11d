"""Which file is the mask of which image, and what of it counts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from texdiff.data.check import check_dataset
from texdiff.data.prepare import prepare_dataset

Draw = Callable[..., np.ndarray]


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    path.with_suffix(".txt").write_text(path.stem)
    return path


def coverages(folder: Path, tmp_path: Path) -> dict[str, float]:
    """Image -> the coverage of its mask, over what `prepare` keeps."""
    prepare_dataset([str(folder)], tmp_path / "data", workers=1)
    lines = (tmp_path / "data" / "audit.jsonl").read_text().splitlines()
    return {row["source"]: row["coverage"] for line in lines if (row := json.loads(line))["kept"]}


@pytest.mark.parametrize(
    "mask",
    ["masks/{}_mask.png", "mask/{}.png", "masks/{}-mask.webp", "{}_mask.png", "{}.mask.png", "{}-masklabel.png"],
)
def test_mask_files_count_where_images_have_an_opaque_alpha(
    draw: Draw, islands_mask: Draw, tmp_path: Path, mask: str
) -> None:
    for number in range(2):
        opaque = np.dstack([draw(number), np.full((64, 64), 255, np.uint8)])
        save(opaque, tmp_path / "set" / f"cup{number}.png")
        file = tmp_path / "set" / mask.format(f"cup{number}")
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(islands_mask().astype(np.uint8) * 255).save(file, lossless=True)
    assert coverages(tmp_path / "set", tmp_path) == {"cup0.png": 0.375, "cup1.png": 0.375}
    assert list(check_dataset(str(tmp_path / "set")))[-1].startswith("0 errors, 0 warnings in 2 textures")


def test_an_opaque_alpha_is_not_a_mask(draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    """And a mask that belongs to no image is said."""
    mask = islands_mask().astype(np.uint8) * 255
    save(np.dstack([draw(1), np.full((64, 64), 255, np.uint8)]), tmp_path / "set" / "cup.png")
    save(np.dstack([draw(2), mask]), tmp_path / "set" / "bowl.png")
    Image.fromarray(mask).save(tmp_path / "set" / "plate-masklabel.png")
    assert coverages(tmp_path / "set", tmp_path) == {"bowl.png": 0.375}
    *lines, summary = check_dataset(str(tmp_path / "set"))
    assert summary.startswith("2 errors")
    assert any(line.startswith("cup.png: error") and "opaque everywhere" in line for line in lines)
    assert any(
        line.startswith("plate-masklabel.png: error") and "no image that it belongs to" in line for line in lines
    )


def test_a_mask_in_the_alpha_of_the_mask_file(draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    constant = np.zeros((64, 64, 3), np.uint8)
    files = {
        "black": np.dstack([constant, mask]),
        "white": np.dstack([constant + 255, mask]),
        "cut": np.dstack([draw(9), mask]),  # the texture itself, cut out
        "painted": np.dstack([np.repeat(mask[..., None], 3, 2), np.full_like(mask, 200)]),  # here the RGB says it
        "opaque": np.dstack([np.repeat(mask[..., None], 3, 2), np.full_like(mask, 255)]),
    }
    for number, (name, pixels) in enumerate(files.items()):
        save(draw(number), tmp_path / "set" / f"{name}.png")
        (tmp_path / "set" / "masks").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "set" / "masks" / f"{name}.png")
    assert coverages(tmp_path / "set", tmp_path) == {f"{name}.png": 0.375 for name in files}


def test_a_class_folder_called_like_masks_holds_images(draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    root = tmp_path / "set"
    save(np.dstack([draw(1), mask]), root / "10_gas_mask" / "a.png")
    save(np.dstack([draw(2), mask]), root / "death_mask" / "b.png")
    save(draw(3), root / "5_cup" / "c.png")
    save(mask, root / "5_cup_mask" / "c.png")
    found = coverages(root, tmp_path)
    assert found == dict.fromkeys(("10_gas_mask/a.png", "death_mask/b.png", "5_cup/c.png"), 0.375)


def test_images_of_other_kinds(draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    """What Pillow reads is read; the rest is named, and is no error: it may be the work behind an image."""
    names = [f"{suffix[1:]}{suffix}" for suffix in (".jfif", ".gif", ".avif", ".tga", ".ppm")]
    for number, name in enumerate(names):
        file = tmp_path / "set" / name
        file.parent.mkdir(exist_ok=True)
        file.with_suffix(".txt").write_text("a cup")
        Image.fromarray(draw(number)).save(file, format="JPEG" if file.suffix == ".jfif" else None)
        save(islands_mask().astype(np.uint8) * 255, tmp_path / "set" / "masks" / f"{file.stem}.png")
    (tmp_path / "set" / "cup.exr").write_bytes(b"v/1\x01")
    assert coverages(tmp_path / "set", tmp_path) == dict.fromkeys(names, 0.375)
    assert "images in .exr are not read" in (tmp_path / "data" / "audit.jsonl").read_text()
    *lines, summary = check_dataset(str(tmp_path / "set"))
    assert summary.startswith("0 errors")
    assert [line for line in lines if line.startswith("cup.exr: warning")]


@pytest.mark.parametrize(("count", "says"), [(2, "warning: the masks may be"), (4, "error: the masks look inverted")])
def test_few_inverted_masks_are_noticed(draw: Draw, islands_mask: Draw, tmp_path: Path, count: int, says: str) -> None:
    mask = islands_mask()
    for number in range(count):
        texture = draw(number)
        texture[~mask] = texture[~mask] // 100 * 100  # the void: less varied, by no means plain
        texture[~mask, 1:] = texture[~mask, :1]
        save(texture, tmp_path / "set" / f"{number}.png")
        save(mask.astype(np.uint8) * 255, tmp_path / "set" / "masks" / f"{number}.png")
    *lines, summary = check_dataset(str(tmp_path / "set"))
    assert [line for line in lines if "invert" in line] == []
    for number in range(count):
        save((~mask).astype(np.uint8) * 255, tmp_path / "set" / "masks" / f"{number}.png")
    *lines, summary = check_dataset(str(tmp_path / "set"))
    assert [line for line in lines if says in line], (lines, summary)
