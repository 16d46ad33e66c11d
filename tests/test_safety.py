"""What texdiff never does with files and names from elsewhere."""

import ast
import json
from pathlib import Path

import pytest
from PIL import Image

from texdiff.data.prepare.sources import find_assets
from texdiff.data.records import read_records
from texdiff.errors import InputError
from texdiff.paths import escapes, near_mesh
from texdiff.uv.meshes.atlases import read_atlases

ROOT = Path(__file__).parent.parent
CODE = [ROOT / "train_texture.py", *sorted((ROOT / "texdiff").rglob("*.py"))]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_can_carry_code_is_loaded(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"} & {
                n.split(".")[0] for n in names
            }
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load"), called
            for keyword in node.keywords:
                assert keyword.arg != "trust_remote_code", f"{path}: {called}"
                assert not (keyword.arg in ("shell", "allow_pickle") and ast.unparse(keyword.value) == "True"), called


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "textures/../../../secret.png", "link.png", "out/secret.png"]
)
@pytest.mark.parametrize("key", ["file_name", "mask_file_name"])
def test_names_in_metadata_do_not_leave_the_dataset(key, name, make_dataset, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", [0.5, 0.5])
    for place in (tmp_path, dataset):
        Image.new("RGB", (64, 64)).save(place / "secret.png")
    (dataset / "train/link.png").symlink_to(tmp_path / "secret.png")
    (dataset / "train/out").symlink_to(tmp_path)
    metadata = dataset / "train/metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    rows[1][key] = name
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if name != "../secret.png":  # which lies in the dataset's folder still
        with pytest.raises(InputError, match=r"metadata\.jsonl, line 2: .*out of the dataset's folder"):
            read_records(str(dataset), "train")
        assets, _ = find_assets([str(dataset)], None, tmp_path / "spool")
        assert [bool(asset.problem) for asset in assets] == [False, True]


def test_a_snapshot_of_the_hub_is_all_links_and_is_read(tmp_path):
    blob, snapshot = tmp_path / "repo/blobs/abc", tmp_path / "repo/snapshots/1/train"
    blob.parent.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob.write_bytes(b"1")
    (snapshot / "a.png").symlink_to("../../../blobs/abc")
    (snapshot / "b.png").symlink_to(tmp_path)
    assert not escapes(str(snapshot / "a.png"), str(snapshot))
    assert escapes(str(snapshot / "b.png"), str(snapshot))


@pytest.mark.parametrize(
    ("name", "near"), [("../textures/a.png", True), ("../../a.png", True), ("../../../a.png", False)]
)
def test_a_mesh_names_files_near_it(name, near, tmp_path):
    folder = tmp_path / "one/two/three"
    folder.mkdir(parents=True)
    assert near_mesh(folder / name, folder / "mesh.obj") == near
    target = (folder / name).resolve()
    target.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (200, 30, 30)).save(target)
    (folder / "mesh.mtl").write_text(f"newmtl paint\nmap_Kd {name}\n")
    (folder / "mesh.obj").write_text(
        "mtllib mesh.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nusemtl paint\nf 1/1 2/2 3/3\n"
    )
    found = read_atlases(folder / "mesh.obj")
    assert len(found.atlases) == near
    if not near:
        assert "does not exist near the mesh" in found.rejected[0].reason


def test_a_mesh_right_in_a_home_does_not_reach_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert near_mesh(tmp_path / "downloads/textures/a.png", tmp_path / "downloads/mesh/mesh.glb")
    assert not near_mesh(tmp_path / "private/a.png", tmp_path / "downloads/mesh/mesh.glb")
    assert not near_mesh(Path("/etc/hostname"), Path("/mesh.glb").parent / "tmp/mesh.glb")


def test_an_error_is_one_line_that_no_terminal_obeys():
    text = str(InputError("a\x1b[2Jname\nof two lines" + "x" * 5000))
    assert "\x1b" not in text
    assert "\n" not in text
    assert len(text) < 1600
