"""Images that a glTF file names and that are not there."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from glb_files import image_of, parse_glb
from PIL import Image

from texdiff.errors import InputError
from texdiff.inference.generate import generate
from texdiff.inference.glb.textures import drop_images
from texdiff.inference.retexture import retexture
from texdiff.inference.target import read_target


def png(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), color).save(file, "PNG")
    return file.getvalue()


def write_gltf(folder: Path, images: dict[str, bool], material: dict) -> Path:
    """A square whose material's texture i shows the i-th of `images`, some of which are not there."""
    folder.mkdir(exist_ok=True)
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], "<f4")
    faces = np.array([0, 1, 2, 0, 2, 3], "<u2")
    (folder / "m.bin").write_bytes(corners.tobytes() + np.ascontiguousarray(corners[:, :2]).tobytes() + faces.tobytes())
    for number, (name, exists) in enumerate(images.items()):
        if exists:
            (folder / name).write_bytes(png((number, 50, 60)))
    tree = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [material],
        "textures": [{"source": number} for number in range(len(images))],
        "images": [{"uri": name} for name in images],
        "buffers": [{"uri": "m.bin", "byteLength": 92}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": length} for start, length in ((0, 48), (48, 32), (80, 12))
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 0]},
            {"bufferView": 1, "componentType": 5126, "count": 4, "type": "VEC2"},
            {"bufferView": 2, "componentType": 5123, "count": 6, "type": "SCALAR"},
        ],
    }
    (folder / "m.gltf").write_text(json.dumps(tree))
    return folder / "m.gltf"


def maps(base: int, metal: int, normal: int, emissive: int) -> dict:
    settings = {"baseColorTexture": {"index": base}, "metallicRoughnessTexture": {"index": metal}}
    return {
        "pbrMetallicRoughness": settings,
        "normalTexture": {"index": normal, "scale": 0.5},
        "emissiveTexture": {"index": emissive},
    }


@pytest.mark.parametrize("base_is_there", [True, False])
def test_they_are_left_out_and_said_and_the_rest_stays(
    tmp_path: Path, quadrants: np.ndarray, capsys: pytest.CaptureFixture[str], base_is_there: bool
) -> None:
    images = {"normal.png": False, "metal.png": True, "color.png": base_is_there, "glow.png": True, "none.png": False}
    mesh = write_gltf(tmp_path / "in", images, maps(base=2, metal=1, normal=0, emissive=3))
    retexture(mesh, quadrants, tmp_path / "out.glb")
    said = capsys.readouterr().out.splitlines()
    assert "m.gltf: normalTexture names the file normal.png, which does not exist; left out" in said
    assert sum(line.endswith("left out") for line in said) == (2 if base_is_there else 3)
    tree, views = parse_glb(tmp_path / "out.glb")
    (material,) = tree["materials"]
    assert "normalTexture" not in material
    settings = material["pbrMetallicRoughness"]
    np.testing.assert_array_equal(image_of(tree, views, settings["baseColorTexture"]), quadrants)
    assert (image_of(tree, views, settings["metallicRoughnessTexture"]) == (1, 50, 60)).all()
    assert (image_of(tree, views, material["emissiveTexture"]) == (3, 50, 60)).all()
    assert len(tree["images"]) == len(tree["textures"]) == 3


def test_an_image_beside_a_missing_one_in_another_format_stays() -> None:
    tree = {
        "images": [{"uri": "gone.png"}, {"uri": "there.webp"}, {"uri": "gone.webp"}, {"uri": "there.png"}],
        "textures": [
            {"source": 0, "extensions": {"EXT_texture_webp": {"source": 1}}},
            {"source": 3, "extensions": {"EXT_texture_webp": {"source": 2}}},
            {"source": 0},
        ],
        "materials": [
            {"normalTexture": {"index": 0}, "occlusionTexture": {"index": 1}, "emissiveTexture": {"index": 2}}
        ],
    }
    drop_images(tree, {0, 2})
    assert tree == {
        "images": [{"uri": "there.webp"}, {"uri": "there.png"}],
        "textures": [{"extensions": {"EXT_texture_webp": {"source": 0}}}, {"source": 1}],
        "materials": [{"normalTexture": {"index": 0}, "occlusionTexture": {"index": 1}}],
    }


def test_all_that_is_wrong_with_a_mesh_is_said_before_a_model_is_read(tmp_path: Path) -> None:
    mesh = write_gltf(tmp_path, {"color.png": True}, {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}})
    tree = json.loads(mesh.read_text())
    tree["bufferViews"].append({"buffer": 0, "byteOffset": 90, "byteLength": 400})  # of no use to the texture
    mesh.write_text(json.dumps(tree))
    with pytest.raises(InputError, match=r"m\.gltf.*90 \+ 400"):
        generate(model="no such model", prompt="x", mesh=mesh, output=tmp_path / "x.glb")
    with pytest.raises(InputError, match="no such model"):
        generate(model="./no such model", prompt="x", mesh=mesh, output=tmp_path / "x.png")


def test_clamped_and_all_outside_has_the_true_reason(tmp_path: Path) -> None:
    mesh = write_gltf(tmp_path, {"color.png": True}, {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}})
    tree = json.loads(mesh.read_text())
    tree["samplers"] = [{"wrapS": 33071, "wrapT": 33071}]
    tree["textures"][0]["sampler"] = 0
    mesh.write_text(json.dumps(tree))
    corners = np.frombuffer((tmp_path / "m.bin").read_bytes()[48:80], "<f4") + 3
    data = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(data[:48] + corners.astype("<f4").tobytes() + data[80:])
    with pytest.raises(InputError, match=r"outside \[0, 1\], where its texture does not repeat"):
        read_target(mesh)
