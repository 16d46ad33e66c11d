"""Another base colour texture in a GLB: nothing else in the file changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from glb_files import GREY, image_of, parse_glb, square, write_glb
from PIL import Image
from trimesh.visual.material import PBRMaterial

from texdiff.inference.retexture import retexture


def test_other_maps_and_settings_of_a_glb_stay(tmp_path: Path, quadrants: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    maps = {
        name: Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        for name in ("normalTexture", "metallicRoughnessTexture", "occlusionTexture", "emissiveTexture")
    }
    factors = {"metallicFactor": 0.25, "roughnessFactor": 0.5, "emissiveFactor": [0.1, 0.2, 0.3]}
    material = PBRMaterial(
        name="all", baseColorTexture=GREY, baseColorFactor=[50, 60, 70, 128], alphaMode="BLEND", **factors, **maps
    )
    scene = trimesh.Scene()
    scene.add_geometry(square(material), geom_name="worn", node_name="here")
    scene.add_geometry(square(PBRMaterial(name="red", baseColorFactor=[255, 0, 0, 255])), geom_name="bare")

    def extend(tree: dict[str, Any]) -> None:
        """What trimesh would lose: a sampler, a normal scale, a material extension, an animation's stub."""
        tree["samplers"] = [{"magFilter": 9728, "wrapS": 33071}]
        worn = next(m for m in tree["materials"] if m["name"] == "all")
        tree["textures"][worn["pbrMetallicRoughness"]["baseColorTexture"]["index"]]["sampler"] = 0
        worn["normalTexture"]["scale"] = 0.75
        worn["extensions"] = {"KHR_materials_clearcoat": {"clearcoatFactor": 0.5}}
        tree["extensionsUsed"] = ["KHR_materials_clearcoat"]
        tree["extras"] = {"kept": True}

    before = write_glb(tmp_path / "old.glb", scene, extend)
    retexture(before, quadrants, tmp_path / "new.glb")
    old, old_views = parse_glb(before)
    new, new_views = parse_glb(tmp_path / "new.glb")

    worn = next(m for m in new["materials"] if m["name"] == "all")
    info = worn["pbrMetallicRoughness"]["baseColorTexture"]
    left = np.asarray(quadrants)[:, :16]
    np.testing.assert_array_equal(image_of(new, new_views, info)[:, :16], left)
    assert new["textures"][info["index"]]["sampler"] == 0
    assert worn["pbrMetallicRoughness"]["baseColorFactor"] == pytest.approx([1, 1, 1, 128 / 255])
    assert len(new["images"]) == len(old["images"])  # the old atlas is gone

    worn["pbrMetallicRoughness"]["baseColorFactor"] = next(m for m in old["materials"] if m["name"] == "all")[
        "pbrMetallicRoughness"
    ]["baseColorFactor"]
    assert new["materials"] == old["materials"]
    for key in ("nodes", "scenes", "scene", "meshes", "accessors", "samplers", "textures", "extras", "extensionsUsed"):
        assert new[key] == old[key], key
    replaced = new["images"][new["textures"][info["index"]]["source"]]["bufferView"]
    for index, (ours, theirs) in enumerate(zip(new_views, old_views, strict=True)):
        assert (ours == theirs) is (index != replaced)


def test_a_picture_that_another_map_shows_stays_there(tmp_path: Path, quadrants: np.ndarray) -> None:
    lamp = PBRMaterial(name="lamp", baseColorTexture=GREY, emissiveTexture=GREY, emissiveFactor=[1, 1, 1])

    def share(tree: dict[str, Any]) -> None:
        material = tree["materials"][0]
        material["emissiveTexture"] = dict(material["pbrMetallicRoughness"]["baseColorTexture"])

    before = write_glb(tmp_path / "old.glb", trimesh.Scene(square(lamp)), share)
    retexture(before, quadrants, tmp_path / "new.glb")
    tree, views = parse_glb(tmp_path / "new.glb")
    (material,) = tree["materials"]
    assert (image_of(tree, views, material["emissiveTexture"]) == 90).all()
    base = image_of(tree, views, material["pbrMetallicRoughness"]["baseColorTexture"])
    np.testing.assert_array_equal(base[:, :16], quadrants[:, :16])


def test_a_mesh_without_texture_gets_it_where_it_has_uvs(tmp_path: Path, quadrants: np.ndarray) -> None:
    """Both parts share a material; glTF forbids a texture on the one without UV coordinates."""
    plain = PBRMaterial(name="plain", baseColorFactor=[200, 10, 10, 255], roughnessFactor=0.3)
    scene = trimesh.Scene()
    scene.add_geometry(square(plain), geom_name="mapped")
    scene.add_geometry(square(plain, uv=False), geom_name="unmapped")
    retexture(write_glb(tmp_path / "old.glb", scene), quadrants, tmp_path / "new.glb")
    tree, views = parse_glb(tmp_path / "new.glb")
    worn = {m["name"]: tree["materials"][m["primitives"][0]["material"]] for m in tree["meshes"]}
    settings = worn["mapped"]["pbrMetallicRoughness"]
    np.testing.assert_array_equal(image_of(tree, views, settings["baseColorTexture"])[:, :16], quadrants[:, :16])
    assert settings["roughnessFactor"] == 0.3
    assert settings["baseColorFactor"] == [1, 1, 1, 1]
    assert "baseColorTexture" not in worn["unmapped"]["pbrMetallicRoughness"]
    assert worn["unmapped"]["pbrMetallicRoughness"]["baseColorFactor"][1] < 0.1


def test_opacity_of_a_cut_out_texture_stays(tmp_path: Path, quadrants: np.ndarray) -> None:
    leaf = np.full((8, 8, 4), 90, dtype=np.uint8)
    leaf[..., 3] = np.where(np.arange(8) < 4, 0, 255)  # the left half is cut out
    material = PBRMaterial(baseColorTexture=Image.fromarray(leaf), alphaMode="MASK", alphaCutoff=0.5)
    retexture(write_glb(tmp_path / "old.glb", trimesh.Scene(square(material))), quadrants, tmp_path / "new.glb")
    tree, views = parse_glb(tmp_path / "new.glb")
    shown = image_of(tree, views, tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"])
    np.testing.assert_array_equal(shown[:, :16, :3], quadrants[:, :16])
    assert (shown[:, :12, 3] == 0).all()
    assert (shown[:, 20:, 3] == 255).all()
    assert tree["materials"][0]["alphaMode"] == "MASK"


def test_each_material_keeps_its_own_alpha(tmp_path: Path, quadrants: np.ndarray) -> None:
    """Images of the same RGB, so one texture; two of them are cut out in different places, one material is opaque."""
    texels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    scene, alphas = trimesh.Scene(), {}
    for name, mode in (("leaf", "MASK"), ("solid", "OPAQUE"), ("glass", "BLEND"), ("whole", "MASK")):
        texels[..., 3] = 255 if name == "whole" else np.random.default_rng(len(name)).integers(0, 256, (8, 8))
        alphas[name] = texels[..., 3].copy()
        image = Image.fromarray(texels.copy() if name != "whole" else texels[..., :3].copy())
        scene.add_geometry(square(PBRMaterial(name=name, baseColorTexture=image, alphaMode=mode)), geom_name=name)
    texture = quadrants[::4, ::4]
    assert texture.shape == (8, 8, 3)
    retexture(write_glb(tmp_path / "old.glb", scene), texture, tmp_path / "new.glb")
    tree, views = parse_glb(tmp_path / "new.glb")
    for material in tree["materials"]:
        shown = image_of(tree, views, material["pbrMetallicRoughness"]["baseColorTexture"])
        np.testing.assert_array_equal(shown[:, :4, :3], texture[:, :4])
        if material["name"] == "whole":
            assert shown.shape[2] == 3 or (shown[..., 3] == 255).all()
        elif material["name"] != "solid":
            np.testing.assert_array_equal(shown[..., 3], alphas[material["name"]], err_msg=material["name"])
