"""Views of meshes for a captioner: the right texels at the right place, the nearer surface in front."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from texdiff.data.views import ViewJob, draw_views, render
from texdiff.uv.mesh import read_parts


def half_red_half_blue() -> np.ndarray:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32, :, 0] = 255  # the upper half: v from 0.5 to 1
    picture[32:, :, 2] = 255
    return picture


def test_the_upper_half_of_a_wall_wears_the_upper_half_of_its_picture(tmp_path: Path, write_mesh: Callable) -> None:
    wall = write_mesh(tmp_path / "wall.obj", half_red_half_blue(), islands=(((0.0, 0.0), (1.0, 1.0)),))
    views = render(read_parts(wall))
    assert views.shape == (256, 512, 3)
    for view in (views[:, :256], views[:, 256:]):
        rows = np.nonzero((view < 250).any(axis=(1, 2)))[0]
        assert rows.min() < 20  # the wall fills the view
        assert rows.max() > 236
        upper, lower = view[64:100, 100:156].reshape(-1, 3), view[156:192, 100:156].reshape(-1, 3)
        assert (upper[:, 0] > 60).mean() > 0.99
        assert (upper[:, 2] < 60).mean() > 0.99
        assert (lower[:, 2] > 60).mean() > 0.99
        assert (lower[:, 0] < 60).mean() > 0.99


def test_what_is_nearer_hides_what_is_behind(tmp_path: Path) -> None:
    """A red wall before a blue one; from behind, the blue one before the red."""
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "walls.mtl").write_text("newmtl r\nmap_Kd red.png\nnewmtl b\nmap_Kd blue.png\n")
    (tmp_path / "walls.obj").write_text(
        "mtllib walls.mtl\nv 0 0 0.1\nv 1 0 0.1\nv 1 1 0.1\nv 0 1 0.1\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
        "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl r\nf 1/1 2/2 3/3 4/4\nusemtl b\nf 5/1 6/2 7/3 8/4\n"
    )
    views = render(read_parts(tmp_path / "walls.obj"))
    front, behind = views[118:138, 118:138].mean(axis=(0, 1)), views[118:138, 374:394].mean(axis=(0, 1))
    assert front[0] > 60 > front[2]
    assert behind[2] > 60 > behind[0]


def test_what_cannot_be_drawn_is_blank_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "flat.obj").write_text("v 0 0 0\nv 0 0 0\nv 0 0 0\nvt 0 0\nf 1/1 2/1 3/1\n")
    draw_views(ViewJob(tmp_path / "flat.obj", tmp_path))
    assert (tmp_path / "views.png").is_file()
