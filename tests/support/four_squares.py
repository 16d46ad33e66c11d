"""Meshes made by hand, and a texture that shows which way up it is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def quadrants() -> np.ndarray:
    """uint8 [32, 32, 3]: red top left, green top right, blue bottom left, white bottom right."""
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    picture[:16, :16], picture[:16, 16:] = (255, 0, 0), (0, 255, 0)
    picture[16:, :16], picture[16:, 16:] = (0, 0, 255), (255, 255, 255)
    return picture


@pytest.fixture
def four_squares_obj(tmp_path: Path) -> Path:
    """One OBJ of four squares in a row along x; the k-th maps onto the middle of one quadrant of `old.png`.

    Square 0: low u, low v. 1: high u, low v. 2: low u, high v. 3: high u, high v. V up, as OBJ has it.
    """
    lines = ["mtllib squares.mtl", "usemtl squares"]
    for k in range(4):
        lines += [f"v {k + x} {y} 0" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        u, v = 0.5 * (k % 2) + 0.15, 0.5 * (k // 2) + 0.15
        lines += [f"vt {u + 0.2 * x} {v + 0.2 * y}" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        lines.append("f " + " ".join(f"{4 * k + c}/{4 * k + c}" for c in (1, 2, 3, 4)))
    folder = tmp_path / "squares"
    folder.mkdir()
    (folder / "squares.obj").write_text("\n".join(lines) + "\n")
    (folder / "squares.mtl").write_text("newmtl squares\nKd 0 0 0\nmap_Kd old.png\n")
    Image.new("RGB", (8, 8), (90, 90, 90)).save(folder / "old.png")
    return folder / "squares.obj"
