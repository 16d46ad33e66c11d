"""A texture on its way onto a mesh and to the eye: every letter where it belongs, and nothing of the void."""

import string
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from texdiff.inference.retexture import retexture
from texdiff.inference.target import finish_texture, read_target
from texdiff.render.renderer import MeshRenderer

CELL = 64
# Yaw, pitch, and the cube's face that is seen: its middle, and what is right and up in the picture.
SIDES = {
    (0, 0): ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
    (90, 0): ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    (180, 0): ((0, 0, -1), (-1, 0, 0), (0, 1, 0)),
    (270, 0): ((-1, 0, 0), (0, 0, 1), (0, 1, 0)),
    (0, 90): ((0, 1, 0), (1, 0, 0), (0, 0, -1)),
    (0, -90): ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
}


def lettered_cells() -> np.ndarray:
    """4 x 4 cells with a letter each, uint8 [256, 256, 3]: no two look alike, nor does one turned or mirrored."""
    image = Image.new("RGB", (4 * CELL, 4 * CELL))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=44)
    for number in range(16):
        x, y = number % 4 * CELL, number // 4 * CELL
        colour = (60 + 40 * (number % 4), 60 + 40 * (number // 4), (97 * number) % 200)
        draw.rectangle([x, y, x + CELL - 1, y + CELL - 1], fill=colour)
        draw.rectangle([x + 4, y + 4, x + 14, y + 10], fill="white")  # upper left: O and X have mirrors
        draw.text((x + 16, y + 6), string.ascii_uppercase[number], fill="white", font=font)
    return np.asarray(image).copy()


def cell(picture: np.ndarray, number: int) -> np.ndarray:
    row, column = divmod(number, 4)
    return picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]


@pytest.fixture
def lettered_cube(tmp_path: Path) -> Path:
    """A cube as OBJ, its texture grey; side k of SIDES is mapped onto cell 2k + 1, upright."""
    lines = ["mtllib cube.mtl", "usemtl paint"]
    for k, axes in enumerate(SIDES.values()):
        middle, right, up = (np.array(axis) for axis in axes)
        row, column = divmod(2 * k + 1, 4)
        for x, y in ((0, 0), (1, 0), (1, 1), (0, 1)):
            lines.append("v {} {} {}".format(*(middle + (2 * x - 1) * right + (2 * y - 1) * up)))
            lines.append(f"vt {(column + x) / 4} {1 - (row + 1 - y) / 4}")
        lines.append("f " + " ".join(f"{4 * k + i}/{4 * k + i}" for i in (1, 2, 3, 4)))
    (tmp_path / "cube.obj").write_text("\n".join(lines) + "\n")
    (tmp_path / "cube.mtl").write_text("newmtl paint\nmap_Kd grey.png\n")
    Image.new("RGB", (64, 64), (128, 128, 128)).save(tmp_path / "grey.png")
    return tmp_path / "cube.obj"


def eight_ways(picture: np.ndarray) -> list[np.ndarray]:
    return [np.rot90(one, turns) for one in (picture, picture[:, ::-1]) for turns in range(4)]


@pytest.mark.parametrize("through", ["obj", "glb"])
def test_letters_are_where_they_belong_from_six_sides(lettered_cube: Path, tmp_path: Path, through: str) -> None:
    """Texture -> GLB -> picture, from an OBJ and from the GLB that it became."""
    texture = lettered_cells()
    mesh = lettered_cube
    if through == "glb":
        mesh = tmp_path / "before.glb"
        retexture(lettered_cube, texture[::-1].copy(), mesh)
    retexture(mesh, texture, tmp_path / "worn.glb")
    views = MeshRenderer(tmp_path / "worn.glb", tuple(SIDES), size=96)
    padded = finish_texture(read_target(lettered_cube), texture)
    np.testing.assert_array_equal(views.draw(), MeshRenderer(lettered_cube, tuple(SIDES), size=96).draw(padded))
    for number, view in enumerate(views.draw()):
        rows, columns = np.nonzero((view != 240).any(axis=2))
        face = view[rows.min() + 1 : rows.max(), columns.min() + 1 : columns.max()]  # what faces us is the nearest
        face = cv2.resize(face, (CELL, CELL), interpolation=cv2.INTER_AREA).astype(float)
        errors = np.array(
            [[np.abs(way - face).mean() for way in eight_ways(cell(texture, other))] for other in range(16)]
        )
        assert np.unravel_index(errors.argmin(), errors.shape) == (2 * number + 1, 0)
        assert errors.min() < 0.5 * np.partition(errors.ravel(), 1)[1]


@pytest.fixture
def islands(tmp_path: Path) -> Path:
    """A wall of 16 squares whose islands lie apart in the UV map, at odd places between texels."""
    rng = np.random.default_rng(5)
    lines = ["mtllib wall.mtl", "usemtl paint"]
    for k in range(16):
        row, column = divmod(k, 4)
        low, high = rng.uniform(0.01, 0.06, 2), rng.uniform(0.16, 0.24, 2)
        for x, y in ((0, 0), (1, 0), (1, 1), (0, 1)):
            lines.append(f"v {column + x} {row + y} 0")
            at = np.where([x, y], high, low) + np.array([column, row]) / 4
            lines.append(f"vt {at[0]:.5f} {at[1]:.5f}")
        lines.append("f " + " ".join(f"{4 * k + i}/{4 * k + i}" for i in (1, 2, 3, 4)))
    (tmp_path / "wall.obj").write_text("\n".join(lines) + "\n")
    (tmp_path / "wall.mtl").write_text("newmtl paint\nmap_Kd grey.png\n")
    Image.new("RGB", (64, 64), (128, 128, 128)).save(tmp_path / "grey.png")
    return tmp_path / "wall.obj"


def test_no_magenta_from_the_void_in_any_mip_level_down_to_a_sixteenth(islands: Path, tmp_path: Path) -> None:
    """Green islands in a magenta void: from near and from far, the mesh looks as if all of the texture were green."""
    from texdiff.uv.coverage import coverage_mask
    from texdiff.uv.meshes.atlases import read_atlases

    (atlas,) = read_atlases(islands).atlases
    covered = coverage_mask(atlas.triangles, (256, 256), mode="conservative")
    assert 0.3 < covered.mean() < 0.6
    magenta, green = np.full((256, 256, 3), (255, 0, 255), np.uint8), np.full((256, 256, 3), (0, 200, 0), np.uint8)
    texture = np.where(covered[..., None], green, magenta)
    retexture(islands, texture, tmp_path / "worn.glb")
    levels = []
    for size in (160, 80, 40, 20, 10, 8):
        views = MeshRenderer(tmp_path / "worn.glb", ((0, 0), (60, 50)), size=size)
        worn = views.draw()
        np.testing.assert_array_equal(worn, views.draw(green))
        if size < 160:  # without padding it would be seen
            assert (views.draw(texture)[..., 0].astype(int) - worn[..., 0]).max() > 20
        # A texel of level n is 2^n wide; the rays' own distance says which is shown.
        spread = [np.linalg.norm(np.array(at) * 256, axis=1) for at in views._seen[0].at[1:]]
        levels.append(float(np.log2(np.maximum(*spread)).max()))
    assert levels[0] < 1
    assert levels[-1] >= 4
    assert np.diff(levels).max() < 1.1  # none of them was passed over
