"""What `python -m texdiff.demo.make` writes is what other programs read."""

import json
import subprocess
import sys

import numpy as np
import pytest
import trimesh

from texdiff.demo.looks import Look
from texdiff.demo.make import write_meshes
from texdiff.demo.patterns import Pattern
from texdiff.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meshes")
    write_meshes(folder, 9, seed=5, size=128)
    return folder


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_seed_same_bytes(folder, tmp_path):
    write_meshes(tmp_path, 9, seed=5, size=128)
    assert contents(tmp_path) == contents(folder)
    write_meshes(tmp_path, 9, seed=6, size=128)
    assert contents(tmp_path) != contents(folder)


def test_one_caption_for_each_mesh(folder):
    records = [json.loads(line) for line in (folder / "captions.jsonl").read_text("utf-8").splitlines()]
    meshes = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in {".glb", ".obj"}}
    assert {r["mesh"] for r in records} == meshes
    assert {r["mesh"][-4:] for r in records} == {".glb", ".obj"}
    assert all(r["license"] == "CC0-1.0" and r["author"] == "texdiff" for r in records)
    assert all(r["text"].split()[-1] in r["mesh"] for r in records)


def test_trimesh_reads_texture_where_the_faces_are(tmp_path):
    green = Look(pattern=Pattern(material="cloth", colour="green"))
    files = write_meshes(tmp_path, 4, seed=0, size=256, looks=lambda rng, shape: green)
    for path in files:
        mesh = trimesh.load(path, process=False, force="mesh")
        material = mesh.visual.material
        picture = material.baseColorTexture if path.suffix == ".glb" else material.image
        atlas = np.asarray(picture.convert("RGB")).astype(float)
        uv = np.asarray(mesh.visual.uv)
        assert uv.min() >= 0
        assert uv.max() <= 1
        column, row = ((uv * [1, -1] + [0, 1])[mesh.faces].mean(1) * 256).astype(int).T
        red, green, blue = atlas[row, column].T
        assert ((green > red) & (green > blue)).all(), path
        assert not ((atlas[..., 1] > atlas[..., 0]) & (atlas[..., 1] > atlas[..., 2])).all(), path


@pytest.mark.parametrize(("count", "seed", "size"), [(0, 0, 256), (1, -1, 256), (1, 0, 8)])
def test_bad_arguments(tmp_path, count, seed, size):
    with pytest.raises(InputError, match=r"--(count|seed|size)"):
        write_meshes(tmp_path / "new", count, seed, size)
    assert not (tmp_path / "new").exists()


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "texdiff.demo.make"]
    done = subprocess.run([*command, str(tmp_path / "m"), "--count", "2"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "m").rglob("*.glb"))) == 1
    (tmp_path / "file").write_text("")
    done = subprocess.run([*command, str(tmp_path / "file")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
