"""Meshes without UV coordinates, unwrapped on request."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from glb_files import parse_glb, write_glb

from texdiff import cli
from texdiff.errors import InputError
from texdiff.inference import glb
from texdiff.inference.glb.unwrap import unwrap
from texdiff.inference.retexture import write_mesh
from texdiff.inference.target import finish_texture, read_seams, read_target
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.meshes.atlases import read_atlases

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def ball(tmp_path: Path) -> Path:
    return write_glb(tmp_path / "ball.glb", trimesh.Scene(trimesh.creation.icosphere(subdivisions=2)))


def test_every_triangle_gets_texels_of_its_own(ball: Path, tmp_path: Path) -> None:
    target = read_target(ball, unwrapping=True)
    assert target.choice.startswith("ball.glb: unwrapped by xatlas into ")
    assert target.replaced is None
    triangles = target.triangles
    assert len(triangles) == 320
    assert (triangles >= 0).all()
    assert (triangles <= 1).all()
    first, second = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    areas = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2
    covered = coverage_mask(triangles, (1024, 1024)).mean()
    assert covered == pytest.approx(areas.sum(), rel=0.01)  # no two overlap
    assert covered > 0.4
    # As much of the texture as of the surface, within a factor that charts of a ball are distorted by.
    corners = target.surface.corners
    surface = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    density = areas / surface
    assert density.max() < 3 * density.min()

    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    finished = finish_texture(target, texture, read_seams(target))
    for name in ("new.glb", "new.gltf", "new.obj"):
        write_mesh(target, finished, tmp_path / name)
        (atlas,) = read_atlases(tmp_path / name).atlases
        np.testing.assert_array_equal(atlas.texture, finished)
        np.testing.assert_allclose(atlas.triangles, triangles, atol=1e-6)
        np.testing.assert_allclose(atlas.corners, corners, atol=1e-6)
        shape = trimesh.load_scene(tmp_path / name, process=False).to_mesh()
        assert shape.area == pytest.approx(trimesh.load_scene(ball).to_mesh().area, rel=1e-5)


def test_vertices_keep_all_that_they_have(ball: Path) -> None:
    """Also in integers of an odd size, in strips, and in morph targets."""
    asset = glb.read(ball)
    (primitive,) = asset.tree["meshes"][0]["primitives"]
    count = asset.tree["accessors"][primitive["attributes"]["POSITION"]]["count"]

    def add(values: np.ndarray, component: int, kind: str, **more: Any) -> int:
        view = glb.add_view(asset, values.tobytes())
        accessor = {"bufferView": view, "componentType": component, "count": len(values), "type": kind}
        asset.tree["accessors"].append(accessor | more)
        return len(asset.tree["accessors"]) - 1

    numbers = np.arange(count)
    rows = np.stack([numbers % 256, numbers // 256, numbers * 0, numbers * 0 + 7], axis=1).astype(np.uint8)
    primitive["attributes"]["COLOR_0"] = add(rows, 5121, "VEC4", normalized=True)
    shifted = np.stack([numbers, numbers * 2, numbers * 3], axis=1).astype("<f4")
    primitive["targets"] = [{"POSITION": add(shifted, 5126, "VEC3")}]
    positions = np.frombuffer(view_of(asset, primitive["attributes"]["POSITION"]), "<f4").reshape(-1, 3)
    unwrapped, primitives, islands = unwrap(asset, ball)
    assert primitives == [(0, 0)]
    assert islands > 1
    (made,) = unwrapped.tree["meshes"][0]["primitives"]
    accessor = unwrapped.tree["accessors"][made["attributes"]["COLOR_0"]]
    assert (accessor["componentType"], accessor["normalized"]) == (5121, True)
    rows = np.frombuffer(view_of(unwrapped, made["attributes"]["COLOR_0"]), np.uint8).reshape(-1, 4).astype(int)
    vertex = rows[:, 0] + 256 * rows[:, 1]
    found = np.frombuffer(view_of(unwrapped, made["attributes"]["POSITION"]), "<f4").reshape(-1, 3)
    assert len(found) > count
    np.testing.assert_array_equal(found, positions[vertex])
    morph = np.frombuffer(view_of(unwrapped, made["targets"][0]["POSITION"]), "<f4").reshape(-1, 3)
    np.testing.assert_array_equal(morph, vertex[:, None] * [1, 2, 3])


def view_of(asset: glb.EditableGltf, accessor: int) -> bytes:
    return asset.views[asset.tree["accessors"][accessor]["bufferView"]]


def test_parts_with_uv_coordinates_stay(four_squares_obj: Path, tmp_path: Path) -> None:
    text = four_squares_obj.read_text() + "v 0 0 5\nv 3 0 5\nv 0 2 5\nf 17 18 19\n"
    four_squares_obj.write_text(text)
    target = read_target(four_squares_obj, unwrapping=True)
    assert target.choice == (
        "squares.obj: unwrapped by xatlas into 1 islands, which get the new texture; parts with UV coordinates stay"
    )
    assert len(target.triangles) == 1
    texture = np.full((32, 32, 3), 77, np.uint8)
    write_mesh(target, texture, tmp_path / "new.glb")
    shown = sorted(read_atlases(tmp_path / "new.glb").atlases, key=lambda atlas: len(atlas.triangles))
    assert [len(atlas.triangles) for atlas in shown] == [1, 8]
    assert (shown[0].texture == 77).all()
    assert (shown[1].texture == 90).all()


def test_a_mesh_with_a_uv_map_is_as_without_the_flag(four_squares_obj: Path) -> None:
    target = read_target(four_squares_obj, unwrapping=True)
    assert target.choice == (
        "squares.obj: the new texture replaces old.png; nothing to unwrap, as all of it has UV coordinates"
    )
    assert target.unwrapped is None


def test_without_xatlas_or_the_flag_what_to_do_is_said(ball: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no UV map.*add --unwrap"):
        read_target(ball)
    monkeypatch.setitem(sys.modules, "xatlas", None)
    with pytest.raises(InputError, match=r"--unwrap: needs xatlas; pip install 'texdiff\[unwrap\]'"):
        read_target(ball, unwrapping=True)


@pytest.mark.slow
def test_on_the_command_line(base: Path, ball: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "--model", str(base), "--mesh", str(ball), "--prompt", "a ball", "--unwrap"]
    assert cli.main([*arguments, "--num_inference_steps", "2", "--output", str(tmp_path / "out" / "x.glb")]) == 0
    assert "ball.glb: unwrapped by xatlas into" in capsys.readouterr().out
    tree, _ = parse_glb(tmp_path / "out/x.glb")
    assert "TEXCOORD_0" in tree["meshes"][0]["primitives"][0]["attributes"]
