"""`texdiff blender`: the add-on's file, and what it does inside Blender: the `bpy` wheel, in a process of its own.

The Python that has `bpy` is this one, or what TEXDIFF_BLENDER_PYTHON names; without, such tests are skipped.
"""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glb_files import image_of, parse_glb
from PIL import Image

from texdiff import __version__
from texdiff.cli import main
from texdiff.inference.generate import generate
from texdiff.inference.target import read_target
from texdiff.uv.coverage import coverage_mask

ROOT = Path(__file__).parents[2]

# What each test's code in Blender starts with: the add-on as its user installs it, and what a user does with it.
PRELUDE = """
import importlib, json, os, sys, tempfile, time
from pathlib import Path
import bpy, numpy as np
OUT = Path(sys.argv[1])
bpy.ops.extensions.package_install_files(filepath=str(OUT / "addon.zip"), repo="user_default", enable_on_install=True)
addon = importlib.import_module("bl_ext.user_default.texdiff")

def settings(**values):
    given = bpy.context.scene.texdiff
    for name, value in ({"model": sys.argv[2]} | values).items():
        setattr(given, name, value)

def finish():
    "The timer's part, which a window's loop calls."
    seen = []
    while addon.poll() is not None:
        seen.append(addon.Job.now.progress)
        time.sleep(0.05)
    return addon.Job.said, max(seen, default=0)

def refused(operator, *words):
    try:
        operator()
        return finish()[0]
    except RuntimeError as error:
        return str(error).strip()

def select(*objects):
    bpy.ops.object.select_all(action="DESELECT")
    for obj in objects:
        obj.select_set(True)
    bpy.context.view_layer.objects.active = objects[0]

def left():
    "What is in the temporary folder beside Blender's own."
    return [path.name for path in Path(tempfile.gettempdir()).iterdir() if path != Path(bpy.app.tempdir)]

def save(image, name):
    "The pixels as Blender has them, row 0 on top."
    values = np.array(image.pixels, np.float32).reshape(image.size[1], image.size[0], -1)[::-1]
    np.save(OUT / name, np.rint(values * 255).astype(np.uint8))

def save_uv(obj, name):
    "The UV triangles of the mesh as Blender shows it."
    mesh = obj.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    mesh.calc_loop_triangles()
    uv = np.array([corner.uv for corner in mesh.uv_layers.active.data])
    slots = np.array([triangle.material_index for triangle in mesh.loop_triangles])
    np.savez(OUT / name, uv=uv[[triangle.loops[:] for triangle in mesh.loop_triangles]], slots=slots)

def export(name):
    bpy.ops.export_scene.gltf(filepath=str(OUT / name), use_selection=True, export_apply=True)

def image_of(material):
    socket = material.node_tree.nodes["Principled BSDF"].inputs["Base Color"]
    return socket.links[0].from_node.image if socket.links else None

said = {}
"""


@pytest.fixture
def addon(tmp_path: Path) -> Path:
    assert main(["blender", "--output", str(tmp_path / "addon.zip")]) == 0
    return tmp_path / "addon.zip"


@pytest.fixture
def in_blender(addon: Path, base: Path) -> Callable[[str], dict[str, Any]]:
    """Run code in Blender, after PRELUDE; returns what it puts into `said`."""
    own = sys.executable if importlib.util.find_spec("bpy") else None
    python = os.environ.get("TEXDIFF_BLENDER_PYTHON", own)
    if python is None:
        pytest.skip("no bpy; TEXDIFF_BLENDER_PYTHON names a Python that has it")
    folder = addon.parent
    (folder / "temporary").mkdir()

    def run(code: str) -> dict[str, Any]:
        own = {"TMPDIR": str(folder / "temporary"), "BLENDER_USER_RESOURCES": str(folder / "user")}
        own |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(folder)}
        # Once it has exported a glTF file, the wheel crashes where it ends by itself.
        program = PRELUDE + code + "\nprint('\\n' + json.dumps(said), flush=True)\nos._exit(0)\n"
        command = [python, "-c", program, str(folder), str(base)]
        done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_the_file_is_an_extension_for_blender(addon: Path) -> None:
    with zipfile.ZipFile(addon) as archive:
        assert sorted(archive.namelist()) == ["__init__.py", "blender_manifest.toml"]
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
        program = archive.read("__init__.py").decode()
    expected = {"schema_version": "1.0.0", "id": "texdiff", "version": __version__, "type": "add-on"}
    assert {key: manifest[key] for key in expected} == expected
    assert (manifest["blender_version_min"], manifest["license"]) == ("4.2.0", ["SPDX:Apache-2.0"])
    assert len(manifest["tagline"]) <= 64
    assert manifest["tagline"][-1].isalnum()
    tree = ast.parse(program, feature_version=(3, 11))
    assert f"\nPYTHON = {sys.executable!r}  #" in program
    assert len(program.splitlines()) <= 300
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert own == {"bpy", "numpy"}  # which Blender's Python has


@pytest.mark.parametrize("output", ["addon.py", "taken.zip"])
def test_another_name_or_a_folder_is_refused(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.zip").mkdir()
    assert main(["blender", "--output", output]) == 2
    assert capsys.readouterr().err == f"texdiff: error: --output {output}: must be a file that ends in .zip\n"
    assert [path.name for path in tmp_path.iterdir()] == ["taken.zip"]


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


@pytest.mark.slow
def test_stop_and_what_cannot_be_done(in_blender: Callable[[str], dict[str, Any]]) -> None:
    said = in_blender("""
draw = bpy.ops.texdiff.draw
cube = bpy.data.objects["Cube"]
select(cube)
settings(prompt="red")
draw()
while addon.poll() is not None and not addon.Job.now.progress:
    time.sleep(0.05)
bpy.ops.texdiff.stop()
said["stopped"] = finish()[0], image_of(bpy.data.materials["Material"]) is None, left()
draw()
child = addon.Job.now.child
bpy.ops.wm.read_homefile()  # another file
said["other file"] = child.poll() is not None, addon.Job.now is None, left()

lines = said["lines"] = {}
cube = bpy.data.objects["Cube"]
settings(prompt="red", lora="/nothing here")
lines["texdiff's own"] = refused(draw)
settings(python="/nowhere/python")
lines["no python"] = refused(draw)
settings(python=sys.executable)
os.environ.pop("PYTHONPATH")
lines["no texdiff"] = refused(draw)
uv = cube.data.uv_layers[0].data
for corner in list(uv)[:12]:
    corner.uv[0] += 1
lines["tiles"] = refused(draw)
cube.data.uv_layers.new(name="second").active = True
lines["second"] = refused(draw)
while cube.data.uv_layers:
    cube.data.uv_layers.remove(cube.data.uv_layers[0])
cube.data.update()
lines["no uv"] = refused(draw)
bpy.ops.object.select_all(action="DESELECT")
lines["none"] = refused(draw)
bpy.ops.mesh.primitive_cube_add()
obj = bpy.context.object
obj.data.materials.append(bpy.data.materials["Material"])
lines["nothing to collect"] = refused(bpy.ops.texdiff.collect)
nodes = obj.active_material.node_tree.nodes
node = nodes.new("ShaderNodeTexImage")
node.image = bpy.data.images.new("Kachel", 8, 8, tiled=True)
obj.active_material.node_tree.links.new(node.outputs["Color"], nodes["Principled BSDF"].inputs["Base Color"])
lines["udim"] = refused(draw)
nodes.remove(nodes["Principled BSDF"])
lines["no shader"] = refused(draw)
said["left"] = left()
""")
    assert said["stopped"] == ["stopped", True, []]
    assert said["other file"] == [True, True, []]
    assert said["left"] == []
    lines = said["lines"]
    assert all("\n" not in line for line in lines.values())
    python = "Python /nowhere/python: not found; choose the one that has texdiff"
    assert lines["texdiff's own"].startswith("/nothing here: no such LoRA")
    assert lines["no python"] == f"Error: {python}"
    assert "has no texdiff, or not all of it" in lines["no texdiff"]
    assert lines["tiles"] == "Error: Cube: its islands lie in the UDIM tiles 1001, 1002; pack them into one"
    assert lines["second"] == "Error: Cube: the active UV map must be the rendered one, and the first where no image is"
    assert lines["no uv"].startswith("Error: Cube: no UV map; unwrap it first")
    assert lines["none"] == "Error: no mesh is selected; select the object first"
    assert "no texture to collect" in lines["nothing to collect"]
    assert lines["udim"].startswith("Error: Kachel: a UDIM texture")
    assert lines["no shader"].startswith("Error: Material: must be local, with its colour or image directly")


@pytest.mark.slow
def test_collects_what_prepare_reads(in_blender: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    said = in_blender("""
cube = bpy.data.objects["Cube"]
cube.name = "Küchenstuhl: rot"
nodes = cube.active_material.node_tree.nodes
node = nodes.new("ShaderNodeTexImage")
cube.active_material.node_tree.links.new(node.outputs["Color"], nodes["Principled BSDF"].inputs["Base Color"])
select(cube)
settings(dataset=str(OUT / "my möbel"), license="CC0-1.0")
for number, caption in enumerate(("red kitchen chair", "")):
    node.image = bpy.data.images.load(str(OUT / f"{number}.png"))
    settings(caption=caption)
    bpy.ops.texdiff.collect()
bpy.ops.texdiff.collect()  # the same again is the same file
opened = []
addon.webbrowser.open = opened.append
bpy.ops.texdiff.prepare()
said["line"] = finish()[0]
said["opened"], said["left"] = opened, left()
""")
    folder, dataset = tmp_path / "my möbel", tmp_path / "my möbel-prepared"
    names = ["Küchenstuhl_ rot+.glb", "Küchenstuhl_ rot.glb", "captions.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert said["opened"] == [(dataset / "audit.html").as_uri()]
    assert said["left"] == []
    lines = [file.read_text("utf-8") for file in dataset.rglob("metadata.jsonl")]
    rows = [json.loads(line) for line in "".join(lines).splitlines()]
    captions = {("red kitchen chair", "CC0-1.0"), ("küchenstuhl rot", "CC0-1.0")}
    assert {(row["text"], row["license"]) for row in rows} == captions
    texture = np.asarray(Image.open(next(dataset.rglob(rows[0]["file_name"]))))
    assert texture.shape == (300, 300, 3)
