"""Names of files that are not UTF-8, as old archives and cameras leave them."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from texdiff.cli import main
from texdiff.data.mesh_index import find_mesh

CAFE = os.fsdecode(b"caf\xe9")


def rows_of(dataset: Path) -> list[dict]:
    """The rows of a dataset, all of whose JSON is UTF-8 without surrogates, and so are its page and card."""
    for path in dataset.rglob("*.json*"):
        for text in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            json.dumps(json.loads(text), ensure_ascii=False).encode()
    for name in ("audit.html", "README.md"):
        (dataset / name).read_bytes().decode()
    return [json.loads(line) for path in dataset.glob("*/metadata.jsonl") for line in path.read_bytes().splitlines()]


def test_meshes_and_their_images(
    write_mesh: Callable, draw: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / os.fsdecode(b"m\xf6bel")
    write_mesh(folder / f"{CAFE}.glb", draw(1))
    write_mesh(folder / "obj" / "stuhl.obj", draw(2))
    (folder / "obj" / "stuhl.png").rename(folder / "obj" / f"{CAFE}.png")
    (folder / "obj" / "stuhl.mtl").write_bytes(b"newmtl m\nmap_Kd caf\xe9.png\n")  # Latin-1, as the name on the disk
    (folder / f"{CAFE}.pdf").write_bytes(b"%PDF")
    (folder / f"{CAFE}.txt").write_text("a coffee house\n")
    (folder / os.fsdecode(b"br\xfcchig.glb")).write_bytes(b"glTF")
    output = tmp_path / os.fsdecode(b"m\xf6bel-daten")
    assert main(["prepare", str(folder), "--output", str(output), "--workers", "1"]) == 0
    assert "Traceback" not in "".join(capfd.readouterr())
    rows = {row["source"]: row for row in rows_of(output)}
    assert set(rows) == {"caf\ufffd.glb", "obj/stuhl.obj"}
    assert rows["caf\ufffd.glb"]["text"] == "a coffee house"
    audit = [json.loads(line) for line in (output / "audit.jsonl").read_text().splitlines()]
    assert [row["source"] for row in audit if not row["kept"]] == ["br\ufffdchig.glb"]
    assert str(tmp_path) not in (output / "audit.jsonl").read_text()
    for split in ("train", "validation"):
        for texture in (output / split / "textures").iterdir():
            assert find_mesh(str(texture)) is not None


def test_images_with_masks(draw: Callable, islands_mask: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "masks").mkdir(parents=True)
    Image.fromarray(draw(1)).save(folder / f"{CAFE}.png")
    Image.fromarray(islands_mask().astype(np.uint8) * 255).save(folder / "masks" / f"{CAFE}.png")
    assert main(["prepare", str(folder), "--output", str(tmp_path / "data"), "--workers", "1"]) == 0
    (row,) = rows_of(tmp_path / "data")
    assert (row["source"], row["text"], row["coverage"]) == ("caf\ufffd.png", "caf", 0.375)


def test_names_that_no_file_can_have(write_mesh: Callable, draw: Callable, tmp_path: Path) -> None:
    """JSON may hold half of a pair of surrogates, which nothing can be called."""
    source = write_mesh(tmp_path / "in" / "cup.glb", draw(1))
    data = source.read_bytes()
    size = int.from_bytes(data[12:16], "little")
    tree = json.loads(data[20 : 20 + size])
    tree["images"][0]["name"] = tree["meshes"][0]["name"] = "\ud800"
    tree.setdefault("materials", []).append({"name": "\udc00"})
    tree["images"].append({"uri": "\ud800.png"})
    tree["textures"].append({"source": 1})
    tree["meshes"].append({"primitives": [dict(tree["meshes"][0]["primitives"][0], material=1)]})
    tree["materials"][1]["pbrMetallicRoughness"] = {"baseColorTexture": {"index": 1}}
    tree["nodes"].append({"mesh": 1})
    tree["scenes"][0]["nodes"].append(len(tree["nodes"]) - 1)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    binary = data[20 + size :]
    source.write_bytes(
        data[:8] + (20 + len(text) + len(binary)).to_bytes(4, "little") + len(text).to_bytes(4, "little") + b"JSON"
        + text + binary
    )  # fmt: skip
    assert main(["prepare", str(tmp_path / "in"), "--output", str(tmp_path / "data"), "--workers", "1"]) == 0
    assert [row["source"] for row in rows_of(tmp_path / "data")] == ["cup.glb"]
    (aside,) = [row for line in (tmp_path / "data/audit.jsonl").read_text().splitlines()
                if not (row := json.loads(line))["kept"]]  # fmt: skip
    assert "\ufffd.png, which does not exist" in aside["reason"]
