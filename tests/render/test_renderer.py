"""Meshes drawn by ray: the right texels at the right place, the nearer surface in front, the same bytes every time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from texdiff.data.prepare.captioner import ViewJob, draw_views
from texdiff.errors import InputError
from texdiff.render.renderer import MeshRenderer, turntable

FRONT = ((0.0, 0.0),)
WHOLE = (((0.0, 0.0), (1.0, 1.0)),)


def half_red_half_blue() -> np.ndarray:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32, :, 0] = 255  # the upper half: v from 0.5 to 1
    picture[32:, :, 2] = 255
    return picture


def test_the_upper_half_of_a_wall_wears_the_upper_half_of_its_picture(tmp_path: Path, write_mesh: Callable) -> None:
    wall = write_mesh(tmp_path / "wall.obj", half_red_half_blue(), islands=WHOLE)
    views = MeshRenderer(wall).draw()
    assert views.shape == (4, 256, 256, 3)
    for view in views:
        upper, lower = view[78:108, 123:133].reshape(-1, 3), view[148:178, 123:133].reshape(-1, 3)
        assert (upper[:, 0] > 100).all()
        assert not upper[:, 1:].any()
        assert (lower[:, 2] > 100).all()
        assert not lower[:, :2].any()


def test_what_is_nearer_hides_what_is_behind(tmp_path: Path) -> None:
    """A red wall before a blue one; from behind, the blue one before the red."""
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "walls.mtl").write_text("newmtl r\nmap_Kd red.png\nnewmtl b\nmap_Kd blue.png\n")
    (tmp_path / "walls.obj").write_text(
        "mtllib walls.mtl\nv 0 0 0.1\nv 1 0 0.1\nv 1 1 0.1\nv 0 1 0.1\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
        "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl r\nf 1/1 2/2 3/3 4/4\nusemtl b\nf 5/1 6/2 7/3 8/4\n"
    )
    front, behind = (
        MeshRenderer(tmp_path / "walls.obj", ((0, 0), (180, 0))).draw()[:, 118:138, 118:138].mean(axis=(1, 2))
    )
    assert front[0] > 100 > front[2]
    assert behind[2] > 100 > behind[0]


def test_an_exchanged_texture_lands_on_its_parts_alone(tmp_path: Path) -> None:
    """Left square red, right square blue and larger; the larger one's texture is exchanged unless parts are named."""
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "two.mtl").write_text("newmtl r\nmap_Kd red.png\nnewmtl b\nmap_Kd blue.png\n")
    (tmp_path / "two.obj").write_text(
        "mtllib two.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 1 0 0\nv 3 0 0\nv 3 1 0\nv 1 1 0\n"
        "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl r\nf 1/1 2/2 3/3 4/4\nusemtl b\nf 5/1 6/2 7/3 8/4\n"
    )
    views = MeshRenderer(tmp_path / "two.obj", FRONT, size=96)
    green = np.zeros((16, 16, 3), np.uint8)
    green[..., 1] = 255

    def channels(picture: np.ndarray) -> tuple[int, int]:
        return int(picture[48, 18].argmax()), int(picture[48, 64].argmax())

    assert channels(views.draw()[0]) == (0, 2)
    assert channels(views.draw(green)[0]) == (0, 1)
    (red,) = [key for key, number in views._number.items() if number == 0]
    assert channels(views.draw(green, [red])[0]) == (1, 2)


def test_pictures_are_the_same_in_every_run_and_views_at_one_scale(tmp_path: Path, write_mesh: Callable) -> None:
    wall = write_mesh(tmp_path / "wall.glb", half_red_half_blue())
    once, again = (MeshRenderer(wall, turntable(6), size=48).draw() for _ in range(2))
    assert once.tobytes() == again.tobytes()
    heights = [np.ptp(np.nonzero((view != 240).any(axis=(1, 2)))[0]) for view in once]
    assert max(heights) < 47
    assert min(heights) > 0.3 * max(heights)


def test_a_mesh_without_a_surface_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "flat.obj").write_text("v 0 0 0\nv 0 0 0\nv 0 0 0\nvt 0 0\nf 1/1 2/1 3/1\n")
    with pytest.raises(InputError, match=r"flat.obj: has no surface"):
        MeshRenderer(tmp_path / "flat.obj")


def test_views_for_a_captioner(tmp_path: Path, write_mesh: Callable) -> None:
    draw_views(ViewJob(write_mesh(tmp_path / "wall.obj", half_red_half_blue()), tmp_path))
    assert np.asarray(Image.open(tmp_path / "views.png")).shape == (256, 512, 3)
