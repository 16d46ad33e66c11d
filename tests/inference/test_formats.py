"""Meshes with a new texture as OBJ with MTL and images, and as glTF with files: the same surface, all other maps."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from glb_files import GREY, square, write_glb
from PIL import Image
from trimesh.visual.material import PBRMaterial

from texdiff.errors import InputError
from texdiff.inference import glb
from texdiff.inference.retexture import check_retexture, retexture
from texdiff.inference.target import read_target
from texdiff.uv.meshes.atlases import read_atlases


def png16(*shape: int) -> bytes:
    done, data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16))
    assert done
    return data.tobytes()


def rich_glb(path: Path) -> dict[str, bytes]:
    """A GLB of two squares, one of them turned and mirrored, whose material has maps of 16 bits; these, by slot."""
    scene = trimesh.Scene()
    tilt = trimesh.transformations.rotation_matrix(0.3, [1, 2, 3]) @ np.diag([2.0, -1, 1, 1])
    tilt[:3, 3] = [4, 5, 6]
    scene.add_geometry(square(PBRMaterial(name="oak plank", baseColorTexture=GREY)), geom_name="seat", transform=tilt)
    scene.add_geometry(square(PBRMaterial(name="steel", baseColorFactor=[51, 102, 153, 255])), geom_name="legs")
    asset = glb.read(write_glb(path, scene))
    maps = {
        "normalTexture": png16(8, 8, 3),
        "metallicRoughnessTexture": png16(6, 6, 3),
        "occlusionTexture": png16(4, 4),
    }
    (oak,) = [material for material in asset.tree["materials"] if material["name"] == "oak plank"]
    for slot, content in maps.items():
        asset.tree["images"].append({"mimeType": "image/png", "bufferView": glb.add_view(asset, content)})
        asset.tree["textures"].append({"source": len(asset.tree["images"]) - 1})
        holder = oak["pbrMetallicRoughness"] if slot.startswith("metallic") else oak
        holder[slot] = {"index": len(asset.tree["textures"]) - 1}
    path.write_bytes(glb.pack(asset))
    return maps


def check_surface(before: Path, after: Path, texture: np.ndarray, turn: int = 1) -> None:
    """The same triangles in the same places, their corners the other way round where `turn` is -1, and the texture."""
    (old,), (new,) = (read_atlases(path).atlases for path in (before, after))
    np.testing.assert_allclose(new.triangles[:, ::turn], old.triangles, atol=1e-6)
    np.testing.assert_allclose(new.corners[:, ::turn], old.corners, atol=1e-5)
    np.testing.assert_array_equal(new.texture[:, :16], texture[:, :16])
    areas = [trimesh.load_scene(path, process=False).to_mesh().area for path in (before, after)]
    assert areas[1] == pytest.approx(areas[0], rel=1e-5)


def test_a_gltf_names_files_that_are_the_glbs_own(tmp_path: Path, quadrants: np.ndarray) -> None:
    maps = rich_glb(tmp_path / "old.glb")
    retexture(tmp_path / "old.glb", quadrants, tmp_path / "out" / "new.gltf")
    out = tmp_path / "out"
    tree = json.loads((out / "new.gltf").read_text())
    assert {path.name for path in out.iterdir()} == {
        "new.gltf", "new.bin", "new-baseColor.png", "new-normal.png",
        "new-metallicRoughness.png", "new-occlusion.png",
    }  # fmt: skip
    assert all("bufferView" not in image for image in tree["images"])
    for slot, content in maps.items():
        assert (out / f"new-{slot.removesuffix('Texture')}.png").read_bytes() == content
    check_surface(tmp_path / "old.glb", out / "new.gltf", quadrants)


def test_a_glb_as_obj(tmp_path: Path, quadrants: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """Metalness and roughness by themselves, in 16 bits; what has no place is said."""
    maps = rich_glb(tmp_path / "old.glb")
    retexture(tmp_path / "old.glb", quadrants, tmp_path / "out" / "new.obj")
    assert "old.glb: oak plank: its occlusion map is left out" in capsys.readouterr().out
    # An OBJ has no mirrored instances: the faces turn round, to look the same way.
    check_surface(tmp_path / "old.glb", tmp_path / "out" / "new.obj", quadrants, turn=-1)
    assert (tmp_path / "out/new-normal.png").read_bytes() == maps["normalTexture"]
    packed = cv2.imdecode(np.frombuffer(maps["metallicRoughnessTexture"], np.uint8), cv2.IMREAD_UNCHANGED)
    for name, channel in (("Pr", 1), ("Pm", 0)):  # cv2 has blue first
        grey = cv2.imread(str(tmp_path / f"out/new-{name}.png"), cv2.IMREAD_UNCHANGED)
        assert grey.dtype == np.uint16
        np.testing.assert_array_equal(grey, packed[..., channel])
    library = (tmp_path / "out/new.mtl").read_text()
    assert "norm new-normal.png" in library
    assert "Kd 0.2 0.4 0.6" in library  # of steel


def test_an_obj_keeps_its_lines_and_materials(four_squares_obj: Path, quadrants: np.ndarray, tmp_path: Path) -> None:
    folder = four_squares_obj.parent
    bump = png16(4, 4)
    (folder / "bumps.png").write_bytes(bump)
    Image.new("RGB", (4, 4), (1, 2, 3)).save(folder / "glass.png")
    (folder / "squares.mtl").write_text(
        "# made by hand\nnewmtl squares\nKd 0.5 0 0\nKa 1 1 1\nNs 50\nmap_Ka old.png\nmap_Kd -s 1 1 1 old.png\n"
        "map_Bump -bm 0.5 bumps.png\nmap_Ks gone.png\nnewmtl glass\nd 0.5\nmap_Kd glass.png\nnewmtl unused\nNs 1\n"
    )
    text = four_squares_obj.read_text() + "usemtl glass\nf 1/1 2/2 3/3 4/4\ns 1\n"
    four_squares_obj.write_text(text)
    retexture(four_squares_obj, quadrants, tmp_path / "out" / "new.obj")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"new.obj", "new.mtl", "new.png", "bumps.png", "glass.png"}
    assert (out / "bumps.png").read_bytes() == bump
    assert (out / "glass.png").read_bytes() == (folder / "glass.png").read_bytes()
    assert (out / "new.obj").read_text() == text.replace("mtllib squares.mtl", "mtllib new.mtl")
    assert (out / "new.mtl").read_text() == (
        "newmtl squares\nKa 1 1 1\nNs 50\nmap_Bump -bm 0.5 bumps.png\nKd 1 1 1\nmap_Kd -s 1 1 1 new.png\n\n"
        "newmtl glass\nd 0.5\nmap_Kd glass.png\n\n"
    )
    old, new = (
        sorted(read_atlases(path).atlases, key=lambda a: a.name) for path in (four_squares_obj, out / "new.obj")
    )
    assert [atlas.name for atlas in new] == ["glass.png", "new.png"]
    np.testing.assert_array_equal(new[1].triangles, old[1].triangles)
    np.testing.assert_array_equal(new[1].texture[22:26, 6:10], quadrants[22:26, 6:10])  # the middle of a square


def test_an_obj_without_materials_gets_one(quadrants: np.ndarray, tmp_path: Path) -> None:
    mesh = tmp_path / "bare.obj"
    mesh.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n")
    retexture(mesh, quadrants, tmp_path / "out" / "new.obj")
    (atlas,) = read_atlases(tmp_path / "out" / "new.obj").atlases
    assert atlas.name == "new.png"
    assert len(atlas.triangles) == 1


def test_opacity_gets_an_image_of_its_own(quadrants: np.ndarray, tmp_path: Path) -> None:
    leaf = GREY.convert("RGBA")
    leaf.putalpha(Image.linear_gradient("L").resize(leaf.size))
    material = PBRMaterial(name="leaf", baseColorTexture=leaf, alphaMode="MASK", alphaCutoff=0.5)
    mesh = write_glb(tmp_path / "old.glb", trimesh.Scene(square(material)))
    retexture(mesh, quadrants, tmp_path / "new.obj")
    library = (tmp_path / "new.mtl").read_text()
    assert "map_d new-baseColor-opacity.png" in library
    with Image.open(tmp_path / "new-baseColor-opacity.png") as image:
        expected = leaf.getchannel("A").resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_the_meshs_own_files_are_not_overwritten(four_squares_obj: Path, quadrants: np.ndarray, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in four_squares_obj.parent.iterdir()}
    target = read_target(four_squares_obj)
    with pytest.raises(InputError, match=r"would write old\.png beside it over the mesh's own"):
        check_retexture(target, four_squares_obj.with_name("old.obj"))
    assert {path: path.read_bytes() for path in four_squares_obj.parent.iterdir()} == before
    retexture(four_squares_obj, quadrants, four_squares_obj)  # asked for by name
    assert (four_squares_obj.parent / "squares.png").is_file()


def test_an_unread_16_bit_image_is_what_it_was() -> None:
    """The oracle of the others: 16 bits are there to be lost."""
    assert cv2.imdecode(np.frombuffer(png16(4, 4), np.uint8), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    with Image.open(io.BytesIO(png16(4, 4, 3))) as image:
        assert image.mode == "RGB"  # Pillow would lose them
