"""`texdiff blender`: the add-on's file, how it stops and refuses inside Blender, and what it collects."""

import ast
import json
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from texdiff import __version__
from texdiff.cli import main


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
