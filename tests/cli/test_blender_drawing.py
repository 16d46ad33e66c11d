"""What the add-on draws inside Blender is what `texdiff generate` draws."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glb_files import image_of, parse_glb
from PIL import Image

from texdiff.inference.generate import generate
from texdiff.inference.target import read_target
from texdiff.uv.coverage import coverage_mask


def drawn_by_command(material: str, **flags: Any) -> np.ndarray:
    """The base colour of a material as `texdiff generate` draws it: uint8 [H, W, 3]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers
        (glb,) = generate(**flags, material=material)
    tree, views = parse_glb(glb)
    (info,) = [m["pbrMetallicRoughness"]["baseColorTexture"] for m in tree["materials"] if m["name"] == material]
    return image_of(tree, views, info)


def mask(triangles: np.ndarray) -> np.ndarray:
    return coverage_mask(triangles.astype(float), (64, 64))


@pytest.mark.slow
def test_draws_on_a_cube_as_the_command_does(
    in_blender: Callable[[str], dict[str, Any]], tmp_path: Path, base: Path
) -> None:
    said = in_blender("""
cube = bpy.data.objects["Cube"]
select(cube)
export("cube.glb")
save_uv(cube, "before.npz")
bpy.ops.object.mode_set(mode="EDIT")
bpy.ops.ed.undo_push(message="before")
settings(prompt="red crate, ümlaut", seed=3, negative_prompt="blur")
bpy.ops.texdiff.draw()
said["meanwhile"] = [cube.mode, bpy.ops.texdiff.draw.poll(), bpy.ops.texdiff.stop.poll()]
said["line"], said["progress"] = finish()
said["mode"] = cube.mode
image = image_of(bpy.data.materials["Material"])
said["image"] = [image.name, image.colorspace_settings.name, bool(image.packed_file), image.filepath]
save(image, "drawn.npy")
bpy.ops.object.mode_set(mode="OBJECT")
save_uv(cube, "after.npz")
bpy.ops.wm.save_as_mainfile(filepath=str(OUT / "sämple file.blend"))
bpy.ops.ed.undo()
bpy.ops.ed.undo()
said["undone"] = [image_of(bpy.data.materials["Material"]) is None, "red crate, ümlaut, 3" in bpy.data.images]
bpy.ops.wm.open_mainfile(filepath=str(OUT / "sämple file.blend"))
save(image_of(bpy.data.materials["Material"]), "saved.npy")
said["left"] = left()
""")
    assert said["line"] == "red crate, ümlaut, 3 is on Material"
    assert (said["meanwhile"], said["mode"]) == (["EDIT", False, True], "EDIT")
    assert said["progress"] > 0
    *image, path = said["image"]
    assert image == ["red crate, ümlaut, 3", "sRGB", True]
    assert path.startswith("//red_crate")  # where it goes when it is unpacked
    assert said["undone"] == [True, False]
    assert said["left"] == []
    flags: dict[str, Any] = {"model": str(base), "prompt": "red crate, ümlaut", "seed": 3, "negative_prompt": "blur"}
    expected = drawn_by_command("Material", **flags, mesh=tmp_path / "cube.glb", output=tmp_path / "new.glb")
    for name in ("drawn.npy", "saved.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / name)[..., :3], expected)
    before, after = (np.load(tmp_path / name)["uv"] for name in ("before.npz", "after.npz"))
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(mask(after), mask(read_target(tmp_path / "new.glb").triangles))
    assert mask(after).mean() > 0.3


@pytest.mark.slow
def test_of_two_materials_the_active_one_is_drawn(
    in_blender: Callable[[str], dict[str, Any]], tmp_path: Path, base: Path
) -> None:
    """On two objects with spaces and umlauts, one mirrored by its scale and one by a modifier; then one with a slot
    without a material, and with one that has no base colour."""
    colours = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 4), dtype=np.uint8)
    for name, values in zip(("holz", "stahl"), colours, strict=True):
        Image.fromarray(values).convert("RGB").save(tmp_path / f"{name}.png")
    said = in_blender("""
def material(name, file):
    new = bpy.data.materials.new(name)
    new.use_nodes = True
    node = new.node_tree.nodes.new("ShaderNodeTexImage")
    node.image = bpy.data.images.load(str(OUT / file))
    new.node_tree.links.new(node.outputs["Color"], new.node_tree.nodes["Principled BSDF"].inputs["Base Color"])
    return new

wood, steel = material("Wände aus Holz", "holz.png"), material("Stahl", "stahl.png")
stuhl = bpy.data.objects["Cube"]
stuhl.name, stuhl.scale = "Großer Stuhl 1", (-1, 2, 0.5)
stuhl.data.materials.clear()
stuhl.data.materials.append(wood)
stuhl.data.materials.append(steel)
for face in stuhl.data.polygons[:4]:
    face.material_index = 1
stuhl.active_material_index = 0
bpy.ops.mesh.primitive_cube_add(size=0.5, location=(3, 0, 0))
bein = bpy.context.object
bein.data.materials.append(wood)
bein.modifiers.new("Mirror", "MIRROR")
glass = bpy.data.materials.new("Glass")
glass.use_nodes = True
glass.node_tree.nodes.clear()
bein.data.materials.append(glass)
bein.data.polygons[0].material_index = 1
select(stuhl, bein)
export("stuhl.glb")
save_uv(stuhl, "stuhl.npz")
settings(prompt="oak", restyle=True, strength=0.5)
bpy.ops.texdiff.draw()
said["line"] = finish()[0]
save(image_of(wood), "drawn.npy")
said["images"] = [[i.name, i.use_fake_user, i.users] for i in bpy.data.images if i.name in ("holz.png", "stahl.png")]
bpy.ops.mesh.primitive_plane_add()
plain = bpy.context.object
plain.data.materials.append(None)
plain.data.materials.append(glass)  # which stays glass
bpy.ops.object.mode_set(mode="EDIT")
bpy.ops.mesh.subdivide()
bpy.ops.object.mode_set(mode="OBJECT")
plain.data.polygons[0].material_index = 1
plain.active_material_index = 0
settings(prompt="plain", restyle=False)
bpy.ops.texdiff.draw()
said["plain"] = finish()[0]
said["shown"], said["glass"] = image_of(plain.active_material).name, len(glass.node_tree.nodes)
said["left"] = left()
""")
    assert said["line"] == "oak, 0 is on Wände aus Holz"
    assert said["images"] == [["holz.png", True, 1], ["stahl.png", False, 1]]
    assert (said["plain"], said["shown"], said["left"]) == ("plain, 0 is on plain, 0", "plain, 0", [])
    assert said["glass"] == 0
    mesh = tmp_path / "stuhl.glb"
    flags: dict[str, Any] = {"model": str(base), "prompt": "oak", "strength": 0.5}
    expected = drawn_by_command("Wände aus Holz", **flags, mesh=mesh, output=tmp_path / "new.glb")
    np.testing.assert_array_equal(np.load(tmp_path / "drawn.npy")[..., :3], expected)
    shown = np.load(tmp_path / "stuhl.npz")
    target = mask(read_target(mesh, material="Stahl").triangles)
    np.testing.assert_array_equal(mask(shown["uv"][shown["slots"] == 1]), target)


@pytest.mark.slow
def test_draws_on_a_real_mesh(
    in_blender: Callable[[str], dict[str, Any]], tmp_path: Path, base: Path, real_meshes: Path
) -> None:
    """The UV map that Blender shows covers the texels that the file itself says."""
    mesh = real_meshes / "Scopia/bed1/bed1.obj"
    shutil.copytree(mesh.parent, tmp_path / "mesh")
    said = in_blender(
        f"""
bpy.ops.wm.obj_import(filepath=str(OUT / "mesh" / "{mesh.name}"))
obj = bpy.context.selected_objects[0]
"""
        """
select(obj)
with_image = [number for number, slot in enumerate(obj.material_slots) if image_of(slot.material)]
obj.active_material_index = with_image[0]
said["material"] = obj.active_material.name
export("real.glb")
save_uv(obj, "real.npz")
said["slots"] = [n for n, s in enumerate(obj.material_slots) if image_of(s.material) == image_of(obj.active_material)]
settings(prompt="blue")
bpy.ops.texdiff.draw()
said["line"] = finish()[0]
save(image_of(obj.active_material), "drawn.npy")
said["left"] = left()
"""
    )
    assert said["left"] == []
    assert said["material"] in said["line"]
    flags: dict[str, Any] = {"model": str(base), "prompt": "blue", "mesh": tmp_path / "real.glb"}
    expected = drawn_by_command(said["material"], **flags, output=tmp_path / "new.glb")
    np.testing.assert_array_equal(np.load(tmp_path / "drawn.npy")[..., :3], expected)
    shown = np.load(tmp_path / "real.npz")
    in_blender_itself = mask(shown["uv"][np.isin(shown["slots"], said["slots"])])
    for file in (tmp_path / "real.glb", mesh):
        np.testing.assert_array_equal(mask(read_target(file, material=said["material"]).triangles), in_blender_itself)
