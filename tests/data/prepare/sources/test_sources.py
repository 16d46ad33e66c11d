"""Pictures with masks, as other trainers lay them out, come out as the same dataset as the mesh they were made from."""

import base64
import csv
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from texdiff.data.prepare import prepare_dataset
from texdiff.data.prepare.asset import Asset
from texdiff.data.prepare.mask_images import fit_mask, read_pair
from texdiff.data.prepare.sources import find_assets
from texdiff.errors import InputError
from texdiff.uv.inverted import looks_inverted

Draw = Callable[..., np.ndarray]


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def found(source: Path | str, tmp_path: Path) -> list[Asset]:
    return find_assets([str(source)], None, tmp_path / "spool")[0]


def onetrainer(root: Path, picture: np.ndarray, mask: np.ndarray) -> Path:
    save(picture, root / "sub" / "cup.png")
    save(mask, root / "sub" / "cup-masklabel.png")
    (root / "sub" / "cup.txt").write_text("a red cup")
    return root


def kohya(root: Path, picture: np.ndarray, mask: np.ndarray) -> Path:
    save(picture, root / "img" / "10_a red cup" / "cup.png")
    save(mask, root / "mask" / "10_a red cup" / "cup.png")
    return root


def kohya_config(root: Path, picture: np.ndarray, mask: np.ndarray) -> Path:
    save(picture, root / "pictures" / "cup.webp.png")
    save(mask, root / "white where it counts" / "cup.webp.png")
    (root / "pictures" / "cup.webp.caption").write_text("a red cup\n")
    subset = '[[datasets.subsets]]\nimage_dir = "pictures"\nconditioning_data_dir = "white where it counts"\n'
    (root / "data.toml").write_text(f"[general]\nenable_bucket = true\n[[datasets]]\nresolution = 512\n{subset}")
    return root / "data.toml"


def alpha(root: Path, picture: np.ndarray, mask: np.ndarray) -> Path:
    save(np.dstack([picture, mask]), root / "cup.png")
    (root / "cup.txt").write_text("a red cup")
    return root


def texture_anything(root: Path, picture: np.ndarray, mask: np.ndarray) -> Path:
    save(picture, root / "train" / "diffuse" / "cup.png")
    # Their masks have one size of their own, here twice the picture's.
    bits = np.packbits(np.kron(mask > 0, np.ones((2, 2), bool)))
    row = {"uv_file_name": "uv/cup.png", "diffuse_file_name": "diffuse/cup.png", "caption": "a red cup"}
    row["mask"] = base64.b64encode(zlib.compress(bits.tobytes())).decode()
    with (root / "train" / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    return root


def imagefolder(root: Path, picture: np.ndarray, mask: np.ndarray) -> Path:
    save(picture, root / "train" / "cup.png")
    save(mask, root / "train" / "cup_m.png")
    row = {"file_name": "cup.png", "mask_file_name": "cup_m.png", "text": "a red cup"}
    (root / "train" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    return root


def parquet(root: Path, picture: np.ndarray, mask: np.ndarray) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [Image.fromarray(picture)], "mask": [Image.fromarray(mask)], "text": ["a red cup"]}
    features = datasets.Features(
        {"image": datasets.Image(), "mask": datasets.Image(), "text": datasets.Value("string")}
    )
    root.mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(root / "train.parquet")
    return root


def saved(root: Path, picture: np.ndarray, mask: np.ndarray) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [Image.fromarray(picture)], "mask": [Image.fromarray(mask)], "text": [["a red cup", ""]]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(root)
    return root


LAYOUTS = [onetrainer, kohya, kohya_config, alpha, texture_anything, imagefolder, parquet, saved]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_each_layout_gives_picture_mask_and_caption(
    layout: Callable[..., Path], draw: Draw, islands_mask: Draw, tmp_path: Path
) -> None:
    picture, mask = draw(1), islands_mask()
    source = layout(tmp_path / "source", picture, mask.astype(np.uint8) * 255)
    (asset,) = found(source, tmp_path)
    assert (asset.captions, asset.named) == (("a red cup",), False)
    assert asset.mask is not None
    texture, grey = read_pair(asset.path, asset.mask)
    np.testing.assert_array_equal(texture, picture)
    np.testing.assert_array_equal(fit_mask(grey, (64, 64)) > 0, mask)


def test_a_folder_of_pictures_becomes_a_dataset(draw: Draw, islands_mask: Draw, tmp_path: Path) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    root = onetrainer(tmp_path / "source", draw(1), mask)
    save(np.dstack([draw(2), mask]), root / "Blue Bowl.png")
    save(draw(3), root / "no mask.png")
    save(draw(4), root / "other shape.png")
    save(mask[:, :32], root / "other shape-masklabel.png")
    plain = draw(5)
    plain[mask == 0] = 40  # the void is plain ...
    save(plain, root / "inverted.png")
    save(255 - mask, root / "inverted-masklabel.png")  # ... and the mask covers the void
    save(draw(6), root / "dark.png")
    save(mask // 255, root / "dark-masklabel.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    save(mask, root / "broken-masklabel.png")
    output = tmp_path / "dataset"
    summary = prepare_dataset([str(root)], output, workers=1)
    assert "2 textures kept (1 train, 1 validation)" in summary
    rows = [json.loads(line) for path in output.glob("*/metadata.jsonl") for line in path.read_text().splitlines()]
    assert {row["source"]: row["text"] for row in rows} == {"sub/cup.png": "a red cup", "Blue Bowl.png": "blue bowl"}
    assert {row["coverage"] for row in rows} == {0.375}
    audit = [json.loads(line) for line in (output / "audit.jsonl").read_text().splitlines()]
    reasons = {row["source"]: row["reason"] for row in audit if not row["kept"]}
    assert set(reasons) == {"no mask.png", "other shape.png", "inverted.png", "broken.jpg", "dark.png"}
    assert "neither a mask of its own nor alpha" in reasons["no mask.png"]
    assert "32x64 but the image 64x64" in reasons["other shape.png"]
    assert "looks inverted" in reasons["inverted.png"]
    assert reasons["dark.png"].startswith("the mask is empty; its brightest value is 1,")
    assert "not an image" in reasons["broken.jpg"] or "cannot be decoded" in reasons["broken.jpg"]


def test_a_prepared_dataset_is_a_source_too(draw: Draw, write_mesh: Callable, tmp_path: Path) -> None:
    write_mesh(tmp_path / "in" / "cup.glb", draw(1))
    (tmp_path / "in" / "captions.jsonl").write_text(
        '{"mesh": "cup.glb", "text": "a cup", "license": "CC0-1.0", "author": "Ann"}\n'
    )
    prepare_dataset([str(tmp_path / "in")], tmp_path / "once", workers=1)
    prepare_dataset([str(tmp_path / "once")], tmp_path / "twice", workers=1)
    once, twice = (json.loads((tmp_path / name / "train" / "metadata.jsonl").read_text()) for name in ("once", "twice"))
    for key in ("text", "license", "author", "coverage"):
        assert once[key] == twice[key]
    for key in ("file_name", "mask_file_name"):
        first, second = ((tmp_path / n / "train" / r[key]).read_bytes() for n, r in (("once", once), ("twice", twice)))
        assert first == second


def test_inverted_is_said_of_inverted_masks_only(draw: Draw, islands_mask: Draw) -> None:
    mask = islands_mask()
    void_is_plain = np.where(mask[..., None], draw(1), np.uint8(40))
    assert looks_inverted(void_is_plain, ~mask)
    assert not looks_inverted(void_is_plain, mask)
    assert not looks_inverted(draw(1), mask)
    assert not looks_inverted(draw(1), np.ones_like(mask))
    assert not looks_inverted(np.full((64, 64, 3), 9, np.uint8), mask)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("= 3", "not a valid TOML file"),
        ("[[datasets]]\n[[datasets.subsets]]\nflip_aug = false\n", "names no image_dir"),
        ('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "gone"\n', "gone is not a folder"),
    ],
)
def test_a_broken_config_is_one_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "data.toml").write_text(content)
    with pytest.raises(InputError) as error:
        found(tmp_path / "data.toml", tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "a cup"}, "no file_name"),
        ({"file_name": "a.png", "mask": "????"}, "neither a file nor base64"),
        ({"file_name": "a.png", "mask": packed(b"abc")}, "not a square"),
        ({"file_name": "a.png", "mask": packed(bytes((1 << 25) + 1))}, "claims more than"),
        ("{", "not valid JSON"),
        ([1], "not a JSON object"),
    ],
)
def test_a_broken_row_is_only_that_row(tmp_path: Path, draw: Draw, row: object, says: str) -> None:
    save(np.dstack([draw(1), draw(2)[..., 0]]), tmp_path / "good.png")
    first = row if isinstance(row, str) else json.dumps(row)
    (tmp_path / "metadata.jsonl").write_text(first + '\n{"file_name": "good.png", "text": "good"}\n')
    broken, good = found(tmp_path, tmp_path)
    assert broken.problem is not None
    assert says in broken.problem
    assert broken.label == "metadata.jsonl, line 1"
    assert (good.captions, good.problem) == (("good",), None)


def test_meshes_of_kinds_that_are_not_read_are_named(draw: Draw, write_mesh: Callable, tmp_path: Path) -> None:
    for name in ("in/cup.glb", "in/sub/pan.glb"):
        write_mesh(tmp_path / name, draw(1))
    for name in ("in/cup.blend", "in/pan.FBX", "in/notes.txt", "only/cup.fbx", "only/hat.stl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0")
    assets = find_assets([str(tmp_path / "in")], None, tmp_path / "spool")[0]
    problems = {asset.label: asset.problem for asset in assets}
    assert problems == {
        "cup.glb": None,
        "sub/pan.glb": None,
        "pan.FBX": "meshes in .fbx are not read; export it as .glb",
    }
    with pytest.raises(InputError, match=r"its \.fbx, \.stl files are not read"):
        find_assets([str(tmp_path / "only")], None, tmp_path / "spool")
