"""Running code in Blender: the `bpy` wheel, in a process of its own.

The Python that has `bpy` is this one, or what TEXDIFF_BLENDER_PYTHON names; without, such tests are skipped.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    from texdiff.cli import main

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
