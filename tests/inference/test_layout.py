"""`texdiff layout` as its user runs it: maps of a mesh for other programs."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from texdiff import cli
from texdiff.inference.layout import write_layout
from texdiff.inference.target import read_target
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.layout.draw import Kind, draw_map
from texdiff.uv.layout.lines import line_map
from texdiff.uv.layout.map_image import read_map
from texdiff.uv.meshes.atlases import read_atlases

Texdiff = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def texdiff(run_program: Callable) -> Texdiff:
    return lambda *arguments: run_program(sys.executable, "-m", "texdiff.cli", *arguments)


def test_a_position_map_says_where_each_square_stands(texdiff: Texdiff, four_squares_obj: Path, tmp_path: Path) -> None:
    """Four squares in a row along x, on the middles of the quadrants: low u low v, high u low v, low u high v, both."""
    done = texdiff("layout", four_squares_obj, "--output", tmp_path / "map.png", "--size", 40)
    assert done.returncode == 0, done.stderr
    assert "the new texture replaces old.png" in done.stdout
    assert f"wrote {tmp_path / 'map.png'} (position, 40x40)" in done.stdout
    values = read_map(tmp_path / "map.png") / 65535
    assert values.shape == (40, 40, 3)
    middles = {0: (30, 10), 1: (30, 30), 2: (10, 10), 3: (10, 30)}  # row, column
    for number, (row, column) in middles.items():
        inside = values[row - 3 : row + 3, column - 3 : column + 3]
        assert inside[..., 0].mean() == pytest.approx(0.05 + 0.9 * (number + 0.5) / 4, abs=1e-3)
        assert (np.diff(inside[..., 0], axis=1) > 0).all()  # x to the right
        assert (np.diff(inside[..., 1], axis=0) < 0).all()  # y up
        assert inside[..., 2] == pytest.approx(0.5, abs=1e-5)
    assert (values[20] == 0).all()


def test_the_map_of_a_named_material(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scene = trimesh.Scene()
    expected = {}
    for side, (name, left) in enumerate((("small", 0), ("large", 8)), 1):
        uv = np.array([[left, 0], [left + 8, 0], [left + 8, 16], [left, 16]]) / 16
        material = trimesh.visual.material.PBRMaterial(
            name=name, baseColorTexture=Image.new("RGB", (8, 8), (left, 9, 9))
        )
        visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
        corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]) * side
        scene.add_geometry(
            trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False), geom_name=name
        )
        expected[name] = np.zeros((16, 16), np.uint8)
        expected[name][:, left : left + 8] = 255
    scene.export(tmp_path / "two.glb")
    command = [
        "layout",
        str(tmp_path / "two.glb"),
        "--output",
        str(tmp_path / "map.png"),
        "--size",
        "16",
        "--kind",
        "mask",
    ]
    for flags, name in (([], "large"), (["--material", "small"], "small"), (["--material", "large"], "large")):
        assert cli.main([*command, *flags]) == 0
        with Image.open(tmp_path / "map.png") as image:
            np.testing.assert_array_equal(np.asarray(image), expected[name])
    assert cli.main([*command, "--material", "big"]) == 2
    says = "texdiff: error: --material big: two.glb has no such material; name one of small, large\n"
    assert capsys.readouterr().err == says


@pytest.mark.parametrize("kind", ["position", "normal", "mask", "lines"])
def test_each_kind_is_what_the_mesh_has(kind: Kind, four_squares_obj: Path, tmp_path: Path) -> None:
    write_layout(four_squares_obj, tmp_path / "map.png", 64, kind)
    (atlas,) = read_atlases(four_squares_obj).atlases
    covered = coverage_mask(atlas.triangles, (64, 64))
    if kind in ("mask", "lines"):
        expected = covered if kind == "mask" else line_map(atlas.triangles, (64, 64))
        with Image.open(tmp_path / "map.png") as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), expected * 255)
        return
    values = read_map(tmp_path / "map.png")
    assert np.array_equal(values, draw_map(read_target(four_squares_obj).surface, kind, (64, 64)))
    assert np.array_equal(values.any(axis=2), covered)
    if kind == "normal":
        assert np.array_equal(np.unique(values[covered], axis=0), [[32768, 32768, 65535]])  # towards z


def test_normals_are_turned_with_their_instance_and_point_out_of_a_mirrored_one(tmp_path: Path) -> None:
    for name, matrix in {
        "turned": trimesh.transformations.rotation_matrix(0.7, [1, 2, 3]) @ np.diag([1.0, 3.0, 0.5, 1.0]),
        "mirrored": np.diag([-1.0, 2.0, 1.0, 1.0]),
    }.items():
        ball = trimesh.creation.icosphere(subdivisions=3)
        uv = np.stack([np.arctan2(ball.vertices[:, 1], ball.vertices[:, 0]) / 7 + 0.5, ball.vertices[:, 2] / 2.2 + 0.5])
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
        ball.visual = trimesh.visual.TextureVisuals(uv=uv.T, material=material)
        scene = trimesh.Scene()
        scene.add_geometry(ball, transform=matrix)
        scene.export(tmp_path / f"{name}.glb")
        target = read_target(tmp_path / f"{name}.glb")
        normals = draw_map(target.surface, "normal", (64, 64)) / 65535.0
        places = draw_map(target.surface, "position", (64, 64)) / 65535.0
        there = places.any(axis=2)
        low, high = target.surface.bounds
        place = (places[there] - 0.5) / 0.9 * (high - low).max() + (low + high) / 2
        # Of an ellipsoid |A p| = 1 the normal is A^T A p.
        inverse = np.linalg.inv(matrix[:3, :3])
        outwards = place @ (inverse.T @ inverse).T
        outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
        found = normals[there] * 2 - 1
        cosine = (outwards * found).sum(axis=1) / np.linalg.norm(found, axis=1)
        # Flat triangles are a little within the ball; those over the seam show its whole round.
        assert np.quantile(cosine, 0.1) > 0.99, name


def test_of_several_textures_it_is_the_one_that_generate_replaces(
    write_mesh: Callable, draw: Callable, tmp_path: Path
) -> None:
    small, large = (
        write_mesh(tmp_path / f"{n}.glb", draw(n), ((corner, (0.75, 0.75)),))
        for n, corner in ((1, (0.25, 0.5)), (2, (0.5, 0.25)))
    )
    scene = trimesh.Scene([*trimesh.load(small).geometry.values()])
    scene.add_geometry(next(iter(trimesh.load(large).geometry.values())), transform=np.diag([3.0, 3.0, 3.0, 1.0]))
    scene.export(tmp_path / "both.glb")
    line = write_layout(tmp_path / "both.glb", tmp_path / "map.png", 64, "mask")
    assert "(on 90% of the textured surface)" in line
    expected = np.zeros((64, 64), bool)
    expected[16:48, 32:48] = True
    assert np.array_equal(read_map(tmp_path / "map.png").any(axis=2), expected)


def test_a_mesh_without_texture_is_drawn_where_it_has_uvs(write_mesh: Callable, draw: Callable, tmp_path: Path) -> None:
    textured = write_mesh(tmp_path / "one.obj", draw(1))
    expected = draw_map(read_target(textured).surface, "position", (32, 32))
    (tmp_path / "one.mtl").write_text("newmtl m\n")
    assert "had no texture" in write_layout(textured, tmp_path / "map.png", 32, "position")
    assert np.array_equal(read_map(tmp_path / "map.png"), expected)


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], four_squares_obj: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    for arguments, says in (
        ([tmp_path / "bare.obj", "--output", tmp_path / "map.png"], "no UV map"),
        ([four_squares_obj, "--output", tmp_path / "map.jpg"], "--output .*must end in .png"),
        ([four_squares_obj, "--output", tmp_path / "map.png", "--size", 0], "--size must be at least 1"),
        ([tmp_path / "none.obj", "--output", tmp_path / "map.png"], "no such file"),
        ([four_squares_obj, "--output", "/proc/none/map.png"], "cannot be written"),
        ([four_squares_obj, "--output", tmp_path / "map.png", "--kind", "depth"], "depth"),
    ):
        try:
            status = cli.main(["layout", *map(str, arguments)])
        except SystemExit as stopped:  # a flag that the parser refuses
            status = stopped.code
        said = capsys.readouterr().err
        assert status == 2
        assert len(said.splitlines()) == 1
        assert re.search(says, said), said
    assert not (tmp_path / "map.png").exists()
