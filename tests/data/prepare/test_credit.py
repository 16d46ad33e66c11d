"""What mesh files say of themselves, and what was taken for granted to read them, is in the dataset."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from texdiff.data.prepare import prepare_dataset


def rows_of(dataset: Path) -> dict[str, dict[str, Any]]:
    lines = [line for path in dataset.glob("*/metadata.jsonl") for line in path.read_text().splitlines()]
    return {row["source"]: row for row in map(json.loads, lines)}


def audit_of(dataset: Path) -> dict[str, dict[str, Any]]:
    return {row["source"]: row for row in map(json.loads, (dataset / "audit.jsonl").read_text().splitlines())}


def as_gltf(mesh: Path, path: Path, asset: dict[str, Any]) -> None:
    """The GLB as .gltf with its buffers beside it, and `asset` in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = trimesh.exchange.gltf.export_gltf(trimesh.load_scene(mesh))
    tree = json.loads(files.pop("model.gltf"))
    tree["asset"] |= asset
    for name, data in files.items():
        (path.parent / name).write_bytes(data)
    path.write_text(json.dumps(tree))
    mesh.unlink()


def test_title_author_and_licence_of_gltf(write_mesh: Callable, draw: Callable, tmp_path: Path) -> None:
    root = tmp_path / "in"
    sketchfab = {
        "author": "Ann (https://example.org/ann)",
        "license": "CC-BY-4.0 (http://creativecommons.org/licenses/by/4.0/)",
        "title": "Old Oak  Chair",
    }
    mesh = write_mesh(root / "a.glb", draw(1))
    as_gltf(mesh, root / "old_oak_chair" / "scene.gltf", {"extras": sketchfab})
    as_gltf(write_mesh(root / "a.glb", draw(2)), root / "green_vase" / "scene.gltf", {"copyright": "2020 Bob"})
    as_gltf(write_mesh(root / "a.glb", draw(3)), root / "lamp" / "source" / "model.gltf", {"extras": {"license": 7}})
    as_gltf(write_mesh(root / "a.glb", draw(4)), root / "mug" / "mug_2.gltf", {"extras": sketchfab})
    line = {"mesh": "mug/mug_2.gltf", "text": "a mug", "license": "CC0-1.0"}
    (root / "captions.jsonl").write_text(json.dumps(line) + "\n")
    prepare_dataset([str(root)], tmp_path / "data", workers=1)
    rows = rows_of(tmp_path / "data")
    said = {name: (row["text"], row["license"], row["author"], row["title"]) for name, row in rows.items()}
    assert said == {
        "old_oak_chair/scene.gltf": ("Old Oak Chair", "CC-BY-4.0", sketchfab["author"], "Old Oak Chair"),
        "green_vase/scene.gltf": ("green vase", "unknown", "2020 Bob", "unknown"),
        "lamp/source/model.gltf": ("lamp", "unknown", "unknown", "unknown"),
        "mug/mug_2.gltf": ("a mug", "CC0-1.0", sketchfab["author"], "Old Oak Chair"),
    }
    card = (tmp_path / "data" / "README.md").read_text()
    assert "| CC-BY-4.0 | 1 |" in card
    assert "| 2020 Bob | unknown | green_vase/scene.gltf |" in card


def test_what_was_mended_is_said(write_mesh: Callable, draw: Callable, tmp_path: Path) -> None:
    root = tmp_path / "in"
    for number, name in enumerate(("assumed", "renamed", "plain", "chair/source/chair")):
        write_mesh(root / name / f"{Path(name).name}.obj", draw(number))
    text = (root / "assumed/assumed.obj").read_text()
    (root / "assumed/assumed.obj").write_text(text.replace("usemtl m\n", ""))
    text = (root / "renamed/renamed.obj").read_text()
    (root / "renamed/renamed.obj").write_text(text.replace("renamed.mtl", "other.mtl"))
    (root / "chair/source/textures").mkdir()
    (root / "chair/source/chair/chair.png").rename(root / "chair/source/textures/chair.png")
    summary = prepare_dataset([str(root)], tmp_path / "data", workers=1)
    notes = {name: row["notes"] for name, row in audit_of(tmp_path / "data").items()}
    assert notes.pop("plain/plain.obj") is None
    assert "only one of its material file" in notes["assumed/assumed.obj"]
    assert "material file that does not exist" in notes["renamed/renamed.obj"]
    assert "../textures" in notes["chair/source/chair/chair.obj"]
    for note in notes.values():
        assert f"1 x {note}" in summary


@pytest.mark.parametrize("grey", [False, True])
def test_a_grey_mask_that_is_thresholded_is_said(
    draw: Callable, islands_mask: Callable, tmp_path: Path, grey: bool
) -> None:
    mask = islands_mask().astype(np.uint8) * 255
    mask[0, :9] = 140 if grey else 255
    (tmp_path / "in/masks").mkdir(parents=True)
    Image.fromarray(draw(1)).save(tmp_path / "in/a.png")
    Image.fromarray(mask).save(tmp_path / "in/masks/a.png")
    summary = prepare_dataset([str(tmp_path / "in")], tmp_path / "data", workers=1)
    assert ("1 x the mask has grey texels, which count as mapped from 128 on" in summary) == grey
    assert (audit_of(tmp_path / "data")["a.png"]["notes"] is not None) == grey
