"""A new texture for a mesh: the right way up, in the place of the right one, and of all formats."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh
from glb_files import GREY, check_quadrants, image_of, parse_glb, square, write_glb
from PIL import Image
from trimesh.visual.material import PBRMaterial

from texdiff.errors import InputError
from texdiff.inference.retexture import retexture, retextured_glb, write_output
from texdiff.inference.target import read_seams, read_target
from texdiff.uv.coverage import coverage_mask


def test_an_obj_has_it_the_right_way_up(four_squares_obj: Path, quadrants: np.ndarray, tmp_path: Path) -> None:
    retexture(four_squares_obj, quadrants, tmp_path / "new.glb")
    check_quadrants(tmp_path / "new.glb")
    tree, _ = parse_glb(tmp_path / "new.glb")
    (material,) = tree["materials"]
    settings = material["pbrMetallicRoughness"]
    assert settings["metallicFactor"] == 0
    assert settings["roughnessFactor"] >= 0.9
    assert settings["baseColorFactor"] == [1, 1, 1, 1]  # not the MTL's black Kd
    assert str(tmp_path) not in json.dumps(tree)


def test_a_glb_has_it_the_right_way_up(four_squares_obj: Path, quadrants: np.ndarray, tmp_path: Path) -> None:
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
    shown = {m["name"]: image_of(tree, views, m["pbrMetallicRoughness"]["baseColorTexture"]) for m in tree["materials"]}
    assert (shown["small"] == (10, 20, 30)).all()
    np.testing.assert_array_equal(shown["large"][:, :16], quadrants[:, :16])
    line = capsys.readouterr().out
    assert len(line.splitlines()) == 1
    assert "90%" in line
    assert line.rstrip().endswith("stays")


def test_the_texture_of_a_named_material_is_replaced(tmp_path: Path, quadrants: np.ndarray) -> None:
    """On the least surface; a material without a texture, beside one with; and one that is not there."""
    scene = trimesh.Scene()
    materials = {
        "small": PBRMaterial(name="small", baseColorTexture=Image.new("RGB", (8, 8), (10, 20, 30))),
        "large": PBRMaterial(name="large", baseColorTexture=GREY),
        "plain": PBRMaterial(name="plain", baseColorFactor=[255, 0, 0, 255]),
    }
    for side, (name, material) in enumerate(materials.items(), 1):
        scene.add_geometry(square(material, side=side), geom_name=name)
    mesh = write_glb(tmp_path / "old.glb", scene)
    for name, others in (("small", ["large"]), ("plain", ["small", "large"])):
        target = read_target(mesh, material=name)
        assert target.parts == (name,)
        assert f"{name} had no texture" in target.choice or target.choice.endswith("; large stays")
        write_output(tmp_path / "new.glb", retextured_glb(target, quadrants))
        tree, views = parse_glb(tmp_path / "new.glb")
        infos = {m["name"]: m["pbrMetallicRoughness"].get("baseColorTexture") for m in tree["materials"]}
        np.testing.assert_array_equal(image_of(tree, views, infos[name])[:, :16], quadrants[:, :16])
        for other in others:
            colour = (10, 20, 30) if other == "small" else GREY.getpixel((0, 0))
            assert (image_of(tree, views, infos[other]) == colour).all()
        assert (infos["plain"] is None) == (name == "small")
    with pytest.raises(
        InputError, match=r"--material big: old.glb has no such material; name one of small, large, plain"
    ):
        read_target(mesh, material="big")


def test_a_mesh_is_read_once(
    four_squares_obj: Path, quadrants: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        read.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    target = read_target(four_squares_obj)
    assert len(read_seams(target).length) == 3
    for number in range(2):
        write_output(tmp_path / f"{number}.glb", retextured_glb(target, quadrants))
    assert read.count(four_squares_obj) == 1
    for number in range(2):
        check_quadrants(tmp_path / f"{number}.glb")


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


def test_the_void_is_filled_and_touched_texels_are_kept(four_squares_obj: Path, tmp_path: Path) -> None:
    mask = coverage_mask(read_target(four_squares_obj).triangles, (50, 50), mode="conservative")
    texture = np.full((50, 50, 3), (255, 0, 255), dtype=np.uint8)
    texture[mask] = np.random.default_rng(0).integers(0, 100, (int(mask.sum()), 3))
    retexture(four_squares_obj, texture, tmp_path / "new.glb")
    tree, views = parse_glb(tmp_path / "new.glb")
    shown = image_of(tree, views, tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"])
    np.testing.assert_array_equal(shown[mask], texture[mask])
    assert shown.max() < 100


def test_what_cannot_be_textured_is_one_line_and_leaves_nothing(
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
