"""A mesh wears the new texture the right way up, and everything else about it stays as it was."""

import io
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from texdiff.errors import InputError
from texdiff.inference.retexture import read_target, retexture
from texdiff.uv.coverage import coverage_mask

GREY = Image.new("RGB", (16, 16), (90, 90, 90))


def parse_glb(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    """JSON and buffer views, read as the specification says."""
    data = path.read_bytes()
    magic, version, length, size, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    assert size % 4 == 0
    tree = json.loads(data[20 : 20 + size])
    binary_size, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0"
    binary = data[28 + size :]
    assert binary_size == len(binary) == tree["buffers"][0]["byteLength"]
    views = [binary[v["byteOffset"] : v["byteOffset"] + v["byteLength"]] for v in tree["bufferViews"]]
    assert all(v["byteOffset"] % 4 == 0 for v in tree["bufferViews"])
    return tree, views


def picture_of(tree: dict[str, Any], views: list[bytes], info: dict[str, Any]) -> np.ndarray:
    image = tree["images"][tree["textures"][info["index"]]["source"]]
    return np.asarray(Image.open(io.BytesIO(views[image["bufferView"]])))


def write_glb(path: Path, scene: trimesh.Scene, change: Any = None) -> Path:
    path.write_bytes(trimesh.exchange.gltf.export_glb(scene, tree_postprocessor=change))
    return path


def square(material: PBRMaterial | None, uv: bool = True, side: float = 1.0) -> trimesh.Trimesh:
    """A square that maps onto the left half of the texture."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=float)
    mesh = trimesh.Trimesh(np.c_[corners * side, np.zeros(4)], [[0, 1, 2], [0, 2, 3]], process=False)
    mesh.visual = TextureVisuals(uv=corners * [0.5, 1] if uv else None, material=material or PBRMaterial(name="plain"))
    return mesh


def check_quadrants(path: Path) -> None:
    """The squares along x show blue, white, red, green: what lies under their UVs when v points up."""
    scene = trimesh.load_scene(path, process=False)
    (part,) = scene.geometry.values()
    image = np.asarray(part.visual.material.baseColorTexture.convert("RGB"))
    colours = [(0, 0, 255), (255, 255, 255), (255, 0, 0), (0, 255, 0)]
    corners = part.triangles
    uv = np.asarray(part.visual.uv)[part.faces].mean(axis=1)
    assert len(part.faces) == 8
    for triangle, (u, v) in zip(corners, uv, strict=True):
        which = int(triangle[:, 0].mean())
        texel = image[int((1 - v) * image.shape[0]), int(u * image.shape[1])]
        assert tuple(texel) == colours[which]


def test_obj_wears_it_the_right_way_up(four_squares_obj: Path, quadrants: np.ndarray, tmp_path: Path) -> None:
    retexture(four_squares_obj, quadrants, tmp_path / "new.glb")
    check_quadrants(tmp_path / "new.glb")
    tree, _ = parse_glb(tmp_path / "new.glb")
    (material,) = tree["materials"]
    settings = material["pbrMetallicRoughness"]
    assert settings["metallicFactor"] == 0
    assert settings["roughnessFactor"] >= 0.9
    assert settings["baseColorFactor"] == [1, 1, 1, 1]  # not the MTL's black Kd
    assert str(tmp_path) not in json.dumps(tree)


def test_glb_wears_it_the_right_way_up(four_squares_obj: Path, quadrants: np.ndarray, tmp_path: Path) -> None:
    before = write_glb(tmp_path / "old.glb", trimesh.load_scene(four_squares_obj, process=False))
    retexture(before, quadrants, tmp_path / "new.glb")
    check_quadrants(tmp_path / "new.glb")


def test_gltf_with_files_of_its_own(four_squares_obj: Path, quadrants: np.ndarray, tmp_path: Path) -> None:
    files = trimesh.exchange.gltf.export_gltf(trimesh.load_scene(four_squares_obj, process=False))
    tree = json.loads(files["model.gltf"])
    view = tree["images"][0].pop("bufferView")
    (tmp_path / "old one.png").write_bytes(files[tree["buffers"][view]["uri"]])
    tree["images"][0] = {"uri": "old%20one.png"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "model.gltf").write_text(json.dumps(tree))
    retexture(tmp_path / "model.gltf", quadrants, tmp_path / "new.glb")
    check_quadrants(tmp_path / "new.glb")
    tree, _ = parse_glb(tmp_path / "new.glb")
    assert "uri" not in json.dumps(tree)


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
    np.testing.assert_array_equal(picture_of(new, new_views, info)[:, :16], left)
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
    assert (picture_of(tree, views, material["emissiveTexture"]) == 90).all()
    base = picture_of(tree, views, material["pbrMetallicRoughness"]["baseColorTexture"])
    np.testing.assert_array_equal(base[:, :16], quadrants[:, :16])


def test_the_texture_on_the_most_surface_is_replaced(
    tmp_path: Path, quadrants: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    small = PBRMaterial(name="small", baseColorTexture=Image.new("RGB", (8, 8), (10, 20, 30)))
    large = PBRMaterial(name="large", baseColorTexture=GREY)
    scene = trimesh.Scene()
    scene.add_geometry(square(small), geom_name="a")
    scene.add_geometry(square(large, side=3), geom_name="b")
    retexture(write_glb(tmp_path / "old.glb", scene), quadrants, tmp_path / "new.glb")
    tree, views = parse_glb(tmp_path / "new.glb")
    shown = {
        m["name"]: picture_of(tree, views, m["pbrMetallicRoughness"]["baseColorTexture"]) for m in tree["materials"]
    }
    assert (shown["small"] == (10, 20, 30)).all()
    np.testing.assert_array_equal(shown["large"][:, :16], quadrants[:, :16])
    line = capsys.readouterr().out
    assert len(line.splitlines()) == 1
    assert "90%" in line
    assert line.rstrip().endswith("stays")


def test_instances_and_transforms_stay(tmp_path: Path, quadrants: np.ndarray) -> None:
    """Two parts with one texture, one of them standing in two places."""
    scene = trimesh.Scene()
    tilt = trimesh.transformations.rotation_matrix(0.3, [1, 2, 3])
    tilt[:3, 3] = [4, 5, 6]
    both = PBRMaterial(name="both", baseColorTexture=GREY)
    scene.add_geometry(square(both), geom_name="part", node_name="one", transform=tilt)
    scene.graph.update(frame_to="two", matrix=np.diag([2, 2, 2, 1.0]), geometry="part")
    scene.add_geometry(square(both, side=2), geom_name="part", node_name="three")  # named alike on purpose
    before = write_glb(tmp_path / "old.glb", scene)
    retexture(before, quadrants, tmp_path / "new.glb")
    old, new = (trimesh.load_scene(tmp_path / name, process=False) for name in ("old.glb", "new.glb"))
    assert old.graph.nodes_geometry == new.graph.nodes_geometry
    assert len(new.graph.nodes_geometry) == 3
    for node in old.graph.nodes_geometry:
        np.testing.assert_array_equal(old.graph[node][0], new.graph[node][0])
    for name, part in new.geometry.items():
        np.testing.assert_array_equal(part.vertices, old.geometry[name].vertices)
        np.testing.assert_array_equal(part.faces, old.geometry[name].faces)
        np.testing.assert_array_equal(part.visual.uv, old.geometry[name].visual.uv)
        shown = np.asarray(part.visual.material.baseColorTexture)
        np.testing.assert_array_equal(shown[:, :16], quadrants[:, :16])


def test_a_mesh_without_texture_wears_it_where_it_has_uvs(tmp_path: Path, quadrants: np.ndarray) -> None:
    """Both parts share a material; glTF forbids a texture on the one without UV coordinates."""
    plain = PBRMaterial(name="plain", baseColorFactor=[200, 10, 10, 255], roughnessFactor=0.3)
    scene = trimesh.Scene()
    scene.add_geometry(square(plain), geom_name="mapped")
    scene.add_geometry(square(plain, uv=False), geom_name="unmapped")
    retexture(write_glb(tmp_path / "old.glb", scene), quadrants, tmp_path / "new.glb")
    tree, views = parse_glb(tmp_path / "new.glb")
    worn = {m["name"]: tree["materials"][m["primitives"][0]["material"]] for m in tree["meshes"]}
    settings = worn["mapped"]["pbrMetallicRoughness"]
    np.testing.assert_array_equal(picture_of(tree, views, settings["baseColorTexture"])[:, :16], quadrants[:, :16])
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
    shown = picture_of(tree, views, tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"])
    np.testing.assert_array_equal(shown[:, :16, :3], quadrants[:, :16])
    assert (shown[:, :12, 3] == 0).all()
    assert (shown[:, 20:, 3] == 255).all()
    assert tree["materials"][0]["alphaMode"] == "MASK"


def test_the_void_is_filled_and_touched_texels_are_kept(four_squares_obj: Path, tmp_path: Path) -> None:
    mask = coverage_mask(read_target(four_squares_obj).triangles, (50, 50), mode="conservative")
    texture = np.full((50, 50, 3), (255, 0, 255), dtype=np.uint8)
    texture[mask] = np.random.default_rng(0).integers(0, 100, (int(mask.sum()), 3))
    retexture(four_squares_obj, texture, tmp_path / "new.glb")
    tree, views = parse_glb(tmp_path / "new.glb")
    shown = picture_of(tree, views, tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"])
    np.testing.assert_array_equal(shown[mask], texture[mask])
    assert shown.max() < 100


def test_what_cannot_wear_it_is_one_line_and_leaves_nothing(
    four_squares_obj: Path, quadrants: np.ndarray, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    no_uv = write_glb(tmp_path / "bare.glb", trimesh.Scene(trimesh.creation.box()))
    cut = tmp_path / "cut.glb"
    cut.write_bytes(no_uv.read_bytes()[:-100])
    nan = tmp_path / "nan.obj"
    nan.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt nan nan\nf 1/1 2/1 3/1\n")
    for mesh in (no_uv, cut, nan, tmp_path / "missing.glb"):
        with pytest.raises(InputError) as caught:
            retexture(mesh, quadrants, output / "new.glb")
        assert mesh.name in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert not output.exists()
    (tmp_path / "file").touch()
    (tmp_path / "folder.glb").mkdir()
    for target in (tmp_path / "file" / "new.glb", tmp_path / "folder.glb"):
        with pytest.raises(InputError, match="cannot be written"):
            retexture(four_squares_obj, quadrants, target)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    "asset",
    ["BlendSwap-CC-0/barrel", "BlendSwap-CC-BY/book", "Scopia/armchair2", "Scopia/truck", "BlendSwap-CC-0/pallet"],
)
def test_real_furniture(real_meshes: Path, asset: str, tmp_path: Path) -> None:
    """Same surface and UVs as before; exactly one texture is new, on the parts that wore the old one."""
    from texdiff.uv.meshes.atlases import read_atlases
    from texdiff.uv.meshes.scene import read_scene

    mesh = shutil.copytree(real_meshes / asset, tmp_path / "asset") / f"{Path(asset).name}.obj"
    before, atlases = read_scene(mesh), read_atlases(mesh).atlases
    new = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    retexture(mesh, new, tmp_path / "new.glb")
    parse_glb(tmp_path / "new.glb")
    after = trimesh.load_scene(tmp_path / "new.glb", process=False)
    worn = read_target(mesh).parts
    assert set(after.geometry) == set(before.geometry)
    assert len(read_atlases(tmp_path / "new.glb").atlases) == max(len(atlases), 1)
    for key, part in after.geometry.items():
        np.testing.assert_allclose(part.triangles, before.geometry[key].triangles, rtol=1e-5, atol=1e-5)
        old_uv, material = before.geometry[key].visual.uv, part.visual.material
        if old_uv is not None:
            np.testing.assert_allclose(part.visual.uv[part.faces], old_uv[before.geometry[key].faces], atol=1e-5)
        if key in worn:
            mask = coverage_mask(old_uv[before.geometry[key].faces], (64, 64))
            np.testing.assert_array_equal(np.asarray(material.baseColorTexture)[mask], new[mask])
        elif material.baseColorTexture is not None:
            was = before.geometry[key].visual.material.baseColorTexture
            np.testing.assert_array_equal(
                np.asarray(material.baseColorTexture.convert("RGB")), np.asarray(was.convert("RGB"))
            )
