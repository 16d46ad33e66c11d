"""Rules for the code itself: what may import what, and how long the algorithm may be."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "texdiff"

# Each package may import itself and those before it. `demo` makes data and imports uv at most.
ROOMS = ["errors", "files", "storage", "paths", "uv", "render", "diffusion", "data", "models"]
ROOMS += ["bounds", "config", "training", "inference", "evaluation", "report", "cli"]
ALLOWED = {room: set(ROOMS[: i + 1]) for i, room in enumerate(ROOMS)}
ALLOWED["demo"] = {"errors", "files", "paths", "uv", "demo"}
ALLOWED["diffusion"] = {"diffusion"}
ALLOWED["inference"] -= {"training"}  # a base and a LoRA are all that is needed
ALLOWED["bounds"] = {"errors", "bounds"}
ALLOWED["config"] = {"errors", "bounds", "config"}
FORBIDDEN = {
    "render": {"torch", "diffusers", "transformers", "datasets", "accelerate"},
    "uv": {"torch", "diffusers", "transformers", "datasets", "accelerate"},
    "demo": {"torch", "diffusers", "transformers", "datasets", "accelerate"},
    "diffusion": {"diffusers", "transformers", "numpy", "accelerate", "datasets"},
}
HEAVY = {"trimesh", "scipy.spatial", "datasets"}  # seconds to import; only meshes and tables need them
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the whole name, so that this test can read it"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    "module", ["data.mesh_index", "data.records", "data.cache", "training", "models", "inference.generate"]
)
def test_preparing_data_is_imported_only_where_it_is_used(module, run_program):
    code = f"import texdiff.{module}, sys; print([m for m in sys.modules if m in {HEAVY} or 'data.prepare' in m])"
    assert run_program(sys.executable, "-c", code).stdout == "[]\n"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "texdiff" and room != "__init__" and rest != ["__version__"]:
            assert rest[0] in ALLOWED[room], f"{path} imports {name}"
        assert top not in FORBIDDEN.get(room, set()), f"{path} imports {name}"
        if top == "jsonargparse":
            assert path.relative_to(PACKAGE).as_posix() in ("cli/train_arguments.py", "cli/__init__.py"), (
                f"{path} imports {name}"
            )


def test_every_room_is_known_to_this_test():
    rooms = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(ALLOWED)


def test_the_algorithm_stays_readable():
    assert len((ROOT / "train_texture.py").read_text("utf-8").splitlines()) <= 130
    assert not list(ROOT.rglob("texdiff/**/utils.py"))
    for path in MODULES:
        assert len(path.read_text("utf-8").splitlines()) <= 300, path
        assert len([one for one in path.parent.iterdir() if one.is_file()]) <= 13, path.parent


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needs = (
        project["dependencies"]
        + project["optional-dependencies"]["metrics"]
        + project["optional-dependencies"]["compressed"]
        + project["optional-dependencies"]["unwrap"]
    )
    declared = {re.split(r"[\[<>=]", need)[0].replace("_", "-") for need in needs}
    pinned = {line.split("==")[0].replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    names = {
        "DracoPy": "dracopy",
        "cv2": "opencv-python-headless",
        "PIL": "pillow",
        "collada": "pycollada",
        "yaml": "pyyaml",
    }
    for path in [*MODULES, ROOT / "train_texture.py"]:
        for name in imports(path):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top not in ("texdiff", "bpy"):  # bpy: assets/blender, in Blender
                package = names.get(top, top).replace("_", "-")
                assert package in declared, f"{path} imports {top}; declare it in pyproject.toml"
                assert package in {p.lower() for p in pinned}, f"{package}: pin it in constraints.txt"
